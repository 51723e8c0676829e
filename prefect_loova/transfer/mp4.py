"""Is this a whole mp4? A check of the structure (ISO/IEC 14496-12) that reads a file once, in chunks of any size.

Nothing is decoded. The boxes of the file must join without a gap up to its very end, and the index (`moov`, at either
end, or the fragments' `moof`) must lead to media data that is there. So a file that lost its end is never whole, and
neither is an HTML page. The libraries for this (pymp4, pymediainfo, PyAV) want the file whole, on disk or in memory.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from prefect_loova.transfer.mp4_index import MAX_BOXES, Movie, name_of, not_whole

MAX_INDEX = 16 * 1024**2
"""The largest `moov` or `moof` that is read, in bytes: enough for hours of video."""

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
        self._movie: Movie | None = None
        self._media: list[tuple[int, int]] = []
        self._open_fragment: int | None = None

    def feed(self, chunk: bytes | bytearray | memoryview) -> None:
        """Take the next bytes of the file.

        Raises:
            IncompleteVideoError: They cannot be part of a whole mp4.
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
            IncompleteVideoError: Something is missing; the message says what, and at which byte.
        """
        if self._kind is not None and self._end is None:
            self._close()
        if self._position == 0:
            raise not_whole("the file is empty")
        if self._kind is not None:
            raise not_whole(
                f"the {name_of(self._kind)} box at byte {self._start} should end at byte {self._end}, "
                f"but the file ends at byte {self._position}"
            )
        if self._header:
            raise not_whole(f"a box header is cut short at byte {self._position}, the end of the file")
        if self._movie is None:
            raise not_whole(f"no moov box (the index) up to byte {self._position}, the end of the file")
        if not self._media:
            raise not_whole(f"no media data (mdat) up to byte {self._position}, the end of the file")
        if self._open_fragment is not None:
            raise not_whole(f"the fragment at byte {self._open_fragment} has no media data")
        if self._movie.may_have_fragments and not length_is_known and self._last != b"mfra":
            raise not_whole(f"nothing shows that byte {self._position} is the end: no mfra box behind the fragments")
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
            raise not_whole(f"no mp4 box at byte {start}")
        if 0 < size < header or (size == 0 and header == 16):
            raise not_whole(f"the {name_of(kind)} box at byte {start} has the impossible size {size}")
        self._check_order(kind, start)
        self._boxes += 1
        if self._boxes > MAX_BOXES:
            raise not_whole(f"more than {MAX_BOXES} boxes, at byte {start}")
        self._kind, self._start, self._payload = kind, start, self._position
        self._end = start + size if size else None
        self._kept = bytearray() if kind in (b"moov", b"moof") else None
        if self._kept is not None and size - header > MAX_INDEX:
            raise not_whole(f"the {name_of(kind)} box at byte {start} is larger than {MAX_INDEX} bytes")
        if self._end == self._position:
            self._close()

    def _check_order(self, kind: bytes, start: int) -> None:
        if not self._has_ftyp and kind != b"ftyp" and kind not in _BEFORE_FTYP:
            raise not_whole(f"it does not begin as an mp4: no ftyp box before byte {start}")
        if kind == b"moov" and self._movie is not None:
            raise not_whole(f"a second moov box at byte {start}")
        if kind == b"moof" and (self._movie is None or not self._movie.may_have_fragments):
            raise not_whole(f"a fragment at byte {start} that no moov box announces")
        if kind == b"moof" and self._open_fragment is not None:
            raise not_whole(f"the fragment at byte {self._open_fragment} has no media data")

    def _take_payload(self, view: memoryview) -> memoryview:
        taken = view if self._end is None else view[: self._end - self._position]
        self._position += len(taken)
        if self._kept is not None:
            self._kept += taken
            if len(self._kept) > MAX_INDEX:
                raise not_whole(f"the {name_of(self._kind)} box at byte {self._start} is larger than {MAX_INDEX} bytes")
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
                self._movie = Movie.read(memoryview(kept))
            elif kind == b"moof" and kept is not None and self._movie is not None:
                self._movie.add_fragment(memoryview(kept), self._start, self._position)
                self._open_fragment = self._start
        except (struct.error, ValueError, IndexError) as error:
            raise not_whole(f"the {name_of(kind)} box at byte {self._start} is broken ({error})") from None
