"""One contestant, in a process of its own: makes videos, and prints what it cost as one line of JSON.

What to do comes as JSON on stdin: a module of `peers`, the prompts, where everything is, and options.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys
from typing import Any

from tests.benchmarks.environment import Where
from tests.benchmarks.watching import Watched


async def _make(spec: dict[str, Any]) -> dict[str, Any]:
    module = importlib.import_module(f"tests.benchmarks.peers.{spec['who']}")
    where, prompts = Where(**spec["where"]), spec["prompts"]
    options: dict[str, Any] = spec["options"]
    in_turn, with_log = options.pop("in_turn", False), options.pop("log", False)
    watched, s3 = Watched(where, os.environ.get("PREFECT_API_URL", ""), keep_log=with_log), module.s3_client(where)
    if in_turn:  # the first starts what later ones find started
        await module.make(prompts[:1], where, s3, **options)
        prompts = prompts[1:]
    watched.watch_s3(s3)
    with watched:
        for some in [[prompt] for prompt in prompts] if in_turn else [prompts]:
            saved = await module.make(some, where, s3, **options)
            assert saved == len(some), f"{saved} of {len(some)} videos were saved"
    return watched.figures() | {"quarters": watched.quarters()} | ({"log": watched.log} if with_log else {})


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_make(json.load(sys.stdin)))))
