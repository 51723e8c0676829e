"""An S3 server over TLS that checks what it gets and keeps nothing, so that the link in front of it is what limits.

    python s3_sink.py CERTIFICATE

Prints its port, and ends when its stdin does. It answers what a save asks for: CreateMultipartUpload, UploadPart,
CompleteMultipartUpload, PutObject, HeadObject, AbortMultipartUpload and an empty list. As S3 does, it checks the CRC-32
of each body, in a header or in a trailer, and the CRC-32 of the whole object when an upload is completed. It checks no
signatures.
"""

from __future__ import annotations

import base64
import re
import ssl
import sys
import threading
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

Piece = tuple[int, int]
"""The CRC-32 and the length of some bytes."""

READ = 256 * 1024


def _times(one: int, other: int) -> int:
    """The product of two polynomials modulo that of CRC-32, all with their bits reversed."""
    product, bit = 0, 1 << 31
    while bit:
        if one & bit:
            product ^= other
        bit >>= 1
        other = other >> 1 ^ (0xEDB88320 if other & 1 else 0)
    return product


def joined(first: Piece, second: Piece) -> Piece:
    """The CRC-32 and the length of two pieces one after the other."""
    power, shift, length = 1 << 31, 1 << 23, second[1]  # 1, and one byte further
    while length:
        if length & 1:
            power = _times(power, shift)
        shift, length = _times(shift, shift), length >> 1
    return _times(power, first[0]) ^ second[0], first[1] + second[1]


class Sink(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    rbufsize = READ
    disable_nagle_algorithm = True
    objects: dict[str, tuple[Piece, dict[str, str]]]
    uploads: dict[str, dict[int, Piece]]

    def do_PUT(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        piece, claimed = self._body()
        crc = _base64(piece[0])
        if claimed not in (None, crc):
            return self._answer(400, "<Error><Code>BadDigest</Code></Error>")
        if "partNumber" in query:
            self.uploads[query["uploadId"][0]][int(query["partNumber"][0])] = piece
        else:
            self.objects[self.path] = piece, self._metadata()
        self._answer(200, **{"ETag": f'"{crc}"', "x-amz-checksum-crc32": crc})

    def do_POST(self) -> None:
        url = urlsplit(self.path)
        if "uploads" in parse_qs(url.query, keep_blank_values=True):
            upload = f"upload-{len(self.uploads)}"
            self.uploads[upload] = {}
            self.objects[upload] = (0, 0), self._metadata()
            made = f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
            return self._answer(
                200, made, **{"x-amz-checksum-type": "FULL_OBJECT", "x-amz-checksum-algorithm": "CRC32"}
            )
        upload = parse_qs(url.query)["uploadId"][0]
        listed = self.rfile.read(int(self.headers["Content-Length"])).decode()
        numbers = [int(number) for number in re.findall(r"<PartNumber>(\d+)</PartNumber>", listed)]
        whole = (0, 0)
        for number in numbers:
            whole = joined(whole, self.uploads[upload][number])
        crc = _base64(whole[0])
        if self.headers.get("x-amz-checksum-crc32", crc) != crc:
            return self._answer(400, "<Error><Code>BadDigest</Code></Error>")
        self.objects[url.path] = whole, self.objects[upload][1]
        told = f'<ETag>"{crc}"</ETag><ChecksumCRC32>{crc}</ChecksumCRC32><ChecksumType>FULL_OBJECT</ChecksumType>'
        self._answer(200, f"<CompleteMultipartUploadResult>{told}</CompleteMultipartUploadResult>")

    def do_HEAD(self) -> None:
        if self.path not in self.objects:
            return self._answer(404)
        piece, metadata = self.objects[self.path]
        self._answer(200, size=piece[1], ETag=f'"{_base64(piece[0])}"', **metadata)

    def do_GET(self) -> None:
        self._answer(200, "<ListBucketResult></ListBucketResult>")

    def do_DELETE(self) -> None:
        self.objects.pop(self.path, None)
        self._answer(204)

    def _metadata(self) -> dict[str, str]:
        return {name: value for name, value in self.headers.items() if name.lower().startswith("x-amz-meta-")}

    def _answer(self, status: int, body: str = "", size: int | None = None, **headers: str) -> None:
        self.send_response_only(status)
        self.send_header("Content-Length", str(len(body) if size is None else size))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body.encode())

    def _body(self) -> tuple[Piece, str | None]:
        """Read the body; its CRC-32 and length, and the CRC-32 that the client claims."""
        claimed = self.headers.get("x-amz-checksum-crc32")
        if "aws-chunked" not in self.headers.get("Content-Encoding", ""):
            pieces = self._pieces(int(self.headers["Content-Length"]))
            return self._checked(pieces), claimed
        framed = _Framed(self._chunks())
        piece = self._checked(framed.content())
        return piece, framed.trailers.get("x-amz-checksum-crc32")

    def _checked(self, pieces: Iterator[bytes]) -> Piece:
        crc = size = 0
        for piece in pieces:
            crc, size = zlib.crc32(piece, crc), size + len(piece)
        return crc, size

    def _pieces(self, left: int) -> Iterator[bytes]:
        while left:
            piece = self.rfile.read1(min(left, READ))
            if not piece:
                raise ConnectionError("the body ended early")
            left -= len(piece)
            yield piece

    def _chunks(self) -> Iterator[bytes]:
        """The chunks of `Transfer-Encoding: chunked`."""
        while size := int(self.rfile.readline() or b"-", 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def log_message(self, format: str, *_: object) -> None:
        """Nothing."""


class _Framed:
    """A body in the framing `aws-chunked`: chunks of a size and bytes, then trailers."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self.trailers: dict[str, str] = {}
        self._pieces = pieces
        self._rest = b""

    def content(self) -> Iterator[bytes]:
        while size := int(self._line(), 16):
            while size:
                self._rest = self._rest or next(self._pieces)
                piece, self._rest = self._rest[:size], self._rest[size:]
                size -= len(piece)
                yield piece
            self._line()
        while line := self._line():
            name, _, value = line.partition(":")
            self.trailers[name.strip().lower()] = value.strip()
        for _ in self._pieces:
            pass

    def _line(self) -> str:
        while b"\r\n" not in self._rest:
            self._rest += next(self._pieces)
        line, _, self._rest = self._rest.partition(b"\r\n")
        return line.decode()


def _base64(crc: int) -> str:
    return base64.b64encode(crc.to_bytes(4, "big")).decode()


class _Server(ThreadingHTTPServer):
    """Shakes hands in the connection's own thread, so that connections do not wait for each other."""

    daemon_threads = True
    tls: ssl.SSLContext

    def finish_request(self, request: object, address: object) -> None:
        with self.tls.wrap_socket(request, server_side=True) as connection:  # type: ignore[arg-type]
            Sink(connection, address, self)

    def handle_error(self, request: object, address: object) -> None:
        """Clients hang up."""


def main(certificate: str) -> None:
    """Serve until stdin ends."""
    Sink.objects, Sink.uploads = {}, {}
    server = _Server(("127.0.0.1", 0), Sink)
    server.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.tls.load_cert_chain(certificate)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_port, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1])
