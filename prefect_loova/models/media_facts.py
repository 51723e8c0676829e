"""What was measured of a reference medium, and what other hosts of Seedance 2.0 ask of it.

Loova documents none of this. The limits are fields of `MediaRules`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prefect_loova.models.media import KINDS, Kind, MediaError, Medium
from prefect_loova.models.media_types import MediaRules


@dataclass(frozen=True)
class MediaFacts:
    """What was measured of a medium.

    Attributes:
        doubt: What could not be checked; empty if everything could.
        traits: What not every host of Seedance 2.0 takes, such as EXIF rotation. A copy has none of it.
        seconds: The length of a video or audio, if it is known.
        size: Width and height of an image or video in a player, in pixels, if they are known.
    """

    doubt: str = ""
    traits: tuple[str, ...] = ()
    seconds: float | None = None
    size: tuple[int, int] | None = None


def limit_problems(facts: MediaFacts, kind: Kind, rules: MediaRules) -> list[str]:
    """Return which limits one medium breaks. What was not measured breaks none."""
    problems = list[str]()
    if kind != "image" and facts.seconds is not None and round(facts.seconds, 3) < rules.min_seconds:
        problems.append(f"it lasts {facts.seconds:.2f} s, less than media.min_seconds ({rules.min_seconds:g} s)")
    if kind == "image" and facts.size is not None:
        width, height = facts.size
        aspect, pixels = width / height, f"it has {width:,} x {height:,} pixels"
        if min(facts.size) < rules.min_image_side:
            problems.append(f"{pixels}, and a side is shorter than media.min_image_side ({rules.min_image_side:,})")
        if aspect < rules.min_image_aspect:
            limit = f"media.min_image_aspect ({rules.min_image_aspect:g})"
            problems.append(f"{pixels}, an aspect of {aspect:.2f}, which is below {limit}")
        if aspect > rules.max_image_aspect:
            limit = f"media.max_image_aspect ({rules.max_image_aspect:g})"
            problems.append(f"{pixels}, an aspect of {aspect:.2f}, which is above {limit}")
    return problems


def request_problems(
    media: Mapping[str, Sequence[str]], facts: Mapping[tuple[Kind, str | None], MediaFacts], rules: MediaRules
) -> list[str]:
    """Return which limits the media of a request break together.

    Args:
        media: The media of each field of the request. Those that were not measured count only as references.
        facts: What was measured, by kind and identity.
        rules: The limits.
    """
    problems = list[str]()
    count = sum(len(media.get(name, ())) for name in KINDS)
    if count > rules.max_references:
        problems.append(f"the request has {count} references, more than media.max_references ({rules.max_references})")
    for name, kind in KINDS.items():
        known = [facts.get((kind, Medium.parse(text).identity)) for text in media.get(name, ())]
        seconds = round(sum(one.seconds for one in known if one is not None and one.seconds is not None), 3)
        if kind != "image" and seconds > rules.max_total_seconds:
            problems.append(
                f"{name}: {seconds:.2f} s in all, more than media.max_total_seconds ({rules.max_total_seconds:g} s)"
            )
    return problems


def refuse(problems: Sequence[str], rules: MediaRules) -> None:
    """Raise if the user wants broken limits to be refused.

    Raises:
        MediaError: Limits are broken, and `rules.limits` is `refuse`.
    """
    if problems and rules.limits == "refuse":
        raise MediaError(f"{'; '.join(problems)} (media.limits of the credentials block is refuse)")
