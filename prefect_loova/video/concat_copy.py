"""Films of one make joined packet by packet: nothing is decoded, and every picture stays as it was (PyAV)."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from fractions import Fraction
from math import lcm
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from av import AudioStream, Packet, VideoStream

from prefect_loova.video.concat_output import close, new_mp4, write
from prefect_loova.video.concat_traits import Traits
from prefect_loova.video.decoder import VideoReader

_MOST_TICKS = 1_000_000
_FINE_TICKS = 240_000  # the usual frame rates are whole numbers of these; what is not is rounded, and does not add up


class CannotCopyError(Exception):
    """These films have to be encoded anew; the message says why."""


class CopyJoin:
    """A film in the making; `add` one after the other, inside a `with`.

    Args:
        path: Where to write.
        first: The first film, opened: what the tracks are made after.
        traits: Of all films; `picture` and `sound` are the same in all.

    Attributes:
        seconds: How long it is by now.

    Raises:
        CannotCopyError: They cannot be copied.
    """

    def __init__(self, path: Path, first: VideoReader, traits: Sequence[Traits]) -> None:
        sound = first.sound()
        if sound is not None and sound.codec_context.name != "aac":
            raise CannotCopyError("the sound is no AAC")
        self._units = _ParameterSets(first.track.codec_context.name, first.track.codec_context.extradata or b"")
        ticks = lcm(*(one.tick.denominator for one in traits))
        if ticks > _MOST_TICKS:
            ticks = _FINE_TICKS
        output = new_mp4(path, video_track_timescale=str(ticks))
        self._output = output
        self._pictures: VideoStream = output.add_stream_from_template(first.track)
        self._pictures.time_base = self._tick = Fraction(1, ticks)
        if first.track.codec_context.name == "hevc":
            self._pictures.codec_context.codec_tag = "hvc1"  # Apple's players take no other
        self._sound: AudioStream | None = output.add_stream_from_template(sound) if sound else None
        self._decoded_at: int | None = None
        self._heard: int | None = None
        self._packet = 0
        self.seconds = Fraction(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError) if error else nullcontext():
            close(self._output)

    def add(self, film: VideoReader) -> None:
        """Copy a film behind those before it.

        Raises:
            FilmError: It is cut short, or the time is up.
            CannotCopyError: Its packets cannot follow others.
        """
        sound = film.sound()
        tracks = [film.track, sound] if sound else [film.track]
        latest = end = film.start
        is_first = True
        for packet in film.container.demux(*tracks):
            film.deadline.check()
            if packet.dts is None or packet.pts is None:
                if packet.size:
                    raise CannotCopyError("a packet has no time")
            elif packet.stream is not film.track:
                self._add_sound(packet, film)
            else:
                if is_first and packet.pts != film.start:
                    raise CannotCopyError("the first frame is not the first packet")
                latest = max(latest, packet.pts)
                end = max(end, packet.pts + (packet.duration or 0))
                self._add_picture(packet, film, is_first=is_first)
                is_first = False
        film.check_index()
        film.check_end(end)
        lasts = film.lasts(end)
        if (latest - film.start) * film.tick >= lasts:
            raise CannotCopyError("frames come after its end")
        self.seconds += lasts

    def _add_picture(self, packet: Packet[Any], film: VideoReader, *, is_first: bool) -> None:
        assert packet.pts is not None and packet.dts is not None  # noqa: S101
        if packet.is_discard or packet.pts < film.start:
            raise CannotCopyError("not all of its frames are shown")
        if packet.has_sidedata("new_extradata"):
            raise CannotCopyError("its parameter sets change")
        self._units.check(bytes(packet), is_first=is_first)
        offset = self.seconds / self._tick - film.start * film.tick / self._tick
        scale = film.tick / self._tick
        shown_at = round(packet.pts * scale + offset)
        decoded_at = round(packet.dts * scale + offset)
        # A film that is reordered more than the one before it begins to be decoded before that one ends.
        if self._decoded_at is not None:
            decoded_at = max(decoded_at, self._decoded_at + 1)
        if decoded_at > shown_at:
            raise CannotCopyError("its frames cannot be decoded in time")
        self._decoded_at = decoded_at
        duration = round((packet.duration or 0) * scale)
        self._write(packet, self._pictures, shown_at, decoded_at, duration, self._tick)

    def _add_sound(self, packet: Packet[Any], film: VideoReader) -> None:
        """Sound stays within half a packet of its picture, and has no gap as long as there is sound."""
        assert packet.pts is not None and self._sound is not None  # noqa: S101
        if not packet.duration:
            raise CannotCopyError("sound of no length")
        tick = packet.time_base
        # The last packet of a film says less than it has, and is played whole when others follow.
        self._packet = max(self._packet, packet.duration)
        half = Fraction(self._packet, 2)
        due = packet.pts + (self.seconds - film.start * film.tick) / tick
        # The one packet before the beginning is what a decoder needs to begin with.
        earliest = self.seconds / tick - self._packet if self._heard is None else self._heard
        if due + half < earliest:
            return
        at = self._heard if self._heard is not None and due <= self._heard + half else round(due)
        if at + half > (self.seconds + film.seconds) / tick:
            return
        self._heard = at + self._packet
        self._write(packet, self._sound, at, at, self._packet, tick)

    def _write(
        self,
        packet: Packet[Any],
        stream: VideoStream | AudioStream,
        pts: int,
        dts: int,
        duration: int,
        tick: Fraction,
    ) -> None:
        packet.stream = stream
        packet.pts, packet.dts, packet.duration, packet.time_base = pts, dts, duration, tick
        write(self._output, packet)


class _ParameterSets:
    """What the packets of a film may bring of their own: nothing but what all films have in front."""

    def __init__(self, codec: str, extradata: bytes) -> None:
        if extradata[:1] != b"\1" or codec not in ("h264", "hevc"):
            raise CannotCopyError("the parameter sets are not in front")
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
        self._kinds = {7, 8} if codec == "h264" else {32, 33, 34}
        self._fresh = {5} if codec == "h264" else {19, 20}

    def check(self, packet: bytes, *, is_first: bool) -> None:
        """Look at the units of a packet; a film's first one has to need nothing that came before."""
        at, fresh = 0, False
        while at + self._length < len(packet):
            size = int.from_bytes(packet[at : at + self._length], "big")
            at += self._length
            kind = packet[at] >> self._shift & self._mask
            if kind in self._kinds and packet[at : at + size] not in self._known:
                raise CannotCopyError("it has parameter sets between its frames")
            fresh = fresh or kind in self._fresh
            at += size
        if is_first and not fresh:
            raise CannotCopyError("it does not begin afresh")


def _avc_sets(extradata: bytes) -> set[bytes]:
    """The parameter sets of an `avcC`."""
    found, at = set(), 5
    for mask in (31, 255):
        count = extradata[at] & mask
        at += 1
        for _ in range(count):
            (size,) = struct.unpack_from(">H", extradata, at)
            found.add(extradata[at + 2 : at + 2 + size])
            at += 2 + size
    return found


def _hevc_sets(extradata: bytes) -> set[bytes]:
    """The parameter sets of an `hvcC`."""
    found, at = set(), 23
    for _ in range(extradata[22]):
        (count,) = struct.unpack_from(">H", extradata, at + 1)
        at += 3
        for _ in range(count):
            (size,) = struct.unpack_from(">H", extradata, at)
            found.add(extradata[at + 2 : at + 2 + size])
            at += 2 + size
    return found
