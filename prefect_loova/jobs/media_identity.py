"""Find out what a request's media are, so that it has a key: the step before `submitting`.

Local files are put into the bucket, once for each content, under `{prefix}/_media/{sha256}.png`; so is a frame that is
taken out of a video. Objects in S3 stay where they are. What is wrong with the media is told all together, before
anything is spent.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from io import BytesIO, RawIOBase
from pathlib import Path
from typing import NamedTuple

from prefect_loova.errors import (
    InvalidRequestError,
    RecordMismatchError,
    StorageError,
    UnusableVideoError,
    first_lines,
)
from prefect_loova.jobs.context import VideoJobs
from prefect_loova.jobs.local_files import LocalFiles
from prefect_loova.jobs.media_objects import MEDIA, as_media_error, check_content, inspect, open_object
from prefect_loova.models.media import KINDS, Kind, MediaError, Medium, medium_error
from prefect_loova.models.media_types import HEAD_BYTES, TAKEN, content_problem, sent_type
from prefect_loova.models.request import VideoRequest
from prefect_loova.store.records import KeyClosedError, is_key

_REQUESTS_AT_ONCE = 8

log = logging.getLogger(__name__)


class LocalFile(NamedTuple):
    """A local file that was read whole."""

    content: bytes
    sha256: str


@dataclass
class MediaPreparer:
    """Prepares requests, each medium once, however many requests name it.

    Attributes:
        jobs: The API and the bucket.
        local: Which local files may be read.
        upload: Whether to put into the bucket what Loova is to load; a dry run does not.
    """

    jobs: VideoJobs
    local: LocalFiles = field(default_factory=LocalFiles)
    upload: bool = True
    _known: dict[tuple[Kind, str], asyncio.Task[str]] = field(default_factory=dict)
    _reading: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def prepare_all(self, requests: Sequence[VideoRequest], *, called: str = "request") -> list[VideoRequest]:
        """The same requests, prepared.

        Args:
            requests: The videos to be made.
            called: What one of them is called in errors.

        Raises:
            InvalidRequestError: All that is wrong with their media, by request and field.
            StorageError: The bucket cannot be read or written.
        """
        if all(request.is_prepared for request in requests):
            return list(requests)
        turn, problems = asyncio.Semaphore(_REQUESTS_AT_ONCE), dict[int, list[str]]()

        async def one(number: int, request: VideoRequest) -> VideoRequest:
            async with turn:
                try:
                    return await self.prepare(request)
                except InvalidRequestError as error:
                    problems[number] = error.message.splitlines()
                    return request

        prepared = await asyncio.gather(*(one(number, request) for number, request in enumerate(requests, 1)))
        if problems:
            told = [f"{called} {number}: {line}" for number in sorted(problems) for line in problems[number]]
            raise InvalidRequestError("\n".join(first_lines(told)))
        return prepared

    async def prepare(self, request: VideoRequest) -> VideoRequest:
        """The same request, with the content of all of its media known.

        Raises:
            InvalidRequestError: All that is wrong with its media, by field.
            StorageError: The bucket cannot be read or written.
        """
        if request.is_prepared:
            return request
        problems: list[str] = []
        media: dict[str, list[str]] = {name: [] for name in KINDS}
        for name, kind in KINDS.items():
            for number, text in enumerate(getattr(request, name)):
                try:
                    media[name].append(await self._prepared(kind, text))
                except MediaError as error:
                    problems.append(medium_error(name, number, text, error))
        if problems:
            raise InvalidRequestError("\n".join(problems))
        return request.model_copy(update={name: tuple(texts) for name, texts in media.items()})

    async def _prepared(self, kind: Kind, text: str) -> str:
        medium = Medium.read(text)
        if medium.identity is not None:
            return text
        known = self._known.get((kind, text))
        if known is None:
            known = self._known[kind, text] = asyncio.create_task(self._look_at(kind, medium))
        return await asyncio.shield(known)

    async def _look_at(self, kind: Kind, medium: Medium) -> str:
        if medium.source == "disk":
            return str(await self._from_disk(kind, medium))
        return str(await self._from_s3(kind, medium))

    async def _from_disk(self, kind: Kind, medium: Medium) -> Medium:
        path = self.local.find(medium.location)
        holds: Kind = "video" if medium.frame else kind
        async with self._reading:  # one at a time: each is held in memory
            file = await asyncio.to_thread(_read, path, self.jobs.media.most(holds))
            if problem := content_problem(file.content[:HEAD_BYTES], len(file.content), holds, self.jobs.media):
                raise MediaError(problem)
            pinned = medium.pinned(f"sha256={file.sha256}")
            if medium.frame:
                return await self._frame(pinned, lambda: BytesIO(file.content))
            media_type = sent_type(file.content[:HEAD_BYTES], kind)
            await self._decode(kind, pinned, media_type, lambda: BytesIO(file.content))
            object_key = self.jobs.records.object_key(MEDIA, f"{file.sha256}{TAKEN[media_type]}")
            await self._put(object_key, file.content, media_type)
            return pinned.pinned(pinned.digest, self.jobs.records.uri(object_key))

    async def _from_s3(self, kind: Kind, medium: Medium) -> Medium:
        holds: Kind = "video" if medium.frame else kind
        if not medium.digest:
            look = await asyncio.to_thread(inspect, self.jobs.records, medium, holds, self.jobs.media)
            sha256 = await self._saved_here(medium, look.size)
            medium = medium.pinned(f"sha256={sha256}" if sha256 else f"etag={look.etag.strip(chr(34))}")
            if not medium.frame:
                pinned, media_type = medium, sent_type(look.head, kind)
                await self._decode(
                    kind, medium, media_type, lambda: open_object(self.jobs.records.s3, pinned, look=look)
                )
        if not medium.frame:
            return medium
        return await self._frame(medium, lambda: open_object(self.jobs.records.s3, medium))

    async def _saved_here(self, medium: Medium, size: int) -> str | None:
        """The SHA-256 of a video of this size that a job record below this prefix knows."""
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
            # Another identity would be another request, which is paid again.
            raise MediaError(f"its job record cannot be read: {error.message}") from None
        videos = [attempt.video for attempt in stored.record.attempts if attempt.video] if stored else []
        known = ((video.object_key, video.size_bytes, video.sha256) for video in videos)
        return next((sha256 for *place, sha256 in known if place == [object_key, size]), None)

    async def _frame(self, video: Medium, source: Callable[[], BytesIO | RawIOBase]) -> Medium:
        """A frame of a pinned video as an object of its own; what is there already is not taken again."""
        object_key = self.jobs.records.object_key(MEDIA, f"{video.frame_id}.png")
        frame = Medium("s3", self.jobs.records.uri(object_key), digest=f"frame={video.frame_id}")
        if not self.upload or await self.jobs.records.object_size(object_key, denied_is_missing=True):
            return frame

        def taken() -> bytes:
            from prefect_loova.video.frames import frame_of  # noqa: PLC0415  (decoders load when they are used)

            assert video.frame is not None  # noqa: S101
            with source() as file:
                return frame_of(file, video.frame)

        try:
            png = await asyncio.to_thread(taken)
        except UnusableVideoError as error:
            raise MediaError(error.message) from None
        except StorageError as error:
            raise as_media_error(error) from None
        await self.jobs.records.put_bytes(object_key, png, "image/png")
        return frame

    async def _decode(
        self, kind: Kind, medium: Medium, media_type: str, source: Callable[[], BytesIO | RawIOBase]
    ) -> None:
        if doubt := await asyncio.to_thread(check_content, self.jobs.decoded, medium, kind, media_type, source):
            log.warning("%s: %s; going on", medium.location, doubt)

    async def _put(self, object_key: str, content: bytes, media_type: str) -> None:
        if self.upload and await self.jobs.records.object_size(object_key, denied_is_missing=True) != len(content):
            await self.jobs.records.put_bytes(object_key, content, media_type)


def _read(path: Path, most: int) -> LocalFile:
    """A local file, whole, or a byte more than `most` of it.

    Raises:
        MediaError: Says why it cannot be used.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for whoever writes into it
            raise MediaError("it is a directory" if path.is_dir() else "it is no regular file")
        with path.open("rb") as file:
            before = os.fstat(file.fileno())
            content = file.read(most + 1)
            after = os.fstat(file.fileno())
    except OSError as error:
        raise MediaError(f"it cannot be read ({error.strerror})") from None
    is_whole = len(content) == min(before.st_size, most + 1)
    if not is_whole or (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise MediaError("it changed while it was read: try again when it is written")
    return LocalFile(content, hashlib.sha256(content).hexdigest())
