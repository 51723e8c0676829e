"""How many calls of this package lie between the flow of one video and what it is for: the paid POST and the upload.

Each function below calls the next one. `run_uncancelled`, `SaveLease.renew_until_done` and `_Sending.result` are not
links of a chain: they wait for a task that a function of the chain starts.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from prefect_loova import tasks
from prefect_loova.client import LoovaClient
from prefect_loova.flows.video import generate_video
from prefect_loova.jobs import save, submit
from prefect_loova.transfer import copy
from prefect_loova.transfer.object_calls import ObjectCalls
from prefect_loova.transfer.upload import Upload

PAID_POST = (
    generate_video.fn,
    tasks.submit_video.fn,
    submit.submit_video,
    submit._buy,
    LoovaClient.submit_video,
    LoovaClient._request,
)
FIRST_BYTE = (
    generate_video.fn,
    tasks.save_video.fn,
    save.save_video,
    save._transfer,
    copy.copy_video,
    copy._copy,
    Upload.write,
    Upload._send_part,
    Upload._upload_part,
    ObjectCalls.call,
)


@pytest.mark.parametrize(("chain", "most"), [(PAID_POST, 6), (FIRST_BYTE, 9)], ids=["paid POST", "first byte"])
def test_few_calls_lead_from_the_flow_to_the_request(chain: tuple[Callable[..., Any], ...], most: int) -> None:
    for caller, called in pairwise(chain):
        assert f"{called.__name__}(" in inspect.getsource(caller), f"{caller.__name__} does not call {called.__name__}"
    assert len(chain) - 1 <= most
