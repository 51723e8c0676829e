"""One part of an upload, which can be sent while it is still being filled."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable

BLOCK_BYTES = 64 * 1024
"""How many bytes are sent at a time while a part fills. S3 accepts no chunk under 8 KiB but the last."""


class InterruptedPartError(Exception):
    """The part will not be full in time, or not at all."""


class Part:
    """The bytes of one part: written by the event loop, and read by the thread that sends them.

    To boto3 it is a file of a known size, whose `read` waits for the bytes.

    Args:
        buffer: The memory for the part. Its length is the size of the part.

    Attributes:
        buffer: The same memory.
        filled: How many of its bytes are written.
        is_interrupted: Whether reading it fails.
        is_full: Set when the last byte is written.
    """

    def __init__(self, buffer: bytearray) -> None:
        self.buffer = buffer
        self.filled = 0
        self.is_interrupted = False
        self.is_full = asyncio.Event()
        self._position = 0
        self._changed = threading.Condition()

    def fill(self, data: memoryview) -> memoryview:
        """Write the next bytes. Return those that do not fit."""
        piece = data[: len(self.buffer) - self.filled]
        memoryview(self.buffer)[self.filled : self.filled + len(piece)] = piece
        with self._changed:
            self.filled += len(piece)
            self._changed.notify_all()
        if self.filled == len(self.buffer):
            self.is_full.set()
        return data[len(piece) :]

    async def is_full_before(self, pause: Awaitable[None]) -> bool:
        """Wait until the part is full or a pause is over. Return whether the part is full."""
        waits = [asyncio.ensure_future(pause), asyncio.ensure_future(self.is_full.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waits:
                one.cancel()
        return self.is_full.is_set()

    def end(self) -> None:
        """Leave out what is not written. The part is full then."""
        del self.buffer[self.filled :]
        self.is_full.set()

    def interrupt(self) -> None:
        """Make reading fail, unless all bytes are there."""
        with self._changed:
            self.is_interrupted = self.filled < len(self.buffer)
            self._changed.notify_all()

    def read(self, size: int = -1) -> bytes:
        """Return the next block, or less at the end. Waits for it.

        Raises:
            InterruptedPartError: The rest of the part will not come in time.
        """
        end = min(self._position + (BLOCK_BYTES if size < 0 else min(size, BLOCK_BYTES)), len(self.buffer))
        with self._changed:
            self._changed.wait_for(lambda: self.is_interrupted or self.filled >= end)
            if self.is_interrupted:
                raise InterruptedPartError
        piece = bytes(memoryview(self.buffer)[self._position : end])
        self._position = end
        return piece

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move to a byte: boto3 sends the part again from its start."""
        self._position = offset + (0, self._position, len(self.buffer))[whence]
        return self._position

    def tell(self) -> int:
        """Return the position of the next byte."""
        return self._position

    def __len__(self) -> int:
        return len(self.buffer)
