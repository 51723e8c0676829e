"""What `saving.py` measures in Python, each in a process of its own: one film from its URL into S3, or half of that.

    python savers.py ours '{"url": ..., "size": ..., "endpoint_url": ..., "access_key": ..., "secret_key": ...,
        "bucket": ...}'

The clock starts when everything is imported and a first request to either side was answered, so that
starting up counts for nobody.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import resource
import shutil
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import smart_open

from prefect_loova._api.tls import tls_context
from prefect_loova.simulator.s3 import s3_client
from prefect_loova.transfer.copy import Target, copy_video

MIB = 1024**2
PART = 8 * MIB
KEY = "film.mp4"
CHECKED = {"ChecksumAlgorithm": "CRC32", "ChecksumType": "FULL_OBJECT"}


class Task:
    """A film, and where it goes."""

    def __init__(self, url: str, size: int, endpoint_url: str, access_key: str, secret_key: str, bucket: str) -> None:
        self.url = url
        self.size = size
        self.bucket = bucket
        self.s3 = s3_client(endpoint_url, access_key, secret_key)
        self.s3.list_objects_v2(Bucket=bucket)
        tls_context()
        asyncio.run(_first_request(str(httpx.URL(url).join("/0.mp4"))))


async def _first_request(url: str) -> None:
    """httpx imports its half for asyncio with it."""
    async with httpx.AsyncClient(verify=tls_context()) as http:
        await http.get(url)


def ours(task: Task) -> str:
    """What the task `save_video` calls, with its defaults; returns the film's SHA-256."""
    copied = asyncio.run(copy_video(task.url, task.s3, Target(task.bucket, KEY), allow_private=True))
    return copied.sha256


def whole(task: Task) -> None:
    """httpx reads all of it, and boto3 sends it, both as in their quick starts."""
    response = httpx.get(task.url, verify=tls_context()).raise_for_status()
    task.s3.upload_fileobj(io.BytesIO(response.content), task.bucket, KEY)


def stream(task: Task) -> None:
    """smart_open, as in its README ("stream from HTTP", "write to S3"), with a client that is there, in larger pieces.

    Its default of 50 MiB for `min_part_size` was faster here than 8 MiB.
    """
    reading: dict[str, Any] = {"buffer_size": MIB}
    writing: dict[str, Any] = {"client": task.s3}
    with (
        smart_open.open(task.url, "rb", transport_params=reading) as source,
        smart_open.open(f"s3://{task.bucket}/{KEY}", "wb", transport_params=writing) as target,
    ):
        shutil.copyfileobj(source, target, MIB)


def whole_checked(task: Task) -> str:
    """The same, and a SHA-256 and a CRC-32 of what was read, which S3 compares with its own."""
    response = httpx.get(task.url, verify=tls_context()).raise_for_status()
    body = response.content
    if len(body) != int(response.headers["Content-Length"]):
        raise SystemExit("cut short")
    task.s3.upload_fileobj(io.BytesIO(body), task.bucket, KEY, ExtraArgs=CHECKED)
    confirm(task, zlib.crc32(body))
    return hashlib.sha256(body).hexdigest()


def stream_checked(task: Task) -> str:
    """smart_open as above, and a SHA-256 and a CRC-32 of what it reads, which S3 compares with its own."""
    reading: dict[str, Any] = {"buffer_size": MIB}
    writing: dict[str, Any] = {"client": task.s3, "client_kwargs": {"S3.Client.create_multipart_upload": CHECKED}}
    sha256, crc = hashlib.sha256(), 0
    with (
        smart_open.open(task.url, "rb", transport_params=reading) as source,
        smart_open.open(f"s3://{task.bucket}/{KEY}", "wb", transport_params=writing) as target,
    ):
        while piece := source.read(MIB):
            sha256.update(piece)
            crc = zlib.crc32(piece, crc)
            target.write(piece)
    confirm(task, crc)
    return sha256.hexdigest()


