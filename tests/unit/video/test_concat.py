"""Videos joined into one: frames in order, sound in sync, and the choice between copying and encoding."""

from __future__ import annotations

import io
import subprocess
import sys
from array import array
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from math import sin
from pathlib import Path

import av
import pytest

from prefect_loova.errors import LoovaError, UnusableVideoError
from prefect_loova.video.concat import JoinedVideo, join_videos
from tests.support import films
from tests.support.films import FPS, film, luma

HALF_A_PACKET = 512 / 48_000


@dataclass
class Seen:
    """A video as a player decodes it."""

    made: JoinedVideo | None
    content: bytes
    numbers: list[int]
    pictures: list[bytes]
    times: list[Fraction]
    seconds: Fraction
    size: tuple[int, int]


def seen(content: bytes, made: JoinedVideo | None = None) -> Seen:
    with av.open(io.BytesIO(content)) as container:
        track = container.streams.video[0]
        frames = list(container.decode(track))
        assert not any(frame.is_corrupt for frame in frames)
        assert track.duration and track.time_base
        return Seen(
            made,
            content,
            [round((grey(frame) - luma(0)) / (luma(1) - luma(0))) for frame in frames],
            [b"".join(bytes(plane) for plane in frame.planes) for frame in frames],
            [frame.pts * track.time_base for frame in frames],
            track.duration * track.time_base,
            (frames[0].width, frames[0].height),
        )


def grey(frame: av.VideoFrame, x: float = 0.5, y: float = 0.5) -> int:
    plane = frame.planes[0]
    return bytes(plane)[int(y * plane.height) * plane.line_size + int(x * plane.width)]


def join(*contents: bytes, is_copy: bool, **options: float) -> Seen:
    """Join videos, and check what holds for every join."""
    out = io.BytesIO()
    made = join_videos([io.BytesIO(content) for content in contents], out, **options)
    result = seen(out.getvalue(), made)
    assert made.is_copy == is_copy
    assert made.duration_seconds == pytest.approx(float(result.seconds), abs=0.001)
    wanted = sum(float(seen(content).seconds) for content in contents)
    assert made.duration_seconds == pytest.approx(wanted, abs=1 / FPS)
    assert result.times[0] == 0
    assert result.content.index(b"moov") < result.content.index(b"mdat")
    return result


def evenly(count: int, fps: int = FPS) -> list[Fraction]:
    return [Fraction(number, fps) for number in range(count)]


def remuxed(content: bytes, from_keyframe: int = 1, leading: bool = True, **options: str) -> bytes:
    """The same packets in another mp4.

    Args:
        content: An mp4.
        from_keyframe: The packets before this keyframe, counted from 1, are left out.
        leading: Whether to keep what is shown before that keyframe, and is coded after it.
        options: Of FFmpeg's muxer.
    """
    keyframes = 0
    begin = 0
    file = io.BytesIO()
    with av.open(io.BytesIO(content)) as source, av.open(file, "w", format="mp4", options=options) as output:
        stream = output.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            keyframes += packet.is_keyframe and packet.size > 0
            if packet.is_keyframe and keyframes == from_keyframe:
                begin = packet.pts
            if packet.dts is not None and keyframes >= from_keyframe and (leading or packet.pts >= begin):
                packet.stream = stream
                output.mux(packet)
    return file.getvalue()


