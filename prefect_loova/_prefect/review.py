"""Suspend a flow run until a person has chosen among takes, in a form in the Prefect UI."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

from prefect.flow_runs import asuspend_flow_run
from prefect.input import RunInput
from prefect.logging import get_run_logger
from pydantic import BaseModel, Field, create_model

from prefect_loova._prefect.pages import escaped
from prefect_loova._prefect.run import obstacle_to_suspending
from prefect_loova.errors import InvalidRequestError, counted, redact
from prefect_loova.models.reviews import TakeDecision, TakeGroup, retake_decision

MOST_GROUPS = 20
"""The most requests in one form. A further form asks about the others."""

_MAX_QUESTIONS = 20
_RETAKE, _DROP = "re-take", "drop"
_NO_PICTURES: Mapping[str, str] = MappingProxyType({})


class TakeChoice(BaseModel):
    """What a person decides about one request. The choices are in a subclass, because each request has its own."""

    choice: str = Field(title="Decision")  # without a default: an answer in haste would pay for the first take
    prompt: str = Field("", title="Re-take: another prompt", json_schema_extra={"format": "textarea"})
    duration: int = Field(0, ge=0, title="Re-take: seconds (0: the same)")
    take: int = Field(0, ge=0, title="Re-take: number of the take (0: the next one)")


class ReviewForm(RunInput):
    """The decisions about the takes of several requests."""

    who: str = Field(min_length=1, title="Who decides (the review stores your name)")
    why: str = Field("", title="Why (the review stores it)")


async def ask_for_choices(
    groups: Sequence[TakeGroup], seconds: float, page: str | None = None, pictures: Mapping[str, str] = _NO_PICTURES
) -> dict[str, TakeDecision] | None:
    """Suspend the flow run until a person has chosen among the takes of the first requests.

    The key of the form depends on the takes, so the answer about other takes is never used for these.

    Args:
        groups: The requests that wait for a decision.
        seconds: How long the person may take. Prefect fails the run after that; everything that was made is kept.
        page: The URL of the page with all takes.
        pictures: The pictures of the takes as markdown, by group.

    Returns:
        The decisions by group, or None if Prefect cannot suspend this run; the log says why.
    """
    logger = get_run_logger()
    obstacle = obstacle_to_suspending()
    if obstacle:
        logger.info("the run cannot be suspended for a review (%s), so it ends before the review", obstacle)
        return None
    asked, problem = list(groups[:MOST_GROUPS]), ""
    intro = _description(asked, len(groups), page)
    shown = "\n\n".join(_shown(number, group, pictures) for number, group in enumerate(asked, 1))
    for question in range(_MAX_QUESTIONS):
        text = f"**{escaped(problem)}**\n\n{intro}" if problem else intro
        form = _form_of(asked, text, pictures).with_initial_data(description=f"{text}\n\n{shown}")
        key = f"loova-review-{_digest(asked)}-{question}"
        answer = await asuspend_flow_run(wait_for_input=form, timeout=max(int(seconds), 1), key=key)
        try:
            return _decisions(asked, answer)
        except InvalidRequestError as error:
            problem = error.message
            logger.warning("the decisions cannot be used: %s", problem)
    return None


def _form_of(groups: Sequence[TakeGroup], text: str, pictures: Mapping[str, str]) -> type[ReviewForm]:
    """Return the form: one group of fields for each request, with its takes as choices."""
    who = ReviewForm.model_fields["who"]
    fields: dict[str, Any] = {"who": (str, Field(min_length=1, title=who.title, **_described_in_v1(text)))}
    for number, group in enumerate(groups, 1):
        names = (*_take_names(group), _RETAKE, _DROP)
        choice: dict[str, Any] = {"choice": (Literal[names], Field(title="Decision"))}
        of_this = create_model(f"Request{number}", __base__=TakeChoice, **choice)
        title = f"{number}. {redact(group.request.prompt, 120)}"
        fields[_field(number)] = (of_this, Field(title=title, **_described_in_v1(pictures.get(group.id, ""))))
    form: type[ReviewForm] = create_model("ReviewForm", __base__=ReviewForm, **fields)
    return form


def _described_in_v1(text: str) -> dict[str, Any]:
    """Return the options of a field with a description that only the first UI shows.

    A form that is higher than the window has no visible description there, but the descriptions of fields are markdown,
    in `allOf` too. The second UI always shows the form's description. It shows those of fields as plain text, and none
    in `allOf`. Both replace single line feeds by spaces; a carriage return ends a line of markdown as well.
    """

    def describe(schema: dict[str, Any]) -> None:
        described = {"description": text.replace("\n", "\r")}
        schema["allOf"] = [{"$ref": schema.pop("$ref")}, described] if "$ref" in schema else [described]

    return {"json_schema_extra": describe}


def _shown(number: int, group: TakeGroup, pictures: Mapping[str, str]) -> str:
    title = f"**{number}\\. {escaped(group.request.prompt, 160)}** {escaped(group.request.label)}".rstrip()
    return f"{title}, {counted(len(group.takes), 'take')}\n\n{pictures.get(group.id, '')}"


def _decisions(groups: Sequence[TakeGroup], answer: ReviewForm) -> dict[str, TakeDecision]:
    """Return the decisions by group.

    Raises:
        InvalidRequestError: Re-takes are not valid; the error lists all of them.
    """
    decisions, problems = {}, []
    for number, group in enumerate(groups, 1):
        choice: TakeChoice = getattr(answer, _field(number))
        try:
            decisions[group.id] = _decision(group, choice, answer)
        except InvalidRequestError as error:
            problems += [f"{number}. {line}" for line in error.message.splitlines()]
    if problems:
        raise InvalidRequestError("\n".join(problems))
    return decisions


def _decision(group: TakeGroup, choice: TakeChoice, answer: ReviewForm) -> TakeDecision:
    by: dict[str, Any] = {"who": answer.who, "why": answer.why}
    if choice.choice == _DROP:
        return TakeDecision(what="drop", **by)
    if choice.choice == _RETAKE:
        changes: dict[str, Any] = {
            "prompt": choice.prompt,
            "duration": choice.duration or None,
            "take": choice.take or None,
        }
        return retake_decision(group.request, group.reviewed_takes(), **by, **changes)
    take = _take_names(group)[choice.choice]
    chosen = group.takes[take]
    return TakeDecision(what="choose", key=chosen.shown.key, take=chosen.final.take, **by)


def _take_names(group: TakeGroup) -> Mapping[str, int]:
    """Return the index of each take by its name in the form."""
    names: dict[str, int] = {}
    for index, take in enumerate(group.takes):
        name = f"take {take.final.take}"
        names[f"{name} ({take.shown.key[:8]})" if name in names else name] = index
    return names


def _description(groups: Sequence[TakeGroup], all_of_them: int, page: str | None) -> str:
    takes = sum(len(group.takes) for group in groups)
    of_all = f" of {all_of_them:,}" if all_of_them > len(groups) else ""
    lines = [f"Choose among {counted(takes, 'take')} of {counted(len(groups), 'request')}{of_all}."]
    lines += [f"[Look at the takes]({page})"] if page else []
    lines += ["A re-take is another video, which is paid for, and you are asked again."]
    if groups[0].draft is None and not groups[0].are_drafts:
        lines += ["Choosing and dropping cost nothing."]
    else:
        lines += ["These are drafts: each chosen one is made again as you asked for it, and paid for."]
        lines += ["Dropping costs nothing."]
    return "\n\n".join(lines)


def _digest(groups: Sequence[TakeGroup]) -> str:
    takes = [f"{group.id} {' '.join(take.shown.key for take in group.takes)}" for group in groups]
    return hashlib.sha256("\n".join(takes).encode()).hexdigest()[:32]


def _field(number: int) -> str:
    return f"request_{number}"
