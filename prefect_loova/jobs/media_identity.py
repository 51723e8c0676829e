"""Read the content of a request's media, which its key depends on. This is the step before the claim.

A local file is uploaded once per content, to `{prefix}/_media/{sha256}.png`. A frame taken from a video is uploaded
there too. Objects in S3 stay where they are. All problems with the media are reported together, before any purchase.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO, RawIOBase
from pathlib import Path

from prefect_loova._concurrency import map_bounded
from prefect_loova.errors import (
    InvalidRequestError,
    RecordMismatchError,
    StorageError,
    UnusableVideoError,
    first_lines,
)
from prefect_loova.jobs.context import VideoJobs
from prefect_loova.jobs.local_files import LocalFiles
from prefect_loova.jobs.media_objects import MEDIA, as_media_error, copy_of, inspect_object, measure, open_object
from prefect_loova.models.media import KINDS, Kind, MediaError, Medium, medium_error
from prefect_loova.models.media_facts import refuse, request_problems
from prefect_loova.models.media_types import CONVERTIBLE, EXTENSIONS, HEAD_BYTES, content_problem, media_type_to_send
from prefect_loova.models.request import VideoRequest
from prefect_loova.store.records import KeyClosedError, is_key

_CONCURRENT_REQUESTS = 8


@dataclass
class MediaPreparer:
    """Prepares requests. A medium of several requests is read once.

    Attributes:
        jobs: The API and the bucket.
        local: The local files that may be read.
        upload: Whether to upload local files and frames. A dry run does not.
    """

    jobs: VideoJobs
    local: LocalFiles = field(default_factory=LocalFiles)
    upload: bool = True
    _tasks: dict[tuple[Kind, str], asyncio.Task[Medium]] = field(default_factory=dict)
    _file_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _copy_lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def prepare_all(self, requests: Sequence[VideoRequest], *, called: str = "request") -> list[VideoRequest]:
        """Return the requests with the content of all their media known.

        Args:
            requests: The requests.
            called: The word for a request in errors.

        Raises:
            InvalidRequestError: Lists the problems with the media, by request and field.
            StorageError: The bucket cannot be read or written.
        """
        if all(request.is_prepared for request in requests):
            return list(requests)
        problems = dict[int, list[str]]()

        async def prepare(numbered: tuple[int, VideoRequest]) -> VideoRequest:
            number, request = numbered
            try:
                return await self.prepare(request)
            except InvalidRequestError as error:
                problems[number] = error.message.splitlines()
                return request

        prepared = await map_bounded(prepare, enumerate(requests, 1), _CONCURRENT_REQUESTS)
        if problems:
            lines = [f"{called} {number}: {line}" for number in sorted(problems) for line in problems[number]]
            raise InvalidRequestError("\n".join(first_lines(lines)))
        return prepared

    async def prepare(self, request: VideoRequest) -> VideoRequest:
        """Return the request with the content of all its media known.

        Raises:
            InvalidRequestError: Lists the problems with the media, by field.
            StorageError: The bucket cannot be read or written.
        """
        if request.is_prepared:
            return request
        problems: list[str] = []
        media: dict[str, list[str]] = {name: [] for name in KINDS}
        for name, kind in KINDS.items():
            for number, text in enumerate(getattr(request, name)):
                try:
                    media[name].append(await self._identify(kind, text))
                except MediaError as error:
                    problems.append(medium_error(name, number, text, error))
        try:
            refuse([] if problems else request_problems(media, self.jobs.measured, self.jobs.media), self.jobs.media)
        except MediaError as error:
            problems.append(str(error))
        if problems:
            raise InvalidRequestError("\n".join(problems))
        return request.model_copy(update={name: tuple(texts) for name, texts in media.items()})

    async def _identify(self, kind: Kind, text: str) -> str:
        """Return the text of the medium with its content known."""
        medium = Medium.parse(text)
        if medium.identity is not None:
            return text
        task = self._tasks.get((kind, text))
        if task is None:
            pin = self._from_disk if medium.source == "disk" else self._from_s3
            task = self._tasks[kind, text] = asyncio.create_task(pin(kind, medium))
        return str(await asyncio.shield(task))

    async def _from_disk(self, kind: Kind, medium: Medium) -> Medium:
        path = self.local.find(medium.location)
        file_kind: Kind = "video" if medium.frame else kind
        async with self._file_lock:  # one file in memory at a time
            content, sha256 = await asyncio.to_thread(read_local_file, path, self.jobs.media.max_bytes(file_kind))
            if problem := content_problem(content[:HEAD_BYTES], len(content), file_kind, self.jobs.media):
                raise MediaError(problem)
            pinned = medium.pinned(f"sha256={sha256}")
            if medium.frame:
                return await self._frame(pinned, lambda: BytesIO(content))
            media_type = media_type_to_send(content[:HEAD_BYTES], kind)
            await self._check(kind, pinned, media_type, lambda: BytesIO(content))
            object_key = self.jobs.records.object_key(MEDIA, f"{sha256}{(EXTENSIONS | CONVERTIBLE)[media_type]}")
            if self.upload and await self.jobs.records.object_size(object_key, denied_is_missing=True) != len(content):
                await self.jobs.records.put_bytes(object_key, content, media_type)
            return pinned.pinned(pinned.digest, self.jobs.records.uri(object_key))

    async def _from_s3(self, kind: Kind, medium: Medium) -> Medium:
        records, file_kind = self.jobs.records, "video" if medium.frame else kind
        if not medium.digest:
            inspected = await asyncio.to_thread(inspect_object, records, medium, file_kind, self.jobs.media)
            sha256 = await self._sha256_of_job(medium, inspected.size)
            pinned = medium.pinned(f"sha256={sha256}" if sha256 else f"etag={inspected.etag.strip(chr(34))}")
            if not medium.frame:
                media_type = media_type_to_send(inspected.head, kind)
                source = partial(open_object, records.s3, pinned, inspected=inspected)
                await self._check(kind, pinned, media_type, source)
            medium = pinned
        if not medium.frame:
            return medium
        return await self._frame(medium, partial(open_object, records.s3, medium))

    async def _sha256_of_job(self, medium: Medium, size: int) -> str | None:
        """Return the SHA-256 of a video that a job record below this prefix has, if the size matches."""
        bucket, object_key = medium.bucket_and_key
        prefix = self.jobs.records.prefix
        key = object_key.removeprefix(f"{prefix}/" if prefix else "").partition("/")[0]
        if bucket != self.jobs.records.bucket or not is_key(key):
            return None
        try:
            stored = await self.jobs.records.read_or_list(key)
        except StorageError as error:
            if isinstance(error, KeyClosedError) or (isinstance(error, RecordMismatchError) and error.is_other_api):
                return None
            if error.transient:
                raise
            # Pinning by ETag instead would change the request's key, and the video would be bought again.
            raise MediaError(f"its job record cannot be read: {error.message}") from None
        videos = [attempt.video for attempt in stored.record.attempts if attempt.video] if stored else []
        return next((one.sha256 for one in videos if (one.object_key, one.size_bytes) == (object_key, size)), None)

    async def _frame(self, video: Medium, source: Callable[[], BytesIO | RawIOBase]) -> Medium:
        """Upload a frame of a pinned video, unless it is uploaded already, and return it as a medium."""
        object_key = self.jobs.records.object_key(MEDIA, f"{video.frame_id}.png")
        frame = Medium("s3", self.jobs.records.uri(object_key), digest=f"frame={video.frame_id}")
        if not self.upload or await self.jobs.records.object_size(object_key, denied_is_missing=True):
            return frame

        def decode() -> bytes:
            from prefect_loova.video.frames import frame_of  # noqa: PLC0415  (loads the decoders)

            assert video.frame is not None  # noqa: S101
            with source() as file:
                return frame_of(file, video.frame)

        try:
            png = await asyncio.to_thread(decode)
        except UnusableVideoError as error:
            raise MediaError(error.message) from None
        except StorageError as error:
            raise as_media_error(error) from None
        await self.jobs.records.put_bytes(object_key, png, "image/png")
        return frame

    async def _check(
        self, kind: Kind, medium: Medium, media_type: str, source: Callable[[], BytesIO | RawIOBase]
    ) -> None:
        facts = await asyncio.to_thread(measure, self.jobs.measured, self.jobs.media, medium, kind, media_type, source)
        if facts.traits and self.jobs.media.convert and self.upload:
            async with self._copy_lock:  # encoding takes all processors, and the threads of other steps
                await copy_of(self.jobs.records, self.jobs.media, medium, kind, media_type, source)


def read_local_file(path: Path, max_bytes: int) -> tuple[bytes, str]:
    """Return the content of a local file, up to one byte more than `max_bytes`, and its SHA-256 in hex digits.

    Raises:
        MediaError: The file cannot be read, is not a regular file, or changes while it is read.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would block
            raise MediaError("it is a directory" if path.is_dir() else "it is no regular file")
        with path.open("rb") as file:
            before = os.fstat(file.fileno())
            content = file.read(max_bytes + 1)
            after = os.fstat(file.fileno())
    except OSError as error:
        raise MediaError(f"it cannot be read ({error.strerror})") from None
    is_whole = len(content) == min(before.st_size, max_bytes + 1)
    if not is_whole or (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise MediaError("it changed while it was read: try again when it is written")
    return content, hashlib.sha256(content).hexdigest()
