"""The check of reference media before a purchase: whole media pass, truncated ones are refused."""

from __future__ import annotations

import io
import random
import time
import wave
from typing import Any

import av
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from prefect_loova.models.media_facts import MediaFacts
from prefect_loova.models.media_types import media_type_of, media_type_to_send
from prefect_loova.video.decoder import MAX_IMAGE_PIXELS
from prefect_loova.video.probe import probe
from tests.support import films
from tests.support.films import film

ANIMATION = "it is an animation"


def found(content: bytes, kind: Any) -> str:
    """The doubt about a medium."""
    return measured(content, kind).doubt


def measured(content: bytes, kind: Any) -> MediaFacts:
    return probe(io.BytesIO(content), kind, media_type_to_send(content[:4096], kind))


def picture(mode: str = "RGB") -> Image.Image:
    """A picture that is hard to compress."""
    size = (97, 61)
    noisy = Image.frombytes("RGB", size, random.Random(1).randbytes(size[0] * size[1] * 3))
    if mode == "I;16":
        return Image.frombytes(mode, size, random.Random(2).randbytes(size[0] * size[1] * 2))
    return noisy.convert(mode)


def image(kind: str, mode: str = "RGB", **options: Any) -> bytes:
    file = io.BytesIO()
    picture(mode).save(file, kind, **options)
    return file.getvalue()


def moving(kind: str) -> bytes:
    file = io.BytesIO()
    picture().save(file, kind, save_all=True, append_images=[picture().rotate(180), picture().rotate(90)])
    return file.getvalue()


