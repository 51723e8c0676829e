"""Pictures of a video: the right frames, shapes and sizes, and clear errors."""

from __future__ import annotations

import base64
import gc
import io
import random
import struct
from fractions import Fraction

import av
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_loova.errors import LoovaError, PreviewError
from prefect_loova.video import decoder
from prefect_loova.video.samples import MAX_DECODED
from prefect_loova.video.thumbnails import SAMPLES, THUMBNAIL_BYTES, Previews, make_previews
from tests.support import films
from tests.support.films import FPS, bright_corner, brightness, fill, film, grey, luma, moving_frames, opened

NEAR = 2.2  # half of what lies between two frames, in Pillow's greys, is 1.16; JPEG and WebP are off by one or two


def look(video: bytes, **options: object) -> Previews:
    return make_previews(io.BytesIO(video), **options)  # type: ignore[arg-type]


def samples_of(frames: int) -> list[int]:
    """The frames in the middle of 27 equal parts."""
    return [frames * (2 * part + 1) // (2 * SAMPLES) for part in range(SAMPLES)]


def number_of(grey_: float) -> int:
    """The number of the frame with this grey."""
    return round(((grey_ * 219 / 255 + 16) - luma(0)) / (luma(1) - luma(0)))


@pytest.fixture(scope="module")
def four_seconds() -> bytes:
    return film(96, movflags="faststart")


@pytest.mark.parametrize("frames", [1, 2, 4, 5, 24, 53, 96])
@pytest.mark.parametrize("options", [{"bf": "0", "g": "1"}, {"bf": "3", "g": "250"}], ids=["keyframes", "b-frames"])
def test_poster_and_thumbnail_are_the_frame_in_the_middle(frames: int, options: dict[str, str]) -> None:
    made = look(film(frames, **options))
    for picture in (made.poster, made.thumbnail):
        assert opened(picture).format == "JPEG"
        assert number_of(brightness(opened(picture))) == frames // 2
    assert made.duration_seconds == pytest.approx(frames / FPS)


def test_the_moving_preview_shows_the_whole_video_in_three_seconds(four_seconds: bytes) -> None:
    made = look(four_seconds)
    assert made.moving_type == "image/webp"
    shown = [number_of(brightness(frame)) for frame in moving_frames(made.moving)]
    assert shown == samples_of(96)
    animation = opened(made.moving)
    assert (animation.format, animation.info["loop"]) == ("WEBP", 0)
    assert durations(made.moving) == pytest.approx([1000 / 9] * SAMPLES, abs=1)


def durations(moving: bytes) -> list[int]:
    animation = opened(moving)
    found = []
    for number in range(animation.n_frames):
        animation.seek(number)
        animation.load()
        found.append(animation.info["duration"])
    return found


def test_a_video_shorter_than_three_seconds_plays_in_real_time() -> None:
    made = look(film(12, paint=lambda frame, number: fill(frame, (luma(8 * number), 128, 128))))
    assert [number_of(brightness(frame)) for frame in moving_frames(made.moving)] == list(range(0, 96, 8))
    assert sum(durations(made.moving)) == pytest.approx(500, abs=12)


def test_the_contact_sheet_shows_nine_frames_in_order(four_seconds: bytes) -> None:
    sheet = opened(look(four_seconds).contact_sheet)
    assert sheet.size == (3 * 64, 3 * 48)
    shown = [number_of(brightness(sheet, (x + 0.5) / 3, (y + 0.5) / 3)) for y in range(3) for x in range(3)]
    assert shown == samples_of(96)[1::3]


def test_a_contact_sheet_of_few_frames_shows_each_once() -> None:
    assert opened(look(film(1)).contact_sheet).size == (64, 48)
    sheet = opened(look(film(3)).contact_sheet)
    assert sheet.size == (128, 96)
    cells = [brightness(sheet, x, y) for y in (0.25, 0.75) for x in (0.25, 0.75)]
    assert [number_of(cell) for cell in cells[:3]] == [0, 1, 2]
    assert cells[3] < 4


def test_one_frame_makes_a_moving_preview_too() -> None:
    made = look(film(1))
    assert [number_of(brightness(frame)) for frame in moving_frames(made.moving)] == [0]


def test_a_long_frame_is_sampled_while_it_is_shown() -> None:
    times = [*range(10), *range(60, 70)]  # the tenth stays from 0.4 to 2.5 of 2.9 s
    made = look(film(20, times=times))
    assert number_of(brightness(opened(made.poster))) == 9
    shown = [number_of(brightness(frame)) for frame in moving_frames(made.moving)]
    assert shown == sorted(set(shown))
    assert 9 in shown and shown[-1] > 15


def test_sound_longer_than_the_picture_does_not_count() -> None:
    made = look(film(24, sound_seconds=3))
    assert made.duration_seconds == pytest.approx(1, abs=0.1)
    assert number_of(brightness(opened(made.poster))) == 12


@pytest.mark.parametrize("movflags", ["", "faststart", "frag_keyframe+empty_moov", "frag_every_frame+delay_moov"])
def test_the_index_may_be_anywhere(movflags: str, four_seconds: bytes) -> None:
    made, usual = look(film(96, movflags=movflags)), look(four_seconds)
    assert (made.poster, made.moving, made.contact_sheet) == (usual.poster, usual.moving, usual.contact_sheet)
    assert made.duration_seconds == pytest.approx(4)


def test_a_long_video_is_sampled_at_its_keyframes_without_decoding_the_rest() -> None:
    frames = MAX_DECODED + 200
    numbered = film(
        frames, (32, 32), paint=lambda frame, n: fill(frame, (20 + n // 10, 128, 128)), g="50", sc_threshold="0"
    )
    made = look(numbered)
    keyframes = [sample // 50 * 50 for sample in samples_of(frames)]
    sheet = opened(made.contact_sheet)
    cells = [brightness(sheet, (x + 0.5) / 3, (y + 0.5) / 3) for y in range(3) for x in range(3)]
    assert cells == pytest.approx([grey(20 + number // 10) for number in keyframes[1::3]], abs=NEAR)
    assert made.duration_seconds == pytest.approx(frames / FPS)


@pytest.mark.parametrize(
    ("size", "rotated", "sar", "shown"),
    [
        ((640, 360), None, None, (640, 360)),
        ((360, 640), None, None, (360, 640)),
        ((480, 480), None, None, (480, 480)),
        ((640, 360), 90, None, (360, 640)),
        ((640, 360), 180, None, (640, 360)),
        ((640, 360), 270, None, (360, 640)),
        ((720, 576), None, Fraction(64, 45), (1024, 576)),
        ((720, 576), None, Fraction(16, 15), (768, 576)),
        ((720, 576), 90, Fraction(64, 45), (576, 1024)),
        ((640, 360), None, Fraction(1, 2), (320, 360)),
        ((1001, 3), None, None, (1001, 3)),
        ((2048, 1152), None, None, (2048, 1152)),
    ],
)
def test_every_picture_has_the_shape_of_a_player(
    size: tuple[int, int], rotated: int | None, sar: Fraction | None, shown: tuple[int, int]
) -> None:
    made = look(film(3, size, rotated=rotated, sar=sar, pix_fmt="yuv444p"))
    assert (made.width, made.height) == shown
    for picture, longest in ((made.poster, 1920), (made.thumbnail, 240), (made.moving, 320)):
        width, height = opened(picture).size
        assert max(width, height) == min(longest, max(shown))
        scale = max(width, height) / max(shown)
        assert (width, height) == pytest.approx((shown[0] * scale, shown[1] * scale), abs=1.5)


@pytest.mark.parametrize("size", [(321, 181), (33, 65), (3, 3), (1, 1)])
def test_odd_sizes_are_kept(size: tuple[int, int]) -> None:
    made = look(film(4, size, pix_fmt="yuv444p", codec="libx264"))
    assert (made.width, made.height) == size
    assert opened(made.poster).size == (max(2, size[0]), max(2, size[1]))


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
def test_rotation_and_mirroring_are_applied(rotated: int | None, mirrored: bool, corner: str) -> None:
    made = look(film(3, (96, 64), paint=bright_corner, rotated=rotated, mirrored=mirrored))
    for content in (made.poster, made.thumbnail, made.moving):
        picture = opened(content)
        bright = [
            f"{y} {x}"
            for y, down in (("top", 0.25), ("bottom", 0.75))
            for x, right in (("left", 0.25), ("right", 0.75))
            if brightness(picture, right, down) > 128
        ]
        assert bright == [corner]


@pytest.mark.parametrize(("colorspace", "yuv"), [(1, (102, 99, 178)), (6, (109, 94, 179)), (2, (109, 94, 179))])
def test_colours_follow_the_matrix_of_the_video(colorspace: int, yuv: tuple[int, int, int]) -> None:
    made = look(film(3, paint=lambda frame, _: fill(frame, yuv), colorspace=colorspace))
    for content in (made.poster, made.thumbnail, made.moving):
        assert opened(content).convert("RGB").getpixel((20, 20)) == pytest.approx((190, 80, 40), abs=8)


def test_black_is_black_and_white_is_white() -> None:
    for y, shown in ((16, 0), (235, 255)):
        made = look(film(3, paint=lambda frame, _, y=y: fill(frame, (y, 128, 128))))
        for content in (made.poster, made.thumbnail, made.moving, made.contact_sheet):
            assert brightness(opened(content), 0.25, 0.25) == pytest.approx(shown, abs=1)


@pytest.mark.parametrize("size", [(640, 360), (480, 480)])
def test_even_noise_stays_within_the_bounds(size: tuple[int, int]) -> None:
    made = look(film(30, size, paint=films.noise, crf="18"))
    assert len(made.thumbnail) <= THUMBNAIL_BYTES
    assert len(made.moving) <= 190_000
    assert len(f"data:{made.moving_type};base64," + base64.b64encode(bytes(190_000)).decode()) <= 256 * 1024
    assert len(moving_frames(made.moving)) == SAMPLES


@pytest.mark.parametrize("most", [60_000, 30_000])
def test_the_moving_preview_is_made_smaller_until_it_fits(most: int) -> None:
    video = film(30, (320, 180), paint=films.noise, crf="30")
    made = look(video, moving_bytes=most)
    assert len(made.moving) <= most
    assert len(moving_frames(made.moving)) == SAMPLES


def test_a_bound_that_nothing_fits_is_an_error() -> None:
    with pytest.raises(PreviewError, match="no moving preview fits 100 bytes"):
        look(film(30, (160, 90), paint=films.noise), moving_bytes=100)


def test_a_gif_is_used_if_it_is_smaller() -> None:
    made = look(film(40, (320, 240), paint=stripes))
    assert made.moving_type == "image/gif"
    animation = opened(made.moving)
    assert (animation.format, animation.n_frames, animation.info["loop"]) == ("GIF", SAMPLES, 0)
    assert animation.size == (320, 240)


def stripes(frame: object, number: int) -> None:
    fill(frame, (16, 128, 128))  # type: ignore[arg-type]
    plane = frame.planes[0]  # type: ignore[attr-defined]
    row = (b"\x10\xeb" * plane.width)[: plane.width]
    pixels = bytearray(plane)
    for y in range(plane.height):
        start = y * plane.line_size
        pixels[start : start + plane.width] = row if (y + number) % 2 else bytes(reversed(row))
    plane.update(bytes(pixels))


def test_the_same_video_gives_the_same_bytes(four_seconds: bytes) -> None:
    assert look(four_seconds) == look(four_seconds)


def damaged(video: bytes, places: int, seed: int) -> bytes:
    draw, disturbed = random.Random(seed), bytearray(video)
    start = video.index(b"mdat") + 100
    for _ in range(places):
        disturbed[draw.randrange(start, len(disturbed))] ^= draw.randrange(1, 256)
    return bytes(disturbed)


def declaring(video: bytes, *, frames: int = 96, ticks: int = 512) -> bytes:
    """The same video, with an index that declares this number of frames, of this many ticks each."""
    changed = bytearray(video)
    header, table = video.index(b"mdhd") + 4, video.index(b"stts") + 4
    struct.pack_into(">I", changed, header + 16, frames * ticks)
    struct.pack_into(">II", changed, table + 8, frames, ticks)
    edits = video.index(b"edts")  # they say it too
    changed[edits : edits + 4] = b"free"
    return bytes(changed)


VIDEO = film(96, (160, 120), paint=films.noise, movflags="faststart", crf="30")


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
        (VIDEO[: VIDEO.index(b"mdat") + 4], "cannot be decoded|no picture"),
        (VIDEO[: len(VIDEO) // 2], "cannot be decoded|cut short"),
        (VIDEO[: len(VIDEO) * 9 // 10], "cannot be decoded|cut short"),
        (VIDEO[:-1000], "cannot be decoded|cut short"),
        (film(96)[:-1000], "not an mp4"),
        (damaged(VIDEO, 200, 1), "damaged|cannot be decoded"),
        (film(2, (8200, 16)), "8,200 x 16 pixels, which is too large"),
        (film(1, (4096, 2320), preset="ultrafast"), "4,096 x 2,320 pixels, which is too large"),
        (film(1, (320, 320), sar=Fraction(100, 1)), "32,000 x 320 pixels, which is too large"),
        (declaring(VIDEO, ticks=12_288 * 100), "its duration is 9,600 s"),
        (declaring(VIDEO, frames=960), "it ends after 4.0 of 40.0 s: it is cut short"),
    ],
    ids=[
        "empty",
        "text",
        "playlist",
        "zeros",
        "matroska",
        "png",
        "sound",
        "header",
        "no-frames",
        "half",
        "most",
        "nearly",
        "index-lost",
        "damaged",
        "wide",
        "large",
        "stretched",
        "long",
        "longer",
    ],
)
def test_an_incomplete_or_oversized_video_is_a_clear_error(video: bytes, reason: str) -> None:
    with pytest.raises(PreviewError, match=f"^no preview can be made of the video: .*({reason})"):
        look(video)


def test_a_long_video_that_is_cut_short_is_an_error() -> None:
    whole = film(MAX_DECODED + 100, (32, 32), movflags="faststart", g="50", paint=films.noise)
    look(whole)
    with pytest.raises(PreviewError, match=r"cut short|cannot be decoded"):
        look(whole[: len(whole) * 2 // 3])


def test_a_file_over_the_size_bound_is_not_read() -> None:
    class Huge(io.BytesIO):
        def seek(self, offset: int, whence: int = 0) -> int:
            return decoder.MAX_BYTES + 1 if whence == io.SEEK_END else super().seek(offset, whence)

        def read(self, size: int | None = -1) -> bytes:
            raise AssertionError("it was read")

    with pytest.raises(PreviewError, match="bytes; at most"):
        make_previews(Huge())


def test_no_frame_waits_for_the_garbage_collector(four_seconds: bytes) -> None:
    gc.collect()
    gc.disable()
    try:
        look(four_seconds)
        kept = [thing for thing in gc.get_objects() if isinstance(thing, av.VideoFrame)]
    finally:
        gc.enable()
    assert len(kept) <= 1  # the one that was asked for its side data


def test_it_ends_when_the_time_is_up(four_seconds: bytes) -> None:
    with pytest.raises(PreviewError, match="took longer than 0 s"):
        look(four_seconds, max_seconds=0)


def test_an_exception_of_the_file_is_raised_unchanged(four_seconds: bytes) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise LoovaError("the bucket burned down")

    with pytest.raises(LoovaError, match="the bucket burned down"):
        make_previews(Broken(four_seconds))


SMALL = film(30, (32, 32), movflags="faststart", crf="40")


@settings(max_examples=150)
@given(st.lists(st.tuples(st.integers(0, len(SMALL) - 1), st.integers(0, 255)), max_size=8), st.integers(0, len(SMALL)))
def test_any_content_gives_previews_or_a_preview_error(changes: list[tuple[int, int]], length: int) -> None:
    video = bytearray(SMALL)
    for place, value in changes:
        video[place] = value
    for content in (video, video[:length]):
        try:
            assert look(bytes(content)).poster
        except PreviewError as error:
            assert str(error).startswith("no preview can be made of the video: ")


def test_tags_that_are_not_unicode_are_ignored(four_seconds: bytes) -> None:
    """Cameras and editors write tags in local encodings."""
    place = four_seconds.rindex(b"Lavf")
    look(four_seconds[:place] + b"\xfc\xe4" + four_seconds[place + 2 :])
