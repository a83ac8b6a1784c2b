"""What breaks is repaired where it broke, as long as that can be proven and as contracted."""

import asyncio
import gc
from dataclasses import replace

import faults
import pytest
from faults import Fault
from made import Made
from origin import Object
from test_stores import MTIME, Sink, any_address, copied, until

from tarstream.errors import (
    Forbidden,
    ObjectChanged,
    ObjectMissing,
    OriginBroken,
    OriginError,
    OriginTimeout,
)
from tarstream.stores import retry
from tarstream.stores.base import ObjectMeta
from tarstream.stores.http import HttpStore, session
from tarstream.stores.retry import PROGRESS, Pace, Retrying

CONTENT = Made(300_000).read()
N = len(CONTENT)
TAG = Object(CONTENT).etag
OTHER = Object(Made(N, seed=1).read())
READ_TIMEOUT = 0.75
"""Of the stores that meet a stall."""


@pytest.fixture
def quickly(monkeypatch):
    """Pauses that are over in a moment: most of what follows is not about them."""
    monkeypatch.setattr(retry, "_FIRST_PAUSE", 0.01)


@pytest.fixture
async def patient(quickly):
    """Makes stores whose origin has seconds for each byte."""
    async with session(5, 30, any_address) as http:
        yield lambda attempts=3, patience=30: Retrying(
            HttpStore(http), attempts=attempts, patience=patience
        )


@pytest.fixture
async def hasty(quickly):
    """Makes stores whose origin has a moment for each byte."""
    async with session(5, READ_TIMEOUT, any_address) as http:
        yield lambda attempts=3, patience=30: Retrying(
            HttpStore(http), attempts=attempts, patience=patience
        )


async def moved(store, url, sink, span=(0, N), size=N, validator=TAG) -> None:
    async with store.open(url, *span, size, validator) as body:
        await body.copy_to(sink)


def ranges(origin):
    """What was asked for, in order; None: the whole."""
    return [each.headers.get("range") for each in origin.asked("/object")]


@pytest.mark.parametrize("span", [(0, N), (1000, N - 5)])
@pytest.mark.parametrize("at", [1000, 1001, 65_536, 150_000, N - 6])
@pytest.mark.parametrize("kind", [faults.fin, faults.rst, faults.stall])
async def test_a_break_is_repaired_at_the_byte_where_it_was(origin, hasty, patient, kind, at, span):
    url = origin.add("/object", CONTENT, kind(at=at, times=1))
    sink = Sink()
    await moved((hasty if kind is faults.stall else patient)(), url, sink, span)
    assert sink.data == CONTENT[slice(*span)]
    first, second = origin.asked("/object")
    assert second.headers["if-match"] == first.headers["if-match"] == TAG
    assert second.status == 206
    begin, _, last = second.headers["range"].removeprefix("bytes=").partition("-")
    assert int(last) == span[1] - 1
    # What came before an RST may be lost on the way.
    assert int(begin) == at if kind is not faults.rst else span[0] <= int(begin) <= at
    assert [type(cause) for cause in sink.repairs] == [
        OriginTimeout if kind is faults.stall else OriginBroken
    ]


async def test_a_date_is_a_condition_for_going_on(origin, patient):
    thing = Object(CONTENT, etag=None, faults=[faults.fin(at=100_000, times=1)])
    url = origin.add("/object", thing)
    assert await copied(patient(), url, 0, N, N, thing.modified) == CONTENT
    second = origin.asked("/object")[1]
    assert second.headers["if-unmodified-since"] == thing.modified
    assert second.headers["range"] == f"bytes=100000-{N - 1}"


async def test_a_break_at_the_last_byte_of_a_chunked_object_is_repaired(origin, patient):
    """Its last bytes are held back until its end is certain."""
    url = origin.add(
        "/object", CONTENT, faults.chunked(last=False, times=1), faults.fin(at=N, times=1)
    )
    sink = Sink()
    await moved(patient(), url, sink)
    assert sink.data == CONTENT
    assert len(sink.repairs) == 1


async def test_every_break_is_told_with_its_cause(origin, patient):
    url = origin.add(
        "/object",
        CONTENT,
        faults.fin(at=100_000, times=1),
        faults.status(503, skip=1, times=1),
        faults.rst(at=200_000, times=1),
    )
    sink = Sink()
    await moved(patient(), url, sink)
    assert sink.data == CONTENT
    assert [cause.detail for cause in sink.repairs] == [
        "its origin broke the connection",
        "its origin answers 503",
        "its origin broke the connection",
    ]
    assert len(origin.requests) == 4


