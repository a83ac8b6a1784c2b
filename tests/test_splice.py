"""Large members that pass by aiohttp: the same bytes and promises as those that it reads.

Whether the kernel moves them is what `/metrics` says. Each scenario runs on asyncio and on uvloop,
and those of what fails with contents that are read, too.
"""

import asyncio
import errno
import functools
import inspect
import io
import os
import socket
import ssl
import subprocess
import sys
import tarfile
import threading
from contextlib import AsyncExitStack, closing, contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import aiohttp
import faults
import pytest
import uvloop
from aiohttp import web
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_writer import StreamWriter
from crowd import until
from gateway import ROOT, archive_path, process, running, write_catalog
from made import Made
from origin import Origin
from prometheus_client.parser import text_string_to_metric_families

from tarstream import portion, splice
from tarstream.response import WatchedResponse
from tarstream.splice import Pipe
from tarstream.stores import bypass

KIB, MIB = 1024, 1024**2
MTIME = 1_000_000_000  # as the origin says
LARGE = Made(5 * MIB + 12_345, seed=1)
OTHER = Made(3 * MIB + 7, seed=2)
SMALL = Made(100_001, seed=3)
READ_BEFORE = 512 * KIB  # bytes, at most, that aiohttp has read of a member before its turn


class World:
    """An origin, gateways in front of it, and who asks them."""

    def __init__(self, origin, directory, stack, *, zero_copy=True):
        self.zero_copy = zero_copy
        self.origin = origin
        self.directory = directory
        self._stack = stack
        for name, made in (("large", LARGE), ("other", OTHER), ("small", SMALL)):
            origin.add(f"/{name}", made)

    async def start(self, entries=None, **sections):
        """A gateway; without entries of a catalog each path of the origin is an id."""
        catalog = {"kind": "template", "url": f"{self.origin.root}/{{id}}"}
        if entries is not None:
            catalog = {"kind": "file", "path": write_catalog(self.directory / "catalog", entries)}
        allow = sections.pop("allow", [self.origin.root])
        sections.setdefault("server", {"zero_copy": self.zero_copy})
        self.gateway = await self._stack.enter_async_context(running(catalog, allow, **sections))
        self.http = await self._stack.enter_async_context(
            aiohttp.ClientSession(auto_decompress=False)
        )

    async def get(self, *ids, headers=None, **parameters):
        """The answer, its body as far as it came, and whether that broke off."""
        body = bytearray()
        url = self.gateway.url(ids, **parameters)
        async with self.http.get(url, headers=headers) as response:
            try:
                async for chunk in response.content.iter_any():
                    body += chunk
            except aiohttp.ClientPayloadError:
                return response, bytes(body), True
        return response, bytes(body), False

    async def number(self, name, **labels):
        """What `/metrics` says."""
        async with self.http.get(f"http://127.0.0.1:{self.gateway.port}/metrics") as response:
            return number_in(await response.text(), name, labels)

    async def spliced(self):
        return await self.number("spliced_bytes_total")

    async def assert_moved(self, condition):
        """The kernel has moved as much as it had to, or nothing where contents are read."""
        spliced = await self.spliced()
        assert condition(spliced) if self.zero_copy else spliced == 0

    def tar(self, *ids):
        """The archive by the standard library; and where the contents of each member begin."""
        buffer, places = io.BytesIO(), {}
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for id_ in ids:
                content = self.origin.objects[f"/{id_}"].content.read()
                info = tarfile.TarInfo(id_)
                info.size, info.mtime = len(content), MTIME
                places[id_] = tar.offset + 512
                tar.addfile(info, io.BytesIO(content))
            end = tar.offset
        return buffer.getvalue()[: end + 1024], places

    def buffer_little(self):
        """Let sockets hold little of what is sent from here on."""
        for site in self.gateway.runner.sites:
            for listening in site._server.sockets:
                with socket.socket(fileno=os.dup(listening.fileno())) as sock:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 * KIB)

    async def connect(self, *ids):
        """A client of little room that has asked, and reads when it wants to."""
        sock = socket.socket()
        self._stack.callback(sock.close)
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 * KIB)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.gateway.port))
        request = f"GET {archive_path(ids)} HTTP/1.1\r\nHost: x\r\n\r\n"
        await asyncio.get_running_loop().sock_sendall(sock, request.encode())
        return sock


