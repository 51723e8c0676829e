"""Quality gates that need no network and no model: each compares what was measured of a video with one rule.

Use one by its name, such as `"black"`, for its default limits, or make one with your own limits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from prefect_loova.models.contradictions import MAX_DURATION_ERROR, MAX_RATIO_ERROR, ratio_of
from prefect_loova.models.gates import GateInput, QualityGate, Verdict

Otherwise = Literal["reject", "retake"]
"""The answer of a gate that does not accept a video."""


@dataclass(frozen=True)
class BlackFrames:
    """Accepts a video that is black for a short time only, such as one that fades in and out.

    Args:
        seconds: The longest time, all black frames together.
        otherwise: The answer for another video.
    """

    name: ClassVar[str] = "black"
    seconds: float = 1.5
    otherwise: Otherwise = "reject"

    def __call__(self, video: GateInput) -> Verdict:
        """Judge a video."""
        black = video.facts.black_seconds
        if black <= self.seconds:
            return Verdict.accept()
        return _no(self.otherwise, f"it is black for {black:.1f} s; at most {self.seconds:g} s are allowed")


@dataclass(frozen=True)
class FrozenFrames:
    """Accepts a video whose picture does not stand still for long. Noise in a still scene counts as a change.

    Args:
        seconds: The longest time without any change.
        otherwise: The answer for another video.
    """

    name: ClassVar[str] = "frozen"
    seconds: float = 2.0
    otherwise: Otherwise = "reject"

    def __call__(self, video: GateInput) -> Verdict:
        """Judge a video."""
        frozen = video.facts.frozen_seconds
        if frozen <= self.seconds:
            return Verdict.accept()
        return _no(self.otherwise, f"its picture is frozen for {frozen:.1f} s; at most {self.seconds:g} s are allowed")


@dataclass(frozen=True)
class NoSound:
    """Accepts a video that can be heard. By default it judges only videos whose request has `audio_urls`.

    Loova's pages do not say which other videos have sound.

    Args:
        always: Whether every video must have sound.
        silent_share: The part of its duration that may be silent, from 0 to 1.
        otherwise: The answer for another video.
    """

    name: ClassVar[str] = "silent"
    always: bool = False
    silent_share: float = 0.9
    otherwise: Otherwise = "reject"

    def __call__(self, video: GateInput) -> Verdict:
        """Judge a video."""
        facts = video.facts
        if not (self.always or video.request.get("audio_urls")):
            return Verdict.accept()
        if not facts.has_sound:
            return _no(self.otherwise, "it has no sound")
        if facts.silent_seconds <= facts.duration_seconds * self.silent_share:
            return Verdict.accept()
        return _no(
            self.otherwise,
            f"it is silent for {facts.silent_seconds:.1f} of {facts.duration_seconds:.1f} s; "
            f"at most {self.silent_share:.0%} is allowed",
        )


@dataclass(frozen=True)
class WrongDuration:
    """Accepts a video that plays as long as its request says.

    Args:
        tolerance_seconds: The largest difference, in seconds.
        otherwise: The answer for another video.
    """

    name: ClassVar[str] = "duration"
    tolerance_seconds: float = MAX_DURATION_ERROR
    otherwise: Otherwise = "reject"

    def __call__(self, video: GateInput) -> Verdict:
        """Judge a video."""
        asked, plays = video.request.get("duration"), video.facts.duration_seconds
        if not isinstance(asked, int | float) or abs(plays - asked) <= self.tolerance_seconds:
            return Verdict.accept()
        return _no(self.otherwise, f"it plays {plays:.1f} s, and {asked:g} s were asked for")


@dataclass(frozen=True)
class WrongRatio:
    """Accepts a video with the ratio of its request. With `first_last_frames` the images decide the ratio.

    Args:
        tolerance: The largest difference, as a part of the ratio: 0.08 is 8%.
        otherwise: The answer for another video.
    """

    name: ClassVar[str] = "ratio"
    tolerance: float = MAX_RATIO_ERROR
    otherwise: Otherwise = "reject"

    def __call__(self, video: GateInput) -> Verdict:
        """Judge a video."""
        asked, facts = ratio_of(video.request.get("ratio")), video.facts
        if asked is None or video.request.get("function_mode") == "first_last_frames":
            return Verdict.accept()
        if abs(facts.width / facts.height / asked - 1) <= self.tolerance:
            return Verdict.accept()
        pictures = f"its pictures are {facts.width} x {facts.height}"
        return _no(self.otherwise, f"{pictures}, and {video.request['ratio']} was asked for")


SHIPPED: dict[str, QualityGate] = {
    gate.name: gate for gate in (BlackFrames(), FrozenFrames(), NoSound(), WrongDuration(), WrongRatio())
}
"""The gates of this module with their default limits, by name."""


def _no(otherwise: Otherwise, reason: str) -> Verdict:
    return Verdict(what=otherwise, reason=reason)
