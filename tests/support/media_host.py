"""An HTTP server on loopback for reference media."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Page:
    """A response of the host: a status, headers and a body. It is sent when the gate opens."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    gate: threading.Event | None = None
    says_length: bool = True


class Host:
    """A media host on loopback. It serves pages by path, and 404 for other paths."""

    def __init__(self) -> None:
        self.pages: dict[str, Page] = {}
        self.asked: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(handler) -> None:
                self.asked.append(handler.path)
                page = self.pages.get(handler.path.partition("?")[0], Page(status=404))
                if page.gate:
                    page.gate.wait(60)
                handler.send_response(page.status)
                length = {"Content-Length": str(len(page.body))} if page.says_length else {}
                for name, value in (length | page.headers).items():
                    handler.send_header(name, value)
                handler.end_headers()
                handler.wfile.write(page.body)

            def log_message(handler, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that disconnect
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server.server_port}{path}"

    def put(self, path: str, body: bytes = b"", **fields: Any) -> str:
        """Set the page at a path, and return its URL."""
        self.pages[path.partition("?")[0]] = Page(body, **fields)
        return self.url(path)

    def close(self) -> None:
        for page in self.pages.values():
            if page.gate:
                page.gate.set()
        self.server.shutdown()
        self.server.server_close()
