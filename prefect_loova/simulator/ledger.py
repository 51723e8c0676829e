"""The simulator's ledger in SQLite: posts, tasks and credits. It is written before a response is sent."""

from __future__ import annotations

import hashlib
import json
import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect_loova.simulator.media import CheckedMedium
from prefect_loova.simulator.stills import Still
from prefect_loova.simulator.submit_request import Refusal, SubmitRequest, Upload

_SCHEMA = """
CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value);
CREATE TABLE IF NOT EXISTS counts (name TEXT PRIMARY KEY, count INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS tasks (
    number INTEGER PRIMARY KEY, task_id TEXT UNIQUE, request TEXT NOT NULL, take INTEGER NOT NULL,
    created_at REAL NOT NULL, finishes_at REAL NOT NULL, credits_cost REAL NOT NULL,
    polls INTEGER NOT NULL DEFAULT 0, video_requests INTEGER NOT NULL DEFAULT 0, sha256 TEXT, size INTEGER
);
CREATE TABLE IF NOT EXISTS posts (
    number INTEGER PRIMARY KEY, at REAL NOT NULL, request TEXT, outcome TEXT NOT NULL, message TEXT, task_id TEXT
);
CREATE TABLE IF NOT EXISTS fetches (task_id TEXT PRIMARY KEY, ended INTEGER NOT NULL DEFAULT 0, problem TEXT);
CREATE TABLE IF NOT EXISTS media (
    task_id TEXT NOT NULL, name TEXT NOT NULL, problem TEXT, width INTEGER, height INTEGER, pixels BLOB,
    PRIMARY KEY (task_id, name)
);
"""
# A task has no fetch if it has no media, or if an older version wrote it.
_TASKS = "tasks LEFT JOIN fetches USING (task_id)"


@dataclass(frozen=True)
class Task:
    """A billed task. Its status depends on the clock and on its media. Times are seconds since 1970."""

    task_id: str
    request: dict[str, Any]
    take: int
    """How many earlier tasks have the same request."""
    created_at: float
    finishes_at: float
    credits_cost: float
    is_fetching: bool = False
    """Whether its media are being fetched. Until they are, the task runs."""
    problem: str | None = None
    """Why the task failed."""

    def status(self, now: float) -> str:
        """Return `running`, `succeeded` or `failed`."""
        if self.problem:
            return "failed"
        return "running" if self.is_fetching or now < self.finishes_at else "succeeded"

    @property
    def seed(self) -> str:
        """Return the seed of the video. Each task has its own, even for the same request."""
        return hashlib.sha256(f"{self.take} {json.dumps(self.request, sort_keys=True)}".encode()).hexdigest()


