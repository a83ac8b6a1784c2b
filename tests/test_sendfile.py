"""Large files of this machine that the kernel sends, where that is switched on.

Which path was taken is what `/metrics` says of it. Each scenario runs on asyncio and on uvloop.
"""

import asyncio
import errno
import os
import threading
from contextlib import contextmanager

import pytest
from crowd import until
from made import Made
from test_splice import LARGE, MIB, descriptors, on_both_loops, wait_for

from tarstream import splice


@contextmanager
def files(world):
    """A directory with what the origin has, and what a gateway is to know of it."""
    directory = world.directory / "files"
    directory.mkdir()
    for name in ("large", "small"):
        path = directory / name
        path.write_bytes(world.origin.objects[f"/{name}"].content.read())
        os.utime(path, (1_000_000_000, 1_000_000_000))  # as the origin says
    yield directory


async def start(world, directory, *, sendfile=True, **sections):
    names = ("large", "small", "huge")
    entries = [{"id": name, "url": (directory / name).as_uri()} for name in names]
    upstream = {"sendfile": sendfile}
    await world.start(entries, allow=[directory.as_uri()], upstream=upstream, **sections)


@on_both_loops
async def test_large_files_are_sent_by_the_kernel_and_small_ones_are_not(world):
    with files(world) as directory:
        await start(world, directory)
        response, body, broken = await world.get("small", "large")
        assert (response.status, broken) == (200, False)
        assert body == world.tar("small", "large")[0]
        assert await world.spliced() == LARGE.size - splice.TAIL


@on_both_loops
async def test_parts_of_them_are_too(world):
    with files(world) as directory:
        await start(world, directory)
        whole, _ = world.tar("large")
        # Odd offsets: the pages of a part begin and end elsewhere than those of a pipe.
        part = {"Range": f"bytes=100003-{4 * MIB + 1}"}
        response, body, _ = await world.get("large", headers=part)
        assert response.status == 206
        assert body == whole[100_003 : 4 * MIB + 2]
        assert await world.spliced() == len(body) - splice.TAIL


@pytest.mark.parametrize("setting", [{"sendfile": False}, {"server": {"zero_copy": False}}])
@on_both_loops
async def test_they_are_read_and_written_unless_that_is_asked_for(world, setting):
    with files(world) as directory:
        await start(world, directory, **setting)
        _, body, _ = await world.get("large")
        assert body == world.tar("large")[0]
        assert await world.spliced() == 0


@on_both_loops
async def test_what_has_to_be_seen_is_read(world):
    with files(world) as directory:
        await start(world, directory)
        _, body, broken = await world.get("large", format="zip")
        assert body
        assert not broken
        assert await world.spliced() == 0


@on_both_loops
async def test_a_file_that_is_replaced_meanwhile_is_sent_as_it_was(world):
    with files(world) as directory:
        await start(world, directory)
        sock = await world.connect("large")

        def replace():
            other = directory / "other"
            other.write_bytes(Made(LARGE.size, seed=9).read())
            other.rename(directory / "large")

        body = await received(sock, MIB, replace)
        assert body == world.tar("large")[0]


@on_both_loops
async def test_a_file_that_becomes_shorter_fails_loudly_inside_of_it(world):
    """What was handed over before was right, and the end is missing."""
    content = Made(64 * MIB, seed=7).read()
    with files(world) as directory:
        (directory / "huge").write_bytes(content)
        await start(world, directory)
        sock = await world.connect("huge")
        body = await received(sock, MIB, lambda: os.truncate(directory / "huge", 60 * MIB))
        assert MIB <= len(body) < 60 * MIB
        assert content.startswith(body[512:])
        await wait_for(world, "archives_total", lambda n: n == 1, outcome="failed")
        assert await world.spliced() > 0


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO])
@on_both_loops
async def test_what_cannot_be_sent_so_is_read(world, number):
    """Some file systems do not splice."""
    real = splice.splice

    def refused(source, target, count, *, offset_src=None, flags=0):
        if offset_src is not None and offset_src >= MIB:
            raise OSError(number, os.strerror(number))
        return real(source, target, count, offset_src=offset_src, flags=flags)

    with files(world) as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(splice, "splice", refused)
        await start(world, directory)
        _, body, _ = await world.get("large")
        assert body == world.tar("large")[0]
        assert 0 < await world.spliced() < 2 * MIB


@on_both_loops
async def test_no_pipe_to_be_had_is_no_failure(world):
    with files(world) as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(splice, "PIPE", 2**31 - 1)  # more than anybody gets
        await start(world, directory)
        _, body, _ = await world.get("large")
        assert body == world.tar("large")[0]
        assert await world.spliced() == 0


@on_both_loops
async def test_a_client_that_leaves_waits_for_no_disk_and_leaves_nothing_behind(world):
    """The pipe stays open for as long as a thread may put something into it, and no longer."""
    real, reads, goes_on = splice.splice, threading.Event(), threading.Event()

    def slow(source, target, count, *, offset_src=None, flags=0):
        if offset_src is not None:
            reads.set()
            assert goes_on.wait(20)
        return real(source, target, count, offset_src=offset_src, flags=flags)

    with files(world) as directory, pytest.MonkeyPatch.context() as patch:
        await start(world, directory)
        await world.get("large")  # what is kept is kept from here on
        before = descriptors()
        patch.setattr(splice, "splice", slow)
        sock = await world.connect("large")
        await until(reads.is_set)
        sock.close()
        await wait_for(world, "archives_in_flight", lambda n: n == 0)
        assert descriptors() > before
        goes_on.set()
        await until(lambda: descriptors() <= before)
        _, body, _ = await world.get("large", "small")
        assert body == world.tar("large", "small")[0]


async def received(sock, number, then):
    """An archive, as far as it came; `then` is called after so many bytes of it."""
    reader, writer = await asyncio.open_connection(sock=sock)
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        size = int(head.decode().lower().partition("content-length: ")[2].partition("\r\n")[0])
        body = await reader.readexactly(number)
        then()
        while len(body) < size and (chunk := await reader.read(MIB)):
            body += chunk
        return body
    finally:
        writer.close()
