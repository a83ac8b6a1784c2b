"""The contract of a store (`stores/base.py`), held to each of them and to what wraps them."""

import asyncio
import hashlib
import os
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from made import Made
from origin import Object, Origin

from tarstream.errors import ObjectChanged, ObjectMissing, OriginBroken
from tarstream.portion import Portion
from tarstream.stores import STORES, Upstream, open_stores
from tarstream.stores.base import ObjectMeta, Store
from tarstream.stores.file import FileStore
from tarstream.stores.guard import Guarded, Policy
from tarstream.stores.http import HttpStore, session
from tarstream.stores.limit import Limited, Slots
from tarstream.stores.literal import LiteralStore
from tarstream.stores.retry import Retrying

MTIME = 1_000_000_000
CONTENT = Made(600_001).read()  # more than two of everybody's chunks, and it does not repeat
N = len(CONTENT)
EDGES = [0, 1, 511, 4096, 65_535, 65_536, 65_537, 262_143, 262_144, 262_145, N - 1, N]
RANGES = [(start, stop) for start in EDGES for stop in EDGES if start < stop]


class Sink:
    """Takes what comes. While `gate` is not set, nothing is taken any more."""

    def __init__(self) -> None:
        self.chunks: list[bytes] = []
        self.position = 7  # what other bodies brought
        self.portion = Portion()
        self.flushes: list[int] = []  # the position at each
        self.repairs: list[Exception] = []
        self.gate = asyncio.Event()
        self.gate.set()

    @property
    def data(self) -> bytes:
        return b"".join(self.chunks)

    def splice(self) -> None:
        """Everything is looked at here."""

    async def write(self, chunk: bytes) -> None:
        self.chunks.append(chunk)
        self.position += len(chunk)
        await self.gate.wait()

    async def flush(self) -> None:
        self.flushes.append(self.position)

    def repaired(self, cause: OriginBroken) -> None:
        self.repairs.append(cause)


async def until(condition: Callable[[], object], seconds: float = 30) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.002)


async def copied(store, source, start, stop, size, validator) -> bytes:
    """What a store gives for a range."""
    sink = Sink()
    async with store.open(source, start, stop, size, validator) as body:
        await body.copy_to(sink)
    return sink.data


def any_address(info):
    """Make sockets for whatever address: what may be connected to is the guard's business."""
    return socket.socket(*info[:3])


@dataclass
class Kind:
    """A store, and the other side of it."""

    store: Store
    put: Callable[[bytes], str | bytes]
    """Make an object of these contents, in place of the one before; its source."""
    remove: Callable[[], object]
    held: Callable[[], int]
    """Connections or descriptors that are open."""
    meta: Callable[[bytes], ObjectMeta]
    """What `head` has to say about an object of these contents."""
    idle: int = 0
    """How many of those held may be kept for the next time."""


async def _http(stack: AsyncExitStack, _: Path) -> Kind:
    origin = await stack.enter_async_context(Origin())
    http = await stack.enter_async_context(session(5, 30, any_address))
    return Kind(
        HttpStore(http),
        lambda content: origin.add("/object", content),
        origin.objects.clear,
        lambda: origin.open_connections,
        lambda content: ObjectMeta(len(content), MTIME, Object(content).etag),
        idle=1,
    )


async def _file(_: AsyncExitStack, directory: Path) -> Kind:
    path = directory / "object"

    def put(content: bytes) -> str:
        path.write_bytes(content)
        os.utime(path, (MTIME, MTIME))
        return path.as_uri()

    def held() -> int:
        """Descriptors of the directory, and of anything below it."""
        found = 0
        for link in Path("/proc/self/fd").iterdir():
            try:
                found += link.readlink().is_relative_to(directory)
            except FileNotFoundError:
                continue  # the one that lists them
        return found

    def meta(content: bytes) -> ObjectMeta:
        return ObjectMeta(len(content), MTIME, f'"{MTIME * 10**9:x}-{len(content):x}"')

    return Kind(FileStore([str(directory)]), put, path.unlink, held, meta)


