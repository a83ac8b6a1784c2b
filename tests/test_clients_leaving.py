"""Clients that leave, and clients that stop reading: nothing of theirs is kept or waited for."""

import asyncio
import contextlib
import gc
import logging
import socket
import statistics
import struct

import faults
import pytest
from crowd import Crowd, Usage, measured, room_for_a_crowd, until
from gateway import process
from origin import Made

from tarstream.response import WatchedResponse
from tarstream.transfer import Transfer

MANY = 20_000
IDS = ",".join(map(str, range(MANY)))  # whose plan has some megabytes
SMALL = 8192  # bytes of a socket buffer, which Linux doubles


class Client:
    """A client that reads when it wants to, through buffers that hold next to nothing."""

    def __init__(self):
        self._socket = socket.socket()
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)

    async def ask(self, gateway, target, *, body="", accept="*/*"):
        method = "POST" if body else "GET"
        request = (
            f"{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAccept: {accept}\r\n"
            f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(body)}\r\n"
        )
        loop = asyncio.get_running_loop()
        await loop.sock_connect(self._socket, ("127.0.0.1", gateway.port))
        await loop.sock_sendall(self._socket, f"{request}\r\n{body}".encode())

    async def read(self, size=1 << 16):
        """At most `size` bytes; b"" when the other side has closed."""
        loop = asyncio.get_running_loop()
        return await asyncio.wait_for(loop.sock_recv(self._socket, size), 10)

    async def read_all(self):
        """All that comes until the other side closes."""
        data = bytearray()
        while chunk := await self.read():
            data += chunk
        return bytes(data)

    def leave(self, how="FIN"):
        if how == "RST":
            linger = struct.pack("ii", 1, 0)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._socket.close()


@pytest.fixture
async def connect():
    """Makes clients; whoever has not left leaves at the end."""
    with contextlib.ExitStack() as stack:

        async def connect(gateway, target, **options):
            client = Client()
            stack.callback(client.leave)
            await client.ask(gateway, target, **options)
            return client

        yield connect


@pytest.fixture(autouse=True)
def _everything_is_logged(caplog):
    caplog.set_level(logging.INFO)


@pytest.fixture
async def gateway(origin, start):
    origin.send_buffer = SMALL
    origin.faults.append(faults.puts("Connection", "close"))  # so that none is kept for later
    return small(await start(origin, limits={"max_archives": 1}))


def small(gateway):
    """A gateway whose connections have small send buffers: they inherit them."""
    for site in gateway.runner.sites:
        for sock in site._server.sockets:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)
    return gateway


def tasks():
    """Whatever else is going on."""
    return asyncio.all_tasks() - {asyncio.current_task()}


@pytest.fixture
async def gone(origin, gateway, caplog, connect):
    """Call it when the client has left: waits until nothing of it is left, and says if not."""
    before = tasks()

    async def gone(outcome="client left"):
        await origin.until(lambda: origin.in_flight == 0 and origin.open_connections == 0)
        await origin.until(lambda: tasks() <= before)
        outcomes = [r.fields["outcome"] for r in caplog.records if r.message == "archive"]
        assert outcomes == ([outcome] if outcome else [])
        assert not [record for record in caplog.records if record.exc_info]
        if outcome in {None, "client left"}:
            assert not [r for r in caplog.records if r.levelno >= logging.WARNING]
        # And there is room for the next one.
        origin.add("/next", b"")
        client = await connect(gateway, "/archive?ids=next")
        assert (await client.read_all()).startswith(b"HTTP/1.1 200 ")

    return gone


def entries(origin):
    """Entries that leave nothing to ask for."""
    return [
        {"id": f"{n}", "url": f"{origin.root}/{n}", "size": 0, "mtime": 1, "etag": '"1"'}
        for n in range(MANY)
    ]


HOW = pytest.mark.parametrize("how", ["FIN", "RST"])