def number_in(text, name, labels):
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == f"tarstream_{name}" and labels.items() <= sample.labels.items():
                return sample.value
    raise AssertionError(name)


def on_both_loops(scenario, ways=(True,)):
    """Run a scenario in a world of its own, once on each event loop."""
    loops = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
    names = [name for name in inspect.signature(scenario).parameters if name != "world"]

    async def run(directory, zero_copy, arguments):
        async with AsyncExitStack() as stack:
            origin = await stack.enter_async_context(Origin())
            await scenario(World(origin, directory, stack, zero_copy=zero_copy), **arguments)

    def test(tmp_path, loop, zero_copy, **arguments):
        with asyncio.Runner(loop_factory=loops[loop]) as runner:
            runner.run(run(tmp_path, zero_copy, arguments))

    functools.update_wrapper(test, scenario)
    parameters = [inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY) for n in names]
    names = ("tmp_path", "loop", "zero_copy")
    given = [inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY) for n in names]
    test.__signature__ = inspect.Signature(given + parameters)
    ids = {True: "spliced", False: "read"}
    test = pytest.mark.parametrize("zero_copy", ways, ids=ids.get)(test)
    return pytest.mark.parametrize("loop", loops)(test)


def in_both_ways(scenario):
    """With contents that the kernel moves, and with contents that are read, too."""
    return on_both_loops(scenario, ways=(True, False))


def assert_spliced(spliced, *sizes):
    """All of members of these sizes, but for what was read before and what leaves at their end."""
    most = sum(size - splice.TAIL for size in sizes)
    assert most - len(sizes) * READ_BEFORE <= spliced <= most


@on_both_loops
async def test_large_members_are_moved_by_the_kernel_and_small_ones_are_not(world):
    await world.start()
    ids = ["small", "large", "other"]
    response, body, broken = await world.get(*ids)
    assert (response.status, broken) == (200, False)
    assert body == world.tar(*ids)[0]
    assert_spliced(await world.spliced(), LARGE.size, OTHER.size)
    assert await world.number("sent_bytes_total") == len(body)
    contents = LARGE.size + OTHER.size + SMALL.size
    assert await world.number("received_bytes_total") == contents
    assert await world.number("members_total") == 3


@on_both_loops
async def test_ranges_are_moved_by_the_kernel_too(world):
    await world.start()
    whole, places = world.tar("small", "large")
    first = places["large"] + 1_000_001
    cases = [
        (f"bytes={first}-{first + 3 * MIB}", first, first + 3 * MIB + 1),
        (f"bytes={first}-", first, len(whole)),
        (f"bytes=0-{first + 2 * MIB}", 0, first + 2 * MIB + 1),
    ]
    for range_, start, stop in cases:
        before = await world.spliced()
        response, body, broken = await world.get("small", "large", headers={"Range": range_})
        assert (response.status, broken) == (206, False)
        assert body == whole[start:stop]
        content = min(stop, places["large"] + LARGE.size) - max(start, places["large"])
        assert_spliced(await world.spliced() - before, content)


@in_both_ways
async def test_two_archives_at_once_get_their_own_bytes(world):
    await world.start()
    lists = [["large", "other"], ["other", "large"], ["small", "large"]]
    replies = await asyncio.gather(*(world.get(*ids) for ids in lists))
    for ids, (_, body, broken) in zip(lists, replies, strict=True):
        assert not broken
        assert body == world.tar(*ids)[0]


