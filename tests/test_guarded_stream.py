"""Of an archive on its way, what no other test would miss: see `guards/stream.py`."""

import asyncio
import logging
import socket
from contextlib import asynccontextmanager
from copy import deepcopy

import faults
import pytest
from gateway import archive_path, raw
from made import Made
from origin import Origin
from test_stores import Sink, any_address
from test_transfer import FAR, Client, literal, member, remote

from tarstream.digests import Digests
from tarstream.errors import ObjectChanged, ObjectMissing
from tarstream.formats import tar
from tarstream.layout import Layout
from tarstream.memory import LocalMemory
from tarstream.observer import Observer
from tarstream.stores import bypass
from tarstream.stores.http import HttpStore, session
from tarstream.stores.limit import Slots
from tarstream.stores.literal import LiteralStore
from tarstream.stores.retry import Retrying
from tarstream.transfer import MemberFailed, Reach, Supply, Transfer

__all__ = ["remote"]

SMALL = 4096  # bytes of a socket buffer, which Linux doubles
LITTLE = 60_000  # bytes that our buffer takes at once, and sockets as small as that do not


class Lying(LiteralStore):
    """What is missing is known at once; what is short has a byte less than was planned."""

    @asynccontextmanager
    async def open(self, source, start, stop, size, validator):
        if source.startswith(b"missing"):
            raise ObjectMissing("it is not there")
        async with super().open(source, start, stop, size, validator) as body:
            if source.startswith(b"short"):
                body._data = body._data[:-1]
            yield body


def transfer_of(layout, store, slots=None, reach=FAR):
    supply = Supply(store, slots or Slots(20, 9**9), reach, Observer())
    return Transfer(layout.slice(0, layout.size), Digests([], LocalMemory(0)), supply)


def request_for(ids, **headers):
    lines = [f"GET {archive_path(ids)} HTTP/1.1", "Host: x", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def outcomes(caplog):
    return [r.fields["outcome"] for r in caplog.records if r.message == "archive"]


# Where it may end


async def test_a_header_leaves_before_its_contents_are_waited_for(origin, remote):
    """What is held back meanwhile is lost when this process ends, and a proxy hears nothing."""
    store, slots = remote
    first = member(origin, "/a", b"a" * 1000)
    second = member(origin, "/b", b"b" * 1000, faults.late())
    layout = Layout(tar, [first, second])
    client = Client()
    task = asyncio.create_task(transfer_of(layout, store, slots).run(client.begin))
    await origin.until(lambda: origin.stalled == 1)
    await origin.until(lambda: len(client.data) == layout.content_start(1))
    origin.release()
    await task
    assert len(client.data) == layout.size


@pytest.mark.parametrize("size", [0, 1, 512, 65_024, 65_536, 200_000])
async def test_a_member_that_is_known_to_be_missing_is_begun_and_not_given(size):
    """Also when that was known before its turn, and nothing had to be waited for."""
    contents = [b"x" * 100, b"x" * size, b"missing"]
    layout = Layout(tar, literal(*contents))
    transfer = transfer_of(layout, Retrying(Lying(), attempts=1, patience=5))
    client = Client()
    with pytest.raises(MemberFailed) as failed:
        await transfer.run(client.begin)
    assert failed.value.member is layout.members[2]
    assert len(client.data + transfer.abort()) == layout.content_start(2)


# How it ends


async def test_a_body_is_counted_whatever_store_it_is_of():
    """A store that is yet to be written may give less than it was asked for."""
    layout = Layout(tar, literal(b"x" * 700, b"short" * 1000, b"y" * 700))
    transfer = transfer_of(layout, Retrying(Lying(), attempts=1, patience=5))
    client = Client()
    with pytest.raises(MemberFailed) as failed:
        await transfer.run(client.begin)
    assert isinstance(failed.value.cause, ObjectChanged)
    sent = client.data + transfer.abort()
    assert layout.content_start(1) <= len(sent) < layout.content_start(1) + 5000


async def test_a_member_that_gives_fewer_bytes_ends_the_archive(origin, start):
    """What the client has received is the archive's beginning, and nothing in another place."""
    a, b = Made(50_001, seed=1), Made(50_001, seed=2)
    origin.add("/a", a, faults.close_delimited(), faults.fin(at=40_000))
    origin.add("/b", b)
    gateway = await start(origin, upstream={"attempts": 1})
    received = await raw(gateway.port, request_for(["a", "b"]))
    body = received.partition(b"\r\n\r\n")[2]
    assert 512 <= len(body) <= 512 + 40_000
    assert a.read().startswith(body[512:])


@pytest.mark.parametrize("by", [-100, 100])
async def test_an_archive_that_is_not_as_long_as_announced_is_a_failure(
    origin, start, monkeypatch, caplog, by
):
    """Whatever mistake of ours it is: aiohttp would wait for the rest, or clip in silence."""
    caplog.set_level(logging.INFO)
    origin.add("/a", Made(5000))
    gateway = await start(origin)
    sliced = Layout.slice
    monkeypatch.setattr(Layout, "slice", lambda self, a, b: sliced(self, a, b + by))
    received = await raw(gateway.port, request_for(["a"], Range="bytes=0-999"))
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"\r\nContent-Length: 1000\r\n" in head
    assert len(body) < 1000
    await origin.until(lambda: outcomes(caplog))
    assert outcomes(caplog) == ["internal error"]


@asynccontextmanager
async def unread(gateway, ids):
    """A client that asks and reads nothing, until some of its answer is in our own buffer."""
    for site in gateway.runner.sites:
        for listener in site._server.sockets:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)  # inherited
    loop = asyncio.get_running_loop()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
        client.setblocking(False)
        await loop.sock_connect(client, ("127.0.0.1", gateway.port))
        await loop.sock_sendall(client, request_for(ids))
        async with asyncio.timeout(20):
            while not any(held(each) for each in gateway.runner.server.connections):
                await asyncio.sleep(0.002)
        yield client


