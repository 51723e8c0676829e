"""Parses the index of an mp4 to find its media data: `moov`, and the `moof` of fragments (ISO/IEC 14496-12)."""

from __future__ import annotations

import struct
import sys
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, pairwise

from prefect_loova.errors import IncompleteVideoError

MAX_BOXES = 100_000
"""The most boxes at the top level of a file, and inside a box."""


class NotMp4Error(IncompleteVideoError):
    """A file is not a whole mp4. The video is already paid for."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"not a whole mp4: {problem}", credits_spent="yes")


@dataclass
class _Track:
    """One `trak` box: where its samples are in the file."""

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
    def parse(cls, data: memoryview) -> _Track:
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
        elif "stz2" in stbl:
            sizes = compact_sizes(stbl["stz2"][0])
        else:
            raise ValueError("no stsz box")
        runs = _table(_one(stbl, "stsc"), 4, "I", width=3)
        if (len(offsets) and (not runs or runs[0] != 1)) or any(first >= after for first, after in pairwise(runs[::3])):
            raise ValueError("the stsc table is out of order")
        return cls(track_id, timescale, duration, width, height, offsets, sizes, constant, runs, _is_turned(tkhd))

    def chunks(self) -> Iterator[tuple[int, int]]:
        """Yield offset and size of each chunk of samples, in bytes."""
        sample = 0
        firsts = self.runs[::3]
        firsts.append(len(self.offsets) + 1)
        for (first, after), count in zip(pairwise(firsts), self.runs[1::3], strict=True):
            for offset in self.offsets[first - 1 : after - 1]:
                yield offset, self.constant_size * count or sum(self.sizes[sample : sample + count])
                sample += count


@dataclass
class Movie:
    """A `moov` box, and the fragments after it."""

    duration_seconds: float
    video: _Track
    tracks: list[_Track]
    may_have_fragments: bool
    defaults: dict[int, tuple[int, int]]
    """Default duration (in ticks) and size (in bytes) of samples in fragments, by track id."""
    ticks: int
    fragments: int = 0
    runs: list[tuple[int, int, bool]] = field(default_factory=list)
    """Each run of samples in fragments: its offset, its size in bytes, and whether the offset is exact. If it is not,
    the run is in the next media data box."""

    @classmethod
    def parse(cls, data: memoryview) -> Movie:
        """Parse the payload of a `moov` box."""
        moov = _children(data)
        tracks = [_Track.parse(trak) for trak in moov.get("trak", [])]
        video = next((track for track in tracks if track.width and track.height), None)
        if video is None:
            raise ValueError("no video track")
        timescale, duration = _times(_one(moov, "mvhd"))
        if video.duration:
            timescale, duration = video.timescale, video.duration
        trexes = _children(moov["mvex"][0]).get("trex", []) if "mvex" in moov else []
        rows = (struct.unpack_from(">I4xII", trex, 4) for trex in trexes)
        defaults = {track_id: (duration, size) for track_id, duration, size in rows}
        indexed = video.duration if video.offsets else 0
        return cls(duration / timescale, video, tracks, "mvex" in moov, defaults, indexed)

    def add_fragment(self, data: memoryview, begin: int, end: int) -> None:
        """Add the duration and the media of a `moof` box, which is at bytes `begin` to `end` of the file."""
        after = begin  # the end of the media of the track before
        for traf in map(_children, _children(data).get("traf", [])):
            tfhd = _one(traf, "tfhd")
            flags, track_id = struct.unpack_from(">II", tfhd)
            at, base = 8, begin if flags & 0x20000 else after
            if flags & 0x1:
                (base,) = struct.unpack_from(">Q", tfhd, at)
            at += 8 * bool(flags & 0x1) + 4 * bool(flags & 0x2)
            duration, size = self.defaults.get(track_id, (0, 0))
            if flags & 0x8:
                (duration,) = struct.unpack_from(">I", tfhd, at)
            if flags & 0x10:
                (size,) = struct.unpack_from(">I", tfhd, at + 4 * bool(flags & 0x8))
            length, after = 0, base
            for trun in traf.get("trun", []):
                run = _SampleRun.parse(trun, duration, size)
                length += run.length
                after = after if run.offset is None else base + run.offset
                if run.size:
                    # Without an offset, some writers mean the media data box after this one.
                    inside = begin <= after < end
                    self.runs.append((end if inside else after, run.size, not inside))
                after += run.size
            if track_id == self.video.track_id:
                first = self.ticks
                if "tfdt" in traf:
                    tfdt = traf["tfdt"][0]
                    (first,) = struct.unpack_from(">Q" if tfdt[0] else ">I", tfdt, 4)
                self.ticks = max(self.ticks, first + length)
        if len(self.runs) > 10 * MAX_BOXES:
            raise ValueError(f"more than {10 * MAX_BOXES} runs of samples in the fragments up to it")
        self.fragments += 1
        self.duration_seconds = self.ticks / self.video.timescale

    def check_media(self, media: list[tuple[int, int]]) -> None:
        """Raise `IncompleteVideoError` unless all samples are inside the media data boxes, given as (begin, end)."""
        if not self.fragments and not self.video.offsets:
            raise NotMp4Error("the moov box lists no media of the video track, and there are no fragments")
        begins = [begin for begin, _ in media]
        chunks = ((offset, size, True) for track in self.tracks for offset, size in track.chunks())
        for offset, size, is_exact in chain(chunks, self.runs):
            box = bisect_right(begins, offset) - 1 if is_exact else bisect_left(begins, offset)
            if not is_exact and box < len(media):
                offset = begins[box]  # noqa: PLW2901
            if not 0 <= box < len(media) or offset + max(size, 1) > media[box][1]:
                raise NotMp4Error(f"media that should be at bytes {offset} to {offset + size} is not in the file")


@dataclass(frozen=True)
class _SampleRun:
    """One `trun` box: a run of adjacent samples."""

    offset: int | None
    length: int
    size: int

    @classmethod
    def parse(cls, trun: memoryview, duration: int, size: int) -> _SampleRun:
        """Parse a box. Duration and size are the defaults of its samples."""
        flags, count = struct.unpack_from(">II", trun)
        (offset,) = struct.unpack_from(">i", trun, 8) if flags & 0x1 else (None,)
        fields = (flags & 0xF00).bit_count()
        numbers = _numbers(trun, 8 + 4 * bool(flags & 0x1) + 4 * bool(flags & 0x4), count * fields, "I")
        length = sum(numbers[::fields]) if flags & 0x100 else count * duration
        total = sum(numbers[bool(flags & 0x100) :: fields]) if flags & 0x200 else count * size
        return cls(offset, length, total)


def compact_sizes(stz2: memoryview) -> array[int]:
    """Return the sizes in an `stz2` box, of 4, 8 or 16 bits each."""
    bits, count = stz2[7], struct.unpack_from(">I", stz2, 8)[0]
    if bits in (8, 16):
        return array("I", _numbers(stz2, 12, count, "B" if bits == 8 else "H"))
    if bits == 4:
        pairs = _numbers(stz2, 12, (count + 1) // 2, "B")
        return array("I", [half for pair in pairs for half in (pair >> 4, pair & 0xF)][:count])
    raise ValueError(f"an stz2 box with sizes of {bits} bits")


def _children(data: memoryview) -> dict[str, list[memoryview]]:
    """Return the payloads of all boxes in a box, by type."""
    children: dict[str, list[memoryview]] = {}
    count = 0
    while any(data[:8]):  # QuickTime ends some lists with zeros
        count += 1
        size, kind = struct.unpack_from(">I4s", data)
        header = 8
        if size == 1:
            (size,), header = struct.unpack_from(">Q", data, 8), 16
        if size < header or size > len(data) or count > MAX_BOXES:
            raise ValueError(f"a {name_of(kind)} box in it has the impossible size {size}")
        children.setdefault(name_of(kind), []).append(data[header:size])
        data = data[size:]
    return children


def _one(boxes: dict[str, list[memoryview]], kind: str) -> memoryview:
    if kind not in boxes:
        raise ValueError(f"no {kind} box")
    return boxes[kind][0]


def _times(header: memoryview) -> tuple[int, int]:
    """Return timescale and duration of an `mvhd` or `mdhd` box."""
    timescale, duration = struct.unpack_from(">IQ", header, 20) if header[0] else struct.unpack_from(">II", header, 12)
    if not timescale:
        raise ValueError("a timescale of 0")
    return timescale, duration


def _is_turned(tkhd: memoryview) -> bool:
    """Return whether the matrix of a track rotates its picture by a quarter turn."""
    at = 52 if tkhd[0] else 40
    if len(tkhd) < at + 20:
        return False
    a, b, _, c, d = struct.unpack_from(">5i", tkhd, at)
    return a == 0 and d == 0 and bool(b) and bool(c)


def _table(data: memoryview, at: int, code: str, width: int = 1) -> array[int]:
    """Return the numbers of a table whose count of entries is at an offset."""
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


def name_of(kind: bytes | None) -> str:
    """Return a box type as text."""
    return (kind or b"").decode("latin-1")
