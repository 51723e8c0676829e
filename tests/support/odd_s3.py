"""An S3 server in memory, with TLS, that deviates from AWS as other servers are said to do. Each deviation is data.

It checks no signatures, so it can ignore or refuse conditions and checksums like real servers. boto3 sends its default
checksums as trailers only over TLS.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

import boto3
from botocore.config import Config

from tests.benchmarks.billing import certificate

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

Refusal = tuple[int, str, str]
"""The status, code and message of a response."""
Asked = Mapping[str, str]
"""The headers of a request, with `method` and `operation` (`uploads`, `uploadId` or nothing) beside them."""


@dataclass(frozen=True)
class Odd:
    """How a server differs from AWS.

    Attributes:
        refuses: Returns the error for a request that the server refuses.
        ignores: The conditions that the server ignores.
        etag: The format of ETags in responses, by the server or a proxy. The server compares the stored ETag.
        unquoted: Whether the server accepts only conditions without quotes.
        date: The `Date` header of responses; None: no header, "": the correct time.
        tells_when: Whether the server sends `Last-Modified`.
        silent: Whether the server accepts connections and never responds.
    """

    refuses: Callable[[Asked], Refusal | None] = lambda _: None
    ignores: frozenset[str] = frozenset()
    etag: str = "{}"
    unquoted: bool = False
    date: str | None = ""
    tells_when: bool = True
    silent: bool = False


def without(operation: str, refusal: Refusal) -> Odd:
    """Return a server that refuses one operation: `GET`, `DELETE`, or `POST uploads`."""
    return Odd(
        refuses=lambda asked: refusal if f"{asked['method']} {asked['operation']}".strip() == operation else None
    )


def trailers(refusal: Refusal) -> Odd:
    """Return a server that refuses trailers."""
    return Odd(refuses=lambda asked: refusal if "x-amz-trailer" in asked else None)


def _header_of_b2(asked: Asked) -> Refusal | None:
    name = next((name for name in asked if re.match("x-amz-(sdk-)?checksum|x-amz-trailer", name)), None)
    return name and (400, "InvalidArgument", f"Unsupported header '{name}' received for this API call.")  # type: ignore[return-value]


R2_501 = trailers((501, "NotImplemented", "STREAMING-UNSIGNED-PAYLOAD-TRAILER not implemented"))
R2_401 = trailers((401, "Unauthorized", "Unauthorized"))
B2_400 = Odd(refuses=_header_of_b2)
STORJ_411 = Odd(
    refuses=lambda asked: (
        (411, "MissingContentLength", "You must provide the Content-Length HTTP header.")
        if asked["method"] == "PUT" and "content-length" not in asked
        else None
    )
)
SCALITY_400 = trailers((400, "BadRequest", "trailing checksum is not supported"))


GCS_403 = trailers((403, "SignatureDoesNotMatch", "Invalid argument."))


class OddS3:
    """The server, as a context manager. Every bucket exists.

    Args:
        folder: The folder for a certificate. With it, the server uses TLS.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.odd = Odd()
        self.objects: dict[str, tuple[bytes, str, datetime, Mapping[str, str]]] = {}
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.asked: list[str] = []
        self.turn = threading.Lock()
        self.certificate = certificate(folder) if folder else None
        self.ended = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"s3": self}))
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that hang up
        if self.certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)

    def __enter__(self) -> OddS3:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._server.server_port}"

    def client(self, **settings: Any) -> S3Client:
        """Return a client with boto3's defaults and these settings."""
        return boto3.client(
            "s3",
            endpoint_url=f"{'https' if self.certificate else 'http'}://{self.host}",
            region_name="us-east-1",
            aws_access_key_id="AKIASECRETSECRET",
            aws_secret_access_key="the secret",
            verify=str(self.certificate) if self.certificate else None,
            config=Config(proxies={}, s3={"addressing_style": "path"}, **settings),
        )


