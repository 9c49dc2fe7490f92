"""A hub of the test's own on this machine: folders served as models, with the parts of the hub's API that fetching uses."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub:
    """Models by name.

    Attributes:
        models: Name -> folder.
        refused: Name -> status and error code that every request for it gets.
        cut: Name of a file of which only half is sent, once; "": none.
        downloaded: Names of files that were sent, in order.
    """

    def __init__(self) -> None:
        self.models: dict[str, Path] = {}
        self.refused: dict[str, tuple[int, str]] = {}
        self.cut = ""
        self.downloaded: list[str] = []
        self.url = ""


@contextmanager
def serving(hub: FakeHub) -> Iterator[FakeHub]:
    """Serve `hub`; its `url` is set."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def _answer(self) -> None:
            path = unquote(urlsplit(self.path).path)
            found = re.fullmatch(r"/api/models/([^/]+/[^/]+)(/.*)?", path) or re.fullmatch(
                r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path
            )
            name = found.group(1) if found else ""
            if name in hub.refused:
                status, code = hub.refused[name]
                return self._send(status, b"", {"X-Error-Code": code, "X-Error-Message": code})
            if found is None or name not in hub.models:
                return self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
            folder = hub.models[name]
            if path.startswith("/api/"):
                rest = found.group(2) or ""
                revision = re.search(r"/(?:revision|tree)/([^/]+)", rest)
                if revision and revision.group(1) not in ("main", COMMIT):
                    return self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
                files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
                if "/tree/" in rest:
                    tree = [
                        {"type": "file", "path": str(f.relative_to(folder)), "size": f.stat().st_size, "oid": _oid(f)}
                        for f in files
                    ]
                    return self._send(200, json.dumps(tree).encode(), {})
                siblings = [
                    {"rfilename": str(f.relative_to(folder)), "size": f.stat().st_size, "blobId": _oid(f)}
                    for f in files
                ]
                info = {"_id": "1", "id": name, "modelId": name, "sha": COMMIT, "siblings": siblings, "private": False}
                return self._send(200, json.dumps(info).encode(), {})
            file = folder / found.group(3)
            if not file.is_file():
                return self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
            data = file.read_bytes()
            headers = {"ETag": f'"{_oid(file)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            status = 200
            if wanted:
                start, end = int(wanted.group(1)), int(wanted.group(2) or len(data) - 1)
                headers["Content-Range"] = f"bytes {start}-{min(end, len(data) - 1)}/{len(data)}"
                data, status = data[start : end + 1], 206
            elif self.command == "GET":
                hub.downloaded.append(file.name)
            self._send(status, data, headers, cut=self.command == "GET" and file.name == hub.cut)

        def _send(self, status: int, data: bytes, headers: dict[str, str], cut: bool = False) -> None:
            self.send_response(status)
            for key, value in ({"Content-Length": str(len(data))} | headers).items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "HEAD":
                return
            if cut:
                self.wfile.write(data[: len(data) // 2])
                self.close_connection = True
                return
            self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _oid(file: Path) -> str:
    from hashlib import sha1

    return sha1(file.read_bytes()).hexdigest()