@on_both_loops
async def test_the_clients_connection_is_used_again(world):
    await world.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", world.gateway.port)
    for _ in range(3):
        writer.write(f"GET {archive_path(['large'])} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        whole, _ = world.tar("large")
        assert b"Content-Length: %d\r\n" % len(whole) in head
        assert await reader.readexactly(len(whole)) == whole
    writer.close()
    assert_spliced(await world.spliced(), *[LARGE.size] * 3)


@in_both_ways
async def test_aiohttp_knows_how_many_bytes_went(world):
    """It counts what is written; one that compares at the end must find all of it."""
    counted = []
    with pytest.MonkeyPatch.context() as patch:
        write_eof = StreamWriter.write_eof

        async def spy(self, *chunks):
            if self.length is not None:
                counted.append((self.length, self.output_size))
            await write_eof(self, *chunks)

        patch.setattr(StreamWriter, "write_eof", spy)
        await world.start()
        sock = await world.connect("large")
        size = len(world.tar("large")[0])
        answer = await received(sock, size)
    assert counted[0] == (0, len(answer))


@on_both_loops
async def test_what_was_written_before_goes_before(world):
    """Through buffers so small that a part of it waits in the transport when it is its turn."""
    await world.start()
    world.buffer_little()
    sock = await world.connect("small", "large", "other")
    whole, _ = world.tar("small", "large", "other")
    answer = await received(sock, len(whole), 16 * KIB)
    assert answer.partition(b"\r\n\r\n")[2] == whole
    assert_spliced(await world.spliced(), LARGE.size, OTHER.size)


@on_both_loops
async def test_what_still_waits_to_be_written_goes_before(world):
    """Though there be room for a pipe by then."""
    first, second = b"1" * 8 * MIB, b"2" * 64 * KIB
    sock = socket.socket()

    async def handler(request):
        response = WatchedResponse({}, len(first) + len(second), 10)
        ours, theirs = socket.socketpair()
        with ours, theirs, closing(Pipe()) as pipe:
            ours.sendall(second)
            assert pipe.fill(theirs.fileno(), len(second)) == len(second)
            await response.begin(request)
            request.transport.set_write_buffer_limits(2 * len(first))
            await response.send(first)
            assert request.transport.get_write_buffer_size()
            sock.setblocking(False)
            early.extend(sock.recv(4 * MIB))
            taking = asyncio.ensure_future(received(sock, len(first) + len(second), early=early))
            await response.splice()(pipe)
            answers.append(await taking)
        await response.flush()
        response.whole = True
        response.end()
        return response

    early, answers = bytearray(), []
    app = web.Application()
    app.router.add_get("/", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        with sock:
            sock.connect(("127.0.0.1", runner.addresses[0][1]))
            sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await until(lambda: answers)
    finally:
        await runner.cleanup()
    assert answers[0].partition(b"\r\n\r\n")[2] == first + second


@on_both_loops
async def test_whoever_had_a_connection_before_does_not_read_from_it(world):
    """A member that was opened ahead is complete, and gives its connection back, before it is read.

    To read it then lets aiohttp read from that connection, which is another download's by then.
    """
    world.origin.add("/huge", Made(16 * MIB, seed=4))
    world.origin.add("/tiny", Made(513, seed=5))
    await world.start()
    world.buffer_little()
    first = await world.connect("other", "tiny")
    await world.origin.until(
        lambda: [each for each in world.origin.asked("/tiny") if each.finished]
    )
    second = await world.connect("huge")
    early = await beginning(second)
    await wait_for(world, "spliced_bytes_total", lambda n: n > 0)
    await settled(world)
    whole, _ = world.tar("other", "tiny")
    assert (await received(first, len(whole))).endswith(whole)
    whole, _ = world.tar("huge")
    assert (await received(second, len(whole), early=early)).endswith(whole)
    (tiny,), (huge,) = world.origin.asked("/tiny"), world.origin.asked("/huge")
    assert tiny.connection == huge.connection


@in_both_ways
async def test_what_failed_before_its_turn_is_repaired(world):
    """An origin that stalls is noticed while a member that was opened ahead waits for its turn."""
    world.origin.objects["/large"].faults.append(faults.stall(at=10_000, times=1))
    protocols = []
    connection_made = ResponseHandler.connection_made

    def made(self, transport):
        protocols.append(self)
        connection_made(self, transport)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ResponseHandler, "connection_made", made)
        await world.start(upstream={"read_timeout": 0.3})
        world.buffer_little()
        sock = await world.connect("small", "large")
        await until(lambda: any(protocol.exception() for protocol in protocols))
    whole, _ = world.tar("small", "large")
    assert (await received(sock, len(whole))).endswith(whole)
    assert len(world.origin.asked("/large")) > 1


@on_both_loops
async def test_what_somebody_else_read_is_asked_for_anew(world):
    """Whoever that may be: what a transport reads is given to aiohttp, which counts it."""
    transports = {}
    connection_made, data_received = ResponseHandler.connection_made, ResponseHandler.data_received

    def made(self, transport):
        transports[self] = transport
        connection_made(self, transport)

    def received_one(self, data):
        data_received(self, data)
        if self.transport is None:
            transports[self].pause_reading()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ResponseHandler, "connection_made", made)
        patch.setattr(ResponseHandler, "data_received", received_one)
        await world.start()
        world.buffer_little()
        sock = await world.connect("large")
        early = await beginning(sock)
        await wait_for(world, "spliced_bytes_total", lambda n: n > 0)
        await settled(world)
        (taken_over,) = [
            transport
            for protocol, transport in transports.items()
            if protocol.transport is None and not transport.is_closing()
        ]
        taken_over.resume_reading()
        whole, _ = world.tar("large")
        assert (await received(sock, len(whole), early=early)).endswith(whole)
    assert len(world.origin.asked("/large")) == 2


