"""The first and the last frame of a video: the right frame, shape and colours, and clear errors."""

from __future__ import annotations

import io
import struct
from fractions import Fraction
from typing import Literal

import av
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from prefect_loova.errors import LoovaError, UnusableVideoError
from prefect_loova.video import decoder, frames
from prefect_loova.video.frames import frame_of, seam_distance
from tests.support import films
from tests.support.films import brightness, fill, film, luma, opened

Which = Literal["first", "last"]
BOTH: tuple[Which, Which] = ("first", "last")


def look(video: bytes, which: Which, **options: float) -> Image.Image:
    picture = opened(frame_of(io.BytesIO(video), which, **options))
    assert (picture.format, picture.mode) == ("PNG", "RGB")
    return picture


def number(picture: Image.Image) -> int:
    """The number of the frame with this grey."""
    return round((brightness(picture) * 219 / 255 + 16 - luma(0)) / (luma(1) - luma(0)))


def numbers(video: bytes) -> list[int]:
    return [number(look(video, which)) for which in BOTH]


def edited(video: bytes, *, shown_ms: int, from_tick: int) -> bytes:
    """The same frames, with an edit list that shows only some of them."""
    changed = bytearray(video)
    struct.pack_into(">Ii", changed, video.index(b"elst") + 12, shown_ms, from_tick)
    return bytes(changed)


@pytest.mark.parametrize("count", [1, 2, 3, 24, 53, 96])
@pytest.mark.parametrize(
    "options",
    [
        {"bf": "0", "g": "1"},
        {"bf": "3", "g": "250"},
        {"bf": "3", "g": "10"},
        {"bf": "2", "g": "12", "x264-params": "open-gop=1"},
    ],
    ids=["keyframes", "b-frames", "short-gops", "open-gops"],
)
def test_the_first_and_the_last_frame_are_returned(count: int, options: dict[str, str]) -> None:
    assert numbers(film(count, **options)) == [0, count - 1]


@pytest.mark.parametrize("codec", ["libx265", "mpeg4"])
def test_other_codecs_are_read(codec: str) -> None:
    options = (
        {"x265-params": "log-level=none:keyint=20:pools=none:frame-threads=1"}
        if codec == "libx265"
        else {"g": "20", "qmax": "2"}
    )
    assert numbers(film(53, codec=codec, **options)) == [0, 52]


@pytest.mark.parametrize(
    "movflags",
    [
        "",
        "faststart",
        "frag_keyframe+empty_moov",
        "frag_every_frame+delay_moov",
        "frag_keyframe+empty_moov+default_base_moof+skip_trailer",
        "dash+frag_keyframe+delay_moov",
    ],
)
@pytest.mark.parametrize("count", [1, 96])
def test_the_index_may_be_anywhere(movflags: str, count: int) -> None:
    assert numbers(film(count, movflags=movflags, g="10", bf="3")) == [0, count - 1]


