"""Whether a reference medium can be decoded, found out before a video is paid for (PyAV).

What is surely no such medium is an error. What cannot be known here, such as pictures of a codec that PyAV's FFmpeg
lacks, is a doubt, to be warned of: Loova may take it. What is read, decoded and kept is bounded, as the file comes
from elsewhere. It blocks: call it with `asyncio.to_thread`.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

from av import AudioFrame, AudioStream, CodecContext, Packet, VideoFrame, VideoStream
from av import open as av_open
from av.container import InputContainer
from av.error import ArgumentError, EOFError, FFmpegError, MemoryError, NotImplementedError, PatchWelcomeError
from av.stream import Disposition
from av.video.codeccontext import VideoCodecContext

from prefect_loova.errors import redact
from prefect_loova.models.media import Kind, MediaError
from prefect_loova.video.decoder import CODECS, MAX_PIXELS, MAX_SIDE, DecodeError, TimeLimit
from prefect_loova.video.truncation import ends_early, gif_pictures

MAX_IMAGE_PIXELS = 6000 * 6000
"""The most pixels of an image that is decoded here; of a larger one only the first bytes are known."""

_DECODERS = {
    "image/png": "png",
    "image/jpeg": "mjpeg",
    "image/webp": "webp",
    "image/gif": "gif",
    "image/bmp": "bmp",
    "image/tiff": "tiff",
}
# FFmpeg decodes all that these have, but for moving WebP; of BMP and TIFF some kinds are missing in it.
_COMPLETE = frozenset({"image/png", "image/jpeg", "image/webp", "image/gif"})
_LENIENT = frozenset({"image/png", "image/gif", "image/bmp"})  # what is missing at their end, FFmpeg overlooks
_STRICT = {"err_detect": "crccheck+bitstream+buffer+explode"}
_DEMUXERS = {"audio/mpeg": "mp3", "audio/wav": "wav"}
_SOUND_CODECS = frozenset(
    {"mp3", "mp3float", "adpcm_ms", "adpcm_ima_wav", "adpcm_g726", "gsm_ms", "aac", "ac3", "flac"}
)
_PACKETS = 300
_HEAVY = threading.Lock()  # one image at a time: its pixels may take 280 MB

_UNKNOWABLE = (ArgumentError, MemoryError, NotImplementedError, PatchWelcomeError)


def probe(file: BinaryIO | io.RawIOBase, kind: Kind, media_type: str, *, max_seconds: float = 20.0) -> str:
    """Decode a medium as far as it takes to know that it can be decoded: images whole, else the first of it.

    Args:
        file: The medium; it can be read and sought.
        kind: What it is given as.
        media_type: What its first bytes say that it is, of this kind.
        max_seconds: The most seconds that this may take, but for one picture or block of sound at a time.

    Returns:
        What could not be known, for a warning; empty where nothing is in doubt.

    Raises:
        MediaError: It is surely no such medium. Says why.
        StorageError: As `file` raises it, where it is an `s3_file.S3File`.
    """
    deadline = TimeLimit(max_seconds)
    try:
        if kind == "image":
            return _probed_image(_whole(file), media_type)
        if kind == "video":
            return _probed_video(file, deadline)
        return _probed_audio(file, media_type, deadline)
    except DecodeError as error:
        return f"it could not be looked at: {error}"
    except _UNKNOWABLE as error:
        return f"it is not decoded here ({_reason(error)})"
    except FFmpegError as error:
        raise MediaError(f"it is damaged: it cannot be read ({_reason(error)})") from None


def _whole(file: BinaryIO | io.RawIOBase) -> bytes:
    file.seek(0)
    return file.read() or b""


def _probed_image(content: bytes, media_type: str) -> str:
    if media_type not in _DECODERS:
        return f"{media_type} is not decoded here"
    is_jpeg = media_type == "image/jpeg"
    failure = _failure(content, media_type, _STRICT if is_jpeg else {})
    if (failure or media_type in _LENIENT) and ends_early(media_type, content):
        raise MediaError("it is cut short: its picture does not end")
    if _moves(content, media_type):
        return "it is a moving picture, and Loova does not document what it makes of one"
    if not failure:
        return ""
    if is_jpeg and not _failure(content, media_type, {}):
        return f"it is decoded with errors ({failure})"
    if media_type in _COMPLETE:
        raise MediaError(f"it is damaged: its picture cannot be decoded ({failure})")
    return f"it is not decoded here ({failure})"


def _failure(content: bytes, media_type: str, options: dict[str, str]) -> str:
    """Why the first picture cannot be decoded; empty where it can."""
    decoder = CodecContext.create(_DECODERS[media_type], "r")
    assert isinstance(decoder, VideoCodecContext)  # noqa: S101
    decoder.thread_count = 1
    decoder.options = {"max_pixels": str(MAX_IMAGE_PIXELS)} | options
    with _HEAVY:
        try:
            frames = decoder.decode(Packet(content))
            with suppress(EOFError):
                frames += decoder.decode(None)
        except _UNKNOWABLE:
            raise
        except FFmpegError as error:
            return _reason(error)
        return "" if frames else "no picture"


def _moves(content: bytes, media_type: str) -> bool:
    if media_type == "image/gif":
        return len(gif_pictures(content)) > 1
    if media_type == "image/png":
        return b"acTL" in content[: max(0, content.find(b"IDAT"))]
    return media_type == "image/webp" and content[12:16] == b"VP8X" and bool(content[20] & 0x02)


def _probed_video(file: BinaryIO | io.RawIOBase, deadline: TimeLimit) -> str:
    size = file.seek(0, io.SEEK_END)
    with _opened(file, "mp4", "mp4 or mov, or its index is missing") as container:
        track = next((one for one in container.streams.video if not one.disposition & Disposition.attached_pic), None)
        if track is None:
            if container.streams.audio:
                raise MediaError("it has sound, and no picture: it is not a video")
            raise MediaError("it has no picture, or its index is missing: it is cut short, or not a video")
        _check_index(track, size)
        decoder = track.codec_context
        if decoder is None or decoder.name not in CODECS:
            codec = redact(decoder.name, 40) if decoder else "of a codec unknown to FFmpeg"
            return f"its pictures are {codec}, which is not decoded here"
        if decoder.width * decoder.height > MAX_PIXELS or max(decoder.width, decoder.height) > MAX_SIDE:
            return f"its pictures are {decoder.width:,} x {decoder.height:,} pixels, which are not decoded here"
        decoder.options = {"max_pixels": str(MAX_PIXELS)}
        doubt = _first(container, track, deadline)
        _check_index(track, size)
        return doubt


def _probed_audio(file: BinaryIO | io.RawIOBase, media_type: str, deadline: TimeLimit) -> str:
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(8) or b""
    name = _DEMUXERS.get(media_type, "mp3")
    with _opened(file, name, f"{name} that can be read") as container:
        if not container.streams.audio:
            raise MediaError("it has no sound: it is not an audio")
        track = container.streams.audio[0]
        decoder = track.codec_context
        if decoder is None or not (decoder.name.startswith("pcm_") or decoder.name in _SOUND_CODECS):
            codec = redact(decoder.name, 40) if decoder else "of a codec unknown to FFmpeg"
            return f"its sound is {codec}, which is not decoded here"
        if doubt := _first(container, track, deadline):
            return doubt
    says = int.from_bytes(head[4:8], "little") + 8
    if head[:4] == b"RIFF" and size < says < 2**31:
        return f"it says that it has {says:,} bytes, and has {size:,}: it may be cut short"
    return ""


def _first(container: InputContainer, track: VideoStream | AudioStream, deadline: TimeLimit) -> str:
    """Decode until there is a first picture or block of sound that is whole.

    Raises:
        ValueError: There is none in all of it.
    """
    what = "picture" if isinstance(track, VideoStream) else "sound"
    failure, number = "", 0
    for number, packet in enumerate(container.demux(track)):
        deadline.check()
        if number >= _PACKETS:
            return f"none of its first {_PACKETS} packets is a whole {what}"
        try:
            frames = packet.decode()
        except _UNKNOWABLE:
            raise
        except FFmpegError as error:  # a film that was cut begins with what refers to pictures before
            failure = f" ({_reason(error)})"
            continue
        if any(isinstance(frame, VideoFrame | AudioFrame) and not frame.is_corrupt for frame in frames):
            return ""
    raise MediaError(f"it is damaged: no {what} of it can be decoded{failure}")


@contextmanager
def _opened(file: BinaryIO | io.RawIOBase, demuxer: str, wanted: str) -> Iterator[InputContainer]:
    file.seek(0)
    try:
        # This demuxer only: others, such as playlists, open further files.
        container = av_open(file, format=demuxer, metadata_errors="replace")
    except _UNKNOWABLE:
        raise
    except FFmpegError as error:
        raise MediaError(f"it is no {wanted} ({_reason(error)})") from None
    assert isinstance(container, InputContainer)  # noqa: S101
    with container:
        yield container


def _check_index(track: VideoStream, size: int) -> None:
    if any(entry.pos + entry.size > size for entry in track.index_entries):
        raise MediaError("it is cut short: pictures that its index names are missing")


def _reason(error: FFmpegError) -> str:
    return redact(error.strerror, 200)
