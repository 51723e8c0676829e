"""Checks that a file is a whole mp4, by its structure (ISO/IEC 14496-12).

The check reads the file once, in chunks of any size, and decodes nothing. The boxes must join without a gap up to the
last byte. The index (`moov` at either end, or the `moof` of each fragment) must point to media data in the
file. So a file without its end, or an HTML page, is never accepted. Libraries for this (pymp4, pymediainfo, PyAV) need
the whole file on disk or in memory.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from prefect_loova.transfer.mp4_index import MAX_BOXES, Movie, NotMp4Error, name_of

MAX_INDEX = 16 * 1024**2
"""The largest `moov` or `moof` that is accepted, in bytes: enough for hours of video."""

# ftyp must come before all boxes of variable size. Some muxers put padding before it.
_BEFORE_FTYP = frozenset({b"free", b"skip", b"wide"})
# These are inside moov, moof or mfra. At the top level they show that the size of an earlier box is wrong.
_INNER = frozenset(
    b"mvhd trak mvex trex tkhd edts mdia mdhd hdlr minf stbl stsd stts stsc stsz stco co64 mfhd traf tfhd tfdt trun "
    b"tfra mfro".split()
)
_WIDE = b"\0\0\0\1"  # a size of 1 means that a size of 64 bits follows


@dataclass(frozen=True)
class Mp4Facts:
    """The facts in the index of a whole mp4.

    Attributes:
        size_bytes: The file's size.
        duration_seconds: The length of the video track.
        width: The width of the coded picture, in pixels, before a rotation.
        height: The height of the coded picture, in pixels, before a rotation.
        is_turned: Whether a player rotates the picture by a quarter turn, which swaps width and height.
        fragmented: Whether the media are in fragments (`moof`) and not under one index.
    """

    size_bytes: int
    duration_seconds: float
    width: int
    height: int
    fragmented: bool
    is_turned: bool = False


class Mp4Check:
    """Checks one file chunk by chunk. Only the index is kept in memory."""

    def __init__(self) -> None:
        self._position = 0
        self._header = bytearray()
        self._kind: bytes | None = None
        self._start = self._payload = 0
        self._end: int | None = 0
        self._index: bytearray | None = None
        self._box_count = 0
        self._last_kind = b""
        self._has_ftyp = False
        self._movie: Movie | None = None
        self._media: list[tuple[int, int]] = []
        self._open_fragment: int | None = None

    def feed(self, chunk: bytes | bytearray | memoryview) -> None:
        """Check the next bytes of the file.

        Raises:
            IncompleteVideoError: They cannot be part of a whole mp4.
        """
        view = memoryview(chunk)
        while view:
            view = self._read_header(view) if self._kind is None else self._read_payload(view)

    def finish(self, length_is_known: bool = False) -> Mp4Facts:
        """Return the facts about the file, after its last byte.

        Args:
            length_is_known: Whether the length of the file was checked. If not, a fragmented file must end with an
                index (`mfra`): a file that is cut between two fragments is a whole mp4 by its structure.

        Raises:
            IncompleteVideoError: Something is missing. The message says what, and at which byte.
        """
        if self._kind is not None and self._end is None:
            self._end_box()
        if self._position == 0:
            raise NotMp4Error("the file is empty")
        if self._kind is not None:
            raise NotMp4Error(
                f"the {name_of(self._kind)} box at byte {self._start} should end at byte {self._end}, "
                f"but the file ends at byte {self._position}"
            )
        if self._header:
            raise NotMp4Error(f"a box header is cut short at byte {self._position}, the end of the file")
        if self._movie is None:
            raise NotMp4Error(f"no moov box (the index) up to byte {self._position}, the end of the file")
        if not self._media:
            raise NotMp4Error(f"no media data (mdat) up to byte {self._position}, the end of the file")
        if self._open_fragment is not None:
            raise NotMp4Error(f"the fragment at byte {self._open_fragment} has no media data")
        if self._movie.may_have_fragments and not length_is_known and self._last_kind != b"mfra":
            raise NotMp4Error(f"nothing shows that byte {self._position} is the end: no mfra box after the fragments")
        self._movie.check_media(self._media)
        track = self._movie.video
        return Mp4Facts(
            self._position,
            self._movie.duration_seconds,
            track.width,
            track.height,
            self._movie.fragments > 0,
            track.is_turned,
        )

    def _read_header(self, view: memoryview) -> memoryview:
        length = 16 if self._header[:4] == _WIDE else 8
        piece = view[: length - len(self._header)]
        self._header += piece
        self._position += len(piece)
        if len(self._header) == length and (length == 16 or self._header[:4] != _WIDE):
            size, kind = struct.unpack_from(">I4s", self._header)
            if length == 16:
                (size,) = struct.unpack_from(">Q", self._header, 8)
            self._header.clear()
            self._begin_box(kind, size, length)
        return view[len(piece) :]

    def _begin_box(self, kind: bytes, size: int, header: int) -> None:
        start = self._position - header
        if kind in _INNER or not all(0x20 <= byte < 0x7F or byte == 0xA9 for byte in kind):
            raise NotMp4Error(f"no mp4 box at byte {start}")
        if 0 < size < header or (size == 0 and header == 16):
            raise NotMp4Error(f"the {name_of(kind)} box at byte {start} has the impossible size {size}")
        self._check_order(kind, start)
        self._box_count += 1
        if self._box_count > MAX_BOXES:
            raise NotMp4Error(f"more than {MAX_BOXES} boxes, at byte {start}")
        self._kind, self._start, self._payload = kind, start, self._position
        self._end = start + size if size else None
        self._index = bytearray() if kind in (b"moov", b"moof") else None
        if self._index is not None and size - header > MAX_INDEX:
            raise NotMp4Error(f"the {name_of(kind)} box at byte {start} is larger than {MAX_INDEX} bytes")
        if self._end == self._position:
            self._end_box()

    def _check_order(self, kind: bytes, start: int) -> None:
        if not self._has_ftyp and kind != b"ftyp" and kind not in _BEFORE_FTYP:
            raise NotMp4Error(f"it does not start like an mp4: no ftyp box before byte {start}")
        if kind == b"moov" and self._movie is not None:
            raise NotMp4Error(f"a second moov box at byte {start}")
        if kind == b"moof" and (self._movie is None or not self._movie.may_have_fragments):
            raise NotMp4Error(f"a fragment at byte {start} that no moov box announces")
        if kind == b"moof" and self._open_fragment is not None:
            raise NotMp4Error(f"the fragment at byte {self._open_fragment} has no media data")

    def _read_payload(self, view: memoryview) -> memoryview:
        piece = view if self._end is None else view[: self._end - self._position]
        self._position += len(piece)
        if self._index is not None:
            self._index += piece
            if len(self._index) > MAX_INDEX:
                raise NotMp4Error(
                    f"the {name_of(self._kind)} box at byte {self._start} is larger than {MAX_INDEX} bytes"
                )
        if self._position == self._end:
            self._end_box()
        return view[len(piece) :]

    def _end_box(self) -> None:
        kind, index = self._kind, self._index
        self._kind, self._index, self._last_kind = None, None, kind or b""
        self._has_ftyp = self._has_ftyp or kind == b"ftyp"
        try:
            if kind == b"mdat" and self._position > self._payload:
                self._media.append((self._payload, self._position))
                self._open_fragment = None
            elif kind == b"moov" and index is not None:
                self._movie = Movie.parse(memoryview(index))
            elif kind == b"moof" and index is not None and self._movie is not None:
                self._movie.add_fragment(memoryview(index), self._start, self._position)
                self._open_fragment = self._start
        except (struct.error, ValueError, IndexError) as error:
            raise NotMp4Error(f"the {name_of(kind)} box at byte {self._start} is broken ({error})") from None
