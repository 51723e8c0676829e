"""The simulator's video host: real mp4 videos behind signed URLs."""

import hashlib
import io
from collections.abc import Iterator
from functools import partial
from urllib.parse import urlsplit

import av
import httpx
import pytest

from prefect_loova.simulator import LoovaSimulator

GIB = 1 << 30

# Loading certificates takes 20 ms for each client, and plain http needs none.
get = partial(httpx.get, verify=False)
head = partial(httpx.head, verify=False)
post = partial(httpx.post, verify=False)


def video_url(loova: LoovaSimulator, **fields: object) -> str:
    """Buy a video and return its URL."""
    headers = {"Authorization": f"Bearer {loova.api_key}"}
    with httpx.Client(verify=False, base_url=loova.base_url, headers=headers) as client:
        posted = client.post("/v1/video/seedance-2", json={"prompt": "A city", "duration": 4} | fields).json()
        polled = client.get("/v1/tasks", params={"task_id": posted["data"]["task_id"]}).json()
    return str(polled["data"]["result"]["video_url"])


def polled_url(loova: LoovaSimulator, task_id: str) -> str:
    headers = {"Authorization": f"Bearer {loova.api_key}"}
    answer = get(f"{loova.base_url}/v1/tasks?task_id={task_id}", headers=headers)
    return str(answer.json()["data"]["result"]["video_url"])


@pytest.fixture
def loova() -> Iterator[LoovaSimulator]:
    with LoovaSimulator(generation_seconds=0, short_side=64) as simulator:
        yield simulator


