"""Slices on their way: in order, opened early, gathered, and never cut at a boundary."""

import asyncio
import hashlib
import socket
import zlib
from contextlib import AsyncExitStack, asynccontextmanager, closing
from copy import deepcopy

import faults
import pytest
from aiohttp import ClientConnectionResetError
from hypothesis import given, settings
from hypothesis import strategies as st

from tarstream.digests import Digests
from tarstream.errors import ObjectChanged, OriginError
from tarstream.formats import tar
from tarstream.layout import Layout, Member
from tarstream.memory import LocalMemory
from tarstream.observer import Observer
from tarstream.splice import Pipe
from tarstream.stores import Upstream, open_stores
from tarstream.stores.guard import Policy
from tarstream.stores.limit import Slots
from tarstream.stores.literal import LiteralStore
from tarstream.transfer import GATHER, MemberFailed, Reach, Supply, Transfer

FAR = Reach(members=8, distance=4 * 1024**2)


class Client:
    """Takes what is written, and remembers how it came."""

    def __init__(self, fail_at=None):
        self.writes = []
        self.fail_at = fail_at

    async def begin(self):
        return self.write

    async def write(self, data):
        self.writes.append(data)
        if self.fail_at is not None and len(self.data) >= self.fail_at:
            raise ClientConnectionResetError("the client left")

    @property
    def data(self):
        return b"".join(self.writes)


def sending(pieces, store, slots, reach):
    """A transfer of a format that defers nothing."""
    supply = Supply(store, slots, reach, Observer())
    return Transfer(pieces, Digests([], LocalMemory(0)), supply)


def literal(*contents, **fields):
    return [
        Member(f"{index}.bin", len(data), 0, data, '"x"', **fields)
        for index, data in enumerate(contents)
    ]


def boundaries(layout):
    """Where an archive that is cut there looks complete: after contents, padding, or a header."""
    found = set()
    for index, member in enumerate(layout.members):
        content = layout.content_start(index)
        stop = content + member.size
        found |= {stop, stop + -member.size % 512}
    return found


@pytest.fixture
async def remote(origin):
    """A store of everybody's kind in front of the origin, and its slots."""
    slots = Slots(100, 64 * 1024**2)
    upstream = Upstream(
        policy=Policy([origin.root]),
        connect_timeout=2,
        read_timeout=5,
        patience=5,
        attempts=2,
    )
    async with AsyncExitStack() as stack:
        _, store = open_stores(upstream, slots, stack)
        yield store, slots


def member(origin, path, data, *some_faults, **fields):
    url = origin.add(path, data, *some_faults)
    etag = origin.objects[path].etag
    return Member(path.strip("/"), len(data), 0, url, etag, **fields)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.sampled_from(
            [0, 1, 511, 512, 513, 1024, 65_000, GATHER - 512, GATHER - 36, GATHER, 3 * GATHER]
        )
    ),
    st.data(),
)
async def test_any_slice_arrives_and_no_write_ends_at_a_boundary(sizes, data):
    contents = [bytes([65 + index % 26]) * size for index, size in enumerate(sizes)]
    layout = Layout(tar, literal(*contents))
    whole = b"".join(
        tar.before(m) + contents[i] + tar.after(m) for i, m in enumerate(layout.members)
    )
    whole += tar.end(len(layout.members), len(whole), 0)
    start = data.draw(st.integers(0, layout.size - 1))
    stop = data.draw(st.integers(start + 1, layout.size))
    client = Client()
    transfer = sending(layout.slice(start, stop), LiteralStore(), Slots(20, 9**9), FAR)
    await transfer.run(client.begin)
    assert client.data == whole[start:stop]
    dangerous = {b for i, b in enumerate(sorted(boundaries(layout))) if sizes} - {stop}
    position = start
    for written in client.writes[:-1]:
        position += len(written)
        # Between empty members there is nothing that an origin could fail to give.
        owing = any(
            position == layout.content_start(i) + m.size and m.size
            for i, m in enumerate(layout.members)
        )
        assert not (position in dangerous and owing)


async def test_small_members_are_gathered_and_padding_never_goes_alone():
    layout = Layout(tar, literal(*[b"x" * 100] * 1000))
    client = Client()
    await sending(layout.slice(0, layout.size), LiteralStore(), Slots(20, 9**9), FAR).run(
        client.begin
    )
    assert len(client.writes) < 1000 / 4
    layout = Layout(tar, literal(*[b"x" * 100_001] * 5))
    client = Client()
    await sending(layout.slice(0, layout.size), LiteralStore(), Slots(20, 9**9), FAR).run(
        client.begin
    )
    assert min(map(len, client.writes[:-1])) >= 512  # padding is shorter, a header is not
    assert max(map(len, client.writes)) < 100_001 + GATHER


