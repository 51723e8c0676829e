"""Reference media from where people have them: on disk, in S3, out of a video; and what is wrong with them."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx
import pytest
from PIL import Image

from prefect_loova.client import LoovaClient
from prefect_loova.errors import InDoubtError, InvalidRequestError, StorageError
from prefect_loova.jobs.context import VideoJobs
from prefect_loova.jobs.local_files import LocalFiles
from prefect_loova.jobs.media_delivery import deliver_media
from prefect_loova.jobs.media_identity import MediaPreparer
from prefect_loova.jobs.submit import submit_video
from prefect_loova.models.media_types import MediaRules
from prefect_loova.models.request import VideoRequest
from prefect_loova.models.results import Submission
from tests.integration.jobs.workers import Clock, Workers
from tests.support.films import film, sound
from tests.support.logs import logged
from tests.support.media_host import Host
from tests.support.s3_servers import minimal_policy

FILM = film(5)


def picture(colour: str = "red", kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 48), colour).save(file, kind)
    return file.getvalue()


RED = picture()
WAV = b"RIFF\x24\x03\0\0WAVEfmt \x10\0\0\0\1\0\1\0\x40\x1f\0\0\x80\x3e\0\0\2\0\x10\0data\0\3\0\0" + bytes(768)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "cat.png").write_bytes(RED)
    (tmp_path / "walk.mp4").write_bytes(FILM)
    return tmp_path


def asked(*images: Any, videos: Any = (), prompt: str = "a cat", **fields: Any) -> VideoRequest:
    return VideoRequest(prompt=prompt, image_urls=images, video_urls=videos, duration=4, **fields)


async def prepared(
    workers: Workers, request: VideoRequest, local: LocalFiles | None = None, **settings: Any
) -> VideoRequest:
    async with workers.worker(**settings) as jobs:
        return await MediaPreparer(jobs, local or LocalFiles()).prepare(request)


async def bought(workers: Workers, request: VideoRequest, **settings: Any) -> Submission:
    async with workers.worker(**settings) as jobs:
        return await submit_video(jobs, await MediaPreparer(jobs).prepare(request))


def sent(workers: Workers) -> dict[str, Any]:
    """What the last submit asked for, as Loova saw it."""
    return workers.loova.ledger["posts"][-1]["request"]


async def loaded(workers: Workers, link: str) -> bytes:
    """What a presigned link leads to. (moto, where it checks who asks, cannot read the signature of one.)"""
    if workers.bucket.server.name == "moto":
        return workers.bytes_of(unquote(urlsplit(link).path).removeprefix(f"/{workers.bucket}/"))
    async with httpx.AsyncClient(trust_env=False) as http:
        return (await http.get(link)).content


def put(workers: Workers, key: str, content: bytes) -> str:
    workers.bucket.client.put_object(Bucket=workers.bucket, Key=key, Body=content)
    return f"s3://{workers.bucket}/{key}"


async def test_a_local_file_is_put_into_the_bucket_once_and_loova_gets_a_link_to_it(
    workers: Workers, folder: Path
) -> None:
    request = await prepared(workers, asked(folder / "cat.png"))
    again = await prepared(workers, asked(folder / "cat.png"))
    name = f"loova/_media/{hashlib.sha256(RED).hexdigest()}.png"
    assert again == request
    assert workers.keys == {name}
    stored = workers.bucket.client.get_object(Bucket=workers.bucket, Key=name)
    assert (stored["Body"].read(), stored["ContentType"]) == (RED, "image/png")

    await bought(workers, request)
    (link,) = sent(workers)["image_urls"]
    assert "X-Amz-Signature" in link
    assert "X-Amz-Expires=86400" in link
    assert await loaded(workers, link) == RED
    assert "X-Amz" not in workers.bytes_of(f"loova/{request.key}/record.json").decode()


async def test_the_same_content_at_any_location_is_the_same_request_and_a_changed_file_is_another(
    workers: Workers, folder: Path
) -> None:
    (folder / "other.jpeg").write_bytes(RED)
    first = await bought(workers, asked(folder / "cat.png"))
    second = await bought(workers, asked(folder / "other.jpeg"))
    assert (second.key, second.task_id, second.reused) == (first.key, first.task_id, True)
    (folder / "cat.png").write_bytes(picture("blue"))
    third = await bought(workers, asked(folder / "cat.png"))
    assert third.key != first.key
    assert workers.totals["billed"] == 2


async def test_an_object_in_s3_is_linked_where_it_is_and_another_content_is_another_request(workers: Workers) -> None:
    uri = put(workers, "loova/mine/a cat.png", RED)
    first = await bought(workers, asked(uri))
    (link,) = sent(workers)["image_urls"]
    assert await loaded(workers, link) == RED
    assert (await bought(workers, asked(uri))).reused
    put(workers, "loova/mine/a cat.png", picture("blue"))
    assert (await bought(workers, asked(uri))).key != first.key


@pytest.mark.parametrize("which", ["first", "last"])
async def test_a_frame_of_a_video_is_an_image(workers: Workers, folder: Path, which: str) -> None:
    uri = put(workers, "loova/walk.mp4", FILM)
    from_disk = await prepared(workers, asked(f"{folder / 'walk.mp4'}#{which}-frame"))
    await bought(workers, asked(f"{uri}#{which}-frame"))
    (link,) = sent(workers)["image_urls"]
    for png in (
        await loaded(workers, link),
        workers.bytes_of(from_disk.image_urls[0].partition("#")[0].removeprefix(f"s3://{workers.bucket}/")),
    ):
        grey = Image.open(io.BytesIO(png)).convert("L").getpixel((20, 20))
        assert isinstance(grey, int | float)
        number = {"first": 0, "last": 4}[which]
        assert abs(grey - (20 + 2 * number - 16) * 255 / 219) < 2


async def test_a_saved_video_is_known_by_its_job_record(workers: Workers) -> None:
    saved = await workers.save(await workers.finished())
    by_hand = await prepared(workers, asked(videos=[saved.video]))
    assert by_hand == await prepared(workers, asked(videos=[saved]))
    assert by_hand.key == asked(videos=[saved]).key
    goes_on = await prepared(workers, asked(saved.last_frame))
    assert goes_on.key == (await prepared(workers, asked(f"{saved.video}#last-frame"))).key


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda path: None, "there is no such file"),
        (lambda path: path.mkdir(), "it is a directory"),
        (lambda path: path.write_bytes(b""), "it is empty"),
        (lambda path: path.write_text("a text"), "its content is text, not an image"),
        (lambda path: path.write_bytes(RED + bytes(30_000_000)), "30,000,000 are the most for an image"),
        (lambda path: path.write_bytes(FILM), "its content is video/mp4, not an image"),
        (lambda path: os.mkfifo(path), "it is no regular file"),
        (lambda path: path.symlink_to(path), "there is no such file"),
    ],
)
async def test_a_local_file_of_the_wrong_type_is_refused_before_anything_is_spent(
    workers: Workers, tmp_path: Path, make: Callable[[Path], object], problem: str
) -> None:
    path = tmp_path / "cat.png"
    make(path)
    with pytest.raises(InvalidRequestError) as caught:
        await bought(workers, asked("https://example.com/a.png", path))
    assert f"image_urls.1: {str(path)!r} was given: " in str(caught.value)
    assert problem in str(caught.value)
    assert workers.totals["posted"] == 0
    assert workers.keys == set()


async def test_a_file_that_may_not_be_read_is_refused(workers: Workers, folder: Path) -> None:
    # Root may read everything; a folder in the place of the file's is not there for anybody.
    with pytest.raises(InvalidRequestError, match="there is no such file"):
        await prepared(workers, asked(folder / "cat.png" / "deeper.png"))


async def test_a_file_that_changes_while_it_is_read_is_refused(workers: Workers, folder: Path) -> None:
    path = folder / "growing.png"
    path.write_bytes(RED)
    ended = threading.Event()

    def grow() -> None:
        while not ended.is_set():
            with path.open("r+b") as file:
                file.truncate(len(RED))
                file.seek(0, os.SEEK_END)
                file.write(bytes(8_000_000))

    writer = threading.Thread(target=grow)
    writer.start()
    try:
        with pytest.raises(InvalidRequestError, match="it changed while it was read"):
            for _ in range(50):
                await prepared(workers, asked(path))
    finally:
        ended.set()
        writer.join()


async def test_an_object_that_is_not_there_or_may_not_be_read_is_refused(workers: Workers) -> None:
    elsewhere = put(workers, "of-others/cat.png", RED)
    for uri in (f"s3://{workers.bucket}/loova/nothing.png", elsewhere, "s3://no-such-bucket-of-ours/cat.png"):
        with pytest.raises(InvalidRequestError) as caught:
            await prepared(workers, asked(uri))
        assert f"image_urls.0: {uri!r} was given: " in str(caught.value)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"a text", "its content is text, not an image"),
        (b"", "it is empty"),
        (FILM, "its content is video/mp4, not an image"),
        (RED + bytes(30_000_000), "30,000,000 are the most for an image"),
    ],
    ids=["text", "empty", "film", "large"],
)
async def test_an_object_of_the_wrong_type_is_refused_by_its_content(
    workers: Workers, content: bytes, problem: str
) -> None:
    uri = put(workers, "loova/cat.png", content)
    with pytest.raises(InvalidRequestError, match=problem):
        await bought(workers, asked(uri))
    assert workers.totals["posted"] == 0


HALF = RED[: len(RED) // 2]
SOUND = sound(1)
HEIC = b"\0\0\0\x18ftyphevx\0\0\0\0mif1heic\0\0\1\x2dmeta" + bytes(400)


@pytest.mark.parametrize("home", ["disk", "s3", "pinned by etag", "pinned by sha256", "put by an older release"])
@pytest.mark.parametrize(
    ("field", "content", "problem"),
    [
        ("image_urls", HALF, "it is cut short"),
        ("video_urls", SOUND, "it has sound but no picture: it is not a video"),
        ("video_urls", HEIC, "its content is image/heic, not a video"),
        ("video_urls", FILM[: len(FILM) // 2], "it is cut short, or not a video"),
        ("audio_urls", WAV[:40], "it cannot be read as wav"),
    ],
    ids=["half a png", "sound as a video", "heic as a video", "half a film", "a wav without sound"],
)
async def test_a_medium_that_cannot_be_decoded_is_refused_before_the_purchase(
    workers: Workers, tmp_path: Path, home: str, field: str, content: bytes, problem: str
) -> None:
    sha256 = hashlib.sha256(content).hexdigest()
    if home == "disk":
        (tmp_path / "medium").write_bytes(content)
        medium = str(tmp_path / "medium")
    elif home == "put by an older release":
        medium = f"{put(workers, f'loova/_media/{sha256}.mp4', content)}#sha256={sha256}"
    else:
        medium = put(workers, "loova/medium", content)
        if home == "pinned by sha256":
            medium += f"#sha256={sha256}"
        elif home == "pinned by etag":
            etag = workers.bucket.client.head_object(Bucket=workers.bucket, Key="loova/medium")["ETag"].strip('"')
            medium += f"#etag={etag}"
    before = workers.keys
    media: dict[str, Any] = {"image_urls": ["https://example.com/a.png"], field: [medium]}
    with pytest.raises(InvalidRequestError, match=problem):
        await bought(workers, VideoRequest(prompt="a cat", duration=4, **media), media=MediaRules(check_urls=False))
    assert workers.totals["posted"] == 0
    assert workers.keys == before


async def test_a_doubt_about_a_medium_is_a_warning_and_it_is_decoded_once(
    workers: Workers, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    moving = io.BytesIO()
    Image.new("RGB", (64, 48), "red").save(
        moving, "GIF", save_all=True, append_images=[Image.new("RGB", (64, 48), "blue")]
    )
    (folder / "cat.gif").write_bytes(moving.getvalue())
    uri = put(workers, "loova/cat.gif", moving.getvalue())
    caplog.set_level(logging.WARNING, "prefect_loova")
    async with workers.worker() as jobs:
        for medium in (folder / "cat.gif", uri):
            caplog.clear()
            for prompt in ("a cat", "another cat"):
                await submit_video(jobs, await MediaPreparer(jobs).prepare(asked(medium, prompt=prompt)))
            told = [record for record in logged(caplog) if "it is an animation" in record.getMessage()]
            assert len(told) == 1
    assert workers.totals["billed"] == 4


async def test_a_key_does_not_depend_on_what_the_content_is_taken_for(workers: Workers, folder: Path) -> None:
    """Keys of videos that were bought before stay theirs."""
    other = FILM.replace(b"isomiso2avc1mp41", b"nonenonenonenone").replace(b"ftypisom", b"ftypnone")
    (folder / "walk.mp4").write_bytes(other)
    request = await prepared(workers, asked(videos=[folder / "walk.mp4"]))
    sha256 = hashlib.sha256(other).hexdigest()
    assert request.video_urls == (f"s3://{workers.bucket}/loova/_media/{sha256}.mp4#sha256={sha256}",)
    assert request.key == asked(videos=[f"s3://elsewhere/walk#sha256={sha256}"]).key


@pytest.mark.parametrize("as_files", ["links", "files"])
async def test_an_object_that_vanishes_or_changes_before_the_submit_is_refused_and_leaves_no_job(
    workers: Workers, folder: Path, as_files: Any
) -> None:
    rules = MediaRules(send=as_files)
    uri = put(workers, "loova/cat.png", RED)
    changed, gone = await prepared(workers, asked(uri)), await prepared(workers, asked(folder / "cat.png"))
    put(workers, "loova/cat.png", picture("blue"))
    workers.bucket.client.delete_object(
        Bucket=workers.bucket, Key=gone.image_urls[0].partition("#")[0].split("/", 3)[3]
    )
    for request, problem in ((changed, "the object has changed"), (gone, "there is no such object")):
        with pytest.raises(InvalidRequestError, match=problem):
            await bought(workers, request, media=rules)
    assert workers.totals["posted"] == 0
    assert workers.keys == {"loova/cat.png"}


async def test_a_pin_is_always_checked(workers: Workers, folder: Path) -> None:
    """A forged one would make the video of another content that of an honest request."""
    cat, text = hashlib.sha256(RED).hexdigest(), put(workers, "loova/notes.txt", b"a text")
    other, saved = put(workers, "loova/other.png", picture("blue")), await workers.save(await workers.finished())
    posted = workers.totals["posted"]
    etag = workers.bucket.client.head_object(Bucket=workers.bucket, Key="loova/notes.txt")["ETag"].strip('"')
    for image, problem in (
        (f"{text}#etag={etag}", "its content is text, not an image"),
        (saved.whole, "its content is video/mp4, not an image"),
        (f"{other}#sha256={cat}", "its content is not what its SHA-256 says"),
        (f"{other}#frame={cat}", "only a frame that was taken here"),
    ):
        with pytest.raises(InvalidRequestError, match=problem):
            await bought(workers, asked(image))
    with pytest.raises(InvalidRequestError, match="10 are the most for a video"):
        await bought(workers, asked(videos=[saved]), media=MediaRules(video_bytes=10))
    assert workers.totals["posted"] == posted
    put(workers, "loova/cat.png", RED)
    assert not (await bought(workers, asked(f"s3://{workers.bucket}/loova/cat.png#sha256={cat}"))).reused


async def test_a_saved_video_that_was_replaced_is_not_taken_for_the_one_of_its_record(workers: Workers) -> None:
    saved = await workers.save(await workers.finished())
    put(workers, saved.video.removeprefix(f"s3://{workers.bucket}/"), FILM)
    assert "#etag=" in (await prepared(workers, asked(videos=[saved.video]))).video_urls[0]
    with pytest.raises(InvalidRequestError, match="its content is not what its SHA-256 says"):
        await bought(workers, asked(videos=[saved]))


async def test_a_problem_with_the_media_does_not_hide_a_doubt(workers: Workers) -> None:
    """It would be asked for with another picture, and paid again."""
    request = await prepared(workers, asked(put(workers, "loova/cat.png", RED)))
    workers.loova.fail("lost_reply")
    with pytest.raises(InDoubtError):
        await bought(workers, request)
    workers.bucket.client.delete_object(Bucket=workers.bucket, Key="loova/cat.png")
    with pytest.raises(InDoubtError):
        await bought(workers, request)


async def test_in_a_versioned_bucket_the_link_is_for_the_inspected_version(workers: Workers) -> None:
    bucket, client = workers.bucket, workers.bucket.client
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    uri = put(workers, "loova/cat.png", RED)
    policy = minimal_policy(bucket, "loova", optional=["OptionalLinkToVersionsOfMedia"])
    for keys, first in ((bucket.limited_keys, "red"), (bucket.server.add_user(policy), "blue")):
        put(workers, "loova/cat.png", picture(first))
        request = await prepared(workers, asked(uri, prompt=first))
        async with workers.worker(s3=bucket.server.client_of(*keys)) as jobs:
            (link,) = (await deliver_media(jobs, request)).request.image_urls
        if bucket.server.name == "seaweedfs":
            assert await loaded(workers, link) == picture(first)
        if first == "blue":
            assert "versionId=" in link
            put(workers, "loova/cat.png", picture("green"))
            if bucket.server.name == "seaweedfs":
                assert await loaded(workers, link) == picture("blue")


async def test_all_problems_are_reported_together_by_request_and_field(workers: Workers, folder: Path) -> None:
    requests = [
        asked(folder / "no.png", folder / "cat.png"),
        asked(folder / "cat.png"),
        asked(videos=[folder / "cat.png"]),
    ]
    async with workers.worker() as jobs:
        with pytest.raises(InvalidRequestError) as caught:
            await MediaPreparer(jobs).prepare_all(requests)
    lines = str(caught.value).splitlines()
    assert [line.partition(" was given")[0].partition(": '")[0] for line in lines[:2]] == [
        "request 1: image_urls.0",
        "request 3: video_urls.0",
    ]


async def test_a_dry_run_writes_nothing(workers: Workers, folder: Path) -> None:
    request = asked(folder / "cat.png", f"{folder / 'walk.mp4'}#last-frame")
    async with workers.worker() as jobs:
        dry = await MediaPreparer(jobs, upload=False).prepare(request)
    assert workers.keys == set()
    assert dry == await prepared(workers, request)


async def test_only_files_in_the_folder_that_is_allowed_are_read(workers: Workers, folder: Path) -> None:
    inside = folder / "inside"
    inside.mkdir()
    (inside / "cat.png").write_bytes(RED)
    (inside / "link.png").symlink_to(folder / "cat.png")
    local = LocalFiles(base=inside, within=inside)
    assert (await prepared(workers, asked("cat.png"), local)).is_prepared
    for path in ("../cat.png", str(folder / "cat.png"), "link.png"):
        with pytest.raises(InvalidRequestError, match="it lies outside of"):
            await prepared(workers, asked(path), local)
    with pytest.raises(InvalidRequestError, match="may not read local files"):
        await prepared(workers, asked("cat.png"), LocalFiles(allowed=False))


async def test_media_are_sent_as_files_if_loova_cannot_reach_the_bucket(workers: Workers, folder: Path) -> None:
    request = await prepared(workers, asked(folder / "cat.png", videos=[folder / "walk.mp4"]))
    first = await bought(workers, request, media=MediaRules(send="files"))
    posted = sent(workers)
    assert [(one["name"], one["media_type"], one["sha256"]) for one in posted["files"]] == [
        ("image1.png", "image/png", hashlib.sha256(RED).hexdigest()),
        ("video1.mp4", "video/mp4", hashlib.sha256(FILM).hexdigest()),
    ]
    assert posted["prompt"] == "a cat"
    assert posted["duration"] == 4
    record = json.loads(workers.bytes_of(f"loova/{request.key}/record.json"))
    more = (len(RED) + len(FILM)) / 125_000
    assert record["attempts"][0]["post_timeout_seconds"] == pytest.approx(5 + more)
    (task,) = workers.loova.ledger["tasks"]
    assert task["credits_cost"] == request.estimate_credits() == 120
    assert (await bought(workers, request)).task_id == first.task_id


async def test_whether_links_or_files_are_sent_depends_on_where_the_bucket_is(workers: Workers, folder: Path) -> None:
    """The bucket is on loopback: a Loova on the internet could not load from it, one beside it can."""
    request = await prepared(workers, asked(folder / "cat.png"))
    async with workers.worker() as near:
        assert not (await deliver_media(near, request)).files
    async with LoovaClient("k", "https://api.loova.ai/api") as loova:
        far = VideoJobs(loova, near.records)
        assert [file.name for file in (await deliver_media(far, request)).files] == ["image1.png"]
        far.media = MediaRules(send="links")
        with pytest.raises(InvalidRequestError, match="Loova cannot reach a private address"):
            await deliver_media(far, request)


@contextmanager
def host(answers: dict[str, tuple[int, bytes]]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answers[self.path.partition("?")[0]]
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


async def test_a_url_is_checked_before_the_purchase(workers: Workers) -> None:
    with host({"/a.png": (200, RED), "/gone": (404, b""), "/page": (200, b"<html>Sign in"), "/0": (200, b"")}) as url:
        for path, problem in (("gone", "HTTP 404"), ("page", "a web page, not an image"), ("0", "it is empty")):
            with pytest.raises(InvalidRequestError) as caught:
                await bought(workers, asked(f"{url}/a.png", f"{url}/{path}?X-Amz-Signature=SECRET"))
            assert problem in str(caught.value)
            assert "SECRET" not in str(caught.value)
        assert workers.totals["posted"] == 0
        assert workers.keys == set()
        submission = await bought(workers, asked(f"{url}/a.png?X-Amz-Signature=1"))
    # Bought is bought: that its reference is gone is no matter any more.
    assert (await bought(workers, asked(f"{url}/a.png?X-Amz-Signature=2"))).task_id == submission.task_id


async def test_a_url_with_a_wrong_brand_is_refused_and_one_with_an_unknown_brand_is_a_warning(
    workers: Workers, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "prefect_loova")
    unknown = b"\0\0\0\x10ftypnone\0\0\0\0" + bytes(400)
    with host({"/heic": (200, HEIC), "/none": (200, unknown)}) as url:
        async with workers.worker() as jobs:
            with pytest.raises(InvalidRequestError, match="image/heic, not a video"):
                await deliver_media(jobs, asked(videos=[f"{url}/heic"]))
            assert not caplog.records
            await deliver_media(jobs, asked(videos=[f"{url}/none"]))
    assert "its brand 'none' is not known here" in caplog.text


async def test_a_url_that_cannot_be_checked_from_here_is_left_to_loova(workers: Workers, caplog: Any) -> None:
    with host({}) as url:
        pass
    await bought(workers, asked(f"{url}/a.png"))
    assert workers.totals["billed"] == 1


async def test_a_url_is_checked_by_its_bytes_and_not_by_the_headers_of_its_host(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain http to the internet as well, which is Loova's matter; here a proxy stands for the internet."""
    page, proxy = "http://cdn.example.com/a.png", Host()
    monkeypatch.setenv("HTTP_PROXY", proxy.url(""))
    proxy.put(page, RED, headers={"Content-Type": "text/html"})
    proxy.put("http://cdn.example.com/zipped.png", RED, headers={"Content-Encoding": "br"})
    proxy.put("http://cdn.example.com/no.png", status=403)
    async with LoovaClient("k", "https://api.loova.ai/api") as loova, workers.worker() as near:
        far = VideoJobs(loova, near.records)
        delivery = await deliver_media(far, asked(page, "http://cdn.example.com/zipped.png"))
        assert delivery.request.image_urls == (page, "http://cdn.example.com/zipped.png")
        with pytest.raises(InvalidRequestError, match=r"HTTP 403.*check_urls"):
            await deliver_media(far, asked("http://cdn.example.com/no.png"))
    assert page in proxy.asked
    proxy.close()


