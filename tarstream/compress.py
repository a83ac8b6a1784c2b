"""Compression of an archive on its way out: in threads, so that no other download waits for it.

Each chunk ends a block, so a client can read all that was passed on. It ends where the archive
inside was cut, and the end that readers look for is written by `finish` alone.
"""

import asyncio
import os
import sys
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

try:
    from isal import isal_zlib
except ImportError:  # a platform that it is not made for
    isal_zlib = None  # type: ignore[assignment]

STEP = 64 * 1024
"""Bytes compressed at a time: turns are short, and whoever is cancelled leaves a short one."""

_MOST_OF_ISAL = 3
"""The last level of isal, which gives what zlib gives at that level, several times as fast."""


class _Threads:
    """Those of this process. A download has one chunk in here at most, so they take turns."""

    def __init__(self) -> None:
        self.begin()
        if hasattr(os, "register_at_fork"):
            # A fork has none of them, and what it gave them would wait for ever.
            os.register_at_fork(after_in_child=self.begin)

    def begin(self) -> None:
        """With threads that are started when there is something to do."""
        # One processor is for the event loop.
        self.pool = ThreadPoolExecutor(max((os.cpu_count() or 1) - 1, 1), "compression")


_THREADS = _Threads()


class Levels(NamedTuple):
    """How hard to try; see `[compression]`."""

    gzip: int = 2
    zstd: int = 1


RANGES: Mapping[str, range] = {"gzip": range(1, 10), "zstd": range(1, 20)}
"""The levels that there are, by coding."""


class Compressor(Protocol):
    """One compressed body, from its first byte to its end."""

    def compress(self, data: bytes) -> bytes:
        """Bytes from which all that was given can be read."""

    def finish(self) -> bytes:
        """The end, without which a reader takes it for cut off."""


class _Deflate(Protocol):
    """What zlib and isal have in common."""

    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self, mode: int = ..., /) -> bytes: ...


class _Gzip:
    """RFC 1952: one member, without name and time; CRC-32 and length are its end."""

    def __init__(self, level: int) -> None:
        library = zlib if isal_zlib is None or level > _MOST_OF_ISAL else isal_zlib
        self._compressor: _Deflate = library.compressobj(level, zlib.DEFLATED, 16 + zlib.MAX_WBITS)

    def compress(self, data: bytes) -> bytes:
        return self._compressor.compress(data) + self._compressor.flush(zlib.Z_SYNC_FLUSH)

    def finish(self) -> bytes:
        return self._compressor.flush(zlib.Z_FINISH)


class _Zstd:
    """RFC 8878: one frame, of a size that is not stated, with a checksum at its end."""

    def __init__(self, level: int) -> None:
        parameter = zstd.CompressionParameter
        self._compressor = zstd.ZstdCompressor(
            options={parameter.compression_level: level, parameter.checksum_flag: 1}
        )

    def compress(self, data: bytes) -> bytes:
        return self._compressor.compress(data, zstd.ZstdCompressor.FLUSH_BLOCK)

    def finish(self) -> bytes:
        return self._compressor.flush(zstd.ZstdCompressor.FLUSH_FRAME)


_CODINGS: Mapping[str, Callable[[Levels], Compressor]] = {
    "gzip": lambda levels: _Gzip(levels.gzip),
    "zstd": lambda levels: _Zstd(levels.zstd),
}
"""By the names that HTTP has for them."""


def compressor(coding: str, levels: Levels) -> Compressor:
    """Begin a body."""
    return _CODINGS[coding](levels)


class Compression:
    """Compresses one body. Once a call was cancelled, no other may follow."""

    def __init__(self, coding: str, levels: Levels) -> None:
        self._compressor = compressor(coding, levels)

    async def compress(self, data: bytes) -> bytes:
        """Bytes from which all that was given can be read."""
        compressed = [
            await _in_thread(self._compressor.compress, data[start : start + STEP])
            for start in range(0, len(data), STEP)
        ]
        return b"".join(compressed)

    async def finish(self) -> bytes:
        """The end of the body."""
        return await _in_thread(self._compressor.finish)


async def _in_thread(work: Callable[..., bytes], *data: bytes) -> bytes:
    return await asyncio.get_running_loop().run_in_executor(_THREADS.pool, work, *data)
