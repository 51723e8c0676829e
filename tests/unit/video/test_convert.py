"""Copies of media that every host of Seedance 2.0 takes, and the headers that say what has to change."""

from __future__ import annotations

import io
import random
from typing import Any

import av
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from prefect_loova.models.media import MediaError
from prefect_loova.models.media_facts import MediaFacts
from prefect_loova.models.media_types import copy_type_of, media_type_of, media_type_to_send
from prefect_loova.video.convert import convert
from prefect_loova.video.image_headers import first_webp_picture, orientation
from prefect_loova.video.probe import probe, probe_head
from tests.support.films import film
from tests.support.odd_media import MAKERS, SIZE, audio, heic, is_upright, rotated_by_exif, upright, video


def measured(content: bytes, kind: Any) -> MediaFacts:
    return probe(io.BytesIO(content), kind, media_type_to_send(content[:4096], kind))


def converted(content: bytes, kind: Any, **options: Any) -> bytes:
    media_type = media_type_to_send(content[:4096], kind)
    options = {"max_bytes": 10**8} | options
    return convert(io.BytesIO(content), kind, media_type, copy_type_of(media_type), **options)


@pytest.mark.parametrize("name", MAKERS)
def test_a_copy_has_none_of_what_its_original_has(name: str) -> None:
    kind, clause, make = MAKERS[name]
    content = make()
    before, after = measured(content, kind), measured(converted(content, kind), kind)
    assert any(clause in trait for trait in before.traits)
    assert (after.traits, before.doubt, after.doubt) == ((), "", "")
    assert after.size == before.size == (None if kind == "audio" else SIZE)
    if kind != "image":
        assert after.seconds == pytest.approx(before.seconds, abs=0.05)


