"""Check reference media at URLs by their first bytes, downloaded as Loova would download them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing

import httpx

from prefect_loova._concurrency import map_bounded
from prefect_loova.errors import IncompleteVideoError, TransferError, VideoUrlRefusedError, redact
from prefect_loova.models.media import KINDS, Kind, MediaError, Medium, medium_error, redact_media
from prefect_loova.models.media_facts import MediaFacts, limit_problems, refuse
from prefect_loova.models.media_types import HEAD_BYTES, MediaRules, content_problem, media_type_of, unknown_brand
from prefect_loova.models.request import VideoRequest
from prefect_loova.transfer.download import Download, StartOverError

_CHECK_SECONDS = 20.0
_CONCURRENT_CHECKS = 4
_SETTING = " (checked because media.check_urls of the credentials block is on)"

log = logging.getLogger(__name__)


async def url_problems(
    request: VideoRequest, rules: MediaRules, *, allow_private: bool, warn: Callable[..., None] = log.warning
) -> list[str]:
    """Return the problems with a request's media URLs, by field. If `rules.check_urls` is off, none are reported.

    `warn` logs a host that this machine cannot reach, because Loova may reach it. URLs may lead to private addresses
    only if the API's address is private (`allow_private`).
    """
    media = [(name, *one) for name in KINDS for one in enumerate(getattr(request, name))]
    urls = [one for one in media if Medium.parse(one[2]).source == "web"]
    if not urls or not rules.check_urls:
        return []
    rules = rules.model_copy(update={"convert": False})  # Loova downloads them itself
    problems = list[str]()
    async with httpx.AsyncClient(timeout=_CHECK_SECONDS, follow_redirects=False) as http:

        async def check(medium: tuple[str, int, str]) -> None:
            name, number, url = medium
            try:
                await _check_url(http, url, KINDS[name], rules, allow_private=allow_private, warn=warn)
            except MediaError as error:
                problems.append(medium_error(name, number, url, f"{error}{_SETTING}"))

        await map_bounded(check, urls, _CONCURRENT_CHECKS)
    return sorted(problems)


async def _check_url(
    http: httpx.AsyncClient, url: str, kind: Kind, rules: MediaRules, *, allow_private: bool, warn: Callable[..., None]
) -> None:
    head = bytearray()
    download = Download(
        url, http, allow_private=allow_private, max_bytes=2**40, tries=1, read_timeout=_CHECK_SECONDS / 2, is_look=True
    )
    try:
        async with asyncio.timeout(_CHECK_SECONDS), aclosing(download.chunks()) as chunks:
            async for chunk in chunks:
                head += chunk
                if len(head) >= HEAD_BYTES:
                    break
    except IncompleteVideoError:
        pass  # the bytes that arrived are enough
    except (TransferError, TimeoutError, StartOverError) as error:
        if isinstance(error, VideoUrlRefusedError) and (error.http_status or 400) >= 400:
            raise MediaError(error.message) from None
        # The message alone: the error says that credits are spent, and nothing is bought yet.
        reason = error.message if isinstance(error, TransferError) else f"no usable reply within {_CHECK_SECONDS:.0f} s"
        warn("%s cannot be checked from here (%s); continuing", redact_media(url), redact(reason, 200))
        return
    size = download.announced if download.announced is not None else download.received
    if problem := content_problem(bytes(head[:HEAD_BYTES]), size, kind, rules):
        raise MediaError(problem)
    doubts = [unknown_brand(bytes(head[:HEAD_BYTES]), kind)]
    if kind == "image":
        facts = await asyncio.to_thread(_measure, bytes(head[:HEAD_BYTES]))
        broken = limit_problems(facts, kind, rules)
        refuse(broken, rules)
        doubts += [*facts.traits, *broken]
    for doubt in filter(None, doubts):
        warn("%s: %s; continuing", redact_media(url), doubt)


def _measure(head: bytes) -> MediaFacts:
    from prefect_loova.video.probe import probe_head  # noqa: PLC0415  (loads the decoders)

    return probe_head(head, media_type_of(head) or "")
