"""Assumptions about the video's URL, and about the host that serves it."""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import parse_qsl, urlsplit

from prefect_loova._urls import is_private_host
from prefect_loova.models.attempts import StoredVideo
from prefect_loova.models.contradictions import differences
from tests.live.model import Assumption, NotChecked, Refuted, Seen, Video, host_of
from tests.live.submits import BODY, is_time

DAY = 86_400
_LATEST = 4e9
_SPANS = ("x-amz-expires", "x-goog-expires", "x-tos-expires", "x-oss-expires")
_ENDS = ("expires", "expire", "exp", "e", "se", "auth_key")


def url_is_public(seen: Seen) -> str:
    hosts = [host_of(url) for url in seen.download.urls]
    is_private = is_private_host(seen.base_url)
    for host in hosts:
        if urlsplit(host).scheme != "https" and not (is_private and urlsplit(host).scheme == "http"):
            raise Refuted(f"{host} is not https")
        if is_private_host(host) and not is_private:
            raise Refuted(f"{host} is a private address")
    return ", ".join(hosts)


def other_host(seen: Seen) -> str:
    video, api = urlsplit(seen.download.urls[0]), urlsplit(seen.base_url)
    if video.netloc == api.netloc:
        raise Refuted("it is the API's host")
    return host_of(seen.download.urls[0])


def without_key(seen: Seen) -> str:
    if seen.download.http_status != 200:
        raise Refuted(f"HTTP {seen.download.http_status} without a key; the key was not sent there")
    return "HTTP 200 without a key"


def redirects(seen: Seen) -> str:
    count = len(seen.download.urls) - 1
    if count > 3 or 300 <= seen.download.http_status < 400:
        raise Refuted(f"more than 3 redirects, or one without a URL; {count} were followed")
    return f"{count} redirects"


def length(seen: Seen) -> str:
    video = _downloaded(seen)
    announced = video.headers.get("content-length")
    if announced != str(video.length):
        raise Refuted(f"Content-Length {announced}, and {video.length} bytes arrived")
    return f"{announced} bytes"


def _downloaded(seen: Seen) -> Video:
    if seen.download.http_status != 200:
        raise NotChecked(f"the download got HTTP {seen.download.http_status}")
    return seen.download


def etag(seen: Seen) -> str:
    value = _downloaded(seen).headers.get("etag", "")
    if not value.startswith('"'):
        raise Refuted(f"{'a weak one' if value else 'none'}; Last-Modified: {'last-modified' in seen.download.headers}")
    return "a strong one"


def ranges(seen: Seen) -> str:
    video = _downloaded(seen)
    if video.range_status != 206 or not video.range_is_right:
        raise Refuted(f"HTTP {video.range_status}, {'the' if video.range_is_right else 'other'} bytes")
    return "HTTP 206, and the bytes of that part"


def whole(seen: Seen) -> str:
    video = _downloaded(seen)
    if video.facts is None:
        raise Refuted(video.problem)
    kind = "fragmented" if video.facts.fragmented else "with one index"
    return f"{kind}, {video.facts.width} x {video.facts.height}, {video.facts.duration_seconds:.2f} s"


def fits_the_request(seen: Seen) -> str:
    seen.answer("submit")
    facts = _downloaded(seen).facts
    if facts is None:
        raise NotChecked("the video is not whole")
    stored = StoredVideo(
        object_key="",
        size_bytes=facts.size_bytes,
        sha256="",
        duration_seconds=facts.duration_seconds,
        width=facts.width,
        height=facts.height,
        is_turned=facts.is_turned,
    )
    problem = differences(BODY, stored)
    if problem:
        raise Refuted(problem)
    return f"{facts.duration_seconds:.2f} s, {facts.width} x {facts.height}"


def url_lifetime(seen: Seen) -> str:
    """The parameters of signed URLs that name an end: a time of day, or a span in seconds."""
    url, names = seen.download.urls[0], []
    for name, value in parse_qsl(urlsplit(url).query):
        names.append(name)
        seconds = _seconds_left(name.lower(), value, seen.finished.at)
        if seconds is not None:
            if seconds < 3_600:
                raise Refuted(f"{name}: {seconds / 60:.0f} minutes after the poll")
            return f"{name}: {seconds / 3_600:.1f} hours after the poll"
    raise NotChecked(f"no parameter of the URL names an end ({', '.join(names) or 'it has no query'})")


