"""Made-up content: any number of bytes, each a function of its offset, none of them stored."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

BLOCK = 1 << 16  # bytes made at once
SECTOR = 512  # bytes; one mark in each, so that no two blocks are alike wherever they are compared
PIECE = 1 << 18  # bytes a piece has when nothing else is asked for
NOISE = hashlib.shake_128(b"tarstream").digest((1 << 20) + BLOCK)


@functools.lru_cache(maxsize=128)
def _block(seed: int, index: int) -> bytes:
    """A stretch of the noise that the index chooses, with a mark of 8 bytes in every sector."""
    mark = hashlib.blake2b(f"{seed} {index}".encode(), digest_size=12).digest()
    offset = int.from_bytes(mark[8:], "big") % (len(NOISE) - BLOCK)
    block = bytearray(NOISE[offset : offset + BLOCK])
    for place in range(8):
        block[place::SECTOR] = mark[place : place + 1] * (BLOCK // SECTOR)
    return bytes(block)


@dataclass(frozen=True)
class Made:
    """`size` bytes that do not repeat at any period; another `seed` makes other bytes."""

    size: int
    seed: int = 0

    def read(self, start: int = 0, stop: int | None = None) -> bytes:
        """Return the bytes [start, stop), clipped to the size as a slice of bytes is."""
        stop = self.size if stop is None else min(stop, self.size)
        blocks = (
            memoryview(_block(self.seed, index))[
                max(start - index * BLOCK, 0) : stop - index * BLOCK
            ]
            for index in range(start // BLOCK, -(-stop // BLOCK))
        )
        return b"".join(blocks)

    def pieces(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Yield the bytes [start, stop) in order, to be hashed or compared in little memory."""
        stop = self.size if stop is None else min(stop, self.size)
        for offset in range(start, stop, PIECE):
            yield self.read(offset, min(offset + PIECE, stop))