async def beginning(sock):
    """As much of an answer as aiohttp may have read before, and a pipe."""
    answer = bytearray()
    while len(answer) < 2 * MIB:
        answer += await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, MIB), 10)
    return answer


async def received(sock, size, step=MIB, early=b""):
    """An answer with a body of so many bytes."""
    answer, stop = bytearray(early), None
    while stop is None or len(answer) < stop:
        chunk = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, step), 10)
        assert chunk
        answer += chunk
        if stop is None and b"\r\n\r\n" in answer:
            stop = answer.index(b"\r\n\r\n") + 4 + size
    return bytes(answer)


@on_both_loops
async def test_members_are_opened_ahead_meanwhile(world):
    """As far as they are within reach of what was moved."""
    world.origin.objects["/large"].faults.append(faults.stall(at=4 * MIB, times=1))
    await world.start(upstream={"ahead_bytes": 2 * MIB})
    getting = asyncio.ensure_future(world.get("large", "small"))
    await world.origin.until(lambda: world.origin.stalled)
    await world.origin.until(lambda: world.origin.asked("/small"))
    assert await world.spliced() > MIB
    world.origin.release()
    _, body, broken = await getting
    assert not broken
    assert body == world.tar("large", "small")[0]


# When an origin fails

BREAKS = [1, 700_000, 2 * MIB + 1, LARGE.size - splice.TAIL, LARGE.size - 1]


@pytest.mark.parametrize("kind", [faults.fin, faults.rst])
@pytest.mark.parametrize("at", BREAKS)
@in_both_ways
async def test_what_breaks_off_is_repaired_where_it_broke(world, kind, at):
    world.origin.objects["/large"].faults.append(kind(at=at, times=1))
    await world.start()
    _, body, broken = await world.get("small", "large", "other")
    assert not broken
    assert body == world.tar("small", "large", "other")[0]
    _, again = world.origin.asked("/large")
    assert again.headers["range"] == f"bytes={at}-{LARGE.size - 1}"
    assert await world.number("repairs_total", cause="broken") == 1
    # Nothing was asked for twice, and nothing is missing.
    assert await world.number("received_bytes_total") == LARGE.size + OTHER.size + SMALL.size
    longest = max(at, LARGE.size - at)
    least = OTHER.size + longest - 2 * (splice.TAIL + READ_BEFORE)
    await world.assert_moved(lambda spliced: spliced >= least)


@in_both_ways
async def test_an_origin_that_breaks_off_again_and_again_is_repaired_each_time(world):
    for at in range(500_000, LARGE.size, 500_000):
        world.origin.objects["/large"].faults.append(faults.fin(at=at, times=1))
    await world.start()
    _, body, broken = await world.get("large")
    assert not broken
    assert body == world.tar("large")[0]
    assert await world.number("repairs_total", cause="broken") == LARGE.size // 500_000


@in_both_ways
async def test_an_origin_that_stalls_is_asked_again_after_read_timeout(world):
    world.origin.objects["/large"].faults.append(faults.stall(at=2 * MIB, times=1))
    await world.start(upstream={"read_timeout": 0.3})
    _, body, broken = await world.get("large")
    assert not broken
    assert body == world.tar("large")[0]
    assert await world.number("repairs_total", cause="timeout") == 1
    assert world.origin.asked("/large")[1].headers["range"].startswith(f"bytes={2 * MIB}-")


@in_both_ways
async def test_an_origin_that_stalls_is_given_up_when_patience_ends(world):
    """It counts from the last byte, and the end is inside contents, after all that came."""
    world.origin.objects["/large"].faults.append(faults.stall(at=2 * MIB))
    world.origin.objects["/large"].faults.append(faults.late(statuses=[206]))
    await world.start(upstream={"read_timeout": 0.3, "patience": 0.8})
    _, body, broken = await world.get("large", "small")
    whole, places = world.tar("large", "small")
    assert broken
    assert body == whole[: places["large"] + 2 * MIB]


