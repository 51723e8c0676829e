"""The simulator fetches reference media, checks them, and shows them in its videos."""

import hashlib
import io
import math
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import av
import httpx
import pytest
from PIL import Image, ImageChops, ImageOps, ImageStat

from prefect_loova.simulator import LoovaSimulator, media, render
from tests.support.films import fill, film
from tests.support.media_host import Host, Page

SIZE = (256, 144)
WAV = b"RIFF\x24\0\0\0WAVEfmt "
get = partial(httpx.get, verify=False)


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    yield host
    host.close()


@pytest.fixture
def loova() -> Iterator[LoovaSimulator]:
    with LoovaSimulator(generation_seconds=0, short_side=144) as simulator:
        yield simulator


# Helpers.


def ask(loova: LoovaSimulator, method: str, path: str, **options: Any) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {loova.api_key}"}
    with httpx.Client(verify=False, base_url=loova.base_url, headers=headers, timeout=60) as client:
        envelope: dict[str, Any] = client.request(method, path, **options).json()
    assert envelope["code"] == 200, envelope
    data: dict[str, Any] = envelope["data"]
    return data


def submit(loova: LoovaSimulator, **fields: Any) -> str:
    request = {"prompt": "A city", "duration": 4} | fields
    return str(ask(loova, "POST", "/v1/video/seedance-2", json=request)["task_id"])


def submit_form(loova: LoovaSimulator, *files: tuple[bytes, str], **fields: str) -> str:
    parts = [("files", (f"file-{n}", content, media_type)) for n, (content, media_type) in enumerate(files)]
    form = {"prompt": "A city", "duration": "4"} | fields
    return str(ask(loova, "POST", "/v1/video/seedance-2", data=form, files=parts)["task_id"])


def polled(loova: LoovaSimulator, task_id: str) -> dict[str, Any]:
    return ask(loova, "GET", "/v1/tasks", params={"task_id": task_id})


def ended(loova: LoovaSimulator, task_id: str) -> dict[str, Any]:
    """Poll a task until it no longer runs."""
    until = time.monotonic() + 60
    while (data := polled(loova, task_id))["status"] == "running":
        assert time.monotonic() < until, data
        time.sleep(0.02)
    return data


def video(loova: LoovaSimulator, task_id: str) -> bytes:
    result = ended(loova, task_id)["result"]
    assert result["status"] == "succeeded", result
    return get(result["video_url"], timeout=60).content


def error_of(loova: LoovaSimulator, task_id: str) -> str:
    data = ended(loova, task_id)
    assert data["status"] == data["result"]["status"] == "failed"
    assert data["result"]["video_url"] is None
    assert data["result"]["finished_at"]
    return str(data["result"]["error_message"])


# Pictures.


def natural(seed: int, size: tuple[int, int] = SIZE) -> Image.Image:
    """A picture of soft spots in many colours."""
    return Image.frombytes("RGB", (8, 5), random.Random(seed).randbytes(120)).resize(size, Image.Resampling.BICUBIC)


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def frames(content: bytes) -> list[Image.Image]:
    with av.open(io.BytesIO(content)) as container:
        return [frame.to_image() for frame in container.decode(video=0)]


def psnr(one: Image.Image, other: Image.Image) -> float:
    """The similarity of two pictures, in dB. Above 30 the difference is hard to see."""
    rms = ImageStat.Stat(ImageChops.difference(one.convert("RGB"), other.convert("RGB"))).rms
    return 20 * math.log10(255 / max(1e-9, math.sqrt(sum(value * value for value in rms) / 3)))


@pytest.mark.parametrize(("kind", "media_type"), [("PNG", "image/png"), ("JPEG", "image/jpeg"), ("WEBP", "image/webp")])
@pytest.mark.parametrize("way", ["url", "form"])
def test_the_first_frame_is_the_first_image(
    loova: LoovaSimulator, host: Host, kind: str, media_type: str, way: str
) -> None:
    content = encoded(natural(1, (512, 288)), kind, quality=95)
    if way == "url":
        task_id = submit(loova, image_urls=[host.put("/a?signature=secret", content)])
    else:
        task_id = submit_form(loova, (content, media_type))
    shown = frames(video(loova, task_id))
    assert len(shown) == 96
    for number in (0, 5):
        assert psnr(shown[number], natural(1)) > 33
    assert psnr(shown[15], natural(1)) < psnr(shown[8], natural(1)) < 30
    assert psnr(shown[24], natural(1)) < 20
    (file,) = loova.ledger["tasks"][0]["request"].get("files", [{}])
    assert set(file) == (set() if way == "url" else {"name", "media_type", "size", "sha256"})


