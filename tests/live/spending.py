"""What may spend credits: an allowance, and a folder that remembers each submit.

A submit is written to the folder before it is sent, and its answer right after it. A later run takes the answer from
there and sends nothing. If a submit has no answer there, it may be billed: no run submits anything more.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import httpx

from tests.live.model import Exchange, is_in_doubt
from tests.live.submits import Submit

NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol)


class Folder:
    """The exchanges that must not be repeated, one file each. The files are for this machine: they are not redacted."""

    def __init__(self, path: Path) -> None:
        """Open the folder.

        Args:
            path: The folder; it is made when the first exchange is kept.
        """
        self.path = path

    def answered(self, name: str) -> Exchange | None:
        """Return the exchange that an earlier run kept."""
        kept = self._read(name)
        return Exchange(**kept) if kept else None

    @property
    def task_id(self) -> str | None:
        """The task that was bought."""
        return next((one.response.task_id for one in self._submits() if one and one.response.task_id), None)

    @property
    def closed(self) -> str | None:
        """Why nothing more may be submitted."""
        if self.task_id:
            return "a task was bought already, and one is enough"
        for path in self._files():
            one = self.answered(path.stem)
            if one is None or (one.on == "submit" and is_in_doubt(one)):
                said = one.says if one else "its answer is not known"
                return (
                    f"{path} was sent and may be billed ({said}): look at the credits; to submit again, remove the file"
                )
        return None

    def keep(self, exchange: Exchange) -> Exchange:
        """Write an exchange durably, and return it."""
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        new = self.path / f"{exchange.name}.new"
        _write(new, json.dumps(asdict(exchange)), os.O_TRUNC)
        new.replace(self._file(exchange.name))
        return exchange

    def submit(self, name: str, send: Callable[[], Exchange]) -> Exchange:
        """Send a submit that no run has sent before, and keep its answer.

        Raises:
            FileExistsError: Another run has sent it.
            httpx.HTTPError: There is no answer. The file stays, unless the submit was surely not sent.
        """
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write(self._file(name), "{}", os.O_EXCL)
        try:
            return self.keep(send())
        except NOT_SENT:
            self._file(name).unlink()
            raise

    def _files(self) -> list[Path]:
        return sorted(self.path.glob("*.json")) if self.path.exists() else []

    def _submits(self) -> list[Exchange | None]:
        return [self.answered(path.stem) for path in self._files()]

    def _file(self, name: str) -> Path:
        return self.path / f"{name}.json"

    def _read(self, name: str) -> dict[str, object]:
        try:
            kept = json.loads(self._file(name).read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return kept if isinstance(kept, dict) else {}


def _write(path: Path, text: str, flag: int) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | flag, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class Purse:
    """Sends submits within an allowance.

    Args:
        folder: Remembers the submits.
        allowance: The credits that this run may spend.
    """

    def __init__(self, folder: Folder, allowance: float) -> None:
        self._folder = folder
        self._allowance = allowance

    def submit(self, submit: Submit, send: Callable[[], Exchange]) -> Exchange | str:
        """Return the answer to a submit, from an earlier run if there is one, or why it was not sent."""
        kept = self._folder.answered(submit.name)
        reason = self._folder.closed or ""
        if kept or reason:
            return kept or reason
        if submit.price > self._allowance:
            return f"it may cost {submit.price:g} credits, and the allowance is {self._allowance:g}"
        try:
            return self._folder.submit(submit.name, send)
        except FileExistsError:
            return "another run has just sent it"
        except httpx.HTTPError as error:
            return f"no answer to the submit: {type(error).__name__}"