@in_both_ways
async def test_patience_counts_from_the_last_byte(world):
    world.origin.objects["/large"].faults.append(faults.drip(0.05, 150_000, at=2 * MIB))
    await world.start(upstream={"patience": 0.5})
    _, body, broken = await world.get("large")
    assert not broken
    assert body == world.tar("large")[0]
    assert len(world.origin.asked("/large")) == 1


@in_both_ways
async def test_an_origin_that_drips_is_asked_again(world):
    world.origin.objects["/large"].faults.append(faults.drip(0.05, at=2 * MIB, times=1))
    await world.start(upstream={"read_timeout": 0.4, "min_rate": 10_000})
    _, body, broken = await world.get("large")
    assert not broken
    assert body == world.tar("large")[0]
    assert await world.number("repairs_total", cause="slow") == 1


@in_both_ways
async def test_more_bytes_than_promised_are_nobodys(world):
    world.origin.objects["/large"].faults.append(faults.extra(b"x" * 100_000))
    await world.start()
    _, body, broken = await world.get("large", "other")
    assert not broken
    assert body == world.tar("large", "other")[0]


@in_both_ways
async def test_what_changed_is_never_continued(world):
    """All that came of the first version was passed on, and not a byte of the other."""
    at = 2 * MIB + 1
    large = world.origin.objects["/large"]
    large.faults += [faults.becomes(world.origin.objects["/other"], skip=1), faults.fin(at=at)]
    entry = {"id": "large", "url": world.origin.url("/large"), "etag": large.etag}
    await world.start([entry | {"size": LARGE.size, "mtime": MTIME}])
    _, body, broken = await world.get("large")
    whole, places = world.tar("large")
    assert broken
    assert body == whole[: places["large"] + at]
    await world.assert_moved(lambda spliced: at - READ_BEFORE <= spliced <= at)


# Clients, and the end of the process


def descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


@in_both_ways
async def test_a_client_that_leaves_leaves_nothing_behind(world):
    """Its origin is not asked again."""
    world.origin.add("/huge", Made(64 * MIB))
    await world.start()
    await world.get("large")  # what is kept is kept from here on
    await world.origin.until(lambda: not world.origin.open_connections)
    before = descriptors()
    for _ in range(3):
        sock = await world.connect("huge")
        await wait_for(world, "sent_bytes_total", lambda n: n > 2 * MIB)
        await settled(world)
        sock.close()
        await wait_for(world, "archives_in_flight", lambda n: n == 0)
    await world.origin.until(lambda: not world.origin.open_connections)
    assert len(world.origin.asked("/huge")) == 3
    assert await world.number("archives_total", outcome="client_left") == 3
    await until(lambda: descriptors() <= before)
    _, body, _ = await world.get("large")
    assert body == world.tar("large")[0]


@in_both_ways
async def test_a_client_that_stalls_is_ended_and_holds_little_until_then(world):
    world.origin.add("/huge", Made(64 * MIB))
    await world.start(limits={"stall_timeout": 1})
    await world.connect("huge")
    await wait_for(world, "archives_total", lambda n: n == 1, outcome="client_stalled")
    await world.origin.until(lambda: not world.origin.open_connections)
    (asked,) = world.origin.asked("/huge")
    assert asked.sent < 48 * MIB  # sockets, and a pipe
    assert await world.number("archives_in_flight") == 0


@in_both_ways
async def test_a_slow_client_has_stalled_only_when_it_takes_nothing(world):
    await world.start(limits={"stall_timeout": 0.5})
    sock = await world.connect("large")
    whole, _ = world.tar("large")
    loop, body = asyncio.get_running_loop(), bytearray()
    for _ in range(8):  # longer than the timeout, altogether
        body += await asyncio.wait_for(loop.sock_recv(sock, 20_000), 10)
        await asyncio.sleep(0.1)
    stop = body.index(b"\r\n\r\n") + 4 + len(whole)
    while len(body) < stop:
        body += await asyncio.wait_for(loop.sock_recv(sock, MIB), 10)
    assert body.endswith(whole)
    await world.assert_moved(lambda spliced: spliced > MIB)


