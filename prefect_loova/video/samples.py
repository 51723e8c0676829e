"""Decodes the frames of a video that are shown at given times, and as little else as it can (PyAV).

The packets of a video say when its frames are shown before anything is decoded. A frame depends only on frames since
the last keyframe, and on none that its encoder marked as no reference for others. The rest is not decoded, and the
pictures are the same to the bit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from av import Packet, VideoFrame

from prefect_loova.video.decoder import DecodeError, VideoReader, pts_of

MAX_DECODED = 1800
"""A video with more frames than this is sampled at the keyframes before the times, not at the exact times."""

_MAX_HELD_BYTES = 16 * 1024**2  # in 15 s of 1080p, 1 to 2 MiB lie between two of 27 samples


def frames_at(reader: VideoReader, times: Sequence[int]) -> Iterator[VideoFrame]:
    """Yield the frame that is shown at each time, and decode only what these frames depend on.

    Args:
        reader: A video that was just opened.
        times: Times in order, in ticks of the track. The same frame may be shown at several.

    Raises:
        DecodeError: A frame is damaged or missing, or the packets are not as the index says. `frames_at_decoding_all`
            is less strict.
    """
    reader.check_index()
    due: deque[int] = deque()  # of each wanted frame: when it starts
    starts: deque[int] = deque()  # of each keyframe that decoding went on from: when it starts
    last: VideoFrame | None = None
    for frame in _decode(reader, _parts(reader, times), due, starts):
        reader.check_frame(frame)
        while last is not None and due and due[0] == pts_of(last):
            due.popleft()
            yield last
        if starts and starts[0] <= pts_of(frame) and (starts.popleft() != pts_of(frame) or not frame.key_frame):
            raise DecodeError("a frame that should be a keyframe is none")
        last = frame
    while last is not None and due and due[0] == pts_of(last):
        due.popleft()
        yield last
    if due:
        raise DecodeError("a frame is missing")


@dataclass(frozen=True)
class _Part:
    """Packets, in their order, up to that of one wanted frame.

    Attributes:
        shown: When the wanted frame starts.
        packets: What has to be decoded. Empty if the frame has been decoded before.
        is_after_gap: Whether packets before these are left out. Then the first one is a keyframe.
    """

    shown: int
    packets: list[Packet[Any]]
    is_after_gap: bool = False


def _decode(reader: VideoReader, parts: Iterator[_Part], due: deque[int], starts: deque[int]) -> Iterator[VideoFrame]:
    decoder = reader.track.codec_context
    for part in parts:
        due.append(part.shown)
        if part.is_after_gap:
            yield from decoder.decode(None)
            decoder.flush_buffers()
            starts.append(_pts(part.packets[0]))
        for packet in part.packets:
            is_shown = packet.is_keyframe or _pts(packet) == part.shown
            decoder.skip_frame = "DEFAULT" if is_shown else "NONREF"
            yield from decoder.decode(packet)
    yield from decoder.decode(None)


def _parts(reader: VideoReader, times: Sequence[int]) -> Iterator[_Part]:
    """Read packets until it is certain which frame is shown at a time: no frame is shown before its packet's DTS."""
    packets = _packets(reader)
    held: deque[Packet[Any]] = deque()  # read, and in no part yet
    ahead: set[int] = set()  # when the frames start that are in a part, and shown after the frame that it is for
    read_to = end = shown = reader.start - 1
    for time in times:
        while read_to <= time and (packet := next(packets, None)):
            held.append(packet)
            read_to, end = packet.dts or 0, max(end, _pts(packet) + (packet.duration or 0))
            if sum(one.size for one in held) > _MAX_HELD_BYTES:
                raise DecodeError("too many bytes lie between two frames")
        if read_to <= time and time > end:
            raise reader.truncated_error(end)
        in_held = [_pts(one) for one in held if not one.is_discard]
        newest = max((pts for pts in (*in_held, *ahead) if pts <= time), default=shown)
        if newest < reader.start:
            raise DecodeError("its first frame is shown late")
        part: list[Packet[Any]] = []
        if newest > shown and newest not in ahead:
            while not part or _pts(part[-1]) != newest:
                part.append(held.popleft())
        shown = max(newest, shown)
        needed = _since_keyframe(part, ahead, shown)
        ahead = {pts for pts in (*ahead, *map(_pts, needed)) if pts > time}
        yield _Part(shown, needed, is_after_gap=bool(needed) and needed[0] is not part[0])


def _since_keyframe(part: list[Packet[Any]], ahead: set[int], shown: int) -> list[Packet[Any]]:
    """Return the packets of a part that its wanted frame may depend on."""
    first = max((number for number, one in enumerate(part) if one.is_keyframe and _pts(one) <= shown), default=0)
    if not first:
        return part
    if max([*ahead, *map(_pts, part[:first])]) >= _pts(part[first]):
        raise DecodeError("a frame before a keyframe is shown after it")
    if any(one.has_sidedata("new_extradata") for one in part[:first]):
        raise DecodeError("its parameter sets change")
    return part[first:]


def _packets(reader: VideoReader) -> Iterator[Packet[Any]]:
    # Bounds the reading of a track that holds more frames than it declares.
    for packet in islice(reader.container.demux(reader.track), 2 * MAX_DECODED):
        reader.time_limit.check()
        if packet.size:
            yield packet
    reader.check_index()


def _pts(packet: Packet[Any]) -> int:
    if packet.pts is None or packet.dts is None:
        raise DecodeError("a packet has no timestamp")
    return packet.pts


def frames_at_decoding_all(reader: VideoReader, times: Sequence[int]) -> Iterator[VideoFrame]:
    """Yield the frame that is shown at each time. All frames up to the last one are decoded, whatever the packets say.

    Args:
        reader: A video that was just opened.
        times: Times in order, in ticks of the track.

    Raises:
        DecodeError: A frame is damaged, or the video is cut short.
    """
    pending = iter(times)
    due = next(pending, None)
    last: VideoFrame | None = None
    # Bounds the decoding of a track that holds more frames than it declares.
    for frame in islice(reader.container.decode(reader.track), 2 * MAX_DECODED):
        reader.check_frame(frame)
        while last is not None and due is not None and due < pts_of(frame):
            yield last
            due = next(pending, None)
        last = frame
        if due is None:
            return
    if last is None:
        raise DecodeError("it has no picture")
    end = pts_of(last) + (last.duration or 0)
    while due is not None:
        if due > end:
            raise reader.truncated_error(end)
        yield last
        due = next(pending, None)


def keyframes_before(reader: VideoReader, times: Sequence[int]) -> Iterator[VideoFrame]:
    """Yield the keyframe at or before each time. No other frame is decoded.

    Args:
        reader: An open video.
        times: Times in ticks of the track.

    Raises:
        DecodeError: A keyframe is damaged, or the video is cut short.
    """
    decoder = reader.track.codec_context
    last: tuple[int | None, VideoFrame] | None = None
    for moment in times:
        reader.container.seek(moment, stream=reader.track)
        for packet in reader.container.demux(reader.track):
            reader.time_limit.check()
            if packet.is_keyframe and packet.size:
                break
        else:
            raise DecodeError("it is cut short")
        if last is None or last[0] != packet.pts:
            frame = next(iter([*decoder.decode(packet), *decoder.decode(None)]), None)
            if frame is None:
                raise DecodeError("a keyframe contains no picture")
            reader.check_frame(frame)
            last = packet.pts, frame
        yield last[1]
