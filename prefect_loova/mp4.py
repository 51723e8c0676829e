"""Is this a whole mp4? A check of the structure (ISO/IEC 14496-12) that reads a file once, in chunks of any size.

Nothing is decoded. The boxes of the file must join without a gap up to its very end, and the index (`moov`, at either
end, or the fragments' `moof`) must lead to media data that is there. So a file that lost its end is never whole, and
neither is an HTML page. The libraries for this (pymp4, pymediainfo, PyAV) want the file whole, on disk or in memory.
"""

from __future__ import annotations

import struct
import sys
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from prefect_loova.errors import NotWholeVideoError

MAX_INDEX = 16 * 1024**2
"""The largest `moov` or `moof` that is read, in bytes: enough for hours of video."""

MAX_BOXES = 100_000
"""The most boxes that a file may have at its top level."""

# ISO says that ftyp comes before everything of variable size; some muxers leave room in front of it.
_BEFORE_FTYP = frozenset({b"free", b"skip", b"wide"})
# They stand inside moov, moof or mfra: at the top they show that a size before them is wrong.
_INNER = frozenset(
    b"mvhd trak mvex trex tkhd edts mdia mdhd hdlr minf stbl stsd stts stsc stsz stco co64 mfhd traf tfhd tfdt trun "
    b"tfra mfro".split()
)
_WIDE = b"\0\0\0\1"  # in place of a size: a size of 64 bits follows


@dataclass(frozen=True)
class Mp4Facts:
    """What the index of a whole mp4 says.

    Attributes:
        size_bytes: The file's size.
        duration_seconds: The length of the picture's track.
        width: Of the coded picture, in pixels, before a rotation.
        height: Of the coded picture, in pixels, before a rotation.
        is_turned: Whether a player turns the picture by a quarter, so that width and height change places.
        fragmented: Whether the media stand in fragments (`moof`) rather than under one index.
    """

    size_bytes: int
    duration_seconds: float
    width: int
    height: int
    fragmented: bool
    is_turned: bool = False


