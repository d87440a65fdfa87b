"""A small HTTP server that answers as the model hub does, for the few requests of a file's download.

It serves ``datasets/owner/set/resolve/<revision>/<file>`` from memory and refuses the way the hub refuses.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

REVISION = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def hub_server(files: dict[str, bytes]) -> Iterator[str]:
    """Address of a server with these files (by their names in ``open/set``)."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            name = path.rpartition("/")[2]
            if "gated/" in path:
                return self.refuse(401, "GatedRepo")
            if "missing/" in path:
                return self.refuse(401, "RepoNotFound")
            if "broken/" in path:
                return self.refuse(500, "")
            if "/resolve/" in path and REVISION not in path:
                return self.refuse(404, "RevisionNotFound")
            if name not in files:
                return self.refuse(404, "EntryNotFound")
            body = files[name]
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
            self.send_header("X-Repo-Commit", REVISION)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def refuse(self, status: int, code: str) -> None:
            self.send_response(status)
            if code:
                self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