async def test_a_warning_is_logged_once_while_a_submit_waits_for_a_slot(workers: Workers) -> None:
    workers.loova.fail("too_many_running_tasks", times=9)
    told, log, clock = (
        list[logging.LogRecord](),
        logging.getLogger("prefect_loova.jobs.media_delivery"),
        Clock(workers.loova),
    )
    ear = logging.Handler()
    ear.emit = told.append  # type: ignore[method-assign]
    log.addHandler(ear)
    level, log.level = log.level, logging.DEBUG
    try:
        with host({}) as url:
            pass
        async with workers.worker(clock=clock, sleep=clock.sleep) as jobs:
            await submit_video(jobs, asked(f"{url}/a.png", prompt="@image2 walks"), max_wait=1000)
    finally:
        log.removeHandler(ear)
        log.setLevel(level)
    assert workers.totals["posted"] == 10
    looked = [record for record in told if "cannot be checked from here" in record.getMessage()]
    assert len(looked) > 2
    assert "credits spent" not in looked[0].getMessage()
    assert [record.levelname for record in looked] == ["WARNING"] + ["DEBUG"] * (len(looked) - 1)
    assert sum("@image2" in record.getMessage() for record in told) == 1


async def test_a_url_to_a_private_address_is_refused(workers: Workers) -> None:
    async with LoovaClient("k", "https://api.loova.ai/api") as loova, workers.worker() as near:
        far = VideoJobs(loova, near.records)
        for url in ("https://10.0.0.1/a.png", "https://127.1/a.png", "https://cats.internal/a.png"):
            with pytest.raises(InvalidRequestError, match="Loova cannot reach a private address"):
                await submit_video(far, asked(url))


async def test_a_bucket_that_does_not_answer_is_no_bad_medium(workers: Workers) -> None:
    server = replace(workers.bucket.server, endpoint_url="http://127.0.0.1:9")
    s3 = server.client_of(*workers.bucket.limited_keys, retries={"total_max_attempts": 1})
    with pytest.raises(StorageError) as caught:
        await prepared(workers, asked(f"s3://{workers.bucket}/loova/cat.png"), s3=s3)
    assert caught.value.transient
