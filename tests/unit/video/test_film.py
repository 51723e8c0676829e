"""Films of shots with cross-fades, cards, a sound track and one loudness: what is seen and heard, and when."""

from __future__ import annotations

import io
import subprocess
import sys
import wave
from array import array
from collections.abc import Sequence
from fractions import Fraction
from math import pi, sin
from pathlib import Path
from typing import Any

import av
import pytest
from av.filter import Graph
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from prefect_loova.errors import LoovaError, UnusableVideoError
from prefect_loova.models.film import FilmOptions
from prefect_loova.video.film import FilmMedia, make_film, parts_of
from tests.support import films
from tests.support.films import FPS, film, luma

RATE = 48_000


NO_MEDIA = FilmMedia()


def made(*videos: bytes, media: FilmMedia = NO_MEDIA, **options: Any) -> bytes:
    """Make a film, and check what holds for every film."""
    out = io.BytesIO()
    facts = make_film([io.BytesIO(video) for video in videos], out, FilmOptions(**options), media)
    content = out.getvalue()
    assert not facts.is_copy
    assert content.index(b"moov") < content.index(b"mdat")
    with av.open(io.BytesIO(content)) as container:
        track = container.streams.video[0]
        assert (facts.width, facts.height) == (track.width, track.height)
        assert facts.duration_seconds == pytest.approx(float(track.duration * track.time_base), abs=0.001)
        assert facts.has_sound == bool(container.streams.audio)
    return content


def greys(content: bytes) -> list[int]:
    """The brightness in the middle of each frame."""
    with av.open(io.BytesIO(content)) as container:
        frames = list(container.decode(video=0))
    assert [frame.pts * frame.time_base for frame in frames] == [Fraction(n, FPS) for n in range(len(frames))]
    return [at(frame, 0.5, 0.5) for frame in frames]


def at(frame: av.VideoFrame, x: float, y: float) -> int:
    plane = frame.planes[0]
    return bytes(plane)[int(y * plane.height) * plane.line_size + int(x * plane.width)]


def shade(frames: int, value: int, size: tuple[int, int] = (64, 48)) -> bytes:
    return film(frames, size, paint=lambda frame, _: films.fill(frame, (value, 128, 128)))


def card(colour: tuple[int, int, int], size: tuple[int, int] = (640, 480), kind: str = "PNG") -> tuple[bytes, str]:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, kind)
    return file.getvalue(), f"image/{kind.lower()}"


def toned(seconds: float, *levels: float, hertz: int = 1000, rate: int = RATE, layout: str = "stereo") -> bytes:
    """A grey video with a tone: one level for each equal part of its time."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        stream = output.add_stream("libx264", rate=FPS, options={"crf": "8", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        sound = output.add_stream("aac", rate=rate)
        sound.codec_context.layout = layout
        for number in range(round(seconds * FPS)):
            frame = av.VideoFrame(64, 48, "yuv420p")
            films.fill(frame, (128, 128, 128))
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
        for start, samples in pieces(seconds, levels, hertz, rate):
            frame = av.AudioFrame("fltp", layout, len(samples))
            frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
            for plane in frame.planes:
                plane.update(samples.tobytes().ljust(plane.buffer_size, b"\0"))
            output.mux(sound.encode(frame))
        output.mux(sound.encode(None))
    return file.getvalue()


def pieces(seconds: float, levels: Sequence[float], hertz: int, rate: int):
    count = round(seconds * rate)
    for start in range(0, count, 1024):
        numbers = range(start, min(start + 1024, count))
        yield start, array("f", [levels[n * len(levels) // count] * sin(2 * pi * hertz * n / rate) for n in numbers])


def wav(seconds: float, *levels: float, hertz: int = 1000, rate: int = RATE) -> io.BytesIO:
    file = io.BytesIO()
    with wave.open(file, "wb") as output:
        output.setnchannels(1)
        output.setsampwidth(2)
        output.setframerate(rate)
        for _, samples in pieces(seconds, levels, hertz, rate):
            output.writeframes(array("h", [round(32767 * value) for value in samples]).tobytes())
    return file


def track(file: io.BytesIO) -> FilmMedia:
    return FilmMedia(sound_track=(file, "audio/wav"))


def levels(content: bytes, step: float = 0.1) -> list[float]:
    """The peak of each tenth of a second."""
    heard = array("f")
    with av.open(io.BytesIO(content)) as container:
        for frame in container.decode(audio=0):
            start = round(frame.pts * frame.time_base * RATE)
            heard.extend([0.0] * (start - len(heard)))
            heard.extend(array("f", bytes(frame.planes[0])[: 4 * frame.samples]))
    width = round(step * RATE)
    return [max(map(abs, heard[begin : begin + width])) for begin in range(0, len(heard) - width + 1, width)]


def loudness(content: bytes) -> float:
    """The integrated loudness in LUFS, by FFmpeg's meter."""
    graph, measured = Graph(), "-70"
    with av.open(io.BytesIO(content)) as container:
        source = graph.add_abuffer(template=container.streams.audio[0])
        graph.link_nodes(source, graph.add("ebur128", "metadata=1"), graph.add("abuffersink")).configure()
        for frame in [*container.decode(audio=0), None]:
            graph.push(frame)
            while True:
                try:
                    measured = graph.pull().metadata.get("lavfi.r128.I", measured)
                except (av.BlockingIOError, av.EOFError):
                    break
    return float(measured)


