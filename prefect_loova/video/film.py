"""Makes a film of shots with cross-fades, cards, a sound track and one loudness (PyAV). All is encoded once.

The picture is encoded to disk while the sound is mixed on disk; then both become one mp4. At most the frames of two
shots are decoded at a time. It blocks: call it with `asyncio.to_thread`.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import inf
from pathlib import Path
from typing import BinaryIO

from av import AudioFrame, VideoFrame
from av import open as av_open
from av.error import FFmpegError
from av.filter import Graph

from prefect_loova.errors import UnusableVideoError
from prefect_loova.models.film import FilmOptions
from prefect_loova.video.concat import JoinedVideo, open_numbered
from prefect_loova.video.concat_frames import SteadyFrames
from prefect_loova.video.concat_output import Mp4Writer
from prefect_loova.video.concat_sound import SoundPlacer
from prefect_loova.video.concat_traits import Traits, traits_of
from prefect_loova.video.decoder import DecodeError, TimeLimit, VideoFile, reason_of
from prefect_loova.video.film_sound import RATE, ShotSound, SoundMix, layout_of
from prefect_loova.video.images import Canvas
from prefect_loova.video.pictures import first_picture, one_image
from prefect_loova.video.tone_mapping import sdr


@dataclass(frozen=True)
class FilmMedia:
    """The media of a film, each with its media type.

    Attributes:
        title_card: The content of the image before the first shot.
        end_card: The content of the image after the last shot.
        sound_track: The audio file, seekable.
    """

    title_card: tuple[bytes, str] | None = None
    end_card: tuple[bytes, str] | None = None
    sound_track: tuple[VideoFile, str] | None = None


@dataclass(frozen=True)
class Part:
    """A shot or a card in the time of the film, in frames.

    Attributes:
        begin: When it begins.
        count: Its length.
        fade_in: How long it overlaps the part before.
        fade_out: How long it overlaps the next part.
    """

    begin: int
    count: int
    fade_in: int = 0
    fade_out: int = 0


def parts_of(counts: Sequence[int], fades: Sequence[int]) -> list[Part]:
    """Return the parts of a film. A cross-fade that does not fit beside the one before it is shortened.

    Args:
        counts: The length of each part, in frames.
        fades: How long each part is to overlap the one before it, in frames; the first one does not.
    """
    fitting = [0]
    for number in range(1, len(counts)):
        room = min(counts[number - 1] - fitting[-1], counts[number])
        fitting.append(min(fades[number], room))
    parts, end = list[Part](), 0
    for count, fade_in, fade_out in zip(counts, fitting, [*fitting[1:], 0], strict=True):
        parts.append(Part(end - fade_in, count, fade_in, fade_out))
        end += count - fade_in
    return parts


def make_film(
    videos: Sequence[VideoFile],
    out: BinaryIO,
    options: FilmOptions,
    media: FilmMedia = FilmMedia(),
    *,
    max_seconds: float = 600.0,
) -> JoinedVideo:
    """Make a film of videos, as H.264 and AAC in the size and the frame rate of the first video.

    The same input gives the same bytes. Without any sound, the film has no audio track.

    Args:
        videos: The shots, in order: seekable mp4 files.
        out: The output. Nothing is written before the result is complete.
        options: The options of the film.
        media: The media that the options name.
        max_seconds: The most seconds that this may take.

    Returns:
        Facts about the film.

    Raises:
        UnusableVideoError: A video, a card or the sound track cannot be used, or making the film takes too long. The
            message names it.
        StorageError: A file that is a `store.reader.S3File` raised it.
    """
    if not videos:
        raise UnusableVideoError("the videos cannot be joined: there are none")
    time_limit = TimeLimit(max_seconds)
    with tempfile.TemporaryDirectory(prefix="loova-film-") as folder:
        film = _Film(videos, options, media, Path(folder), time_limit)
        try:
            path = film.make()
        except DecodeError as error:
            raise UnusableVideoError(f"the film cannot be made: {error}") from None
        with path.open("rb") as file:
            shutil.copyfileobj(file, out)
    return JoinedVideo(float(film.count / film.fps), *film.size, has_sound=film.has_sound, is_copy=False)


class _Film:
    def __init__(
        self,
        videos: Sequence[VideoFile],
        options: FilmOptions,
        media: FilmMedia,
        folder: Path,
        time_limit: TimeLimit,
    ) -> None:
        self._videos, self._options, self._media = videos, options, media
        self._folder, self._time_limit = folder, time_limit
        self._traits, seconds = list[Traits](), list[Fraction]()
        for number in range(len(videos)):
            with open_numbered(videos, number, time_limit) as video:
                video.check_index()
                self._traits.append(traits_of(video))
                seconds.append(video.seconds)
        width, height = self._traits[0].size
        self.size = width + width % 2, height + height % 2
        self.fps = self._traits[0].fps
        self.has_sound = media.sound_track is not None or any(one.sound for one in self._traits)
        counts = [self._frames(one) for one in seconds]
        fades = [self._frames(one) if one else 0 for one in options.fades] or [0] * len(counts)
        card = self._frames(options.card_seconds)
        if media.title_card:
            counts, fades = [card, *counts], [0, *fades]
        if media.end_card:
            counts, fades = [*counts, card], [*fades, self._frames(options.end_fade) if options.end_fade else 0]
        self._parts = parts_of(counts, fades)
        self.count = self._parts[-1].begin + self._parts[-1].count

    def make(self) -> Path:
        """Make the film, and return its path."""
        picture, sound, path = (self._folder / name for name in ("picture.mp4", "sound.f32", "film.mp4"))
        with sound.open("w+b") as file:
            mix = SoundMix(file, self._samples(self.count), self._time_limit) if self.has_sound else None
            self._write_picture(picture, mix)
            if mix is not None and self._media.sound_track:
                self._add_track(mix, *self._media.sound_track)
            loudness = self._options.loudness
            gain = 0.0 if mix is None or loudness is None else mix.gain_to(loudness)
            self._write_film(path, picture, mix, gain)
        return path

    def _frames(self, seconds: Fraction | float) -> int:
        return max(1, round(Fraction(seconds) * self.fps))

    def _samples(self, frames: int) -> int:
        return round(frames / self.fps * RATE)

    def _write_picture(self, path: Path, mix: SoundMix | None) -> None:
        written, before = 0, iter(list[VideoFrame]())
        with Mp4Writer(path) as output:
            track = output.add_h264(self.size, self.fps)

            def write(frame: VideoFrame) -> None:
                nonlocal written
                self._time_limit.check()
                frame.pts, frame.time_base = written, 1 / self.fps
                frame.pict_type = 0  # else the encoder makes keyframes where the input has them
                output.write(track.encode(frame))
                written += 1

            for part, frames in zip(self._parts, self._sources(mix), strict=True):
                fade = _CrossFade(self.size, part.fade_in, self.fps) if part.fade_in else None
                for _ in range(part.fade_in):
                    assert fade is not None  # noqa: S101
                    write(fade.blend(next(before), next(frames)))
                deque(before, maxlen=0)  # decodes the rest of its sound, and checks its end
                for _ in range(part.count - part.fade_in - part.fade_out):
                    write(next(frames))
                before = frames
            deque(before, maxlen=0)
            output.write(track.encode(None))

    def _sources(self, mix: SoundMix | None) -> Iterator[Iterator[VideoFrame]]:
        """Yield the frames of each part."""
        parts = iter(self._parts)
        if self._media.title_card:
            yield self._card(next(parts), "title_card", *self._media.title_card)
        for number in range(len(self._videos)):
            yield self._shot(next(parts), number, mix)
        if self._media.end_card:
            yield self._card(next(parts), "end_card", *self._media.end_card)

    def _card(self, part: Part, name: str, content: bytes, media_type: str) -> Iterator[VideoFrame]:
        try:
            with one_image:
                picture = first_picture(content, media_type)
                if picture is None:
                    raise DecodeError("it has no picture")
                drawn = Canvas(self.size, picture.size, picture.rotation).draw(sdr(picture.frame))
        except (DecodeError, FFmpegError, ValueError) as error:
            raise UnusableVideoError(f"the film cannot be made: {name}: {reason_of(error)}") from None
        for _ in range(part.count):
            yield drawn

    def _shot(self, part: Part, number: int, mix: SoundMix | None) -> Iterator[VideoFrame]:
        """Yield exactly the frames of a shot. Decode all of it, and add its sound to the mix."""
        traits = self._traits[number]
        with open_numbered(self._videos, number, self._time_limit) as video:
            sound = None
            if mix is not None and traits.sound:
                begin, samples = self._samples(part.begin), self._samples(part.count)
                fades = self._samples(part.fade_in), self._samples(part.fade_out)
                layout = layout_of(traits.channels)
                sound = SoundPlacer(RATE, layout, "flt", ShotSound(mix, begin, samples, *fades).write)
                sound.begin(-video.start * video.tick, part.count / self.fps)
            canvas = Canvas(self.size, traits.size, traits.rotation)
            count, frames = 0, SteadyFrames(video, canvas, self.fps, sound.add if sound else None)
            for frame in frames:
                if count < part.count:
                    yield frame
                    count += 1
            for _ in range(count, part.count):
                self._time_limit.check()
                yield frames.last
            if sound:
                sound.end(part.count / self.fps)

    def _add_track(self, mix: SoundMix, file: VideoFile, media_type: str) -> None:
        try:
            mix.add_track(file, media_type, self._options.sound_track_volume)
        except (DecodeError, FFmpegError, ValueError) as error:
            raise UnusableVideoError(f"the film cannot be made: sound_track: {reason_of(error)}") from None

    def _write_film(self, path: Path, picture: Path, mix: SoundMix | None, gain: float) -> None:
        """Write the encoded picture and the sound into one mp4, interleaved."""
        with av_open(str(picture)) as source, Mp4Writer(path) as output:
            (pictures,) = source.streams.video
            track = output.container.add_stream_from_template(pictures)
            track.time_base = pictures.time_base
            sound = output.add_aac(RATE, "stereo") if mix is not None else None
            pieces: Iterator[AudioFrame] = mix.read(gain) if mix is not None else iter(())
            heard = 0

            def write_sound(until: Fraction | float) -> None:
                nonlocal heard
                while sound is not None and heard < until and (piece := next(pieces, None)) is not None:
                    piece.pts, piece.time_base = heard, Fraction(1, RATE)
                    heard += piece.samples
                    output.write(sound.encode(piece))

            for packet in source.demux(pictures):
                self._time_limit.check()
                if packet.dts is None or packet.pts is None:
                    continue
                write_sound(packet.pts * packet.time_base * RATE)
                packet.stream = track
                output.write(packet)
            write_sound(inf)
            if sound is not None:
                output.write(sound.encode(None))


class _CrossFade:
    """Blends the last frames of one part into the first frames of the next one.

    Args:
        size: Width and height of the frames.
        count: The number of frames.
        fps: Frames a second.
    """

    def __init__(self, size: tuple[int, int], count: int, fps: Fraction) -> None:
        graph = Graph()
        graph.threads = 1
        # xfade needs a frame rate, which PyAV's `add_buffer` does not set.
        options = f"video_size={size[0]}x{size[1]}:pix_fmt=yuv420p:time_base={1 / fps}:frame_rate={fps}"
        self._sources = graph.add("buffer", options), graph.add("buffer", options)
        fade = graph.add("xfade", f"transition=fade:offset=0:duration={float(count / fps):.6f}")
        self._sink = graph.add("buffersink")
        for number, source in enumerate(self._sources):
            source.link_to(fade, 0, number)
        fade.link_to(self._sink)
        graph.configure()
        self._graph, self._tick, self._count = graph, 1 / fps, 0

    def blend(self, before: VideoFrame, after: VideoFrame) -> VideoFrame:
        """Return the next blended frame."""
        for source, frame in zip(self._sources, (before, after), strict=True):
            frame.pts, frame.time_base = self._count, self._tick
            source.push(frame)
        self._count += 1
        blended = self._sink.pull()
        assert isinstance(blended, VideoFrame)  # noqa: S101
        return blended