def held(connection):
    transport = connection.transport
    return transport is not None and transport.get_write_buffer_size()


async def read_all(client):
    data = bytearray()
    async with asyncio.timeout(20):
        while chunk := await asyncio.get_running_loop().sock_recv(client, 1 << 16):
            data += chunk
    return bytes(data)


@pytest.mark.parametrize(
    ("entry", "outcome"), [({}, "complete"), ({"crc32": "00000000"}, "failed")]
)
async def test_an_archive_holds_its_place_until_its_last_bytes_have_left(
    origin, start, client, caplog, entry, outcome
):
    """Or a process that drains would end with them, and call it done."""
    caplog.set_level(logging.INFO)
    url = origin.add("/a", Made(LITTLE))
    entries = [{"id": "a", "url": url, **entry}, {"id": "b", "url": origin.add("/b", b"b")}]
    gateway = await start(origin, entries, limits={"max_archives": 1})
    async with unread(gateway, ["a"]) as reader:
        for _ in range(5):
            async with client.get(gateway.url(["b"])) as answer:
                assert answer.status == 503
        assert outcomes(caplog) == []
        received = await read_all(reader)
    body = received.partition(b"\r\n\r\n")[2]
    assert body[512 : 512 + LITTLE] == Made(LITTLE).read()[: len(body) - 512]
    assert (len(body) > 512 + LITTLE) == (outcome == "complete")
    await origin.until(lambda: outcomes(caplog) == [outcome])


# Origins' connections


async def test_little_is_held_for_a_client_that_stopped_reading(monkeypatch):
    big = Made(16 << 20)
    # Read by aiohttp, as what comes by TLS. The origin gives up on who takes nothing for so long.
    monkeypatch.setattr(bypass, "READ", big.size + 1)
    async with (
        Origin(send_timeout=0.5) as origin,
        session(5, 30, any_address) as http,
    ):
        url = origin.add("/object", big)
        etag = origin.objects["/object"].etag
        sink = Sink()
        sink.gate.clear()
        async with HttpStore(http).open(url, 0, big.size, big.size, etag) as body:
            task = asyncio.create_task(body.copy_to(sink))
            await origin.until(lambda: origin.open_connections == 0)
            assert body._content.total_bytes == len(sink.data) < 400 * 1024
            task.cancel()
            await asyncio.wait([task])


async def test_little_is_held_of_a_member_whose_turn_has_not_come():
    big = Made(16 << 20)
    async with (
        Origin(send_timeout=0.5) as origin,
        session(5, 30, any_address) as http,
    ):
        url = origin.add("/object", big)
        etag = origin.objects["/object"].etag
        async with HttpStore(http).open(url, 0, big.size, big.size, etag) as body:
            await origin.until(lambda: origin.open_connections == 0)
            # A read of a socket brings 256 KiB at most, whatever is there already.
            assert body._content.total_bytes < 400 * 1024


async def test_slow_clients_do_not_hold_up_others(origin, start, client):
    """More of them than aiohttp has connections when nobody says how many."""
    slow = 110
    origin.add("/slow", Made(100_000), faults.stall(at=50_000))
    origin.add("/other", b"hello")
    gateway = await start(origin)
    asking = [asyncio.create_task(client_of(gateway, "slow")) for _ in range(slow)]
    await origin.until(lambda: origin.stalled == slow, 30)
    async with client.get(gateway.url(["other"])) as answer:
        assert answer.status == 200
        assert len(await answer.read()) == 2048
    for each in asking:
        each.cancel()
    await asyncio.wait(asking)


async def client_of(gateway, id_):
    return await raw(gateway.port, request_for([id_]), 60)


async def test_what_is_being_sent_takes_no_place_of_what_is_opened_ahead(origin, remote):
    store, _ = remote
    slots = Slots(8, 1024**2)
    before = deepcopy(vars(slots))
    first = member(origin, "/a", b"a" * 1000)
    second = member(origin, "/b", b"b" * 1000, faults.stall(at=500))
    layout = Layout(tar, [first, second])
    client = Client()
    task = asyncio.create_task(transfer_of(layout, store, slots, Reach(8, 9**9)).run(client.begin))
    await origin.until(lambda: len(client.data) == layout.content_start(1) + 500)
    assert vars(slots) == before
    origin.release()
    await task


# How tests are made


async def test_an_origin_hands_head_and_contents_to_the_kernel_at_once(origin, monkeypatch):
    """In two writes they wait for each other: Nagle's algorithm and delayed acknowledgements."""
    loop = asyncio.get_running_loop()
    sendall, written = loop.sock_sendall, []

    async def counted(sock, data):
        written.append(bytes(data))
        await sendall(sock, data)

    monkeypatch.setattr(loop, "sock_sendall", counted)
    origin.add("/small", b"small")
    asked = b"GET /small HTTP/1.1\r\nConnection: close\r\n\r\n"
    assert await raw(origin.port, asked) == b"".join(written)
    assert len(written) == 1
