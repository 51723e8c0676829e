"""What a medium's text means, what decides a request's key, and what a file is by its first bytes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from prefect_loova.client import FormFile, LoovaClient
from prefect_loova.errors import InvalidRequestError
from prefect_loova.models.media import MediaError, Medium, check_medium, redact_media
from prefect_loova.models.media_types import EXTENSIONS, MediaRules, content_problem, media_type_of
from prefect_loova.models.request import VideoRequest
from prefect_loova.models.results import SavedVideo
from tests.support.films import film

SHA = "ab" * 32
FILM = film(2)
SAVED = SavedVideo(
    key="1" * 64,
    task_id="t",
    video="s3://b1/loova/1/video.mp4",
    record="s3://b1/loova/1/record.json",
    size_bytes=1,
    sha256=SHA,
    credits_cost=None,
    reused=False,
)


def key(*images: Any, **fields: Any) -> str:
    return VideoRequest(prompt="x", image_urls=images, **fields).key


@pytest.mark.parametrize(
    ("text", "medium"),
    [
        ("https://h.test/a.png?x=1", Medium("web", "https://h.test/a.png?x=1")),
        ("s3://b1/a b/c#d.png", Medium("s3", "s3://b1/a b/c#d.png")),
        (f"s3://b1/c.png#sha256={SHA}", Medium("s3", "s3://b1/c.png", f"sha256={SHA}")),
        ("s3://b1/c.png#etag=9b-2", Medium("s3", "s3://b1/c.png", "etag=9b-2")),
        ("s3://b1/v.mp4#last-frame", Medium("s3", "s3://b1/v.mp4", frame="last")),
        (f"s3://b1/v.mp4#sha256={SHA}#first-frame", Medium("s3", "s3://b1/v.mp4", f"sha256={SHA}", "first")),
        ("a b/cat.png", Medium("disk", "a b/cat.png")),
        ("C:\\cat.png", Medium("disk", "C:\\cat.png")),
        ("~/walk.mp4#last-frame", Medium("disk", "~/walk.mp4", frame="last")),
        (f"cat.png#sha256={SHA}", Medium("disk", f"cat.png#sha256={SHA}")),
    ],
)
def test_a_medium_is_parsed_from_its_text_and_printed_as_that_text(text: str, medium: Medium) -> None:
    assert Medium.parse(text) == medium
    assert str(medium) == text


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "not blank"),
        ("  ", "not blank"),
        ("file:///etc/passwd", "https:// or http:// URL, an s3:// URI, or a local file"),
        ("data:image/png;base64,AAAA", "https:// or http:// URL"),
        ("s3://bucket", "s3://BUCKET/KEY"),
        ("s3://bucket/", "s3://BUCKET/KEY"),
        ("s3:///key", "s3://BUCKET/KEY"),
        ("s3:key", "s3://BUCKET/KEY"),
        ("s3://b1/a\n", "control characters"),
        ("a\0.png", "control characters"),
        ("https://h.test/v.mp4#last-frame", "s3:// URI or a local file, where a frame"),
        ("//user:SECRET@h.test/a.png", "https:// or http://"),
        ("cdn.test/a.png?X-Amz-Signature=SECRET", "https:// or http://"),
        ("user:SECRET@h.test/a.png", "URL"),
    ],
)
def test_a_text_that_is_not_a_medium_is_refused_with_the_rule(text: str, rule: str) -> None:
    with pytest.raises(MediaError, match=re.escape(rule)):
        check_medium(text, "image")


def test_a_frame_is_an_image_only() -> None:
    check_medium("s3://b1/v.mp4#last-frame", "image")
    with pytest.raises(MediaError, match=r"^a frame is an image, not a video$"):
        check_medium("s3://b1/v.mp4#last-frame", "video")
    with pytest.raises(MediaError, match=r"^a frame is an image, not an audio$"):
        check_medium("v.mp4#first-frame", "audio")


def test_the_key_depends_on_the_content_and_not_on_the_location() -> None:
    assert key(f"s3://b1/a.png#sha256={SHA}") == key(f"s3://b2/b.jpg#sha256={SHA}")
    assert key(f"s3://b1/a.png#sha256={SHA}") != key(f"s3://b1/a.png#sha256={'cd' * 32}")
    assert key(f"s3://b1/a.png#sha256={SHA}") != key(f"s3://b1/a.png#frame={SHA}")


def test_an_etag_identifies_content_only_at_its_location() -> None:
    assert key("s3://b1/a.png#etag=1") == key("s3://b1/a.png#etag=1")
    assert len({key(f"s3://{place}") for place in ("b1/a#etag=1", "b1/a#etag=2", "b1/b#etag=1", "b2/a#etag=1")}) == 4


@pytest.mark.parametrize("text", ["cat.png", "s3://b1/cat.png", f"s3://b1/v.mp4#sha256={SHA}#last-frame"])
def test_there_is_no_key_before_the_content_is_known(text: str) -> None:
    request = VideoRequest(prompt="x", image_urls=[text])
    assert not request.is_prepared
    with pytest.raises(InvalidRequestError, match=r"image_urls.0: .* its content is not known yet"):
        _ = request.key


def test_frames_of_one_video_have_different_identities() -> None:
    first, last = Medium.parse(SAVED.first_frame), Medium.parse(SAVED.last_frame)
    assert len({first.frame_id, last.frame_id}) == 2
    assert first.frame_id == Medium.parse(f"s3://elsewhere/v.mp4#sha256={SHA}#first-frame").frame_id


def test_a_saved_video_is_a_reference_video_and_its_frames_are_images() -> None:
    request = VideoRequest(prompt="x", video_urls=[SAVED], image_urls=[SAVED.last_frame])
    assert request.video_urls == (f"s3://b1/loova/1/video.mp4#sha256={SHA}",)
    assert request.estimate_credits() == 150
    with pytest.raises(ValidationError, match="its first_frame and last_frame are images"):
        VideoRequest(prompt="x", image_urls=[SAVED])
    with pytest.raises(ValidationError, match="a frame is an image"):
        VideoRequest(prompt="x", video_urls=[SAVED.last_frame])


def test_a_path_is_a_medium() -> None:
    assert VideoRequest(prompt="x", image_urls=[Path("a") / "b.png"]).image_urls == (str(Path("a") / "b.png"),)


def test_a_redacted_medium_has_no_signature() -> None:
    assert redact_media("https://h.test/a.png?X-Amz-Signature=SECRET") == "https://h.test/a.png"
    assert "SECRET" not in redact_media("https://h.test/a.png?token=SECRET")
    assert redact_media(f"s3://b1/a.png#sha256={SHA}") == f"s3://b1/a.png#sha256={SHA}"
    shown = VideoRequest(
        prompt="x", image_urls=[f"s3://b1/a.png#sha256={SHA}", "https://h.test/a?t=SECRET"]
    ).as_stored()
    assert shown["image_urls"] == [f"s3://b1/a.png#sha256={SHA}", "https://h.test/a?..."]


@given(st.text(max_size=60))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        check_medium(text, "image")
    except MediaError:
        pass
    else:
        assert str(Medium.parse(text)) == text
    redact_media(text)


@pytest.mark.parametrize(
    ("prompt", "unknown"),
    [
        ("@image1 walks, then @video1 and @Image2", ["@video1"]),
        ("@image3 and @IMAGE 3 and @image3", ["@image3", "@IMAGE 3"]),
        ("@audio1, @image0", ["@audio1", "@image0"]),
        ("mail me@image9.com, @images9, @image9th, an @artist", []),
        ("no reference", []),
    ],
)
def test_references_that_name_no_medium_are_found(prompt: str, unknown: list[str]) -> None:
    request = VideoRequest(prompt=prompt, image_urls=["https://h.test/1", "https://h.test/2"])
    assert request.unknown_references() == unknown


HEADS = {
    "image/jpeg": b"\xff\xd8\xff\xe0",
    "image/png": b"\x89PNG\r\n\x1a\n",
    "image/webp": b"RIFF\0\0\0\0WEBP",
    "image/gif": b"GIF89a",
    "image/bmp": b"BM" + bytes(12) + b"\x28\0\0\0",
    "image/tiff": b"II*\0",
    "image/heic": b"\0\0\0\x18ftypheic",
    "image/avif": b"\0\0\0\x18ftypavif",
    "video/mp4": FILM[:64],
    "video/quicktime": b"\0\0\0\x14ftypqt  ",
    "video/webm": b"\x1aE\xdf\xa3",
    "audio/mpeg": b"\xff\xfb\x90\x64",
    "audio/wav": b"RIFF\0\0\0\0WAVE",
    "audio/aac": b"\xff\xf1\x50\x80",
    "audio/mp4": b"\0\0\0\x18ftypM4A ",
    "application/pdf": b"%PDF-1.7",
}


@pytest.mark.parametrize("media_type", HEADS)
def test_the_first_bytes_decide_the_type_of_a_file(media_type: str) -> None:
    assert media_type_of(HEADS[media_type]) == media_type
    kind: Any = media_type.partition("/")[0]
    if kind in ("image", "video", "audio"):
        assert (content_problem(HEADS[media_type], 100, kind, MediaRules()) is None) == (media_type in EXTENSIONS)


@pytest.mark.parametrize(
    ("head", "size", "kind", "problem"),
    [
        (b"", 0, "image", "it is empty"),
        (b"This is a text", 14, "image", "its content is text, not an image"),
        ("träumen".encode()[:3], 3, "image", "its content is text, not an image"),
        (b"\x80\0\1\2", 4, "video", "its content is of no known type, not a video"),
        (b"<!DOCTYPE html><title>Sign in", 9, "image", "its content is a web page, not an image"),
        (b"<svg xmlns=", 9, "image", "its content is XML, not an image"),
        (HEADS["video/mp4"], 9, "image", "#last-frame after it means a frame of it"),
        (HEADS["image/png"], 9, "video", "its content is image/png, not a video"),
        (HEADS["image/heic"], 9, "image", "which Seedance 2.0 does not take: it takes jpeg, png"),
        (HEADS["image/png"], 30_000_001, "image", "it has 30,000,001 bytes, and 30,000,000 are the most for an image"),
        (HEADS["video/mp4"], 50_000_001, "video", "50,000,000 are the most for a video"),
        (HEADS["audio/wav"], 15_000_001, "audio", "15,000,000 are the most for an audio"),
    ],
)
def test_a_file_of_the_wrong_type_is_refused_with_the_reason(head: bytes, size: int, kind: Any, problem: str) -> None:
    assert problem in str(content_problem(head, size, kind, MediaRules()))


@given(st.binary(max_size=40))
def test_any_bytes_can_be_checked(head: bytes) -> None:
    media_type_of(head)
    content_problem(head, len(head), "image", MediaRules())


async def test_a_form_has_the_mode_in_both_spellings() -> None:
    """The form's only source, the vendor's client, spells it another way than the documented JSON."""
    seen: list[bytes] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.read())
        return httpx.Response(200, json={"code": 200, "message": "success", "data": {"task_id": "t"}})

    request = VideoRequest(prompt="a cat", function_mode="first_last_frames", image_urls=["https://example.com/a.png"])
    async with LoovaClient("k", transport=httpx.MockTransport(answer)) as loova:
        await loova.submit_video(request, [FormFile("image1.png", b"png", "image/png")])
        await loova.submit_video(request)
    form, plain = seen
    for name in (b"function_mode", b"functionMode"):
        assert b'name="' + name + b'"\r\n\r\nfirst_last_frames\r\n' in form
    assert b"functionMode" not in plain
