"""What HEAD said is remembered for a while, and asked for once however many want to know."""

import asyncio
import gc

import faults
import pytest
from made import Made
from test_stores import any_address, until

from tarstream.errors import ObjectMissing, OriginBroken, OriginError
from tarstream.memory import Flights, LocalMemory
from tarstream.stores.base import ObjectMeta
from tarstream.stores.http import HttpStore, session

META = ObjectMeta(1, 2, '"a"')
NEWER = ObjectMeta(3, 4, '"b"')


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


async def remembered(memory, *sources):
    return dict(await memory.get_many(sources))


async def test_what_is_remembered_is_found_until_it_is_too_old(clock):
    memory = LocalMemory(10, clock=clock)
    await memory.put_many({"a": META})
    clock.now += 9.999
    await memory.put_many({"b": NEWER})
    assert await remembered(memory, "a", "b", "c") == {"a": META, "b": NEWER}
    clock.now += 0.001
    assert await remembered(memory, "a", "b") == {"b": NEWER}
    clock.now += 10
    assert await remembered(memory, "a", "b") == {}


async def test_what_is_put_again_is_as_new(clock):
    memory = LocalMemory(10, clock=clock)
    await memory.put_many({"a": META, "b": META})
    clock.now += 9
    await memory.put_many({"a": NEWER})
    clock.now += 9
    assert await remembered(memory, "a", "b") == {"a": NEWER}


async def test_looking_does_not_make_it_newer(clock):
    memory = LocalMemory(10, clock=clock)
    await memory.put_many({"a": META})
    for _ in range(9):
        clock.now += 1
        assert await remembered(memory, "a")
    clock.now += 1
    assert not await remembered(memory, "a")


async def test_what_is_forgotten_is_gone(clock):
    memory = LocalMemory(10, clock=clock)
    await memory.put_many({"a": META, "b": META})
    await memory.forget("a")
    await memory.forget("unknown")
    assert await remembered(memory, "a", "b") == {"b": META}


async def test_nothing_is_remembered_for_no_time(clock):
    memory = LocalMemory(0, clock=clock)
    await memory.put_many({"a": META})
    assert await remembered(memory, "a") == {}


async def test_no_more_is_remembered_than_the_limit(clock):
    memory = LocalMemory(10, limit=3, clock=clock)
    await memory.put_many({"a": META, "b": META, "c": META})
    await memory.put_many({"a": META})
    await memory.put_many({"d": META})
    assert set(await remembered(memory, *"abcd")) == set("acd")
    await memory.put_many({str(number): META for number in range(100)})
    assert set(await remembered(memory, *"acd", *map(str, range(100)))) == {"97", "98", "99"}


async def test_what_is_too_old_takes_no_room(clock):
    memory = LocalMemory(10, clock=clock)
    await memory.put_many({str(number): META for number in range(100)})
    clock.now += 10
    await memory.put_many({"a": META})
    assert len(memory._items) == 1


async def test_bytes_are_remembered_as_sources_too(clock):
    memory = LocalMemory(10, clock=clock)
    await memory.put_many({b"a": META})
    assert await remembered(memory, "a", b"a") == {b"a": META}


async def test_time_is_that_of_the_loop_unless_somebody_knows_better():
    memory = LocalMemory(1000)
    await memory.put_many({"a": META})
    assert await remembered(memory, "a") == {"a": META}


@pytest.fixture
async def flights():
    async with session(5, 30, any_address) as http:
        yield Flights(HttpStore(http).head)


async def test_a_hundred_who_ask_at_once_are_one_request(origin, flights):
    url = origin.add("/object", Made(1000), faults.late())
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(flights.ask(url)) for _ in range(50)]
        await origin.until(lambda: origin.stalled)
        tasks += [group.create_task(flights.ask(url)) for _ in range(50)]
        await asyncio.sleep(0)
        origin.release()
    assert {task.result().size for task in tasks} == {1000}
    assert len(origin.requests) == 1


async def test_different_questions_are_asked_together(origin, flights):
    urls = [origin.add(f"/{number}", Made(number), faults.late()) for number in range(5)]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(flights.ask(url)) for url in urls]
        await origin.until(lambda: origin.stalled == 5)
        origin.release()
    assert [task.result().size for task in tasks] == list(range(5))


