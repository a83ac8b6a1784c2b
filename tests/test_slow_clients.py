"""A thousand clients that take nothing, in front of the process that operators run.

They cost bounded memory, hold up nobody, and leave nothing behind. `pytest -s` prints what was
measured on the way; docs/operations.md has such numbers.
"""

import asyncio
import hashlib
import resource
from contextlib import contextmanager

import pytest
from crowd import Crowd, Usage, files, measured, quantile, room_for_a_crowd, until
from gateway import archive_path, process
from made import Made

pytestmark = pytest.mark.timeout(1200)

MIB = 1024**2
STALLED = 1000
ACTIVE = 100
ALLOWED = 640 * MIB  # above idle, for all of them together
EACH = 0.4 * MIB  # of those that are stalled; measured: 0.13 and, on the ordinary path, 0.24
EACH_FAST = 1.4 * MIB  # of those that were fast before; measured: 0.6, and up to 1.05

FAST = 24 * MIB  # what is taken by who is known to be fast
BIG = 64 * MIB  # more than all sockets on the way hold
BUFFER = 64 * 1024  # of a stalled client: what the kernel has for all connections is limited too
SMALL = [Made(2 * MIB, seed) for seed in range(4)]


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    """nginx with a sparse file that is big, and files that are small and cannot be mistaken."""
    with room_for_a_crowd(), files(tmp_path_factory.mktemp("origin") / "nginx") as origin:
        with (origin.directory / "big").open("wb") as big:
            big.truncate(BIG)
        for made in SMALL:
            (origin.directory / f"small-{made.seed}").write_bytes(made.read())
        yield origin


@pytest.fixture
def running(tmp_path, origin):
    """A gateway that lets in more than the clients of a test."""

    @contextmanager
    def running(stall_timeout, zero_copy="true"):
        config = f"""
            [server]
            zero_copy = {zero_copy}
            [catalog]
            kind = "template"
            url = "{origin.root}/{{id}}"
            [upstream]
            allow = ["{origin.root}"]
            read_timeout = 600
            patience = 600
            [limits]
            max_archives = {STALLED + ACTIVE + 10}
            stall_timeout = {stall_timeout}
            """
        with process(tmp_path, config, environment=Usage.environment(tmp_path)) as gateway:
            yield gateway, Usage(gateway, tmp_path)

    return running


async def stalled_clients(crowd, usage, number=STALLED):
    """Clients that have asked for a big archive, been answered, and read nothing.

    The gateway has done for them what it can: its processor time stands still.
    """
    clients = await crowd.ask_all([archive_path(["stalls"])] * number, receive_buffer=BUFFER)
    await until(lambda: all(client.unread for client in clients), 100)
    await settled(usage)
    return clients


async def settled(usage):
    """Wait until the gateway's processor time stands still."""
    used = [-1.0]

    def stands():
        used.append(usage.processor)
        return used[-1] - used[-2] < 0.1 and used[-2] >= 0

    await until(stands, often=0.5)


async def active_clients(crowd):
    """What clients that read get, all at once, and the seconds that all of them took."""

    async def download(seed):
        client = await crowd.ask(archive_path([f"small-{seed}"]))
        return await client.read_all(skip=512, digest=SMALL[seed].size)

    before = asyncio.get_running_loop().time()
    clients = await asyncio.gather(*(download(n % len(SMALL)) for n in range(ACTIVE)))
    return clients, asyncio.get_running_loop().time() - before


def assert_whole(clients):
    """Every one of them has all of its archive, and its own bytes."""
    assert [client.received for client in clients if not client.whole] == []
    sums = [hashlib.sha256(made.read()).hexdigest() for made in SMALL]
    assert [client.sha256 for client in clients] == [sums[n % len(SMALL)] for n in range(ACTIVE)]


async def nothing_is_left(origin, usage, before):
    """Descriptors, connections to the origin and tasks are gone, and memory is free for others."""
    await until(lambda: usage.archives == 0)
    await until(lambda: origin.connections == 0)
    await until(lambda: usage.descriptors <= before.descriptors)
    after = await usage.held()
    assert after.tasks <= before.tasks
    assert after.memory - before.memory < ALLOWED / 10
    return after