@HOW
@pytest.mark.parametrize("route", ["/archive", "/plan"])
async def test_while_the_origin_is_asked_what_it_has(origin, gateway, connect, gone, how, route):
    origin.add("/a", b"hello", faults.late(methods=("HEAD",)))
    client = await connect(gateway, f"{route}?ids=a")
    await origin.until(lambda: origin.stalled)
    client.leave(how)
    await gone(outcome=None)


@HOW
async def test_while_the_first_member_is_opened(origin, gateway, connect, gone, how):
    origin.add("/a", b"hello", faults.late(methods=("GET",)))
    client = await connect(gateway, "/archive?ids=a")
    await origin.until(lambda: origin.asked("/a") and origin.stalled)
    client.leave(how)
    await gone()


@HOW
async def test_while_the_origin_stalls_in_the_middle(origin, gateway, connect, gone, how):
    origin.add("/a", Made(300_000), faults.stall(at=100_000))
    client = await connect(gateway, "/archive?ids=a")
    received = 0
    while received < 100_000:
        received += len(await client.read())
    client.leave(how)
    await gone()


@HOW
async def test_while_the_gateway_waits_before_it_tries_again(origin, gateway, connect, gone, how):
    unavailable = faults.status(503, retry_after="30", skip=1, methods=("GET",))
    origin.add("/a", Made(300_000), faults.fin(at=1000), unavailable)
    client = await connect(gateway, "/archive?ids=a")
    await origin.until(lambda: origin.fired["status"])
    client.leave(how)
    await gone()


@HOW
async def test_while_it_is_being_sent(origin, gateway, connect, gone, how):
    origin.add("/a", Made(64 << 20))
    client = await connect(gateway, "/archive?ids=a")
    for _ in range(20):
        await client.read()
    client.leave(how)
    await gone()


@HOW
async def test_while_it_reads_nothing_and_members_are_open_ahead(
    origin, gateway, connect, gone, how
):
    for id_ in "abc":
        origin.add(f"/{id_}", Made(200_000))
    client = await connect(gateway, "/archive?ids=a,b,c")
    await origin.until(lambda: all(origin.asked(f"/{id_}") for id_ in "abc"))
    client.leave(how)
    await gone()


PLANS = pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson"])


@HOW
@PLANS
async def test_while_a_long_plan_is_being_sent(origin, start, connect, caplog, how, accept):
    gateway = small(await start(origin, entries(origin), limits={"max_members": MANY}))
    before = tasks()
    client = await connect(gateway, "/plan", body=f"ids={IDS}", accept=accept)
    assert (await client.read(17)).startswith(b"HTTP/1.1 200 ")
    client.leave(how)
    await origin.until(lambda: tasks() <= before)
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


@pytest.mark.parametrize(
    ("target", "accept"),
    [
        ("/archive?ids=a", "*/*"),
        ("/archive?ids=broken", "*/*"),
        ("/plan?ids=a", "application/json"),
        ("/plan?ids=a", "application/x-ndjson"),
    ],
)
async def test_in_the_very_moment_of_the_answer(origin, start, connect, caplog, target, accept):
    """As many turns of the event loop after the origin's answer as there may be to ours."""
    origin.add("/a", b"hello", faults.late(methods=("HEAD",)))
    origin.add("/broken", b"", faults.late(), faults.status(418))
    origin.faults.append(faults.puts("Connection", "close"))
    gateway = await start(origin, upstream={"remember": 0})
    before = tasks()
    for turns in range(40):
        client = await connect(gateway, target, accept=accept)
        await origin.until(lambda: origin.stalled)
        origin.release()
        for _ in range(turns):
            await asyncio.sleep(0)
        client.leave("RST")
        await origin.until(lambda: tasks() <= before)
    assert not [r for r in caplog.records if r.exc_info or r.levelno > logging.WARNING]
    assert {r.name for r in caplog.records} <= {"tarstream.download", "tarstream.problem"}


