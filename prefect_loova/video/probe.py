"""Checks that a reference medium can be decoded, before a video is paid for (PyAV).

A medium that is certainly broken is an error. Where this is unknown, for example for a codec that PyAV's FFmpeg lacks,
the result is a doubt to warn about: Loova may accept the medium. The file comes from outside, so what is read, decoded
and kept is bounded. It blocks: call it with `asyncio.to_thread`.
"""

from __future__ import annotations

import io
import threading
from contextlib import suppress

from av import AudioFrame, AudioStream, CodecContext, Packet, VideoFrame, VideoStream
from av.container import InputContainer
from av.error import ArgumentError, EOFError, FFmpegError, MemoryError, NotImplementedError, PatchWelcomeError
from av.stream import Disposition
from av.video.codeccontext import VideoCodecContext

from prefect_loova.models.media import Kind, MediaError
from prefect_loova.video.decoder import (
    CODECS,
    MAX_PIXELS,
    DecodeError,
    TimeLimit,
    VideoFile,
    is_index_truncated,
    is_too_large,
    open_container,
    reason_of,
    unsupported_codec,
)
from prefect_loova.video.truncation import gif_pictures, is_truncated

MAX_IMAGE_PIXELS = 6000 * 6000
"""The most pixels of an image that is decoded. Of a larger image only the first bytes are checked."""

_DECODERS = {
    "image/png": "png",
    "image/jpeg": "mjpeg",
    "image/webp": "webp",
    "image/gif": "gif",
    "image/bmp": "bmp",
    "image/tiff": "tiff",
}
# FFmpeg decodes all images of these types, except animated WebP. It lacks some kinds of BMP and TIFF.
_COMPLETE = frozenset({"image/png", "image/jpeg", "image/webp", "image/gif"})
_LENIENT = frozenset({"image/png", "image/gif", "image/bmp"})  # FFmpeg ignores a missing end
_STRICT = {"err_detect": "crccheck+bitstream+buffer+explode"}
_DEMUXERS = {"audio/mpeg": "mp3", "audio/wav": "wav"}
_SOUND_CODECS = frozenset(
    {"mp3", "mp3float", "adpcm_ms", "adpcm_ima_wav", "adpcm_g726", "gsm_ms", "aac", "ac3", "flac"}
)
_MAX_PACKETS = 300
_one_image = threading.Lock()  # the pixels of one image may take 280 MB

# Errors of FFmpeg that do not show that a medium is broken.
_UNKNOWABLE = (ArgumentError, MemoryError, NotImplementedError, PatchWelcomeError)


def probe(file: VideoFile, kind: Kind, media_type: str, *, max_seconds: float = 20.0) -> str:
    """Decode a medium to check it: an image completely, a video or audio up to its first whole frame.

    Args:
        file: The medium, seekable.
        kind: The kind of medium that the request declares.
        media_type: The media type by its first bytes, of this kind.
        max_seconds: The most seconds that this may take, without the time for one picture or one frame of audio.

    Returns:
        A doubt to warn about; empty without one.

    Raises:
        MediaError: The medium is certainly broken. The message says why.
        StorageError: A file that is a `store.reader.S3File` raised it.
    """
    time_limit = TimeLimit(max_seconds)
    try:
        if kind == "image":
            file.seek(0)
            return _probe_image(file.read() or b"", media_type)
        if kind == "video":
            return _probe_video(file, time_limit)
        return _probe_audio(file, media_type, time_limit)
    except DecodeError as error:
        return f"it could not be checked: {error}"
    except _UNKNOWABLE as error:
        return f"it cannot be checked here ({reason_of(error)})"
    except FFmpegError as error:
        raise MediaError(f"it is damaged: it cannot be read ({reason_of(error)})") from None


def _probe_image(content: bytes, media_type: str) -> str:
    if media_type not in _DECODERS:
        return f"{media_type} cannot be checked here"
    is_jpeg = media_type == "image/jpeg"
    problem = _image_problem(content, media_type, _STRICT if is_jpeg else {})
    if (problem or media_type in _LENIENT) and is_truncated(media_type, content):
        raise MediaError("it is cut short: its picture does not end")
    if _is_animated(content, media_type):
        return "it is an animation, and Loova does not document how it uses one"
    if not problem:
        return ""
    if is_jpeg and not _image_problem(content, media_type, {}):
        return f"it is decoded with errors ({problem})"
    if media_type in _COMPLETE:
        raise MediaError(f"it is damaged: its picture cannot be decoded ({problem})")
    return f"it cannot be checked here ({problem})"


