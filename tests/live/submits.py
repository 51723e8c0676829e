"""Assumptions about the submit: what Loova refuses, the answer to a purchase, the price, the limit.

Loova may accept a request that it should refuse, and bill it. So every submit with the real key has a price here, and
is sent only within the allowance (`tests.live.spending`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from prefect_loova._api.responses import parse_submit
from prefect_loova.errors import (
    AuthenticationError,
    InsufficientCreditsError,
    LoovaError,
    RejectedError,
    TooManyRunningTasksError,
)
from prefect_loova.models.prices import MODELS
from tests.live.api import read_as_refusal
from tests.live.model import Assumption, Exchange, NotChecked, Refuted, Seen

FAST = MODELS["seedance_2_0_fast"].price(1, with_video=False) or 0.0
PRICE = 4 * FAST
"""The price of the paid video by the table, in credits."""

BODY: dict[str, Any] = {
    "model": "seedance_2_0_fast",
    "prompt": "A futuristic city at sunset",
    "function_mode": "omni_reference",
    "ratio": "16:9",
    "duration": 4,
    "image_urls": [],
    "audio_urls": [],
    "video_urls": [],
}


@dataclass(frozen=True)
class Submit:
    """One submit: its name, the request, and what it costs by the table if Loova accepts it, in credits."""

    name: str
    body: dict[str, Any]
    price: float = PRICE


def _images(count: int) -> list[str]:
    return [f"https://example.com/{number}.png" for number in range(count)]


OTHER_REFUSALS = (AuthenticationError, InsufficientCreditsError, TooManyRunningTasksError)
"""Refusals that say nothing about the request."""

VIDEO = Submit("submit", BODY)
INVALID = (
    Submit("refuses-blank-prompt", BODY | {"prompt": " "}),
    Submit("refuses-unknown-ratio", BODY | {"ratio": "5:4"}),
    Submit("refuses-unknown-mode", BODY | {"function_mode": "prefect_loova_no_such_mode"}),
    Submit("refuses-ten-images", BODY | {"image_urls": _images(10)}),
    Submit("refuses-audio-alone", BODY | {"audio_urls": ["https://example.com/1.mp3"]}),
    Submit("refuses-three-frames", BODY | {"function_mode": "first_last_frames", "image_urls": _images(3)}),
    Submit("refuses-frames-without-images", BODY | {"function_mode": "first_last_frames"}),
    # If Loova takes the default instead of a wrong value: 5 s, or the dearer model.
    Submit("refuses-duration-3", BODY | {"duration": 3}, 5 * FAST),
    Submit(
        "refuses-unknown-model",
        BODY | {"model": "prefect_loova_no_such_model"},
        MODELS["seedance_2_0"].price(4, with_video=False) or 0.0,
    ),
    Submit("refuses-duration-16", BODY | {"duration": 16}, 16 * FAST),
)
"""Requests that Loova should refuse, the cheapest first."""


def refuses(name: str, seen: Seen) -> str:
    one = seen.answer(name)
    if one.response.task_id:
        raise Refuted(f"Loova accepted it for {one.data.get('credits_cost')} credits")
    try:
        parse_submit(one.response)
    except OTHER_REFUSALS as error:
        raise NotChecked(f"refused for another reason: {one.says} ({type(error).__name__})") from None
    except RejectedError:
        return one.says
    except LoovaError:
        pass
    raise NotChecked(f"the answer does not say whether it was refused: {one.says}")


def _invalid(seen: Seen, *, accepted: bool) -> list[Exchange]:
    answers = [seen.exchanges[name] for name in _NAMES if name in seen.exchanges]
    return [one for one in answers if (one.response.task_id is not None) == accepted]


def refusals_are_read(seen: Seen) -> str:
    refused = _invalid(seen, accepted=False)
    if not refused:
        raise NotChecked("Loova refused nothing")
    for one in refused:
        read_as_refusal(one)
    codes = sorted({f"HTTP {one.http_status} with code {one.response.code}" for one in refused})
    return f"{len(refused)} refusals: {', '.join(codes)}"


def refusals_are_free(seen: Seen) -> str:
    before, after = (_available(seen, name) for name in ("credits-before", "credits-after-refusals"))
    if not _invalid(seen, accepted=False):
        raise NotChecked("Loova refused nothing")
    charged = sum(_cost(one) for one in _invalid(seen, accepted=True))
    if abs(before - after - charged) > 0.001:
        raise Refuted(f"the balance fell by {before - after:g} credits; the answers account for {charged:g}")
    return "the balance is the same"


def _cost(one: Exchange) -> float:
    cost = one.data.get("credits_cost")
    if type(cost) not in (int, float):
        raise NotChecked("credits_cost is not a number")
    return float(cost)  # type: ignore[arg-type]


def submit_shape(seen: Seen) -> str:
    one = seen.bought
    data = one.data
    problems = [name for name in ("task_id", "status", "created_at") if not isinstance(data.get(name), str)]
    if type(data.get("credits_cost")) not in (int, float):
        problems.append("credits_cost")
    if one.failed or problems or not is_time(data.get("created_at")) or data.get("status") != "running":
        raise Refuted(f"{one.says}; other than documented: {', '.join(problems) or 'status or created_at'}")
    return "task_id, status running, created_at, credits_cost"


def is_time(value: object) -> bool:
    """Return whether a value is an ISO 8601 time with a zone."""
    try:
        return isinstance(value, str) and datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        return False


def task_id_length(seen: Seen) -> str:
    length = len(str(seen.bought.data.get("task_id")))
    if length > 100:
        raise Refuted(f"it has {length} characters")
    return f"it has {length} characters"


def answer_time(seen: Seen) -> str:
    seconds = seen.bought.seconds
    if seconds > 30:
        raise Refuted(f"the answer took {seconds:.1f} s")
    return f"the answer took {seconds:.1f} s"


def price(seen: Seen) -> str:
    seen.answer("submit")
    cost = _cost(seen.bought)
    if cost != PRICE:
        raise Refuted(f"Loova charged {cost:g} credits, and the table says {PRICE:g}")
    return f"Loova charged {cost:g} credits"


def balance(seen: Seen) -> str:
    cost = _cost(seen.bought)
    before, middle, after = (_available(seen, f"credits-{when}") for when in ("before", "after-submit", "at-the-end"))
    numbers = (
        f"{before - middle:g} credits less after the submit, {before - after:g} less at the end; charged: {cost:g}"
    )
    if abs(before - after - cost) > 0.001:
        raise Refuted(numbers)
    return numbers


def _available(seen: Seen, name: str) -> float:
    value = seen.answer(name).data.get("api_available_credits")
    if not isinstance(value, int | float):
        raise Refuted(f"{name}: {seen.answer(name).says}, without api_available_credits")
    return float(value)


_NAMES = tuple(one.name for one in INVALID)
_PAID_FOR_NOTHING = "Credits are spent on a request that the package should have refused before the submit."
_LIVE = "Submits it, within the allowance."


def _refusal(name: str, claim: str, source: Any = "documented", if_wrong: str = "", live: str = _LIVE) -> Assumption:
    return Assumption(
        name,
        f"Loova refuses {claim}.",
        source,
        if_wrong
        or "Nothing: the package refuses it before the submit, so a request that Loova would take is not made.",
        live,
        partial(refuses, name),
    )


SUBMITS = (
    _refusal("refuses-blank-prompt", "a blank prompt"),
    _refusal("refuses-unknown-ratio", "a ratio that it does not list"),
    _refusal("refuses-unknown-mode", "a `function_mode` that it does not list"),
    _refusal("refuses-ten-images", "more than 9 images"),
    _refusal("refuses-audio-alone", "audio without an image or a video"),
    _refusal("refuses-three-frames", "more than 2 images with `first_last_frames`"),
    _refusal("refuses-frames-without-images", "`first_last_frames` without an image", "seen in clients"),
    _refusal("refuses-duration-3", "less than 4 s", live="Submits 3 s; needs an allowance of 50 credits."),
    _refusal(
        "refuses-unknown-model", "a model that it does not list", live="Submits it; needs an allowance of 60 credits."
    ),
    _refusal("refuses-duration-16", "more than 15 s", live="Submits 16 s; needs an allowance of 160 credits."),
    Assumption(
        "refusals-are-read",
        "The package reads the refusal of an invalid request as a refusal.",
        "assumed",
        "In doubt: a refused request waits for a person.",
        "Reads the answers to the invalid requests as the client does.",
        refusals_are_read,
    ),
    Assumption(
        "refusals-are-free",
        "A refused submit is not billed.",
        "assumed",
        "Paid twice: the next run submits the request again.",
        "Compares the balance before and after the invalid requests.",
        refusals_are_free,
    ),
    Assumption(
        "submit-shape",
        "The answer to a submit has `task_id`, `status` (`running`), `created_at` (ISO 8601) and `credits_cost`.",
        "documented",
        "In doubt: without a task id in `data.task_id`, the job waits for a person. The other fields are only shown.",
        "Buys the video.",
        submit_shape,
    ),
    Assumption(
        "task-id-length",
        "A task id has at most 100 characters. The package keeps up to 1,000.",
        "assumed",
        "In doubt, above 1,000: such an id cannot be kept, and the job waits for a person.",
        "Buys the video.",
        task_id_length,
    ),
    Assumption(
        "answer-time",
        "Loova answers a submit within 30 s, half of what the package waits.",
        "assumed",
        "In doubt: after `submit_timeout` (60 s) the job waits for a person. Set a longer one.",
        "Buys the video, and takes the time.",
        answer_time,
    ),
    Assumption(
        "price",
        "A second with `seedance_2_0_fast` costs 10 credits, as in the table. Loova's quickstart charges 12 for 5 s.",
        "documented",
        "Wrong estimate: prices and budgets before a submit are wrong. After it, the charge that Loova names counts.",
        "Buys the video, and compares `credits_cost` with the table.",
        price,
    ),
    Assumption(
        "balance",
        "The balance falls by `credits_cost`.",
        "assumed",
        "Wrong estimate: the balance says too little or too much about a job in doubt and about a batch.",
        "Reads the credits before, after the submit, and at the end. Other jobs of the account disturb it.",
        balance,
    ),
    Assumption(
        "content-words",
        "A refusal of content has one of [the words](answers.md#refused-content) that other hosts of the model use.",
        "other hosts",
        "Paid twice: with `max_paid_attempts` above 1, a video that Loova refused after the submit is bought again.",
        "Cannot be checked: the suite sends nothing that Loova forbids.",
    ),
    Assumption(
        "refunds",
        "Loova bills a task that fails, and returns nothing.",
        "assumed",
        "Wrong estimate: budgets count credits that Loova returned.",
        "Cannot be checked: a task that fails cannot be provoked.",
    ),
    Assumption(
        "running-limit",
        "At most 6 tasks of a user run at a time.",
        "documented",
        "Delayed: Loova refuses more submits than expected, or fewer run than could.",
        "Cannot be checked within the allowance: it takes 7 paid videos.",
    ),
    Assumption(
        "limit-message",
        "Above the limit Loova refuses with 429, or with a message about a limit of running tasks or requests.",
        "assumed",
        "In doubt, or refused: the package does not see that it only has to wait.",
        "Cannot be checked within the allowance: it takes 7 paid videos.",
    ),
    Assumption(
        "credits-message",
        "Without enough credits Loova refuses with 402, or with a message about missing credits.",
        "assumed",
        "Refused with a general error. A batch goes on submitting.",
        "Cannot be checked with this account: it takes one with fewer credits than a video costs.",
    ),
    Assumption(
        "media-by-url",
        "Loova downloads reference media soon after the submit, from any public URL, without credentials.",
        "assumed",
        "Billed and failed: a presigned URL is valid for a day, or twice the wait. Set `link_seconds`.",
        "Cannot be checked within the allowance: it takes another paid video.",
    ),
    Assumption(
        "multipart-form",
        "Local files arrive as a multipart form: list fields as repeated keys, files in parts named `files`, and the "
        "mode as `functionMode` too.",
        "seen in clients",
        "Refused, or paid for without the files. The package sends URLs where it can.",
        "Cannot be checked within the allowance: it takes another paid video.",
    ),
    Assumption(
        "urls-win",
        "Local files of a kind for which URLs are given are ignored.",
        "seen in clients",
        "Nothing: the package refuses files beside URLs of one kind, which Loova would then use.",
        "Cannot be checked within the allowance: it takes another paid video.",
    ),
    Assumption(
        "media-limits",
        "Reference videos and audio play 1.8 to 15.1 s; images have sides of at least 300 px and an aspect of 0.4 "
        "to 2.5; at most 12 references in all.",
        "other hosts",
        "Billed and failed, or billed and not used. The package warns; with `limits: refuse` it refuses.",
        "Cannot be checked within the allowance: it takes a paid video for each limit.",
    ),
    Assumption(
        "media-formats",
        "Loova takes the formats that [all hosts of the model take](media.md#what-other-hosts-refuse), and no others.",
        "other hosts",
        "Billed and failed, or billed and not used. Or the package refuses a medium that Loova would take.",
        "Cannot be checked within the allowance: it takes a paid video for each format.",
    ),
    Assumption(
        "prompt-references",
        "`@image1`, `@video1` and `@audio1` in a prompt mean the first medium of that kind.",
        "assumed",
        "A paid video that uses another medium. The package only warns about a number without a medium.",
        "Cannot be checked by a program: a person has to look at the video.",
    ),
)
"""In the order of the report."""