def test_shots_without_a_fade_follow_each_other_frame_by_frame() -> None:
    wanted = [luma(number) for number in [*range(24), *range(12), *range(30)]]
    assert greys(made(film(24), film(12), film(30), loudness=-20.0)) == pytest.approx(wanted, abs=1)


def test_a_cross_fade_blends_the_end_of_a_shot_with_the_beginning_of_the_next_one() -> None:
    seen = greys(made(shade(48, 60), shade(48, 180), shade(48, 40), fades=(0, 0.5, 1)))
    assert len(seen) == 3 * 48 - 12 - 24
    assert seen[:36] == pytest.approx([60] * 36, abs=1)
    assert seen[36:48] == pytest.approx([60 + 120 * step / 12 for step in range(12)], abs=2)
    assert seen[48:60] == pytest.approx([180] * 12, abs=1)
    assert seen[60:84] == pytest.approx([180 - 140 * step / 24 for step in range(24)], abs=2)
    assert seen[84:] == pytest.approx([40] * 24, abs=1)


def test_cards_stand_before_and_after_the_shots() -> None:
    cards = FilmMedia(card((255, 255, 255)), card((0, 0, 0), kind="JPEG"))
    named = {"title_card": "a.png", "end_card": "b.jpg", "card_seconds": 1.0}
    seen = greys(made(shade(24, 100), media=cards, **named))
    assert seen == pytest.approx([235] * 24 + [100] * 24 + [16] * 24, abs=1)
    faded = greys(made(shade(24, 100), media=cards, fades=(0.5,), transition="cross-fade", **named))
    assert len(faded) == 24 * 3 - 12 - 12  # the shot has only half a second left for the second cross-fade of 1 s
    assert (faded[0], faded[-1]) == (pytest.approx(235, abs=1), pytest.approx(16, abs=1))


def test_a_card_of_another_shape_has_black_bars_and_is_upright() -> None:
    turned = io.BytesIO()
    picture = Image.new("RGB", (200, 400), (255, 255, 255))
    picture.paste((255, 0, 0), (0, 0, 200, 200))  # its upper half
    exif = Image.Exif()
    exif[0x0112] = 6  # upright after a quarter turn clockwise: the upper half is at the right
    picture.save(turned, "JPEG", exif=exif)
    content = made(
        film(24, (96, 96)), media=FilmMedia((turned.getvalue(), "image/jpeg")), title_card="a", card_seconds=1.0
    )
    with av.open(io.BytesIO(content)) as container:
        frame = next(container.decode(video=0))
    assert [at(frame, 0.5, 0.1), at(frame, 0.5, 0.9)] == [16, 16]
    assert at(frame, 0.25, 0.5) == pytest.approx(235, abs=2)
    assert at(frame, 0.75, 0.5) == pytest.approx(81, abs=4)  # red


