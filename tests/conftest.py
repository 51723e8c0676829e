"""Fixtures for all tests: two S3 servers, started when they are first asked for, and a fresh bucket for each test."""

from __future__ import annotations

import functools
import gc
import logging
import signal
from collections.abc import Iterator

import pytest
from botocore.loaders import JSONFileLoader, Loader
from hypothesis import settings

from tests.crash.conftest import SEED
from tests.support.prefect_server import PrefectServer
from tests.support.s3_servers import Bucket, S3Server, moto, seaweedfs

# No example may be too slow: two runners share two processors.
settings.register_profile("shared", deadline=None)
settings.load_profile("shared")

# Each block of AWS keys reads two megabytes of JSON again, a tenth of the time of the flows' tests.
Loader.FILE_LOADER_CLASS = staticmethod(functools.cache(JSONFileLoader))
JSONFileLoader.load_file = functools.cache(JSONFileLoader.load_file)

SERVERS = {
    "prefect-2": (
        "test_flow",
        "test_models",
        "test_showing",
        "test_story_takes",
        "test_storyboard",
    ),
    "prefect-3": (
        "test_automations",
        "test_docstrings",
        "test_media_flows",
        "test_publishing_flow",
        "test_resolve",
        "test_reviews",
        "test_sync",
        "test_telemetry",
        "test_videos_block",
    ),
}
"""Tests whose Prefect server is another than that of the rest, so that runners have about the same time to work.

The tests at one server run one after the other, and the longest of these rows decides how long everything takes.
"""


EXAMPLES = ("test_docs", "test_docstrings", "test_readme")
"""Tests of what the documentation shows: with a Prefect server, they run it, and otherwise they read it."""

MEDIA = ("test_media_flows", "test_odd_media", "test_storyboard")
"""Tests that decode and encode media all the time, beside those in `tests/unit/video`."""


def pytest_configure() -> None:
    """Let child processes get Ctrl-C: a shell ignores SIGINT for what it runs in the background."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header() -> str:
    """The seed of the crash schedules, which are the same in each run unless it is changed."""
    return f"crash schedules: seed {SEED} (CRASH_SEED)"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each S3 server in turn, unless a test says that one will do: the core below it is tested on both.

    The jobs run again on moto with `make test-moto`.
    """
    if "s3_server" in metafunc.fixturenames:
        one = metafunc.definition.get_closest_marker("one_s3_server")
        again = "jobs" in metafunc.definition.path.parts
        moto = pytest.param("moto", marks=pytest.mark.moto if again else ())
        metafunc.parametrize("s3_server", ["seaweedfs"] if one else ["seaweedfs", moto], indirect=True, scope="session")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What runs one after the other: the tests at a Prefect test server, the commands, and the crash tests."""
    for item in items:
        if item.path.parent.name == "video" or item.path.stem in MEDIA:
            item.add_marker(pytest.mark.media)
        if "prefect_server" in getattr(item, "fixturenames", ()):
            if item.path.stem in EXAMPLES:
                item.add_marker(pytest.mark.examples)
            server = next((name for name, stems in SERVERS.items() if item.path.stem in stems), "prefect")
            item.add_marker(pytest.mark.xdist_group(server))
        elif "crash" in item.path.parts:
            item.add_marker(pytest.mark.xdist_group("crash"))
        elif "killable_prefect" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("commands"))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Two Prefect servers in one process are flaky and slow: never go on without the groups."""
    gc.collect()
    gc.freeze()
    grouped = [item for item in session.items if item.get_closest_marker("xdist_group")]
    if getattr(session.config.option, "loadgroup", False) and not all("@" in item.nodeid for item in grouped):
        raise pytest.UsageError("pytest-xdist did not group the tests")


@pytest.fixture(scope="session")
def on_seaweedfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """SeaweedFS, started once."""
    with seaweedfs(tmp_path_factory.mktemp("seaweedfs")) as server:
        yield server


@pytest.fixture(scope="session")
def on_moto() -> Iterator[S3Server]:
    """moto, started once."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with moto() as server:
        yield server


@pytest.fixture(scope="session")
def s3_server(request: pytest.FixtureRequest) -> S3Server:
    """Each S3 server in turn: every test that uses it, or `bucket`, runs on both, but for those marked."""
    server: S3Server = request.getfixturevalue(f"on_{request.param}")
    return server


@pytest.fixture(scope="session")
def killable_prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """A Prefect server in a process of its own, which the crash tests kill and start again."""
    with PrefectServer(tmp_path_factory.mktemp("prefect")) as server:
        yield server


@pytest.fixture
def bucket(s3_server: S3Server) -> Iterator[Bucket]:
    """A fresh bucket: its name, with clients of one who may do everything, and of one under the minimal IAM policy."""
    made = s3_server.make_bucket()
    yield made
    made.remove()
