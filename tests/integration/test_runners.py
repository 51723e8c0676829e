"""Where sync users run their flows: Prefect's task runners on threads, Dask and Ray, and a Jupyter notebook.

In an environment of its own, because Dask, Ray and Jupyter are no dependencies: `make test-runners`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prefect import flow, unmapped
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from prefect_loova import SavedVideo, VideoRequest, save_video, submit_video, wait_for_video
from prefect_loova._prefect.context import Location

pytestmark = [pytest.mark.runners, pytest.mark.usefixtures("prefect_server"), pytest.mark.one_s3_server]
PROMPTS = [f"boat {number} at sunset" for number in range(12)]


def on_threads() -> TaskRunner[Any]:
    return ThreadPoolTaskRunner(max_workers=6)


def on_dask() -> TaskRunner[Any]:
    from prefect_dask import DaskTaskRunner

    return DaskTaskRunner(cluster_kwargs={"n_workers": 2, "threads_per_worker": 3, "dashboard_address": None})


def on_ray() -> TaskRunner[Any]:
    from prefect_ray import RayTaskRunner

    return RayTaskRunner(init_kwargs={"num_cpus": 2, "include_dashboard": False})


@pytest.mark.parametrize("runner", [on_threads, on_dask, on_ray])
def test_a_batch_of_twelve_is_billed_once_on(
    runner: Callable[[], TaskRunner[Any]], place: Location, loova: Any
) -> None:
    @flow(task_runner=runner())
    def twelve() -> list[SavedVideo]:
        location = {"credentials": unmapped(place.credentials), "bucket": unmapped(place.bucket)}
        requests = [VideoRequest(prompt=prompt, duration=4) for prompt in PROMPTS]
        submissions = submit_video.map(requests, **location)
        ended = wait_for_video.map(submissions, **location, poll_seconds=0.1)
        return save_video.map(submissions, **location, wait_for=[ended]).result()

    first = twelve()
    assert len({video.video for video in first}) == len(PROMPTS)
    before = loova.ledger["totals"]  # Loova may have refused a POST for which it had no free slot
    assert before["billed"] == len(PROMPTS)

    again = twelve()
    assert [video.video for video in again] == [video.video for video in first]
    assert loova.ledger["totals"] == before


def test_a_notebook_makes_a_video_with_and_without_await(
    environment: dict[str, str], bucket: Any, loova: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nbformat
    from nbclient import NotebookClient

    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PREFECT_INTEGRATIONS_LOOVA_POLL_SECONDS", "0.1")
    cells = [
        "from prefect import flow\n"
        "from prefect_aws import AwsCredentials, S3Bucket\n"
        "from prefect_loova import LoovaCredentials, VideoRequest, generate_video\n"
        "from os import environ\n"
        "location = {\n"
        '    "credentials": LoovaCredentials(api_key=environ["LOOVA_API_KEY"], base_url=environ["LOOVA_BASE_URL"]),\n'
        f'    "bucket": S3Bucket(bucket_name="{bucket.name}", credentials=AwsCredentials()),\n'
        "}\n"
        'request = VideoRequest(prompt="a boat at sunset", duration=4)',
        "video = await generate_video(request, **location)\nprint(video.video)",
        "@flow\ndef morning():\n    return generate_video(request, **location)\n\nprint(morning().video)",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = [
        output.text.strip().splitlines()[-1]
        for cell in notebook.cells[1:]
        for output in cell.outputs
        if output.output_type == "stream" and output.name == "stdout"
    ]
    assert len(printed) == 2
    assert printed[0] == printed[1]
    assert printed[0].startswith(f"s3://{bucket.name}/loova/")
    assert loova.ledger["totals"]["posted"] == 1
