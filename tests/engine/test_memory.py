"""The memory guard: what a rank may take, and checkpoints that cannot fit."""

import pytest

pytest.importorskip("mindspore")

from vidcap_cli import host_memory
from vidcap_cli.engine import memory
from vidcap_cli.errors import ModelError

G = 10**9


class Machine:
    """A machine: sizes as psutil gives them."""

    def __init__(self, total: int, available: int) -> None:
        self.total, self.available = total, available


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A machine of 64 GB, 50 of them free, and a device of 32, 30 of them free."""

    def virtual_memory() -> Machine:
        return Machine(64 * G, 50 * G)

    monkeypatch.setattr(host_memory.psutil, "virtual_memory", virtual_memory)
    monkeypatch.setattr(memory, "device_memory", lambda: (32 * G, 30 * G))
    monkeypatch.setattr(memory, "memory_used", lambda _: 10 * G)
    monkeypatch.setattr(host_memory, "_GROUP", tmp_path)
    monkeypatch.delenv("VIDCAP_LOCAL_RANKS", raising=False)
    return tmp_path


def group(place, limit: int, current: int, files: int) -> None:
    (place / "memory.max").write_text(f"{limit}\n")
    (place / "memory.current").write_text(f"{current}\n")
    (place / "memory.stat").write_text(f"anon 1\ninactive_file {files}\nactive_file 5\n")


def test_without_a_limit_most_of_what_is_free_is_for_prompts(place, monkeypatch):
    assert memory.room(None, "CPU") == 40 * G
    assert memory.room(None, "Ascend") == 24 * G
    monkeypatch.setenv("VIDCAP_LOCAL_RANKS", "4")
    assert memory.room(None, "CPU") == 10 * G
    assert memory.room(None, "Ascend") == 24 * G  # a device for each rank
    monkeypatch.setattr(memory, "device_memory", lambda: (None, None))
    assert memory.room(None, "Ascend") is None


@pytest.mark.parametrize("device", ["CPU", "Ascend"])
def test_a_limit_is_for_weights_and_prompts(place, device):
    assert memory.room(12 * G, device) == 2 * G
    assert memory.room(80 * G, device) == (70 * G if device == "CPU" else 30 * G)
    with pytest.raises(
        ModelError, match=r"takes 10\.0 GB with its weights, before any video, more than .* 9\.0 GB"
    ):
        memory.room(9 * G, device)


def test_files_that_a_control_group_holds_make_way(place):
    group(place, 20 * G, current=19 * G, files=15 * G - 5)
    assert host_memory.available() == 16 * G
    group(place, 200 * G, current=19 * G, files=0)
    assert host_memory.available() == 50 * G


@pytest.mark.parametrize(
    ("billions", "dtype", "limit", "device", "ranks", "most", "remedies"),
    [
        (15, "float32", None, "CPU", 1, "the 50.0 GB", ["--dtype float16 or bfloat16"]),
        (30, "float16", None, "CPU", 1, "the 50.0 GB", []),
        (
            10,
            "float32",
            None,
            "CPU",
            2,
            "the 32.0 GB",
            ["--dtype float16 or bfloat16", "fewer ranks"],
        ),
        (15, "float32", None, "CPU", 2, "the 32.0 GB", ["--dtype float16 or bfloat16"]),
        (10, "float32", 12 * G, "CPU", 1, "--memory-limit 12.0 GB", ["a larger --memory-limit"]),
        (10, "float32", None, "Ascend", 8, "the 32.0 GB", ["--dtype float16 or bfloat16"]),
        (20, "bfloat16", 35 * G, "Ascend", 1, "the 32.0 GB", []),
        (9, "bfloat16", 12 * G, "Ascend", 1, "--memory-limit 12.0", ["a larger --memory-limit"]),
        (20, "bfloat16", 12 * G, "Ascend", 1, "--memory-limit 12.0 GB", []),
    ],
)
def test_a_checkpoint_that_cannot_fit_is_refused_with_what_would_help(
    place, monkeypatch, billions, dtype, limit, device, ranks, most, remedies
):
    monkeypatch.setenv("VIDCAP_LOCAL_RANKS", str(ranks))
    with pytest.raises(ModelError) as caught:
        memory.check_weights(billions * G, dtype, limit, device)
    told, _, used = str(caught.value).partition("; use ")
    weights = billions * memory._ITEM_BYTES[dtype]
    assert told.startswith(f"the weights take {weights}.0 GB in {dtype}, more than {most}")
    found = used.removesuffix(".").split(", or ")
    assert found[0] == "a smaller model"
    assert len(found) == 1 + len(remedies)
    assert all(word.startswith(remedy) for word, remedy in zip(found[1:], remedies, strict=True))


@pytest.mark.parametrize(
    ("billions", "dtype", "limit", "device", "ranks"),
    [
        (12, "float32", None, "CPU", 1),
        (15, "float32", 100 * G, "CPU", 1),  # into swap, if the user wants
        (8, "float32", None, "CPU", 2),  # the other rank may have loaded its weights already
        (8, "float32", None, "Ascend", 1),
        (16, "bfloat16", None, "Ascend", 8),
    ],
)
def test_one_that_can_is_not(place, monkeypatch, billions, dtype, limit, device, ranks):
    monkeypatch.setenv("VIDCAP_LOCAL_RANKS", str(ranks))
    memory.check_weights(billions * G, dtype, limit, device)


def test_memory_that_runs_out_while_weights_load_is_told():
    with (
        pytest.raises(
            ModelError, match=r"while the weights were loaded \(Allocate memory failed\)"
        ),
        memory.loading_weights(),
    ):
        raise RuntimeError("Allocate memory failed\n----")
    with pytest.raises(KeyError), memory.loading_weights():
        raise KeyError("another weight")


def test_a_device_that_does_not_tell_its_memory_refuses_nothing(place, monkeypatch):
    monkeypatch.setattr(memory, "device_memory", lambda: (None, None))
    memory.check_weights(10**15, "float32", None, "Ascend")


def test_memory_of_ranks_lies_on_large_pages_unless_the_user_says_otherwise():
    pages = "glibc.malloc.hugetlb=1"
    assert host_memory.large_pages({}) == {"GLIBC_TUNABLES": pages}
    more = {"GLIBC_TUNABLES": "glibc.malloc.check=3"}
    assert host_memory.large_pages(more) == {"GLIBC_TUNABLES": f"glibc.malloc.check=3:{pages}"}
    assert host_memory.large_pages({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}) == {}
