"""S3 and Loova as plain values: what a call changes there, and its answer."""

from __future__ import annotations

import functools
import json
import re
from typing import Any, NamedTuple

from prefect_loova.models.job_record import JobRecord
from prefect_loova.models.request import VideoRequest

REQUEST = VideoRequest(prompt="one video, many workers")
PLACE = f"loova/{REQUEST.key}"
RECORD, OPEN = f"{PLACE}/record.json", f"loova/_open/{REQUEST.key}"
MOST_TICKS = 3
"""The most steps of time that can be told apart."""

Answer = tuple[Any, ...]


class Call(NamedTuple):
    """A request on its way to S3 or to Loova."""

    name: str
    key: str = ""
    body: str = ""
    condition: str = ""

    @property
    def writes(self) -> bool:
        """Whether it changes anything where it arrives."""
        return self.name not in ("get", "head", "list", "uploads")


class Stored(NamedTuple):
    """An object in S3."""

    body: str
    etag: str
    age: int


class World(NamedTuple):
    """S3's objects and Loova's books."""

    objects: tuple[tuple[str, Stored], ...] = ()
    billed: tuple[str, ...] = ()
    uploads: tuple[tuple[str, str], ...] = ()
    drawn: int = 0

    def get(self, key: str) -> Stored | None:
        """An object."""
        return next((stored for name, stored in self.objects if name == key), None)

    def older(self) -> World:
        """The same a step of time later; only the record's age counts."""
        return self._replace(
            objects=tuple(
                (name, stored._replace(age=min(MOST_TICKS, stored.age + 1)) if name == RECORD else stored)
                for name, stored in self.objects
            )
        )

    def applied(self, call: Call) -> tuple[World, Answer]:
        """What a call changes, and its answer."""
        stored = self.get(call.key)
        match call.name:
            case "get":
                return self, ("got", *stored) if stored else ("missing",)
            case "head":
                return self, ("head", stored.body) if stored else ("missing",)
            case "put":
                if (call.condition == "*" and stored) or (
                    call.condition not in ("", "*") and (stored is None or stored.etag != call.condition)
                ):
                    return self, ("unmet",)
                written = Stored(call.body, _etag(call.body), 0)
                return self._with(call.key, written), ("put", written.etag)
            case "delete":
                return self._with(call.key, None), ("done",)
            case "list":
                below = [name.removeprefix(call.key) for name, _ in self.objects if name.startswith(call.key)]
                return self, ("names", *(name for name in below if "/" not in name))
            case "post":
                task = f"task-{len(self.billed) + 1}"
                return self._replace(billed=(*self.billed, task)), ("task", task)
            case "begin upload":
                token = f"<Upload{self.drawn}>"
                return self._replace(uploads=(*self.uploads, (token, call.key)), drawn=self.drawn + 1), (
                    "upload",
                    token,
                )
            case "uploads":
                return self, ("uploads", *(token for token, key in self.uploads if key == call.key))
            case "abort" | "complete":
                if all(token != call.condition for token, _ in self.uploads):
                    return self, ("no upload",)
                world = self._replace(uploads=tuple(one for one in self.uploads if one[0] != call.condition))
                if call.name == "complete":
                    world = world._with(call.key, Stored(call.body, '"video"', 0))
                return world, ("done",)
        raise AssertionError(call)

    def _with(self, key: str, stored: Stored | None) -> World:
        others = [one for one in self.objects if one[0] != key]
        return self._replace(objects=tuple(sorted([*others, (key, stored)] if stored else others)))

    @property
    def record(self) -> JobRecord | None:
        """The job's record."""
        stored = self.get(RECORD)
        return parsed(stored.body) if stored else None


@functools.lru_cache(100_000)
def parsed(body: str) -> JobRecord:
    """A record as S3 holds it."""
    return JobRecord.model_validate_json(body)


def _etag(body: str) -> str:
    """Names the write, as a fresh `write_id` makes each body another one."""
    found = re.search(r'"write_id":"(<\w+>)"', body)
    return f'"{found[1]}"' if found else '"etag"'


def normalised(body: bytes | str) -> str:
    """A JSON object without the times that are for people only."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: plain(one) for name, one in value.items()}
        if isinstance(value, list):
            return [plain(one) for one in value]
        return "2026-01-01T00:00:00Z" if isinstance(value, str) and re.match(r"\d{4}-\d\d-\d\dT", value) else value

    return json.dumps(plain(json.loads(body)), separators=(",", ":"))


_TOKEN = re.compile(r"<[A-Za-z]+\d+>")
_templates: dict[str, int] = {}


@functools.lru_cache(200_000)
def template(text: str) -> tuple[int, tuple[str, ...]]:
    """A number for a text without its tokens, and its tokens in order."""
    return _templates.setdefault(_TOKEN.sub("<>", text), len(_templates)), tuple(_TOKEN.findall(text))


def renamed(world: World) -> World:
    """The same with other names for its tokens, so that worlds which are alike are equal."""
    names: dict[str, str] = {}

    def name(found: re.Match[str]) -> str:
        return names.setdefault(found[0], f"<Then{len(names)}>")

    def other(text: str) -> str:
        return _TOKEN.sub(name, text)

    objects = tuple((key, Stored(other(one.body), other(one.etag), one.age)) for key, one in world.objects)
    return world._replace(objects=objects, uploads=tuple((other(token), key) for token, key in world.uploads))