def confirm(task: Task, crc: int) -> None:
    """Compare the CRC-32 with that of the server, which moto does not compute of parts."""
    stored = task.s3.head_object(Bucket=task.bucket, Key=KEY, ChecksumMode="ENABLED").get("ChecksumCRC32")
    if stored not in (None, base64.b64encode(crc.to_bytes(4, "big")).decode()):
        print(f"not compared: {stored}", file=sys.stderr)


def crc_of(body: Any) -> str:
    """A CRC-32 as S3 shows it. With it boto3 sends a body as it is; else, over TLS, in chunks, which is slower."""
    return base64.b64encode(zlib.crc32(body).to_bytes(4, "big")).decode()


def upload_at_once(task: Task) -> None:
    """Upload alone: everything in one request. (With `bytes`, boto3 would first wait for a `100 Continue`.)"""
    body = bytearray(task.size)
    task.s3.put_object(Bucket=task.bucket, Key=KEY, Body=body, ChecksumCRC32=crc_of(body))


def download(task: Task) -> None:
    """Download alone."""
    with httpx.stream("GET", task.url, verify=tls_context()) as response:
        for _ in response.iter_raw():
            pass


def upload(task: Task, threads: int) -> None:
    """Upload alone: parts as large as ours, all from the same memory."""
    place: dict[str, Any] = {"Bucket": task.bucket, "Key": KEY}
    if task.size <= PART:
        upload_at_once(task)
        return
    body = memoryview(bytearray(PART))
    place["UploadId"] = task.s3.create_multipart_upload(**place, ChecksumAlgorithm="CRC32", ChecksumType="FULL_OBJECT")[
        "UploadId"
    ]

    def send(number: int) -> dict[str, Any]:
        part = bytearray(body[: task.size - (number - 1) * PART]) if number == count else body.obj
        answer = task.s3.upload_part(**place, PartNumber=number, Body=part, ChecksumCRC32=crc_of(part))
        return {"PartNumber": number} | {name: answer[name] for name in ("ETag", "ChecksumCRC32") if name in answer}  # type: ignore[misc]

    count = -(-task.size // PART)
    with ThreadPoolExecutor(threads) as pool:
        parts: Any = list(pool.map(send, range(1, count + 1)))
    task.s3.complete_multipart_upload(**place, MultipartUpload={"Parts": parts})


class _Zeros(io.RawIOBase):
    """A file of zeros that takes no memory."""

    def __init__(self, size: int) -> None:
        self._left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = min(len(buffer), self._left)
        self._left -= count
        return count


def upload_managed(task: Task) -> None:
    """Upload alone, as boto3 does it by itself."""
    task.s3.upload_fileobj(_Zeros(task.size), task.bucket, KEY)


SAVERS = {
    "ours": ours,
    "httpx, upload_fileobj": whole,
    "smart_open": stream,
    "httpx, upload_fileobj, checked": whole_checked,
    "smart_open, checked": stream_checked,
    "upload alone, 3 parts at a time": lambda task: upload(task, 3),
    "upload alone, 10 parts at a time": lambda task: upload(task, 10),
    "upload alone, upload_fileobj": upload_managed,
}
OVER_LINKS = {
    "download alone, httpx": download,
    "upload alone, one request": upload_at_once,
}
"""What only `links.py` measures."""


def memory(name: str) -> float:
    """A line of /proc/self/status, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) / 1024


def main(who: str, task: Task) -> None:
    """Save it once, and say what it took."""
    idle = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak that importing made
    before = resource.getrusage(resource.RUSAGE_SELF)
    started = time.perf_counter()
    sha256 = (SAVERS | OVER_LINKS)[who](task)
    seconds = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_SELF)
    result = {
        "seconds": seconds,
        "cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "over_idle_mib": memory("VmHWM") - idle,
        "disk_mib": (after.ru_oublock - before.ru_oublock) * 512 / MIB,
        "sha256": sha256,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1], Task(**json.loads(sys.argv[2])))
