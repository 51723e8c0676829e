"""Assumptions about polls, and about the video's URL and host."""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import parse_qsl, urlsplit

from prefect_loova._api.responses import FAILED, SUCCEEDED, parse_task
from prefect_loova._urls import is_private_host
from prefect_loova.models.attempts import StoredVideo
from prefect_loova.models.contradictions import differences
from tests.live.model import Assumption, NotChecked, Refuted, Seen, Video
from tests.live.submits import BODY, is_time

DAY = 86_400
KNOWN = SUCCEEDED | FAILED | {"running"}
_LATEST = 4e9
_SPANS = ("x-amz-expires", "x-goog-expires", "x-tos-expires", "x-oss-expires")
_ENDS = ("expires", "expire", "exp", "e", "se", "auth_key")


def poll_shape(seen: Seen) -> str:
    one, task_id = seen.first_poll, seen.bought.response.task_id
    missing = {"task_id", "status", "model", "created_at", "updated_at", "credits_cost", "result"} - one.data.keys()
    if one.failed or missing:
        raise Refuted(f"{one.says}; missing: {', '.join(sorted(missing)) or 'nothing'}")
    if one.response.task_id != task_id:
        raise Refuted("the answer names another task")
    return "all documented fields, and the task that was asked for"


def no_result_while_running(seen: Seen) -> str:
    task_id = seen.first_poll.response.task_id or ""
    running = [one for one in seen.polls if not one.failed and parse_task(one.response, task_id).state == "running"]
    if not running:
        raise NotChecked("the task had ended when it was first polled")
    early = [one for one in running if one.data.get("result") is not None]
    if early:
        raise Refuted(f"a running task has a result with {', '.join(sorted(early[0].result)) or 'another type'}")
    return f"null in {len(running)} polls"


def states(seen: Seen) -> str:
    said = {str(word).lower() for one in [seen.first_poll, *seen.polls] for word in _words(one.data, one.result)}
    if said - KNOWN:
        raise Refuted(f"also {', '.join(sorted(said - KNOWN))}")
    return ", ".join(sorted(said))


def _words(*objects: dict[str, object]) -> list[object]:
    return [one["status"] for one in objects if one.get("status") is not None]


def result_decides(seen: Seen) -> str:
    one = seen.finished
    beside, inside = one.data.get("status"), one.result.get("status")
    if not one.result:
        raise Refuted(f"status {beside}, and no result")
    word = str(inside).lower()
    if inside is not None and word not in SUCCEEDED | FAILED:
        raise Refuted(f"status {beside}, and in the result {inside}")
    return f"status {beside}, in the result {inside}"


def ends_in_time(seen: Seen) -> str:
    one = seen.finished
    begin, end = one.data.get("created_at"), one.result.get("finished_at")
    if is_time(begin) and is_time(end):
        seconds = (datetime.fromisoformat(str(end)) - datetime.fromisoformat(str(begin))).total_seconds()
    else:
        seconds = one.at - seen.bought.at
    if seconds > 10_800:
        raise Refuted(f"it took {seconds / 60:.0f} minutes")
    return f"it took {seconds / 60:.1f} minutes"


def cost_stays(seen: Seen) -> str:
    first, last = seen.bought.data.get("credits_cost"), seen.finished.data.get("credits_cost")
    if first != last:
        raise Refuted(f"{first} in the answer to the submit, {last} in the last poll")
    return f"{first} in both"


def times(seen: Seen) -> str:
    one = seen.finished
    values = {name: one.data.get(name) for name in ("created_at", "updated_at")}
    values["finished_at"] = one.result.get("finished_at")
    wrong = [name for name, value in values.items() if not is_time(value)]
    if wrong:
        raise Refuted(f"not a time with a zone: {', '.join(wrong)}")
    return "three times with their zones"


