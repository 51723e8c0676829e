"""The simulator's API, over real HTTP, as a public client of Loova would use it."""

from collections.abc import Iterator
from datetime import datetime
from functools import partial

import httpx
import pytest

from prefect_loova.simulator import LoovaSimulator

QUICKSTART = {
    "model": "seedance_2_0",
    "prompt": "A futuristic city at sunset",
    "function_mode": "omni_reference",
    "ratio": "16:9",
    "duration": 5,
    "image_urls": [],
    "audio_urls": [],
    "video_urls": [],
}
IMAGE, AUDIO, VIDEO = (f"https://example.com/{name}" for name in ("a.png", "a.mp3", "a.mp4"))

# Loading certificates takes 20 ms for each client, and plain http needs none.
get = partial(httpx.get, verify=False)
post = partial(httpx.post, verify=False)


@pytest.fixture
def loova() -> Iterator[LoovaSimulator]:
    with LoovaSimulator(generation_seconds=60, short_side=64, credits=1000, clock=lambda: 1_700_000_000.0) as simulator:
        yield simulator


@pytest.fixture
def client(loova: LoovaSimulator) -> Iterator[httpx.Client]:
    with httpx.Client(
        verify=False, base_url=loova.base_url, headers={"Authorization": f"Bearer {loova.api_key}"}
    ) as client:
        yield client


def submit(client: httpx.Client, **fields: object) -> httpx.Response:
    return client.post("/v1/video/seedance-2", json={"prompt": "A city"} | fields)


def refusal(answer: httpx.Response) -> str:
    envelope = answer.json()
    assert answer.status_code == envelope["code"] == 400
    assert envelope["data"] is None
    return str(envelope["message"])


def test_the_quickstart_runs_from_submit_to_video(client: httpx.Client, loova: LoovaSimulator) -> None:
    answer = client.post("/v1/video/seedance-2", json=QUICKSTART)
    envelope = answer.json()
    assert (answer.status_code, envelope["code"], envelope["message"]) == (200, 200, "success")
    assert envelope["trace_id"].startswith("simulator-")
    assert list(envelope["data"]) == ["task_id", "status", "created_at", "credits_cost"]
    assert envelope["data"]["status"] == "running"
    assert envelope["data"]["credits_cost"] == 75.0
    task_id, created_at = envelope["data"]["task_id"], envelope["data"]["created_at"]
    assert created_at == "2023-11-14T22:13:20Z"

    data = client.get("/v1/tasks", params={"task_id": task_id}).json()["data"]
    assert data["result"] is None
    assert (data["task_id"], data["status"], data["model"]) == (task_id, "running", "seedance_2_0")

    loova.advance(60)
    data = client.get("/v1/tasks", params={"task_id": task_id}).json()["data"]
    assert data["status"] == data["result"]["status"] == "succeeded"
    assert data["result"]["error_message"] is None
    assert (datetime.fromisoformat(data["result"]["finished_at"]) - datetime.fromisoformat(created_at)).seconds == 60
    assert get(data["result"]["video_url"]).content[4:8] == b"ftyp"


def test_both_documented_prefixes_lead_to_the_same_account(client: httpx.Client, loova: LoovaSimulator) -> None:
    task_id = client.post(f"{loova.origin}/v1/video/seedance-2", json=QUICKSTART).json()["data"]["task_id"]
    for prefix in ("/api/v1", "/v1"):
        found = client.get(f"{loova.origin}{prefix}/tasks", params={"task_id": task_id}).json()
        assert found["data"]["task_id"] == task_id
        credits = client.get(f"{loova.origin}{prefix}/credits").json()["data"]
        assert credits == {"api_available_credits": 925, "api_total_credits": 1000}


def test_a_form_with_files_counts_them_by_their_media_type(client: httpx.Client, loova: LoovaSimulator) -> None:
    form = {"prompt": "A city", "duration": "4", "functionMode": "omni_reference", "image_urls": [IMAGE, IMAGE + "?2"]}
    files = [("files", ("a.png", b"png", "image/png")), ("files", ("b.mp4", b"mp4", "video/mp4"))]
    answer = client.post("/v1/video/seedance-2", data=form, files=files)
    # A reference video doubles the price.
    assert answer.json()["data"]["credits_cost"] == 4 * 30
    request = loova.ledger["tasks"][0]["request"]
    assert request["image_urls"] == [IMAGE, IMAGE + "?2"]
    assert (request["function_mode"], request["duration"]) == ("omni_reference", 4)
    assert [(file["name"], file["media_type"], file["size"]) for file in request["files"]] == [
        ("a.png", "image/png", 3),
        ("b.mp4", "video/mp4", 3),
    ]