class Mp4Check:
    """Walks the boxes of one file while it passes by; keeps no more than its index in memory."""

    def __init__(self) -> None:
        self._position = 0
        self._header = bytearray()
        self._kind: bytes | None = None
        self._start = self._payload = 0
        self._end: int | None = 0
        self._kept: bytearray | None = None
        self._boxes = 0
        self._last = b""
        self._has_ftyp = False
        self._movie: _Movie | None = None
        self._media: list[tuple[int, int]] = []
        self._open_fragment: int | None = None

    def feed(self, chunk: bytes | bytearray | memoryview) -> None:
        """Take the next bytes of the file.

        Raises:
            NotWholeVideoError: They cannot be part of a whole mp4.
        """
        view = memoryview(chunk)
        while view:
            view = self._take_header(view) if self._kind is None else self._take_payload(view)

    def finish(self, length_is_known: bool = False) -> Mp4Facts:
        """Tell what the file is, after its last byte.

        Args:
            length_is_known: Whether the file is known to be as long as it should be. Without that, fragments must end
                with their own index (`mfra`), because a file cut between two fragments is a whole mp4 by itself.

        Raises:
            NotWholeVideoError: Something is missing; the message says what, and at which byte.
        """
        if self._kind is not None and self._end is None:
            self._close()
        if self._position == 0:
            raise _not_whole("the file is empty")
        if self._kind is not None:
            raise _not_whole(
                f"the {_name(self._kind)} box at byte {self._start} should end at byte {self._end}, "
                f"but the file ends at byte {self._position}"
            )
        if self._header:
            raise _not_whole(f"a box header is cut short at byte {self._position}, the end of the file")
        if self._movie is None:
            raise _not_whole(f"no moov box (the index) up to byte {self._position}, the end of the file")
        if not self._media:
            raise _not_whole(f"no media data (mdat) up to byte {self._position}, the end of the file")
        if self._open_fragment is not None:
            raise _not_whole(f"the fragment at byte {self._open_fragment} has no media data")
        if self._movie.may_have_fragments and not length_is_known and self._last != b"mfra":
            raise _not_whole(f"nothing shows that byte {self._position} is the end: no mfra box behind the fragments")
        self._movie.check_chunks(self._media)
        track = self._movie.video
        return Mp4Facts(
            self._position,
            self._movie.duration_seconds,
            track.width,
            track.height,
            self._movie.fragments > 0,
            track.is_turned,
        )

    def _take_header(self, view: memoryview) -> memoryview:
        length = 16 if self._header[:4] == _WIDE else 8
        taken = view[: length - len(self._header)]
        self._header += taken
        self._position += len(taken)
        if len(self._header) == length and (length == 16 or self._header[:4] != _WIDE):
            size, kind = struct.unpack_from(">I4s", self._header)
            if length == 16:
                (size,) = struct.unpack_from(">Q", self._header, 8)
            self._header.clear()
            self._open(kind, size, length)
        return view[len(taken) :]

    def _open(self, kind: bytes, size: int, header: int) -> None:
        start = self._position - header
        if kind in _INNER or not all(0x20 <= byte < 0x7F or byte == 0xA9 for byte in kind):
            raise _not_whole(f"no mp4 box at byte {start}")
        if 0 < size < header or (size == 0 and header == 16):
            raise _not_whole(f"the {_name(kind)} box at byte {start} has the impossible size {size}")
        self._check_order(kind, start)
        self._boxes += 1
        if self._boxes > MAX_BOXES:
            raise _not_whole(f"more than {MAX_BOXES} boxes, at byte {start}")
        self._kind, self._start, self._payload = kind, start, self._position
        self._end = start + size if size else None
        self._kept = bytearray() if kind in (b"moov", b"moof") else None
        if self._kept is not None and size - header > MAX_INDEX:
            raise _not_whole(f"the {_name(kind)} box at byte {start} is larger than {MAX_INDEX} bytes")
        if self._end == self._position:
            self._close()

    def _check_order(self, kind: bytes, start: int) -> None:
        if not self._has_ftyp and kind != b"ftyp" and kind not in _BEFORE_FTYP:
            raise _not_whole(f"it does not begin as an mp4: no ftyp box before byte {start}")
        if kind == b"moov" and self._movie is not None:
            raise _not_whole(f"a second moov box at byte {start}")
        if kind == b"moof" and (self._movie is None or not self._movie.may_have_fragments):
            raise _not_whole(f"a fragment at byte {start} that no moov box announces")
        if kind == b"moof" and self._open_fragment is not None:
            raise _not_whole(f"the fragment at byte {self._open_fragment} has no media data")

    def _take_payload(self, view: memoryview) -> memoryview:
        taken = view if self._end is None else view[: self._end - self._position]
        self._position += len(taken)
        if self._kept is not None:
            self._kept += taken
            if len(self._kept) > MAX_INDEX:
                raise _not_whole(f"the {_name(self._kind)} box at byte {self._start} is larger than {MAX_INDEX} bytes")
        if self._position == self._end:
            self._close()
        return view[len(taken) :]

    def _close(self) -> None:
        kind, kept = self._kind, self._kept
        self._kind, self._kept, self._last = None, None, kind or b""
        self._has_ftyp = self._has_ftyp or kind == b"ftyp"
        try:
            if kind == b"mdat" and self._position > self._payload:
                self._media.append((self._payload, self._position))
                self._open_fragment = None
            elif kind == b"moov" and kept is not None:
                self._movie = _Movie.read(memoryview(kept))
            elif kind == b"moof" and kept is not None and self._movie is not None:
                self._movie.add_fragment(memoryview(kept))
                self._open_fragment = self._start
        except (struct.error, ValueError, IndexError) as error:
            raise _not_whole(f"the {_name(kind)} box at byte {self._start} is broken ({error})") from None


