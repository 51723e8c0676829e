"""Make a request's media available to Loova: URLs unchanged, S3 objects as presigned URLs or as files of the form.

This runs right before the purchase and checks the media a last time: that they exist, are unchanged, and have the right
type.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from prefect_loova._concurrency import map_bounded
from prefect_loova._urls import is_private_host
from prefect_loova.client import FormFile
from prefect_loova.errors import InvalidRequestError, counted
from prefect_loova.jobs.context import VideoJobs
from prefect_loova.jobs.media_objects import (
    InspectedObject,
    check_digest,
    copy_of,
    inspect_object,
    measure,
    open_object,
)
from prefect_loova.jobs.media_urls import url_problems
from prefect_loova.models.media import KINDS, MediaError, Medium, medium_error
from prefect_loova.models.media_facts import refuse, request_problems
from prefect_loova.models.media_types import media_type_to_send
from prefect_loova.models.request import VideoRequest
from prefect_loova.store.errors import S3_ERRORS, storage_error
from prefect_loova.store.presign import presign

_MAX_LINK_SECONDS = 604_800  # of AWS Signature Version 4
_LONG_PROMPT = 4_000
"""From how many characters on a prompt is probably a mistake. Examples of the model have some hundred."""
_CONCURRENT_MEDIA = 4

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SubmitPayload:
    """The content of a submit.

    Attributes:
        request: The request. Its media are URLs that Loova can download; presigned URLs are secrets.
        files: The media that the submit sends as files.
    """

    request: VideoRequest
    files: tuple[FormFile, ...] = ()


async def deliver_media(
    jobs: VideoJobs, request: VideoRequest, *, max_wait: float = 0.0, is_repeated: bool = False
) -> SubmitPayload:
    """Check the media of a prepared request a last time and make them available to Loova.

    Args:
        jobs: The API and the bucket.
        request: The request.
        max_wait: Seconds that the caller waits for the video. Presigned URLs are valid at least twice as long.
        is_repeated: Whether this repeats an earlier call. The warnings are not logged again.

    Raises:
        InvalidRequestError: Lists every problem, by field; nothing was sent.
        StorageError: The bucket cannot be read.
    """
    media = [(name, number, text) for name in KINDS for number, text in enumerate(getattr(request, name))]
    if not is_repeated:
        warn_about_prompt(request)
    if not media:
        return SubmitPayload(request)
    warn = log.debug if is_repeated else log.warning
    link_seconds = min(_MAX_LINK_SECONDS, max(jobs.media.link_seconds, int(2 * max_wait)))
    deliverer = _Deliverer(jobs, link_seconds, is_repeated)
    mixed = _mixed_problems(request)
    problems = mixed if mixed and deliverer.sends_files else []
    problems += await url_problems(request, jobs.media, allow_private=jobs.loova.is_private, warn=warn)

    async def deliver(medium: tuple[str, int, str]) -> str | FormFile:
        name, number, text = medium
        try:
            return await deliverer.deliver(name, number, Medium.parse(text))
        except MediaError as error:
            problems.append(medium_error(name, number, text, error))
            return ""

    delivered = await map_bounded(deliver, media, _CONCURRENT_MEDIA)
    try:
        limits = request_problems(request.media(), jobs.measured, jobs.media)
        refuse(limits, jobs.media)
        for limit in [] if problems else limits:
            warn("%s: %s; continuing", request.name, limit)
    except MediaError as error:
        problems.append(str(error))
    if problems:
        raise InvalidRequestError("\n".join(sorted(problems)))
    urls: dict[str, list[str]] = {name: [] for name in KINDS}
    for (name, _, _), medium in zip(media, delivered, strict=True):
        if isinstance(medium, str):
            urls[name].append(medium)
    files = tuple(medium for medium in delivered if isinstance(medium, FormFile))
    sent = request.model_copy(update={name: tuple(texts) for name, texts in urls.items()})
    jobs.loova.check(sent)
    return SubmitPayload(sent, files)


def _mixed_problems(request: VideoRequest) -> list[str]:
    """Return a problem for each kind of media that a form would have both as files and as URLs.

    The source of the rule is the vendor's client: "URLs win".
    """
    sources = {name: {Medium.parse(text).source for text in texts} for name, texts in request.media().items()}
    return [
        f"{name}: files and URLs of one kind are not sent together: Loova's own client leaves out the files, so they "
        "would be paid for and not used. Give all as files or S3 objects, or all as URLs"
        for name, found in sources.items()
        if "web" in found and len(found) > 1
    ]


def warn_about_prompt(request: VideoRequest) -> None:
    """Log a warning if the prompt is very long, or has `@` references to media that the request does not have."""
    if len(request.prompt) > _LONG_PROMPT:
        log.warning(
            "%s: the prompt has %s characters; Loova documents no limit, and the model may use only a part of it",
            request.name,
            f"{len(request.prompt):,}",
        )
    unknown = request.unknown_references()
    if unknown:
        counts = ", ".join(counted(len(texts), KINDS[name]) for name, texts in request.media().items())
        log.warning("%s: the prompt refers to %s, and the request has %s", request.name, ", ".join(unknown), counts)


@dataclass
class _Deliverer:
    jobs: VideoJobs
    link_seconds: int
    is_repeated: bool

    async def deliver(self, name: str, number: int, medium: Medium) -> str | FormFile:
        if medium.source == "web":
            return medium.location
        kind, records = KINDS[name], self.jobs.records
        inspected = await asyncio.to_thread(inspect_object, records, medium, kind, self.jobs.media)
        await asyncio.to_thread(check_digest, records, medium)
        media_type = media_type_to_send(inspected.head, kind)
        source = partial(open_object, records.s3, medium, inspected=inspected)
        facts = await asyncio.to_thread(measure, self.jobs.measured, self.jobs.media, medium, kind, media_type, source)
        if facts.traits and self.jobs.media.convert:
            medium = await copy_of(self.jobs.records, self.jobs.media, medium, kind, media_type, source)
            inspected = await asyncio.to_thread(inspect_object, records, medium, kind, self.jobs.media)
            media_type = media_type_to_send(inspected.head, kind)
            source = partial(open_object, records.s3, medium, inspected=inspected)
        if self.sends_files:
            with await asyncio.to_thread(source) as file:
                content = await asyncio.to_thread(file.readall)
            return FormFile(f"{kind}{number + 1}{PurePosixPath(medium.location).suffix}", content, media_type)
        return await self._link(medium, inspected)

    @property
    def sends_files(self) -> bool:
        send, endpoint = self.jobs.media.send, self.jobs.records.s3.meta.endpoint_url
        return send == "files" or (send == "auto" and is_private_host(endpoint) and not self.jobs.loova.is_private)

    async def _link(self, medium: Medium, inspected: InspectedObject) -> str:
        """Return a presigned URL, of the inspected version if the credentials allow it (s3:GetObjectVersion)."""
        s3, (bucket, key) = self.jobs.records.s3, medium.bucket_and_key
        version: dict[str, Any] = {}
        if inspected.version:
            version = {"VersionId": inspected.version}
            try:
                await asyncio.to_thread(s3.head_object, Bucket=bucket, Key=key, **version)
            except S3_ERRORS as error:
                failure = storage_error(error, medium.location, s3, "HeadObject")
                if failure.transient:
                    raise failure from None
                version = {}
        link = await asyncio.to_thread(presign, s3, bucket, key, self.link_seconds, **version)
        if "x-amz-security-token=" in link.lower() and not self.is_repeated:
            log.info("%s: temporary credentials sign its link; the link expires with them", medium.location)
        return link
