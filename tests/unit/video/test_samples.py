"""The frames at given times: the same to the bit as where every frame is decoded, of far fewer decoded frames."""

from __future__ import annotations

import io
import random
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import av
import pytest

from prefect_loova.errors import PreviewError
from prefect_loova.video.decoder import DecodeError, TimeLimit, VideoReader
from prefect_loova.video.samples import frames_at, frames_at_decoding_all
from prefect_loova.video.thumbnails import make_previews
from tests.support.films import brightness, film, grey, luma, moving_frames

FRAMES = 120
Finder = Callable[[VideoReader, Sequence[int]], Iterator[av.VideoFrame]]


class CountingReader(VideoReader):
    """Counts the decoded frames."""

    decoded = 0

    def check_frame(self, frame: av.VideoFrame) -> None:
        self.decoded += 1
        super().check_frame(frame)


def look(video: bytes, find: Finder, parts: int) -> tuple[list[tuple[int | None, bytes]], int]:
    """The frames in the middles of equal parts, and how many frames were decoded for them."""
    with av.open(io.BytesIO(video), "r", format="mp4") as container:
        reader = CountingReader(container, len(video), TimeLimit(60))
        times = [reader.start + reader.duration * (2 * part + 1) // (2 * parts) for part in range(parts)]
        frames = [(frame.pts, pixels(frame)) for frame in find(reader, times)]
        assert len(frames) == parts
        return frames, reader.decoded


def pixels(frame: av.VideoFrame) -> bytes:
    """All planes, without what lies behind the end of a row."""
    rows = []
    for plane in frame.planes:
        content, width = memoryview(plane), plane.width * (2 if "10" in frame.format.name else 1)
        rows += [content[y * plane.line_size :][:width] for y in range(plane.height)]
    return b"".join(rows)


def moving_stripes(frame: av.VideoFrame, number: int) -> None:
    """Stripes that move by one pixel a frame, under some noise: each frame depends on those before it."""
    draw = random.Random(number)
    for index, plane in enumerate(frame.planes):
        row = bytes((3 * x + 5 * number * (index + 1)) % 200 + 20 for x in range(plane.line_size))
        picture = bytearray(b"".join(row[y % len(row) :] + row[: y % len(row)] for y in range(plane.height)))
        for _ in range(plane.width):
            picture[draw.randrange(len(picture))] = draw.randrange(16, 235)
        plane.update(bytes(picture))


def tens(frame: av.VideoFrame, number: int) -> None:
    """The same in 10 bits."""
    for plane in frame.planes:
        row = b"".join((64 + (9 * x + 25 * number) % 800).to_bytes(2, "little") for x in range(plane.line_size // 2))
        plane.update(b"".join(row[2 * (y % 99) :] + row[: 2 * (y % 99)] for y in range(plane.height)))


def uneven(frames: int) -> list[int]:
    """When frames are shown, in 24ths of a second: some stay for longer."""
    draw, times = random.Random(5), [0]
    while len(times) < frames:
        times.append(times[-1] + draw.choice([1, 1, 1, 2, 3, 7]))
    return times


def x265(parameters: str) -> dict[str, str]:
    return {"codec": "libx265", "x265-params": f"log-level=none:pools=none:frame-threads=1:{parameters}"}


REFRESHED: dict[str, Any] = {"preset": "medium", "x264-params": "intra-refresh=1:keyint=2"}
SVT = {"codec": "libsvtav1", "preset": "10", "svtav1-params": "lp=1"}
FILMS: dict[str, tuple[dict[str, Any], int]] = {
    # By name: how the film is made, and the most of its 120 frames that 27 samples may need.
    "h264 without b-frames": ({"bf": "0"}, 120),
    "h264 with b-frames": ({"bf": "3", "preset": "medium"}, 80),
    "h264 with 8 b-frames": ({"bf": "8", "preset": "medium"}, 80),
    "h264 of keyframes": ({"g": "1"}, 27),
    "h264 with keyframes every 6": ({"g": "6", "bf": "3"}, 80),
    "h264 with open groups": ({"bf": "3", "x264-params": "open-gop=1:keyint=12:min-keyint=12"}, 80),
    "h264 with uneven times": ({"bf": "3", "preset": "medium", "times": uneven(FRAMES)}, 85),
    "h264 with uneven times and keyframes": ({"bf": "3", "g": "6", "times": uneven(FRAMES)}, 75),
    "h264 in fragments": ({"movflags": "frag_every_frame+empty_moov", "g": "12"}, 80),
    "h264 in hdr": ({"pix_fmt": "yuv420p10le", "paint": tens, "transfer": 16, "bf": "3", "preset": "medium"}, 119),
    "h264 rotated": ({"rotated": 90, "bf": "3"}, 80),
    "h264 of odd size": ({"size": (321, 181), "pix_fmt": "yuv444p", "bf": "3"}, 80),
    "hevc": (x265("bframes=4"), 80),
    "hevc with open groups": (x265("bframes=4:keyint=12:min-keyint=12:open-gop=1"), 80),
    "hevc with closed groups": (x265("bframes=4:keyint=12:min-keyint=12:open-gop=0"), 80),
    "av1": (SVT, 120),
    "av1 with keyframes every 12": (SVT | {"g": "12"}, 110),
    "vp9": ({"codec": "libvpx-vp9", "deadline": "realtime", "cpu-used": "8", "g": "20"}, 110),
    "mpeg-4": ({"codec": "mpeg4", "bf": "2", "qscale": "4"}, 80),
}


@pytest.mark.parametrize(("options", "most"), FILMS.values(), ids=FILMS)
def test_the_frames_are_those_of_a_full_decode_to_the_bit(options: dict[str, Any], most: int) -> None:
    given: dict[str, Any] = {"size": (96, 64), "paint": moving_stripes}
    video = film(FRAMES, **given | options)
    for parts in (1, 7, 27, FRAMES, 3 * FRAMES):
        wanted, _ = look(video, frames_at_decoding_all, parts)
        found, decoded = look(video, frames_at, parts)
        assert found == wanted
        assert decoded <= (most if parts <= 27 else FRAMES)


def packets_of(video: bytes) -> list[av.Packet[Any]]:
    with av.open(io.BytesIO(video), "r", format="mp4") as container:
        return [packet for packet in container.demux(container.streams.video[0]) if packet.size]


@pytest.mark.parametrize(("number", "is_sampled"), [(3, True), (4, False), (27, True), (26, False)])
def test_a_damaged_frame_is_an_error_only_if_a_sample_depends_on_it(number: int, *, is_sampled: bool) -> None:
    whole = film(54, (96, 64), paint=moving_stripes, g="1", movflags="faststart")  # every second frame is a sample
    damaged, packet = bytearray(whole), packets_of(whole)[number]
    assert packet.pos is not None
    damaged[packet.pos + 30 : packet.pos + packet.size] = bytes(packet.size - 30)
    if is_sampled:
        with pytest.raises(PreviewError, match="a frame is damaged"):
            make_previews(io.BytesIO(damaged))
    else:
        assert make_previews(io.BytesIO(damaged)) == make_previews(io.BytesIO(whole))


def test_a_damaged_frame_that_samples_depend_on_by_other_frames_is_an_error() -> None:
    whole = film(FRAMES, (96, 64), paint=moving_stripes, bf="0", g="250", movflags="faststart")
    damaged, packet = bytearray(whole), packets_of(whole)[1]
    assert packet.pos is not None
    damaged[packet.pos + 30 : packet.pos + packet.size] = bytes(packet.size - 30)
    with pytest.raises(PreviewError, match=r"a frame is damaged|cannot be decoded"):
        make_previews(io.BytesIO(damaged))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"codec": "mpeg4", "qscale": "4", "g": "5"}, "a frame that should be a keyframe is none"),
        (x265("bframes=4:keyint=5:min-keyint=5:open-gop=0"), "a frame before a keyframe is shown after it"),
    ],
    ids=["mpeg-4", "hevc"],
)
def test_all_frames_are_decoded_if_the_index_names_keyframes_that_are_none(
    options: dict[str, Any], reason: str
) -> None:
    whole = film(FRAMES, (96, 64), paint=moving_stripes, movflags="faststart", **options)
    lying, table = bytearray(whole), whole.index(b"stss") + 8
    (count,) = struct.unpack_from(">I", lying, table)
    assert count == FRAMES // 5
    struct.pack_into(f">{count}I", lying, table + 4, 1, *range(8, 8 + 5 * (count - 1), 5))
    with pytest.raises(DecodeError, match=reason):
        look(bytes(lying), frames_at, 27)
    assert make_previews(io.BytesIO(lying)) == make_previews(io.BytesIO(whole))


def test_all_frames_are_decoded_if_a_picture_is_complete_only_some_frames_after_its_keyframe() -> None:
    refreshed = film(60, **REFRESHED)
    with pytest.raises(DecodeError, match="a frame is missing"):
        look(refreshed, frames_at, 7)
    shown = [brightness(frame) for frame in moving_frames(make_previews(io.BytesIO(refreshed)).moving)]
    assert shown == pytest.approx([grey(luma(60 * (2 * part + 1) // 54)) for part in range(27)], abs=2)