@in_both_ways
async def test_what_is_cut_at_shutdown_is_a_prefix_that_ends_inside_contents(world):
    world.origin.objects["/large"].faults.append(faults.stall(at=3 * MIB))
    await world.start()
    getting = asyncio.ensure_future(world.get("large", "small"))
    await world.origin.until(lambda: world.origin.stalled)
    await wait_for(world, "sent_bytes_total", lambda n: n >= 3 * MIB)
    assert await world.gateway.gateway.cut() == 1
    _, body, broken = await getting
    whole, places = world.tar("large", "small")
    assert broken
    assert body == whole[: places["large"] + 3 * MIB]
    await world.origin.until(lambda: not world.origin.open_connections)


async def wait_for(world, name, condition, **labels):
    """Wait until a number is as it should be."""
    deadline = asyncio.get_running_loop().time() + 30
    while not condition(value := await world.number(name, **labels)):
        assert asyncio.get_running_loop().time() < deadline, value
        await asyncio.sleep(0.01)


async def settled(world):
    """Wait until no byte more can be sent."""
    before = -1.0
    while before != (before := await world.number("sent_bytes_total")):
        await asyncio.sleep(0.1)


# What takes the ordinary path


@on_both_loops
async def test_it_may_be_switched_off(world):
    await world.start(server={"zero_copy": False})
    _, body, _ = await world.get("large")
    assert body == world.tar("large")[0]
    assert await world.spliced() == 0


@contextmanager
def reads():
    """What is asked of sockets that are read past aiohttp, in bytes."""
    wanted = []

    def read(descriptor, size):
        wanted.append(size)
        return os.read(descriptor, size)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bypass, "os", SimpleNamespace(read=read))
        yield wanted


@pytest.mark.parametrize(("seconds", "most"), [(60, portion.MOST), (-1, portion.LEAST)])
@on_both_loops
async def test_it_is_read_in_pieces_that_its_client_takes_fast(world, seconds, most):
    world.origin.add("/huge", Made(24 * MIB, seed=4))
    with reads() as wanted, pytest.MonkeyPatch.context() as patch:
        patch.setattr(portion, "SECONDS", seconds)
        await world.start(server={"zero_copy": False})
        _, body, _ = await world.get("huge", "large", "small")
    assert body == world.tar("huge", "large", "small")[0]
    assert wanted[0] == portion.LEAST
    assert max(wanted) == most
    # Connections that were read past aiohttp are closed: no other request was on them.
    used = [each.connection for id_ in ("huge", "large") for each in world.origin.asked(f"/{id_}")]
    assert len(set(used)) == 2


@on_both_loops
async def test_who_becomes_slow_is_given_little_again(world):
    world.origin.add("/huge", Made(64 * MIB, seed=4))
    with reads() as wanted, pytest.MonkeyPatch.context() as patch:
        patch.setattr(portion, "SECONDS", 0.4)
        patch.setattr(portion, "TRUST", MIB)
        await world.start(server={"zero_copy": False})
        sock = await world.connect("huge")
        whole, _ = world.tar("huge")
        early = bytearray()
        while portion.MOST not in wanted:
            early += await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, MIB), 10)
        await settled(world)
        await asyncio.sleep(0.5)
        known = len(wanted)
        while portion.LEAST not in wanted[known:]:
            early += await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, MIB), 10)
        assert (await received(sock, len(whole), early=early)).endswith(whole)


@on_both_loops
async def test_less_than_a_new_connection_is_worth_is_read_by_aiohttp(world):
    await world.start(server={"zero_copy": False})
    with reads() as wanted:
        for _ in range(2):
            _, body, _ = await world.get("other")
            assert body == world.tar("other")[0]
    assert OTHER.size < bypass.READ < LARGE.size
    assert wanted == []
    first, second = world.origin.asked("/other")
    assert first.connection == second.connection


@pytest.mark.parametrize("format_", ["zip", "tar.gz", "tar.zst"])
@on_both_loops
async def test_what_has_to_be_seen_is_not_moved_unseen(world, format_):
    await world.start()
    response, body, broken = await world.get("large", format=format_)
    assert (response.status, broken) == (200, False)
    assert body
    assert await world.spliced() == 0