async def _literal(*_: object) -> Kind:
    def meta(content: bytes) -> ObjectMeta:
        return ObjectMeta(len(content), 0, f'"{hashlib.sha256(content).hexdigest()[:32]}"')

    return Kind(LiteralStore(), lambda content: content, lambda: None, lambda: 0, meta)


async def _guard(stack: AsyncExitStack, directory: Path) -> Kind:
    kind = await _http(stack, directory)
    policy = Policy([str(kind.put(b"")).removesuffix("/object")])
    kind.store = Guarded(policy, {("http", False): kind.store}, LiteralStore())
    return kind


async def _limit(stack: AsyncExitStack, directory: Path) -> Kind:
    kind = await _http(stack, directory)
    kind.store = Limited(kind.store, Slots(4, 1 << 20))
    return kind


async def _retry(stack: AsyncExitStack, directory: Path) -> Kind:
    kind = await _http(stack, directory)
    kind.store = Retrying(kind.store, attempts=2, patience=5)
    return kind


async def _all(stack: AsyncExitStack, directory: Path) -> Kind:
    """As everybody uses it."""
    kind = await _http(stack, directory)
    upstream = Upstream(Policy([str(kind.put(b"")).removesuffix("/object")]), 5, 5, 5, 2)
    _, kind.store = open_stores(upstream, Slots(4, 1 << 20), stack)
    return kind


async def _all_file(stack: AsyncExitStack, directory: Path) -> Kind:
    kind = await _file(stack, directory)
    upstream = Upstream(Policy([directory.as_uri()]), 5, 5, 5, 2)
    _, kind.store = open_stores(upstream, Slots(4, 1 << 20), stack)
    return kind


CHANGING = {
    "http": _http,
    "file": _file,
    "guard": _guard,
    "limit": _limit,
    "retry": _retry,
    "all over http": _all,
    "all over file": _all_file,
}
KINDS = CHANGING | {"literal": _literal}  # its own contents: it can neither change nor go


@pytest.fixture(params=KINDS)
async def kind(request, tmp_path):
    async with AsyncExitStack() as stack:
        yield await KINDS[request.param](stack, tmp_path)


@pytest.fixture(params=CHANGING)
async def changing(request, tmp_path):
    async with AsyncExitStack() as stack:
        yield await CHANGING[request.param](stack, tmp_path)


def test_every_scheme_stands_in_this_suite():
    assert set(STORES) <= {"http", "https", "file"}, "a new store belongs in KINDS"


@pytest.mark.parametrize("content", [b"", b"x", CONTENT], ids=len)
async def test_head_says_size_mtime_and_validator(kind, content):
    assert await kind.store.head(kind.put(content)) == kind.meta(content)


async def test_other_contents_have_another_validator(kind):
    first = await kind.store.head(kind.put(b"one"))
    second = await kind.store.head(kind.put(b"three"))
    assert first.validator != second.validator


async def test_open_gives_exactly_the_bytes_asked_for(kind):
    source = kind.put(CONTENT)
    meta = await kind.store.head(source)
    for start, stop in RANGES:
        found = await copied(kind.store, source, start, stop, N, meta.validator)
        assert found == CONTENT[start:stop], (start, stop)
    assert await copied(kind.store, source, 0, N, N, None) == CONTENT


async def test_a_body_may_be_ready_long_before_it_is_moved(kind):
    source = kind.put(CONTENT)
    sink = Sink()
    async with kind.store.open(source, 5, N, N, None) as body:
        await body.ready()
        await body.ready()
        assert sink.chunks == []
        await body.copy_to(sink)
    assert sink.data == CONTENT[5:]
    assert sink.position == 7 + N - 5


async def test_nothing_is_repaired_where_nothing_broke(kind):
    sink = Sink()
    async with kind.store.open(kind.put(CONTENT), 0, N, N, None) as body:
        await body.copy_to(sink)
    assert sink.repairs == []


