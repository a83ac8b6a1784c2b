"""An origin sees so many connections and not more, and nobody waits for those of slow clients."""

import asyncio
from contextlib import AsyncExitStack

import faults
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from hypothesis.strategies import booleans, integers, sampled_from
from made import Made
from test_stores import any_address, copied, until

from tarstream.stores.base import origin_of
from tarstream.stores.http import HttpStore, session
from tarstream.stores.limit import AHEAD_COST, Limited, Slots

SOURCE = "http://origin.example/object"
OTHER = "http://other.example/object"
ARCHIVE = "an archive"


class Holder:
    """Somebody who holds a connection, or waits for one."""

    def __init__(self, slots, source=SOURCE):
        self.entered = asyncio.Event()
        self.leave = asyncio.Event()
        self.task = asyncio.create_task(self._hold(slots, source))

    async def _hold(self, slots, source):
        async with slots.connection(source):
            self.entered.set()
            await self.leave.wait()

    async def settled(self):
        """Wait until it holds a connection, or it is its turn to wait."""
        for _ in range(5):
            await asyncio.sleep(0)
        return self.entered.is_set()

    async def left(self):
        self.leave.set()
        await self.task

    async def cancelled(self):
        self.task.cancel()
        await asyncio.wait([self.task])
        assert self.task.cancelled()


async def test_connections_are_given_out_up_to_the_limit_and_in_order_of_arrival():
    slots = Slots(2, 0)
    holders = []
    for expected in (True, True, False, False, False):
        holders.append(Holder(slots))
        assert await holders[-1].settled() is expected
    for turn in range(3):
        await holders[turn].left()
        entered = [await holder.settled() for holder in holders]
        assert entered == [index <= turn + 2 for index in range(5)]
    for holder in holders[3:]:
        await holder.left()
    assert await Holder(slots).settled()


async def test_who_comes_later_does_not_pass_those_who_wait():
    slots = Slots(1, 1 << 20)
    first, second = Holder(slots), Holder(slots)
    assert await first.settled()
    assert not await second.settled()
    await first.left()
    # Whoever comes in this moment, with the connection on its way to the second.
    third = Holder(slots)
    assert slots.take_ahead(SOURCE, 1, ARCHIVE) is None
    assert await second.settled()
    assert not await third.settled()
    await second.left()
    assert await third.settled()


async def test_origins_do_not_wait_for_each_other():
    slots = Slots(1, 0)
    elsewhere = [OTHER, "https://origin.example/object", "http://origin.example:8080/object"]
    holders = [Holder(slots, source) for source in (SOURCE, SOURCE, *elsewhere)]
    assert [await holder.settled() for holder in holders] == [True, False, True, True, True]


async def test_a_waiter_that_leaves_costs_nobody_a_connection():
    slots = Slots(1, 0)
    holders = [Holder(slots) for _ in range(4)]
    await holders[0].settled()
    await holders[1].cancelled()
    await holders[2].cancelled()
    await holders[0].left()
    assert await holders[3].settled()
    await holders[3].left()
    assert await Holder(slots).settled()


async def test_a_waiter_that_leaves_as_its_turn_comes_hands_it_on():
    slots = Slots(2, 1 << 20)
    ahead = slots.take_ahead(SOURCE, 1, ARCHIVE)
    holders = [Holder(slots) for _ in range(3)]
    assert [await holder.settled() for holder in holders] == [True, False, False]
    slots.give_ahead(ahead)
    # It was handed over and not yet taken.
    await holders[1].cancelled()
    assert not holders[1].entered.is_set()
    assert await holders[2].settled()


async def test_who_fails_gives_back():
    slots = Slots(1, 0)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            async with slots.connection(SOURCE):
                raise ZeroDivisionError
    assert await Holder(slots).settled()


@pytest.mark.parametrize(
    ("connections", "ahead"), [(1, 0), (2, 1), (3, 2), (4, 3), (5, 3), (8, 6), (100, 75)]
)
async def test_every_fourth_connection_is_kept_from_what_is_opened_ahead(connections, ahead):
    slots = Slots(connections, 1 << 40)
    taken = [slots.take_ahead(SOURCE, 1, archive) for archive in range(connections + 1)]
    assert [ahead is not None for ahead in taken] == [True] * ahead + [False] * (
        connections + 1 - ahead
    )
    # Planning goes on.
    holders = [Holder(slots) for _ in range(connections - ahead)]
    assert all([await holder.settled() for holder in holders])
    assert not await Holder(slots).settled()
    assert slots.take_ahead(OTHER, 1, ARCHIVE) is not None or connections == 1