@pytest.mark.parametrize("digest", ["sha256", "crc32"])
@on_both_loops
async def test_a_stated_digest_is_verified(world, digest):
    entry = {"id": "large", "url": world.origin.url("/large")}
    await world.start([entry | {digest: "0" * (64 if digest == "sha256" else 8)}])
    _, body, broken = await world.get("large")
    whole, _ = world.tar("large")
    assert broken
    assert whole.startswith(body)
    assert await world.spliced() == 0
    # Of a part of the contents no digest is known, so nobody has to see it.
    part = {"Range": f"bytes=100000-{4 * MIB}"}
    _, body, broken = await world.get("large", headers=part)
    assert body == whole[100_000 : 4 * MIB + 1]
    assert await world.spliced() > 0


@pytest.mark.parametrize(
    "fault", [faults.chunked(), faults.close_delimited(), faults.ignores("Range")]
)
@on_both_loops
async def test_a_body_that_something_may_follow_is_read_by_aiohttp(world, fault):
    world.origin.objects["/large"].faults.append(fault)
    await world.start()
    whole, _ = world.tar("large")
    first = MIB if fault.name == "ignores" else 0
    headers = {"Range": f"bytes={first}-{4 * MIB}"} if first else None
    _, body, broken = await world.get("large", headers=headers)
    assert not broken
    assert body == (whole[first : 4 * MIB + 1] if first else whole)
    assert await world.spliced() == 0


@on_both_loops
async def test_a_sandbox_may_forbid_it(world):
    def forbidden(*_, **__):
        raise PermissionError(errno.EPERM, "by seccomp")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splice, "splice", forbidden)
        splice._available.cache_clear()
        await world.start()
        _, body, _ = await world.get("large")
        assert body == world.tar("large")[0]
        assert await world.spliced() == 0
    splice._available.cache_clear()


@pytest.mark.parametrize("spare", [0, 1, 2, 3])
def test_without_descriptors_to_try_it_with_it_is_tried_again_later(spare):
    """What is lacking then is no property of the system, and nothing is left open."""
    program = """
import os, resource, sys
from tarstream import splice
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
taken = []
try:
    while True:
        taken.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    pass
for _ in range(int(sys.argv[1])):
    os.close(taken.pop())
assert not splice.available()
for descriptor in taken:
    os.close(descriptor)
assert splice.available()
assert len(os.listdir("/proc/self/fd")) <= 4
"""
    command = [sys.executable, "-W", "error", "-c", program, str(spare)]
    subprocess.run(command, check=True, timeout=30, cwd=ROOT)


@on_both_loops
async def test_where_no_pipe_is_to_be_had_it_is_read(world):
    with pytest.MonkeyPatch.context() as patch, reads() as wanted:
        patch.setattr(splice, "PIPE", 2**31 - 1)  # more than anybody gets
        await world.start()
        _, body, _ = await world.get("large", "other")
        assert body == world.tar("large", "other")[0]
        assert await world.spliced() == 0
    assert sum(wanted) >= LARGE.size - READ_BEFORE


@on_both_loops
async def test_where_no_descriptor_is_to_be_had_aiohttp_reads_it(world):
    def none(_):
        raise OSError(errno.EMFILE, "too many")

    with pytest.MonkeyPatch.context() as patch, reads() as wanted:
        patch.setattr(bypass, "Descriptor", none)
        await world.start()
        _, body, _ = await world.get("large")
        assert body == world.tar("large")[0]
        assert await world.spliced() == 0
    assert wanted == []