@pytest.mark.parametrize("off", [-1, 1])
async def test_an_object_of_another_size_has_changed(changing, off):
    source = changing.put(CONTENT)
    validator = (await changing.store.head(source)).validator
    for known in (validator, None):
        for start, stop in ((0, N + off), (0, 10), (20, N + off)):
            sink = Sink()
            with pytest.raises(ObjectChanged):
                async with changing.store.open(source, start, stop, N + off, known) as body:
                    await body.copy_to(sink)
            assert sink.data == b""


@pytest.mark.parametrize("span", [(0, N), (0, 10), (20, N)])
async def test_an_object_of_another_validator_has_changed(changing, span):
    source = changing.put(CONTENT)
    sink = Sink()
    with pytest.raises(ObjectChanged):
        async with changing.store.open(source, *span, N, '"other"') as body:
            await body.ready()
    with pytest.raises(ObjectChanged):
        async with changing.store.open(source, *span, N, '"other"') as body:
            await body.copy_to(sink)
    assert sink.data == b""


async def test_an_object_that_is_replaced_has_changed(changing):
    meta = await changing.store.head(changing.put(CONTENT))
    source = changing.put(b"longer" + CONTENT)
    with pytest.raises(ObjectChanged):
        await copied(changing.store, source, 0, N, N, meta.validator)


async def test_an_object_that_is_gone_is_missing(changing):
    source = changing.put(CONTENT)
    meta = await changing.store.head(source)
    changing.remove()
    with pytest.raises(ObjectMissing):
        await changing.store.head(source)
    with pytest.raises(ObjectMissing):
        await copied(changing.store, source, 0, N, N, meta.validator)


@pytest.mark.parametrize("readied", [False, True])
async def test_a_body_that_is_left_unread_holds_nothing(kind, readied):
    source = kind.put(Made(8 << 20).read())
    async with kind.store.open(source, 1, 8 << 20, 8 << 20, None) as body:
        if readied:
            await body.ready()
    await until(lambda: not kind.held())


async def test_a_body_that_is_left_in_the_middle_holds_nothing(kind):
    source = kind.put(Made(8 << 20).read())
    sink = Sink()
    sink.gate.clear()

    async def move() -> None:
        async with kind.store.open(source, 0, 8 << 20, 8 << 20, None) as body:
            await body.copy_to(sink)

    task = asyncio.create_task(move())
    await until(lambda: sink.chunks)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: not kind.held())


async def test_a_sink_that_fails_is_left_alone_and_nothing_is_held(kind):
    """Its error comes out as it is, even one that looks like an origin's."""

    class Failing(Sink):
        async def write(self, chunk: bytes) -> None:
            await super().write(chunk)
            raise TimeoutError("the client is too slow")

    sink = Failing()
    source = kind.put(Made(8 << 20).read())
    validator = (await kind.store.head(source)).validator
    with pytest.raises(TimeoutError, match="the client is too slow"):
        async with kind.store.open(source, 0, 8 << 20, 8 << 20, validator) as body:
            await body.copy_to(sink)
    assert len(sink.chunks) == 1
    assert sink.repairs == []
    await until(lambda: not kind.held())


async def test_nothing_is_held_wherever_it_is_cancelled(kind):
    source = kind.put(CONTENT)
    tasks = asyncio.all_tasks()

    async def use() -> None:
        await kind.store.head(source)
        async with kind.store.open(source, 1, N, N, None) as body:
            await body.ready()
            await body.copy_to(Sink())

    for steps in range(60):
        task = asyncio.create_task(use())
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        # A connection whose answer was complete is kept for the next request: one, not more.
        await until(lambda: kind.held() <= kind.idle)
    async with kind.store.open(source, 1, N, N, None) as body:
        await body.ready()
    await until(lambda: not kind.held())
    await until(lambda: not [t for t in asyncio.all_tasks() - tasks if "stores/" in repr(t)])
