"""Assumptions about the API as such: transport, login, errors, credits. All checks are free."""

from __future__ import annotations

from prefect_loova._api.responses import parse_submit, parse_task
from prefect_loova.errors import LoovaError, RejectedError, TaskNotFoundError
from tests.live.model import Assumption, Exchange, NotChecked, Refuted, Seen

WRONG_KEY_READS = ("credits-wrong-key", "poll-wrong-key")


def base_url(seen: Seen) -> str:
    one = seen.answer("credits")
    if one.failed:
        raise Refuted(f"{seen.base_url}/v1/credits: {one.says}")
    return f"{seen.base_url}/v1/credits answers with code 200"


def envelope(seen: Seen) -> str:
    for one in seen.all:
        if not _is_envelope(one.json):
            raise Refuted(f"{one.name}: HTTP {one.http_status} with another body ({one.headers.get('content-type')})")
    return f"{len(seen.all)} answers have these four fields"


def _is_envelope(value: object) -> bool:
    return (
        isinstance(value, dict)
        and {"code", "trace_id", "message", "data"} <= value.keys()
        and type(value["code"]) is int
        and isinstance(value["message"], str | None)
        and isinstance(value["data"], dict | None)
    )


def trace_id(seen: Seen) -> str:
    without = [one.name for one in seen.all if not one.response.trace_id]
    if without:
        raise Refuted(f"no trace_id in the answer to {', '.join(without)}")
    return f"{len(seen.all)} answers have one"


def login_failure(seen: Seen) -> str:
    answers = [seen.answer(name) for name in WRONG_KEY_READS]
    for one in answers:
        if one.response.code != 401 or one.response.message != "Authentication failed" or one.response.holds_data:
            raise Refuted(f"{one.name}: {one.says}")
    return ", ".join(sorted({one.says for one in answers}))


def login_failure_of_a_submit(seen: Seen) -> str:
    return read_as_refusal(seen.answer("submit-wrong-key"))


def read_as_refusal(one: Exchange) -> str:
    """Check that the client reads the answer to a submit as a refusal."""
    try:
        parse_submit(one.response)
    except RejectedError as error:
        return f"{one.says}: read as {type(error).__name__}"
    except LoovaError as error:
        raise Refuted(f"{one.name}: {one.says}: read as {type(error).__name__}") from None
    raise Refuted(f"{one.name}: {one.says}: read as a purchase")


def error_status(seen: Seen) -> str:
    failures = [one for one in seen.all if one.failed]
    if not failures:
        raise NotChecked("no request failed")
    other = [one for one in failures if one.http_status != 200 and not 400 <= one.http_status < 500]
    if other:
        raise Refuted(f"{other[0].name}: {other[0].says}")
    return "HTTP " + ", ".join(sorted({str(one.http_status) for one in failures}))


def no_redirect(seen: Seen) -> str:
    redirects = [one.name for one in seen.all if 300 <= one.http_status < 400]
    if redirects:
        raise Refuted(f"a redirect as the answer to {', '.join(redirects)}")
    return f"{len(seen.all)} answers without one"


def no_list(seen: Seen) -> str:
    one = seen.answer_to_the_key("poll-without-task-id")
    if not one.failed and isinstance(one.json, dict) and one.json.get("data"):
        raise Refuted(f"{one.says}, and data: a lost submit may be looked up there")
    return one.says


def credits_shape(seen: Seen) -> str:
    one = seen.answer("credits")
    for name in ("api_available_credits", "api_total_credits"):
        if type(one.data.get(name)) not in (int, float):
            raise Refuted(f"{name} is not a number: {one.says}")
    if one.data["api_available_credits"] > one.data["api_total_credits"]:
        raise Refuted("more credits are available than in all")
    return "both are numbers, and no more are available than in all"


def unknown_task(seen: Seen) -> str:
    one = seen.answer_to_the_key("poll-unknown-task")
    try:
        task = parse_task(one.response, "x")
    except LoovaError as error:
        return f"{one.says}: read as {type(error).__name__}"
    raise Refuted(f"{one.says}: read as a task that is {task.state}")


def unknown_task_code(seen: Seen) -> str:
    one = seen.answer_to_the_key("poll-unknown-task")
    try:
        parse_task(one.response, "x")
    except TaskNotFoundError:
        return one.says
    except LoovaError:
        pass
    raise Refuted(one.says)