@HOW
async def test_what_was_being_sent_is_let_go_at_once(origin, gateway, connect, gone, how):
    """Not when the collector comes round: a thousand of them would hold half a GiB until then."""
    origin.add("/a", Made(64 << 20))
    gc.collect()  # what earlier tests left
    client = await connect(gateway, "/archive?ids=a")
    await client.read()
    gc.disable()
    try:
        client.leave(how)
        await gone()
        assert not [thing for thing in gc.get_objects() if issubclass(type(thing), Transfer)]
    finally:
        gc.enable()


# Clients that stop reading


@pytest.mark.parametrize("size", [60_000, 64 << 20])
async def test_a_client_that_accepts_nothing_is_ended(origin, start, connect, gone, caplog, size):
    """Also when all that is left to send waits in a buffer of ours."""
    gateway = small(await start(origin, limits={"stall_timeout": 0.4}))
    origin.add("/a", Made(size))
    client = await connect(gateway, "/archive?ids=a")
    await origin.until(lambda: caplog.records)
    assert caplog.records[0].levelno == logging.WARNING
    await gone("client stalled")
    assert len(await client.read_all()) < size


async def test_a_download_that_failed_does_not_wait_for_its_client(origin, start, connect, caplog):
    origin.send_buffer = SMALL
    origin.add("/a", Made(60_000), faults.fin(at=50_000))
    limits = {"stall_timeout": 0.4}
    gateway = small(await start(origin, limits=limits, upstream={"attempts": 1}))
    client = await connect(gateway, "/archive?ids=a")
    await origin.until(lambda: caplog.records)
    assert caplog.records[0].fields["outcome"] == "failed"
    await origin.until(lambda: not gateway.runner.server.connections)
    assert len(await client.read_all()) < 50_000


@PLANS
@pytest.mark.parametrize("number", [500, MANY])
async def test_a_client_that_accepts_nothing_of_a_plan_is_ended(
    origin, start, connect, accept, number
):
    limits = {"max_members": MANY, "stall_timeout": 0.4}
    gateway = small(await start(origin, entries(origin), limits=limits))
    ids = ",".join(IDS.split(",")[:number])
    client = await connect(gateway, "/plan", body=f"ids={ids}", accept=accept)
    await origin.until(lambda: gateway.runner.server.connections)
    await origin.until(lambda: not gateway.runner.server.connections)
    assert len(await client.read_all()) < number * 80


async def test_a_client_that_accepts_nothing_of_a_refusal_is_ended(origin, start, connect):
    """20,000 ids that are unknown are all listed, which is more than the buffers hold."""
    limits = {"max_members": MANY, "stall_timeout": 0.4}
    gateway = small(await start(origin, [], limits=limits))
    before = tasks()
    client = await connect(gateway, "/archive", body=f"ids={IDS}")
    await origin.until(lambda: not tasks() <= before)
    await origin.until(lambda: tasks() <= before)
    assert len(await client.read_all()) < MANY * 20


async def test_nothing_of_an_answer_is_kept(origin, start, connect):
    """Whatever watched the client, or was to be sent to it."""
    origin.add("/a", b"hello")
    gateway = await start(origin)
    for target, status in (
        ("/archive?ids=a", b"200"),
        ("/plan?ids=a", b"200"),
        ("/archive?ids=../a", b"404"),
        ("/archive", b"400"),
    ):
        client = await connect(gateway, target)
        assert (await client.read_all()).startswith(b"HTTP/1.1 %b " % status)

    def kept():
        gc.collect()
        return [thing for thing in gc.get_objects() if issubclass(type(thing), WatchedResponse)]

    await origin.until(lambda: not kept())


async def test_a_client_that_reads_slowly_is_not_ended(origin, start, connect, caplog):
    """However long it takes altogether: here some three times `stall_timeout`."""
    origin.send_buffer = SMALL
    origin.add("/a", Made(240_000))
    gateway = small(await start(origin, limits={"stall_timeout": 1}))
    client = await connect(gateway, "/archive?ids=a")
    received = bytearray()
    while chunk := await client.read(8192):
        received += chunk
        await asyncio.sleep(0.1)  # this is what it is like
    _, _, body = received.partition(b"\r\n\r\n")
    assert body[512:240_512] == Made(240_000).read()
    await origin.until(lambda: caplog.records)
    assert caplog.records[0].fields["outcome"] == "complete"