@pytest.mark.parametrize(
    ("ratio", "duration"), [("16:9", 4), ("9:16", 5), ("1:1", 15), ("4:3", 6), ("3:4", 4), ("21:9", 7)]
)
def test_a_video_has_the_requested_ratio_and_duration(loova: LoovaSimulator, ratio: str, duration: int) -> None:
    content = get(video_url(loova, ratio=ratio, duration=duration)).content
    with av.open(io.BytesIO(content)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert sum(1 for _ in container.decode(stream)) == duration * 24
        assert container.duration == duration * 1_000_000
        wide, high = (int(part) for part in ratio.split(":"))
        assert stream.width * high == stream.height * wide


def test_a_video_moves() -> None:
    with LoovaSimulator(generation_seconds=0) as loova:
        content = get(video_url(loova)).content
    with av.open(io.BytesIO(content)) as container:
        first, *_, last = container.decode(video=0)
        assert (first.width, first.height) == (864, 486)
        assert bytes(first.planes[0]) != bytes(last.planes[0])


def test_other_prompts_and_other_takes_are_other_videos(loova: LoovaSimulator) -> None:
    prompts = ("A city", "A city", "A village")
    contents = {get(video_url(loova, prompt=prompt)).content for prompt in prompts}
    assert len(contents) == 3


def test_a_video_has_the_same_bytes_each_time_and_the_ledger_has_its_checksum(loova: LoovaSimulator) -> None:
    url = video_url(loova)
    task = loova.ledger["tasks"][0]
    assert (task["sha256"], task["size"]) == (None, None)
    first, second = get(url), get(url)
    assert first.content == second.content
    assert first.headers["etag"] == second.headers["etag"]
    assert first.headers["content-type"] == "video/mp4"
    task = loova.ledger["tasks"][0]
    assert task["sha256"] == hashlib.sha256(first.content).hexdigest() == loova.sha256(task["task_id"])
    assert (task["size"], task["video_requests"]) == (len(first.content), 2)


def test_videos_are_on_another_host_that_refuses_the_key(loova: LoovaSimulator) -> None:
    url = video_url(loova)
    assert urlsplit(url).netloc != urlsplit(loova.base_url).netloc
    answer = get(url, headers={"Authorization": f"Bearer {loova.api_key}"})
    assert answer.status_code == 400
    assert loova.ledger["totals"]["video_requests_with_key"] == 1


def test_a_url_without_the_right_signature_is_refused(loova: LoovaSimulator) -> None:
    url = video_url(loova)
    other = video_url(loova)
    path, query = url.split("?")
    forged = [
        path,
        url[:-1] + ("0" if url[-1] != "0" else "1"),
        other.split("?")[0] + "?" + query,
        url.replace("=1", "=2"),
    ]
    assert [get(one).status_code for one in forged] == [403] * 4


def test_a_url_expires_and_a_poll_gives_a_fresh_one() -> None:
    with LoovaSimulator(generation_seconds=0, short_side=64, url_lifetime=60) as loova:
        url = video_url(loova)
        task_id = loova.ledger["tasks"][0]["task_id"]
        loova.advance(59)
        assert get(url).status_code == 200
        loova.advance(3)
        assert get(url).status_code == 403
        fresh = polled_url(loova, task_id)
        assert fresh != url
        assert get(fresh).status_code == 200


def test_a_running_task_has_no_video() -> None:
    with LoovaSimulator(generation_seconds=60, short_side=64) as loova:
        headers = {"Authorization": f"Bearer {loova.api_key}"}
        posted = post(f"{loova.base_url}/v1/video/seedance-2", json={"prompt": "A city"}, headers=headers).json()
        loova.advance(61)
        url = polled_url(loova, posted["data"]["task_id"])
        loova.advance(-61)
        assert get(url).status_code == 404


def test_head_returns_the_length_without_the_body(loova: LoovaSimulator) -> None:
    url = video_url(loova)
    without, whole = head(url), get(url)
    assert without.content == b""
    for name in ("content-length", "etag", "accept-ranges", "content-type", "last-modified"):
        assert without.headers[name] == whole.headers[name]
    assert without.headers["accept-ranges"] == "bytes"
    assert without.headers["content-length"] == str(len(whole.content))


def test_a_range_returns_that_part_of_the_video(loova: LoovaSimulator) -> None:
    url = video_url(loova)
    whole = get(url).content
    size = len(whole)
    for asked, start, stop in (
        ("bytes=0-0", 0, 1),
        ("bytes=100-199", 100, 200),
        ("bytes=1000-", 1000, size),
        (f"bytes=1000-{size + 5}", 1000, size),
        ("bytes=-10", size - 10, size),
    ):
        part = get(url, headers={"Range": asked})
        assert part.status_code == 206
        assert part.headers["content-range"] == f"bytes {start}-{stop - 1}/{size}"
        assert part.content == whole[start:stop]


def test_an_invalid_range_returns_everything_and_one_behind_the_end_nothing(loova: LoovaSimulator) -> None:
    url = video_url(loova)
    for asked in ("bytes=", "bytes=-", "bytes=5-2", "bytes=0-1,5-6", "lines=1-2"):
        assert get(url, headers={"Range": asked}).status_code == 200
    size = len(get(url).content)
    behind = get(url, headers={"Range": f"bytes={size}-"})
    assert behind.status_code == 416
    assert behind.headers["content-range"] == f"bytes */{size}"


def test_a_range_holds_only_if_the_content_is_still_the_same(loova: LoovaSimulator) -> None:
    url = video_url(loova)
    whole = head(url).headers
    for validator, status in ((whole["etag"], 206), (whole["last-modified"], 206), ('"other"', 200)):
        answer = get(url, headers={"Range": "bytes=10-", "If-Range": validator})
        assert answer.status_code == status


def test_padding_makes_a_valid_mp4_of_any_size() -> None:
    with LoovaSimulator(generation_seconds=0, short_side=64, video_bytes=3_000_001) as loova:
        content = get(video_url(loova)).content
        task = loova.ledger["tasks"][0]
        assert task["size"] == len(content) == 3_000_001
        assert task["sha256"] is None
        answer = get(f"{loova.origin}/_simulator/tasks/{task['task_id']}/sha256").json()
        assert answer["sha256"] == hashlib.sha256(content).hexdigest() == loova.ledger["tasks"][0]["sha256"]
    with av.open(io.BytesIO(content)) as container:
        assert container.duration == 4_000_000
        assert sum(1 for _ in container.decode(video=0)) == 96


def test_a_huge_video_has_correct_ranges_far_from_its_start() -> None:
    with LoovaSimulator(generation_seconds=0, short_side=64, video_bytes=5 * GIB) as loova:
        url = video_url(loova)
        assert head(url).headers["content-length"] == str(5 * GIB)
        long = get(url, headers={"Range": f"bytes={4 * GIB}-{4 * GIB + 2_999_999}"}).content
        inner = get(url, headers={"Range": f"bytes={4 * GIB + 1_500_000}-{4 * GIB + 1_500_099}"}).content
        assert len(long) == 3_000_000
        assert inner == long[1_500_000:1_500_100]
        assert long[:1_000_000] != long[1_000_000:2_000_000]
