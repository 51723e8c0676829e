"""S3 and Loova as plain values, and the effect and the answer of each call."""

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
"""Ages above this number of time steps are equal."""

Answer = tuple[Any, ...]


class Call(NamedTuple):
    """A request to S3 or to Loova."""

    name: str
    key: str = ""
    body: str = ""
    condition: str = ""

    @property
    def writes(self) -> bool:
        """Whether the call changes S3 or Loova."""
        return self.name not in ("get", "head", "list", "uploads")


class Stored(NamedTuple):
    """An object in S3."""

    body: str
    etag: str
    age: int


class World(NamedTuple):
    """The objects and uploads in S3, and the tasks that Loova billed."""

    objects: tuple[tuple[str, Stored], ...] = ()
    billed: tuple[str, ...] = ()
    uploads: tuple[tuple[str, str], ...] = ()
    drawn: int = 0

    def get(self, key: str) -> Stored | None:
        """Return an object, or None."""
        return next((stored for name, stored in self.objects if name == key), None)

    def older(self) -> World:
        """Return the world one time step later. Only the age of the record matters."""
        return self._replace(
            objects=tuple(
                (name, stored._replace(age=min(MOST_TICKS, stored.age + 1)) if name == RECORD else stored)
                for name, stored in self.objects
            )
        )

    def apply(self, call: Call) -> tuple[World, Answer]:
        """Return the world after a call, and the answer to the call."""
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
        return parse_record(stored.body) if stored else None


@functools.lru_cache(100_000)
def parse_record(body: str) -> JobRecord:
    """Parse a job record."""
    return JobRecord.model_validate_json(body)


def _etag(body: str) -> str:
    """Return an ETag that is unique to the write: the `write_id` of a record."""
    found = re.search(r'"write_id":"(<\w+>)"', body)
    return f'"{found[1]}"' if found else '"etag"'


def normalise(body: bytes | str) -> str:
    """Return a JSON object with all times replaced: they are only for people."""

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
    """Return a number for the text without its tokens, and the tokens in order."""
    return _templates.setdefault(_TOKEN.sub("<>", text), len(_templates)), tuple(_TOKEN.findall(text))


def left_after_a_claim(api_origin: str) -> World:
    """Return the world that a worker leaves which dies right after its claim."""
    record = JobRecord.claimed(REQUEST, api_origin, {}).model_copy(update={"write_id": "<Dead1>"})
    body = normalise(record.model_dump_json(exclude_none=True))
    entry = normalise(json.dumps({"key": record.key, "api_origin": api_origin, "request": record.request}))
    world, _ = World().apply(Call("put", OPEN, entry))
    return world.apply(Call("put", RECORD, body))[0]


def rename_tokens(world: World) -> World:
    """Return the world with normalised names of its tokens, so that equivalent worlds are equal."""
    names: dict[str, str] = {}

    def name(found: re.Match[str]) -> str:
        return names.setdefault(found[0], f"<Then{len(names)}>")

    def other(text: str) -> str:
        return _TOKEN.sub(name, text)

    objects = tuple((key, Stored(other(one.body), other(one.etag), one.age)) for key, one in world.objects)
    return world._replace(objects=objects, uploads=tuple((other(token), key) for token, key in world.uploads))
