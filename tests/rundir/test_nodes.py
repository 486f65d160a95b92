"""Nodes are there as long as they say so, and a while longer."""

import errno
import time
from pathlib import Path

import pytest

from vidcap_cli.rundir import nodes as nodes_module
from vidcap_cli.rundir.nodes import Heartbeat, Nodes
from vidcap_cli.rundir.paths import RunDir


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path)


def numbers(nodes: Nodes) -> tuple[list[int], list[int]]:
    there, lost = nodes.look()
    return [node.number for node in there], [node.number for node in lost]


def test_a_node_is_there_until_it_leaves(run):
    nodes = Nodes(run)
    with Heartbeat(run, 1) as first, Heartbeat(run, 0):
        assert numbers(nodes) == ([0, 1], [])
        first.works_in(3)
        assert [node.attempt for node in nodes.look()[0]] == [None, 3]
        run.node(7).write_text('{"of": "another version"}')
        assert numbers(nodes) == ([0, 1], [])
    assert numbers(nodes) == ([], [])


def test_a_node_that_says_nothing_new_is_lost(run, monkeypatch):
    monkeypatch.setattr(nodes_module, "LOST_SECONDS", 0.2)
    monkeypatch.setattr(nodes_module, "BEAT_SECONDS", 60)
    nodes = Nodes(run)
    with Heartbeat(run, 1) as node:
        assert numbers(nodes) == ([1], [])
        time.sleep(0.3)
        assert numbers(nodes) == ([], [1])
        node.works_in(1)
        assert numbers(nodes) == ([1], [])


def test_a_file_that_cannot_be_read_for_once_says_what_it_said(run, monkeypatch):
    """As a file on NFS that is replaced by its node in the middle of reading it."""
    nodes = Nodes(run)
    with Heartbeat(run, 1) as node:
        node.works_in(2)

        def stale(_: Path) -> bytes:
            raise OSError(errno.ESTALE, "Stale file handle")

        with monkeypatch.context() as patched:
            patched.setattr(Path, "read_bytes", stale)
            assert numbers(nodes) == ([], [])  # never heard of
        assert numbers(nodes) == ([1], [])
        with monkeypatch.context() as patched:
            patched.setattr(Path, "read_bytes", stale)
            assert [known.attempt for known in nodes.look()[0]] == [2]
    assert numbers(nodes) == ([], [])