class Piped:
    """A store of bytes of which all but the first and the last ten come in a pipe."""

    @asynccontextmanager
    async def open(self, source, start, stop, size, validator):
        self.source = source
        yield self

    async def ready(self):
        pass

    async def copy_to(self, sink):
        ours, theirs = socket.socketpair()
        with ours, theirs, closing(Pipe()) as pipe:
            ours.sendall(self.source[10:-10])
            await sink.write(self.source[:10])
            assert pipe.fill(theirs.fileno(), len(self.source)) == len(self.source) - 20
            await sink.splice()(pipe)
        await sink.write(self.source[-10:])


async def test_what_was_gathered_goes_before_a_pipe():
    layout = Layout(tar, literal(bytes(range(100))))
    transfer = sending(layout.slice(0, layout.size), Piped(), Slots(20, 9**9), FAR)
    client = Client()

    async def take(pipe):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            pipe.empty(ours.fileno())
            await client.write(theirs.recv(1000))

    transfer.client_splice = lambda: take
    await transfer.run(client.begin)
    whole = tar.before(layout.members[0]) + bytes(range(100)) + tar.after(layout.members[0])
    assert client.data.startswith(whole)
    assert bytes(range(10, 90)) in client.writes


async def test_the_origin_sees_as_many_requests_at_a_time_as_ahead_says(origin, remote):
    store, slots = remote
    origin.faults.append(faults.late(0.02))
    members = [member(origin, f"/{i}", b"%d" % i * 50) for i in range(200)]
    layout = Layout(tar, members)
    client = Client()
    await sending(layout.slice(0, layout.size), store, slots, FAR).run(client.begin)
    assert len(client.data) == layout.size
    # The member whose turn it is, and those ahead of it.
    assert FAR.members <= origin.most_in_flight <= FAR.members + 1
    assert len(origin.asked("/7")) == 1
    assert origin.connections <= FAR.members + 1  # kept alive and used again


async def test_members_beyond_ahead_bytes_are_not_opened_yet(origin, remote):
    store, slots = remote
    first = member(origin, "/first", b"f" * 300_000, faults.stall(at=100_000))
    rest = [member(origin, f"/{i}", b"x" * 40_000) for i in range(8)]
    layout = Layout(tar, [first, *rest])
    transfer = sending(layout.slice(0, layout.size), store, slots, Reach(8, 300_000))
    client = Client()
    task = asyncio.create_task(transfer.run(client.begin))
    await origin.until(lambda: origin.stalled and len(client.data) > 100_000)
    within = 100_512 + 300_000
    reached = [m for i, m in enumerate(layout.members) if layout.content_start(i) < within]
    await origin.until(lambda: len(origin.requests) >= len(reached))
    assert {r.path.strip("/") for r in origin.requests} == {m.name for m in reached}
    assert len(reached) < len(layout.members)
    origin.release()
    await task
    assert len(client.data) == layout.size


async def test_no_slot_means_one_after_the_other(origin, remote):
    store, _ = remote
    origin.faults.append(faults.late(0.005))
    members = [member(origin, f"/{i}", b"x" * 10) for i in range(20)]
    layout = Layout(tar, members)
    slots = Slots(1, 64 * 1024**2)
    await sending(layout.slice(0, layout.size), store, slots, FAR).run(Client().begin)
    assert origin.most_in_flight == 1


async def test_slots_are_given_back_whatever_happens(origin, remote):
    store, _ = remote
    slots = Slots(8, 1024**2)
    members = [member(origin, f"/{i}", b"x" * 5000) for i in range(20)]
    layout = Layout(tar, members)
    before = deepcopy(vars(slots))
    await sending(layout.slice(0, layout.size), store, slots, FAR).run(Client().begin)
    with pytest.raises(ClientConnectionResetError):
        await sending(layout.slice(0, layout.size), store, slots, FAR).run(Client(100).begin)
    origin.add("/3", b"changed")
    with pytest.raises(MemberFailed):
        await sending(layout.slice(0, layout.size), store, slots, FAR).run(Client().begin)
    assert vars(slots) == before


async def test_everything_stops_when_the_client_leaves(origin, remote):
    store, slots = remote
    origin.faults.append(faults.stall(at=1000))
    members = [member(origin, f"/{i}", b"x" * 5000) for i in range(20)]
    layout = Layout(tar, members)
    tasks = asyncio.all_tasks()
    transfer = sending(layout.slice(0, layout.size), store, slots, FAR)
    task = asyncio.create_task(transfer.run(Client().begin))
    await origin.until(lambda: origin.stalled >= FAR.members)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await origin.until(lambda: origin.open_connections == 0)
    assert not [t for t in asyncio.all_tasks() - tasks if "_hold" in repr(t)]


async def test_a_client_that_leaves_is_not_taken_for_a_failing_origin(origin, remote):
    store, slots = remote
    layout = Layout(tar, [member(origin, "/a", b"x" * 200_000)])
    with pytest.raises(ClientConnectionResetError):
        await sending(layout.slice(0, layout.size), store, slots, FAR).run(Client(1).begin)
    assert len(origin.asked("/a")) == 1