def beeping(
    frames: int,
    sound_seconds: float,
    *beeps: float,
    rate: int = 48_000,
    layout: str = "mono",
    picture_from: int = 0,
    **options: str,
) -> bytes:
    """A video with sound: silence, with a tone of 30 ms at each of these seconds."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        stream = output.add_stream("libx264", rate=FPS, options={"crf": "8", "preset": "veryfast"} | options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        sound = output.add_stream("aac", rate=rate)
        sound.codec_context.layout = layout
        for number in range(frames):
            frame = av.VideoFrame(64, 48, "yuv420p")
            films.flat(frame, number)
            frame.pts, frame.time_base = picture_from + number, Fraction(1, FPS)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
        samples = array("f", bytes(4 * round(sound_seconds * rate)))
        for beep in beeps:
            for place in range(round(beep * rate), round((beep + 0.03) * rate)):
                samples[place] = 0.8 * sin(place * 6.2832 * 1000 / rate)
        for start in range(0, len(samples), 1024):
            piece = samples[start : start + 1024]
            heard = av.AudioFrame("fltp", layout, len(piece))
            heard.sample_rate, heard.pts, heard.time_base = rate, start, Fraction(1, rate)
            for plane in heard.planes:
                plane.update(piece.tobytes().ljust(plane.buffer_size, b"\0"))
            output.mux(sound.encode(heard))
        output.mux(sound.encode(None))
    return file.getvalue()


def beeps_in(content: bytes) -> list[float]:
    """The start of each tone in seconds, by the timestamps of the decoded sound."""
    found: list[float] = []
    last = -1.0
    with av.open(io.BytesIO(content)) as container:
        for frame in container.decode(audio=0):
            heard = array("f", bytes(frame.planes[0])[: 4 * frame.samples])
            for number, value in enumerate(heard):
                time = float(frame.pts * frame.time_base) + number / frame.sample_rate
                if abs(value) > 0.2 and time - last > 0.06:
                    found.append(time)
                if abs(value) > 0.2:
                    last = time
    return found


def heard_seconds(content: bytes) -> float:
    with av.open(io.BytesIO(content)) as container:
        return max(float((frame.pts + frame.samples) * frame.time_base) for frame in container.decode(audio=0))


@pytest.mark.parametrize("options", [{"bf": "0", "g": "1"}, {"bf": "3", "g": "250"}, {"bf": "3", "g": "10"}])
@pytest.mark.parametrize("counts", [(24,), (24, 12), (12, 1, 1, 30), (1, 1), (30, 2, 53), (10,) * 12])
def test_copied_videos_follow_each_other_frame_by_frame(counts: tuple[int, ...], options: dict[str, str]) -> None:
    sources = [film(count, **options) for count in counts]
    joined = join(*sources, is_copy=True)
    assert joined.numbers == [number for count in counts for number in range(count)]
    assert joined.times == evenly(sum(counts))
    assert joined.seconds == Fraction(sum(counts), FPS)
    assert joined.pictures == [picture for source in sources for picture in seen(source).pictures]


def test_hevc_videos_are_copied() -> None:
    options = {"x265-params": "log-level=none:pools=none:frame-threads=1:keyint=10:open-gop=0"}
    sources = [film(count, codec="libx265", **options) for count in (24, 13)]
    joined = join(*sources, is_copy=True)
    assert joined.times == evenly(37)
    assert joined.pictures == [picture for source in sources for picture in seen(source).pictures]
    assert b"hvc1" in joined.content


@pytest.mark.parametrize(
    "movflags", ["faststart", "frag_keyframe+empty_moov", "frag_every_frame+delay_moov", "dash+delay_moov"]
)
def test_fragmented_and_plain_videos_are_copied(movflags: str) -> None:
    joined = join(film(24, g="10"), film(24, movflags=movflags, g="10"), film(24, g="10"), is_copy=True)
    assert joined.numbers == [*range(24)] * 3
    assert joined.times == evenly(72)


def test_videos_with_different_time_bases_are_copied() -> None:
    sources = [film(25, bf="3"), remuxed(film(25, bf="3"), video_track_timescale="90000"), film(25, bf="3")]
    joined = join(*sources, is_copy=True)
    assert joined.numbers == [*range(25)] * 3
    assert [float(time) for time in joined.times] == pytest.approx([float(time) for time in evenly(75)], abs=1e-5)


def test_frames_keep_irregular_timestamps() -> None:
    joined = join(film(4, times=[0, 1, 7, 9], bf="0"), film(3, times=[0, 5, 6], bf="0"), is_copy=True)
    ends = 9 + 2  # the last frame stays as long as the one before it
    assert joined.times[:4] == [Fraction(time, FPS) for time in (0, 1, 7, 9)]
    first_of_second = joined.times[4]
    assert first_of_second == pytest.approx(float(seen(film(4, times=[0, 1, 7, 9], bf="0")).seconds))
    assert first_of_second <= Fraction(ends, FPS)
    assert [time - first_of_second for time in joined.times[4:]] == [Fraction(time, FPS) for time in (0, 5, 6)]


@pytest.mark.parametrize("is_copy", [True, False])
def test_rotated_videos_stay_upright(is_copy: bool) -> None:
    turned = film(6, (96, 64), paint=films.bright_corner, rotated=90)
    other = turned if is_copy else film(6, (64, 96), paint=films.bright_corner)
    joined = join(turned, other, is_copy=is_copy)
    assert joined.made is not None and (joined.made.width, joined.made.height) == (64, 96)
    with av.open(io.BytesIO(joined.content)) as container:
        frames = list(container.decode(video=0))
    assert [frame.rotation for frame in frames] == [90 if is_copy else 0] * 12
    if not is_copy:
        corners = [[grey(frame, x, y) > 128 for y in (0.25, 0.75) for x in (0.25, 0.75)] for frame in frames]
        assert corners == [[False, False, True, False]] * 6 + [[True, False, False, False]] * 6


def test_videos_with_different_rotations_are_encoded() -> None:
    sources = [film(6, (96, 64), paint=films.bright_corner, rotated=turned) for turned in (None, 180)]
    joined = join(*sources, is_copy=False)
    with av.open(io.BytesIO(joined.content)) as container:
        frames = list(container.decode(video=0))
    corners = [[grey(frame, x, y) > 128 for y in (0.25, 0.75) for x in (0.25, 0.75)] for frame in frames]
    assert corners == [[True, False, False, False]] * 6 + [[False, False, False, True]] * 6


def test_anamorphic_videos_keep_their_shape() -> None:
    wide = film(6, (60, 48), sar=Fraction(4, 3))
    copied = join(wide, wide, is_copy=True)
    assert copied.made is not None and (copied.made.width, copied.made.height) == (80, 48)
    with av.open(io.BytesIO(copied.content)) as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(4, 3)
    encoded = join(wide, film(6), is_copy=False)
    assert encoded.size == (80, 48)


@pytest.mark.parametrize(
    "other",
    [
        film(24, (96, 72)),
        film(24, codec="libx265", **{"x265-params": "log-level=none:pools=none:frame-threads=1"}),
        film(24, codec="mpeg4", qmax="2"),
        film(24, pix_fmt="yuv444p"),
        film(24, **{"x264-params": "cabac=0"}),
        film(24, bf="0", refs="1"),
        film(24, sar=Fraction(1, 1), colorspace=6),
        film(24, movflags="frag_keyframe+empty_moov", tune="zerolatency"),
    ],
    ids=["size", "hevc", "mpeg4", "format", "parameters", "references", "colours", "fragments"],
)
def test_unlike_videos_are_all_encoded_once(other: bytes) -> None:
    for sources in ((film(24), other, film(12)), (other, film(12))):
        joined = join(*sources, is_copy=False)
        wanted = [number for source in sources for number in seen(source).numbers]
        assert joined.numbers == wanted
        assert joined.times == evenly(len(wanted))
        assert joined.size == seen(sources[0]).size


def test_one_video_that_cannot_be_copied_is_encoded() -> None:
    assert join(film(24, codec="mpeg4", qmax="2"), is_copy=False).numbers == [*range(24)]


def parameter_sets(content: bytes) -> bytes:
    with av.open(io.BytesIO(content)) as container:
        return container.streams.video[0].codec_context.extradata or b""


def test_parameter_sets_between_the_frames_are_not_copied_over() -> None:
    plain = film(12, bf="0")
    own = film(12, bf="0", **{"x264-params": "cabac=0:repeat-headers=1"})
    same, different = parameter_sets(plain), parameter_sets(own)
    assert len(same) == len(different) and same != different
    # Its header is that of the others, but its frames contain other parameter sets.
    posing = own.replace(different, same)
    assert parameter_sets(posing) == same
    assert seen(posing).numbers == [*range(12)]
    for sources in ((posing, plain), (plain, posing, plain)):
        assert join(*sources, is_copy=False).numbers == [*range(12)] * len(sources)


def test_parameter_sets_repeated_between_the_frames_are_copied() -> None:
    repeated = film(12, **{"x264-params": "repeat-headers=1"})
    assert join(repeated, film(12), is_copy=True).numbers == [*range(12)] * 2


def test_frames_that_an_edit_list_hides_are_hidden_in_the_joined_video() -> None:
    whole = bytearray(film(48, g="250", bf="2"))
    place = whole.index(b"elst") + 12
    whole[place : place + 8] = (1500).to_bytes(4, "big") + (1024 + 6 * 512).to_bytes(4, "big")
    joined = join(film(12, g="250", bf="2"), bytes(whole), film(12, g="250", bf="2"), is_copy=False)
    assert joined.numbers == [*range(12), *range(6, 42), *range(12)]


@pytest.mark.parametrize("leading", [True, False])
def test_a_video_whose_first_frame_depends_on_earlier_ones_is_not_copied(leading: bool) -> None:
    options = {
        "x265-params": "log-level=none:pools=none:frame-threads=1:keyint=12:min-keyint=12"
        ":open-gop=1:bframes=3:scenecut=0"
    }
    whole = film(36, codec="libx265", **options)
    cut = remuxed(whole, 2, leading)
    kept = seen(cut).numbers
    assert kept[-12:] == [*range(24, 36)] and len(kept) >= 20
    out = io.BytesIO()
    assert not join_videos([io.BytesIO(whole), io.BytesIO(cut)], out).is_copy
    assert seen(out.getvalue()).numbers[:36] == [*range(36)]
    assert seen(out.getvalue()).numbers[-12:] == [*range(24, 36)]


def test_a_duration_rounded_to_milliseconds_shifts_nothing() -> None:
    rounded = bytearray(film(53))
    place = rounded.index(b"elst") + 12
    rounded[place : place + 4] = (53_000 // 24).to_bytes(4, "big")
    joined = join(*[bytes(rounded)] * 12, is_copy=True)
    assert joined.times == evenly(12 * 53)


def test_keyframes_of_the_inputs_are_not_forced_on_the_output() -> None:
    joined = join(film(24, g="1"), film(24, (32, 32), g="1"), is_copy=False)
    with av.open(io.BytesIO(joined.content)) as container:
        assert sum(packet.is_keyframe for packet in container.demux(video=0) if packet.size) <= 4


def test_a_video_with_a_low_frame_rate_keeps_its_speed() -> None:
    slow = film(24, times=[2 * number for number in range(24)])
    joined = join(film(24, (96, 72)), slow, film(24), is_copy=False)
    held = len(joined.numbers) - 48 - 46  # the last frame stays as long as the file says
    shown = [number // 2 for number in range(46)] + [23] * held
    assert joined.numbers == [*range(24), *shown, *range(24)]
    assert held in (1, 2)
    assert joined.times == evenly(len(joined.numbers))


def test_a_video_with_a_high_frame_rate_keeps_its_speed() -> None:
    joined = join(film(24, (96, 72)), fast(48), film(24), is_copy=False)
    assert joined.numbers == [*range(24), *range(1, 49, 2), *range(24)]
    assert joined.times == evenly(72)


def fast(count: int) -> bytes:
    """48 frames a second."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        stream = output.add_stream("libx264", rate=48, options={"crf": "8"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(count):
            frame = av.VideoFrame(64, 48, "yuv420p")
            films.flat(frame, number)
            frame.pts, frame.time_base = number, Fraction(1, 48)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return file.getvalue()