async def test_progress_starts_the_count_of_tries_again(origin, patient):
    """A long member with many breaks lives."""
    url = origin.add("/object", CONTENT, faults.fin(after=PROGRESS))
    sink = Sink()
    await moved(patient(attempts=1), url, sink)
    assert sink.data == CONTENT
    assert ranges(origin) == [None] + [
        f"bytes={position}-{N - 1}" for position in range(PROGRESS, N, PROGRESS)
    ]
    assert len(sink.repairs) == N // PROGRESS


@pytest.mark.parametrize("attempts", [1, 2, 3])
@pytest.mark.parametrize("brought", [0, 1000, PROGRESS - 1])
async def test_tries_that_bring_next_to_nothing_are_counted(origin, patient, attempts, brought):
    url = origin.add("/object", CONTENT, faults.fin(after=brought))
    sink = Sink()
    with pytest.raises(OriginBroken):
        await moved(patient(attempts=attempts), url, sink)
    assert len(origin.requests) == attempts
    assert sink.data == CONTENT[: attempts * brought]
    assert len(sink.repairs) == attempts - 1


async def test_a_try_that_helped_makes_up_for_those_before(origin, patient):
    url = origin.add(
        "/object",
        CONTENT,
        faults.status(503, times=1),
        faults.fin(at=PROGRESS, times=1),
        faults.status(503, skip=2, times=1),
        faults.fin(at=2 * PROGRESS, times=1),
    )
    assert await copied(patient(attempts=2), url, 0, N, N, TAG) == CONTENT
    assert len(origin.requests) == 5


async def test_patience_is_for_all_tries_together(origin, hasty):
    url = origin.add("/object", CONTENT, faults.stall(at=1000))
    sink = Sink()
    with pytest.raises(OriginTimeout):
        await moved(hasty(attempts=1000, patience=3 * READ_TIMEOUT), url, sink)
    assert sink.data == CONTENT[:1000]
    # Some that stall, and one that is cut short.
    assert 2 <= len(origin.requests) <= 4
    await origin.until(lambda: origin.open_connections == 0)


@pytest.mark.parametrize("method", ["ready", "copy_to", "head"])
@pytest.mark.parametrize(
    "fault", [faults.late(), faults.informational()], ids=["silent", "informational"]
)
async def test_patience_ends_with_an_origin_that_never_answers(origin, patient, method, fault):
    """Informational answers without end keep a read timeout from ever firing."""
    url = origin.add("/object", CONTENT, fault)
    store = patient(attempts=1000, patience=0.4)

    async def ready():
        async with store.open(url, 0, N, N, TAG) as body:
            await body.ready()

    attempts = {
        "ready": ready,
        "copy_to": lambda: moved(store, url, Sink()),
        "head": lambda: store.head(url),
    }
    with pytest.raises(OriginTimeout):
        await attempts[method]()
    assert len(origin.requests) == 1
    await origin.until(lambda: origin.open_connections == 0)


async def test_patience_ends_with_an_origin_that_never_ends(origin, patient):
    """Bytes that bring nothing are no bytes, whenever they come."""

    async def drip(connection):
        await connection.send(b"1;")
        while True:
            await connection.send(b"x")
            await asyncio.sleep(0.02)

    url = origin.add(
        "/object", CONTENT, faults.chunked(), Fault("drip", act=drip, at=N, methods=("GET",))
    )
    sink = Sink()
    with pytest.raises(OriginTimeout):
        await moved(patient(attempts=1000, patience=0.5), url, sink)
    assert len(sink.data) < N
    assert CONTENT.startswith(sink.data)
    await origin.until(lambda: origin.open_connections == 0)


async def test_a_byte_renews_patience(origin, patient):
    """An origin may be slow for as long as it likes, if only it gives something."""
    url = origin.add("/object", CONTENT[:2000], faults.drip(0.07, 50))
    etag = origin.objects["/object"].etag
    sink = Sink()
    await moved(patient(attempts=1, patience=2), url, sink, (0, 2000), 2000, etag)
    assert sink.data == CONTENT[:2000]


