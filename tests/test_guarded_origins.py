"""Of origins, what no other test would miss: see `guards/origins.py`."""

import asyncio
import gzip
from weakref import WeakSet

import faults
import pytest
from made import Made
from origin import Object
from test_stores import Sink, any_address

from tarstream.errors import OriginError
from tarstream.stores.base import AddressRefused
from tarstream.stores.credentials import Credentials
from tarstream.stores.exchange import Exchanges
from tarstream.stores.guard import Policy, socket_factory
from tarstream.stores.http import HttpStore, session


@pytest.fixture
async def later(monkeypatch):
    """`later(seconds)` lets the loop's clock jump."""
    loop = asyncio.get_running_loop()
    clock, jumped = loop.time, 0.0

    def jump(seconds):
        nonlocal jumped
        jumped += seconds

    monkeypatch.setattr(loop, "time", lambda: clock() + jumped)
    return jump


async def test_a_member_may_take_as_long_as_it_likes(origin, later):
    """Only silence is limited, and only its own setting limits it."""
    content = Made(50_000)
    url = origin.add("/object", content, faults.stall(at=10_000), faults.stall(at=40_000))
    etag = origin.objects["/object"].etag
    async with session(5, 10_000, any_address) as http:
        sink = Sink()
        async with HttpStore(http).open(url, 0, 50_000, 50_000, etag) as body:
            task = asyncio.create_task(body.copy_to(sink))
            for arrived in (10_000, 40_000):
                await origin.until(lambda: origin.stalled and len(sink.data) == arrived)  # noqa: B023
                later(400)
                for _ in range(5):
                    await asyncio.sleep(0)  # timers that are due have their turn
                origin.release()
            await task
    assert sink.data == content.read()


async def test_what_an_origin_has_coded_is_not_decoded(origin):
    """It is refused for its coding; a little of it may be gigabytes."""
    coded = gzip.compress(bytes(1000))
    url = origin.add("/object", Object(coded), faults.puts("Content-Encoding", "gzip"))
    async with session(5, 30, any_address) as http:
        with await Exchanges(http, Credentials()).ask("GET", url, {}) as answer:
            assert await answer.content.read() == coded


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "[::ffff:127.0.0.1]",
        "127.1",
        "0x7f000001",
        "2130706433",
        "017700000001",
        "１２７.０.０.１",
        "127。0。0。1",
        "localhost",
        "0",
    ],
)
async def test_an_address_is_judged_however_it_is_written(origin, host):
    """A resolver sees names alone: literals never come to it."""
    origin.add("/object", b"secret")
    factory = socket_factory(Policy([origin.root]), WeakSet(), only_global=True)
    async with session(5, 5, factory) as http:
        with pytest.raises((AddressRefused, OriginError)):  # or it is no URL to begin with
            await HttpStore(http).head(f"http://{host}:{origin.port}/object")
    assert origin.connections == 0