def test_the_sound_of_each_shot_is_heard_with_its_picture_and_fades_with_it() -> None:
    heard = levels(made(toned(2, 0.4), toned(2, 0.0, 0.0, 0.0, 0.2), media=FilmMedia(card((0, 0, 0))), title_card="a",
                        card_seconds=1.0, fades=(0, 1)))  # fmt: skip
    assert len(heard) in (40, 41)
    assert max(heard[:9]) < 0.01
    assert heard[11:19] == pytest.approx([0.4] * 8, abs=0.03)
    assert heard[20:30] == pytest.approx([0.4 * sin(pi / 2 * (1 - step / 10)) for step in range(10)], abs=0.05)
    assert max(heard[31:34]) < 0.02
    assert heard[36:39] == pytest.approx([0.2] * 3, abs=0.02)


def test_a_sound_track_lies_under_the_shots_and_fades_out() -> None:
    heard = levels(
        made(toned(3, 0.0, 0.3, 0.0), media=track(wav(9, 0.8, hertz=400)), sound_track="a", sound_track_volume=0.5)
    )
    assert len(heard) in (30, 31)  # cut at the end of the film
    assert heard[1:9] == pytest.approx([0.4] * 8, abs=0.02)
    assert heard[11] == pytest.approx(0.7, abs=0.04)
    assert heard[20:30] == pytest.approx([0.4 * (10 - step) / 15 for step in range(10)], abs=0.03)


def test_sound_of_one_channel_is_as_loud_in_two() -> None:
    heard = levels(made(toned(1, 0.4, layout="mono"), media=track(wav(1, 0.0)), sound_track="a"))
    assert heard[1:9] == pytest.approx([0.4] * 8, abs=0.02)


def test_a_short_sound_track_is_repeated() -> None:
    heard = levels(
        made(shade(24 * 5, 90), media=track(wav(2, 0.6, 0.2, rate=22_050)), sound_track="a", sound_track_volume=1.0)
    )
    for second, level in enumerate((0.6, 0.2, 0.6)):
        assert heard[10 * second + 2 : 10 * second + 8] == pytest.approx([level] * 6, abs=0.03)


@pytest.mark.parametrize("target", [-14.0, -23.0])
@pytest.mark.parametrize("levels_", [(0.01,), (0.5,), (0.1, 0.9, 0.02)], ids=["quiet", "loud", "uneven"])
def test_a_film_has_the_loudness_that_was_given(target: float, levels_: tuple[float, ...]) -> None:
    content = made(toned(4, *levels_), toned(2, 0.1), loudness=target)
    assert loudness(content) == pytest.approx(target, abs=0.5)
    assert max(levels(content)) < 1


def test_the_sum_of_loud_sounds_is_limited() -> None:
    heard = levels(made(toned(2, 0.9), media=track(wav(2, 0.9)), sound_track="a", sound_track_volume=1.0))
    assert 0.75 < max(heard) < 0.95


def test_a_silent_film_stays_silent() -> None:
    assert max(levels(made(toned(1, 0.0), loudness=-14.0))) == 0
    made(shade(24, 90), loudness=-14.0)  # has no audio track


def test_the_same_input_gives_the_same_bytes() -> None:
    def one() -> bytes:
        media = FilmMedia(card((200, 30, 30)), None, (wav(2, 0.3), "audio/wav"))
        noise = film(24, (96, 64), paint=films.noise)
        return made(noise, toned(1, 0.2), media=media, title_card="a", fades=(0, 0.3), sound_track="b", loudness=-20.0)

    assert one() == one()