WHOLE: dict[str, bytes] = {
    **{f"png {mode}": image("PNG", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")},
    **{f"jpeg {mode}": image("JPEG", mode) for mode in ("L", "RGB", "CMYK")},
    **{f"jpeg progressive {mode}": image("JPEG", mode, progressive=True) for mode in ("L", "RGB", "CMYK")},
    "jpeg 4:4:4": image("JPEG", subsampling=0, quality=95, optimize=True),
    "jpeg restart": image("JPEG", restart_marker_rows=1),
    "jpeg with exif": image("JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"),
    "webp": image("WEBP"),
    "webp lossless": image("WEBP", lossless=True),
    "webp alpha": image("WEBP", "RGBA"),
    "gif": image("GIF", "P"),
    "gif interlaced": image("GIF", "P", interlace=1),
    **{f"bmp {mode}": image("BMP", mode) for mode in ("1", "L", "P", "RGB", "RGBA")},
    **{f"tiff {mode}": image("TIFF", mode) for mode in ("1", "L", "P", "RGB", "RGBA", "CMYK", "I;16")},
    **{
        f"tiff {name}": image("TIFF", compression=name)
        for name in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
    },
    "tiff group4": image("TIFF", "1", compression="group4"),
}
NOT_DECODED_HERE = {
    f"tiff {name}": image("TIFF", mode, **options)
    for name, mode, options in (("lab", "LAB", {}), ("zstd", "RGB", {"compression": "zstd"}))
}
MOVING = {name: moving(name) for name in ("GIF", "PNG", "WEBP")}


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_image_passes_and_half_of_it_is_refused(name: str) -> None:
    content = WHOLE[name]
    assert found(content, "image") == ""
    assert found(content + b"something behind it" * 9, "image") == ""
    for part in (0.5, 0.75, 0.9):
        with pytest.raises(ValueError, match=r"^it is (cut short|damaged): its picture "):
            found(content[: int(len(content) * part)], "image")


@pytest.mark.parametrize("name", MOVING)
def test_an_animation_is_a_doubt_and_half_of_it_is_refused(name: str) -> None:
    content = MOVING[name]
    facts = measured(content, "image")
    assert (facts.doubt, facts.size) == ("", (97, 61))
    assert any(trait.startswith(ANIMATION) for trait in facts.traits)
    with pytest.raises(ValueError, match="it is cut short"):
        found(content[: len(content) * 3 // 4], "image")


@pytest.mark.parametrize("name", NOT_DECODED_HERE)
def test_an_image_that_only_other_decoders_can_read_is_a_doubt(name: str) -> None:
    assert "it cannot be checked here" in found(NOT_DECODED_HERE[name], "image")


def test_an_image_of_more_pixels_than_are_decoded_here_is_a_doubt() -> None:
    side = int(MAX_IMAGE_PIXELS**0.5) + 1
    file = io.BytesIO()
    Image.new("1", (side, side)).save(file, "PNG")
    facts = measured(file.getvalue(), "image")
    assert "it cannot be checked here" in facts.doubt
    assert facts.size == (side, side)


def test_a_png_whose_pixels_are_damaged_is_refused() -> None:
    content = bytearray(WHOLE["png RGB"])
    content[len(content) // 2 :][:40] = bytes(40)
    middle = len(content) // 2
    content[middle : middle + 400] = bytes(400)
    with pytest.raises(ValueError, match="it is damaged"):
        found(bytes(content), "image")


FAST = film(48, (160, 120), paint=films.noise, movflags="faststart")
PARTS = film(48, (160, 120), paint=films.noise, movflags="frag_keyframe+empty_moov", g="10")


@pytest.mark.parametrize(
    "content",
    [
        film(10),
        film(1),
        FAST,
        PARTS,
        film(5, container="mov"),
        film(5, codec="mpeg4"),
        film(5, sound_seconds=1),
        film(5, rotated=90),
        film(5, codec="libx265", **{"x265-params": "log-level=none:pools=none:frame-threads=1"}),
        FAST + b"something behind it",
        film(10).replace(b"isomiso2avc1mp41", b"nonenonenonenone").replace(b"ftypisom", b"ftypnone"),
    ],
    ids=range(11),
)
def test_a_whole_video_passes(content: bytes) -> None:
    assert found(content, "video") == ""


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (films.sound(1), "it has sound but no picture: it is not a video"),
        (film(10)[:-400], "its index is missing"),
        (FAST[:60], "its index is missing"),
        (FAST[: len(FAST) // 2], "it is cut short"),
        (FAST[:-1], "it is cut short"),
        (PARTS[: len(PARTS) // 2], "it is cut short"),
        (FAST[: FAST.index(b"mdat") + 4] + bytes(len(FAST)), "no picture can be decoded"),
        (b"\0\0\0\x10ftypisom\0\0\0\0" + bytes(1000), "index is missing"),
        (b"\0\0\0\x10ftypnone\0\0\0\0" + b"no film " * 99, "index is missing"),
    ],
    ids=range(9),
)
def test_a_video_without_a_picture_that_decodes_is_refused(content: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        found(content, "video")


@pytest.mark.parametrize(
    ("content", "doubt"),
    [
        (
            film(3, container="mov", codec="prores_ks", pix_fmt="yuv422p10le"),
            "codec (prores) is not supported here",
        ),
        (film(3, container="mov", codec="mjpeg", pix_fmt="yuvj420p"), "codec (mjpeg) is not supported here"),
        (film(1, (8200, 16)), "8,200 x 16 pixels, which is too large to check here"),
    ],
    ids=range(3),
)
def test_a_video_that_only_other_decoders_can_read_is_a_doubt(content: bytes, doubt: str) -> None:
    assert doubt in found(content, "video")


def with_cover(container: str, codec: str) -> bytes:
    """Audio with a cover picture."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=44_100)
        cover = output.add_stream("png", rate=1)
        cover.width, cover.height, cover.pix_fmt = 32, 32, "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic
        frame = av.VideoFrame(32, 32, "rgb24")
        frame.pts = 0
        pictures = [*cover.encode(frame), *cover.encode(None)]
        output.mux(pictures)
        for start in range(0, 44_100, 1024):
            sound = av.AudioFrame(format=stream.codec_context.format.name, layout="stereo", samples=1024)
            for plane in sound.planes:
                plane.update(bytes(plane.buffer_size))
            sound.sample_rate, sound.pts = 44_100, start
            output.mux(stream.encode(sound))
        output.mux(stream.encode(None))
    return file.getvalue()


def waves(**options: Any) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as output:
        output.setnchannels(2)
        output.setsampwidth(options.get("width", 2))
        output.setframerate(44_100)
        output.writeframes(random.Random(1).randbytes(40_000))
    return file.getvalue()


def rf64() -> bytes:
    content = waves()
    sizes = (len(content) + 28).to_bytes(8, "little") + (40_000).to_bytes(8, "little") + bytes(12)
    return b"RF64\xff\xff\xff\xffWAVEds64\x1c\0\0\0" + sizes + content[12:]


MP3 = with_cover("mp3", "libmp3lame")


@pytest.mark.parametrize(
    "content", [waves(), waves(width=1), waves(width=3), rf64(), MP3, MP3[: len(MP3) - 700]], ids=range(6)
)
def test_a_whole_audio_passes(content: bytes) -> None:
    assert found(content, "audio") == ""


def test_a_wav_that_declares_more_than_it_has_is_a_doubt() -> None:
    assert "it may be cut short" in found(waves()[:20_000], "audio")
    streamed = bytearray(waves())
    streamed[4:8] = b"\xff\xff\xff\xff"
    assert found(bytes(streamed), "audio") == ""


@pytest.mark.parametrize(
    "content",
    [
        waves()[:30],
        waves()[:44],
        b"ID3\x04\0\0\0\0\0\0" + bytes(5000),
        b"ID3\x04\0\0\0\0\0\0fLaC" + random.Random(3).randbytes(5000),
        b"\xff\xfb\x90\x64" + bytes(5000),
    ],
    ids=range(5),
)
def test_an_audio_without_sound_that_decodes_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"it (cannot be read as|is damaged)"):
        found(content, "audio")


def test_a_cover_is_not_the_picture_of_a_video() -> None:
    with pytest.raises(ValueError, match="it has sound but no picture: it is not a video"):
        found(with_cover("mp4", "aac"), "video")


def test_a_probe_that_takes_too_long_is_a_doubt() -> None:
    assert "longer than 0 s" in probe(io.BytesIO(FAST), "video", "video/mp4", max_seconds=0).doubt


def test_files_that_would_open_others_are_not_opened() -> None:
    for kind in ("video", "audio"):
        with pytest.raises(ValueError, match=r"it (is not|cannot be read as)"):
            probe(io.BytesIO(b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n"), kind, f"{kind}/mpeg")


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["png RGB", "jpeg RGB", "webp", "gif", "bmp P", "tiff RGB"]), st.randoms(use_true_random=False))
def test_no_bytes_break_the_probe_of_an_image(name: str, choice: random.Random) -> None:
    _survives(WHOLE[name], "image", choice)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([film(5), waves(), MP3]), st.randoms(use_true_random=False))
def test_no_bytes_break_the_probe_of_a_video_or_audio(content: bytes, choice: random.Random) -> None:
    _survives(content, "video" if content[4:8] == b"ftyp" else "audio", choice)


def _survives(content: bytes, kind: Any, choice: random.Random) -> None:
    damaged = bytearray(content[: choice.randrange(20, len(content))] if choice.random() < 0.3 else content)
    for _ in range(choice.randrange(1, 12)):
        damaged[choice.randrange(12, len(damaged))] = choice.randrange(256)
    if not (media_type_of(bytes(damaged[:4096])) or "").startswith(kind):
        return
    begun = time.monotonic()
    try:
        found(bytes(damaged), kind)
    except ValueError as error:
        assert str(error).startswith("it ")
    assert time.monotonic() - begun < 20