def _seconds_left(name: str, value: str, now: float) -> float | None:
    number = float(value) if value.isascii() and value.isdigit() else None
    if name in _SPANS:
        return number
    if name in _ENDS and number is not None and 1e9 < number < _LATEST:
        return number - now
    if name in _ENDS and is_time(value):
        return datetime.fromisoformat(value).timestamp() - now
    return None


def after_a_day(seen: Seen) -> str:
    bought = seen.bought
    if seen.now - bought.at < DAY:
        when = datetime.fromtimestamp(bought.at + DAY, UTC)
        raise NotChecked(f"run this again after {when:%Y-%m-%d %H:%M} UTC: it asks again, without paying")
    if seen.first_poll.failed or seen.download.http_status != 200:
        status = seen.video.http_status if seen.video else "none"
        raise Refuted(f"the poll got {seen.first_poll.says}; the download HTTP {status}")
    return f"{(seen.now - bought.at) / DAY:.1f} days later, the poll names a URL that works"


_DOWNLOAD = "Downloads the video, without the key."

VIDEOS = (
    Assumption(
        "url-is-public",
        "`video_url` and its redirects are https URLs on public hosts.",
        "assumed",
        "Lost, until the package changes: the download is refused. The task id is kept.",
        _DOWNLOAD,
        url_is_public,
    ),
    Assumption(
        "other-host",
        "The video is on another host than the API.",
        "assumed",
        "Nothing: the key is sent to the API's endpoints only.",
        "Compares the hosts.",
        other_host,
    ),
    Assumption(
        "without-key",
        "The video's host needs no API key.",
        "assumed",
        "Lost, until the package changes: the download gets 401 or 403. The task id is kept.",
        _DOWNLOAD,
        without_key,
    ),
    Assumption(
        "redirects",
        "The download has at most 3 redirects.",
        "assumed",
        "Lost, until the package changes: the download is refused. The task id is kept.",
        _DOWNLOAD,
        redirects,
    ),
    Assumption(
        "length",
        "The video's host sends the `Content-Length`.",
        "assumed",
        "Nothing, for most files: without it only the structure of the mp4 shows that it is whole.",
        _DOWNLOAD,
        length,
    ),
    Assumption(
        "etag",
        "The video's host sends a strong `ETag`.",
        "assumed",
        "Delayed: without it or a `Last-Modified`, a broken download starts from the beginning.",
        _DOWNLOAD,
        etag,
    ),
    Assumption(
        "ranges",
        "The video's host answers a `Range` with `If-Range` with that part.",
        "assumed",
        "Delayed: a broken download starts from the beginning.",
        "Downloads 1,000 bytes again.",
        ranges,
    ),
    Assumption(
        "whole",
        "The video is a whole mp4: its boxes join up to the last byte, and its index points into the file.",
        "assumed",
        "Lost, until the package changes: the save is refused. The task id is kept.",
        "Checks the download as the package does.",
        whole,
    ),
    Assumption(
        "fits-the-request",
        "The video has the requested duration, within 0.75 s, and the requested ratio, within 8%.",
        "assumed",
        "Nothing: the video is saved, and its page in the Prefect UI shows the difference.",
        "Compares the download with the request.",
        fits_the_request,
    ),
    Assumption(
        "url-lifetime",
        "`video_url` is valid for at least an hour; elsewhere, about 24 hours.",
        "other hosts",
        "Delayed: the package asks Loova for a fresh URL, once.",
        "Looks for an end in the URL's query.",
        url_lifetime,
    ),
    Assumption(
        "after-a-day",
        "A day later, a poll still shows the task, with a URL that works.",
        "assumed",
        "Lost: a video that was not saved within that time.",
        "Runs again, at least a day after the purchase. It costs nothing.",
        after_a_day,
    ),
)
"""In the order of the report."""
