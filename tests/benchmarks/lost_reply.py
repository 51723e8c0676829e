"""What happens to the money when the answer to a paid POST is lost: our flow, and the packages that others would use.

    make bench-lost-reply
    make bench-lost-reply ARGS="--only openai"

A loopback server reads the whole POST, counts it as billed, and closes without an answer, or a gateway answers 502.
Each package makes its plainest documented call with its own defaults, twice, as a scheduler runs a script again.
The peers run in environments of their own (the inline metadata of the scripts in `peers/`), in their newest releases.
Nothing reaches a real service, and no key is used.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from prefect_loova.simulator.s3 import EmbeddedS3
from tests.benchmarks.billing import BillingServer, Received, Scenario, certificate
from tests.benchmarks.report import Cell, finish

PEERS_FOLDER = Path(__file__).parent / "peers"
ROOT = Path(__file__).parents[2]
MOST_SECONDS = 180.0
"""After this, a script is killed."""
SIDE_BY_SIDE = 3
"""Peers mostly sleep between their tries; so many are measured at the same time."""

NGINX = (
    "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n<center><h1>502 Bad Gateway</h1></center>\r\n"
    "<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
)
SCENARIOS = (
    Scenario("closed", "the connection is closed without an answer"),
    Scenario("nginx-502", "502 with nginx's page", "nginx", NGINX),
    # fal-client repeats a 502 by what the page says.
    Scenario("other-502", "502 with a page that names no nginx", "gateway", NGINX.replace("nginx", "gateway")),
)

_NEVER_AN_ID = frozenset({"host", "content-length", "content-type"})
_SETTINGS = re.compile(r"^(FAL|REPLICATE|RUNWAYML|OPENAI|LUMAAI|GOOGLE|GEMINI|ARK|VOLC|LOOVA|PREFECT|AWS|UV_PROJECT)")


@dataclass(frozen=True)
class Competitor:
    """Who is measured, by which script, and the path of its paid POST."""

    package: str
    script: str
    paid: str
    https: bool = False

    @property
    def file(self) -> Path:
        return PEERS_FOLDER / self.script


OURS = Competitor("prefect-loova", "ours.py", "/api/v1/video/seedance-2")
PEERS = (
    Competitor("fal-client", "fal_subscribe.py", "/fal-ai/veo3.1", https=True),
    Competitor("openai", "openai_videos.py", "/v1/videos"),
    Competitor("runwayml", "runway.py", "/v1/image_to_video"),
    Competitor("lumaai", "luma.py", "/dream-machine/v1/generations/video"),
    Competitor("volcengine-python-sdk", "ark.py", "/api/v3/contents/generations/tasks"),
    Competitor("replicate", "replicate_run.py", "/v1/models/google/veo-3/predictions"),
    Competitor(
        "google-genai", "google_veo.py", "/v1beta1/publishers/google/models/veo-3.1-generate-001:predictLongRunning"
    ),
)


@dataclass
class Run:
    """One run of a script: what it said, and what the server saw of it."""

    said: dict[str, Any]
    problem: str
    bills: list[Received]


@dataclass
class Row:
    """One line of the table."""

    package: str
    scenario: str
    version: str = "?"
    paid_posts: int | None = None
    paid_posts_again: int | None = None
    seconds: float | None = None
    outcome: str = ""
    outcome_again: str = ""
    left_with: list[str] = field(default_factory=list)
    can_list: bool = False
    changing_headers: dict[str, str] = field(default_factory=dict)
    other_requests: dict[str, int] = field(default_factory=dict)
    problem: str = ""


def uv() -> str:
    """The project's own uv, or one on the PATH."""
    own = ROOT / ".uv" / "bin" / "uv"
    found = str(own) if own.exists() else shutil.which("uv")
    if not found:
        raise SystemExit("uv is missing: run `make bench-lost-reply`, which installs it")
    return found


def environment_of(peer: Competitor) -> tuple[str | None, str]:
    """The Python of a script's own environment, brought to the newest releases; or None and why there is none."""
    clean = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT")}
    for command in (["sync", "--quiet", "--upgrade"], ["python", "find"]):
        done = subprocess.run(
            [uv(), *command, "--script", str(peer.file)],
            capture_output=True,
            text=True,
            env=clean,
            cwd=tempfile.gettempdir(),
        )
        if done.returncode:
            return None, " ".join(done.stderr.split())[:300] or f"uv {command[0]}: exit code {done.returncode}"
    return done.stdout.strip(), ""