async def test_an_origin_that_stalls_is_not_its_clients_fault(origin, start, connect, caplog):
    origin.add("/a", Made(100_000), faults.stall(3, at=50_000))
    gateway = small(await start(origin, limits={"stall_timeout": 1}))
    client = await connect(gateway, "/archive?ids=a")
    assert len(await client.read_all()) > 100_000
    await origin.until(lambda: caplog.records)
    assert caplog.records[0].fields["outcome"] == "complete"


# Ten thousand of them

WAVE = 250  # clients at a time
WAVES = 40

LEAVING = {
    "while its members are asked for": "/archive?ids=late-head",
    "while a plan is made": "/plan?ids=late-head",
    "while the first member is opened": "/archive?ids=late-get",
    "while the second member is waited for": "/archive?ids=a,late-get",
    "in the body": "/archive?ids=stalls",
}


@pytest.mark.timeout(1200)
async def test_ten_thousand_clients_that_left_have_left_nothing(origin, tmp_path):
    """Nothing but noticing can free what they held: every timeout is longer than the test."""
    origin.faults.append(faults.puts("Connection", "close"))  # so that none is kept for later
    origin.add("/a", b"hello")
    origin.add("/late-head", b"hello", faults.late(methods=("HEAD",)))
    origin.add("/late-get", b"hello", faults.late(methods=("GET",)))
    origin.add("/stalls", Made(300_000), faults.stall(at=200_000))
    config = f"""
        [catalog]
        kind = "template"
        url = "{origin.root}/{{id}}"
        [upstream]
        allow = ["{origin.root}"]
        read_timeout = 600
        patience = 600
        plan_timeout = 600
        remember = 0
        [limits]
        max_archives = {WAVE}
        stall_timeout = 600
        """
    methods = {"/archive?ids=late-head": ("GET", "HEAD")}
    kinds = [
        (method, target, how)
        for target in LEAVING.values()
        for method in methods.get(target, ("GET",))
        for how in ("FIN", "RST", "half-close")
    ]
    asked = [kinds[number % len(kinds)] for number in range(WAVE)]
    waiting = sum("late-head" not in target for _, target, _ in asked)

    async def wave(gateway, usage):
        with Crowd(gateway.port) as crowd:
            clients = await asyncio.gather(
                *(crowd.ask(target, method=method) for method, target, _ in asked)
            )
            # Those who ask for the same HEAD share it.
            await until(lambda: usage.archives == WAVE and origin.stalled > waiting)
            left_at = asyncio.get_running_loop().time()
            for client, (_, _, how) in zip(clients, asked, strict=True):
                client.leave(how)
            await origin.until(lambda: not origin.in_flight and not origin.open_connections, 60)
            await until(lambda: usage.archives == 0)
            origin.requests.clear()
            return asyncio.get_running_loop().time() - left_at

    with (
        room_for_a_crowd(),
        process(tmp_path, config, environment=Usage.environment(tmp_path)) as gateway,
    ):
        usage = Usage(gateway, tmp_path)
        await wave(gateway, usage)
        before = await usage.held()
        seconds = [await wave(gateway, usage) for _ in range(WAVES)]
        await until(lambda: usage.descriptors <= before.descriptors)
        after = await usage.held()
        assert after.tasks <= before.tasks
        assert after.memory - before.memory < 16 << 20
        # Nobody is waited for. A wave takes some 0.1 s; each timeout is longer than this test.
        assert statistics.median(seconds) < 5
        for sign in ("Traceback", " error ", " warning ", "outcome=complete", "outcome=failed"):
            assert sign not in gateway.log
        measured(
            f"{WAVE * WAVES} clients left, {WAVE} at a time: {max(seconds):.2f} s at most until "
            f"nothing was left of a wave; {(after.memory - before.memory) / 2**20:+.1f} MiB in "
            "the end"
        )
