"""Describe where a coroutine is suspended. Two runs with the same description continue in the same way.

The description has the instruction of each suspended frame and the values that the code can still read: the live local
variables, and the values of loops and `except` on the frame's stack.
"""

from __future__ import annotations

import asyncio
import dis
import functools
import gc
import inspect
import operator
import re
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from datetime import datetime
from types import CodeType
from typing import Any

from pydantic import BaseModel

Known = Callable[[Any], str | None]
"""Returns a special description of a value, or None."""
_KILLS = ("STORE_FAST", "DELETE_FAST")
_ENDS = ("RETURN_VALUE", "RETURN_CONST", "RAISE_VARARGS", "RERAISE", "JUMP_FORWARD", "JUMP_BACKWARD")
_DEEPEST = 12
_TIME = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z")


def describe_coroutine(coroutine: Any, known: Known) -> str:
    """Describe the suspended frames of a coroutine, down to the one that it awaits."""
    frames = []
    while coroutine is not None:
        if inspect.iscoroutine(coroutine):
            frame, awaited = coroutine.cr_frame, coroutine.cr_await
        elif inspect.isgenerator(coroutine):
            frame, awaited = coroutine.gi_frame, coroutine.gi_yieldfrom
        else:
            frames.append(type(coroutine).__name__)
            break
        if frame is None:
            break
        code, values = frame.f_code, frame.f_locals
        names = sorted(_live(code).get(frame.f_lasti, frozenset(values)) & set(values) - {"__class__"})
        local = [f"{name}={describe_value(values[name], known)}" for name in names]
        stack = sorted(_on_the_stack(coroutine, values, known))
        frames.append(f"{code.co_qualname}:{frame.f_lasti}({','.join(local)}|{','.join(stack)})")
        coroutine = awaited
    return " > ".join(frames)


def _on_the_stack(coroutine: Any, values: dict[str, Any], known: Known) -> Iterator[str]:
    """Yield the iterators of running loops and the exceptions that are being handled."""
    local = Counter(id(value) for value in values.values())
    for value in gc.get_referents(coroutine):
        if local[id(value)] > 0:
            local[id(value)] -= 1
        elif isinstance(value, BaseException):
            yield describe_value(value, known)
        elif type(value).__name__.endswith("iterator"):
            yield f"{operator.length_hint(value)} more"


@functools.cache
def _live(code: CodeType) -> dict[int, frozenset[str]]:
    """Return the local variables that can still be read after each instruction."""
    found = list(dis.get_instructions(code))
    entries = dis.Bytecode(code).exception_entries  # type: ignore[attr-defined]
    at = {one.offset: n for n, one in enumerate(found)}
    always = frozenset(code.co_cellvars + code.co_freevars)
    before: list[frozenset[str]] = [frozenset()] * (len(found) + 1)
    after: list[frozenset[str]] = [frozenset()] * len(found)
    local = set(code.co_varnames)
    changed = True
    while changed:
        changed = False
        for n in range(len(found) - 1, -1, -1):
            one = found[n]
            out = frozenset() if one.opname in _ENDS else before[n + 1]
            if one.opcode in dis.hasjrel or one.opcode in dis.hasjabs:
                out |= before[at[one.argval]]
            for entry in entries:
                if entry.start <= one.offset < entry.end:
                    out |= before[at[entry.target]]
            named = one.argval if isinstance(one.argval, tuple) else (one.argval,)
            read = frozenset(name for name in named if isinstance(name, str) and name in local)
            into = (out - read) if one.opname in _KILLS else (out | read)
            if into != before[n] or out != after[n]:
                before[n], after[n], changed = into, out, True
    return {one.offset: after[n] | always for n, one in enumerate(found)}


def describe_value(value: Any, known: Known, depth: int = 0) -> str:
    """Describe a value in words that are the same in each run."""
    if depth > _DEEPEST:
        return "..."
    deeper = functools.partial(describe_value, known=known, depth=depth + 1)
    if (special := known(value)) is not None:
        return special
    if value is None or isinstance(value, str | bytes | int | float):
        return _TIME.sub("time", repr(value))
    if isinstance(value, datetime):
        return "time"
    if isinstance(value, BaseModel):
        return _fields(value, [*value, *(value.model_extra or {}).items()], deeper)
    if type(value).__name__.endswith("iterator"):
        return f"{operator.length_hint(value)} more"
    if isinstance(value, dict):
        return "{" + ",".join(f"{deeper(name)}:{deeper(one)}" for name, one in value.items()) + "}"
    if isinstance(value, list | tuple | deque):
        return "[" + ",".join(map(deeper, value)) + "]"
    if isinstance(value, set | frozenset):
        return "{" + ",".join(sorted(map(deeper, value))) + "}"
    if isinstance(value, BaseException):
        return f"{type(value).__name__}({value})"
    if isinstance(value, asyncio.Future):
        return f"future {value.done()}"
    if isinstance(value, asyncio.Event):
        return f"event {value.is_set()}"
    if isinstance(value, functools.partial):
        return f"partial({deeper(value.func)},{deeper(value.args)},{deeper(value.keywords)})"
    if inspect.ismethod(value):
        return f"{value.__func__.__qualname__}({deeper(value.__self__)})"
    if inspect.isfunction(value):
        cells = [cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell)]
        return f"{value.__qualname__}({','.join(map(deeper, cells))},{deeper(value.__defaults__)})"
    if inspect.isclass(value):
        return value.__qualname__
    if inspect.iscoroutine(value) or inspect.isgenerator(value):
        return describe_coroutine(value, known) if depth < 4 else type(value).__name__
    if is_dataclass(value):
        return _fields(value, [(one.name, getattr(value, one.name)) for one in fields(value)], deeper)
    if type(value).__module__.startswith("prefect_loova"):
        return _fields(value, sorted(vars(value).items()), deeper)
    return type(value).__qualname__


def _fields(value: Any, named: list[tuple[str, Any]], deeper: Callable[[Any], str]) -> str:
    return f"{type(value).__name__}({','.join(f'{name}={deeper(one)}' for name, one in named)})"


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False