def test_what_cannot_be_used_is_named() -> None:
    with pytest.raises(UnusableVideoError, match=r"^the videos cannot be joined: video 2: .*cut short"):
        made(film(24), NOISE[: len(NOISE) // 2], loudness=-14.0)
    with pytest.raises(UnusableVideoError, match=r"^the film cannot be made: title_card: "):
        made(film(24), media=FilmMedia((card((0, 0, 0))[0][:60], "image/png")), title_card="a")
    with pytest.raises(UnusableVideoError, match=r"^the film cannot be made: sound_track: "):
        made(film(24), media=FilmMedia(sound_track=(io.BytesIO(b"RIFF"), "audio/wav")), sound_track="a")
    with pytest.raises(UnusableVideoError, match="there are none"):
        make_film([], io.BytesIO(), FilmOptions())
    with pytest.raises(UnusableVideoError, match="took longer than 0 s"):
        make_film([io.BytesIO(film(24))], io.BytesIO(), FilmOptions(), max_seconds=0)


NOISE = film(48, (160, 120), paint=films.noise, movflags="faststart", crf="30")


def test_a_damaged_piece_of_a_sound_track_is_left_out() -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="mp3") as output:
        stream = output.add_stream("libmp3lame", rate=RATE)
        stream.codec_context.layout, stream.codec_context.format = "mono", "fltp"
        for start, samples in pieces(8, (0.5,), 1000, RATE):
            frame = av.AudioFrame("fltp", "mono", len(samples))
            frame.sample_rate, frame.pts, frame.time_base = RATE, start, Fraction(1, RATE)
            frame.planes[0].update(samples.tobytes().ljust(frame.planes[0].buffer_size, b"\0"))
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    content = bytearray(file.getvalue())
    for place in range(len(content) // 8, len(content) // 8 + 4000, 3):  # a quarter of a second
        content[place] ^= 0x5A
    damaged = FilmMedia(sound_track=(io.BytesIO(bytes(content)), "audio/mpeg"))
    heard = levels(made(shade(120, 90), media=damaged, sound_track="a", sound_track_volume=1.0))
    assert heard[2:8] + heard[20:28] == pytest.approx([0.5] * 14, abs=0.05)


@pytest.mark.parametrize("rate", [Fraction(24_000, 1001), Fraction(30), Fraction(50)])
def test_a_film_has_the_frame_rate_of_its_first_shot(rate: Fraction) -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        stream = output.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(round(2 * rate)):
            frame = av.VideoFrame(64, 48, "yuv420p")
            films.flat(frame, number)
            frame.pts, frame.time_base = number, 1 / rate
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    with av.open(io.BytesIO(made(file.getvalue(), shade(48, 90), fades=(0, 1)))) as container:
        assert container.streams.video[0].average_rate == rate
        assert sum(1 for _ in container.decode(video=0)) == round(4 * rate) - round(rate)


def test_an_exception_of_the_sound_track_is_raised_unchanged() -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise LoovaError("the bucket burned down")

    with pytest.raises(LoovaError, match=r"^the bucket burned down"):
        made(film(24), media=FilmMedia(sound_track=(Broken(wav(2, 0.1).getvalue()), "audio/wav")), sound_track="a")


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(0, 60)), min_size=1, max_size=8))
def test_cross_fades_never_overlap_each_other(given: list[tuple[int, int]]) -> None:
    counts, fades = [count for count, _ in given], [fade for _, fade in given]
    parts = parts_of(counts, fades)
    assert [part.count for part in parts] == counts
    for before, part, fade in zip(parts, parts[1:], fades[1:], strict=False):
        assert before.fade_out == part.fade_in <= fade
        assert part.begin == before.begin + before.count - part.fade_in
    assert all(part.fade_in + part.fade_out <= part.count for part in parts)
    assert (parts[0].begin, parts[0].fade_in, parts[-1].fade_out) == (0, 0, 0)


MEASURED = """
import resource, sys
from contextlib import ExitStack
from prefect_loova.models.film import FilmOptions
from prefect_loova.video.film import make_film
path, out = sys.argv[1:]
peaks = []
for count in (2, 20):
    with ExitStack() as stack:
        videos = [stack.enter_context(open(path, "rb")) for _ in range(count)]
        options = FilmOptions(fades=(0.5,) * count, loudness=-20.0)
        make_film(videos, stack.enter_context(open(out, "wb")), options)
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print((peaks[1] - peaks[0]) // 1024)
"""


def test_many_shots_take_no_more_memory_than_two(tmp_path: Path) -> None:
    path = tmp_path / "shot.mp4"
    path.write_bytes(film(48, (1280, 720), sound_seconds=2))
    command = [sys.executable, "-c", MEASURED, path, tmp_path / "out.mp4"]
    more = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert more < 20, f"{more} MiB"