@pytest.mark.parametrize("slow", ["write", "flush"])
async def test_a_slow_client_does_not_use_up_patience(origin, hasty, slow):
    patience = 2 * READ_TIMEOUT
    loop = asyncio.get_running_loop()

    class Slow(Sink):
        async def wait(self):
            enough = loop.time() + 2 * patience
            if self.position > 100_000 and self.gate.is_set():
                self.gate.clear()
                await until(lambda: loop.time() > enough)

        async def write(self, chunk):
            self.chunks.append(chunk)
            self.position += len(chunk)
            if slow == "write":
                await self.wait()

        async def flush(self):
            if slow == "flush":
                await self.wait()

    big = Made(16 << 20)
    url = origin.add("/object", big, faults.fin(at=12 << 20, times=1))
    etag = origin.objects["/object"].etag
    sink = Slow()
    await moved(hasty(patience=patience), url, sink, (0, big.size), big.size, etag)
    assert not sink.gate.is_set()
    assert sink.data == big.read()
    assert len(sink.repairs) == 1


async def test_a_wait_for_the_client_is_not_counted_as_one_for_the_origin(origin, patient):
    """The origin is silent for a moment after the client was for longer than patience."""
    patience = 1.6
    loop = asyncio.get_running_loop()

    class Slow(Sink):
        async def flush(self):
            if self.position == 7 + 150_000 and self.gate.is_set():
                self.gate.clear()
                enough = loop.time() + 1.25 * patience
                await until(lambda: loop.time() > enough)
                loop.call_later(patience / 16, origin.release)
                self.gate.set()

    url = origin.add("/object", CONTENT, faults.stall(at=150_000))
    sink = Slow()
    await moved(patient(attempts=1, patience=patience), url, sink)
    assert sink.data == CONTENT
    assert sink.repairs == []


async def test_an_origin_is_left_alone_for_as_long_as_it_asks(origin, patient):
    url = origin.add("/object", CONTENT, faults.status(503, retry_after="1"))
    store = patient(attempts=2)
    loop = asyncio.get_running_loop()
    for attempt in (store.head(url), copied(store, url, 0, N, N, TAG)):
        origin.add("/object", Object(CONTENT, faults=[faults.status(503, retry_after="1")]))
        origin.requests.clear()
        # Whoever comes back at once is refused again, and that was the last try.
        timer = loop.call_later(0.7, origin.add, "/object", CONTENT)
        assert await attempt in (CONTENT, ObjectMeta(N, MTIME, TAG))
        timer.cancel()
        assert len(origin.requests) == 2


async def test_pauses_grow(origin):
    """Within a second an origin that is down is asked a few times, not all the time."""
    url = origin.add("/object", CONTENT, faults.status(503))
    async with session(5, 5, any_address) as http:
        with pytest.raises(OriginBroken):
            await Retrying(HttpStore(http), attempts=1000, patience=3).head(url)
    assert 4 <= len(origin.requests) <= 5


@pytest.mark.parametrize("said", ["60", "Fri, 31 Dec 9998 23:59:59 GMT"])
@pytest.mark.parametrize("status", [429, 503])
async def test_a_wait_that_outlasts_patience_is_given_up_at_once(origin, patient, status, said):
    url = origin.add("/object", CONTENT, faults.status(status, retry_after=said))
    store = patient(attempts=1000)
    sink = Sink()
    for attempt in (store.head(url), moved(store, url, sink)):
        origin.requests.clear()
        with pytest.raises(OriginBroken):
            await attempt
        assert len(origin.requests) == 1
    assert sink.repairs == []


@pytest.mark.parametrize(
    "held",
    [
        [faults.becomes(OTHER, skip=1)],
        [faults.becomes(OTHER, skip=1), faults.ignores("If-Match")],
        [faults.becomes(OTHER, skip=1), faults.ignores("If-Match", "Range")],
        [faults.becomes(Object(CONTENT + b"!", etag=TAG), skip=1)],
        [faults.without("ETag", skip=1)],
        [faults.ignores("Range"), faults.without("ETag", skip=1)],
        [faults.weak_etag(skip=1)],
        [faults.status(412, skip=1)],
        [faults.status(416, skip=1)],
        [faults.misranged(total=1)],
    ],
    ids=lambda held: " ".join(fault.name for fault in held),
)
async def test_a_changed_object_is_never_continued(origin, patient, held):
    url = origin.add("/object", CONTENT, faults.fin(at=100_000, times=1), *held)
    sink = Sink()
    with pytest.raises(ObjectChanged):
        await moved(patient(attempts=1000), url, sink)
    assert sink.data == CONTENT[:100_000]
    assert len(origin.requests) == 2


