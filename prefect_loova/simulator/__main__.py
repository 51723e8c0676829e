"""The simulator on the command line: `python -m prefect_loova.simulator --help`."""

from __future__ import annotations

import argparse
import signal
import sqlite3
import sys
import threading
from typing import Any

from prefect_loova.simulator.faults import Fault, named
from prefect_loova.simulator.server import LoovaSimulator

_BANNER = """\
This is a SIMULATOR of Loova. Its videos are drawn by a formula, and its credits are not money.

  export LOOVA_BASE_URL={base_url}
  export LOOVA_API_KEY={api_key}

  {credits:g} credits left; tasks take {seconds:g} s; at most {max_running} run at a time; state: {state}
  ledger   {origin}/_simulator/ledger
  faults   {faults}

Ctrl-C stops it."""


def main(arguments: list[str] | None = None, prog: str = "python -m prefect_loova.simulator") -> int:
    """Serve until SIGINT or SIGTERM. Return the exit code."""
    parser = _parser(prog)
    options = vars(parser.parse_args(arguments))
    faults: list[str] = options.pop("fault")
    try:
        options["faults"] = [_fault(text) for text in faults]
    except ValueError as error:
        parser.error(f"argument --fault: {error}")
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        simulator = LoovaSimulator(**options).start()
    except (OSError, sqlite3.Error) as error:
        print(f"The simulator cannot start: {error}", file=sys.stderr)
        return 1
    print(_banner(simulator, options, faults), flush=True)
    while not stop.wait(3600):  # On Windows a signal does not interrupt a wait without a timeout.
        pass
    simulator.close()
    return 0


def _banner(simulator: LoovaSimulator, options: dict[str, Any], faults: list[str]) -> str:
    return _BANNER.format(
        base_url=simulator.base_url,
        origin=simulator.origin,
        api_key=options["api_key"],
        credits=simulator.ledger["credits"]["available"],
        seconds=options["generation_seconds"],
        max_running=options["max_running"],
        state=options["state"] or "in memory",
        faults=", ".join(faults) or f"none yet: POST them to {simulator.origin}/_simulator/faults",
    )


def _fault(text: str) -> Fault:
    """Parse `NAME`, `NAME:TIMES` (0: always), or a fault as JSON."""
    if text.startswith("{"):
        return Fault.model_validate_json(text)
    name, _, times = text.partition(":")
    return named(name, **({"times": int(times) or None} if times else {}))


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65_535:
        raise argparse.ArgumentTypeError(f"{port} was given: must be 0 to 65535")
    return port


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        usage="%(prog)s [OPTIONS]\nExample: %(prog)s --port 8765 --fault lost_reply:1",
        description="A simulated Loova on loopback, with real videos and fake money, for tests and trials.",
    )
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    add("--port", type=_port, default=8765, help="port of the API; 0 chooses one (default: %(default)s)")
    add("--video-port", type=_port, default=0, metavar="PORT", help="port of the videos; 0 chooses one (default)")
    add("--api-key", default="simulated-key", metavar="KEY", help="the accepted key (default: %(default)s)")
    add("--credits", type=float, default=10_000, metavar="N", help="credits at the start (default: %(default)s)")
    add("--generation-seconds", type=float, default=5, metavar="S", help="how long a task runs (default: %(default)s)")
    add("--max-running", type=int, default=6, metavar="N", help="how many tasks run at a time (default: %(default)s)")
    add("--url-lifetime", type=float, default=86_400, metavar="S", help="validity of video URLs (default: %(default)s)")
    add("--video-bytes", type=int, metavar="N", help="pad the videos to N bytes")
    add("--short-side", type=int, default=480, metavar="PX", help="shorter side of the videos (default: %(default)s)")
    add("--video-origin", metavar="URL", help="origin of video URLs, behind a proxy")
    add("--state", metavar="DIR", help="keep the ledger in this folder (default: in memory)")
    add("--fault", action="append", default=[], metavar="NAME[:TIMES]", help="add a fault, by name or as a JSON object")
    return parser


if __name__ == "__main__":
    sys.exit(main())
