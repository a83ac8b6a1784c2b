"""As many members are opened ahead as it takes to be waited for by nobody, and no more."""

from contextlib import asynccontextmanager

import pytest
from test_transfer import Client, literal, sending

from tarstream.formats import tar
from tarstream.layout import Layout
from tarstream.stores.limit import Slots
from tarstream.stores.literal import LiteralStore
from tarstream.transfer import Reach
from tarstream.width import FEW, Width

MOST = 8


def test_who_need_not_be_waited_for_are_opened_a_few_at_a_time():
    width = Width(MOST)
    for _ in range(10 * MOST):
        width.sent()
    assert width.members == FEW


def test_a_wait_for_an_origin_opens_all_there_may_be():
    width = Width(MOST)
    for _ in range(10 * MOST):
        width.sent()
    width.waited()
    assert width.members == MOST


def test_members_that_arrive_together_are_waited_for_once():
    """All that were opened at one time, and the one behind them."""
    width = Width(MOST)
    for _ in range(20):
        width.waited()
        for _ in range(MOST + 1):
            width.sent()
            assert width.members == MOST


@pytest.mark.parametrize("most", [0, 1])
def test_few_are_no_more_than_there_may_be(most):
    width = Width(most)
    for _ in range(100):
        width.sent()
    assert width.members == most


class Waited(LiteralStore):
    """Counts what is open, and waits for contents or has them there."""

    def __init__(self, waits):
        self.waits = waits
        self.open_now = 0
        self.open_at_each = []

    @asynccontextmanager
    async def open(self, source, start, stop, size, validator):
        self.open_now += 1
        async with super().open(source, start, stop, size, validator) as body:
            yield Body(self, body)
        self.open_now -= 1


class Body:
    def __init__(self, store, body):
        self.store = store
        self.body = body

    async def ready(self):
        pass

    async def copy_to(self, sink):
        if self.store.waits:
            await sink.flush()
        self.store.open_at_each.append(self.store.open_now)
        await self.body.copy_to(sink)


@pytest.mark.parametrize(("waits", "ahead"), [(True, MOST), (False, FEW)])
async def test_a_transfer_opens_more_only_while_it_waits_for_origins(waits, ahead):
    store, client = Waited(waits), Client()
    layout = Layout(tar, literal(*[b"x" * 1000] * 100))
    reach = Reach(members=MOST, distance=1024**2)
    transfer = sending(layout.slice(0, layout.size), store, Slots(100, 9**9), reach)
    await transfer.run(client.begin)
    assert len(client.data) == layout.size
    assert MOST <= max(store.open_at_each) <= 1 + MOST
    assert ahead <= max(store.open_at_each[70:]) <= 1 + ahead
    assert store.open_now == 0