async def test_what_is_opened_ahead_never_waits_and_never_takes_the_place_of_a_waiter():
    slots = Slots(2, 1 << 20)
    holders = [Holder(slots) for _ in range(3)]
    for holder in holders:
        await holder.settled()
    assert slots.take_ahead(SOURCE, 1, ARCHIVE) is None
    await holders[0].left()
    assert slots.take_ahead(SOURCE, 1, ARCHIVE) is None
    assert await holders[2].settled()
    for holder in holders[1:]:
        await holder.left()
    assert slots.take_ahead(SOURCE, 1, ARCHIVE) is not None


async def test_a_connection_that_was_ahead_is_handed_to_a_waiter():
    slots = Slots(2, 1 << 20)
    ahead = slots.take_ahead(SOURCE, 1, ARCHIVE)
    holders = [Holder(slots) for _ in range(2)]
    assert await holders[0].settled()
    assert not await holders[1].settled()
    slots.give_ahead(ahead)
    assert await holders[1].settled()


async def test_bytes_ahead_are_bounded_for_the_whole_process():
    slots = Slots(100, 3 * AHEAD_COST)
    ahead = [slots.take_ahead(source, 1 << 40, ARCHIVE) for source in (SOURCE, OTHER, SOURCE)]
    assert [each.cost for each in ahead] == [AHEAD_COST] * 3
    assert slots.take_ahead(OTHER, 1, ARCHIVE) is None
    slots.give_ahead(ahead[0])
    # A small member costs no more than it has.
    assert slots.take_ahead(OTHER, AHEAD_COST - 1, ARCHIVE).cost == AHEAD_COST - 1
    assert slots.take_ahead(OTHER, 2, ARCHIVE) is None
    assert slots.take_ahead(OTHER, 1, ARCHIVE).cost == 1


async def test_nothing_is_kept_of_origins_that_are_idle():
    slots = Slots(2, 1 << 20)
    before = {name: str(value) for name, value in vars(slots).items()}
    for number in range(50):
        source = f"http://{number}.example/object"
        ahead = slots.take_ahead(source, 5, ARCHIVE)
        holders = [Holder(slots, source) for _ in range(5)]
        await holders[0].settled()
        await holders[1].cancelled()
        await holders[4].cancelled()
        slots.give_ahead(ahead)
        for holder in (holders[0], holders[2], holders[3]):
            await holder.left()
    assert {name: str(value) for name, value in vars(slots).items()} == before


def test_an_archive_that_came_first_leaves_others_their_share():
    """As if there were one more; and gets down to it as others come."""
    slots = Slots(16, 1 << 40)  # 12 of them for members opened ahead

    def take(archive, wanted=20):
        taken = (slots.take_ahead(SOURCE, 1, archive) for _ in range(wanted))
        return [ahead for ahead in taken if ahead is not None]

    first = take("first")
    assert len(first) == 6
    second = take("second")
    assert len(second) == 4
    assert len(take("third")) == 2
    # The first goes on, and still has more than its share; then no more.
    for ahead in first[:4]:
        slots.give_ahead(ahead)
    assert take("first", 2) != []
    assert len(take("third")) == 1
    for ahead in second:
        slots.give_ahead(ahead)
    assert len(take("first")) == 1


def test_shares_are_those_of_one_origin():
    slots = Slots(16, 1 << 40)
    for archive in range(12):
        assert slots.take_ahead(SOURCE, 1, archive)
    assert slots.take_ahead(SOURCE, 1, 12) is None
    assert [slots.take_ahead(OTHER, 1, 0) is not None for _ in range(7)] == [True] * 6 + [False]


@pytest.mark.parametrize(("connections", "number"), [(1, 1), (2, 1), (3, 1), (4, 2), (100, 50)])
def test_an_archive_asks_with_no_more_than_half_of_the_connections(connections, number):
    assert Slots(connections, 0).at_once == number