def test_other_shapes_get_black_bars() -> None:
    white = lambda frame, _: films.fill(frame, (235, 128, 128))  # noqa: E731
    joined = join(*(film(3, size, paint=white) for size in ((128, 64), (64, 64), (128, 32))), is_copy=False)
    assert joined.size == (128, 64)
    with av.open(io.BytesIO(joined.content)) as container:
        frames = list(container.decode(video=0))
    left, top, centre = [
        (grey(f, 0.1, 0.5), grey(f, 0.5, 0.1), grey(f, 0.5, 0.5)) for f in (frames[0], frames[4], frames[8])
    ]
    assert left == pytest.approx((235, 235, 235), abs=2)
    assert top == pytest.approx((16, 235, 235), abs=2)
    assert centre == pytest.approx((235, 16, 235), abs=2)


def test_odd_sizes_become_even() -> None:
    assert join(film(3, (65, 49), pix_fmt="yuv444p"), film(3), is_copy=False).size == (66, 50)


def test_colours_stay_when_videos_of_different_matrices_are_encoded() -> None:
    hd = film(2, (1280, 720), paint=lambda frame, _: films.fill(frame, (102, 99, 178)), preset="ultrafast")
    sd = film(2, (64, 36), paint=lambda frame, _: films.fill(frame, (109, 94, 179)))
    joined = join(hd, sd, is_copy=False)
    with av.open(io.BytesIO(joined.content)) as container:
        track = container.streams.video[0]
        assert (track.colorspace, track.color_range) == (1, 1)
        for frame in container.decode(track):
            yuv = [bytes(plane)[plane.line_size * 9 + 9] for plane in frame.planes]
            assert yuv == pytest.approx([102, 99, 178], abs=2)


