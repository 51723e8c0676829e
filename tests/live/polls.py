"""Assumptions about polls."""

from __future__ import annotations

from datetime import datetime

from prefect_loova._api.responses import FAILED, SUCCEEDED, parse_task
from tests.live.model import Assumption, NotChecked, Refuted, Seen, host_of
from tests.live.submits import is_time

KNOWN = SUCCEEDED | FAILED | {"running"}
_LIVE = "Polls the bought task until it ends."


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
    return f"a URL on {host_of(task.video_url)}"


POLLS = (
    Assumption(
        "poll-shape",
        "A poll shows the task that was asked for: `task_id`, `status`, `model`, `created_at`, `updated_at`, "
        "`credits_cost` and `result`.",
        "documented",
        "Delayed: without `status` and `result` the poll counts as failed. The job stays open.",
        _LIVE,
        poll_shape,
    ),
    Assumption(
        "no-result-while-running",
        "`result` is null while the task runs.",
        "documented",
        "Nothing, unless the result has a final status or a URL: then the package saves the video too early, and an "
        "incomplete one is refused.",
        _LIVE,
        no_result_while_running,
    ),
    Assumption(
        "states",
        "The words for a state are running, succeeded, success, completed, failed, error, canceled and cancelled.",
        "seen in clients",
        "Delayed: an unknown word counts as running, and the wait ends with a timeout. The job stays open.",
        _LIVE,
        states,
    ),
    Assumption(
        "result-decides",
        "When the task has ended, `result` says how, also where `status` says otherwise.",
        "documented",
        "Delayed: the task counts as running, and the wait ends with a timeout. The job stays open.",
        _LIVE,
        result_decides,
    ),
    Assumption(
        "ends-in-time",
        "A generation ends within 3 hours.",
        "documented",
        "Delayed: the wait ends with a timeout. The job stays open, and the next run goes on.",
        _LIVE,
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
        "Nothing: until the task ends, a budget counts the larger of price and cost, and then the last cost.",
        _LIVE,
        cost_stays,
    ),
    Assumption(
        "times",
        "`created_at`, `updated_at` and `finished_at` are ISO 8601 times with a zone.",
        "documented",
        "Nothing: the times are only shown, and compared when a person adopts a task.",
        _LIVE,
        times,
    ),
    Assumption(
        "polls-are-welcome",
        "Polls that begin 20 s apart, and get rarer, are not refused. Loova's guide suggests one a minute.",
        "assumed",
        "Delayed: a refused poll is repeated later. Set `poll_seconds`.",
        _LIVE,
        polls_are_welcome,
    ),
    Assumption(
        "has-url",
        "A task that succeeded has a `video_url`.",
        "documented",
        "Delayed: an error names the task id, and the job stays open until Loova reports a URL.",
        _LIVE,
        has_url,
    ),
)
"""In the order of the report."""