@dataclass
class _Track:
    """One `trak` box: how its samples lie in the file."""

    track_id: int
    timescale: int
    duration: int
    width: int
    height: int
    offsets: array[int]
    sizes: array[int]
    constant_size: int
    runs: array[int]
    is_turned: bool = False

    @classmethod
    def read(cls, data: memoryview) -> _Track:
        trak = _children(data)
        mdia = _children(_one(trak, "mdia"))
        stbl = _children(_one(_children(_one(mdia, "minf")), "stbl"))
        tkhd = _one(trak, "tkhd")
        (track_id,) = struct.unpack_from(">I", tkhd, 20 if tkhd[0] else 12)
        timescale, duration = _times(_one(mdia, "mdhd"))
        width = height = 0
        if bytes(_one(mdia, "hdlr")[8:12]) == b"vide":
            width, height = struct.unpack_from(">HH", _one(stbl, "stsd"), 40)
        wide = "co64" in stbl
        offsets = _table(_one(stbl, "co64" if wide else "stco"), 4, "Q" if wide else "I")
        constant, sizes = 0, array("I")
        if "stsz" in stbl:
            (constant,) = struct.unpack_from(">I", stbl["stsz"][0], 4)
            sizes = sizes if constant else _table(stbl["stsz"][0], 8, "I")
        elif "stz2" not in stbl:
            raise ValueError("no stsz box")
        runs = _table(_one(stbl, "stsc"), 4, "I", width=3)
        if (len(offsets) and (not runs or runs[0] != 1)) or any(first >= after for first, after in pairwise(runs[::3])):
            raise ValueError("the stsc table is out of order")
        return cls(track_id, timescale, duration, width, height, offsets, sizes, constant, runs, _is_turned(tkhd))

    def chunks(self) -> Iterator[tuple[int, int]]:
        """Where each chunk of samples begins, and its size in bytes (at least: stz2's sizes are not read)."""
        sample = 0
        firsts = self.runs[::3]
        firsts.append(len(self.offsets) + 1)
        for (first, after), count in zip(pairwise(firsts), self.runs[1::3], strict=True):
            for offset in self.offsets[first - 1 : after - 1]:
                yield offset, self.constant_size * count or sum(self.sizes[sample : sample + count])
                sample += count


@dataclass
class _Movie:
    """A `moov` box, and what the fragments after it add."""

    duration_seconds: float
    video: _Track
    tracks: list[_Track]
    may_have_fragments: bool
    default_durations: dict[int, int]
    ticks: int
    fragments: int = 0

    @classmethod
    def read(cls, data: memoryview) -> _Movie:
        moov = _children(data)
        tracks = [_Track.read(trak) for trak in moov.get("trak", [])]
        video = next((track for track in tracks if track.width and track.height), None)
        if video is None:
            raise ValueError("no video track")
        timescale, duration = _times(_one(moov, "mvhd"))
        if video.duration:
            timescale, duration = video.timescale, video.duration
        trexes = _children(moov["mvex"][0]).get("trex", []) if "mvex" in moov else []
        defaults = dict(struct.unpack_from(">I4xI", trex, 4) for trex in trexes)
        indexed = video.duration if video.offsets else 0
        return cls(duration / timescale, video, tracks, "mvex" in moov, defaults, indexed)

    def add_fragment(self, data: memoryview) -> None:
        """Count the length of one `moof` box's video."""
        for traf in map(_children, _children(data).get("traf", [])):
            tfhd = _one(traf, "tfhd")
            flags, track_id = struct.unpack_from(">II", tfhd)
            default = self.default_durations.get(track_id, 0)
            if flags & 0x8:
                (default,) = struct.unpack_from(">I", tfhd, 8 + 8 * bool(flags & 0x1) + 4 * bool(flags & 0x2))
            if track_id == self.video.track_id:
                begin = self.ticks
                if "tfdt" in traf:
                    tfdt = traf["tfdt"][0]
                    (begin,) = struct.unpack_from(">Q" if tfdt[0] else ">I", tfdt, 4)
                length = sum(_run_length(trun, default) for trun in traf.get("trun", []))
                self.ticks = max(self.ticks, begin + length)
        self.fragments += 1
        self.duration_seconds = self.ticks / self.video.timescale

    def check_chunks(self, media: list[tuple[int, int]]) -> None:
        """Every chunk of samples must lie inside one of the media data boxes, given as (begin, end)."""
        if not self.fragments and not self.video.offsets:
            raise _not_whole("the moov box lists no media of the video track, and there are no fragments")
        begins = [begin for begin, _ in media]
        for track in self.tracks:
            for offset, size in track.chunks():
                box = bisect_right(begins, offset) - 1
                if box < 0 or offset + max(size, 1) > media[box][1]:
                    raise _not_whole(f"media that should be at bytes {offset} to {offset + size} is not in the file")