@on_both_loops
async def test_an_aiohttp_that_is_not_as_we_know_it_is_left_alone(world):
    """What it may be one day: without an attribute that is used here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(ResponseHandler, "read_timeout")
        await world.start()
        _, body, _ = await world.get("small", "large")
        assert body == world.tar("small", "large")[0]
        assert await world.spliced() == 0


def test_each_attribute_of_an_answer_is_looked_for_before_its_connection_is_taken():
    protocol = dict.fromkeys(bypass.PROTOCOL)
    content = {"total_bytes": 0}

    def found(protocol, content):
        connection = SimpleNamespace(protocol=SimpleNamespace(**protocol))
        answer = SimpleNamespace(connection=connection, content=SimpleNamespace(**content))
        return bypass._protocol(answer) is not None

    assert found(protocol, content)
    for name in protocol:
        assert not found({key: None for key in protocol if key != name}, content)
    assert not found(protocol, {})


async def test_each_attribute_of_a_client_is_looked_for_before_anything_is_sent(origin):
    _, writer = await asyncio.open_connection("127.0.0.1", origin.root.rpartition(":")[2])
    known = {"length": 10, "output_size": 0}
    for missing in (None, *known):
        response = WatchedResponse({}, 10, stall_timeout=5)
        has = {name: value for name, value in known.items() if name != missing}
        response._request = SimpleNamespace(
            transport=writer.transport, writer=SimpleNamespace(**has)
        )
        assert (response.splice() is None) == (missing is not None)
        response.end()
    writer.close()
    await writer.wait_closed()


def test_where_there_is_no_splice_all_is_read_and_written(tmp_path):
    without = tmp_path / "without"
    without.mkdir()
    (without / "sitecustomize.py").write_text("import os\ndel os.splice\n")
    with Origin().in_thread() as origin:
        origin.add("/large", LARGE)
        config = f"""
            [catalog]
            kind = "template"
            url = "{origin.root}/{{id}}"
            [upstream]
            allow = ["{origin.root}"]
            """
        for environment, spliced in (({"PYTHONPATH": str(without)}, False), ({}, True)):
            with process(tmp_path, config, environment=environment) as gateway:
                assert fetched(gateway.url(["large"]))[512 : 512 + LARGE.size] == LARGE.read()
                assert (spliced_by(gateway) > 0) == spliced


@contextmanager
def tls_origin(directory):
    """A server of what lies in a directory, and the certificate that it has."""
    key, certificate = directory / "key.pem", directory / "certificate.pem"
    names = "subjectAltName=DNS:localhost"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=x"
    subprocess.run(
        [*command.split(), "-addext", names, "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    class Handler(SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=directory)
    ) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1], certificate
        finally:
            server.shutdown()
            thread.join()


def test_tls_is_not_moved_unseen(tmp_path):
    (tmp_path / "large").write_bytes(LARGE.read())
    with tls_origin(tmp_path) as (port, certificate):
        config = f"""
            [catalog]
            kind = "template"
            url = "https://localhost:{port}/{{id}}"
            [upstream]
            allow = ["https://localhost:{port}"]
            """
        with process(tmp_path, config, environment={"SSL_CERT_FILE": str(certificate)}) as gateway:
            assert fetched(gateway.url(["large"]))[512 : 512 + LARGE.size] == LARGE.read()
            assert spliced_by(gateway) == 0


@on_both_loops
async def test_a_tls_connection_is_not_plain(world):
    """On either side: of clients too, should they ever come so."""
    with tls_origin(world.directory) as (port, certificate):
        context = ssl.create_default_context(cafile=certificate)
        _, writer = await asyncio.open_connection("localhost", port, ssl=context)
        assert not splice.is_plain(writer.transport)
        writer.close()
        await writer.wait_closed()
    _, writer = await asyncio.open_connection("127.0.0.1", world.origin.port)
    assert splice.is_plain(writer.transport)
    writer.close()
    assert not splice.is_plain(writer.transport)


def fetched(url):
    return subprocess.run(["curl", "-sf", url], check=True, capture_output=True).stdout


def spliced_by(gateway):
    text = fetched(f"http://127.0.0.1:{gateway.port}/metrics").decode()
    return number_in(text, "spliced_bytes_total", {})


# Pipes


def test_nobody_has_more_pipes_than_the_system_gives_him():
    """Root has no limit, so somebody else tries."""
    script = """
import os
from tarstream.splice import Pipe
if not os.geteuid():
    os.setgroups([])
    os.setuid(65534)
pipes = []
try:
    while len(pipes) < 20_000:
        pipes.append(Pipe())
except PermissionError:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        try:
            Pipe()
        except PermissionError:
            pass
    assert len(os.listdir("/proc/self/fd")) == before
    print("refused")
"""
    command = [sys.executable, "-c", script]
    ran = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    assert ran.stdout == "refused\n"


def test_memory_does_not_grow_with_a_member(tmp_path):
    with Origin().in_thread() as origin:
        origin.add("/large", LARGE)
        origin.add("/huge", Made(128 * MIB))
        config = f"""
            [catalog]
            kind = "template"
            url = "{origin.root}/{{id}}"
            [upstream]
            allow = ["{origin.root}"]
            """
        with process(tmp_path, config) as gateway:
            fetched(gateway.url(["large"]))
            gateway.forget_peak_memory()
            before = gateway.peak_memory()
            assert len(fetched(gateway.url(["huge"]))) > 128 * MIB
            assert spliced_by(gateway) > 128 * MIB
            assert gateway.peak_memory() - before < 2 * MIB