def test_files_and_urls_share_one_limit(client: httpx.Client) -> None:
    form = {"prompt": "A city", "image_urls": [f"{IMAGE}?{n}" for n in range(8)]}
    files = [("files", (f"{n}.png", b"png", "image/png")) for n in range(2)]
    assert "image_urls" in refusal(client.post("/v1/video/seedance-2", data=form, files=files))


@pytest.mark.parametrize(
    "file",
    [
        ("files", ("a.txt", b"text", "text/plain")),
        ("files", ("a.png", b"", "image/png")),
        ("file", ("a.png", b"png", "image/png")),
    ],
)
def test_a_file_that_is_not_media_is_refused(client: httpx.Client, file: tuple[str, tuple[str, bytes, str]]) -> None:
    assert file[0] in refusal(client.post("/v1/video/seedance-2", data={"prompt": "A city"}, files=[file]))


def test_the_mode_may_be_spelled_either_way(client: httpx.Client, loova: LoovaSimulator) -> None:
    for spelling in ("function_mode", "functionMode"):
        assert submit(client, **{spelling: "first_last_frames", "image_urls": [IMAGE]}).status_code == 200
    modes = [task["request"]["function_mode"] for task in loova.ledger["tasks"]]
    assert modes == ["first_last_frames", "first_last_frames"]
    assert "agree" in refusal(submit(client, function_mode="omni_reference", functionMode="first_last_frames"))


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("prompt", {"prompt": " \n"}),
        ("prompt", {"prompt": 5}),
        ("model", {"model": "seedance_3"}),
        ("function_mode", {"function_mode": "omni"}),
        ("ratio", {"ratio": "2:1"}),
        *(("duration", {"duration": value}) for value in (3, 16, 5.5, 5.0, "5", True, None)),
        ("image_urls", {"image_urls": [f"{IMAGE}?{n}" for n in range(10)]}),
        ("video_urls", {"video_urls": [VIDEO] * 4}),
        ("audio_urls", {"audio_urls": [AUDIO] * 4, "image_urls": [IMAGE]}),
        ("audio_urls", {"audio_urls": [AUDIO]}),
        ("image_urls", {"image_urls": IMAGE}),
        *(("image_urls", {"image_urls": [value]}) for value in ("a.png", "file:///a.png", "https://", 1)),
        ("image_urls", {"function_mode": "first_last_frames"}),
        ("image_urls", {"function_mode": "first_last_frames", "image_urls": [IMAGE] * 3}),
        ("audio_urls", {"function_mode": "first_last_frames", "image_urls": [IMAGE], "audio_urls": [AUDIO]}),
        ("video_urls", {"function_mode": "first_last_frames", "image_urls": [IMAGE], "video_urls": [VIDEO]}),
        ("files", {"files": ["a.png"]}),
    ],
)
def test_an_invalid_field_is_refused_by_name_and_not_billed(
    client: httpx.Client, loova: LoovaSimulator, field: str, fields: dict[str, object]
) -> None:
    assert refusal(submit(client, **fields)).startswith(f"{field}: ")
    assert loova.ledger["totals"] | {"posted": 1, "billed": 0, "refused": 1} == loova.ledger["totals"]


def test_a_refusal_quotes_text_that_is_not_unicode(client: httpx.Client) -> None:
    body = rb'{"prompt": "\ud800", "image_urls": ["\ud800"]}'
    answer = client.post("/v1/video/seedance-2", content=body, headers={"Content-Type": "application/json"})
    assert refusal(answer).startswith(r'image_urls: "\ud800" was given')