def test_frames_that_an_edit_list_hides_are_not_shown() -> None:
    whole = film(60, g="10", bf="2")
    # The first five frames and all from the thirtieth on are hidden. 1024 ticks are the delay of the B-frames.
    assert numbers(edited(whole, shown_ms=25 * 1000 // 24, from_tick=1024 + 5 * 512)) == [5, 29]


def test_frames_with_irregular_timestamps_are_found() -> None:
    assert numbers(film(6, times=[0, 1, 2, 50, 51, 99])) == [0, 5]
    assert numbers(film(30, times=[round(index**1.5) for index in range(30)], bf="3", g="7")) == [0, 29]


@pytest.mark.parametrize("movflags", ["faststart", "frag_keyframe+empty_moov"])
def test_sound_longer_than_the_picture_does_not_matter(movflags: str) -> None:
    assert numbers(film(24, sound_seconds=3, movflags=movflags, g="5")) == [0, 23]


def test_the_pixels_are_the_coded_ones() -> None:
    video = film(30, (160, 120), paint=films.noise, crf="18", g="7")
    with av.open(io.BytesIO(video)) as container:
        decoded = list(container.decode(video=0))
    for which, frame in zip(BOTH, (decoded[0], decoded[-1]), strict=True):
        picture, plane = look(video, which), frame.planes[0]
        greys, coded = picture.convert("L"), bytes(plane)
        off = [
            abs(greys.getpixel((x, y)) - (coded[y * plane.line_size + x] - 16) * 255 / 219)
            for y in range(120)
            for x in range(160)
            if all(0 < value < 255 for value in picture.getpixel((x, y)))  # RGB has no place for the others
        ]
        assert len(off) > 1000 and max(off) < 2


def test_only_frames_after_the_last_keyframe_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[int] = []
    check = decoder.VideoReader.check_frame
    monkeypatch.setattr(decoder.VideoReader, "check_frame", lambda self, frame: (checked.append(1), check(self, frame)))
    look(film(96, g="10", bf="3", sc_threshold="0"), "last")
    assert len(checked) == 6


def test_all_frames_are_decoded_if_seeking_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = film(40, g="10")
    usual = frame_of(io.BytesIO(whole), "last")
    monkeypatch.setattr(frames, "_from_last_keyframe", lambda *_: None)
    assert frame_of(io.BytesIO(whole), "last") == usual


@pytest.mark.parametrize("which", BOTH)
@pytest.mark.parametrize(
    ("size", "rotated", "sar", "shown"),
    [
        ((640, 360), None, None, (640, 360)),
        ((640, 360), 90, None, (360, 640)),
        ((640, 360), 180, None, (640, 360)),
        ((720, 576), None, Fraction(64, 45), (1024, 576)),
        ((720, 576), 90, Fraction(64, 45), (576, 1024)),
        ((640, 360), None, Fraction(1, 2), (320, 360)),
        ((321, 181), None, None, (321, 181)),
        ((1, 1), None, None, (1, 1)),
        ((2048, 1152), None, None, (2048, 1152)),
    ],
)
def test_the_shape_is_that_of_a_player(
    which: Which, size: tuple[int, int], rotated: int | None, sar: Fraction | None, shown: tuple[int, int]
) -> None:
    assert look(film(3, size, rotated=rotated, sar=sar, pix_fmt="yuv444p"), which).size == shown


@pytest.mark.parametrize("which", BOTH)
@pytest.mark.parametrize(
    ("rotated", "mirrored", "corner"),
    [
        (None, False, "top left"),
        (90, False, "bottom left"),
        (180, False, "bottom right"),
        (270, False, "top right"),
        (0, True, "top right"),
        (180, True, "bottom left"),
        (90, True, "bottom right"),
        (270, True, "top left"),
    ],
)
def test_rotation_and_mirroring_are_applied(which: Which, rotated: int | None, mirrored: bool, corner: str) -> None:
    picture = look(film(3, (96, 64), paint=films.bright_corner, rotated=rotated, mirrored=mirrored), which)
    bright = [
        f"{y} {x}"
        for y, down in (("top", 0.25), ("bottom", 0.75))
        for x, right in (("left", 0.25), ("right", 0.75))
        if brightness(picture, right, down) > 128
    ]
    assert bright == [corner]


@pytest.mark.parametrize(
    ("size", "tags", "yuv"),
    [
        ((64, 48), {"colorspace": 1}, (102, 99, 178)),
        ((64, 48), {"colorspace": 6}, (109, 94, 179)),
        ((64, 48), {"colorspace": 5}, (109, 94, 179)),
        ((64, 48), {}, (109, 94, 179)),
        ((64, 48), {"colorspace": 9}, (107, 97, 178)),
        ((1280, 720), {}, (102, 99, 178)),
        ((1280, 720), {"colorspace": 6}, (109, 94, 179)),
        ((64, 48), {"color_range": "pc"}, (108, 89, 186)),
        ((64, 48), {"colorspace": 1, "color_range": "pc"}, (100, 95, 185)),
    ],
)
def test_colours_are_those_of_a_player(size: tuple[int, int], tags: dict, yuv: tuple[int, int, int]) -> None:
    video = film(2, size, paint=lambda frame, _: fill(frame, yuv), **tags)
    for which in BOTH:
        assert look(video, which).getpixel((20, 20)) == pytest.approx((190, 80, 40), abs=3)


def test_black_is_black_and_white_is_white() -> None:
    for y, shown in ((16, 0), (235, 255)):
        video = film(2, paint=lambda frame, _, y=y: fill(frame, (y, 128, 128)))
        assert look(video, "last").getpixel((9, 9)) == (shown, shown, shown)


def test_the_same_video_gives_the_same_bytes() -> None:
    video = film(20, (320, 180), paint=films.noise, rotated=90)
    for which in BOTH:
        assert frame_of(io.BytesIO(video), which) == frame_of(io.BytesIO(video), which)


VIDEO = film(96, (160, 120), paint=films.noise, movflags="faststart", crf="30")
FRAGMENTS = film(96, (160, 120), paint=films.noise, movflags="frag_keyframe+empty_moov", crf="30", g="10")


@pytest.mark.parametrize("which", BOTH)
@pytest.mark.parametrize(
    ("video", "reason"),
    [
        (b"", "the file is empty"),
        (b"This is a text. " * 1000, "not an mp4"),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n", "not an mp4"),
        (bytes(100_000), "not an mp4"),
        (film(3, container="matroska"), "not an mp4"),
        (film(3, codec="png", pix_fmt="rgb24", paint=lambda frame, _: None), r"video codec \(png\) is not supported"),
        (films.sound(1), "it has no picture"),
        (VIDEO[:40], "not an mp4|no picture"),
        (VIDEO[: VIDEO.index(b"mdat") + 4], "cannot be decoded|no picture|cut short"),
        (VIDEO[: len(VIDEO) // 2], "cut short"),
        (VIDEO[:-1000], "cut short"),
        (VIDEO[:-1], "cut short"),
        (film(96)[:-1000], "not an mp4"),
        (film(2, (8200, 16)), "8,200 x 16 pixels, which is too large"),
        (film(1, (320, 320), sar=Fraction(100, 1)), "32,000 x 320 pixels, which is too large"),
    ],
    ids=range(15),
)
def test_an_incomplete_video_is_a_clear_error(which: Which, video: bytes, reason: str) -> None:
    with pytest.raises(UnusableVideoError, match=f"^no frame can be taken from the video: .*({reason})"):
        look(video, which)


def test_a_damaged_last_frame_is_not_returned() -> None:
    disturbed = bytearray(VIDEO)
    for place in range(len(VIDEO) - 20_000, len(VIDEO), 50):
        disturbed[place] ^= 0x55
    with pytest.raises(UnusableVideoError, match=r"damaged|cannot be decoded"):
        look(bytes(disturbed), "last")


def test_fragments_that_are_cut_short_have_no_last_frame() -> None:
    with pytest.raises(UnusableVideoError, match=r"cut short|cannot be decoded"):
        look(FRAGMENTS[: len(FRAGMENTS) * 2 // 3], "last")


def test_a_video_with_a_false_duration_has_no_last_frame() -> None:
    promising = bytearray(VIDEO)
    struct.pack_into(">I", promising, VIDEO.index(b"mdhd") + 20, 960 * 512)
    struct.pack_into(">II", promising, VIDEO.index(b"stts") + 12, 960, 512)
    edits = VIDEO.index(b"edts")  # they say it too
    promising[edits : edits + 4] = b"free"
    with pytest.raises(UnusableVideoError, match=r"it ends after 4\.0 of 40\.0 s: it is cut short"):
        look(bytes(promising), "last")


def test_it_ends_when_the_time_is_up() -> None:
    for which in BOTH:
        with pytest.raises(UnusableVideoError, match="took longer than 0 s"):
            look(VIDEO, which, max_seconds=0)


def test_an_exception_of_the_file_is_raised_unchanged() -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise LoovaError("the bucket burned down")

    for which in BOTH:
        with pytest.raises(LoovaError, match="the bucket burned down"):
            frame_of(Broken(VIDEO), which)


SMALL = film(30, (32, 32), movflags="faststart", crf="40")


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(SMALL) - 1), st.integers(0, 255)), max_size=8), st.integers(0, len(SMALL)))
def test_any_content_gives_a_picture_or_a_clear_error(changes: list[tuple[int, int]], length: int) -> None:
    video = bytearray(SMALL)
    for place, value in changes:
        video[place] = value
    for content in (video, video[:length]):
        for which in BOTH:
            try:
                look(bytes(content), which)
            except UnusableVideoError as error:
                assert str(error).startswith("no frame can be taken from the video: ")


def painted(colour: tuple[int, int, int], size: tuple[int, int] = (64, 48)) -> bytes:
    return film(6, size, paint=lambda frame, _: fill(frame, colour))


def test_the_distance_at_a_seam_is_from_0_for_equal_frames_to_1_for_black_against_white() -> None:
    black, white, grey = painted((16, 128, 128)), painted((235, 128, 128), (96, 72)), painted((126, 128, 128))
    assert distance(black, black) == 0
    assert distance(black, white) == pytest.approx(1, abs=0.01)
    assert distance(white, grey) == pytest.approx(0.5, abs=0.02)


def test_the_distance_at_a_seam_is_of_the_last_frame_and_the_first() -> None:
    brightening = film(100)
    assert distance(brightening, brightening) == pytest.approx((luma(99) - luma(0)) / 219, abs=0.02)


def test_a_video_without_frames_has_no_distance() -> None:
    with pytest.raises(UnusableVideoError):
        distance(b"no video", painted((16, 128, 128)))


def distance(before: bytes, after: bytes) -> float:
    return seam_distance(io.BytesIO(before), io.BytesIO(after))