def _run_length(trun: memoryview, default: int) -> int:
    """The length of one `trun` box in ticks of its track."""
    flags, count = struct.unpack_from(">II", trun)
    if not flags & 0x100:
        return int(count * default)
    fields = (flags & 0xF00).bit_count()
    start = 8 + 4 * bool(flags & 0x1) + 4 * bool(flags & 0x4)
    return sum(_numbers(trun, start, count * fields, "I")[::fields])


def _children(data: memoryview) -> dict[str, list[memoryview]]:
    """The payloads of the boxes that fill a box, by their type."""
    found: dict[str, list[memoryview]] = {}
    count = 0
    while any(data[:8]):  # QuickTime ends some lists with zeros
        count += 1
        size, kind = struct.unpack_from(">I4s", data)
        header = 8
        if size == 1:
            (size,), header = struct.unpack_from(">Q", data, 8), 16
        if size < header or size > len(data) or count > MAX_BOXES:
            raise ValueError(f"a {_name(kind)} box in it has the impossible size {size}")
        found.setdefault(_name(kind), []).append(data[header:size])
        data = data[size:]
    return found


def _one(boxes: dict[str, list[memoryview]], kind: str) -> memoryview:
    if kind not in boxes:
        raise ValueError(f"no {kind} box")
    return boxes[kind][0]


def _times(header: memoryview) -> tuple[int, int]:
    """Timescale and duration of an `mvhd` or `mdhd` box."""
    timescale, duration = struct.unpack_from(">IQ", header, 20) if header[0] else struct.unpack_from(">II", header, 12)
    if not timescale:
        raise ValueError("a timescale of 0")
    return timescale, duration


def _is_turned(tkhd: memoryview) -> bool:
    """Whether the matrix of a track turns its picture by a quarter."""
    at = 52 if tkhd[0] else 40
    if len(tkhd) < at + 20:
        return False
    a, b, _, c, d = struct.unpack_from(">5i", tkhd, at)
    return a == 0 and d == 0 and bool(b) and bool(c)


def _table(data: memoryview, at: int, code: str, width: int = 1) -> array[int]:
    """The numbers of a table whose count of entries stands at an offset."""
    (count,) = struct.unpack_from(">I", data, at)
    return _numbers(data, at + 4, count * width, code)


def _numbers(data: memoryview, start: int, count: int, code: str) -> array[int]:
    numbers = array(code)
    payload = data[start : start + count * numbers.itemsize]
    if len(payload) < count * numbers.itemsize:
        raise ValueError("a table is cut short")
    numbers.frombytes(payload)
    if sys.byteorder == "little":
        numbers.byteswap()
    return numbers


def _name(kind: bytes | None) -> str:
    return (kind or b"").decode("latin-1")


def _not_whole(message: str) -> NotWholeVideoError:
    return NotWholeVideoError(f"not a whole mp4: {message}", credits_spent="yes")
