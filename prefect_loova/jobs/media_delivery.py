"""How a request's media reach Loova: URLs as they are, S3 objects by presign URLs or as files of the submit's form.

It happens right before a video is paid for, and is the last look at the media: whether they are there, unchanged, and
what they are to be.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath

from prefect_loova._urls import is_private_host
from prefect_loova.client import FormFile
from prefect_loova.errors import InvalidRequestError
from prefect_loova.jobs.context import VideoJobs
from prefect_loova.jobs.media_objects import InspectedObject, check_content, check_pin, inspect, open_object
from prefect_loova.jobs.media_urls import url_problems
from prefect_loova.models.media import KINDS, MediaError, Medium, medium_error
from prefect_loova.models.media_types import sent_type
from prefect_loova.models.request import VideoRequest
from prefect_loova.store.errors import S3_ERRORS, storage_error
from prefect_loova.store.presign import presign

_LONGEST_LINK = 604_800  # of AWS Signature Version 4, in seconds
_LOOKS_AT_ONCE = 4

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SubmitPayload:
    """What a submit sends.

    Attributes:
        request: The request; its media are URLs that Loova can load. They are secrets.
        files: What goes along as files.
    """

    request: VideoRequest
    files: tuple[FormFile, ...] = ()


async def deliver_media(
    jobs: VideoJobs, request: VideoRequest, *, max_wait: float = 0.0, told: bool = False
) -> SubmitPayload:
    """Look at the media of a prepared request for the last time, and make them reachable.

    Args:
        jobs: The API and the bucket.
        request: The video to be made.
        max_wait: How long is waited for it, in seconds; links are valid for twice as long at least.
        told: Whether what is worth a warning was told before: it is not told again.

    Raises:
        InvalidRequestError: All that is wrong with them, by field; nothing was sent.
        StorageError: The bucket cannot be read.
    """
    texts = [(name, number, text) for name in KINDS for number, text in enumerate(getattr(request, name))]
    if not told:
        warn_about_references(request)
    if not texts:
        return SubmitPayload(request)
    warn = log.debug if told else log.warning
    deliverer = _Deliverer(jobs, min(_LONGEST_LINK, max(jobs.media.link_seconds, int(2 * max_wait))), told)
    turn, problems = (
        asyncio.Semaphore(_LOOKS_AT_ONCE),
        await url_problems(request, jobs.media, allow_private=jobs.loova.is_private, warn=warn),
    )

    async def one(name: str, number: int, text: str) -> str | FormFile:
        async with turn:
            try:
                return await deliverer.deliver(name, number, Medium.read(text))
            except MediaError as error:
                problems.append(medium_error(name, number, text, error))
                return ""

    made = await asyncio.gather(*(one(*text) for text in texts))
    if problems:
        raise InvalidRequestError("\n".join(sorted(problems)))
    urls: dict[str, list[str]] = {name: [] for name in KINDS}
    for (name, _, _), medium in zip(texts, made, strict=True):
        if isinstance(medium, str):
            urls[name].append(medium)
    files = tuple(medium for medium in made if isinstance(medium, FormFile))
    if mixed := _mixed_order(request, urls, files):
        warn(mixed)
    delivered = request.model_copy(update={name: tuple(some) for name, some in urls.items()})
    jobs.loova.check(delivered)
    return SubmitPayload(delivered, files)


def _mixed_order(request: VideoRequest, urls: dict[str, list[str]], files: tuple[FormFile, ...]) -> str:
    """What to tell of files and URLs of one kind in one form: which comes first is not documented.

    Raises:
        InvalidRequestError: They are frames: one in the wrong place would be paid for.
    """
    mixed = [name for name in KINDS if files and urls[name] and len(urls[name]) < len(getattr(request, name))]
    if not mixed:
        return ""
    told = f"{' and '.join(mixed)}: files and URLs go in one form, and Loova does not document their order"
    if request.function_mode == "first_last_frames":
        raise InvalidRequestError(f"{told}; give both frames as files, or both as URLs")
    return f"{told}: references such as @image1 may mean another one"


def warn_about_references(request: VideoRequest) -> None:
    """Tell of `@` references in the prompt that name none of the media: the video may not be what was meant."""
    unknown = request.unknown_references()
    if unknown:
        counts = ", ".join(f"{len(texts)} {KINDS[name]}s" for name, texts in request.media().items())
        log.warning("%s: the prompt refers to %s, and the request has %s", request.name, ", ".join(unknown), counts)


@dataclass
class _Deliverer:
    jobs: VideoJobs
    link_seconds: int
    told: bool

    async def deliver(self, name: str, number: int, medium: Medium) -> str | FormFile:
        kind = KINDS[name]
        if medium.source == "web":
            return medium.location
        look = await asyncio.to_thread(inspect, self.jobs.records, medium, kind, self.jobs.media)
        await asyncio.to_thread(check_pin, self.jobs.records, medium)
        media_type = sent_type(look.head, kind)
        source = partial(open_object, self.jobs.records.s3, medium, look=look)
        if doubt := await asyncio.to_thread(check_content, self.jobs.decoded, medium, kind, media_type, source):
            log.warning("%s: %s; going on", medium.location, doubt)
        if self._as_files:
            return await self._file(
                medium, media_type, look, f"{kind}{number + 1}{PurePosixPath(medium.location).suffix}"
            )
        bucket, key = medium.bucket_and_key
        version = {"VersionId": look.version} if look.version and await self._may_read(medium, look.version) else {}
        link = await asyncio.to_thread(presign, self.jobs.records.s3, bucket, key, self.link_seconds, **version)
        if "x-amz-security-token=" in link.lower() and not self.told:
            log.info("%s: its link is signed by temporary credentials, and valid as long as they are", medium.location)
        return link

    @property
    def _as_files(self) -> bool:
        send, endpoint = self.jobs.media.send, self.jobs.records.s3.meta.endpoint_url
        return send == "files" or (send == "auto" and is_private_host(endpoint) and not self.jobs.loova.is_private)

    async def _may_read(self, medium: Medium, version: str) -> bool:
        """Whether a link to this very version would be answered: it takes s3:GetObjectVersion."""
        bucket, key = medium.bucket_and_key
        try:
            await asyncio.to_thread(self.jobs.records.s3.head_object, Bucket=bucket, Key=key, VersionId=version)
        except S3_ERRORS as error:
            failure = storage_error(error, medium.location, self.jobs.records.s3, "HeadObject")
            if failure.transient:
                raise failure from None
            return False
        return True

    async def _file(self, medium: Medium, media_type: str, look: InspectedObject, name: str) -> FormFile:
        file = await asyncio.to_thread(partial(open_object, self.jobs.records.s3, medium, look=look))
        with file:
            content = await asyncio.to_thread(file.readall)
        return FormFile(name, content, media_type)
