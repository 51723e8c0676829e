"""What is measured of a video for quality gates, and what the shipped gates say of it."""

from __future__ import annotations

import io
import math
import random
from array import array
from collections.abc import Callable
from fractions import Fraction
from functools import cache

import av
import pytest
from av.filter import Graph

from prefect_loova.errors import LoovaError, UnusableVideoError
from prefect_loova.gates import SHIPPED, BlackFrames, FrozenFrames, NoSound, WrongDuration, WrongRatio
from prefect_loova.models.gates import GateInput, QualityGate, Verdict, VideoFacts
from prefect_loova.models.results import SavedVideo
from prefect_loova.simulator.render import render
from prefect_loova.video.quality import POSTER_BYTES, POSTER_SIDE, measure
from tests.support.films import FPS, bright_corner, brightness, fill, film, luma, noise, opened

STEP = 1 / 8  # times are measured in these steps
BLACK, GREY = (16, 128, 128), (110, 128, 128)


def facts_of(video: bytes) -> VideoFacts:
    return measure(io.BytesIO(video))[0]


def judged(video: bytes, gate: QualityGate, **request: object) -> Verdict:
    facts, posters = measure(io.BytesIO(video))
    saved = SavedVideo(
        key="k",
        request={"ratio": "16:9", "duration": round(facts.duration_seconds), "audio_urls": []} | request,
        task_id="t",
        video="s3://b/v.mp4",
        record="s3://b/r",
        size_bytes=1,
        sha256="",
        credits_cost=None,
        reused=False,
    )
    verdict = gate(GateInput(saved=saved, facts=facts, posters=posters))
    assert isinstance(verdict, Verdict)
    return verdict


def landscape(grain: int, seed: int = 0) -> Callable[[av.VideoFrame, int], None]:
    """A scene that does not move, under noise of this strength that does."""

    def paint(frame: av.VideoFrame, number: int) -> None:
        scene, chance = random.Random(seed), random.Random(number)
        fill(frame, GREY)
        plane = frame.planes[0]
        still = [60 + int(20 * scene.random()) + row for row in range(plane.height) for _ in range(plane.line_size)]
        plane.update(bytes(value + chance.randint(-grain, grain) for value in still))

    return paint


def hills(speed: float) -> Callable[[av.VideoFrame, int], None]:
    """Soft hills that move by so many pixels a frame."""

    @cache
    def pixels(width: int, height: int, moved: float) -> bytes:
        across = [50 * math.sin((column + moved) / 9) for column in range(width)]
        down = [30 * math.sin(row / 5) for row in range(height)]
        return bytes(int(110 + x + y) for y in down for x in across)

    def paint(frame: av.VideoFrame, number: int) -> None:
        fill(frame, GREY)
        plane = frame.planes[0]
        plane.update(pixels(plane.line_size, plane.height, number * speed))

    return paint


@pytest.mark.parametrize("ratio", ["21:9", "16:9", "1:1", "9:16"])
@pytest.mark.parametrize("short_side", [64, 480])
def test_the_simulators_videos_pass_every_shipped_gate(ratio: str, short_side: int) -> None:
    video = render(f"seed {ratio}", ratio, 4, short_side)
    for gate in SHIPPED.values():
        assert judged(video, gate, ratio=ratio, duration=4) == Verdict.accept()


def test_facts_are_those_of_the_file() -> None:
    facts = facts_of(film(60, (96, 64), paint=noise, sound_seconds=2))
    assert (facts.width, facts.height, facts.fps, facts.has_sound) == (96, 64, 24, True)
    assert facts.duration_seconds == pytest.approx(2.5, abs=0.01)


@pytest.mark.parametrize(
    ("options", "shown"),
    [({"rotated": 90}, (48, 64)), ({"sar": Fraction(2, 1)}, (128, 48)), ({"rotated": 180}, (64, 48))],
)
def test_width_and_height_are_those_in_a_player(options: dict[str, object], shown: tuple[int, int]) -> None:
    facts = facts_of(film(4, **options))  # type: ignore[arg-type]
    assert (facts.width, facts.height) == shown