@pytest.mark.parametrize("chunked", [False, True])
async def test_an_origin_that_ignores_range_is_read_from_its_beginning(origin, patient, chunked):
    url = origin.add(
        "/object",
        CONTENT,
        faults.ignores("Range"),
        *[faults.chunked()] * chunked,
        faults.fin(at=100_000, times=1),
    )
    for span in ((0, N), (50_000, 200_000)):
        origin.objects["/object"].faults[-1] = faults.fin(at=100_000, times=1)
        sink = Sink()
        await moved(patient(), url, sink, span)
        assert sink.data == CONTENT[slice(*span)]
        assert len(sink.repairs) == 1
    assert {each.status for each in origin.requests} == {200}


@pytest.mark.parametrize("validator", [None, 'W/"weak"'])
@pytest.mark.parametrize("span", [(0, N), (1000, N)])
async def test_without_a_strong_validator_nothing_is_continued(origin, hasty, validator, span):
    weak = Object(CONTENT, etag='W/"weak"', last_modified=None)
    for fault in (faults.fin(at=100_000), faults.rst(at=N - 1), faults.stall(at=100_000)):
        weak.faults[:] = [fault]
        url = origin.add("/object", weak)
        origin.requests.clear()
        sink = Sink()
        with pytest.raises(OriginBroken):
            await moved(hasty(attempts=1000), url, sink, span, N, validator)
        assert CONTENT[slice(*span)].startswith(sink.data)
        assert len(origin.requests) == 1
        assert sink.repairs == []


@pytest.mark.parametrize("validator", [None, 'W/"weak"'])
@pytest.mark.parametrize("span", [(0, N), (1000, N)])
async def test_without_a_strong_validator_it_is_begun_again_at_its_first_byte(
    origin, patient, validator, span
):
    held = [faults.status(503, times=1), faults.garbled(skip=1, times=1)]
    weak = Object(CONTENT, etag='W/"weak"', last_modified=None, faults=held)
    sink = Sink()
    await moved(patient(), origin.add("/object", weak), sink, span, N, validator)
    assert sink.data == CONTENT[slice(*span)]
    assert len(sink.repairs) == 2
    asked = [None if span[0] == 0 else f"bytes=1000-{N - 1}"] * 3
    assert ranges(origin) == asked


async def test_what_fails_while_it_is_open_ahead_shows_at_its_turn(origin, patient):
    url = origin.add("/object", CONTENT, faults.status(404))
    async with patient().open(url, 0, N, N, TAG) as body:
        await origin.until(lambda: origin.requests and not origin.in_flight)
        with pytest.raises(ObjectMissing):
            await body.copy_to(Sink())
    async with patient().open(url, 0, N, N, TAG) as body:
        with pytest.raises(ObjectMissing):
            await body.ready()
    assert len(origin.requests) == 2


@pytest.mark.parametrize("attempts", [1, 2, 3])
@pytest.mark.parametrize("method", ["ready", "copy_to"])
async def test_what_fails_while_it_is_open_ahead_counts_as_a_try(origin, patient, attempts, method):
    url = origin.add("/object", CONTENT, faults.status(503))
    sink = Sink()
    async with patient(attempts=attempts).open(url, 0, N, N, TAG) as body:
        await origin.until(lambda: origin.requests and not origin.in_flight)
        with pytest.raises(OriginBroken):
            await (body.ready() if method == "ready" else body.copy_to(sink))
    assert len(origin.requests) == attempts


async def test_nobody_asks_again_before_its_turn(origin, patient):
    """Tries that are made while it waits would be tries too early."""
    url = origin.add("/object", CONTENT, faults.status(503, times=1))
    loop = asyncio.get_running_loop()
    sink = Sink()
    async with patient(attempts=2).open(url, 0, N, N, TAG) as body:
        later = loop.time() + 0.5
        await until(lambda: loop.time() > later)
        assert len(origin.requests) == 1
        await body.copy_to(sink)
    assert sink.data == CONTENT
    assert len(sink.repairs) == 1