@pytest.mark.parametrize("zero_copy", ["true", "false"])
async def test_stalled_clients_hold_up_nobody_and_leave_nothing_behind(origin, running, zero_copy):
    with running(600, zero_copy) as (gateway, usage), Crowd(gateway.port) as crowd:
        clients, alone = await active_clients(crowd)
        assert_whole(clients)
        await until(lambda: origin.connections == 0)  # nginx closed what was kept
        before = await usage.held()
        gateway.forget_peak_memory()

        stalled = await stalled_clients(crowd, usage)
        without = usage.memory - before.memory
        clients, beside = await active_clients(crowd)
        assert_whole(clients)
        assert usage.archives == STALLED
        assert gateway.log.count("outcome=") == gateway.log.count("outcome=complete") == 2 * ACTIVE
        peak = gateway.peak_memory() - before.memory
        assert peak <= ALLOWED
        assert without <= STALLED * EACH
        assert beside < 8 * alone + 5  # nobody waits for who has stopped reading

        for number, client in enumerate(stalled):
            client.leave(("FIN", "RST")[number % 2])
        after = await nothing_is_left(origin, usage, before)
        measured(
            f"{STALLED} stalled clients: {without / MIB / STALLED:.2f} MiB each, "
            f"{peak / MIB:.0f} MiB at most with {ACTIVE} active ones; "
            f"idle {before.memory / MIB:.0f} MiB before, {after.memory / MIB:.0f} MiB after\n"
            f"{ACTIVE} active ones of 2 MiB: {alone:.2f} s alone, {beside:.2f} s beside them; "
            f"first byte p50 {quantile([c.first_byte for c in clients], 0.5):.3f} s, "
            f"p99 {quantile([c.first_byte for c in clients], 0.99):.3f} s"
        )


async def test_clients_that_were_fast_before_they_stalled(origin, running):
    """They hold more: what is read at a time for a client that is fast."""
    loop = asyncio.get_running_loop()

    async def stalls(crowd):
        client = await crowd.ask(archive_path(["big"]))
        left = FAST
        while left > 0:
            left -= len(await loop.sock_recv(client.socket, MIB))

    with running(600, "false") as (gateway, usage), Crowd(gateway.port) as crowd:
        await active_clients(crowd)
        await until(lambda: origin.connections == 0)
        before = await usage.held()
        await asyncio.gather(*(stalls(crowd) for _ in range(ACTIVE)))
        await until(lambda: usage.archives == ACTIVE)
        await settled(usage)
        each = (usage.memory - before.memory) / ACTIVE
        measured(f"{ACTIVE} clients stalled after {FAST / MIB:.0f} MiB: {each / MIB:.2f} MiB each")
        assert each <= EACH_FAST


async def test_stall_timeout_ends_all_of_them(origin, running):
    with running(stall_timeout=1) as (gateway, usage), Crowd(gateway.port) as crowd:
        await active_clients(crowd)
        await until(lambda: origin.connections == 0)
        before = await usage.held()
        stalled = await stalled_clients(crowd, usage)
        await until(lambda: gateway.log.count('outcome="client stalled"') == STALLED)
        await nothing_is_left(origin, usage, before)
        assert "Traceback" not in gateway.log
        for client in stalled[:20]:
            await client.read_all()
            assert not client.whole


async def test_a_soft_limit_of_descriptors_is_raised_to_the_hard_one(origin, running):
    """Archives take two and more each, and 1,024 is the soft limit nearly everywhere."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        started = running(stall_timeout=600)
        gateway, usage = started.__enter__()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    try:
        assert resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE) == (hard, hard)
        with Crowd(gateway.port) as crowd:
            await stalled_clients(crowd, usage, 300)
            assert usage.archives == 300
            assert usage.descriptors > 600
    finally:
        started.__exit__(None, None, None)