class _Handler(BaseHTTPRequestHandler):
    s3: OddS3
    protocol_version = "HTTP/1.1"

    def _handle(self) -> None:
        s3, url = self.s3, urlsplit(self.path)
        key, query = unquote(url.path).split("/", 2)[-1], parse_qs(url.query, keep_blank_values=True)
        operation = next((name for name in ("uploads", "uploadId") if name in query), "")
        body = self._body()
        asked = {name.lower(): value for name, value in self.headers.items()}
        asked |= {"method": self.command, "operation": operation}
        with s3.turn:
            s3.asked.append(f"{self.command} {operation} {key}".replace("  ", " "))
            if s3.odd.silent:
                s3.turn.release()
                s3.ended.wait()
                s3.turn.acquire()
                return
            refusal = s3.odd.refuses(asked)
            if refusal:
                self._refuse(*refusal)
            else:
                getattr(self, f"_{self.command.lower()}")(key, query, asked, body)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _handle

    def _put(self, key: str, query: Any, asked: Asked, body: bytes) -> None:
        if "uploadId" in query:
            self.s3.uploads[query["uploadId"][0]][int(query["partNumber"][0])] = body
            return self._answer(200, ETag=f'"{hashlib.md5(body).hexdigest()}"')
        present = self.s3.objects.get(key)
        for name in ("if-match", "if-none-match"):
            if name in asked and name not in self.s3.odd.ignores and not self._holds(name, asked[name], present):
                return self._refuse(412, "PreconditionFailed", "At least one of the pre-conditions did not hold")
        self._store(key, body, asked)
        return self._answer(200, ETag=self._etag(key))

    def _holds(self, name: str, value: str, present: Any) -> bool:
        if name == "if-none-match":
            return present is None
        right = present and (present[1].strip('"') if self.s3.odd.unquoted else present[1])
        return bool(right == value)

    def _store(self, key: str, body: bytes, headers: Asked) -> None:
        kept = {name: value for name, value in headers.items() if name.startswith("x-amz-meta-")}
        now = datetime.now(UTC).replace(microsecond=0)
        self.s3.objects[key] = (body, f'"{hashlib.md5(body).hexdigest()}"', now, kept)

    def _etag(self, key: str) -> str:
        return self.s3.odd.etag.format(self.s3.objects[key][1])

    def _get(self, key: str, query: Any, asked: Asked, body: bytes) -> None:
        if key not in self.s3.objects:
            return self._refuse(404, "NoSuchKey", "The specified key does not exist.")
        content, _, written, kept = self.s3.objects[key]
        headers = {"ETag": self._etag(key), **kept}
        if self.s3.odd.tells_when:
            headers["Last-Modified"] = format_datetime(written, usegmt=True)
        if found := re.fullmatch(r"bytes=(\d+)-(\d+)", asked.get("range", "")):
            first, last = int(found[1]), min(int(found[2]), len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            return self._answer(206, content[first : last + 1], **headers)
        return self._answer(200, content, **headers)

    _head = _get

    def _delete(self, key: str, query: Any, asked: Asked, body: bytes) -> None:
        if "uploadId" in query:
            self.s3.uploads.pop(query["uploadId"][0], None)
        else:
            self.s3.objects.pop(key, None)
        self._answer(204)

    def _post(self, key: str, query: Any, asked: Asked, body: bytes) -> None:
        if "uploads" in query:
            upload = secrets.token_hex(8)
            self.s3.uploads[upload] = {0: json.dumps(dict(asked)).encode()}
            xml = f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
        else:
            parts = self.s3.uploads.pop(query["uploadId"][0])
            begun = json.loads(parts.pop(0))
            self._store(key, b"".join(parts[number] for number in sorted(parts)), begun)
            xml = f"<CompleteMultipartUploadResult><ETag>{self._etag(key)}</ETag></CompleteMultipartUploadResult>"
        self._answer(200, xml.encode())

    def _refuse(self, status: int, code: str, message: str) -> None:
        self._answer(status, f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode())

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response_only(status)
        if self.s3.odd.date is not None:
            headers["Date"] = self.s3.odd.date or self.date_time_string()
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        if "aws-chunked" in self.headers.get("Content-Encoding", ""):
            body = _decoded(body)
        return body

    def log_message(self, *_: object) -> None:
        pass


def _decoded(framed: bytes) -> bytes:
    """Decode aws-chunked framing: chunks of a size and bytes, then the trailers."""
    content = b""
    while True:
        line, _, framed = framed.partition(b"\r\n")
        size = int(line.split(b";")[0], 16)
        if not size:
            return content
        content, framed = content + framed[:size], framed[size + 2 :]
