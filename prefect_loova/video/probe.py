"""Checks that a reference medium can be decoded, before a video is paid for (PyAV).

A medium that is certainly broken is an error. Where this is unknown, for example for a codec that PyAV's FFmpeg lacks,
the result is a doubt to warn about: Loova may accept the medium. The file comes from outside, so what is read, decoded
and kept is bounded. It blocks: call it with `asyncio.to_thread`.
"""

from __future__ import annotations

import io
from dataclasses import replace
from itertools import pairwise
from statistics import median

from av import AudioFrame, AudioStream, VideoFrame, VideoStream
from av import time_base as ticks_per_second
from av.container import InputContainer
from av.error import ArgumentError, FFmpegError, MemoryError, NotImplementedError, PatchWelcomeError
from av.stream import Disposition

from prefect_loova.models.media import Kind, MediaError
from prefect_loova.models.media_facts import MediaFacts
from prefect_loova.models.media_types import CONVERTIBLE
from prefect_loova.video.decoder import (
    AUDIO_CODECS,
    AUDIO_DEMUXERS,
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
from prefect_loova.video.image_headers import SIDEWAYS, header_size, orientation
from prefect_loova.video.images import RotationFilters, rotation_filters, swaps_axes
from prefect_loova.video.pictures import ANIMATION, DECODERS, STRICT, first_picture, image_traits, one_image
from prefect_loova.video.truncation import is_truncated

# FFmpeg decodes all images of these types, except animated WebP. It lacks some kinds of BMP and TIFF.
_COMPLETE = frozenset({"image/png", "image/jpeg", "image/webp", "image/gif"})
_LENIENT = frozenset({"image/png", "image/gif", "image/bmp", "image/webp"})  # FFmpeg ignores a missing end
_MAX_PACKETS = 300
_ODD_SOUND = {"opus": "Opus", "libopus": "Opus", "alac": "ALAC"}
_JITTER = 0.2  # by which part of the usual time frames of a constant rate may come early or late

# Errors of FFmpeg that do not show that a medium is broken.
_UNKNOWABLE = (ArgumentError, MemoryError, NotImplementedError, PatchWelcomeError)


def probe(file: VideoFile, kind: Kind, media_type: str, *, max_seconds: float = 20.0) -> MediaFacts:
    """Decode a medium to check and measure it: an image completely, a video or audio up to its first whole frame.

    Args:
        file: The medium, seekable.
        kind: The kind of medium that the request declares.
        media_type: The media type by its first bytes, of this kind.
        max_seconds: The most seconds that this may take, without the time for one picture or one frame of audio.

    Returns:
        What was measured, with a doubt to warn about if something could not be checked.

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
        return MediaFacts(f"it could not be checked: {error}")
    except _UNKNOWABLE as error:
        return MediaFacts(f"it cannot be checked here ({reason_of(error)})")
    except FFmpegError as error:
        raise MediaError(f"it is damaged: it cannot be read ({reason_of(error)})") from None


def probe_head(head: bytes, media_type: str) -> MediaFacts:
    """Measure an image from its first bytes.

    Args:
        head: The first bytes of an image, or all of it.
        media_type: The media type by its first bytes.
    """
    size = header_size(head, media_type)
    if size and orientation(head, media_type) >= SIDEWAYS:
        size = size[::-1]
    return MediaFacts(traits=image_traits(head, media_type, None), size=size)


def _probe_image(content: bytes, media_type: str) -> MediaFacts:
    if media_type not in DECODERS and media_type not in CONVERTIBLE:
        return MediaFacts(f"{media_type} cannot be checked here")
    is_jpeg = media_type == "image/jpeg"
    with one_image:
        problem, facts = _decode_image(content, media_type, STRICT if is_jpeg else {})
    if (problem or media_type in _LENIENT) and is_truncated(media_type, content):
        raise MediaError("it is cut short: its picture does not end")
    if not problem or ANIMATION in facts.traits:
        return facts
    if is_jpeg:
        with one_image:
            lenient_problem, facts = _decode_image(content, media_type, {})
        if not lenient_problem:
            return replace(facts, doubt=f"it is decoded with errors ({problem})")
    if media_type in _COMPLETE:
        raise MediaError(f"it is damaged: its picture cannot be decoded ({problem})")
    return replace(facts, doubt=f"it cannot be checked here ({problem})")


def _decode_image(content: bytes, media_type: str, options: dict[str, str]) -> tuple[str, MediaFacts]:
    """Return why the first picture of an image cannot be decoded (empty if it can), and what was measured."""
    picture, problem = None, ""
    try:
        picture = first_picture(content, media_type, options)
        problem = "" if picture else "no picture"
    except (DecodeError, *_UNKNOWABLE) as error:
        doubt = f"it cannot be checked here ({reason_of(error)})"
        return "", replace(probe_head(content, media_type), doubt=doubt)
    except FFmpegError as error:
        problem = reason_of(error)
    return problem, MediaFacts(traits=image_traits(content, media_type, picture), size=picture and picture.size)


def _probe_video(file: VideoFile, time_limit: TimeLimit) -> MediaFacts:
    size = file.seek(0, io.SEEK_END)
    with _open(file, "mp4", "it is not an mp4 or mov, or its index is missing") as container:
        track = next((one for one in container.streams.video if not one.disposition & Disposition.attached_pic), None)
        if track is None:
            if container.streams.audio:
                raise MediaError("it has sound but no picture: it is not a video")
            raise MediaError("it has no picture, or its index is missing: it is cut short, or not a video")
        _check_index(track, size)
        traits = (*_frame_rate_traits(track), *_sound_traits(container))
        facts = MediaFacts(traits=traits, seconds=_seconds(container, track))
        decoder = track.codec_context
        if decoder is None or decoder.name not in CODECS:
            return replace(facts, doubt=unsupported_codec("video", decoder))
        if is_too_large(decoder.width, decoder.height):
            pixels = f"{decoder.width:,} x {decoder.height:,} pixels"
            return replace(facts, doubt=f"its picture is {pixels}, which is too large to check here")
        decoder.options = {"max_pixels": str(MAX_PIXELS)}
        doubt, frame = _decode_first(container, track, time_limit)
        _check_index(track, size)
        if not isinstance(frame, VideoFrame):
            return replace(facts, doubt=doubt)
        rotation = _rotation_of(frame)
        if rotation:
            facts = replace(facts, traits=(*facts.traits, "its metadata rotates or mirrors it"))
        wide, high = round(frame.width * (track.sample_aspect_ratio or 1)), frame.height
        return replace(facts, size=(high, wide) if swaps_axes(rotation) else (wide, high))


def _probe_audio(file: VideoFile, media_type: str, time_limit: TimeLimit) -> MediaFacts:
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(8) or b""
    demuxer = AUDIO_DEMUXERS.get(media_type, "mp3")
    with _open(file, demuxer, f"it cannot be read as {demuxer}") as container:
        if not container.streams.audio:
            raise MediaError("it has no sound: it is not audio")
        track = container.streams.audio[0]
        decoder = track.codec_context
        codec = _ODD_SOUND.get(decoder.name, decoder.name) if decoder else "unknown"
        traits = (f"it is {media_type} ({codec})",) if media_type in CONVERTIBLE else ()
        facts = MediaFacts(traits=traits, seconds=_seconds(container, track))
        if decoder is None or not (decoder.name.startswith("pcm_") or decoder.name in AUDIO_CODECS):
            return replace(facts, doubt=unsupported_codec("audio", decoder))
        doubt, _ = _decode_first(container, track, time_limit)
        if doubt:
            return replace(facts, doubt=doubt)
    declared = int.from_bytes(head[4:8], "little") + 8
    if head[:4] == b"RIFF" and size < declared < 2**31:
        doubt = f"it has {size:,} of the {declared:,} bytes that it declares: it may be cut short"
        return replace(facts, doubt=doubt)
    return facts


def _seconds(container: InputContainer, track: VideoStream | AudioStream) -> float | None:
    """Return the length of a track by its own account, or by that of its container."""
    if track.duration and track.time_base:
        return float(track.duration * track.time_base)
    return container.duration / ticks_per_second if container.duration else None


def _frame_rate_traits(track: VideoStream) -> tuple[str, ...]:
    times = [entry.timestamp for entry in track.index_entries]
    steps = [later - earlier for earlier, later in pairwise(times)]
    usual = median(steps) if steps else 0
    varies = any(abs(step - usual) > max(1, _JITTER * usual) for step in steps)
    return ("its frame rate varies",) if varies else ()


def _sound_traits(container: InputContainer) -> tuple[str, ...]:
    decoders = [track.codec_context for track in container.streams.audio]
    names = dict.fromkeys(_ODD_SOUND[one.name] for one in decoders if one is not None and one.name in _ODD_SOUND)
    return tuple(f"its sound is {name}" for name in names)


def _rotation_of(frame: VideoFrame) -> RotationFilters:
    try:
        return rotation_filters(frame)
    except ValueError:  # PyAV does not know the type of some side data
        return ()


def _decode_first(
    container: InputContainer, track: VideoStream | AudioStream, time_limit: TimeLimit
) -> tuple[str, VideoFrame | AudioFrame | None]:
    """Decode up to the first whole frame, and return it. Return a doubt instead if none is found soon.

    Raises:
        MediaError: The whole track has none.
    """
    what = "picture" if isinstance(track, VideoStream) else "sound"
    reason = ""
    for number, packet in enumerate(container.demux(track)):
        time_limit.check()
        if number >= _MAX_PACKETS:
            return f"none of its first {_MAX_PACKETS} packets holds a whole {what}", None
        try:
            frames = packet.decode()
        except _UNKNOWABLE:
            raise
        except FFmpegError as error:  # the first frames of a trimmed video may depend on earlier ones
            reason = f" ({reason_of(error)})"
            continue
        for frame in frames:
            if isinstance(frame, VideoFrame | AudioFrame) and not frame.is_corrupt:
                return "", frame
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
