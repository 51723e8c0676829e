"""Saving where the network is what limits: a link in front of the video's host, and one in front of S3.

    make bench-links
    make bench-links ARGS="--pairs 20,50,20,50 80,200,1,200 --mib 4 20 1024 --rounds 5"
    make bench-links ARGS="--everything"

A pair is the round trip in ms and the MB/s of the host's link, then those of the link to S3 (`shaped_link.py`). S3 is a
server over TLS that keeps nothing (`s3_sink.py`), so that two cores are not what limits. The floor is the slower of
"download alone" and "upload alone", each the fastest plain way that was tried, in the same run. The links themselves
are checked as well: against the time that a plain download and a plain upload take in theory. Of several runs the
fastest counts, and the most memory: what else runs on the machine only adds.

A copy cannot be as fast as the floor where the round trip matters: its last byte must first come from the host, then
reach S3, and then S3 must answer. The last column leaves this one round trip out.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from billing import certificate
from report import Cell, finish
from savers import MIB, PART
from saving import HERE, OURS, Film, Run, films, run_python

DOWNLOAD = "download alone, httpx"
AT_ONCE = "upload alone, one request"
UPLOADS = (AT_ONCE, "upload alone, 3 parts at a time", "upload alone, 10 parts at a time")
PEERS = ("httpx, upload_fileobj", "smart_open")
SMALL, LARGE = (4, 20), 1024
MOST_AT_ONCE = 64
"""The largest film that is sent in one request, in MiB."""
LEAST_RATE_OF_LARGE = 200
"""A film of 1 GiB goes over links of so many MB/s only: over others it takes minutes."""

Pair = tuple[float, float, float, float]
DEFAULT_PAIRS: tuple[Pair, ...] = (
    (1, 50, 1, 50),
    (20, 50, 20, 50),
    (80, 50, 80, 50),
    (80, 10, 1, 200),
    (1, 200, 80, 10),
    (20, 200, 20, 200),
    (80, 200, 80, 200),
)


@contextmanager
def served(*command: object) -> Iterator[int]:
    """A server in a process of its own; its port."""
    line = [sys.executable, *map(str, command)]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None and server.stdout is not None
        yield int(server.stdout.readline())
        server.stdin.close()


class Links:
    """A link to the host of films, and one to S3.

    Args:
        pair: Their round trips in ms and MB/s.
        host: The port of the host.
        s3: The port of S3.
    """

    def __init__(self, pair: Pair, host: int, s3: int) -> None:
        self.host_seconds, self.s3_seconds = pair[0] / 1000, pair[2] / 1000
        self._rates = pair[1] * 1e6, pair[3] * 1e6
        self._stack = ExitStack()
        link = HERE / "shaped_link.py"
        self._host = self._stack.enter_context(served(link, host, *pair[:2]))
        s3_port = self._stack.enter_context(served(link, s3, *pair[2:]))
        self._place = {"endpoint_url": f"https://127.0.0.1:{s3_port}", "access_key": "any", "secret_key": "any"}

    def close(self) -> None:
        """Take both away."""
        self._stack.close()

    def run(self, who: str, film: Film) -> Run:
        """Run one contestant."""
        url = urlsplit(film["url"])._replace(netloc=f"127.0.0.1:{self._host}").geturl()
        return run_python(who, film | {"url": url}, self._place | {"bucket": "bucket"})

    def theory(self, size: int) -> tuple[float, float]:
        """The seconds of a download that connects first, and of an upload over a connection that is there."""
        return 2 * self.host_seconds + size / self._rates[0], self.s3_seconds + size / self._rates[1]


def contestants(mib: int) -> list[str]:
    """Who runs with a film of this size."""
    uploads = [name for name in UPLOADS if (mib <= MOST_AT_ONCE if name == AT_ONCE else mib * MIB > PART)]
    return [OURS, DOWNLOAD, *uploads, *(PEERS if mib <= MOST_AT_ONCE else ())]


def compare(links: Links, film: Film, results: dict[str, Run]) -> tuple[list[list[Cell]], dict[str, bool]]:
    """The lines of one pair and size, and which aims were reached."""
    seconds = {who: result["seconds"] for who, result in results.items()}
    upload = min(took for who, took in seconds.items() if who.startswith("upload"))
    floor = max(seconds[DOWNLOAD], upload)
    theory = dict(zip((DOWNLOAD, AT_ONCE), links.theory(film["size"]), strict=True))
    lines: list[list[Cell]] = [
        [
            who,
            result["seconds"],
            theory.get(who),
            result["seconds"] / floor,
            None if "alone" in who else (result["seconds"] - links.s3_seconds) / floor,
            result["cpu"],
            result["over_idle_mib"],
        ]
        for who, result in results.items()
    ]
    aims = {
        "within 1.05 of the floor": seconds[OURS] <= 1.05 * floor,
        "under 64 MiB over an idle process": results[OURS]["over_idle_mib"] < 64,
    }
    for who, expected in theory.items():
        if who in seconds:
            aims[f"the link takes its time, within 10% and 30 ms: {who.partition(' ')[0]}"] = (
                -0.01 <= seconds[who] - expected <= expected / 10 + 0.03
            )
    return lines, aims


def every_pair() -> list[Pair]:
    """All round trips and rates, the same ones and different ones on both sides."""
    sides = list(itertools.product((1, 20, 80), (10, 50, 200)))
    return [(*host, *s3) for host in sides for s3 in sides]


def pair_of(text: str) -> Pair:
    """A pair from the command line."""
    host_ms, host_rate, s3_ms, s3_rate = map(float, text.split(","))
    return host_ms, host_rate, s3_ms, s3_rate


def parsed() -> argparse.Namespace:
    """The arguments."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pairs", nargs="+", type=pair_of, metavar="MS,MB,MS,MB")
    parser.add_argument("--everything", action="store_true", help="all 81 pairs of links (hours)")
    parser.add_argument("--mib", type=int, nargs="+", help="for all pairs (default: 4 and 20; 1024 over 200 MB/s)")
    parser.add_argument("--rounds", type=int, default=2, help="for all but 1 GiB, which runs once")
    arguments = parser.parse_args()
    arguments.pairs = arguments.pairs or (every_pair() if arguments.everything else DEFAULT_PAIRS)
    return arguments


