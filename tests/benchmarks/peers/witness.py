"""One call, and what its caller holds afterwards: all scripts of this folder are measured by this one function.

Standard library only, as every script runs in an environment of its own.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from types import FunctionType, ModuleType, TracebackType
from typing import Any

PROMPT = "A futuristic city at sunset"

_DEEPEST = 14
_LONGEST = 4000
_NOT_HELD = (type, ModuleType, FunctionType, TracebackType)


def witness(package: str, call: Callable[[], object], *, can_list: bool) -> None:
    """Make the call and print as JSON what came of it, how long it took, and every text that is left to the caller.

    Args:
        package: Whose version to name.
        call: The plainest documented call that makes a video.
        can_list: Whether the package has a call that lists earlier jobs.
    """
    _tell({"version": version(package)})
    left: object
    started = time.perf_counter()
    try:
        left = call()
        outcome, message = f"returned {type(left).__name__}", ""
    except Exception as error:
        left, outcome, message = error, type(error).__name__, str(error)
    seconds = time.perf_counter() - started
    found = {
        "seconds": round(seconds, 2),
        "outcome": outcome,
        "message": message[:_LONGEST],
        "can_list": can_list,
        "held": [[where, text[:_LONGEST]] for where, text in _texts(left, "error", _DEEPEST, set())],
    }
    _tell(found)


def _tell(facts: dict[str, Any]) -> None:
    print(f"\nwitness: {json.dumps(facts)}", flush=True)


def _texts(thing: Any, where: str, deep: int, seen: set[int]) -> Iterator[tuple[str, str]]:
    """All texts that can be reached from what the call left, with the way there."""
    if isinstance(thing, bytes):
        thing = thing.decode("latin-1")
    if isinstance(thing, str):
        yield where, thing
        return
    if deep == 0 or id(thing) in seen or isinstance(thing, _NOT_HELD):
        return
    seen.add(id(thing))
    inside: list[tuple[str, Any]]
    if isinstance(thing, Mapping):
        inside = [(f"{where}[{key!r}]", thing[key]) for key in thing]
    elif isinstance(thing, list | tuple | set | frozenset):
        inside = [(f"{where}[{number}]", value) for number, value in enumerate(thing)]
    else:
        inside = [(f"{where}.{name}", value) for name, value in getattr(thing, "__dict__", {}).items()]
        if isinstance(thing, BaseException):
            names = ("args", "__cause__", "__context__")
            inside += [(f"{where}.{name}", getattr(thing, name)) for name in names]
            yield f"str({where})", str(thing)
    for way, value in inside:
        yield from _texts(value, way, deep - 1, seen)