async def test_nothing_begins_before_the_first_member_is_open(origin, remote):
    store, slots = remote
    layout = Layout(tar, [member(origin, "/a", b"x" * 2000, faults.status(500))])
    client = Client()
    with pytest.raises(MemberFailed) as failed:
        await sending(layout.slice(0, layout.size), store, slots, FAR).run(client.begin)
    assert failed.value.member.name == "a"
    assert isinstance(failed.value.cause, OriginError)
    assert client.writes == []


async def test_a_slice_without_contents_opens_nothing(origin, remote):
    store, slots = remote
    layout = Layout(tar, [member(origin, "/a", b"x" * 2000)])
    client = Client()
    await sending(layout.slice(0, 512), store, slots, FAR).run(client.begin)
    assert client.data == tar.before(layout.members[0])
    assert origin.requests == []


@pytest.mark.parametrize("size", [1, 512, 1000, 1024, 200_000, 262_144])
async def test_the_cut_after_a_member_that_cannot_be_opened_is_inside_it(origin, remote, size):
    store, slots = remote
    first = member(origin, "/a", b"a" * size)
    second = member(origin, "/b", b"b" * 3000, faults.status(404))
    layout = Layout(tar, [first, second])
    transfer = sending(layout.slice(0, layout.size), store, slots, FAR)
    client = Client()
    with pytest.raises(MemberFailed) as failed:
        await transfer.run(client.begin)
    assert failed.value.member.name == "b"
    sent = client.data + transfer.abort()
    # Its header went out, its contents are owed.
    assert len(sent) == layout.content_start(1)


@pytest.mark.parametrize("size", [512, 1024, 65_536, 262_144])
async def test_a_member_that_turns_out_wrong_at_its_end_is_not_finished(size):
    layout = Layout(tar, literal(b"x" * size, b"y", digests=(("crc32", "00000000"),)))
    transfer = sending(layout.slice(0, layout.size), LiteralStore(), Slots(20, 9**9), FAR)
    client = Client()
    with pytest.raises(MemberFailed) as failed:
        await transfer.run(client.begin)
    assert isinstance(failed.value.cause, ObjectChanged)
    sent = client.data + transfer.abort()
    assert 512 <= len(sent) < 512 + size


@pytest.mark.parametrize("sizes", [[700, 512, 1, 1024], [0, 0, 512, 0, 3], [70_000, 65_536, 5]])
async def test_wherever_it_ends_the_cut_is_inside_contents(sizes):
    """A cut at shutdown, or a failure of our own, may come between any two pieces."""
    layout = Layout(tar, literal(*[b"x" * size for size in sizes]))
    pieces = list(layout.slice(0, layout.size))
    bad = {layout.content_start(i) + m.size for i, m in enumerate(layout.members) if m.size}
    bad |= {stop + -stop % 512 for stop in bad}

    def broken(count):
        yield from pieces[:count]
        raise RuntimeError("broken")

    for count in range(len(pieces)):
        client = Client()
        transfer = sending(broken(count), LiteralStore(), Slots(20, 9**9), Reach(0, 0))
        with pytest.raises(RuntimeError):
            await transfer.run(client.begin)
        assert len(client.data + transfer.abort()) not in bad


async def test_digests_that_are_right_are_let_through():
    data = b"contents"
    digests = (("crc32", f"{zlib.crc32(data):08x}"), ("sha256", hashlib.sha256(data).hexdigest()))
    layout = Layout(tar, literal(data, digests=digests))
    client = Client()
    transfer = sending(layout.slice(0, layout.size), LiteralStore(), Slots(20, 9**9), FAR)
    await transfer.run(client.begin)
    assert len(client.data) == layout.size


async def test_a_part_of_a_member_is_not_held_to_its_digest():
    layout = Layout(tar, literal(b"contents", digests=(("crc32", "00000000"),)))
    client = Client()
    transfer = sending(layout.slice(513, 516), LiteralStore(), Slots(20, 9**9), FAR)
    await transfer.run(client.begin)
    assert client.data == b"ont"


async def test_a_member_that_breaks_off_is_repaired_and_counted(origin, remote):
    store, slots = remote
    data = origin_bytes = bytes(range(256)) * 2000
    layout = Layout(tar, [member(origin, "/a", data, faults.rst(at=300_000, times=1))])
    transfer = sending(layout.slice(0, layout.size), store, slots, FAR)
    client = Client()
    await transfer.run(client.begin)
    assert client.data[512 : 512 + len(data)] == origin_bytes
    assert transfer.repairs == 1


async def test_what_an_origin_drips_is_passed_on_as_it_comes(origin, remote):
    """A reader that waits for a full buffer would be cut off by nginx after a minute."""
    store, slots = remote
    layout = Layout(tar, [member(origin, "/a", b"x" * 5000, faults.stall(at=1000))])
    client = Client()
    transfer = sending(layout.slice(0, layout.size), store, slots, FAR)
    task = asyncio.create_task(transfer.run(client.begin))
    await origin.until(lambda: len(client.data) == 512 + 1000)
    origin.release()
    await task
