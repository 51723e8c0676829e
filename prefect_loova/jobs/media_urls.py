"""Reference media that are URLs, judged by their first bytes, loaded as Loova would load them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing

import httpx

from prefect_loova.errors import IncompleteVideoError, TransferError, VideoUrlRefusedError, redact
from prefect_loova.models.media import KINDS, Kind, MediaError, Medium, medium_error, redact_media
from prefect_loova.models.media_types import HEAD_BYTES, MediaRules, content_problem, unknown_brand
from prefect_loova.models.request import VideoRequest
from prefect_loova.transfer.download import Download, StartOverError

_LOOK_SECONDS = 20.0
_LOOKS_AT_ONCE = 4
_WHY = " (looked at since media.check_urls of the credentials block is on)"

log = logging.getLogger(__name__)


async def url_problems(
    request: VideoRequest, rules: MediaRules, *, allow_private: bool, warn: Callable[..., None] = log.warning
) -> list[str]:
    """What is wrong with the media of a request that are URLs, each by its field; nothing where nobody is to look.

    Args:
        request: The video to be made.
        rules: The limits for media, and whether URLs are checked.
        allow_private: Whether private addresses may be asked, as the API is private itself.
        warn: Is told of hosts that cannot be reached from here, which is Loova's matter.
    """
    texts = [(name, *one) for name in KINDS for one in enumerate(getattr(request, name))]
    urls = [one for one in texts if Medium.read(one[2]).source == "web"]
    if not urls or not rules.check_urls:
        return []
    turn, problems = asyncio.Semaphore(_LOOKS_AT_ONCE), list[str]()
    async with httpx.AsyncClient(timeout=_LOOK_SECONDS, follow_redirects=False) as http:

        async def one(name: str, number: int, url: str) -> None:
            async with turn:
                try:
                    await _look_at(http, url, KINDS[name], rules, allow_private=allow_private, warn=warn)
                except MediaError as error:
                    problems.append(medium_error(name, number, url, f"{error}{_WHY}"))

        await asyncio.gather(*(one(*url) for url in urls))
    return sorted(problems)


async def _look_at(
    http: httpx.AsyncClient, url: str, kind: Kind, rules: MediaRules, *, allow_private: bool, warn: Callable[..., None]
) -> None:
    head = bytearray()
    download = Download(
        url, http, allow_private=allow_private, max_bytes=2**40, tries=1, read_timeout=_LOOK_SECONDS / 2, is_look=True
    )
    try:
        async with asyncio.timeout(_LOOK_SECONDS), aclosing(download.chunks()) as chunks:
            async for chunk in chunks:
                head += chunk
                if len(head) >= HEAD_BYTES:
                    break
    except IncompleteVideoError:
        pass  # what came tells enough
    except (VideoUrlRefusedError, TransferError, TimeoutError, StartOverError) as error:
        if isinstance(error, VideoUrlRefusedError) and (error.http_status or 400) >= 400:
            raise MediaError(error.message) from None
        warn("%s cannot be looked at from here (%s): going on", redact_media(url), redact(error, 200))
        return
    size = download.announced if download.announced is not None else download.received
    if problem := content_problem(bytes(head[:HEAD_BYTES]), size, kind, rules):
        raise MediaError(problem)
    if doubt := unknown_brand(bytes(head[:HEAD_BYTES]), kind):
        warn("%s: %s; going on", redact_media(url), doubt)
