"""The takes of a story's shots: the board that makes them, and the board of what was chosen.

All takes of a shot begin with the same frame: the last one of the first take of the shot before. So a story with takes
is made in two steps. The first take of each shot is a story of its own, and the other takes are a batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from pydantic import ValidationError

from prefect_loova.batches.storyboard import Shot, Storyboard
from prefect_loova.errors import InvalidRequestError
from prefect_loova.models.reports import BatchReport
from prefect_loova.models.request import VideoRequest
from prefect_loova.models.reviews import Draft, Take, TakeGroup


def has_takes(board: Storyboard) -> bool:
    """Return whether a shot has several takes."""
    return any(shot.fields.get("takes", 1) != 1 for shot in board.shots)


def first_takes(board: Storyboard, draft: Draft | None) -> Storyboard:
    """Return the story of the first take of each shot, or of its draft.

    Raises:
        InvalidRequestError: A shot is not valid with the draft's model or duration; the error lists all shots.
    """
    problems = list[str]()

    def first_take(shot: Shot) -> Shot:
        if shot.keep:
            return shot
        fields = {name: value for name, value in shot.fields.items() if name != "takes"}
        if draft is not None:
            fields |= {"model": draft.model} if draft.model else {}
            fields |= {"duration": draft.duration} if draft.duration else {}
        first = replace(shot, fields=fields)
        try:
            _ = first.request
        except ValidationError as error:
            problems.append(f"shot {shot.number}, its draft: {InvalidRequestError.from_validation(error).message}")
        return first

    shots = tuple(map(first_take, board.shots))
    if problems:
        raise InvalidRequestError("\n".join(problems))
    return replace(board, shots=shots)


def groups_of_shots(
    board: Storyboard, requests: Mapping[int, VideoRequest], *, are_drafts: bool = False
) -> dict[int, TakeGroup]:
    """Return the takes of each shot whose first frame is known, by the number of the shot.

    Args:
        board: The story as it was given.
        requests: The prepared request of the first take of each shot whose first frame is known.
        are_drafts: Whether the takes are drafts.
    """
    groups = {}
    for shot in board.shots:
        request = requests.get(shot.number)
        if request is not None:
            takes = request.model_copy(update={"takes": shot.fields.get("takes", 1)})
            groups[shot.number] = TakeGroup(takes.all_takes, shot.rows, are_drafts=are_drafts)
    return groups


def chosen_takes(groups: Mapping[int, TakeGroup], report: BatchReport) -> dict[int, Take | None]:
    """Return the take of each shot that goes on, by the number of the shot. None: the shot was dropped.

    Without a decision, it is the first take that is in the bucket and that no quality gate rejected. A shot without
    such a take is left out.
    """
    good = {one.asked_key for one in report.videos if one.is_in_bucket and not one.rejected}
    takes: dict[int, Take | None] = {}
    for number, group in groups.items():
        if group.is_dropped:
            takes[number] = None
        elif take := group.chosen or next((one for one in group.takes if one.shown.key in good), None):
            takes[number] = take
    return takes


def chosen_board(
    board: Storyboard,
    groups: Mapping[int, TakeGroup],
    takes: Mapping[int, Take | None],
    *,
    is_draft: bool,
    fallbacks: Mapping[str, str] = MappingProxyType({}),
) -> Storyboard:
    """Return the story of what was chosen: without the dropped shots, which the others close up to.

    Args:
        board: The story as it was given.
        groups: The takes of each shot, by its number.
        takes: The chosen takes. A shot that is missing here is made as its first take.
        is_draft: Whether the takes are drafts, so that the chosen ones are made again. Else they are kept.
        fallbacks: The keys of the videos that were made from a fallback prompt, by the key of the first prompt.
    """
    shots = list[Shot]()
    for shot in board.shots:
        if shot.number in takes and takes[shot.number] is None:
            continue
        take, group = takes.get(shot.number), groups.get(shot.number)
        made = shot
        if not shot.keep:
            key = take.shown.key if take else ""
            made = _final(shot, group, take) if is_draft else replace(shot, keep=fallbacks.get(key, key))
        is_first = not shots
        shots.append(
            replace(
                made,
                number=len(shots) + 1,
                row=shot.row or shot.number,
                continues=made.continues and not is_first,
                fade=0.0 if is_first and not board.film.title_card else made.fade,
            )
        )
    film = board.film.model_copy(update={"fades": tuple(shot.fade for shot in shots)})
    return replace(board, shots=tuple(shots), film=film)


def _final(shot: Shot, group: TakeGroup | None, take: Take | None) -> Shot:
    """Return the shot with what was chosen of its draft: the take, and another prompt or duration of a re-take."""
    fields = {name: value for name, value in shot.fields.items() if name != "takes"}
    if take is not None and group is not None:
        fields |= {"take": take.final.take, "prompt": take.final.prompt}
        fields |= {"duration": take.final.duration} if take.final.duration != group.request.duration else {}
    return replace(shot, fields=fields)
