"""A loopback server that reads a whole POST, bills it, and loses the answer."""

from __future__ import annotations

import datetime
import ipaddress
import json
import ssl
import threading
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Scenario:
    """How the answer to a paid POST is lost.

    Attributes:
        name: For object keys and JSON.
        title: For people.
        server: The `Server` header of the gateway that answers 502; None: nobody answers.
        page: Its body.
    """

    name: str
    title: str
    server: str | None = None
    page: str = ""


@dataclass(frozen=True)
class Received:
    """One request as it arrived, whole."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class BillingServer:
    """Bills each POST to one path and loses the answer; anything else is answered with 404, and kept to be seen.

    Attributes:
        paid: The path whose POSTs cost money.
        scenario: How the answer is lost.
        tls: Certificate and key, where the client speaks https only.
    """

    paid: str
    scenario: Scenario
    tls: Path | None = None
    received: list[Received] = field(default_factory=list)

    def __enter__(self) -> Self:
        billing: BillingServer = self

        class Handler(_Handler):
            server_of = billing

        self._server = ThreadingHTTPServer((HOST, 0), Handler)
        self._server.daemon_threads = True
        if self.tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.tls)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        """Where it listens, without a trailing slash."""
        return f"{'https' if self.tls else 'http'}://{HOST}:{self._server.server_port}"

    def bills(self) -> list[Received]:
        """The POSTs that cost money, in their order."""
        return [request for request in self.received if self.is_paid(request)]

    def others(self) -> dict[str, int]:
        """How often anything else was asked for."""
        return dict(Counter(f"{r.method} {r.path}" for r in self.received if not self.is_paid(r)))

    def is_paid(self, request: Received) -> bool:
        """Whether a request costs money."""
        return request.method == "POST" and request.path == self.paid


class _Handler(BaseHTTPRequestHandler):
    server_of: BillingServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        billing = self.server_of
        path = urlsplit(self.path).path
        request = Received(self.command, path, {k.lower(): v for k, v in self.headers.items()}, self._whole_body())
        billing.received.append(request)
        self.close_connection = True
        if not billing.is_paid(request):
            self._send(404, "application/json", json.dumps({"detail": "not found"}), "loopback")
        elif billing.scenario.server is not None:
            self._send(502, "text/html", billing.scenario.page, billing.scenario.server)

    def _send(self, status: int, kind: str, text: str, server: str) -> None:
        body = text.encode()
        self.send_response_only(status)
        for name, value in {"Server": server, "Content-Type": kind, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def _whole_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return body

    def log_message(self, format: str, *args: object) -> None:
        pass


def certificate(folder: Path) -> Path:
    """A key and its self-signed certificate for loopback in one file, which is also what a client has to trust."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "lost reply benchmark")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(HOST))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    unencrypted = serialization.NoEncryption()
    file = folder / "loopback.pem"
    file.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, unencrypted) + made.public_bytes(pem))
    return file