def polls_are_welcome(seen: Seen) -> str:
    first, count = seen.first_poll, len(seen.polls)
    refused = [one for one in seen.polls if one.failed]
    if refused:
        raise Refuted(f"{len(refused)} of {count} polls failed, one with {refused[0].says}")
    return f"{count} polls in {seen.polls[-1].at - first.at:.0f} s, and none failed"


def has_url(seen: Seen) -> str:
    one = seen.finished
    task = parse_task(one.response, one.response.task_id or "")
    if task.state == "failed":
        raise NotChecked(f"the task failed: {task.error_message or 'no reason'}")
    if task.video_url is None:
        raise Refuted(f"status {task.status}, without video_url")
    return f"a URL on {_host(task.video_url)}"


def _host(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def url_is_public(seen: Seen) -> str:
    hosts = [_host(url) for url in seen.download.urls]
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
    return _host(seen.download.urls[0])


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


_IN_THE_RUN = "Polls the bought task until it ends."
_DOWNLOAD = "Downloads the video, without the key."

POLLS = (
    Assumption(
        "poll-shape",
        "A poll shows the task that was asked for: `task_id`, `status`, `model`, `created_at`, `updated_at`, "
        "`credits_cost` and `result`.",
        "documented",
        "Delayed: without `status` and `result` the poll counts as failed. The job stays open.",
        _IN_THE_RUN,
        poll_shape,
    ),
    Assumption(
        "no-result-while-running",
        "`result` is null while the task runs.",
        "documented",
        "Nothing, unless the result has a final status or a URL: then the package saves the video too early, and an "
        "incomplete one is refused.",
        _IN_THE_RUN,
        no_result_while_running,
    ),
    Assumption(
        "states",
        "The words for a state are running, succeeded, success, completed, failed, error, canceled and cancelled.",
        "seen in clients",
        "Delayed: an unknown word counts as running, and the wait ends with a timeout. The job stays open.",
        _IN_THE_RUN,
        states,
    ),
    Assumption(
        "result-decides",
        "When the task has ended, `result` says how, also where `status` says otherwise.",
        "documented",
        "Delayed: the task counts as running, and the wait ends with a timeout. The job stays open.",
        _IN_THE_RUN,
        result_decides,
    ),
    Assumption(
        "ends-in-time",
        "A generation ends within 3 hours.",
        "documented",
        "Delayed: the wait ends with a timeout. The job stays open, and the next run goes on.",
        _IN_THE_RUN,
        ends_in_time,
    ),
    Assumption(
        "failed-is-final",
        "A task that failed never succeeds later.",
        "assumed",
        "Paid twice: with `max_paid_attempts` above 1 the video is bought again.",
        "Cannot be checked: a task that fails cannot be provoked.",
    ),
    Assumption(
        "cost-stays",
        "`credits_cost` is the same in the answer to the submit and in the polls.",
        "assumed",
        "Wrong estimate: a budget counts what the first answer said.",
        _IN_THE_RUN,
        cost_stays,
    ),
    Assumption(
        "times",
        "`created_at`, `updated_at` and `finished_at` are ISO 8601 times with a zone.",
        "documented",
        "Nothing: the times are only shown, and compared when a person adopts a task.",
        _IN_THE_RUN,
        times,
    ),
    Assumption(
        "polls-are-welcome",
        "Polls that begin 20 s apart, and get rarer, are not refused. Loova's guide suggests one a minute.",
        "assumed",
        "Delayed: a refused poll is repeated later. Set `poll_seconds`.",
        _IN_THE_RUN,
        polls_are_welcome,
    ),
    Assumption(
        "has-url",
        "A task that succeeded has a `video_url`.",
        "documented",
        "Lost, until Loova names a URL: an error tells the task id, and the job stays open.",
        _IN_THE_RUN,
        has_url,
    ),
)
"""In the order of the report."""

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
        "The video has the duration that was asked for, up to 0.75 s, and the ratio, up to 8%.",
        "assumed",
        "Nothing: the video is saved, and its page in the Prefect UI tells the difference.",
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