def test_the_same_video_gives_the_same_facts_and_posters() -> None:
    video = render("twice", "16:9", 4, 240)
    assert measure(io.BytesIO(video)) == measure(io.BytesIO(video))


def test_posters_are_the_first_the_middle_and_the_last_frame() -> None:
    _, posters = measure(io.BytesIO(film(96, bf="0")))
    shown = [(brightness(opened(poster)) * 219 / 255 + 16 - luma(0)) / 2 for poster in posters]
    assert [round(number) for number in shown] == [0, 48, 95]


def test_posters_are_upright_and_small() -> None:
    _, posters = measure(io.BytesIO(film(3, (1280, 720), paint=noise, rotated=90)))
    assert {opened(poster).size for poster in posters} <= {(288, 512), (180, 320), (90, 160)}
    assert all(len(poster) <= POSTER_BYTES for poster in posters)
    assert max(opened(poster).height for poster in posters) <= POSTER_SIDE


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_a_short_video_is_measured(frames: int) -> None:
    facts, posters = measure(io.BytesIO(film(frames)))
    assert facts.duration_seconds == pytest.approx(frames / FPS, abs=0.01)
    assert len(posters) == 3


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuvj420p", "yuv420p10le"])
def test_black_frames_are_counted_all_together(pix_fmt: str) -> None:
    level = {"yuv420p": 16, "yuvj420p": 0}.get(pix_fmt, 16)

    def paint(frame: av.VideoFrame, number: int) -> None:
        is_black = number < 24 or number >= 72
        if pix_fmt != "yuv420p10le":
            return fill(frame, (level, 128, 128)) if is_black else noise(frame, number)
        for plane, value in zip(frame.planes, (64 if is_black else 500 + number, 512, 512), strict=True):
            plane.update(value.to_bytes(2, "little") * (plane.buffer_size // 2))
        return None

    assert facts_of(film(96, paint=paint, pix_fmt=pix_fmt)).black_seconds == pytest.approx(2, abs=2 * STEP)


def test_a_black_video_is_rejected_with_the_seconds() -> None:
    verdict = judged(film(96, paint=lambda frame, _: fill(frame, BLACK)), BlackFrames())
    assert verdict == Verdict.reject("it is black for 4.0 s; at most 1.5 s are allowed")


def test_a_video_that_is_black_from_the_middle_is_rejected() -> None:
    half = film(96, paint=lambda frame, number: fill(frame, BLACK) if number >= 48 else noise(frame, number))
    assert judged(half, BlackFrames()).what == "reject"


def test_a_fade_in_and_out_of_half_a_second_passes() -> None:
    def paint(frame: av.VideoFrame, number: int) -> None:
        noise(frame, number)
        light = min(1.0, number / 12, (95 - number) / 12)
        plane = frame.planes[0]
        plane.update(bytes(16 + int((value - 16) * light) if value > 16 else 16 for value in bytes(plane)))

    fade = film(96, paint=paint)
    for gate in (BlackFrames(), FrozenFrames()):
        assert judged(fade, gate) == Verdict.accept()


def test_a_night_scene_with_a_lamp_is_not_black() -> None:
    def night(frame: av.VideoFrame, number: int) -> None:
        fill(frame, BLACK)
        plane = frame.planes[0]
        pixels = bytearray(plane)
        for row in range(4):
            pixels[row * plane.line_size + number % 32 : row * plane.line_size + number % 32 + 4] = b"\xc8" * 4
        plane.update(bytes(pixels))

    assert facts_of(film(96, paint=night)).black_seconds == 0


@pytest.mark.parametrize(("pix_fmt", "dark"), [("yuv420p", 28), ("yuvj420p", 20)])
def test_a_dark_grey_picture_is_not_black(pix_fmt: str, dark: int) -> None:
    video = film(48, paint=lambda frame, _: fill(frame, (dark, 128, 128)), pix_fmt=pix_fmt)
    assert facts_of(video).black_seconds == 0


@pytest.mark.parametrize("options", [{"g": "250"}, {"g": "24"}, {"g": "12", "crf": "30"}, {"bf": "3", "crf": "23"}])
def test_a_frozen_picture_is_frozen_across_keyframes(options: dict[str, str]) -> None:
    frozen = film(96, (640, 360), paint=hills(0), **options)
    assert facts_of(frozen).frozen_seconds == pytest.approx(4, abs=0.01)
    verdict = judged(frozen, FrozenFrames(otherwise="retake"))
    assert verdict == Verdict.retake("its picture is frozen for 4.0 s; at most 2 s are allowed")


def test_the_longest_still_counts_wherever_it_is() -> None:
    def paint(frame: av.VideoFrame, number: int) -> None:
        noise(frame, number if number < 20 or number > 80 else 20)

    assert facts_of(film(120, paint=paint)).frozen_seconds == pytest.approx(61 / 24, abs=STEP)


def test_a_frame_that_is_shown_for_seconds_is_frozen() -> None:
    video = film(20, times=[*range(10), *range(82, 92)], paint=noise)
    assert facts_of(video).frozen_seconds == pytest.approx(73 / 24, abs=STEP)


@pytest.mark.parametrize("crf", ["8", "20"])
def test_a_still_landscape_with_slight_noise_passes(crf: str) -> None:
    assert judged(film(96, paint=landscape(grain=3), crf=crf), FrozenFrames()) == Verdict.accept()


def test_noise_that_the_encoder_nearly_removes_still_counts_as_a_change() -> None:
    """A still scene of 720p under grain, in an ordinary quality."""
    graph, file = Graph(), io.BytesIO()
    steps = [("mandelbrot", f"size=1280x720:rate={FPS}"), ("loop", "loop=-1:size=1"), ("noise", "alls=6:allf=t")]
    sink = graph.add("buffersink")
    graph.link_nodes(*(graph.add(*step) for step in steps), graph.add("format", "yuv420p"), sink).configure()
    with av.open(file, "w", format="mp4") as output:
        stream = output.add_stream("libx264", rate=FPS, options={"preset": "veryfast", "crf": "23"})
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        for number in range(48):
            frame = graph.vpull()
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    assert facts_of(file.getvalue()).frozen_seconds < 0.5


def test_a_change_that_no_two_frames_show_counts() -> None:
    """One point after the other becomes brighter, so that a second changes what a step does not."""

    def paint(frame: av.VideoFrame, number: int) -> None:
        fill(frame, GREY)
        plane = frame.planes[0]
        pixels = bytearray(plane)
        for at in range(number * 3):
            pixels[at * 97 % len(pixels)] = 125
        plane.update(bytes(pixels))

    assert facts_of(film(96, paint=paint, crf="1")).frozen_seconds < 2


@pytest.mark.parametrize("options", [{"bf": "3"}, {"g": "12"}, {"g": "1"}])
def test_a_slow_camera_passes(options: dict[str, str]) -> None:
    video = film(96, paint=hills(1 / 6), crf="23", **options)
    assert judged(video, FrozenFrames()) == Verdict.accept()


def audible(seconds: list[float], picture_seconds: int, *, rate: int = 44100, layout: str = "stereo") -> bytes:
    """A video whose sound has these amplitudes, from 0 to 1, one a second, in sines of 1 kHz."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        picture = output.add_stream("libx264", rate=FPS, options={"preset": "veryfast"})
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        sound = output.add_stream("aac", rate=rate)
        sound.layout = layout  # type: ignore[attr-defined]
        for number in range(picture_seconds * FPS):
            frame = av.VideoFrame(64, 48, "yuv420p")
            bright_corner(frame, number)
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            output.mux(picture.encode(frame))
        output.mux(picture.encode(None))
        for second, amplitude in enumerate(seconds):
            wave = array("f", (amplitude * math.sin(math.tau * 1000 * at / rate) for at in range(rate)))
            block = av.AudioFrame("fltp", layout, rate)
            for plane in block.planes:
                plane.update(wave.tobytes().ljust(plane.buffer_size, b"\0"))
            block.pts, block.sample_rate, block.time_base = second * rate, rate, Fraction(1, rate)
            output.mux(sound.encode(block))
        output.mux(sound.encode(None))
    return file.getvalue()


def test_loudness_and_silence_are_measured() -> None:
    assert facts_of(audible([0.1, 0.1, 0, 0, 0.1], 5)).silent_seconds == pytest.approx(2, abs=0.25)
    facts = facts_of(audible([0.1, 0.1, 0.1], 3))
    assert facts.silent_seconds < 0.2
    assert facts.loudness == pytest.approx(-20, abs=0.3)  # so BS.1770 says of both channels at -20 dBFS


def test_mono_sound_is_heard() -> None:
    facts = facts_of(audible([0.1, 0.1], 2, rate=22050, layout="mono"))
    assert facts.has_sound and facts.silent_seconds < 0.2 and facts.loudness is not None


def test_sound_that_ends_before_the_picture_is_silent_from_there() -> None:
    assert facts_of(audible([0.1], 4)).silent_seconds == pytest.approx(3, abs=0.25)


def test_a_video_without_an_audio_track_is_silent_throughout() -> None:
    facts = facts_of(film(96))
    assert (facts.has_sound, facts.loudness) == (False, None)
    assert facts.silent_seconds == facts.duration_seconds


def test_a_missing_or_silent_sound_is_rejected_where_the_request_has_audio() -> None:
    audio = {"audio_urls": ["https://example.com/voice.mp3"]}
    assert judged(film(96), NoSound(), **audio) == Verdict.reject("it has no sound")
    assert judged(audible([0, 0, 0, 0], 4), NoSound(), **audio).reason.startswith("it is silent for 4.0 of 4.0 s")
    assert judged(audible([0, 0, 0.05, 0], 4), NoSound(), **audio) == Verdict.accept()
    assert judged(film(96), NoSound()) == Verdict.accept()
    assert judged(film(96), NoSound(always=True, otherwise="retake")) == Verdict.retake("it has no sound")


def test_a_wrong_duration_is_rejected() -> None:
    video = film(96)
    assert judged(video, WrongDuration(), duration=4) == Verdict.accept()
    assert judged(video, WrongDuration(), duration=5) == Verdict.reject("it plays 4.0 s, and 5 s were asked for")
    assert judged(video, WrongDuration(tolerance_seconds=1.5), duration=5) == Verdict.accept()


def test_a_wrong_ratio_is_rejected() -> None:
    video = film(4, (64, 48))
    assert judged(video, WrongRatio(), ratio="4:3") == Verdict.accept()
    assert judged(video, WrongRatio(), ratio="16:9").reason == "its pictures are 64 x 48, and 16:9 was asked for"
    assert judged(film(4, (64, 48), rotated=90), WrongRatio(), ratio="3:4") == Verdict.accept()
    assert judged(video, WrongRatio(tolerance=0.5), ratio="16:9") == Verdict.accept()
    assert judged(video, WrongRatio(), ratio="16:9", function_mode="first_last_frames") == Verdict.accept()


@pytest.mark.parametrize("content", [b"", b"no video", film(4)[:300]])
def test_what_is_no_video_cannot_be_measured(content: bytes) -> None:
    with pytest.raises(UnusableVideoError, match="the video cannot be measured"):
        measure(io.BytesIO(content))


def test_measuring_has_a_time_limit() -> None:
    with pytest.raises(LoovaError, match="it took longer than 0 s"):
        measure(io.BytesIO(film(24)), max_seconds=0)
