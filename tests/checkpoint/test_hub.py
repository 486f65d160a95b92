"""Names of checkpoints on the hub, against a local server that speaks the hub's API."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.helpers.tiny_llava import TinyLlava, write_llava

NAME = "someone/tiny-llava"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
PROGRAM = (
    "import sys; from vidcap_cli.checkpoint.hub import fetch;"
    "from vidcap_cli.errors import VidcapError\n"
    "try: print(fetch(sys.argv[1], weights=sys.argv[2] == 'yes'))\n"
    "except VidcapError as error: sys.exit(str(error))"
)


class Hub(ThreadingHTTPServer):
    """The hub's API for one repository in ``folder``; ``cut`` files break off once, half sent."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.folder = folder
        self.cut: set[str] = set()
        self.asked: list[tuple[str, str, str | None]] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        hub = self.server
        hub.asked.append((self.command, self.path, self.headers.get("Range")))
        files = sorted(str(f.relative_to(hub.folder)) for f in hub.folder.rglob("*") if f.is_file())
        if self.path.split("?")[0] == f"/api/models/{NAME}/revision/main":
            siblings = [{"rfilename": name} for name in files]
            content = {"_id": "1", "id": NAME, "sha": COMMIT, "private": False}
            self.send(200, json.dumps({**content, "siblings": siblings}).encode(), {}, body=body)
            return
        place = f"/{NAME}/resolve/{COMMIT}/"
        name = self.path.removeprefix(place)
        if not self.path.startswith(place) or name not in files:
            self.send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, body=body)
            return
        content = (hub.folder / name).read_bytes()
        tag = hashlib.sha256(content).hexdigest()
        more = {"X-Repo-Commit": COMMIT, "ETag": f'"{tag}"', "Accept-Ranges": "bytes"}
        asked = self.headers.get("Range")
        start = int(asked.removeprefix("bytes=").partition("-")[0]) if asked else 0
        if start:
            more["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        part = content[start:]
        cut = body and name in hub.cut
        if cut:
            hub.cut.remove(name)
        self.send(206 if start else 200, part, more, body=body, cut=cut)

    def send(
        self, code: int, content: bytes, headers: dict[str, str], *, body: bool, cut: bool = False
    ) -> None:
        self.send_response(code)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(content[: len(content) // 2] if cut else content)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Say nothing: what was asked is in ``Hub.asked``."""


@pytest.fixture
def hub(tmp_path) -> Iterator[Hub]:
    folder = write_llava(tmp_path / "repository", TinyLlava(seed=1, shards=2))
    (folder / "README.md").write_text("A tiny checkpoint.")
    (folder / "pytorch_model.bin").write_bytes(b"pickled")
    (folder / "modeling.py").write_text("raise SystemExit")
    (folder / "original").mkdir()
    (folder / "original" / "params.json").write_text("{}")
    with Hub(folder) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def fetch(folder: Path, endpoint: str, name: str = NAME, weights: str = "yes", **more: str):
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, name, weights],
        cwd=folder,
        env={
            **{key: value for key, value in os.environ.items() if "proxy" not in key.lower()},
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(folder / "cache"),
            "PYTHONPATH": str(Path(__file__).parents[2]),
            **more,
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_what_is_needed_is_downloaded_and_nothing_else(hub, tmp_path):
    done = fetch(tmp_path, hub.endpoint)
    assert done.returncode == 0, done.stderr
    assert f"downloading {NAME} from {hub.endpoint}" in done.stderr
    folder = Path(done.stdout.strip())
    wanted = {f.name for f in hub.folder.iterdir() if f.suffix in {".json", ".safetensors"}}
    assert {file.name for file in folder.iterdir()} == wanted
    assert all((folder / n).read_bytes() == (hub.folder / n).read_bytes() for n in wanted)


def test_the_cache_is_used_without_asking_the_hub(hub, tmp_path):
    first = fetch(tmp_path, hub.endpoint)
    hub.asked.clear()
    second = fetch(tmp_path, hub.endpoint)
    assert (second.returncode, second.stdout, second.stderr) == (0, first.stdout, "")
    assert hub.asked == []


def test_a_download_that_breaks_off_continues(hub, tmp_path):
    # huggingface_hub writes pieces of 10 MiB, so what is shorter starts from the beginning.
    name, piece = "long.safetensors", 10 << 20
    (hub.folder / name).write_bytes(os.urandom(piece) + bytes(2 * piece))
    hub.cut.add(name)
    done = fetch(tmp_path, hub.endpoint)
    assert done.returncode == 0, done.stderr
    assert ("GET", f"/{NAME}/resolve/{COMMIT}/{name}", f"bytes={piece}-") in hub.asked
    assert (Path(done.stdout.strip()) / name).read_bytes() == (hub.folder / name).read_bytes()


def test_files_that_the_cache_lost_are_fetched_again(hub, tmp_path):
    folder = Path(fetch(tmp_path, hub.endpoint).stdout.strip())
    lost = next(folder.glob("*.safetensors"))
    lost.resolve().unlink()
    lost.unlink()
    assert fetch(tmp_path, hub.endpoint).returncode == 0
    assert lost.is_file()


def test_offline_the_folder_to_fill_and_its_files_are_named(tmp_path):
    done = fetch(tmp_path, "http://127.0.0.1:9")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    said = done.stderr
    assert "http://127.0.0.1:9 cannot be reached" in said
    assert str(tmp_path / NAME) in said
    for file in ("config.json", "tokenizer.json", "*.safetensors", "or nano, which"):
        assert file in said


def test_offline_mode_is_respected(hub, tmp_path):
    done = fetch(tmp_path, hub.endpoint, HF_HUB_OFFLINE="1")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert hub.asked == []


def test_a_name_that_the_hub_does_not_know(hub, tmp_path):
    done = fetch(tmp_path, hub.endpoint, name="someone/else")
    assert done.returncode == 1
    assert "has no checkpoint of that name" in done.stderr


def test_a_repository_without_safetensors(hub, tmp_path):
    for file in hub.folder.glob("*.safetensors*"):
        file.unlink()
    done = fetch(tmp_path, hub.endpoint)
    assert done.returncode == 1
    assert "it lacks model.safetensors" in done.stderr


def test_a_dry_run_downloads_no_weights(hub, tmp_path):
    done = fetch(tmp_path, hub.endpoint, weights="no")
    assert done.returncode == 0, done.stderr
    names = {file.name for file in Path(done.stdout.strip()).iterdir()}
    assert names == {file.name for file in hub.folder.iterdir() if file.suffix == ".json"}
