"""Servers on loopback that give files as others do, and fail on cue."""

import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote


class Files(ThreadingHTTPServer):
    """Serves the files in ``folder``; every list names files.

    ``cut`` breaks off so many answers half sent; ``status`` answers with another code so many
    times; ``plain`` knows no ranges; ``nameless`` does not say sizes either; ``slow`` sends a
    piece, then waits so many seconds before each of the others.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.folder = folder
        self.cut: Counter[str] = Counter()
        self.status: dict[str, tuple[int, int]] = {}
        self.plain: set[str] = set()
        self.sizeless: set[str] = set()
        self.slow: dict[str, float] = {}
        self.asked: list[tuple[str, str, str | None]] = []
        self.sent: Counter[str] = Counter()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def address(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"

    def handle_error(self, *_: object) -> None:
        """Whoever breaks off is a case of the test."""


class _Answer(BaseHTTPRequestHandler):
    server: Files
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        files, name = self.server, unquote(self.path.partition("?")[0]).lstrip("/")
        wanted = self.headers.get("Range")
        files.asked.append((self.command, name, wanted))
        code, times = files.status.get(name, (0, 0))
        path = files.folder / name
        if times:
            files.status[name] = (code, times - 1)
            return self._fail(code)
        if not path.is_file():
            return self._fail(404)
        data, code = path.read_bytes(), 200
        if wanted and name not in files.plain:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            end = min(int(last) + 1, len(data)) if last else len(data)
            code, whole = 206, len(data)
            data = data[int(first) : end]
        self.send_response(code)
        if code == 206:
            self.send_header("Content-Range", f"bytes {first}-{end - 1}/{whole}")
        if name in files.sizeless:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(len(data)))
        if name not in files.plain:
            self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{path.stat().st_mtime_ns}"')
        self.end_headers()
        if body:
            self._send(name, data)
        return None

    def _send(self, name: str, data: bytes) -> None:
        files = self.server
        if files.cut[name] and data:
            files.cut[name] -= 1
            data, whole = data[: len(data) // 2], False
        else:
            whole = True
        for start in range(0, len(data), 8192):
            piece = data[start : start + 8192]
            if name in files.sizeless:
                piece = b"%x\r\n%s\r\n" % (len(piece), piece)
            self.wfile.write(piece)
            files.sent[name] += len(piece)
            time.sleep(files.slow.get(name, 0.0))
        if name in files.sizeless and whole:
            self.wfile.write(b"0\r\n\r\n")
        if not whole:
            self.wfile.flush()
            self.close_connection = True

    def _fail(self, code: int) -> None:
        self.send_response(code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass
