"""How fast the machine is while something else runs: one and the same loop, timed every few seconds."""

from __future__ import annotations

import json
import statistics
import threading
import time

_EVERY_SECONDS = 5.0
_TURNS = 20
_THINGS = [{"id": str(number), "name": f"video {number}", "tags": ["loova", "video"]} for number in range(2_000)]


class Gauge:
    """Enter it around what is measured, and read `loop_ms` after it.

    The loop writes and reads JSON, which takes memory, as most of what is measured does. Its processor time is taken,
    not its wall time: to wait for a processor that the measured work has is no slowness of the machine.
    """

    def __init__(self) -> None:
        self._taken: list[float] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Gauge:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def loop_ms(self) -> float:
        """What the loop took in the middle of all times, in milliseconds of processor time."""
        return statistics.median(self._taken)

    def _sample(self) -> None:
        while True:
            started = time.thread_time()
            for _ in range(_TURNS):
                json.loads(json.dumps(_THINGS))
            self._taken.append(1000 * (time.thread_time() - started))
            if self._over.wait(_EVERY_SECONDS):
                return
