"""Makes a copy of a reference medium that every host of Seedance 2.0 takes (PyAV).

An image becomes an upright picture in 8 bits: a JPEG if its own type is lossy, else a PNG. A video becomes an upright
mp4 of a constant frame rate with H.264 and AAC, and audio an mp3. It blocks: call it with `asyncio.to_thread`.
"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

from av import AudioStream
from av.audio.resampler import AudioResampler
from av.container import OutputContainer
from av.container import open as av_open
from av.error import FFmpegError

from prefect_loova.models.media import Kind, MediaError
from prefect_loova.video.concat_encode import EncodeConcat
from prefect_loova.video.concat_output import Mp4Writer
from prefect_loova.video.concat_traits import traits_of
from prefect_loova.video.decoder import (
    AUDIO_CODECS,
    AUDIO_DEMUXERS,
    DecodeError,
    TimeLimit,
    VideoFile,
    open_container,
    open_video,
    reason_of,
    unsupported_codec,
)
from prefect_loova.video.image_headers import without_exif
from prefect_loova.video.images import jpeg, png, scale
from prefect_loova.video.pictures import first_picture, one_image
from prefect_loova.video.tone_mapping import sdr

_JPEG_QUALITY = 2  # the best
_MP3_RATES = (32_000, 44_100, 48_000)
_MP3_BITS = 192_000


def convert(
    file: VideoFile, kind: Kind, media_type: str, copy_type: str, *, max_bytes: int, max_seconds: float = 120.0
) -> bytes:
    """Return a copy of a medium that every host of Seedance 2.0 takes.

    Args:
        file: The medium, seekable.
        kind: The kind of medium.
        media_type: Its media type by its first bytes.
        copy_type: The media type of the copy; see `media_types.copy_type_of`.
        max_bytes: The largest copy, in bytes.
        max_seconds: The most seconds that this may take, without the time for one picture.

    Raises:
        MediaError: It cannot be converted.
        StorageError: A file that is a `store.reader.S3File` raised it.
    """
    time_limit = TimeLimit(max_seconds)
    try:
        if kind == "image":
            file.seek(0)
            copy = _image(file.read() or b"", media_type, copy_type)
        elif kind == "video":
            copy = _video(file, time_limit)
        else:
            copy = _audio(file, media_type, time_limit, max_bytes)
    except DecodeError as error:
        raise MediaError(f"it cannot be converted: {error}") from None
    except (FFmpegError, ValueError, OverflowError) as error:
        raise MediaError(f"it cannot be converted ({reason_of(error)})") from None
    if len(copy) > max_bytes:
        raise MediaError(f"its copy has {len(copy):,} bytes, and {max_bytes:,} are the most for {kind}")
    return copy


def _image(content: bytes, media_type: str, copy_type: str) -> bytes:
    with one_image:
        picture = first_picture(content, media_type)
        if picture is None:
            raise DecodeError("it has no picture")
        frame = sdr(picture.frame)
        if copy_type == "image/png":
            return without_exif(png(frame, picture.size, picture.rotation, with_alpha=True))
        return jpeg(scale(frame, picture.size, picture.rotation), _JPEG_QUALITY)


def _video(file: VideoFile, time_limit: TimeLimit) -> bytes:
    with open_video(file, time_limit) as video:
        video.check_index()
        traits = traits_of(video)
    with tempfile.TemporaryDirectory(prefix="loova-convert-") as folder:
        path = Path(folder) / "copy.mp4"
        with Mp4Writer(path) as output:
            copy = EncodeConcat(output, [traits])
            with open_video(file, time_limit) as video:
                copy.add(video, traits)
            copy.finish()
        return path.read_bytes()


def _audio(file: VideoFile, media_type: str, time_limit: TimeLimit, max_bytes: int) -> bytes:
    copy = io.BytesIO()
    with open_container(file, AUDIO_DEMUXERS[media_type]) as container:
        track = next(iter(container.streams.audio), None)
        decoder = track.codec_context if track else None
        if track is None or decoder is None or decoder.name not in AUDIO_CODECS:
            raise DecodeError(unsupported_codec("audio", decoder))
        rate = decoder.sample_rate if decoder.sample_rate in _MP3_RATES else _MP3_RATES[-1]
        layout = "mono" if decoder.channels == 1 else "stereo"
        with av_open(copy, "w", format="mp3", options={"fflags": "+bitexact"}) as output:
            assert isinstance(output, OutputContainer)  # noqa: S101
            stream = output.add_stream("libmp3lame", rate=rate)
            assert isinstance(stream, AudioStream)  # noqa: S101
            encoder = stream.codec_context
            encoder.layout, encoder.format, encoder.bit_rate = layout, "s16p", _MP3_BITS
            resampler = AudioResampler("s16p", layout, rate, frame_size=1152)
            for packet in container.demux(track):
                time_limit.check()
                if copy.tell() > max_bytes:
                    break  # the copy is refused
                for frame in packet.decode():
                    for piece in resampler.resample(frame):
                        output.mux(stream.encode(piece))
            for piece in resampler.resample(None):
                output.mux(stream.encode(piece))
            output.mux(stream.encode(None))
    return copy.getvalue()
