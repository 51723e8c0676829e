"""Media that would be paid for and not used: a warning or a refusal before the purchase, or a copy that is used."""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pytest
from PIL import Image

from prefect_loova.errors import InvalidRequestError, TaskFailedError
from prefect_loova.jobs.media_delivery import deliver_media
from prefect_loova.jobs.media_identity import MediaPreparer
from prefect_loova.jobs.submit import submit_video
from prefect_loova.models.media_types import CONVERTIBLE, MediaRules, copy_type_of, media_type_of
from prefect_loova.models.request import VideoRequest
from prefect_loova.models.results import Submission
from tests.integration.jobs.workers import Workers
from tests.support.logs import logged
from tests.support.media_host import Host
from tests.support.odd_media import MAKERS, audio, heic, is_upright, rotated_by_exif, upright, video

pytestmark = pytest.mark.one_s3_server  # moto cannot read the signature of a link

CONVERT = MediaRules(convert=True)
REFUSE = MediaRules(limits="refuse", check_urls=False)


def put(workers: Workers, name: str, content: bytes) -> str:
    workers.bucket.client.put_object(Bucket=workers.bucket, Key=f"loova/{name}", Body=content)
    return f"s3://{workers.bucket}/loova/{name}"


def asked(kind: str, *media: Any, **fields: Any) -> VideoRequest:
    """A request with these media. Audio needs another medium beside it."""
    given = {f"{kind}_urls": media} | fields
    if kind == "audio" and "image_urls" not in given:
        given["image_urls"] = ["https://example.com/a.png"]
    return VideoRequest(prompt="a cat", duration=4, **given)


async def bought(workers: Workers, request: VideoRequest, media: MediaRules) -> Submission:
    async with workers.worker(media=media) as jobs:
        return await submit_video(jobs, await MediaPreparer(jobs).prepare(request))


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in logged(caplog) if record.levelno == logging.WARNING]


def copies(workers: Workers, original: bytes) -> dict[str, bytes]:
    """What is below `_media/`, without the original."""
    own = hashlib.sha256(original).hexdigest()
    return {
        name: workers.bytes_of(name)
        for name in sorted(workers.keys)
        if name.startswith("loova/_media/") and own not in name
    }