def test_a_refusal_names_every_violation(client: httpx.Client) -> None:
    message = refusal(client.post("/v1/video/seedance-2", json={"duration": 3, "ratio": "2:1"}))
    for part in (
        "prompt: is missing",
        "duration: 3 was given: must be an integer from 4 to 15",
        'ratio: "2:1" was given',
    ):
        assert part in message


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"prompt"', b"\xff"])
def test_a_body_that_is_not_a_json_object_is_refused(client: httpx.Client, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    assert refusal(client.post("/v1/video/seedance-2", content=body, headers=headers)).startswith("body: ")


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer wrong", "Basic simulated-key", "simulated-key"])
def test_only_the_right_key_is_accepted(loova: LoovaSimulator, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    answers = [
        post(f"{loova.base_url}/v1/video/seedance-2", json=QUICKSTART, headers=headers),
        get(f"{loova.base_url}/v1/tasks?task_id=x", headers=headers),
        get(f"{loova.base_url}/v1/credits", headers=headers),
    ]
    for answer in answers:
        assert answer.status_code == 401
        assert answer.json() | {"code": 401, "message": "Authentication failed", "data": None} == answer.json()
    assert loova.ledger["totals"]["billed"] == 0


def test_a_seventh_running_task_is_refused_until_one_finishes(client: httpx.Client, loova: LoovaSimulator) -> None:
    for _ in range(6):
        assert submit(client, model="seedance_2_0_fast").status_code == 200
    seventh = submit(client)
    assert seventh.status_code == seventh.json()["code"] == 429
    assert seventh.json()["message"] == "Too many running tasks: at most 6"
    loova.advance(60)
    assert submit(client).status_code == 200
    assert loova.ledger["totals"]["billed"] == 7


def test_prices_follow_the_table(client: httpx.Client) -> None:
    for model, media, price in (
        ("seedance_2_0", [], 15),
        ("seedance_2_0", [VIDEO], 30),
        ("seedance_2_0_fast", [], 10),
        ("seedance_2_0_fast", [VIDEO], 20),
    ):
        data = submit(client, model=model, video_urls=media, duration=4).json()["data"]
        assert data["credits_cost"] == 4 * price


def test_a_submit_without_enough_credits_is_refused(client: httpx.Client) -> None:
    for _ in range(2):
        assert submit(client, duration=15, video_urls=[VIDEO]).status_code == 200
    answer = submit(client, duration=15)
    assert answer.status_code == answer.json()["code"] == 402
    assert answer.json()["message"].startswith("Insufficient credits")
    assert client.get("/v1/credits").json()["data"] == {"api_available_credits": 100, "api_total_credits": 1000}


def test_every_error_comes_in_the_envelope(client: httpx.Client) -> None:
    answers = {
        404: [client.get("/v1/nothing"), client.get("/v1/tasks", params={"task_id": "nobody's"})],
        405: [client.get("/v1/video/seedance-2"), client.post("/v1/credits")],
        400: [client.get("/v1/tasks")],
        415: [client.post("/v1/video/seedance-2", content=b"x", headers={"Content-Type": "text/plain"})],
    }
    for status, given in answers.items():
        for answer in given:
            assert answer.status_code == answer.json()["code"] == status
            assert set(answer.json()) == {"code", "trace_id", "message", "data"}
            assert answer.json()["trace_id"].startswith("simulator-")


def test_the_ledger_counts_posts_bills_and_polls(client: httpx.Client, loova: LoovaSimulator) -> None:
    task_id = submit(client).json()["data"]["task_id"]
    submit(client, duration=3)
    submit(client)
    for _ in range(3):
        client.get("/v1/tasks", params={"task_id": task_id})
    client.get("/v1/credits")
    ledger = get(f"{loova.origin}/_simulator/ledger").json()
    assert ledger == loova.ledger
    assert (
        ledger["totals"] | {"posted": 3, "billed": 2, "refused": 1, "polls": 3, "credits_calls": 1} == ledger["totals"]
    )
    assert ledger["credits"] == {"available": 850, "total": 1000, "spent": 150}
    first, second = ledger["tasks"]
    assert (first["task_id"], first["polls"], first["status"], first["credits_cost"]) == (task_id, 3, "running", 75)
    assert (first["take"], second["take"], second["polls"]) == (0, 1, 0)
    by_request = [(entry["request"], entry["posted"], entry["billed"]) for entry in ledger["requests"]]
    assert by_request == [({"prompt": "A city"}, 2, 2), ({"prompt": "A city", "duration": 3}, 1, 0)]


def test_the_fixture_gives_each_test_its_own_simulator(loova_simulator: LoovaSimulator) -> None:
    headers = {"Authorization": f"Bearer {loova_simulator.api_key}"}
    with httpx.Client(verify=False, base_url=loova_simulator.base_url, headers=headers) as client:
        task_id = submit(client).json()["data"]["task_id"]
        assert client.get("/v1/tasks", params={"task_id": task_id}).json()["data"]["status"] == "succeeded"
    assert loova_simulator.ledger["totals"]["billed"] == 1