@pytest.mark.parametrize("turn", range(2, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_every_rotation_and_mirroring_is_undone(kind: str, turn: int) -> None:
    content = rotated_by_exif(kind, turn)
    if kind != "AVIF":  # which has boxes of its own for it
        assert orientation(content, f"image/{kind.lower()}") == turn
    assert measured(content, "image").size == SIZE
    copy = Image.open(io.BytesIO(converted(content, "image")))
    assert is_upright(copy)
    assert copy.getexif().get(274, 1) == 1


@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP"])
def test_the_first_bytes_tell_the_size_of_an_image(kind: str, *, lossless: bool) -> None:
    file = io.BytesIO()
    Image.effect_noise((301, 203), 90).save(file, kind, lossless=lossless)
    content, media_type = file.getvalue(), f"image/{kind.lower()}"
    head = content if kind == "TIFF" else content[:4096]  # Pillow writes the directory of a TIFF at its end
    assert len(content) > 4096
    assert probe_head(head, media_type) == MediaFacts(size=(301, 203))
    assert probe_head(head[:12], media_type).size in (None, (301, 203))


def test_the_first_bytes_tell_a_rotation_too() -> None:
    for kind in ("JPEG", "PNG", "TIFF"):
        facts = probe_head(rotated_by_exif(kind), f"image/{kind.lower()}")
        assert (facts.size, len(facts.traits)) == (SIZE, 1)


@pytest.mark.parametrize("tiles", [None, (1, 1), (2, 2), (4, 3)])
@pytest.mark.parametrize("turns", range(4))
def test_a_heic_is_put_together_and_turned_upright(turns: int, tiles: tuple[int, int] | None) -> None:
    assert is_upright(Image.open(io.BytesIO(converted(heic(turns=turns, tiles=tiles), "image"))))


def test_a_heic_whose_image_is_derived_in_another_way_is_not_guessed() -> None:
    content = heic(tiles=(2, 2)).replace(b"grid", b"iovl")
    assert "derived in a way that is not supported" in measured(content, "image").doubt
    with pytest.raises(MediaError, match="it cannot be converted: its image is derived in a way that is not supported"):
        converted(content, "image")


def test_a_heic_without_one_of_its_tiles_is_not_converted() -> None:
    content = heic(tiles=(2, 2)).replace(b"dimg\0\x05\0\x04\0\x01\0\x02", b"dimg\0\x05\0\x04\0\x01\0\x09")
    with pytest.raises(MediaError, match="it cannot be converted: its image has no data"):
        converted(content, "image")


def test_transparency_stays_in_a_png() -> None:
    image = upright().convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(SIZE))
    for kind in ("PNG", "WEBP"):
        file = io.BytesIO()
        image.save(file, kind, save_all=True, append_images=[image.rotate(180)], lossless=True)
        copy = Image.open(io.BytesIO(converted(file.getvalue(), "image")))
        assert copy.mode == "RGBA"
        alpha = [copy.getpixel((200, y))[3] for y in (10, 180, 350)]  # type: ignore[index]
        assert alpha == [image.getpixel((200, y))[3] for y in (10, 180, 350)]  # type: ignore[index]


def test_an_animated_webp_whose_first_picture_is_smaller_than_its_canvas_is_not_guessed() -> None:
    file = io.BytesIO()
    upright().save(file, "WEBP", save_all=True, append_images=[upright().rotate(180)])
    content = file.getvalue()
    assert first_webp_picture(content) != content
    at = content.index(b"ANMF") + 8
    smaller = content[: at + 6] + (99).to_bytes(3, "little") + content[at + 9 :]
    assert first_webp_picture(smaller) == smaller
    with pytest.raises(MediaError, match="it cannot be converted"):
        converted(smaller, "image")


def test_a_cmyk_picture_keeps_its_colours() -> None:
    file = io.BytesIO()
    upright().convert("CMYK").save(file, "JPEG", quality=95)
    assert is_upright(Image.open(io.BytesIO(converted(file.getvalue(), "image"))))


@pytest.mark.parametrize(
    ("times", "varies"),
    [
        (None, False),
        ([*range(20), *range(21, 41)], True),
        ([0, 1, 2, 3, 4, 10], True),
        ([0], False),
    ],
)
def test_a_frame_rate_varies_if_one_frame_is_missing(times: list[int] | None, *, varies: bool) -> None:
    traits = measured(video(sound=None, times=times), "video").traits
    assert any("frame rate varies" in trait for trait in traits) == varies


def test_a_video_is_measured_as_a_player_shows_it() -> None:
    assert measured(film(48, (64, 48), rotated=90), "video").size == (48, 64)
    facts = measured(film(36, (64, 48), mirrored=True), "video")
    assert (facts.size, facts.seconds) == ((64, 48), 1.5)
    assert facts.traits == ("its metadata rotates or mirrors it",)
    assert measured(film(48, codec="libx264", movflags="frag_keyframe+empty_moov"), "video").traits == ()


def test_a_mono_voice_in_a_rare_rate_becomes_an_mp3() -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="flac") as output:
        stream = output.add_stream("flac", rate=16_000)
        stream.codec_context.layout = "mono"
        frame = av.AudioFrame("s16", "mono", 4096)
        frame.sample_rate, frame.pts = 16_000, 0
        frame.planes[0].update(bytes(frame.planes[0].buffer_size))
        output.mux([*stream.encode(frame), *stream.encode(None)])
    copy = converted(file.getvalue(), "audio")
    assert media_type_of(copy[:4096]) == "audio/mpeg"
    with av.open(io.BytesIO(copy)) as container:
        decoder = container.streams.audio[0].codec_context
        assert (decoder.sample_rate, decoder.channels) == (48_000, 1)


def test_a_copy_that_is_too_large_or_takes_too_long_is_refused() -> None:
    for content, kind in ((heic(), "image"), (video(turns=1), "video"), (audio("ogg", "libopus"), "audio")):
        with pytest.raises(MediaError, match=rf"its copy has [\d,]+ bytes, and 1,000 are the most for {kind}"):
            converted(content, kind, max_bytes=1000)
    with pytest.raises(MediaError, match=r"it cannot be converted: .*longer than 0 s"):
        converted(video(turns=1), "video", max_seconds=0)


WHOLE = {name: MAKERS[name][2]() for name in ("heic of tiles", "rotated heic", "avif", "rotated JPEG", "animated webp")}


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(WHOLE)), st.randoms(use_true_random=False))
def test_no_bytes_break_the_probe_or_the_copy_of_an_image(name: str, choice: random.Random) -> None:
    content = bytearray(WHOLE[name])
    media_type = media_type_of(bytes(content[:4096])) or ""
    end = min(len(content), 900)  # where the headers are
    for _ in range(choice.randrange(1, 8)):
        content[choice.randrange(12, end)] = choice.randrange(256)
    for use in (lambda file: probe(file, "image", media_type), lambda file: copy(file, media_type)):
        try:
            use(io.BytesIO(bytes(content)))
        except MediaError as error:
            assert str(error).startswith("it ")


def copy(file: io.BytesIO, media_type: str) -> bytes:
    return convert(file, "image", media_type, copy_type_of(media_type), max_bytes=10**9)
