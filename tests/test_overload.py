"""More clients than the gateway takes, and many that want the same: refused, or shared, at once.

`pytest -s` prints what was measured on the way; docs/operations.md has such numbers.
"""

import asyncio
import hashlib
import json
import random
from contextlib import contextmanager

import faults
import pytest
from crowd import Client, Crowd, Usage, measured, quantile, room_for_a_crowd, until
from gateway import archive_path, process
from origin import Made
from yarl import URL

pytestmark = pytest.mark.timeout(1200)

CROWD = 1000


@pytest.fixture(autouse=True)
def _enough_descriptors():
    with room_for_a_crowd():
        yield


@pytest.fixture
def running(tmp_path, origin):
    """A gateway as a process, with these limits."""

    @contextmanager
    def running(max_archives, **upstream):
        config = f"""
            [catalog]
            kind = "template"
            url = "{origin.root}/{{id}}"
            [limits]
            max_archives = {max_archives}
            stall_timeout = 600
            [upstream]
            allow = ["{origin.root}"]
            read_timeout = 600
            patience = 600
            plan_timeout = 600
            """ + "\n".join(f"{key} = {value}" for key, value in upstream.items())
        with process(tmp_path, config) as gateway, Crowd(gateway.port) as crowd:
            yield gateway, Usage(gateway, tmp_path), crowd
            assert "Traceback" not in gateway.log

    return running


async def answers(crowd, targets, **options):
    """What clients get that all ask at once."""
    clients = await crowd.ask_all(targets, **options)
    return await asyncio.gather(*(client.read_all() for client in clients))


async def test_beyond_max_archives_nothing_is_asked_upstream(origin, running):
    """Refused at once, although all that are in flight stand still."""
    full = 50
    origin.send_buffer = 8192
    origin.add("/big", Made(64 << 20))
    origin.add("/small", b"hello")
    with running(full) as (_, usage, crowd):
        path = archive_path(["big"])
        stalled = await crowd.ask_all([path] * full, receive_buffer=8192)
        await until(lambda: usage.archives == full and all(each.unread for each in stalled))
        await until(lambda: len(origin.asked("/big")) == full)
        asked = len(origin.requests)

        used = usage.processor
        refused = await answers(crowd, [archive_path(["small"])] * CROWD)
        used = usage.processor - used
        one_by_one, healthy = [], []
        for route in ("/archive", "/plan") * 50:
            one_by_one += await answers(crowd, [archive_path(["small"], route)])
            healthy += await answers(crowd, ["/healthz"])
        for client in refused + one_by_one:
            assert client.status == 503
            assert client.headers["retry-after"].isdigit()
            assert client.headers["content-type"] == "application/problem+json"
            assert client.whole
        assert len(origin.requests) == asked
        assert usage.archives == full
        # As soon as what has nothing to do but to answer: nobody is waited for.
        usual = quantile([client.seconds for client in healthy], 0.5)
        assert quantile([client.seconds for client in one_by_one], 0.5) < 10 * usual + 0.01
        for what, clients in (("at once", refused), ("one by one", one_by_one)):
            times = [1000 * client.seconds for client in clients]
            measured(
                f"{len(clients)} refusals {what}, connecting included: p50 "
                f"{quantile(times, 0.5):.1f} ms, p99 {quantile(times, 0.99):.1f} ms"
            )

        measured(f"{1000 * used / CROWD:.2f} ms of processor time for each refusal")

        # Who is no archive is served, and so is the next one as soon as there is room.
        assert (await answers(crowd, ["/healthz", "/readyz"]))[0].status == 200
        stalled[0].leave()
        await until(lambda: usage.archives == full - 1)
        (served,) = await answers(crowd, [archive_path(["small"])])
        assert (served.status, served.received) == (200, 2048)


async def test_an_origin_sees_connections_and_one_for_each_archive_at_most(origin, running):
    """1,000 at once, an origin that takes its time: planned, refused or sent, never more."""
    connections, in_flight = 20, 200
    origin.faults.append(faults.late(0.05))
    contents = [Made(50_000, seed) for seed in range(40)]
    for made in contents:
        origin.add(f"/{made.seed}", made)
    pick = random.Random(3)
    wanted = [pick.sample(range(40), 4) for _ in range(CROWD)]
    with running(in_flight, connections=connections, remember=0) as (_, usage, crowd):
        clients = await answers(crowd, [archive_path(map(str, ids)) for ids in wanted])
        assert origin.most_open_connections <= connections + in_flight
        served = [each for each in zip(wanted, clients, strict=True) if each[1].status == 200]
        assert len(served) >= in_flight
        for ids, client in served:
            assert client.whole
            assert client.received == 4 * (512 + 50_176) + 1024, ids
        for client in clients:
            assert client.status == 200 or (
                client.status == 503 and client.headers["retry-after"].isdigit()
            )
        # Right after the storm all is as before.
        assert usage.archives == 0
        (client,) = await answers(crowd, [archive_path(["7"])])
        assert (client.status, client.whole) == (200, True)
        measured(
            f"{CROWD} at once, [limits] max_archives {in_flight}, connections {connections}: "
            f"{len(served)} served, {origin.most_open_connections} connections to its origin"
        )


