"""The takes of a request, and what a person or a quality gate decided about them. Values and rules, no I/O."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Literal, Self

from pydantic import Field, ValidationError

from prefect_loova.errors import InvalidRequestError
from prefect_loova.models.attempts import Stored
from prefect_loova.models.request import VideoRequest

FORMAT = 1
"""The format of a stored review. Reviews with a newer format are refused."""

Choice = Literal["choose", "retake", "drop"]
"""What a person decides about the takes of a request."""


@dataclass(frozen=True)
class Draft:
    """How the draft of a request differs from it.

    Attributes:
        model: The model of the draft; None for the same.
        duration: The seconds of the draft; None for the same.
    """

    model: str | None = None
    duration: int | None = None

    def of(self, request: VideoRequest) -> VideoRequest:
        """Return the draft of a request.

        Raises:
            InvalidRequestError: The request is not valid with the draft's model or duration.
        """
        changes = {"model": self.model or request.model, "duration": self.duration or request.duration}
        return changed(request, **changes)


class TakeDecision(Stored):
    """A person's decision about the takes of a request."""

    what: Choice
    """The decision."""
    key: str = ""
    """`choose`: the key of the video that was chosen. With drafts, it is the draft's."""
    take: int | None = None
    """The number of the chosen or of the new take."""
    prompt: str = ""
    """`retake`: the prompt of the new take; empty for the same."""
    duration: int | None = None
    """`retake`: the seconds of the new take; None for the same."""
    who: str
    """The name that the person gave. It is not checked."""
    when: datetime = Field(default_factory=lambda: datetime.now(UTC))
    """The time, by the clock of the person's machine."""
    why: str = ""
    """The reason."""
    gate: str = ""
    """`retake`: the quality gate that asked for it; empty for a person."""
    token: str = Field(default_factory=lambda: secrets.token_hex(8))
    """Identifies this decision, so that a repeated write adds it once."""


class TakeVerdict(Stored):
    """What a quality gate said of one video."""

    key: str
    """The key of the video."""
    gate: str
    """The name of the gate."""
    what: Literal["accept", "reject", "retake"]
    """The verdict."""
    reason: str = ""
    """Why it is not accepted."""
    when: datetime = Field(default_factory=lambda: datetime.now(UTC))
    """The time of the verdict."""


class ReviewedTake(Stored):
    """A take as a person sees it."""

    key: str
    """The key of the video."""
    take: int
    """The number of the take."""
    prompt: str
    """The prompt."""
    duration: int
    """The seconds that are asked for."""
    video: str | None = None
    """The video as an s3:// URI, if it is saved."""


class Review(Stored):
    """What was decided about the takes of one request."""

    format: int = FORMAT
    """The version of the format."""
    group: str
    """Identifies the request and its drafts: see `TakeGroup.id`."""
    api_origin: str
    """The origin of the API."""
    request: dict[str, Any] = Field(default_factory=dict)
    """The request, with media URLs without their queries."""
    label: str = ""
    """The label of the request."""
    takes: tuple[ReviewedTake, ...] = ()
    """The takes that wait for a person, or that the person saw."""
    decisions: tuple[TakeDecision, ...] = ()
    """The decisions of people, in order. The last one counts, and each `retake` adds a take."""
    verdicts: tuple[TakeVerdict, ...] = ()
    """The verdicts of quality gates."""

    @property
    def decision(self) -> TakeDecision | None:
        """The decision that counts, or None if a person has to decide."""
        last = self.decisions[-1] if self.decisions else None
        return last if last is not None and last.what != "retake" else None

    def decided(self, decision: TakeDecision) -> Self:
        """Return the review with one more decision. A decision that it has already changes nothing."""
        if any(one.token == decision.token for one in self.decisions):
            return self
        return self.model_copy(update={"decisions": (*self.decisions, decision)})

    def judged(self, verdicts: Iterable[TakeVerdict]) -> Self:
        """Return the review with verdicts about videos that have none yet."""
        known = {one.key for one in self.verdicts}
        new = tuple(one for one in verdicts if one.key not in known)
        return self.model_copy(update={"verdicts": (*self.verdicts, *new)})

    def verdict(self, key: str) -> TakeVerdict | None:
        """Return the verdict about a video, or None."""
        return next((one for one in self.verdicts if one.key == key), None)


@dataclass(frozen=True)
class Take:
    """One take of a request.

    Attributes:
        shown: What is made first, and what a person sees: the draft, or the video itself.
        final: What is made if the take is chosen. Without drafts it is the same.
    """

    shown: VideoRequest
    final: VideoRequest

    @property
    def is_draft(self) -> bool:
        """Whether another video is made if the take is chosen."""
        return self.shown.key != self.final.key


