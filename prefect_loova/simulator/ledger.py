"""The simulator's books in SQLite: tasks, credits, and what was asked. What is told to a client stands here first."""

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

from prefect_loova.simulator.media import Found
from prefect_loova.simulator.stills import Still
from prefect_loova.simulator.submits import Refusal, Submit, Upload

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
# Tasks without media have no fetch, and neither have those that older books bring along.
_TASKS = "tasks LEFT JOIN fetches USING (task_id)"


@dataclass(frozen=True)
class Task:
    """A task that was billed; its state is a matter of the clock and of its media. Times are seconds since 1970."""

    task_id: str
    request: dict[str, Any]
    take: int
    """How many tasks of the same request came before."""
    created_at: float
    finishes_at: float
    credits_cost: float
    is_fetching: bool = False
    """Whether its media are still awaited: until then it runs."""
    problem: str | None = None
    """Why it failed."""

    def status(self, now: float) -> str:
        """`running`, `succeeded` or `failed`."""
        if self.problem:
            return "failed"
        return "running" if self.is_fetching or now < self.finishes_at else "succeeded"

    @property
    def seed(self) -> str:
        """What the video looks like: another for each request, and for each task of the same request."""
        return hashlib.sha256(f"{self.take} {json.dumps(self.request, sort_keys=True)}".encode()).hexdigest()


