"""The simulator's faults, as they arrive over the wire."""

import hashlib
import io
import time
from collections.abc import Iterator
from functools import partial

import av
import httpx
import pytest

from prefect_loova.simulator import FAULTS, Fault, LoovaSimulator

# Loading certificates takes 20 ms for each client, and plain http needs none.
delete = partial(httpx.delete, verify=False)
get = partial(httpx.get, verify=False)
head = partial(httpx.head, verify=False)
post = partial(httpx.post, verify=False)
stream = partial(httpx.stream, verify=False)


@pytest.fixture
def loova() -> Iterator[LoovaSimulator]:
    with LoovaSimulator(generation_seconds=0, short_side=64) as simulator:
        yield simulator


@pytest.fixture
def client(loova: LoovaSimulator) -> Iterator[httpx.Client]:
    with httpx.Client(
        verify=False, base_url=loova.base_url, headers={"Authorization": f"Bearer {loova.api_key}"}
    ) as client:
        yield client


def submit(client: httpx.Client, prompt: str = "A city") -> httpx.Response:
    return client.post("/v1/video/seedance-2", json={"prompt": prompt, "duration": 4})


def poll(client: httpx.Client, task_id: str) -> httpx.Response:
    return client.get("/v1/tasks", params={"task_id": task_id})


def buy(client: httpx.Client, prompt: str = "A city") -> str:
    return str(submit(client, prompt).json()["data"]["task_id"])


def url_of(client: httpx.Client) -> str:
    return str(poll(client, buy(client)).json()["data"]["result"]["video_url"])


def billed(loova: LoovaSimulator) -> int:
    return int(loova.ledger["totals"]["billed"])


def test_a_lost_reply_closes_the_connection_without_a_byte_and_bills(
    client: httpx.Client, loova: LoovaSimulator
) -> None:
    loova.fail("lost_reply")
    with pytest.raises(httpx.RemoteProtocolError, match="without sending a response"):
        submit(client)
    assert billed(loova) == 1
    assert submit(client).status_code == 200
    assert billed(loova) == 2


def test_a_lost_request_bills_nothing(client: httpx.Client, loova: LoovaSimulator) -> None:
    loova.fail("lost_request")
    with pytest.raises(httpx.RemoteProtocolError, match="without sending a response"):
        submit(client)
    assert loova.ledger["totals"] | {"posted": 1, "billed": 0, "refused": 0} == loova.ledger["totals"]


def test_a_reset_is_a_reset(client: httpx.Client, loova: LoovaSimulator) -> None:
    loova.fail("reset_reply")
    with pytest.raises(httpx.ReadError, match="reset"):
        submit(client)
    assert billed(loova) == 1


def test_a_reply_can_end_in_the_middle(client: httpx.Client, loova: LoovaSimulator) -> None:
    loova.fail("cut_reply")
    with pytest.raises(httpx.RemoteProtocolError, match="received 20 bytes"):
        submit(client)
    assert billed(loova) == 1


def test_a_gateway_error_comes_before_or_after_billing(client: httpx.Client, loova: LoovaSimulator) -> None:
    for name, bills in (("bad_gateway", 0), ("bad_gateway_after_billing", 1)):
        loova.fail(name)
        answer = submit(client)
        assert (answer.status_code, billed(loova)) == (502, bills)
        assert answer.headers["content-type"] == "text/html"
        assert "nginx" in answer.text


def test_a_success_code_may_come_without_data(client: httpx.Client, loova: LoovaSimulator) -> None:
    for name, message in (
        ("success_code_without_data", "success"),
        ("too_many_running_tasks_as_success", "Too many running tasks: at most 6"),
    ):
        loova.fail(name)
        answer = submit(client)
        assert answer.status_code == 200
        assert answer.json() | {"code": 200, "message": message, "data": None} == answer.json()
    assert billed(loova) == 1


def test_the_contradiction_of_the_quickstart_stays(client: httpx.Client, loova: LoovaSimulator) -> None:
    task_id = buy(client)
    loova.fail("contradiction")
    for _ in range(3):
        data = poll(client, task_id).json()["data"]
        assert (data["status"], data["result"]["status"]) == ("running", "succeeded")
        assert data["result"]["video_url"]


def test_a_failed_generation_stays_failed_and_the_next_task_succeeds(
    client: httpx.Client, loova: LoovaSimulator
) -> None:
    loova.fail("generation_failed")
    first, second = buy(client), buy(client)
    for _ in range(2):
        data = poll(client, first).json()["data"]
        assert data["status"] == data["result"]["status"] == "failed"
        assert data["result"]["video_url"] is None
        assert data["result"]["error_message"]
        assert poll(client, second).json()["data"]["status"] == "succeeded"