@pytest.mark.parametrize("is_copy", [True, False])
@pytest.mark.parametrize("frames", [24, 23, 31])
def test_sound_does_not_drift(frames: int, is_copy: bool) -> None:
    count = 12
    length = frames / FPS
    one = beeping(frames, length, 0.5)
    sources = [one] * count if is_copy else [one, *[beeping(frames, length, 0.5, bf="0", refs="1")] * (count - 1)]
    joined = join(*sources, is_copy=is_copy)
    assert joined.numbers == [*range(frames)] * count
    wanted = [number * length + 0.5 for number in range(count)]
    assert beeps_in(joined.content) == pytest.approx(wanted, abs=HALF_A_PACKET + 0.003)
    assert heard_seconds(joined.content) == pytest.approx(count * length, abs=2 * HALF_A_PACKET + 0.001)


def test_copied_sound_has_neither_gaps_nor_overlaps() -> None:
    joined = join(*[beeping(23, 23 / FPS, 0.5)] * 12, is_copy=True)
    with av.open(io.BytesIO(joined.content)) as container:
        times = [packet.pts for packet in container.demux(audio=0) if packet.pts is not None]
    assert {after - before for before, after in pairwise(times)} == {1024}


@pytest.mark.parametrize("is_copy", [True, False])
@pytest.mark.parametrize("length", [0.3, 0.7, 1.4, 3.0])
def test_sound_of_another_length_than_its_picture_shifts_nothing(length: float, is_copy: bool) -> None:
    other = beeping(24, length, 0.2, *([2.5] if length > 2.6 else []))
    last = beeping(24, 1, 0.2) if is_copy else beeping(24, 1, 0.2, bf="0", refs="1")
    joined = join(beeping(24, 1, 0.2), other, other, other, last, is_copy=is_copy)
    assert joined.numbers == [*range(24)] * 5
    assert beeps_in(joined.content) == pytest.approx([k + 0.2 for k in range(5)], abs=HALF_A_PACKET + 0.003)
    assert heard_seconds(joined.content) == pytest.approx(5, abs=2 * HALF_A_PACKET + 0.001)