def run(command: list[str], home: Path, settings: dict[str, str], server: BillingServer) -> Run:
    """Run a script once, in a home folder of its own, without anybody's keys and settings."""
    before = len(server.bills())
    clean = {name: value for name, value in os.environ.items() if not _SETTINGS.match(name)}
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=home,
        env={**clean, "HOME": str(home), "NO_PROXY": "*", **settings},
        start_new_session=True,
    )
    problem = ""
    try:
        out, err = process.communicate(timeout=MOST_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        problem = f"killed after {MOST_SECONDS:.0f} s"
    said: dict[str, Any] = {}
    for line in out.splitlines():
        if line.startswith("witness: "):
            said |= json.loads(line.removeprefix("witness: "))
    if "outcome" not in said and not problem:
        last = (err.strip() or "no output").splitlines()[-1]
        problem = f"exit code {process.returncode}: {last[:200]}"
    bills = server.bills()[before:]
    if "outcome" in said and not bills and before == 0:
        problem = f"its POST did not reach the loopback server: {said['outcome']}: {said['message'][:200]}"
    return Run(said, problem, bills)


def row_of(package: str, scenario: Scenario, server: BillingServer, first: Run, again: Run) -> Row:
    """The line of two runs, but for what is left in durable places."""
    row = Row(package, scenario.name, other_requests=server.others(), problem=first.problem or again.problem)
    if first.bills:
        row.paid_posts, row.paid_posts_again = len(first.bills), len(again.bills)
    row.version = first.said.get("version", "?")
    if "outcome" in first.said:
        row.seconds, row.outcome, row.can_list = (first.said[name] for name in ("seconds", "outcome", "can_list"))
        row.left_with = ids_held(first, again)
    row.outcome_again = again.said.get("outcome", "")
    row.changing_headers = changing_headers(first.bills, again.bills)
    return row


def ids_held(first: Run, again: Run) -> list[str]:
    """What the caller holds that names one purchase: it went out with a paid POST, and the next run sent another."""
    if not again.bills:
        return []  # nothing to compare with
    elsewhere = {value for request in again.bills for _, value in named_values(request)}
    carried: dict[str, set[int]] = {}
    for number, request in enumerate(first.bills):
        for _, value in named_values(request):
            if len(value) >= 8 and value not in elsewhere:
                carried.setdefault(value, set()).add(number)
    in_sight: set[int] = set()
    dug_up: set[int] = set()
    for value, numbers in carried.items():
        ways = [where for where, text in first.said["held"] if value in text]
        if any("__" not in way for way in ways):
            in_sight |= numbers
        elif ways:
            dug_up |= numbers
    places = {"in the error": in_sight, "in the errors that led to it": dug_up - in_sight}
    counts = [f"{len(numbers)} {where}" for where, numbers in places.items() if numbers]
    return [f"an id of {len(in_sight | dug_up)} of {len(first.bills)} POSTs ({', '.join(counts)})"] if counts else []


def named_values(request: Received) -> Iterator[tuple[str, str]]:
    """All that could be an id of the purchase: header values, and the texts of a JSON body."""
    yield from ((name, value) for name, value in request.headers.items() if name not in _NEVER_AN_ID)
    try:
        todo: list[Any] = [json.loads(request.body)]
    except ValueError:
        return
    while todo:
        thing = todo.pop()
        if isinstance(thing, dict | list):
            todo += thing.values() if isinstance(thing, dict) else thing
        elif isinstance(thing, str):
            yield "body", thing


def changing_headers(first: list[Received], again: list[Received]) -> dict[str, str]:
    """The headers that are not always the same; one that is the same within a run could be an idempotency key."""
    changing: dict[str, str] = {}
    if not again:
        return changing  # nothing to compare with
    for name in sorted({name for request in first + again for name in request.headers} - _NEVER_AN_ID):
        within, next_time = ([request.headers.get(name) for request in run] for run in (first, again))
        if len(set(within)) > 1:
            short = all(len(value or "") < 8 for value in within)
            changing[name] = ", ".join(map(str, within)) if short else "another with each POST"
        elif set(within) != set(next_time):
            changing[name] = "one for each call" if len(within) > 1 else "another with each run (of one POST)"
        elif "idempot" in name:
            changing[name] = "the same in both runs"
    return changing


def measure(
    who: Competitor,
    command: Callable[[BillingServer, Scenario], list[str]],
    settings: dict[str, str],
    tls: Path,
    durable: Callable[[Path, Scenario], list[str]],
) -> list[Row]:
    """All scenarios of one contestant, each twice against the same server."""
    rows = []
    for scenario in SCENARIOS:
        with (
            tempfile.TemporaryDirectory() as folder,
            BillingServer(who.paid, scenario, tls if who.https else None) as server,
        ):
            home = Path(folder)
            first, again = (run(command(server, scenario), home, settings, server) for _ in range(2))
            row = row_of(who.package, scenario, server, first, again)
            row.left_with += durable(home, scenario)
        rows.append(row)
        print(f"{who.package}, {scenario.title}: done", file=sys.stderr)
    return rows


def measure_peer(peer: Competitor, tls: Path) -> list[Row]:
    """A peer in its own environment; one that cannot be installed is a row too."""
    python, reason = environment_of(peer)
    if python is None:
        return [Row(peer.package, scenario.name, problem=f"not installable: {reason}") for scenario in SCENARIOS]
    return measure(
        peer,
        lambda server, _: [python, str(peer.file), server.url],
        {"SSL_CERT_FILE": str(tls), "PYTHONWARNINGS": "ignore"},
        tls,
        lambda home, _: [f"a file: {file.relative_to(home)}" for file in home.rglob("*") if file.is_file()],
    )


def measure_ours(s3: EmbeddedS3, tls: Path, folder: Path) -> list[Row]:
    """Our flow, and the job records that it leaves in a real S3 server."""

    def command(server: BillingServer, scenario: Scenario) -> list[str]:
        place = {"endpoint_url": s3.endpoint_url, "access_key": s3.access_key, "secret_key": s3.secret_key}
        place |= {"bucket": s3.bucket, "folder": scenario.name}
        return [sys.executable, str(OURS.file), server.url, json.dumps(place)]

    def records(_: Path, scenario: Scenario) -> list[str]:
        client = s3.client()
        listed = client.list_objects_v2(Bucket=s3.bucket, Prefix=f"{scenario.name}/").get("Contents", [])
        found = []
        for key in (entry["Key"] for entry in listed if entry["Key"].endswith("/record.json")):
            record = json.loads(client.get_object(Bucket=s3.bucket, Key=key)["Body"].read())
            for attempt in record["attempts"]:
                state, sent = attempt["state"], str(attempt["times"].get("submitting", "never"))
                found += [f"a job record: {state}, sent {sent[:19]} UTC", f"  s3://{s3.bucket}/{key}"]
        return found

    settings = {
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "150",
    }
    return measure(OURS, command, settings, tls, records)


def lines(rows: list[Row]) -> Iterator[list[Cell]]:
    """The lines of the table; what more is left to the caller is in the figures."""
    for scenario in SCENARIOS:
        for row in (row for row in rows if row.scenario == scenario.name):
            left = [*row.left_with, *filter(None, [row.problem])] or ["nothing"]
            more = f" (and {len(left) - 1} more)" if left[1:] else ""
            counts = row.paid_posts, row.paid_posts_again, row.seconds
            yield [f"{row.package} {row.version}, {scenario.title}", *counts, row.outcome, left[0] + more]


def notes(rows: list[Row]) -> Iterator[str]:
    """What the numbers alone do not say."""
    yield "Again: paid POSTs of the same script, started once more. Seconds: the first call alone, without imports"
    yield "and without the start of Prefect's server."
    with_key = sorted({r.package for r in rows if any("idempot" in name for name in r.changing_headers)})
    yield f"An idempotency key was sent by: {', '.join(with_key) or 'none'}. Headers of the paid POSTs that change:"
    seen: dict[str, None] = {}
    for row in rows:
        seen |= {f"  {row.package}: {name}: {how}": None for name, how in row.changing_headers.items()}
    yield from seen or ["  none"]
    if any(left.startswith("an id") for row in rows for left in row.left_with):
        yield "An id is one that the client made up and sent along. Ark's SDK has no call that takes it."
    listing = dict.fromkeys(row.package for row in rows if row.can_list)
    yield f"A person may look for the job with a call that lists jobs: {', '.join(listing) or 'none'}."
    others = dict.fromkeys(f"  {r.package}: {what}, {n} times" for r in rows for what, n in r.other_requests.items())
    if others:
        yield "Asked for beside the paid POST:"
        yield from others


def main() -> None:
    parser = argparse.ArgumentParser(description="What a lost answer to a paid POST costs.")
    parser.add_argument("--only", metavar="PACKAGE", action="append", help="one of them; may be repeated")
    args = parser.parse_args()
    names = [who.package for who in (*PEERS, OURS)]
    if wrong := set(args.only or ()) - set(names):
        parser.error(f"--only {', '.join(sorted(wrong))}: choose from {', '.join(names)}")
    peers = [peer for peer in PEERS if not args.only or peer.package in args.only]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        tls = certificate(folder)
        with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
            rows = [row for some in pool.map(lambda peer: measure_peer(peer, tls), peers) for row in some]
        if not args.only or OURS.package in args.only:
            with EmbeddedS3(folder) as s3:
                rows += measure_ours(s3, tls, folder)
    ours = [row for row in rows if row.package == OURS.package]
    finish(
        "lost-reply",
        "Paid POSTs where the answer is lost, by the plainest documented call with its defaults, and by the same again",
        ["", "paid POSTs", "again", "seconds", "error", "the caller is left with"],
        lines(rows),
        aims={
            f"{OURS.package} sends one paid POST, none again, and leaves the job record": all(
                (row.paid_posts, row.paid_posts_again) == (1, 0) and row.left_with for row in ours
            )
        },
        figures={"rows": [asdict(row) for row in rows]},
    )
    print("", *notes(rows), sep="\n")


if __name__ == "__main__":
    main()
