"""A host that sends a valid mp4 of any size as fast as the kernel can: by sendfile, from memory.

    python film_host.py MIB [MIB ...]

Prints a JSON line that maps each size in MiB to URL, size in bytes and SHA-256, and ends when its stdin does.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prefect_loova.simulator.render import render
from prefect_loova.simulator.videos import Film

MIB = 1024**2


class FilmHost(BaseHTTPRequestHandler):
    """`GET /MIB.mp4`: the padded film, whole; `GET /0.mp4`: nothing."""

    protocol_version = "HTTP/1.1"
    films: dict[str, Film]
    filling: int
    period: int

    def do_GET(self) -> None:
        film = self.films[self.path]
        self.send_response(200)
        self.send_header("Content-Type", "video/mp4")
        self.send_header("Content-Length", str(film.size))
        self.send_header("ETag", film.etag)
        self.end_headers()
        self.wfile.flush()
        head = min(film.size, len(film.mp4) + 16)
        self.connection.sendall(b"".join(film.chunks(0, head)))
        while head < film.size:
            place = head % self.period
            head += os.sendfile(self.connection.fileno(), self.filling, place, min(MIB, film.size - head))

    def log_message(self, format: str, *_: object) -> None:
        """Nothing."""


def main(sizes: list[int]) -> None:
    """Serve films of so many MiB each."""
    mp4 = render("benchmark", "16:9", 5, 256)
    films = {"/0.mp4": Film(b"")} | {f"/{mib}.mp4": Film(mp4).padded(mib * MIB) for mib in sizes}
    noise = next(Film(mp4).padded(1 << 30).chunks(len(mp4) + 16, 1 << 30)).obj  # type: ignore[union-attr]
    FilmHost.films = films
    FilmHost.period = len(noise) // 2
    FilmHost.filling = os.memfd_create("noise")
    os.write(FilmHost.filling, noise)
    server = ThreadingHTTPServer(("127.0.0.1", 0), FilmHost)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    print(json.dumps({path: [url + path, film.size, film.sha256] for path, film in films.items()}), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main([int(argument) for argument in sys.argv[1:]])