@dataclass(frozen=True)
class TakeGroup:
    """One request of a list with all its takes, and the review of them.

    Attributes:
        requests: The takes that the list asks for, with prepared media.
        rows: Its positions in the list, counted from 1.
        draft: How its drafts differ; None without drafts.
        review: What was decided so far.
        are_drafts: Whether the takes are drafts by themselves: the caller makes what is chosen.
        links: The same requests with other signed links, which had other keys in earlier versions.
    """

    requests: tuple[VideoRequest, ...]
    rows: tuple[int, ...]
    draft: Draft | None = None
    review: Review | None = None
    are_drafts: bool = False
    links: tuple[VideoRequest, ...] = ()

    @property
    def request(self) -> VideoRequest:
        """The first take that the list asks for."""
        return self.requests[0]

    @property
    def id(self) -> str:
        """The identity of the review, as 64 hex digits: of the request, and of its draft if that is another one."""
        full, draft = self.request.group, self._shown(self.request).group
        return full if draft == full else hashlib.sha256(f"{full}.{draft}".encode()).hexdigest()

    @property
    def takes(self) -> tuple[Take, ...]:
        """All takes: those of the request, then one for each re-take that a person or a gate asked for."""
        requests = [*self.requests]
        for decision in self.review.decisions if self.review else ():
            if decision.what == "retake":
                requests.append(retaken(self.request, decision))
        return tuple(Take(self._shown(one), one) for one in requests)

    def links_of(self, request: VideoRequest) -> tuple[VideoRequest, ...]:
        """Return the given links that name the same video as a request of this group."""
        links = [*self.links, *(map(self._shown, self.links) if self.draft else ())]
        return tuple(one for one in links if one.key == request.key and one.former_key != request.former_key)

    @property
    def chosen(self) -> Take | None:
        """The take that a person chose."""
        decision = self.review.decision if self.review else None
        if decision is None or decision.what != "choose":
            return None
        return next((take for take in self.takes if take.shown.key == decision.key), None)

    @property
    def is_dropped(self) -> bool:
        """Whether a person dropped the request."""
        decision = self.review.decision if self.review else None
        return decision is not None and decision.what == "drop"

    @property
    def is_open(self) -> bool:
        """Whether a person has to decide. A chosen take that the list no longer has is not a decision."""
        return self.chosen is None and not self.is_dropped

    def reviewed_takes(self, videos: Mapping[str, str | None] = MappingProxyType({})) -> tuple[ReviewedTake, ...]:
        """Return the takes as a person sees them.

        Args:
            videos: The s3:// URIs of the saved videos, by key.
        """
        return tuple(
            ReviewedTake(
                key=one.shown.key,
                take=one.final.take,
                prompt=one.final.prompt,
                duration=one.final.duration,
                video=videos.get(one.shown.key),
            )
            for one in self.takes
        )

    @property
    def gate_retakes(self) -> int:
        """How many of its takes a quality gate asked for."""
        return sum(bool(one.gate) for one in self.review.decisions) if self.review else 0

    def with_review(self, review: Review) -> TakeGroup:
        """Return the group with another review."""
        return replace(self, review=review)

    def _shown(self, request: VideoRequest) -> VideoRequest:
        return self.draft.of(request) if self.draft else request


def retake_decision(
    request: VideoRequest,
    takes: Sequence[ReviewedTake],
    *,
    who: str,
    why: str = "",
    prompt: str = "",
    duration: int | None = None,
    take: int | None = None,
) -> TakeDecision:
    """Return the decision to make another take of a request.

    Args:
        request: The request.
        takes: The takes that there are.
        who: Who decides.
        why: The reason.
        prompt: Another prompt; empty for the same.
        duration: Another duration, in seconds; None for the same.
        take: The number of the take; None for the next one.

    Raises:
        InvalidRequestError: The new take is not valid, or it is a take that there is already.
    """
    number = max(one.take for one in takes) + 1 if take is None else take
    decision = TakeDecision(what="retake", take=number, prompt=prompt.strip(), duration=duration, who=who, why=why)
    new = retaken(request, decision)
    if any((new.take, new.prompt, new.duration) == (one.take, one.prompt, one.duration) for one in takes):
        raise InvalidRequestError(f"take: {number} was given: there is this take already, so give another number")
    return decision


def retaken(request: VideoRequest, decision: TakeDecision) -> VideoRequest:
    """Return the request of a re-take.

    Raises:
        InvalidRequestError: It is not valid; the error names field, value and rule.
    """
    changes: dict[str, Any] = {"take": decision.take, "prompt": decision.prompt, "duration": decision.duration}
    return changed(request, takes=1, **{name: value for name, value in changes.items() if value not in (None, "")})


def changed(request: VideoRequest, **changes: Any) -> VideoRequest:
    """Return a valid request with other values of some fields.

    Raises:
        InvalidRequestError: It is not valid; the error names field, value and rule.
    """
    try:
        return VideoRequest.model_validate(request.model_dump() | changes)
    except ValidationError as error:
        raise InvalidRequestError.from_validation(error) from None