@pytest.mark.parametrize("method", ["ready", "copy_to"])
async def test_patience_begins_with_its_turn(origin, patient, method):
    patience = 1.6
    url = origin.add("/object", CONTENT, faults.late(times=1))
    loop = asyncio.get_running_loop()
    sink = Sink()
    async with patient(attempts=1, patience=patience).open(url, 0, N, N, TAG) as body:
        later = loop.time() + 1.25 * patience
        await until(lambda: loop.time() > later)
        assert origin.stalled == 1
        task = asyncio.create_task(body.ready() if method == "ready" else body.copy_to(sink))
        loop.call_later(patience / 16, origin.release)
        await task
        if method == "ready":
            await body.copy_to(sink)
    assert sink.data == CONTENT
    assert sink.repairs == []


async def test_what_an_origin_closed_while_it_waited_is_opened_again(origin, patient):
    big = Made(16 << 20)
    url = origin.add("/object", big)
    sink = Sink()
    async with patient().open(url, 0, big.size, big.size, origin.objects["/object"].etag) as body:
        await body.ready()
        origin.reset()
        await body.copy_to(sink)
    assert sink.data == big.read()
    assert len(sink.repairs) == 1


async def test_a_failure_whose_turn_never_comes_is_nobodys(origin, patient, caplog):
    url = origin.add("/object", CONTENT, faults.hang_up())
    for wait in (False, True):
        async with patient().open(url, 0, N, N, TAG):
            if wait:
                await origin.until(lambda: origin.requests and not origin.in_flight)
    gc.collect()
    assert caplog.records == []
    await origin.until(lambda: origin.open_connections == 0)


async def test_what_is_being_opened_is_given_up_when_it_is_left(origin, patient):
    url = origin.add("/object", CONTENT, faults.late())
    async with asyncio.timeout(5), patient().open(url, 0, N, N, TAG):
        await origin.until(lambda: origin.stalled)
    await origin.until(lambda: origin.open_connections == 0)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (faults.status(404), ObjectMissing),
        (faults.coded(), OriginError),
        (faults.status(204), OriginError),
    ],
)
async def test_what_is_not_transient_is_not_tried_again(origin, patient, fault, error):
    url = origin.add("/object", CONTENT, fault)
    store = patient()
    for attempt in (store.head(url), copied(store, url, 0, N, N, TAG)):
        origin.requests.clear()
        with pytest.raises(error) as raised:
            await attempt
        assert type(raised.value) is error
        assert len(origin.requests) == 1


async def test_what_the_policy_forbids_is_not_tried_again():
    class Forbidding:
        asked = 0

        async def head(self, _):
            self.asked += 1
            raise Forbidden("no")

    store = Forbidding()
    with pytest.raises(Forbidden):
        await Retrying(store, attempts=5, patience=5).head("http://example")
    assert store.asked == 1


@pytest.mark.parametrize(
    "fault",
    [faults.status(503), faults.status(429), faults.garbled(), faults.late()],
    ids=["503", "429", "garbled", "late"],
)
async def test_head_is_tried_again(origin, hasty, fault):
    origin.add("/object", Object(CONTENT, faults=[replace(fault, times=2)]))
    url = origin.url("/object")
    assert await hasty(attempts=3).head(url) == ObjectMeta(N, MTIME, TAG)
    assert len(origin.requests) == 3
    origin.add("/object", Object(CONTENT, faults=[fault]))
    with pytest.raises(OriginBroken):
        await hasty(attempts=2).head(url)
    assert len(origin.requests) == 5


async def test_a_body_is_ready_after_a_repair(origin, patient):
    url = origin.add("/object", CONTENT, faults.garbled(times=1))
    sink = Sink()
    async with patient().open(url, 5, N, N, TAG) as body:
        await body.ready()
        assert len(origin.requests) == 2
        await body.copy_to(sink)
    assert len(origin.requests) == 2
    assert sink.data == CONTENT[5:]


async def test_the_sink_is_flushed_before_a_repair(origin, patient):
    """What came must not wait in our buffers for as long as the origin is out of order."""
    url = origin.add("/object", CONTENT, faults.fin(at=1000, times=1), faults.late(skip=1))
    sink = Sink()
    task = asyncio.create_task(moved(patient(), url, sink))
    await origin.until(lambda: len(origin.requests) == 2 and origin.stalled)
    assert sink.flushes[-1] == 7 + 1000
    origin.release()
    await task
    assert sink.data == CONTENT