@pytest.mark.parametrize("is_copy", [True, False])
def test_sound_before_the_picture_is_cut(is_copy: bool) -> None:
    late = beeping(24, 1.5, 0.1, 0.9, picture_from=12)
    other = late if is_copy else beeping(24, 1.5, 0.1, 0.9, picture_from=12, bf="0", refs="1")
    out = io.BytesIO()
    assert join_videos([io.BytesIO(content) for content in (late, other, late)], out).is_copy == is_copy
    joined = seen(out.getvalue())
    assert joined.numbers == [*range(24)] * 3
    assert joined.times == evenly(72)
    assert beeps_in(joined.content) == pytest.approx([0.4, 1.4, 2.4], abs=HALF_A_PACKET + 0.003)
    with av.open(io.BytesIO(joined.content)) as container:
        assert min(packet.pts for packet in container.demux(audio=0) if packet.size) >= -2 * 1024


def test_videos_with_and_without_sound_are_encoded_with_silence_between() -> None:
    joined = join(
        film(24),
        beeping(24, 1, 0.5),
        film(48),
        beeping(24, 1, 0.5, rate=44_100, layout="stereo"),
        film(24),
        is_copy=False,
    )
    assert joined.made is not None and joined.made.has_sound
    assert joined.numbers == [*range(24), *range(24), *range(48), *range(24), *range(24)]
    assert beeps_in(joined.content) == pytest.approx([1.5, 4.5], abs=0.004)
    assert heard_seconds(joined.content) == pytest.approx(6, abs=0.03)


def test_sound_of_other_kinds_is_encoded() -> None:
    joined = join(beeping(24, 1, 0.5), beeping(24, 1, 0.5, rate=44_100), is_copy=False)
    assert beeps_in(joined.content) == pytest.approx([0.5, 1.5], abs=0.004)
    with av.open(io.BytesIO(joined.content)) as container:
        assert (container.streams.audio[0].rate, container.streams.audio[0].channels) == (48_000, 1)