class Ledger:
    """Tasks, credits and counts; safe to use from several threads.

    With a folder they survive a restart and a kill -9: each purchase is committed before its answer leaves.
    """

    def __init__(self, state: Path | None, credits: float, clock: Callable[[], float]) -> None:
        """Open the books in the folder `state` (made if missing; what they say of credits holds), or in memory."""
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
        # What is committed survives the process; it need not survive the machine.
        self._db.executescript(f"PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; {_SCHEMA}")
        with self._transaction():
            self._default("credits_total", credits)
            self._default("clock_offset", 0.0)
            self._default("secret", secrets.token_hex(32))

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def now(self) -> float:
        """The simulator's time, in seconds since 1970."""
        return self._clock() + float(self._setting("clock_offset"))

    def advance(self, seconds: float) -> None:
        """Move the simulator's time."""
        self._run("UPDATE settings SET value = value + ? WHERE name = 'clock_offset'", seconds)

    @property
    def secret(self) -> bytes:
        """Signs the URLs of the videos."""
        return str(self._setting("secret")).encode()

    def count(self, name: str, task_id: str | None = None) -> None:
        """Count one more `name`; with a task id also in the column `polls` or `video_requests` of that task."""
        with self._transaction():
            self._run("INSERT INTO counts VALUES (?, 1) ON CONFLICT DO UPDATE SET count = count + 1", name)
            if task_id is not None:
                self._run(f"UPDATE tasks SET {name} = {name} + 1 WHERE task_id = ?", task_id)  # noqa: S608

    def posted(self) -> int:
        """Write down that a submit arrived. Returns the number of the post."""
        with self._lock:
            added = self._db.execute("INSERT INTO posts (at, outcome) VALUES (?, 'ignored')", (self.now(),))
            return int(added.lastrowid or 0)

    def refused(self, post: int, message: str) -> None:
        """Write down that the submit was refused, and why."""
        self._run("UPDATE posts SET outcome = 'refused', message = ? WHERE number = ?", message, post)

    def read(self, post: int, fields: dict[str, Any]) -> None:
        """Write down what was asked for, valid or not."""
        request = json.dumps(fields, sort_keys=True, default=_facts)
        self._run("UPDATE posts SET request = ? WHERE number = ?", request, post)

    def buy(
        self,
        post: int,
        order: Submit,
        max_running: int,
        generation_seconds: float,
        found: Iterable[Found] | None = None,
    ) -> Task:
        """Bill an order and begin its task.

        Args:
            post: The number of the post that asked for it.
            order: What was asked for.
            max_running: How many tasks may run at a time.
            generation_seconds: How long the task runs.
            found: What is known of its media already; the task runs until `fetched`. None: nothing is awaited.

        Raises:
            Refusal: 429, `max_running` tasks run already; 402, the credits do not suffice.
        """
        request = json.dumps(order.body, sort_keys=True)
        with self._transaction():
            now, cost = self.now(), order.credits_cost
            if self._value(f"SELECT count(*) FROM {_TASKS} WHERE finishes_at > ? OR ended = 0", now) >= max_running:  # noqa: S608
                raise Refusal(429, f"Too many running tasks: at most {max_running}")
            available, _ = self.credits()
            if cost > available:
                raise Refusal(402, f"Insufficient credits: {cost:g} are needed, {available:g} are left")
            take = self._value("SELECT count(*) FROM tasks WHERE request = ?", request)
            task = Task(
                f"sim_{secrets.token_hex(8)}", order.body, take, now, now + generation_seconds, cost, found is not None
            )
            self._run(
                "INSERT INTO tasks (task_id, request, take, created_at, finishes_at, credits_cost)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                *(task.task_id, request, take, task.created_at, task.finishes_at, cost),
            )
            self._run("UPDATE posts SET outcome = 'billed', task_id = ? WHERE number = ?", task.task_id, post)
            if found is not None:
                self._run("INSERT INTO fetches (task_id) VALUES (?)", task.task_id)
                self._find(task, found)
        return task

    def fetched(self, task: Task, found: Iterable[Found], names: Iterable[str]) -> None:
        """Write down what came of a task's media, and that no more is awaited; the first problem by `names` ends it."""
        with self._transaction():
            self._find(task, found)
            rows = self._db.execute("SELECT name, problem FROM media WHERE task_id = ?", (task.task_id,)).fetchall()
            problems = {row["name"]: row["problem"] for row in rows if row["problem"]}
            problem = next((f"{name} {problems[name]}" for name in names if name in problems), None)
            ends = self.now() if problem else max(self.now(), task.finishes_at)
            self._run("UPDATE fetches SET ended = 1, problem = ? WHERE task_id = ?", problem, task.task_id)
            self._run("UPDATE tasks SET finishes_at = ? WHERE task_id = ?", ends, task.task_id)

    def unfetched(self) -> list[Task]:
        """The tasks whose media are awaited."""
        with self._lock:
            return [_task(row) for row in self._db.execute(f"SELECT * FROM {_TASKS} WHERE ended = 0")]  # noqa: S608

    def stills(self, task_id: str) -> dict[str, Still]:
        """The stills of a task's media, by the media's names."""
        query = "SELECT * FROM media WHERE task_id = ? AND pixels IS NOT NULL"
        with self._lock:
            rows = self._db.execute(query, (task_id,)).fetchall()
        return {row["name"]: Still.unpacked(row["width"], row["height"], row["pixels"]) for row in rows}

    def task(self, task_id: str) -> Task | None:
        """The task of this id."""
        row = self._run(f"SELECT * FROM {_TASKS} WHERE task_id = ?", task_id)  # noqa: S608
        return _task(row) if row else None

    def credits(self) -> tuple[float, float]:
        """Credits available and total."""
        total = float(self._setting("credits_total"))
        return total - self._value("SELECT coalesce(sum(credits_cost), 0) FROM tasks"), total

    def served(self, task_id: str, size: int, sha256: str | None) -> None:
        """Write down what the video of a task is: its size in bytes, and its checksum once it is known."""
        self._run("UPDATE tasks SET size = ?, sha256 = coalesce(?, sha256) WHERE task_id = ?", size, sha256, task_id)

    def ledger(self) -> dict[str, Any]:
        """Everything that was asked and billed: what `GET /_simulator/ledger` shows."""
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

    def _find(self, task: Task, found: Iterable[Found]) -> None:
        for one in found:
            still = (one.still.width, one.still.height, one.still.packed()) if one.still else (None, None, None)
            self._run("INSERT INTO media VALUES (?, ?, ?, ?, ?, ?)", task.task_id, one.name, one.problem, *still)

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

    def _default(self, name: str, value: object) -> None:
        self._run("INSERT INTO settings VALUES (?, ?) ON CONFLICT DO NOTHING", name, value)


def _facts(value: object) -> Any:
    # What else is in the fields came as JSON or text.
    return value.facts if isinstance(value, Upload) else repr(value)


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
    counted: dict[str | None, dict[str, Any]] = {}
    for post in posts:
        empty = {"request": json.loads(post["request"] or "null"), "posted": 0, "billed": 0, "refused": 0, "ignored": 0}
        entry = counted.setdefault(post["request"], empty)
        entry["posted"] += 1
        entry[post["outcome"]] += 1
    return list(counted.values())