def main() -> None:
    """Measure, and print."""
    arguments = parsed()
    rows: list[list[Cell]] = []
    aims: dict[str, bool] = {}
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, films(arguments.mib or [*SMALL, LARGE]) as film:
        trusted = certificate(Path(folder))
        os.environ["AWS_CA_BUNDLE"] = str(trusted)
        host = urlsplit(film[0]["url"]).port or 0
        with served(HERE / "s3_sink.py", trusted) as s3:
            for pair in arguments.pairs:
                links = Links(pair, host, s3)
                slowest = min(pair[1], pair[3])
                for mib in arguments.mib or [*SMALL, *([LARGE] if slowest >= LEAST_RATE_OF_LARGE else [])]:
                    rounds = arguments.rounds if mib < LARGE else 1
                    runs: dict[str, list[Run]] = {who: [] for who in contestants(mib)}
                    for _ in range(rounds):
                        for who, found in runs.items():
                            found.append(links.run(who, film[mib]))
                    results = {
                        who: {name: min(run[name] for run in found) for name in found[0] if name != "sha256"}
                        | {"over_idle_mib": max(run["over_idle_mib"] for run in found)}
                        for who, found in runs.items()
                    }
                    name = "{:g} ms, {:g} MB/s; {:g} ms, {:g} MB/s".format(*pair) + f"; {mib} MiB"
                    figures[name] = {"best": results, "runs": runs}
                    lines, reached = compare(links, film[mib], results)
                    rows += [[f"{name}: {line[0]}", rounds, *line[1:]] for line in lines]
                    aims |= {f"{aim}: {name}": is_reached for aim, is_reached in reached.items()}
                    print(f"{name} is done", file=sys.stderr, flush=True)
                links.close()
    finish(
        "links",
        "A video from its URL into S3 over links (of the host; of S3): seconds, and times the floor",
        ["who", "runs", "seconds", "theory", "of floor", "less a round trip", "CPU s", "over idle MiB"],
        rows,
        aims=aims,
        figures=figures,
        packages=["smart-open"],
    )


if __name__ == "__main__":
    main()