def _image_problem(content: bytes, media_type: str, options: dict[str, str]) -> str:
    """Return why the first picture of an image cannot be decoded; empty if it can."""
    decoder = CodecContext.create(_DECODERS[media_type], "r")
    assert isinstance(decoder, VideoCodecContext)  # noqa: S101
    decoder.thread_count = 1
    decoder.options = {"max_pixels": str(MAX_IMAGE_PIXELS)} | options
    with _one_image:
        try:
            frames = decoder.decode(Packet(content))
            with suppress(EOFError):
                frames += decoder.decode(None)
        except _UNKNOWABLE:
            raise
        except FFmpegError as error:
            return reason_of(error)
        return "" if frames else "no picture"


def _is_animated(content: bytes, media_type: str) -> bool:
    if media_type == "image/gif":
        return len(gif_pictures(content)) > 1
    if media_type == "image/png":
        return b"acTL" in content[: max(0, content.find(b"IDAT"))]
    return media_type == "image/webp" and content[12:16] == b"VP8X" and bool(content[20] & 0x02)


def _probe_video(file: VideoFile, time_limit: TimeLimit) -> str:
    size = file.seek(0, io.SEEK_END)
    with _open(file, "mp4", "it is not an mp4 or mov, or its index is missing") as container:
        track = next((one for one in container.streams.video if not one.disposition & Disposition.attached_pic), None)
        if track is None:
            if container.streams.audio:
                raise MediaError("it has sound but no picture: it is not a video")
            raise MediaError("it has no picture, or its index is missing: it is cut short, or not a video")
        _check_index(track, size)
        decoder = track.codec_context
        if decoder is None or decoder.name not in CODECS:
            return unsupported_codec("video", decoder)
        if is_too_large(decoder.width, decoder.height):
            return f"its picture is {decoder.width:,} x {decoder.height:,} pixels, which is too large to check here"
        decoder.options = {"max_pixels": str(MAX_PIXELS)}
        doubt = _decode_first(container, track, time_limit)
        _check_index(track, size)
        return doubt


def _probe_audio(file: VideoFile, media_type: str, time_limit: TimeLimit) -> str:
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(8) or b""
    demuxer = _DEMUXERS.get(media_type, "mp3")
    with _open(file, demuxer, f"it cannot be read as {demuxer}") as container:
        if not container.streams.audio:
            raise MediaError("it has no sound: it is not audio")
        track = container.streams.audio[0]
        decoder = track.codec_context
        if decoder is None or not (decoder.name.startswith("pcm_") or decoder.name in _SOUND_CODECS):
            return unsupported_codec("audio", decoder)
        if doubt := _decode_first(container, track, time_limit):
            return doubt
    declared = int.from_bytes(head[4:8], "little") + 8
    if head[:4] == b"RIFF" and size < declared < 2**31:
        return f"it has {size:,} of the {declared:,} bytes that it declares: it may be cut short"
    return ""


def _decode_first(container: InputContainer, track: VideoStream | AudioStream, time_limit: TimeLimit) -> str:
    """Decode up to the first whole frame. Return a doubt if none is found soon.

    Raises:
        MediaError: The whole track has none.
    """
    what = "picture" if isinstance(track, VideoStream) else "sound"
    reason = ""
    for number, packet in enumerate(container.demux(track)):
        time_limit.check()
        if number >= _MAX_PACKETS:
            return f"none of its first {_MAX_PACKETS} packets holds a whole {what}"
        try:
            frames = packet.decode()
        except _UNKNOWABLE:
            raise
        except FFmpegError as error:  # the first frames of a trimmed video may depend on earlier ones
            reason = f" ({reason_of(error)})"
            continue
        if any(isinstance(frame, VideoFrame | AudioFrame) and not frame.is_corrupt for frame in frames):
            return ""
    raise MediaError(f"it is damaged: no {what} can be decoded{reason}")


def _open(file: VideoFile, demuxer: str, problem: str) -> InputContainer:
    try:
        return open_container(file, demuxer)
    except _UNKNOWABLE:
        raise
    except FFmpegError as error:
        raise MediaError(f"{problem} ({reason_of(error)})") from None


def _check_index(track: VideoStream, size: int) -> None:
    if is_index_truncated(track, size):
        raise MediaError("it is cut short: frames in its index are missing")