API = (
    Assumption(
        "base-url",
        "The API is at `https://api.loova.ai/api/v1`. Loova's pages also print `https://api.loova.ai/v1`.",
        "documented",
        "Refused: every request fails, and nothing is bought. Set `base_url`.",
        "Reads the credits.",
        base_url,
    ),
    Assumption(
        "envelope",
        "Every answer, also a failure, is JSON with `code` (integer), `trace_id`, `message` and `data`.",
        "documented",
        "In doubt: a submit with another answer below 300 or above 499 waits for a person. Reads fail with an error.",
        "Looks at every answer of the run.",
        envelope,
    ),
    Assumption(
        "trace-id",
        "Every answer has a `trace_id`.",
        "documented",
        "Loova's support cannot find the request. Nothing else depends on it.",
        "Looks at every answer of the run.",
        trace_id,
    ),
    Assumption(
        "login-failure",
        'A wrong key is answered with code 401, "Authentication failed" and no data.',
        "documented",
        "Delayed: with another code than 401 or 403, a run with a wrong key polls until its wait ends.",
        "Reads the credits and a task with a wrong key.",
        login_failure,
    ),
    Assumption(
        "login-failure-of-a-submit",
        "The package reads the answer to a submit with a wrong key as a refusal.",
        "assumed",
        "In doubt: a job with a wrong key waits for a person.",
        "Submits a blank prompt with a wrong key, so no account can be charged.",
        login_failure_of_a_submit,
    ),
    Assumption(
        "error-status",
        "A failure has HTTP status 200 or 4xx.",
        "assumed",
        "In doubt: a refused submit with another status waits for a person.",
        "Looks at every failure of the run.",
        error_status,
    ),
    Assumption(
        "no-redirect",
        "The API answers without a redirect.",
        "assumed",
        "Refused: a redirect is never followed. Set `base_url` to the API's real address.",
        "Looks at every answer of the run.",
        no_redirect,
    ),
    Assumption(
        "failure-with-code-200",
        "A failure may have code 200, with the reason in `message` and without the data that was asked for.",
        "documented",
        "Nothing: the package reads both forms.",
        "Cannot be checked: no request is known that fails in this way.",
    ),
    Assumption(
        "business-codes",
        "Any code other than 200 is a failure. Codes such as 10001 refuse a submit if they have a message and no data.",
        "documented",
        "Paid twice: if such an answer was a purchase, the next run buys again.",
        "Cannot be checked: no request is known that gets such a code.",
    ),
    Assumption(
        "server-errors",
        "A submit that is answered with a 5xx, or not at all, may be billed.",
        "assumed",
        "In doubt without need: a person decides about a job that cost nothing.",
        "Cannot be checked: a server error cannot be provoked.",
    ),
    Assumption(
        "no-idempotency-key",
        "Loova has no idempotency key: the same submit sent twice is billed twice.",
        "assumed",
        "Nothing: the package sends a submit once. A repeat would be safe, and it does not use that.",
        "Cannot be checked: it takes two paid submits.",
    ),
    Assumption(
        "no-list",
        "No request lists tasks, so a lost task id cannot be looked up.",
        "assumed",
        "In doubt without need: the list would show whether the submit was billed.",
        "Asks for tasks without a task id.",
        no_list,
    ),
    Assumption(
        "no-cancel",
        "A task cannot be cancelled, and its credits stay spent.",
        "assumed",
        "Credits are lost that a cancel would return.",
        "Cannot be checked: no cancel request is documented, and the suite guesses none.",
    ),
    Assumption(
        "dashboard",
        "The dashboard shows the usage of credits around a time, and Loova's support can name a task by its time.",
        "assumed",
        "In doubt for longer: only the balance tells whether the submit was billed.",
        "Cannot be checked by a program: look in the dashboard after a paid run.",
    ),
    Assumption(
        "credits-shape",
        "The credits are two numbers, `api_available_credits` and `api_total_credits`.",
        "documented",
        "Refused: a batch that checks the balance does not start. Nothing is bought.",
        "Reads the credits.",
        credits_shape,
    ),
    Assumption(
        "api-credits-only",
        "Only API credits pay for submits, and the credits endpoint counts only these.",
        "documented",
        "Wrong estimate: a batch starts without enough credits, and Loova refuses the rest.",
        "Cannot be checked: the API does not show the other credits.",
    ),
    Assumption(
        "unknown-task",
        "A poll of an unknown task is an error, and not a task that failed.",
        "documented",
        "Paid twice: with `max_paid_attempts` above 1, a forgotten task is bought again.",
        "Polls a task that does not exist.",
        unknown_task,
    ),
    Assumption(
        "unknown-task-code",
        "The error has HTTP status or code 404 or 410.",
        "assumed",
        "Delayed: the job stays open, and each collector reports an unexpected response.",
        "Polls a task that does not exist.",
        unknown_task_code,
    ),
    Assumption(
        "other-key",
        "The key of another account cannot see a task.",
        "assumed",
        "Nothing: the package asks only for its own tasks.",
        "Cannot be checked: it takes a second account.",
    ),
)
"""In the order of the report."""