def test_a_fault_hits_the_named_requests_the_given_number_of_times(client: httpx.Client, loova: LoovaSimulator) -> None:
    loova.fail(on="submit", status=503, apply=False, prompt="village", times=2, skip=1)
    villages = [submit(client, "A village").status_code for _ in range(4)]
    assert (villages, submit(client, "A city").status_code) == ([200, 503, 503, 200], 200)
    loova.fail("bad_gateway", on="credits", times=None)
    assert [client.get("/v1/credits").status_code for _ in range(3)] == [502] * 3
    loova.clear_faults()
    assert client.get("/v1/credits").status_code == 200


def test_a_fault_can_wait_and_add_headers(client: httpx.Client, loova: LoovaSimulator) -> None:
    loova.fail("unavailable", delay_seconds=0.1, headers={"Retry-After": "7"})
    began = time.monotonic()
    answer = submit(client)
    assert time.monotonic() - began >= 0.1
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")


def test_faults_can_be_added_over_http(client: httpx.Client, loova: LoovaSimulator) -> None:
    faults = f"{loova.origin}/_simulator/faults"
    added = post(faults, json=[{"name": "lost_reply", "times": 2}, {"on": "poll", "status": 500}])
    assert [fault["on"] for fault in added.json()] == ["submit", "poll"]
    with pytest.raises(httpx.RemoteProtocolError):
        submit(client)
    assert [(fault["on"], fault["hits"]) for fault in get(faults).json()] == [("submit", 1), ("poll", 0)]
    assert delete(faults).json() == []
    assert submit(client).status_code == 200
    for wrong in ({"name": "nonsense"}, {"on": "poll", "speed": 5}, {"on": "poll", "strip_box": "moov"}, 5, []):
        assert post(faults, json=wrong).status_code == (200 if wrong == [] else 400)


def test_a_fault_with_an_unknown_name_or_field_is_an_error(loova: LoovaSimulator) -> None:
    with pytest.raises(ValueError, match=r"'lost_replies' was given: must be one of lost_reply"):
        loova.fail("lost_replies")
    with pytest.raises(ValueError, match="sped"):
        loova.fail(on="poll", sped=5)


@pytest.mark.parametrize("name", [name for name, fault in FAULTS.items() if fault.on != "video"])
def test_every_named_fault_of_the_api_ends(client: httpx.Client, loova: LoovaSimulator, name: str) -> None:
    loova.fail(name, delay_seconds=0)
    try:
        task_id = buy(client)
        for _ in range(2):
            poll(client, task_id)
    except (httpx.TransportError, ValueError, TypeError):
        pass
    assert billed(loova) == int(FAULTS[name].apply)


def test_every_named_fault_of_a_download_works(client: httpx.Client, loova: LoovaSimulator) -> None:
    url = url_of(client)
    whole = get(url).content
    expected = {
        "video_403": (403, b"Forbidden"),
        "video_404": (404, b"Not found"),
        "video_html": (200, b"<html><body>Please wait</body></html>"),
        "video_empty": (200, b""),
        "video_short": (200, whole[:-1000]),
    }
    for name, (status, content) in expected.items():
        loova.fail(name)
        answer = get(url)
        assert (answer.status_code, answer.content) == (status, content)
    assert get(url).content == whole


def test_a_short_video_is_not_resumed_as_if_it_were_the_whole(client: httpx.Client, loova: LoovaSimulator) -> None:
    url = url_of(client)
    loova.fail("video_short")
    etag = head(url).headers["etag"]
    assert get(url, headers={"Range": "bytes=100-", "If-Range": etag}).status_code == 200


def test_a_cut_download_can_be_resumed(client: httpx.Client, loova: LoovaSimulator) -> None:
    url = url_of(client)
    for name, error in (("video_cut", httpx.RemoteProtocolError), ("video_reset", httpx.ReadError)):
        loova.fail(name)
        got = b""
        with pytest.raises(error), stream("GET", url) as answer:
            for chunk in answer.iter_raw():
                got += chunk
        assert len(got) == 5000
        rest = get(url, headers={"Range": f"bytes={len(got)}-", "If-Range": answer.headers["etag"]})
        assert rest.status_code == 206
        assert hashlib.sha256(got + rest.content).hexdigest() == loova.ledger["tasks"][0]["sha256"]


def test_a_video_without_moov_does_not_play(client: httpx.Client, loova: LoovaSimulator) -> None:
    url = url_of(client)
    loova.fail("video_without_moov")
    content = get(url).content
    assert content[4:8] == b"ftyp"
    assert b"moov" not in content
    with pytest.raises(av.error.InvalidDataError):
        av.open(io.BytesIO(content))


def test_a_redirect_leads_where_it_says(client: httpx.Client, loova: LoovaSimulator) -> None:
    url = url_of(client)
    loova.fail("redirect")
    answer = get(url, follow_redirects=True)
    assert [step.headers["location"] for step in answer.history] == [url]
    assert answer.content[4:8] == b"ftyp"
    loova.fail(Fault(on="video", redirect_to="https://example.com/v.mp4"), status=307)
    answer = get(url)
    assert (answer.status_code, answer.headers["location"]) == (307, "https://example.com/v.mp4")