async def test_an_answer_is_shared_with_those_who_waited_and_not_kept(origin, flights):
    url = origin.add("/object", Made(1000))
    assert (await flights.ask(url)).size == 1000
    origin.add("/object", Made(2000))
    assert (await flights.ask(url)).size == 2000
    assert len(origin.requests) == 2


async def test_a_waiter_that_leaves_takes_nobody_along(origin, flights):
    url = origin.add("/object", Made(1000), faults.late())
    tasks = [asyncio.create_task(flights.ask(url)) for _ in range(5)]
    await origin.until(lambda: origin.stalled)
    # The one who asked first, too.
    for task in tasks[:4]:
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
    assert origin.open_connections == 1
    origin.release()
    assert (await tasks[4]).size == 1000
    assert len(origin.requests) == 1


async def test_a_question_ends_when_all_have_left(origin, flights):
    url = origin.add("/object", Made(1000), faults.late())
    before = asyncio.all_tasks()
    tasks = [asyncio.create_task(flights.ask(url)) for _ in range(5)]
    await origin.until(lambda: origin.stalled)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await origin.until(lambda: origin.open_connections == 0)
    await until(lambda: asyncio.all_tasks() <= before | {asyncio.current_task()})


async def test_who_asks_after_all_have_left_asks_anew(origin, flights):
    url = origin.add("/object", Made(1000), faults.late(times=1))
    first = asyncio.create_task(flights.ask(url))
    await origin.until(lambda: origin.stalled)
    first.cancel()
    # In this very moment, while the first question is being given up.
    second = asyncio.create_task(flights.ask(url))
    third = asyncio.create_task(flights.ask(url))
    assert (await second).size == 1000
    assert (await third).size == 1000
    assert len(origin.requests) == 2
    assert first.cancelled()


async def test_a_question_that_was_given_up_does_not_end_the_next_one(origin, flights):
    url = origin.add("/object", Made(1000), faults.late())
    first = asyncio.create_task(flights.ask(url))
    await origin.until(lambda: origin.stalled)
    first.cancel()
    second = asyncio.create_task(flights.ask(url))
    await origin.until(lambda: len(origin.requests) == 2 and origin.open_connections == 1)
    third = asyncio.create_task(flights.ask(url))
    await asyncio.sleep(0)
    origin.release()
    assert (await second).size == (await third).size == 1000
    assert len(origin.requests) == 2


async def test_a_question_is_given_up_before_it_was_asked(origin, flights):
    url = origin.add("/object", Made(1000))
    task = asyncio.create_task(flights.ask(url))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert (await flights.ask(url)).size == 1000


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (faults.status(404), ObjectMissing),
        (faults.status(503), OriginBroken),
        (faults.status(418), OriginError),
    ],
)
async def test_a_failure_is_shared_and_not_remembered(origin, flights, fault, error):
    url = origin.add("/object", Made(1000), faults.late(times=1), fault)
    tasks = [asyncio.create_task(flights.ask(url)) for _ in range(10)]
    await origin.until(lambda: origin.stalled)
    origin.release()
    await asyncio.wait(tasks)
    assert {type(task.exception()) for task in tasks} == {error}
    asked = len(origin.requests)
    assert asked <= 2  # HEAD, and GET where HEAD is refused
    origin.add("/object", Made(1000))
    assert (await flights.ask(url)).size == 1000


async def test_a_failure_that_nobody_waits_for_any_more_is_nobodys(origin, flights, caplog):
    url = origin.add("/object", Made(1000), faults.late(), faults.status(503))
    tasks = [asyncio.create_task(flights.ask(url)) for _ in range(2)]
    await origin.until(lambda: origin.stalled)
    tasks[0].cancel()
    await asyncio.wait(tasks[:1])
    origin.release()
    with pytest.raises(OriginBroken):
        await tasks[1]
    tasks.clear()
    gc.collect()
    assert caplog.records == []


async def test_nothing_is_kept_of_questions_that_were_answered(origin, flights):
    url = origin.add("/object", Made(1000))
    await flights.ask(url)
    with pytest.raises(ObjectMissing):
        await flights.ask(origin.url("/gone"))
    assert not flights._flights