@pytest.mark.parametrize("name", MAKERS)
async def test_what_not_every_host_takes_is_named_in_a_warning_or_a_refusal(
    workers: Workers, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    kind, clause, make = MAKERS[name]
    content, path = make(), tmp_path / "medium"
    path.write_bytes(content)
    rules = MediaRules(check_urls=False)
    caplog.set_level(logging.WARNING, "prefect_loova")
    if media_type_of(content[:4096]) in CONVERTIBLE:
        with pytest.raises(InvalidRequestError, match=clause) as caught:
            await bought(workers, asked(kind, path), rules)
        assert "media.convert of the credentials block" in str(caught.value)
        assert workers.totals["posted"] == 0
        return
    submission = await bought(workers, asked(kind, path), rules)
    assert [clause in warning for warning in warnings(caplog)] == [True]
    if name == "animated webp":  # the simulator reads it no better than FFmpeg does
        with pytest.raises(TaskFailedError):
            await workers.wait(submission)
    else:
        await workers.wait(submission)


@pytest.mark.parametrize("send", ["links", "files"])
@pytest.mark.parametrize("name", MAKERS)
async def test_a_converted_copy_is_accepted_and_plays_as_its_original_does(
    workers: Workers, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, send: Any
) -> None:
    kind, clause, make = MAKERS[name]
    content, path = make(), tmp_path / "medium"
    path.write_bytes(content)
    caplog.set_level(logging.WARNING, "prefect_loova")
    rules = MediaRules(convert=True, check_urls=False, send=send)
    submission = await bought(workers, asked(kind, path), rules)
    await workers.wait(submission)
    assert [clause in warning and "Loova gets a converted copy" in warning for warning in warnings(caplog)] == [True]
    ((copy_name, copy),) = copies(workers, content).items()
    copy_type = copy_type_of(media_type_of(content[:4096]) or "")
    assert media_type_of(copy[:4096]) == copy_type
    plays(kind, copy)
    if send == "files":
        (file,) = workers.loova.ledger["posts"][-1]["request"]["files"]
        assert (file["sha256"], file["media_type"]) == (hashlib.sha256(copy).hexdigest(), copy_type)
    else:
        (link,) = workers.loova.ledger["posts"][-1]["request"][f"{kind}_urls"]
        assert f"/{copy_name}?" in link


def plays(kind: str, copy: bytes) -> None:
    """Check that a copy is what every host takes, and shows what its original shows."""
    if kind == "image":
        image = Image.open(io.BytesIO(copy))
        assert image.mode in ("RGB", "RGBA")
        assert not getattr(image, "is_animated", False)
        assert image.getexif().get(274, 1) == 1
        assert is_upright(image)
        return
    with av.open(io.BytesIO(copy)) as container:
        frames = list(container.decode())
        sounds = [frame for frame in frames if isinstance(frame, av.AudioFrame)]
        assert sum(frame.samples for frame in sounds) / sounds[0].sample_rate == pytest.approx(2, abs=0.1)
        codecs = {stream.codec_context.name for stream in container.streams}
        if kind == "audio":
            assert codecs <= {"mp3", "mp3float"}
            return
        assert codecs == {"h264", "aac"}
    pictures = [frame for frame in frames if isinstance(frame, av.VideoFrame)]
    assert all(frame.rotation == 0 for frame in pictures)
    times = [frame.time or 0 for frame in pictures]
    assert times == pytest.approx([number / 24 for number in range(len(times))], abs=0.001)
    assert all(is_upright(frame.to_image()) for frame in (pictures[0], pictures[-1]))


@pytest.mark.parametrize("home", ["disk", "s3"])
async def test_a_copy_is_made_once_and_the_key_is_that_of_the_original(
    workers: Workers, tmp_path: Path, home: str
) -> None:
    content = rotated_by_exif("JPEG")
    (tmp_path / "cat.jpg").write_bytes(content)
    medium = tmp_path / "cat.jpg" if home == "disk" else put(workers, "cat.jpg", content)
    async with workers.worker() as jobs:
        plain = await MediaPreparer(jobs).prepare(asked("image", medium))
    before = workers.keys
    async with workers.worker(media=CONVERT) as jobs:
        dry = await MediaPreparer(jobs, upload=False).prepare(asked("image", medium))
        assert workers.keys == before
        request = await MediaPreparer(jobs).prepare(asked("image", medium))
    assert request == dry == plain
    assert request.key == plain.key
    (name,) = (name for name in workers.keys - before if name.startswith("loova/_media/"))
    made = workers.bucket.client.head_object(Bucket=workers.bucket, Key=name)["LastModified"]
    workers.bucket.client.put_object(Bucket=workers.bucket, Key=name, Body=b"\xff\xd8\xff the copy of before")
    submission = await bought(workers, request, CONVERT)
    assert workers.bytes_of(name).endswith(b"the copy of before"), f"made again since {made}"
    assert (await bought(workers, asked("image", medium), MediaRules())).task_id == submission.task_id
    assert workers.totals["billed"] == 1


async def test_a_request_that_was_prepared_without_a_copy_gets_one_at_the_submit(workers: Workers) -> None:
    uri = put(workers, "cat.jpg", rotated_by_exif("JPEG"))
    async with workers.worker() as jobs:
        request = await MediaPreparer(jobs).prepare(asked("image", uri))
    await bought(workers, request, CONVERT)
    (link,) = workers.loova.ledger["posts"][-1]["request"]["image_urls"]
    assert "/loova/_media/" in link


async def test_a_medium_that_every_host_takes_is_not_converted(workers: Workers, tmp_path: Path) -> None:
    upright().save(tmp_path / "cat.png")
    (tmp_path / "walk.mp4").write_bytes(video())
    request = asked("image", tmp_path / "cat.png", video_urls=[tmp_path / "walk.mp4"])
    await bought(workers, request, CONVERT)
    originals = {hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in ("cat.png", "walk.mp4")}
    assert {name.split("/")[-1].partition(".")[0] for name in workers.keys if "/_media/" in name} == originals


async def test_a_medium_that_cannot_be_converted_is_refused_before_the_purchase(workers: Workers) -> None:
    content = heic()
    broken = put(workers, "cat.heic", content[: len(content) - 40].replace(b"hvcC", b"none"))
    for media, problem in (
        (asked("image", broken), "it cannot be converted"),
        (asked("audio", put(workers, "a.ogg", b"OggS" + bytes(100))), "it cannot be read as ogg"),
        (asked("video", put(workers, "v.webm", b"\x1aE\xdf\xa3webm" + bytes(100))), "video/webm, which Seedance 2.0"),
    ):
        with pytest.raises(InvalidRequestError, match=problem):
            await bought(workers, media, MediaRules(convert=True, check_urls=False))
    small = MediaRules(convert=True, check_urls=False, audio_bytes=40_000)
    with pytest.raises(InvalidRequestError, match=r"its copy has [\d,]+ bytes, and 40,000 are the most for audio"):
        await bought(workers, asked("audio", put(workers, "b.ogg", audio("ogg", "libopus"))), small)
    assert workers.totals["posted"] == 0


@pytest.mark.parametrize("mode", ["first_last_frames", "omni_reference"])
async def test_files_beside_urls_of_one_kind_are_refused_in_both_modes(
    workers: Workers, tmp_path: Path, mode: Any
) -> None:
    upright().save(tmp_path / "cat.png")
    (tmp_path / "walk.mp4").write_bytes(video())
    url, files = "https://example.com/a.png", MediaRules(send="files", check_urls=False)
    mixed = asked("image", url, tmp_path / "cat.png", function_mode=mode)
    with pytest.raises(InvalidRequestError, match=r"^image_urls: files and URLs of one kind are not sent together"):
        await bought(workers, mixed, files)
    in_s3 = asked("image", put(workers, "cat.png", (tmp_path / "cat.png").read_bytes()), url, function_mode=mode)
    with pytest.raises(InvalidRequestError, match=r"^image_urls: files and URLs of one kind"):
        await bought(workers, in_s3, files)
    assert workers.totals["posted"] == 0
    await bought(workers, in_s3, MediaRules(send="links", check_urls=False))
    if mode == "omni_reference":  # other kinds are not the same kind
        await bought(workers, asked("image", url, video_urls=[tmp_path / "walk.mp4"]), files)
    assert workers.totals["posted"] == 1 + (mode == "omni_reference")


LIMITS: dict[str, tuple[str, Callable[[], list[bytes]], str]] = {
    "a short video": ("video", lambda: [video(seconds=1.75)], "it lasts 1.75 s, less than media.min_seconds"),
    "a short audio": ("audio", lambda: [audio("wav", "pcm_s16le", 1.79)], "it lasts 1.79 s, less than media.min_sec"),
    "long videos": (
        "video",
        lambda: [video(seconds=7.5), video(seconds=7.75)],
        "video_urls: 15.25 s in all, more than",
    ),
    "long audios": (
        "audio",
        lambda: [audio("wav", "pcm_s16le", 15.2)],
        r"audio_urls: 15.20 s in all, more than media.max_total_seconds \(15.1 s\)",
    ),
}
FITTING: dict[str, Callable[[], list[bytes]]] = {
    "video": lambda: [video(seconds=1.8333), video(seconds=7.5), video(seconds=5.75)],
    "audio": lambda: [audio("wav", "pcm_s16le", 1.8), audio("wav", "pcm_s16le", 13.3)],
}


def in_s3(workers: Workers, kind: str, contents: list[bytes]) -> VideoRequest:
    uris = [put(workers, f"{kind}-{number}", content) for number, content in enumerate(contents)]
    media: dict[str, Any] = {"image_urls": ["https://example.com/a.png"], f"{kind}_urls": uris}
    return VideoRequest(prompt="a cat", duration=4, **media)


@pytest.mark.parametrize("name", LIMITS)
async def test_a_broken_limit_is_a_warning_and_a_refusal_if_the_user_says_so(
    workers: Workers, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    kind, make, problem = LIMITS[name]
    request = in_s3(workers, kind, make())
    async with workers.worker(media=REFUSE) as jobs:
        with pytest.raises(InvalidRequestError, match=problem) as caught:
            await MediaPreparer(jobs).prepare(request)
    assert "media.limits of the credentials block is refuse" in str(caught.value)
    async with workers.worker() as jobs:
        prepared = await MediaPreparer(jobs).prepare(request)
    with pytest.raises(InvalidRequestError, match=problem):
        await bought(workers, prepared, REFUSE)
    assert workers.totals["posted"] == 0
    caplog.clear()
    caplog.set_level(logging.WARNING, "prefect_loova")
    await bought(workers, request, MediaRules(check_urls=False))
    (warning,) = warnings(caplog)
    assert problem.replace("\\", "") in warning


@pytest.mark.parametrize("kind", FITTING)
async def test_media_at_the_limits_are_bought(workers: Workers, caplog: pytest.LogCaptureFixture, kind: str) -> None:
    caplog.set_level(logging.WARNING, "prefect_loova")
    await bought(workers, in_s3(workers, kind, FITTING[kind]()), REFUSE)
    assert warnings(caplog) == []


async def test_frames_and_urls_count_as_references(workers: Workers) -> None:
    urls = {"image": 9, "video": 3, "audio": 1}
    media = {f"{kind}_urls": [f"https://example.com/{n}" for n in range(count)] for kind, count in urls.items()}
    request = VideoRequest(prompt="a cat", duration=4, **media)  # type: ignore[arg-type]
    async with workers.worker(media=REFUSE) as jobs:
        with pytest.raises(InvalidRequestError, match=r"13 references, more than media.max_references \(12\)"):
            await deliver_media(jobs, request)
        await deliver_media(jobs, request.model_copy(update={"audio_urls": ()}))


async def test_an_image_behind_a_url_is_measured_by_its_first_bytes(
    workers: Workers, caplog: pytest.LogCaptureFixture
) -> None:
    noise = Image.effect_noise((299, 299), 90)
    contents = {name: saved(noise, name) for name in ("PNG", "JPEG", "BMP")} | {"EXIF": rotated_by_exif("JPEG")}
    host = Host()
    urls = [host.put(f"/{name}", content) for name, content in contents.items()]
    request = asked("image", *urls)
    caplog.set_level(logging.WARNING, "prefect_loova")
    async with workers.worker() as jobs:
        await deliver_media(jobs, request)
        told = sorted(warnings(caplog))
        assert len(told) == 4
        assert ["its EXIF data" in warning or "has 299 x 299 pixels" in warning for warning in told] == [True] * 4
        jobs.media = MediaRules(limits="refuse")
        with pytest.raises(InvalidRequestError, match="299 x 299 pixels") as caught:
            await deliver_media(jobs, request)
        assert len(str(caught.value).splitlines()) == 3
        host.put("/heic", heic())
        jobs.media = CONVERT
        with pytest.raises(InvalidRequestError, match="its content is image/heic"):
            await deliver_media(jobs, asked("image", host.url("/heic")))
    host.close()


def saved(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


async def test_a_frame_of_a_small_video_is_measured(workers: Workers) -> None:
    uri = put(workers, "walk.mp4", video())
    rules = REFUSE.model_copy(update={"min_image_side": 361})
    with pytest.raises(InvalidRequestError, match=r"480 x 360 pixels, and a side is shorter than"):
        await bought(workers, asked("image", f"{uri}#last-frame"), rules)
    assert workers.totals["posted"] == 0