async def test_the_sink_is_flushed_before_a_pause(origin, patient):
    url = origin.add("/object", CONTENT, faults.status(503, retry_after="60"))
    sink = Sink()
    async with patient(patience=100).open(url, 0, N, N, TAG) as body:
        await origin.until(lambda: origin.requests and not origin.in_flight)
        task = asyncio.create_task(body.copy_to(sink))
        await until(lambda: sink.flushes)
        task.cancel()
        await asyncio.wait([task])


@pytest.mark.parametrize("when", ["pause", "answer", "content"])
async def test_a_repair_that_is_cancelled_holds_nothing(origin, patient, when):
    held = {
        "pause": faults.status(503, retry_after="60", skip=1),
        "answer": faults.late(skip=1),
        "content": faults.stall(at=2000, skip=0),
    }
    url = origin.add("/object", CONTENT, faults.fin(at=1000, times=1), held[when])
    tasks = asyncio.all_tasks()
    task = asyncio.create_task(moved(patient(patience=100), url, Sink()))
    await origin.until(
        lambda: len(origin.requests) == 2 and (origin.stalled or not origin.in_flight)
    )
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    # An answer that was read to its end, that of the refusal, keeps its connection.
    await origin.until(lambda: origin.open_connections == (when == "pause"))
    await until(lambda: not [t for t in asyncio.all_tasks() - tasks if "stores/" in repr(t)])


@pytest.fixture
async def demanding(quickly):
    """Makes stores that want 10,000 bytes a second, on average over a third of a second."""
    async with session(5, 30, any_address) as http:
        yield lambda attempts=2, rate=10_000: Retrying(
            HttpStore(http), attempts=attempts, patience=30, pace=Pace(rate, 0.3)
        )


async def test_an_origin_that_only_drips_is_given_up(origin, demanding):
    """Each byte comes within the read timeout; all of them would take a day."""
    url = origin.add("/object", CONTENT, faults.drip(0.02, 10))
    with pytest.raises(OriginTimeout, match="min_rate"):
        await moved(demanding(), url, Sink())
    assert len(origin.asked("/object")) == 2


async def test_what_comes_too_slowly_is_no_progress_however_much_it_is(origin, demanding):
    """Each try brings more than 64 KiB: without end, the client would get what min_rate forbids."""
    big = Made(3_000_000)
    url = origin.add("/object", big, faults.drip(0.02, 40_000))
    etag = origin.objects["/object"].etag
    sink = Sink()
    with pytest.raises(OriginTimeout, match="min_rate"):
        await moved(demanding(rate=100_000_000), url, sink, (0, big.size), big.size, etag)
    assert len(origin.asked("/object")) == 2
    assert sink.position > PROGRESS


async def test_what_came_before_it_was_too_slow_counts(origin, demanding):
    places = [80_000, 160_000, 240_000]
    slow = [faults.drip(0.02, 10, at=place, times=1) for place in places]
    url = origin.add("/object", CONTENT, *slow)
    sink = Sink()
    await moved(demanding(attempts=1), url, sink)
    assert sink.data == CONTENT
    assert len(sink.repairs) == len(places)


async def test_an_origin_that_drips_once_is_repaired(origin, demanding):
    url = origin.add("/object", CONTENT, faults.drip(0.02, 10, at=100_000, times=1))
    sink = Sink()
    await moved(demanding(), url, sink)
    assert sink.data == CONTENT
    assert len(sink.repairs) == 1


async def test_an_origin_that_is_fast_enough_is_not_asked_again(origin, demanding):
    big = Made(3_000_000)
    url = origin.add("/object", big, faults.drip(0.02, 40_000))
    etag = origin.objects["/object"].etag
    sink = Sink()
    await moved(demanding(attempts=1), url, sink, (0, big.size), big.size, etag)
    assert sink.data == big.read()


async def test_a_slow_client_is_not_taken_for_an_origin_that_drips(origin, demanding):
    loop = asyncio.get_running_loop()

    class Slow(Sink):
        async def write(self, chunk):
            await super().write(chunk[:0])
            self.chunks.append(chunk)
            self.position += len(chunk)
            enough = loop.time() + 0.4
            await until(lambda: loop.time() > enough)

    url = origin.add("/object", CONTENT[:3000], faults.drip(0.001, 1000))
    etag = origin.objects["/object"].etag
    sink = Slow()
    await moved(demanding(attempts=1), url, sink, (0, 3000), 3000, etag)
    assert sink.data == CONTENT[:3000]