class SlotsMachine(RuleBasedStateMachine):
    """Whatever happens in whatever order, connections are counted right."""

    LIMIT = 3

    def __init__(self):
        super().__init__()
        self.runner = asyncio.Runner()
        self.runner.get_loop()
        self.slots = Slots(self.LIMIT, 10)
        self.holders = []
        self.ahead = []

    def run(self, step):
        async def stepped():
            result = step()
            if asyncio.iscoroutine(result):
                await result
            for _ in range(5):
                await asyncio.sleep(0)

        self.runner.run(stepped())

    @rule()
    def arrive(self):
        self.run(lambda: self.holders.append(Holder(self.slots)))

    @precondition(lambda self: self.holders)
    @rule(index=integers(0, 100), cancel=booleans())
    def leave(self, index, cancel):
        holder = self.holders.pop(index % len(self.holders))
        self.run(holder.cancelled if cancel or not holder.entered.is_set() else holder.left)

    @precondition(lambda self: len(self.holders) > 1)
    @rule(index=integers(0, 100))
    def leave_as_another_leaves(self, index):
        first = self.holders.pop(index % len(self.holders))
        second = self.holders.pop(index % len(self.holders))
        first.task.cancel()
        self.run(second.cancelled)

    @rule(size=sampled_from([1, 4, 100]))
    def take(self, size):
        ahead = self.slots.take_ahead(SOURCE, size, object())
        free = self.LIMIT - 1 - len(self.ahead) - self.entered
        room = 10 - sum(each.cost for each in self.ahead)
        assert (ahead is not None) == (free > 0 and size <= room)
        if ahead is not None:
            self.ahead.append(ahead)

    @precondition(lambda self: self.ahead)
    @rule()
    def give(self):
        self.run(lambda: self.slots.give_ahead(self.ahead.pop()))

    @property
    def entered(self):
        return sum(holder.entered.is_set() for holder in self.holders)

    @invariant()
    def as_many_hold_a_connection_as_can(self):
        room = self.LIMIT - len(self.ahead)
        assert self.entered == min(room, len(self.holders))
        flags = [holder.entered.is_set() for holder in self.holders]
        assert flags == sorted(flags, reverse=True)  # in order of arrival

    def teardown(self):
        for holder in self.holders:
            self.run(holder.cancelled)
        for ahead in self.ahead:
            self.slots.give_ahead(ahead)
        assert vars(self.slots) == vars(Slots(self.LIMIT, 10))
        self.runner.close()


TestSlots = SlotsMachine.TestCase
TestSlots.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@pytest.mark.parametrize(
    ("source", "origin"),
    [
        ("http://h/a/b", "http://h"),
        ("HTTP://H:80/A", "http://h"),
        ("https://h:80/a", "https://h:80"),
        ("http://h:8080", "http://h:8080"),
        ("http://h", "http://h"),
        ("http://h?a=/b", "http://h"),
        ("http://h#a", "http://h"),
        ("http://h\\a", "http://h"),
        ("https://h/a", "https://h"),
        ("file:///a/b", "file://"),
        (b"http://h/a", ""),
    ],
)
def test_an_origin_is_scheme_and_authority(source, origin):
    assert origin_of(source) == origin


async def test_heads_wait_for_a_connection_and_what_is_opened_does_not(origin):
    origin.faults.append(faults.late())
    urls = [origin.add(f"/{number}", Made(1000)) for number in range(6)]
    async with session(5, 30, any_address) as http:
        store = Limited(HttpStore(http), Slots(2, 0))
        async with asyncio.TaskGroup() as group:
            heads = [group.create_task(store.head(url)) for url in urls[:5]]
            await origin.until(lambda: origin.stalled == 2)
            moved = group.create_task(copied(store, urls[5], 0, 1000, 1000, None))
            await origin.until(lambda: origin.stalled == 3)
            assert [each.path for each in origin.requests] == ["/0", "/1", "/5"]
            heads[0].cancel()
            await origin.until(lambda: len(origin.requests) == 4)
            assert origin.requests[-1].path == "/2"
            origin.faults.clear()
            origin.release()
        assert await moved == Made(1000).read()
        assert [each.path for each in origin.requests[4:]] == ["/3", "/4"]
    assert origin.most_in_flight == 3


async def test_a_head_that_fails_or_leaves_gives_its_connection_back(origin):
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(session(5, 30, any_address))
        slots = Slots(1, 0)
        store = Limited(HttpStore(http), slots)
        for fault in (faults.status(404), faults.hang_up(), faults.late()):
            url = origin.add("/object", b"x", fault)
            task = asyncio.create_task(store.head(url))
            await until(lambda: origin.stalled or task.done())  # noqa: B023 - awaited here
            task.cancel()
            await asyncio.wait([task])
            del origin.objects["/object"]
        assert (await store.head(origin.add("/object", b"x"))).size == 1