@pytest.mark.parametrize("size", [(400, 144), (256, 600), (31, 40)])
def test_a_picture_of_another_shape_fills_the_frame_from_its_centre(
    loova: LoovaSimulator, host: Host, size: tuple[int, int]
) -> None:
    picture = natural(2, size)
    shown = frames(video(loova, submit(loova, image_urls=[host.put("/a", encoded(picture))])))
    assert psnr(shown[0], ImageOps.fit(picture, SIZE, Image.Resampling.BICUBIC)) > 30


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_photo_is_upright(loova: LoovaSimulator, host: Host, orientation: int) -> None:
    picture = natural(3, SIZE if orientation == 3 else SIZE[::-1])
    exif = picture.getexif()
    exif[0x112] = orientation
    content = encoded(picture, "JPEG", quality=95, exif=exif)
    shown = frames(video(loova, submit(loova, image_urls=[host.put("/a", content)])))
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    assert psnr(shown[0], upright) > 33


def test_colours_are_right_in_hd_too(host: Host) -> None:
    content = encoded(Image.new("RGB", SIZE, (30, 200, 60)))
    with LoovaSimulator(generation_seconds=0, short_side=720) as loova:
        made = video(loova, submit(loova, image_urls=[host.put("/a", content)]))
    with av.open(io.BytesIO(made)) as container:
        frame = next(container.decode(video=0))
    assert (frame.width, frame.height) == (1280, 720)
    rgb = frame.reformat(format="rgb24", src_colorspace="ITU709", src_color_range="MPEG")
    assert all(abs(is_ - was) < 5 for is_, was in zip(bytes(rgb.planes[0])[:3], (30, 200, 60), strict=True))


def test_the_last_frame_is_the_second_image(loova: LoovaSimulator, host: Host) -> None:
    urls = [host.put(f"/{n}", encoded(natural(n))) for n in (1, 2)]
    shown = frames(video(loova, submit(loova, function_mode="first_last_frames", image_urls=urls)))
    assert psnr(shown[0], natural(1)) > 33
    for number in (-1, -6):
        assert psnr(shown[number], natural(2)) > 33
    assert psnr(shown[-24], natural(2)) < psnr(shown[-16], natural(2)) < psnr(shown[-8], natural(2)) < 30


def test_a_form_gives_first_and_last_frame_and_urls_come_before_files(loova: LoovaSimulator, host: Host) -> None:
    files = [(encoded(natural(n)), "image/png") for n in (1, 2)]
    mode = {"functionMode": "first_last_frames"}
    both = frames(video(loova, submit_form(loova, *files, **mode)))
    mixed = frames(video(loova, submit_form(loova, files[0], **mode, image_urls=host.put("/3", encoded(natural(3))))))
    pairs = [(both[0], 1), (both[-1], 2), (mixed[0], 3), (mixed[-1], 1)]
    assert [round(psnr(frame, natural(n))) > 33 for frame, n in pairs] == [True] * 4


