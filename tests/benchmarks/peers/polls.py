"""Drive an SDK's own waiting through hours in seconds: its sleeps move a clock, and its requests are answered in place.

`time.sleep`, `time.time` and `time.monotonic` are this clock's, and httpx's transport answers by it, without a network.
Prints the seconds at which the SDK looked, for a generation that takes 3 hours: when it ends changes nothing before.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

HOURS_3 = 3 * 3600.0
Answer = Callable[[Any, bool], tuple[bool, Any]]
"""Takes a request of httpx: whether it is a look, and the JSON of its answer, by whether the generation has ended."""


class Clock:
    """Seconds that pass by sleeping only."""

    def __init__(self) -> None:
        self.now = 0.0
        self.looks: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def drive(package: str, call: Callable[[], object], answer: Answer, *, runs: int = 1, held: float = 0.0) -> None:
    """Print what an SDK does, as one line of JSON.

    Args:
        package: The distribution.
        call: Its plainest documented call that waits; made `runs` times, with a seed each.
        answer: The service.
        held: For how long the service holds the answer to the POST if the generation has not ended, in seconds.
    """
    clock = Clock()
    epoch = time.time()
    time.sleep = clock.sleep
    time.time = lambda: epoch + clock.now
    time.monotonic = lambda: clock.now

    # openai has moved to httpx2, which is httpx under another name.
    httpx: Any = next(sys.modules[name] for name in ("httpx2", "httpx") if name in sys.modules)

    def handle(_: object, request: Any) -> Any:
        if request.method == "POST":
            clock.now += held
        is_look, body = answer(request, clock.now >= HOURS_3)
        if is_look:
            clock.looks.append(round(clock.now, 3))
        return httpx.Response(200, json=body, request=request)

    httpx.HTTPTransport.handle_request = handle
    polls, gave_up = [], ""
    for seed in range(runs):
        random.seed(seed)
        clock.now, clock.looks = 0.0, []
        try:
            call()
        except Exception as error:
            gave_up = type(error).__name__
        polls.append(clock.looks)
    said = {"version": version(package), "polls": polls, "held": held, "gave_up": gave_up}
    sys.stdout.write(json.dumps(said) + "\n")