async def test_planning_alone_takes_no_more_than_connections(origin, running):
    origin.faults.append(faults.late(0.02))
    for number in range(CROWD):
        origin.add(f"/{number}", b"hello")
    with running(CROWD, connections=20) as (_, _, crowd):
        clients = await answers(crowd, [archive_path([str(n)], "/plan") for n in range(CROWD)])
        assert {client.status for client in clients} == {200}
        assert origin.most_open_connections == 20


async def test_who_asks_for_the_same_at_once_shares_every_head(origin, running):
    ids = ["a", "b", "c"]
    for number, id_ in enumerate(ids):
        origin.add(f"/{id_}", Made(10_000, number), faults.late(methods=("HEAD",)))
    with running(CROWD) as (_, usage, crowd):
        clients = await crowd.ask_all([archive_path(ids)] * CROWD)
        await until(lambda: usage.archives == CROWD)
        await until(lambda: origin.stalled == len(ids))
        origin.release()
        await asyncio.gather(*(client.read_all() for client in clients))
        assert len({client.sha256 for client in clients}) == 1
        assert all(client.status == 200 and client.whole for client in clients)
        for id_ in ids:
            assert len(origin.asked(f"/{id_}", "HEAD")) == 1
            assert len(origin.asked(f"/{id_}", "GET")) == CROWD


async def test_200_ranges_of_an_archive_at_once_plan_it_once(origin, running):
    """Each gets its bytes, and each member is asked about once."""
    names = [f"m{number:03}" for number in range(50)]
    for number, name in enumerate(names):
        origin.add(f"/{name}", Made(20_000 + number, number), faults.late(0.1, methods=("HEAD",)))
    with running(500, remember=600) as (gateway, _, crowd):
        pick = random.Random(5)
        size = sum(512 + (20_000 + n + 511) // 512 * 512 for n in range(50)) + 1024
        spans = [(start, start + 9_999) for start in (pick.randrange(size) for _ in range(200))]
        clients = await asyncio.gather(
            *(
                crowd.ask(archive_path(names), headers=f"Range: bytes={first}-{last}\r\n")
                for first, last in spans
            )
        )
        await asyncio.gather(*(client.read_all() for client in clients))
        heads = [request.path for request in origin.requests if request.method == "HEAD"]
        assert sorted(heads) == [f"/{name}" for name in names]
        whole = await Client.asking(gateway.port, archive_path(names))
        archive = await whole.read_body()
        assert len(archive) == size
        for (first, last), client in zip(spans, clients, strict=True):
            assert client.status == 206
            assert client.sha256 == hashlib.sha256(archive[first : last + 1]).hexdigest()


async def test_aria2_with_16_connections_plans_it_once(origin, running, client, tmp_path):
    names = ["a", "b", "c", "d"]
    for number, name in enumerate(names):
        origin.add(f"/{name}", Made(8 << 20, number))
    with running(20, remember=600) as (gateway, _, _):
        async with client.get(URL(gateway.url(names, "/plan"), encoded=True)) as answer:
            plan = json.loads(await answer.read())
        aria2 = await asyncio.create_subprocess_exec(
            *("aria2c", "-q", "--no-conf", "--allow-overwrite", "-x16", "-s16", "-k1M"),
            *("-d", str(tmp_path), "-o", "saved.tar"),
            f"http://127.0.0.1:{gateway.port}{plan['url']}",
        )
        assert await asyncio.wait_for(aria2.wait(), 60) == 0
        saved = (tmp_path / "saved.tar").read_bytes()
        assert len(saved) == plan["size"]
        for number, member in enumerate(plan["members"]):
            offset, size = member["offset"], member["size"]
            assert saved[offset : offset + size] == Made(8 << 20, number).read()
        heads = [request.path for request in origin.requests if request.method == "HEAD"]
        assert sorted(heads) == [f"/{name}" for name in names]
        assert len(origin.asked("/a")) > 1  # it was in parts indeed