def test_each_picture_has_its_place_and_a_video_shows_its_first_frame(loova: LoovaSimulator, host: Host) -> None:
    def paint(frame: av.VideoFrame, number: int) -> None:
        fill(frame, (120, 90, 170) if number == 0 else (200, 128, 128))

    images = [host.put(f"/{n}", encoded(natural(n))) for n in range(3)]
    clip = host.put("/clip.mp4", film(20, SIZE, paint=paint))
    shown = frames(video(loova, submit(loova, image_urls=images, video_urls=[clip], duration=5)))
    for n in range(3):
        assert psnr(shown[n * 120 // 4], natural(n)) > 33
    with av.open(io.BytesIO(film(1, SIZE, paint=paint))) as container:
        first = next(container.decode(video=0)).to_image()
    assert psnr(shown[90], first) > 33


def test_twelve_pictures_in_the_shortest_video_each_have_a_part(loova: LoovaSimulator, host: Host) -> None:
    images = [host.put(f"/{n}", encoded(natural(n))) for n in range(9)]
    clips = [host.put("/clip", film(2, SIZE))] * 3
    shown = frames(video(loova, submit(loova, image_urls=images, video_urls=clips)))
    assert all(psnr(shown[n * 8], natural(n)) > 33 for n in range(9))
    assert all(psnr(shown[n * 8 + 7], natural(n)) < 30 for n in range(9))


def test_a_story_goes_on_where_the_shot_before_it_ended(loova: LoovaSimulator, host: Host) -> None:
    ends = frames(video(loova, submit(loova)))[-1]
    for generation in range(3):
        url = host.put(f"/{generation}", encoded(ends))
        shown = frames(video(loova, submit(loova, image_urls=[url])))
        assert psnr(shown[0], ends) > 33
        ends = shown[-1]


# Unusable media.

PNG = encoded(natural(1))
HTML = b"<!doctype html><title>Please wait</title>"
FORMATS = "image data (jpeg, png, webp, gif, bmp or tiff)"


@pytest.mark.parametrize(
    ("name", "page", "message"),
    [
        ("image_urls", Page(PNG, status=403), "could not be fetched: HTTP 403"),
        ("image_urls", Page(status=404), "could not be fetched: HTTP 404"),
        ("image_urls", Page(PNG, status=302), "could not be fetched: HTTP 302"),
        ("image_urls", Page(PNG, headers={"Content-Length": "9999999"}), "could not be fetched: RemoteProtocolError"),
        ("image_urls", Page(HTML, headers={"Content-Type": "image/png"}), f"is not {FORMATS}"),
        ("image_urls", Page(), "is empty"),
        ("image_urls", Page(film(1)), f"is not {FORMATS}"),
        ("image_urls", Page(PNG[:500]), "could not be decoded"),
        ("image_urls", Page(encoded(Image.new("L", (9000, 1)))), "is too long and narrow"),
        ("image_urls", Page(encoded(Image.new("1", (9000, 9000)))), "could not be decoded"),
        ("image_urls", Page(PNG.ljust((64 << 20) + 1, b"\0")), "is larger than 64 MiB"),
        ("video_urls", Page(PNG), "is not video data (mp4 or mov)"),
        ("video_urls", Page(film(1)[:300]), "could not be decoded"),
        ("audio_urls", Page(PNG), "is not audio data (mp3 or wav)"),
    ],
)  # fmt: skip
def test_an_unusable_medium_fails_its_task_which_stays_billed(
    loova: LoovaSimulator, host: Host, name: str, page: Page, message: str
) -> None:
    good = host.put("/good", PNG)
    bad = host.put("/bad?signature=secret", page.body, status=page.status, headers=page.headers)
    task_id = submit(loova, **{"image_urls": [good]} | {name: [good, bad] if name == "image_urls" else [bad]})
    place = f"{name}.1" if name == "image_urls" else f"{name}.0"
    assert error_of(loova, task_id) == f"{place} {message}"
    assert loova.ledger["credits"]["spent"] == (120 if name == "video_urls" else 60)
    assert [task["status"] for task in loova.ledger["tasks"]] == ["failed"]
    with pytest.raises(KeyError):
        loova.sha256(task_id)
    assert get(f"{loova.origin}/_simulator/tasks/{task_id}/sha256").status_code == 404


def test_a_body_of_unknown_length_is_bounded_too(loova: LoovaSimulator, host: Host) -> None:
    url = host.put("/a", PNG.ljust((64 << 20) + 1, b"\0"), says_length=False)
    assert error_of(loova, submit(loova, image_urls=[url])) == "image_urls.0 is larger than 64 MiB"


def test_a_file_of_a_form_is_checked_by_its_content(loova: LoovaSimulator) -> None:
    task_id = submit_form(loova, (PNG, "image/png"), (PNG, "video/mp4"))
    assert error_of(loova, task_id) == "files.1 is not video data (mp4 or mov)"
    assert loova.ledger["totals"]["billed"] == 1
    large = submit_form(loova, (PNG.ljust((64 << 20) + 1, b"\0"), "image/png"))
    assert error_of(loova, large) == "files.0 is larger than 64 MiB"


def test_sound_shows_nothing(loova: LoovaSimulator, host: Host) -> None:
    sounds = [host.put(f"/{n}", sound) for n, sound in enumerate((b"ID3\x04rest", b"\xff\xfb\x90\x64rest", WAV))]
    shown = frames(video(loova, submit(loova, image_urls=[host.put("/a", PNG)], audio_urls=sounds)))
    assert psnr(shown[0], natural(1)) > 33


def test_a_host_that_is_missing_or_too_slow_fails_the_task(
    loova: LoovaSimulator, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = Host()
    url = gone.url("/a?signature=secret")
    gone.close()
    message = error_of(loova, submit(loova, image_urls=[url]))
    assert message == "image_urls.0 could not be fetched: no connection to its host"
    monkeypatch.setattr(media, "SECONDS", 0.2)
    slow = host.put("/slow", PNG, gate=threading.Event())
    assert (
        error_of(loova, submit(loova, image_urls=[slow]))
        == "image_urls.0 could not be fetched: it took longer than 0.2 s"
    )


def test_three_redirects_are_followed_and_a_loop_is_not(loova: LoovaSimulator, host: Host) -> None:
    host.put("/3", PNG)
    for n in range(3):
        host.put(f"/{n}", status=302, headers={"Location": f"/{n + 1}"})
    assert psnr(frames(video(loova, submit(loova, image_urls=[host.url("/0")])))[0], natural(1)) > 33
    loop = host.put("/loop", status=302, headers={"Location": "/loop"})
    message = error_of(loova, submit(loova, image_urls=[loop]))
    assert message == "image_urls.0 could not be fetched: more than 3 redirects"
    assert host.asked.count("/loop") == 4
    elsewhere = host.put("/elsewhere?signature=secret", status=302, headers={"Location": "file:///etc/passwd"})
    message = error_of(loova, submit(loova, image_urls=[elsewhere]))
    assert message == "image_urls.0 could not be fetched: UnsupportedProtocol"


# Time and restarts.


def wait_until(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not true():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_slow_host_delays_only_its_own_task(host: Host) -> None:
    gate = threading.Event()
    url = host.put("/slow", PNG, gate=gate)
    with LoovaSimulator(generation_seconds=60, short_side=144, max_running=2) as loova:
        slow = submit(loova, image_urls=[url])
        wait_until(lambda: host.asked == ["/slow"])
        loova.advance(120)
        assert (polled(loova, slow)["status"], polled(loova, slow)["result"]) == ("running", None)
        with pytest.raises(KeyError):
            loova.sha256(slow)
        other = submit(loova)
        with pytest.raises(AssertionError, match="429"):
            submit(loova)
        loova.advance(61)
        assert polled(loova, other)["status"] == "succeeded"
        assert polled(loova, slow)["status"] == "running"
        gate.set()
        assert psnr(frames(video(loova, slow))[0], natural(1)) > 33


def test_a_task_with_fetched_media_runs_its_full_time_and_one_with_a_bad_medium_fails_early(host: Host) -> None:
    with LoovaSimulator(generation_seconds=60, short_side=144) as loova:
        good, bad = submit(loova, image_urls=[host.put("/a", PNG)]), submit(loova, image_urls=[host.url("/none")])
        assert error_of(loova, bad) == "image_urls.0 could not be fetched: HTTP 404"
        wait_until(lambda: not loova._ledger.fetching_tasks())
        assert polled(loova, good)["status"] == "running"
        loova.advance(61)
        assert polled(loova, good)["status"] == "succeeded"


def test_a_video_is_the_same_in_parts_and_after_a_restart(tmp_path: Path, host: Host) -> None:
    url = host.put("/a", PNG)
    with LoovaSimulator(generation_seconds=0, short_side=144, state=tmp_path) as loova:
        by_url, by_form = submit(loova, image_urls=[url]), submit_form(loova, (PNG, "image/png"))
        whole, other = video(loova, by_url), video(loova, by_form)
        sums = [hashlib.sha256(content).hexdigest() for content in (whole, other)]
        part = get(polled(loova, by_url)["result"]["video_url"], headers={"Range": "bytes=1000-1999"})
        assert part.content == whole[1000:2000]
    host.pages.clear()
    render._render.cache_clear()
    with LoovaSimulator(generation_seconds=0, short_side=144, state=tmp_path) as loova:
        assert [loova.sha256(by_url), loova.sha256(by_form)] == sums
        assert video(loova, by_url) == whole
    assert host.asked == ["/a"]
    with LoovaSimulator(generation_seconds=0, short_side=216, state=tmp_path) as loova:
        assert psnr(frames(video(loova, by_url))[0], natural(1, (384, 216))) > 30


def test_an_interrupted_fetch_starts_again_after_a_restart(tmp_path: Path, host: Host) -> None:
    url = host.put("/a", PNG, gate=threading.Event())
    with LoovaSimulator(generation_seconds=0, short_side=144, state=tmp_path) as loova:
        form = submit_form(loova, (encoded(natural(2)), "image/png"), image_urls=url)
        wait_until(lambda: host.asked == ["/a"])
        began = time.monotonic()
    assert time.monotonic() - began < 5
    host.put("/a", PNG)
    with LoovaSimulator(generation_seconds=0, short_side=144, state=tmp_path) as loova:
        shown = frames(video(loova, form))
    assert (psnr(shown[0], natural(1)) > 33, psnr(shown[48], natural(2)) > 33) == (True, True)
    assert host.asked == ["/a", "/a"]


def test_an_older_ledger_opens_and_its_videos_have_the_same_bytes(tmp_path: Path, host: Host) -> None:
    with LoovaSimulator(generation_seconds=0, short_side=144, state=tmp_path) as loova:
        task_id = submit(loova, image_urls=["https://example.com/a.png"])
        was = loova.sha256(task_id)
    with sqlite3.connect(tmp_path / "simulator.sqlite3") as db:
        db.executescript("DROP TABLE fetches; DROP TABLE media")
    db.close()
    with LoovaSimulator(generation_seconds=0, short_side=144, state=tmp_path) as loova:
        assert polled(loova, task_id)["status"] == "succeeded"
        assert loova.sha256(task_id) == was
        assert psnr(frames(video(loova, submit(loova, image_urls=[host.put("/a", PNG)])))[0], natural(1)) > 33


# Reserved hosts.


def test_reserved_hosts_get_no_request_and_their_media_are_not_shown(loova: LoovaSimulator) -> None:
    media_ = {"image_urls": ["https://example.com/a.png"], "video_urls": ["https://cdn.test/a.mp4"]}
    task_id = submit(loova, **media_)
    assert polled(loova, task_id)["status"] == "succeeded"
    assert "loova-simulator-media" not in [thread.name for thread in threading.enumerate()]
    assert len(frames(video(loova, task_id))) == 96


def test_an_image_of_a_reserved_host_keeps_its_place_beside_a_fetched_one(loova: LoovaSimulator, host: Host) -> None:
    urls = ["https://example.com/a.png", host.put("/a", PNG)]
    shown = frames(video(loova, submit(loova, function_mode="first_last_frames", image_urls=urls)))
    assert (psnr(shown[0], natural(1)) > 30, psnr(shown[-1], natural(1)) > 33) == (False, True)


@pytest.mark.parametrize(
    ("name", "reserved"),
    [("example.com", True), ("a.b.example.org", True), ("EXAMPLE.net.", True), ("x.example", True), ("h.test", True),
     ("x.invalid:8443", True), ("myexample.com", False), ("example.de", False), ("example.com.evil.dev", False),
     ("127.0.0.1", False), ("localhost", False), ("[::1]", False), ("test.dev", False)],
)  # fmt: skip
def test_the_reserved_hosts_are_those_of_the_rfcs(name: str, reserved: bool) -> None:
    assert media.is_example(f"https://{name}/a.png") is reserved
