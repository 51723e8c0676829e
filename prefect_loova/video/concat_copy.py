"""Joins alike videos packet by packet (PyAV). Nothing is decoded, and every frame stays as it was."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from math import lcm
from typing import Any

from av import AudioStream, Packet, VideoStream

from prefect_loova.video.concat_output import Mp4Writer
from prefect_loova.video.concat_traits import Traits
from prefect_loova.video.decoder import VideoReader

_MAX_TIMESCALE = 1_000_000
_FALLBACK_TIMESCALE = 240_000  # a multiple of the usual frame rates; other times are rounded, without adding up


class CannotCopyError(Exception):
    """These videos have to be encoded. The message says why."""


def copy_timescale(traits: Sequence[Traits]) -> int:
    """Return the ticks per second of a video track that fits all videos."""
    timescale = lcm(*(one.tick.denominator for one in traits))
    return timescale if timescale <= _MAX_TIMESCALE else _FALLBACK_TIMESCALE


class CopyConcat:
    """Appends videos to an output by copying.

    Args:
        output: The output, opened with the timescale of `copy_timescale`.
        first: The first video. The tracks of the output get its parameters.
        traits: The traits of all videos. `picture` and `sound` are the same in all.

    Attributes:
        seconds: The length of the output so far.

    Raises:
        CannotCopyError: The videos cannot be copied.
    """

    def __init__(self, output: Mp4Writer, first: VideoReader, traits: Sequence[Traits]) -> None:
        sound = first.sound()
        if sound is not None and sound.codec_context.name != "aac":
            raise CannotCopyError("the sound is not AAC")
        codec = first.track.codec_context
        self._parameter_sets = _ParameterSets(codec.name, codec.extradata or b"")
        self._output = output
        self._pictures: VideoStream = output.container.add_stream_from_template(first.track)
        self._pictures.time_base = self._tick = Fraction(1, copy_timescale(traits))
        if codec.name == "hevc":
            self._pictures.codec_context.codec_tag = "hvc1"  # Apple's players accept no other tag
        self._sound: AudioStream | None = output.container.add_stream_from_template(sound) if sound else None
        self._last_dts: int | None = None
        self._sound_end: int | None = None
        self._packet_ticks = 0
        self.seconds = Fraction(0)

    def add(self, video: VideoReader) -> None:
        """Copy a video to the end of the output.

        Raises:
            DecodeError: The video is cut short, or the time is up.
            CannotCopyError: Its packets cannot follow those of the others.
        """
        sound = video.sound()
        tracks = [video.track, sound] if sound else [video.track]
        last_pts = end = video.start
        is_first = True
        for packet in video.container.demux(*tracks):
            video.time_limit.check()
            if packet.dts is None or packet.pts is None:
                if packet.size:
                    raise CannotCopyError("a packet has no timestamp")
            elif packet.stream is not video.track:
                self._add_sound(packet, video)
            else:
                if is_first and packet.pts != video.start:
                    raise CannotCopyError("the first frame is not in the first packet")
                last_pts = max(last_pts, packet.pts)
                end = max(end, packet.pts + (packet.duration or 0))
                self._add_picture(packet, video, is_first=is_first)
                is_first = False
        video.check_index()
        video.check_end(end)
        seconds = video.exact_seconds(end)
        if (last_pts - video.start) * video.tick >= seconds:
            raise CannotCopyError("frames come after the end")
        self.seconds += seconds

    def _add_picture(self, packet: Packet[Any], video: VideoReader, *, is_first: bool) -> None:
        assert packet.pts is not None and packet.dts is not None  # noqa: S101
        if packet.is_discard or packet.pts < video.start:
            raise CannotCopyError("not all frames are shown")
        if packet.has_sidedata("new_extradata"):
            raise CannotCopyError("the parameter sets change")
        self._parameter_sets.check(bytes(packet), is_first=is_first)
        offset = self.seconds / self._tick - video.start * video.tick / self._tick
        scale = video.tick / self._tick
        pts = round(packet.pts * scale + offset)
        dts = round(packet.dts * scale + offset)
        # With more reordering than in the video before, decoding would start before that video ends.
        if self._last_dts is not None:
            dts = max(dts, self._last_dts + 1)
        if dts > pts:
            raise CannotCopyError("the frames cannot be decoded in time")
        self._last_dts = dts
        packet.pts, packet.dts, packet.duration = pts, dts, round((packet.duration or 0) * scale)
        packet.stream, packet.time_base = self._pictures, self._tick
        self._output.write(packet)

    def _add_sound(self, packet: Packet[Any], video: VideoReader) -> None:
        """Add a packet of sound, at most half a packet away from its picture, and without a gap to the one before."""
        assert packet.pts is not None and self._sound is not None  # noqa: S101
        if not packet.duration:
            raise CannotCopyError("a packet of sound has no duration")
        tick = packet.time_base
        # The last packet of a video may claim less than it holds. It is played whole if others follow.
        self._packet_ticks = max(self._packet_ticks, packet.duration)
        half = Fraction(self._packet_ticks, 2)
        due = packet.pts + (self.seconds - video.start * video.tick) / tick
        # One packet before the start is kept: a decoder needs it to start.
        earliest = self.seconds / tick - self._packet_ticks if self._sound_end is None else self._sound_end
        if due + half < earliest:
            return
        start = self._sound_end if self._sound_end is not None and due <= self._sound_end + half else round(due)
        if start + half > (self.seconds + video.seconds) / tick:
            return
        self._sound_end = start + self._packet_ticks
        packet.pts, packet.dts, packet.duration = start, start, self._packet_ticks
        packet.stream = self._sound
        self._output.write(packet)


class _ParameterSets:
    """Checks that packets contain no parameter sets other than those in the header, which all videos share."""

    def __init__(self, codec: str, extradata: bytes) -> None:
        if extradata[:1] != b"\1" or codec not in ("h264", "hevc"):
            raise CannotCopyError("the parameter sets are not in the header")
        try:
            if codec == "h264":
                self._length = (extradata[4] & 3) + 1
                self._known = _avc_sets(extradata)
            else:
                self._length = (extradata[21] & 3) + 1
                self._known = _hevc_sets(extradata)
        except (IndexError, struct.error):
            raise CannotCopyError("the parameter sets cannot be read") from None
        self._shift, self._mask = (0, 31) if codec == "h264" else (1, 63)
        self._set_types = {7, 8} if codec == "h264" else {32, 33, 34}
        self._idr_types = {5} if codec == "h264" else {19, 20}

    def check(self, packet: bytes, *, is_first: bool) -> None:
        """Check the NAL units of a packet. The first packet of a video must not depend on earlier ones."""
        at, has_idr = 0, False
        while at + self._length < len(packet):
            size = int.from_bytes(packet[at : at + self._length], "big")
            at += self._length
            unit_type = packet[at] >> self._shift & self._mask
            if unit_type in self._set_types and packet[at : at + size] not in self._known:
                raise CannotCopyError("there are other parameter sets between the frames")
            has_idr = has_idr or unit_type in self._idr_types
            at += size
        if is_first and not has_idr:
            raise CannotCopyError("the first frame depends on earlier ones")


def _avc_sets(extradata: bytes) -> set[bytes]:
    """Return the parameter sets of an `avcC` box."""
    sets, at = set[bytes](), 5
    for mask in (31, 255):
        at = _read_sets(extradata, at + 1, extradata[at] & mask, sets)
    return sets


def _hevc_sets(extradata: bytes) -> set[bytes]:
    """Return the parameter sets of an `hvcC` box."""
    sets, at = set[bytes](), 23
    for _ in range(extradata[22]):
        (count,) = struct.unpack_from(">H", extradata, at + 1)
        at = _read_sets(extradata, at + 3, count, sets)
    return sets


def _read_sets(extradata: bytes, at: int, count: int, sets: set[bytes]) -> int:
    """Add `count` parameter sets, each after its size. Return the offset behind them."""
    for _ in range(count):
        (size,) = struct.unpack_from(">H", extradata, at)
        sets.add(extradata[at + 2 : at + 2 + size])
        at += 2 + size
    return at