def test_silent_videos_get_no_audio_track() -> None:
    for is_copy, other in ((True, film(6)), (False, film(6, (32, 32)))):
        joined = join(film(6), other, is_copy=is_copy)
        assert joined.made is not None and not joined.made.has_sound
        with av.open(io.BytesIO(joined.content)) as container:
            assert not container.streams.audio


@pytest.mark.parametrize("is_copy", [True, False])
def test_the_same_videos_give_the_same_bytes(is_copy: bool) -> None:
    sources = [beeping(24, 1, 0.3), beeping(24, 1, 0.6) if is_copy else film(24, (96, 64), paint=films.noise)]
    assert join(*sources, is_copy=is_copy).content == join(*sources, is_copy=is_copy).content


NOISE = film(48, (160, 120), paint=films.noise, movflags="faststart", crf="30")


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"", "the file is empty"),
        (b"This is a text. " * 1000, "it is not an mp4"),
        (films.sound(1), "it has no picture"),
        (film(3, codec="png", pix_fmt="rgb24", paint=lambda frame, _: None), r"video codec \(png\) is not supported"),
        (NOISE[: len(NOISE) // 2], "it is cut short"),
        (NOISE[:-1], "it is cut short"),
        (film(2, (8200, 16)), "too large"),
    ],
    ids=lambda value: ascii(value)[:20] if isinstance(value, str) else "",
)
def test_a_bad_video_is_named_by_its_number(bad: bytes, reason: str) -> None:
    good = film(6)
    for number in range(3):
        sources = [good, good]
        sources.insert(number, bad)
        out = io.BytesIO()
        with pytest.raises(UnusableVideoError, match=f"^the videos cannot be joined: video {number + 1}: .*{reason}"):
            join_videos([io.BytesIO(source) for source in sources], out)
        assert not out.getvalue()


def test_a_video_with_damaged_frames_is_named_when_it_is_encoded() -> None:
    disturbed = bytearray(NOISE)
    for place in range(len(NOISE) // 2, len(NOISE), 50):
        disturbed[place] ^= 0x55
    with pytest.raises(UnusableVideoError, match=r"video 2: .*(damaged|cannot be decoded|cut short)"):
        join(film(6), bytes(disturbed), is_copy=False)


def test_joining_no_videos_is_an_error() -> None:
    with pytest.raises(UnusableVideoError, match="there are none"):
        join_videos([], io.BytesIO())


def test_it_ends_when_the_time_is_up() -> None:
    with pytest.raises(UnusableVideoError, match="took longer than 0 s"):
        join_videos([io.BytesIO(film(6))], io.BytesIO(), max_seconds=0)


def test_an_exception_of_a_file_is_raised_unchanged() -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise LoovaError("the bucket burned down")

    with pytest.raises(LoovaError, match=r"^the bucket burned down"):
        join_videos([io.BytesIO(film(6)), Broken(film(6))], io.BytesIO())


MEASURED = """
import resource, sys
from contextlib import ExitStack
from prefect_loova.video.concat import join_videos
path, other, out = sys.argv[1:]
peaks = []
for count in (2, 20):
    with ExitStack() as stack:
        videos = [stack.enter_context(open(path, "rb")) for _ in range(count)]
        if other != path:
            videos[0] = stack.enter_context(open(other, "rb"))
        join_videos(videos, stack.enter_context(open(out, "wb")))
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print((peaks[1] - peaks[0]) // 1024)
"""


@pytest.mark.parametrize("is_copy", [True, False])
def test_many_videos_take_no_more_memory_than_two(is_copy: bool, tmp_path: Path) -> None:
    large, small = tmp_path / "large.mp4", tmp_path / "small.mp4"
    large.write_bytes(film(48, (320, 180), paint=films.noise, crf="10" if is_copy else "30"))
    small.write_bytes(film(6))
    assert not is_copy or large.stat().st_size > 2 * 1024**2
    command = [sys.executable, "-c", MEASURED, large, large if is_copy else small, tmp_path / "out.mp4"]
    more = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert more < 12, f"{more} MiB"
    assert (tmp_path / "out.mp4").stat().st_size > (19 * large.stat().st_size if is_copy else 0)