class Ledger:
    """Tasks, credits and counts. It is thread-safe.

    In a folder they survive a restart and a kill -9: each purchase is committed before its response is sent.
    """

    def __init__(self, state: Path | None, credits: float, clock: Callable[[], float]) -> None:
        """Open the ledger in a folder or in memory.

        Args:
            state: The folder, created if missing; None: memory.
            credits: The credits of a new account. An existing ledger keeps its own.
            clock: Returns seconds since 1970.
        """
        if state:
            state.mkdir(parents=True, exist_ok=True)
        self._clock = clock
        self._lock = threading.RLock()
        self._db = sqlite3.connect(
            state / "simulator.sqlite3" if state else ":memory:",
            isolation_level=None,
            check_same_thread=False,
            timeout=10,
        )
        self._db.row_factory = sqlite3.Row
        # A commit has to survive a crash of the process, not of the machine.
        self._db.executescript(f"PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; {_SCHEMA}")
        with self._transaction():
            self._set_default("credits_total", credits)
            self._set_default("clock_offset", 0.0)
            self._set_default("secret", secrets.token_hex(32))

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def now(self) -> float:
        """Return the simulator's time, in seconds since 1970."""
        return self._clock() + float(self._setting("clock_offset"))

    def advance(self, seconds: float) -> None:
        """Move the simulator's clock forward."""
        self._run("UPDATE settings SET value = value + ? WHERE name = 'clock_offset'", seconds)

    @property
    def secret(self) -> bytes:
        """Return the secret that signs the URLs of videos."""
        return str(self._setting("secret")).encode()

    def count(self, name: str, task_id: str | None = None) -> None:
        """Increment a counter; with a task id also that task's column (`polls` or `video_requests`)."""
        with self._transaction():
            self._run("INSERT INTO counts VALUES (?, 1) ON CONFLICT DO UPDATE SET count = count + 1", name)
            if task_id is not None:
                self._run(f"UPDATE tasks SET {name} = {name} + 1 WHERE task_id = ?", task_id)  # noqa: S608

    def add_post(self) -> int:
        """Add a submit that arrived. Return its number."""
        with self._lock:
            added = self._db.execute("INSERT INTO posts (at, outcome) VALUES (?, 'ignored')", (self.now(),))
            return int(added.lastrowid or 0)

    def set_refused(self, post: int, message: str) -> None:
        """Mark a post as refused, with the reason."""
        self._run("UPDATE posts SET outcome = 'refused', message = ? WHERE number = ?", message, post)

    def set_fields(self, post: int, fields: dict[str, Any]) -> None:
        """Set the fields of a post, valid or not."""
        request = json.dumps(fields, sort_keys=True, default=_to_json)
        self._run("UPDATE posts SET request = ? WHERE number = ?", request, post)

    def bill(
        self,
        post: int,
        submitted: SubmitRequest,
        max_running: int,
        generation_seconds: float,
        media: Iterable[CheckedMedium] | None = None,
    ) -> Task:
        """Bill a request and start its task.

        Args:
            post: The number of the post.
            submitted: The request.
            max_running: How many tasks may run at a time.
            generation_seconds: How long the task runs.
            media: The media that are checked already. The task then runs at least until `end_fetch`. None: it has no
                media to wait for.

        Raises:
            Refusal: 429, `max_running` tasks run already; 402, the credits do not suffice.
        """
        request = json.dumps(submitted.body, sort_keys=True)
        with self._transaction():
            now, cost = self.now(), submitted.credits_cost
            if self._value(f"SELECT count(*) FROM {_TASKS} WHERE finishes_at > ? OR ended = 0", now) >= max_running:  # noqa: S608
                raise Refusal(429, f"Too many running tasks: at most {max_running}")
            available, _ = self.credits()
            if cost > available:
                raise Refusal(402, f"Insufficient credits: {cost:g} are needed, {available:g} are left")
            take = self._value("SELECT count(*) FROM tasks WHERE request = ?", request)
            task_id, finishes_at = f"sim_{secrets.token_hex(8)}", now + generation_seconds
            task = Task(task_id, submitted.body, take, now, finishes_at, cost, media is not None)
            self._run(
                "INSERT INTO tasks (task_id, request, take, created_at, finishes_at, credits_cost)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                *(task.task_id, request, take, task.created_at, task.finishes_at, cost),
            )
            self._run("UPDATE posts SET outcome = 'billed', task_id = ? WHERE number = ?", task.task_id, post)
            if media is not None:
                self._run("INSERT INTO fetches (task_id) VALUES (?)", task.task_id)
                self._add_media(task, media)
        return task

    def end_fetch(self, task: Task, media: Iterable[CheckedMedium], names: Iterable[str]) -> None:
        """Add the fetched media of a task and stop waiting for more.

        Args:
            task: The task.
            media: The fetched media.
            names: All media of the task in order. The first one with a problem fails the task.
        """
        with self._transaction():
            self._add_media(task, media)
            rows = self._db.execute("SELECT name, problem FROM media WHERE task_id = ?", (task.task_id,)).fetchall()
            problems = {row["name"]: row["problem"] for row in rows if row["problem"]}
            problem = next((f"{name} {problems[name]}" for name in names if name in problems), None)
            ends = self.now() if problem else max(self.now(), task.finishes_at)
            self._run("UPDATE fetches SET ended = 1, problem = ? WHERE task_id = ?", problem, task.task_id)
            self._run("UPDATE tasks SET finishes_at = ? WHERE task_id = ?", ends, task.task_id)

    def fetching_tasks(self) -> list[Task]:
        """Return the tasks whose media are not fetched yet."""
        with self._lock:
            return [_task(row) for row in self._db.execute(f"SELECT * FROM {_TASKS} WHERE ended = 0")]  # noqa: S608

    def stills(self, task_id: str) -> dict[str, Still]:
        """Return the stills of a task's media, by the names of the media."""
        query = "SELECT * FROM media WHERE task_id = ? AND pixels IS NOT NULL"
        with self._lock:
            rows = self._db.execute(query, (task_id,)).fetchall()
        return {row["name"]: Still.unpack(row["width"], row["height"], row["pixels"]) for row in rows}

    def task(self, task_id: str) -> Task | None:
        """Return a task by its id."""
        row = self._run(f"SELECT * FROM {_TASKS} WHERE task_id = ?", task_id)  # noqa: S608
        return _task(row) if row else None

    def credits(self) -> tuple[float, float]:
        """Return available and total credits."""
        total = float(self._setting("credits_total"))
        return total - self._value("SELECT coalesce(sum(credits_cost), 0) FROM tasks"), total

    def set_video(self, task_id: str, size: int, sha256: str | None) -> None:
        """Set size in bytes and SHA-256 of a task's video; None keeps a known SHA-256."""
        self._run("UPDATE tasks SET size = ?, sha256 = coalesce(?, sha256) WHERE task_id = ?", size, sha256, task_id)

    def snapshot(self) -> dict[str, Any]:
        """Return all posts and tasks, as `GET /_simulator/ledger` shows them."""
        with self._transaction():
            now = self.now()
            available, total = self.credits()
            counts = dict(self._db.execute("SELECT name, count FROM counts").fetchall())
            posts = [dict(row) for row in self._db.execute("SELECT * FROM posts ORDER BY number")]
            rows = self._db.execute(f"SELECT * FROM {_TASKS} ORDER BY number").fetchall()  # noqa: S608
        outcomes = [post["outcome"] for post in posts]
        names = ("polls", "credits_calls", "video_requests", "video_refused", "video_requests_with_key")
        totals = {"posted": len(posts), "billed": len(rows), "refused": outcomes.count("refused")}
        return {
            "simulator": True,
            "now": now,
            "totals": totals | {name: counts.get(name, 0) for name in names},
            "credits": {"available": available, "total": total, "spent": total - available},
            "tasks": [_entry(row, now) for row in rows],
            "requests": _by_request(posts),
            "posts": [post | {"request": json.loads(post["request"] or "null")} for post in posts],
        }

    def _add_media(self, task: Task, media: Iterable[CheckedMedium]) -> None:
        for medium in media:
            still = medium.still
            picture = (still.width, still.height, still.pack()) if still else (None, None, None)
            self._run(
                "INSERT INTO media VALUES (?, ?, ?, ?, ?, ?)", task.task_id, medium.name, medium.problem, *picture
            )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def _run(self, statement: str, *values: Any) -> Any:
        with self._lock:
            return self._db.execute(statement, values).fetchone()

    def _value(self, statement: str, *values: Any) -> Any:
        return self._run(statement, *values)[0]

    def _setting(self, name: str) -> Any:
        return self._value("SELECT value FROM settings WHERE name = ?", name)

    def _set_default(self, name: str, value: object) -> None:
        self._run("INSERT INTO settings VALUES (?, ?) ON CONFLICT DO NOTHING", name, value)


def _to_json(value: object) -> Any:
    return value.metadata if isinstance(value, Upload) else repr(value)


def _task(row: sqlite3.Row) -> Task:
    names = ("task_id", "take", "created_at", "finishes_at", "credits_cost", "problem")
    fields = {name: row[name] for name in names}
    return Task(request=json.loads(row["request"]), is_fetching=row["ended"] == 0, **fields)


def _entry(row: sqlite3.Row, now: float) -> dict[str, Any]:
    names = ("take", "created_at", "credits_cost", "polls", "video_requests", "sha256", "size")
    task = _task(row)
    entry = {name: row[name] for name in names}
    return {"task_id": task.task_id, "status": task.status(now), "request": task.request} | entry


def _by_request(posts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    entries: dict[str | None, dict[str, Any]] = {}
    for post in posts:
        empty = {"request": json.loads(post["request"] or "null"), "posted": 0, "billed": 0, "refused": 0, "ignored": 0}
        entry = entries.setdefault(post["request"], empty)
        entry["posted"] += 1
        entry[post["outcome"]] += 1
    return list(entries.values())
