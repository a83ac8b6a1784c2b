"""Compressed bodies: readable as far as they were passed on, whole only with their end, and made
where they hold up nobody.
"""

import argparse
import asyncio
import gzip
import random
import subprocess
import sys
import threading
import zlib
from contextlib import contextmanager
from pathlib import Path

import pytest
from gateway import ROOT

from tarstream import compress
from tarstream.compress import STEP, Compression, Levels

if compress.zstd.__name__ == "compression.zstd":
    from compression import zstd
else:
    from backports import zstd

CODINGS = ["gzip", "zstd"]
READERS = {"gzip": lambda: zlib.decompressobj(31), "zstd": zstd.ZstdDecompressor}
WHOLE = {"gzip": gzip.decompress, "zstd": zstd.decompress}
CUT = {"gzip": (EOFError, gzip.BadGzipFile), "zstd": zstd.ZstdError}

NOISE = random.Random(1).randbytes(3 * STEP + 17)
CHUNKS = [b"a", b"", NOISE, b"text " * 50_000, bytes(1_000_000), NOISE[:1000]]

any_coding = pytest.mark.parametrize("coding", CODINGS)


async def compressed(coding, chunks, levels=Levels()):  # noqa: B008 - it is immutable
    compression = Compression(coding, levels)
    pieces = [await compression.compress(chunk) for chunk in chunks]
    return [*pieces, await compression.finish()]


@contextmanager
def threads_taken():
    """Until it ends, no thread compresses anything."""
    release = threading.Event()
    pool = compress._THREADS.pool
    held = [pool.submit(release.wait) for _ in range(pool._max_workers)]
    try:
        yield
    finally:
        release.set()
        for each in held:
            each.result(10)


@any_coding
async def test_all_that_was_passed_on_can_be_read(coding):
    reader = READERS[coding]()
    *pieces, _ = await compressed(coding, CHUNKS)
    for chunk, piece in zip(CHUNKS, pieces, strict=True):
        assert reader.decompress(piece) == chunk


@any_coding
async def test_it_is_one_piece_with_one_end(coding):
    reader = READERS[coding]()
    body = b"".join(await compressed(coding, CHUNKS))
    assert reader.decompress(body) == b"".join(CHUNKS)
    assert reader.eof
    assert reader.unused_data == b""


@any_coding
async def test_wherever_it_is_cut_a_reader_says_so(coding):
    body = b"".join(await compressed(coding, [b"header", NOISE[:2000], b"", bytes(5000)]))
    assert WHOLE[coding](body)
    for length in range(1, len(body)):
        with pytest.raises(CUT[coding]):
            WHOLE[coding](body[:length])


@any_coding
async def test_a_wrong_byte_inside_is_noticed(coding):
    body = bytearray(b"".join(await compressed(coding, [NOISE])))
    body[len(body) // 2] ^= 1
    with pytest.raises((zlib.error, gzip.BadGzipFile, zstd.ZstdError)):
        WHOLE[coding](bytes(body))


async def test_gzip_names_no_file_and_no_time():
    body = b"".join(await compressed("gzip", [b"x"]))
    flags, mtime = body[3], body[4:8]  # RFC 1952 2.3
    assert (flags, mtime) == (0, bytes(4))


async def test_zstd_has_a_checksum_and_states_no_size():
    descriptor = b"".join(await compressed("zstd", [b"x"]))[4]  # RFC 8878 3.1.1.1.1
    assert descriptor & 0b100
    assert descriptor >> 6 == 0
    assert not descriptor & 0b100000


@any_coding
@pytest.mark.parametrize("level", range(1, 10))
async def test_the_same_chunks_give_the_same_bytes_at_every_level(coding, level):
    levels = Levels(level, level)
    bodies = {b"".join(await compressed(coding, CHUNKS, levels)) for _ in range(2)}
    (body,) = bodies
    assert WHOLE[coding](body) == b"".join(CHUNKS)


async def test_the_highest_level_of_zstd_is_read_too():
    body = b"".join(await compressed("zstd", CHUNKS, Levels(zstd=19)))
    assert zstd.decompress(body) == b"".join(CHUNKS)


@any_coding
async def test_a_higher_level_is_smaller(coding):
    text = Path(argparse.__file__).read_bytes()
    low, high = [
        len(b"".join(await compressed(coding, [text], Levels(level, level)))) for level in (1, 9)
    ]
    assert high < low


@pytest.mark.parametrize("level", [1, 2, 3, 9])
async def test_without_isal_gzip_is_read_as_well(monkeypatch, level):
    monkeypatch.setattr(compress, "isal_zlib", None)
    pieces = await compressed("gzip", CHUNKS, Levels(gzip=level))
    assert gzip.decompress(b"".join(pieces)) == b"".join(CHUNKS)


@pytest.mark.parametrize(("level", "fast"), [(1, True), (3, True), (4, False), (9, False)])
async def test_low_levels_are_those_of_isal(level, fast):
    compression = Compression("gzip", Levels(gzip=level))
    module = type(compression._compressor._compressor).__module__
    assert module.startswith("isal") == fast


@any_coding
async def test_the_event_loop_goes_on_while_it_is_compressed(coding):
    compression = Compression(coding, Levels())
    with threads_taken():
        task = asyncio.create_task(compression.compress(NOISE))
        for _ in range(100):
            await asyncio.sleep(0)
        assert not task.done()
    assert READERS[coding]().decompress(await task) == NOISE


@any_coding
async def test_a_chunk_whose_turn_has_not_come_is_never_compressed_when_cancelled(coding):
    compression = Compression(coding, Levels())
    with threads_taken():
        task = asyncio.create_task(compression.compress(NOISE))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    body = await compression.compress(b"") + await compression.finish()
    assert WHOLE[coding](body) == b""


def test_there_are_no_more_threads_than_processors():
    assert 1 <= compress._THREADS.pool._max_workers <= max((compress.os.cpu_count() or 1) - 1, 1)


FORKED = """
import asyncio, os, signal, sys
from tarstream.compress import Compression, Levels

async def compressed():
    return await Compression("gzip", Levels()).compress(bytes(1000))

before = asyncio.run(compressed())
child = os.fork()
if not child:
    signal.alarm(20)
    os._exit(asyncio.run(compressed()) != before)
assert os.waitpid(child, 0)[1] == 0
assert asyncio.run(compressed()) == before
"""


def test_a_fork_compresses_as_the_process_did_that_it_is_of():
    """Servers fork workers, and a fork has no threads."""
    quiet = ["-W", "ignore::DeprecationWarning"]  # Python 3.12 warns of forks of threads
    subprocess.run([sys.executable, *quiet, "-c", FORKED], cwd=ROOT, check=True, timeout=60)
