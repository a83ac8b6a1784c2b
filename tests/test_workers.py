"""Several processes that share a port: as one, for clients and for whoever runs them."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import faults
import pytest
from aiohttp import web
from gateway import ROOT, process, raw, write_catalog
from made import Made
from nginx import held_port
from prometheus_client import CollectorRegistry, Gauge, Histogram
from prometheus_client import Counter as Counts
from prometheus_client.parser import text_string_to_metric_families

from tarstream.admission import Admission
from tarstream.config import ConfigError, load
from tarstream.listener import CannotListen, Loads, SharedSite, bind, port_of
from tarstream.metrics import Metrics
from tarstream.tally import Share, Tally, forget
from tarstream.workers import pause_after

CONTENT = Made(300_000)
STALL = 200_000  # bytes of it that arrive before the origin falls silent
SIZE = 512 + 300_000 + 32 + 1024  # of its archive
FLEET = 8  # downloads
SIGNALS = pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name
)


@pytest.fixture
def running(tmp_path, origin):
    """A gateway with two workers, in front of an origin that falls silent in the middle."""
    origin.add("/slow", CONTENT, faults.stall(at=STALL))
    origin.add("/quick", CONTENT)

    def running(workers=2, sections="", catalog=None, **server):
        catalog = catalog or f'kind = "template"\nurl = "{origin.root}/{{id}}"'
        server = "\n".join(f"{key} = {value}" for key, value in server.items())
        config = f"""
            [server]
            workers = {workers}
            {server}
            [catalog]
            {catalog}
            [upstream]
            allow = ["{origin.root}"]
            {sections}
            """
        return process(tmp_path, config)

    return running


@pytest.fixture
async def client():
    """One connection for each request: a worker that was chosen once is not kept."""
    connector = aiohttp.TCPConnector(force_close=True, limit=0)
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:
        yield session


def started(gateway):
    """The pids of all workers that there ever were."""
    return [int(pid) for pid in re.findall(r"worker started worker=(\d+)", gateway.log)]


def state(pid):
    """As proc(5) has it; X of one that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


async def until(condition, seconds=30):
    async with asyncio.timeout(seconds):
        while not (found := condition()):
            await asyncio.sleep(0.01)
    return found


async def has_ended(gateway):
    return await asyncio.to_thread(gateway.popen.wait, 15)


async def ask(client, url):
    async with client.get(url) as response:
        return response.status, await response.read()


@asynccontextmanager
async def fleet(origin, client, gateway):
    """Downloads in flight, all at once, and each halfway; and what reads the rest of each."""
    async with AsyncExitStack() as stack:

        async def begin():
            return await stack.enter_async_context(client.get(gateway.url(["slow"])))

        before = origin.stalled
        responses = await asyncio.gather(*(begin() for _ in range(FLEET)))
        await origin.until(lambda: origin.stalled == before + FLEET, 15)
        yield [asyncio.create_task(rest(response)) for response in responses]


async def rest(response):
    """How many bytes came, and whether these are all that were promised."""
    got = b""
    with suppress(aiohttp.ClientPayloadError, aiohttp.ClientOSError):
        async for chunk in response.content.iter_any():
            got += chunk
        return len(got), len(got) == response.content_length
    return len(got), False


def served(gateway):
    """How many archives each worker sent."""
    return Counter(map(int, re.findall(r" archive .*outcome=complete.* worker=(\d+)", gateway.log)))


# What clients get.


async def test_all_workers_serve_when_many_come_at_once(origin, running, client):
    with running() as gateway:
        async with fleet(origin, client, gateway) as downloads:
            origin.release()
            assert await asyncio.gather(*downloads) == [(SIZE, True)] * FLEET
        await until(lambda: served(gateway).total() == FLEET)
        assert set(served(gateway)) == set(started(gateway))
        assert min(served(gateway).values()) >= 2


async def test_a_worker_that_stands_still_holds_up_nobody_who_comes(running, client):
    with running() as gateway:
        stuck, _ = started(gateway)
        await ask(client, gateway.url(["quick"]))
        os.kill(stuck, signal.SIGSTOP)
        try:
            async with asyncio.timeout(30):
                for _ in range(FLEET):
                    status, body = await ask(client, gateway.url(["quick"]))
                    assert (status, len(body)) == (200, SIZE)
        finally:
            os.kill(stuck, signal.SIGCONT)
        assert gateway.stop() == 0


async def test_a_worker_that_is_killed_breaks_its_own_downloads_only(origin, running, client):
    """Short of Content-Length; and another one comes in its place."""
    with running() as gateway:
        first = started(gateway)
        async with fleet(origin, client, gateway) as downloads:
            os.kill(first[0], signal.SIGKILL)
            await until(lambda: len(started(gateway)) == 3)
            broken = await until(lambda: [each for each in downloads if each.done()])
            origin.release()
            results = await asyncio.gather(*downloads)
        assert all(size < SIZE and not whole for size, whole in (each.result() for each in broken))
        assert 1 <= len(broken) < FLEET
        assert Counter(results)[SIZE, True] == FLEET - len(broken)
        await until(lambda: served(gateway)[first[1]] == FLEET - len(broken))
        assert re.search(rf'worker died worker={first[0]} by="signal 9"', gateway.log)
        new = started(gateway)[2]
        async with asyncio.timeout(20):
            while not served(gateway)[new]:
                await asyncio.gather(*(ask(client, gateway.url(["quick"])) for _ in range(4)))
        assert gateway.stop() == 0


async def test_who_takes_a_place_knows_what_files_say_by_then(origin, running, client, tmp_path):
    """A token that was taken away does not come back, nor does an entry of the catalog."""
    path = write_catalog(tmp_path / "catalog.jsonl", [{"id": "old", "url": origin.url("/quick")}])
    tokens = tmp_path / "tokens"
    old, new = "a-token-that-was", "a-token-that-is-new"
    tokens.write_text(old)
    auth = f'[auth]\nkind = "bearer"\ntokens_file = "{tokens}"'

    async def status(id_, token):
        headers = {"Authorization": f"Bearer {token}"}
        async with client.get(gateway.url([id_]), headers=headers) as response:
            return response.status

    with running(sections=auth, catalog=f'kind = "file"\npath = "{path}"') as gateway:
        assert await status("old", old) == 200
        tokens.write_text(new)
        write_catalog(path, [{"id": "new", "url": origin.url("/quick")}])
        for pid in started(gateway):
            os.kill(pid, signal.SIGKILL)
        assert await status("new", new) == 200
        assert await status("old", new) == 404
        assert await status("new", old) == 401
        assert gateway.stop() == 0


# How it ends.


@SIGNALS
async def test_all_drain_together_while_the_listener_refuses_in_words(
    origin, running, client, number
):
    """One that has nothing in flight stays until all have drained."""
    with running() as gateway:
        async with client.get(gateway.url(["slow"])) as response:
            await origin.until(lambda: origin.stalled)
            gateway.popen.send_signal(number)
            await until(lambda: gateway.log.count(" draining archives=") == 2)
            assert sorted(re.findall(r"draining archives=(\d)", gateway.log)) == ["0", "1"]
            base = f"http://127.0.0.1:{gateway.port}"
            for _ in range(5):
                assert (await ask(client, f"{base}/healthz"))[0] == 200
                for url in (f"{base}/readyz", gateway.url(["quick"])):
                    status, body = await ask(client, url)
                    assert (status, json.loads(body)["status"]) == (503, 503)
            assert all(state(pid) not in "XZ" for pid in started(gateway))
            origin.release()
            assert await rest(response) == (SIZE, True)
        assert await has_ended(gateway) == 0
        assert gateway.log.count("stopped cut=0") == 2
        assert "Traceback" not in gateway.log


@SIGNALS
async def test_a_signal_that_reaches_all_processes_is_one(origin, running, client, number):
    """Ctrl-C is for the process group, and systemd signals each that it finds."""
    with running() as gateway:
        async with fleet(origin, client, gateway) as downloads:
            for pid in (*started(gateway), gateway.pid, *started(gateway)):
                os.kill(pid, number)
            await until(lambda: gateway.log.count(" draining archives=") == 2)
            assert (await ask(client, gateway.url(["quick"])))[0] == 503
            origin.release()
            assert await asyncio.gather(*downloads) == [(SIZE, True)] * FLEET
        assert await has_ended(gateway) == 0


async def test_downloads_that_are_cut_are_told_by_the_exit_status(origin, running, client):
    with running(shutdown_timeout=0.2) as gateway:
        async with client.get(gateway.url(["slow"])) as response:
            await origin.until(lambda: origin.stalled)
            download = asyncio.create_task(rest(response))
            gateway.popen.terminate()
            assert await has_ended(gateway) == 1
            size, whole = await download
        assert not whole
        assert 512 < size <= 512 + STALL
        assert sorted(re.findall(r"stopped cut=(\d)", gateway.log)) == ["0", "1"]


async def test_a_second_signal_ends_all_at_once(origin, running, client):
    with running(shutdown_timeout=300, drain_delay=300) as gateway:
        async with fleet(origin, client, gateway) as downloads:
            gateway.popen.terminate()
            await until(lambda: gateway.log.count(" leaving ") == 2)
            gateway.popen.send_signal(signal.SIGINT)
            assert await has_ended(gateway) == 1
            assert not any(whole for _, whole in await asyncio.gather(*downloads))
        assert gateway.log.count("stopped cut=") == 2


async def test_no_time_is_too_long_to_wait_for_downloads(origin, running, client):
    """Nor longer than the system can be asked to wait."""
    with running(shutdown_timeout=1e12) as gateway:
        async with client.get(gateway.url(["slow"])) as response:
            await origin.until(lambda: origin.stalled)
            gateway.popen.terminate()
            await until(lambda: gateway.log.count(" draining archives=") == 2)
            origin.release()
            assert await rest(response) == (SIZE, True)
        assert await has_ended(gateway) == 0
        assert "Traceback" not in gateway.log


async def test_a_worker_that_dies_while_it_drains_counts_as_cut(origin, running, client):
    with running() as gateway:
        async with fleet(origin, client, gateway) as downloads:
            gateway.popen.terminate()
            await until(lambda: gateway.log.count(" draining archives=") == 2)
            os.kill(started(gateway)[0], signal.SIGKILL)
            await until(lambda: "worker died" in gateway.log)
            origin.release()
            assert {whole for _, whole in await asyncio.gather(*downloads)} == {True, False}
        assert await has_ended(gateway) == 1
        assert len(started(gateway)) == 2


async def test_workers_end_with_their_supervisor_and_free_the_port(origin, running, client):
    """However it dies, and whatever they are doing."""
    with running() as gateway:
        async with fleet(origin, client, gateway) as downloads:
            gateway.popen.kill()
            pids = [gateway.pid, *started(gateway)]
            await until(lambda: all(state(pid) in "XZ" for pid in pids))
            assert not any(whole for _, whole in await asyncio.gather(*downloads))

    def is_free():
        """A process that is gone for us may have threads that are about to go."""
        with suppress(CannotListen):
            for each in bind("127.0.0.1", gateway.port):
                each.close()
            return True
        return False

    await until(is_free)


# How it begins.


async def test_a_port_in_use_is_one_line_and_no_worker(running, client):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = rf"in the log:\ncannot listen on 127.0.0.1:{port}: address already in use\n$"
        with (
            pytest.raises(AssertionError, match=line),
            running(sections=f"[metrics]\nport = {port}"),
        ):
            pass


async def test_workers_that_die_at_once_end_the_whole(running):
    with running() as gateway:
        seen = set()
        while gateway.popen.poll() is None:
            for pid in set(started(gateway)) - seen:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                seen.add(pid)
            await asyncio.sleep(0.01)
        assert gateway.popen.returncode == 1
        assert "error workers die as soon as they are started; no more are\n" in gateway.log
        assert 5 <= len(started(gateway)) <= 7
        assert "Traceback" not in gateway.log


async def test_each_line_of_the_log_says_who_wrote_it(running, client):
    with running() as gateway:
        for _ in range(4):
            await ask(client, gateway.url(["quick"]))
        pids = started(gateway)
        assert gateway.stop() == 0
        told = [line for line in gateway.log.splitlines() if " archive " in line]
        assert len(told) == 4
        assert all(int(line.rpartition(" worker=")[2]) in pids for line in told)
        assert re.findall("listening.*", gateway.log) == [
            f"listening host=127.0.0.1 port={gateway.port} workers=2"
        ]


async def test_one_worker_is_the_process_itself(running, client):
    with running(workers=1) as gateway:
        await ask(client, gateway.url(["quick"]))
        assert Path(f"/proc/{gateway.pid}/task/{gateway.pid}/children").read_text() == ""
        assert gateway.stop() == 0
        assert "worker" not in gateway.log


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ("0", "must be at least 1"),
        ("257", "must be at most 256"),
        ('"two"', "must be a whole number"),
        ("true", "must not be true or false"),
    ],
)
def test_workers_are_a_small_number(tmp_path, value, line):
    path = tmp_path / "config.toml"
    path.write_text(
        f'[server]\nworkers = {value}\n[catalog]\nkind = "template"\nurl = "https://h/{{id}}"\n'
        '[upstream]\nallow = ["https://h"]\n'
    )
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value) == f"{path}: [server] workers: {line}"


def test_where_processes_cannot_be_forked_there_is_one(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "fork")
    test_workers_are_a_small_number(tmp_path, "2", "must be 1 on this system")


# The supervisor, with workers that a test can do without a gateway.

SUPERVISED = """
import asyncio, os, signal, sys, time
from tarstream import workers
{settings}

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

def work(worker):
    say(worker.number, worker.first)
{work}

supervisor = workers.Supervisor(2, work, lambda number: say("lost", number), 0)
sys.exit(supervisor.run(lambda: say("started")))
"""


@pytest.fixture
def supervised():
    programs = []

    def supervised(work, settings=""):
        program = SUPERVISED.format(work=textwrap.indent(work, "    "), settings=settings)
        programs.append(
            subprocess.Popen(
                [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True
            )
        )
        return programs[-1]

    yield supervised
    for program in programs:
        program.kill()
        program.communicate()


def test_a_worker_that_does_not_end_is_killed(supervised):
    program = supervised("time.sleep(60)", "workers.LAST = 0.2")
    while program.stdout.readline() != "started\n":
        pass
    program.terminate()
    assert program.wait(15) == 1


def test_each_worker_is_told_whether_it_replaces_another(supervised):
    program = supervised(
        "os._exit(3) if worker.number else time.sleep(60)",
        "workers.AT_ONCE, workers.GIVE_UP, workers.LAST = 1e9, 4, 0.1",
    )
    lines = program.communicate(timeout=30)[0].splitlines()
    assert program.returncode == 1
    assert lines.count("0 True") == lines.count("1 True") == 1
    assert lines.count("1 False") == 3
    assert lines.count("lost 1") == 4


def test_a_worker_that_died_at_once_is_not_replaced_at_once(supervised):
    program = supervised(
        "if worker.number:\n    os._exit(3)\nsay('pid', os.getpid())\ntime.sleep(60)",
        "workers._FIRST_PAUSE = workers._LONGEST_PAUSE = 3600",
    )
    lines = []
    while not {"started", "lost 1"} <= set(lines) or not any("pid" in line for line in lines):
        lines.append(program.stdout.readline().strip())
    (pid,) = (line.split()[1] for line in lines if "pid" in line)
    os.kill(int(pid), signal.SIGKILL)
    assert program.stdout.readline() == "lost 0\n"
    program.terminate()
    assert program.communicate(timeout=15)[0] == ""
    assert "1 False" not in lines


def test_pauses_double_from_death_to_death_up_to_ten_seconds():
    assert [pause_after(deaths) for deaths in range(5)] == [0, 0.1, 0.2, 0.4, 0.8]
    assert pause_after(8) == pause_after(100_000) == 10


def test_the_worst_exit_status_is_that_of_all(supervised):
    for statuses, worst in (("0, 0", 0), ("0, 1", 1), ("1, 0", 1), ("0, 7", 1)):
        program = supervised(
            "async def main():\n"
            "    await worker.signals().get()\n"
            f"    return ({statuses})[worker.number]\n"
            "return asyncio.run(main())"
        )
        while program.stdout.readline() != "started\n":
            pass
        program.terminate()
        assert program.wait(15) == worst


# Numbers.


class Numbers(dict):
    """What `/metrics` says at one moment."""

    def __init__(self, text):
        for family in text_string_to_metric_families(text):
            for name, labels, value, *_ in family.samples:
                self[name, tuple(sorted(labels.items()))] = value
        self.counters = {
            key: value
            for key, value in self.items()
            if key[0].endswith(("_total", "_bucket", "_count", "_sum"))
        }

    def __call__(self, name, **labels):
        return self[f"tarstream_{name}", tuple(labels.items())]


async def test_metrics_are_those_of_all_and_never_go_down(origin, running, client):
    with held_port() as port, running(sections=f"[metrics]\nport = {port}") as gateway:

        async def numbers():
            _, text = await ask(client, f"http://127.0.0.1:{port}/metrics")
            return Numbers(text.decode())

        async def come_to(condition):
            """The numbers once they are so; they never went down meanwhile."""
            nonlocal last
            async with asyncio.timeout(60):
                while True:
                    now = await numbers()
                    for key, value in last.counters.items():
                        assert now.get(key, 0) >= value, key
                    last = now
                    if condition(now):
                        return now
                    await asyncio.sleep(0.01)

        last = await numbers()
        async with fleet(origin, client, gateway) as downloads:
            now = await come_to(lambda now: now("archives_in_flight") == FLEET)
            now = await come_to(lambda now: now("archives_limit") == 2 * 500)  # both have begun
            assert now("draining") == 0
            assert now("upstream_connections") == origin.open_connections
            descriptors = now["process_max_fds", ()]
            assert descriptors == int(
                re.search(r"open files +(\d+)", Path(f"/proc/{gateway.pid}/limits").read_text())[1]
            )
            origin.release()
            await asyncio.gather(*downloads)
        sent = FLEET * SIZE
        now = await come_to(lambda now: now("archives_total", outcome="complete") == FLEET)
        assert now("sent_bytes_total") == sent
        assert now("first_byte_seconds_count") == FLEET
        assert now("first_byte_seconds_bucket", le="+Inf") == FLEET
        # Twice, so that what a worker has of those before it is handed on.
        for generation in (3, 4):
            os.kill(started(gateway)[-1], signal.SIGKILL)
            await until(lambda count=generation: len(started(gateway)) == count)
            await come_to(lambda now: now("archives_limit") == 1000)
        assert (await ask(client, gateway.url(["quick"])))[0] == 200
        now = await come_to(lambda now: now("archives_total", outcome="complete") == FLEET + 1)
        assert now("sent_bytes_total") == sent + SIZE
        assert now("archives_in_flight") == 0
        async with client.get(gateway.url(["quick"])) as response:
            await response.read()
        assert gateway.stop() == 0


async def test_metrics_on_the_port_of_the_gateway_are_those_of_all(origin, running, client):
    with running() as gateway:
        for _ in range(FLEET):
            await ask(client, gateway.url(["none"]))
        url = f"http://127.0.0.1:{gateway.port}/metrics"
        async with asyncio.timeout(60):
            while True:
                now = Numbers((await ask(client, url))[1].decode())
                refused = now("responses_total", route="/archive", status="502")
                if (refused, now("archives_limit")) == (FLEET, 2 * 500):  # both have begun
                    break
        assert b"tarstream_archives_limit 1000.0\n" in await raw(
            gateway.port, b"GET /metrics HTTP/1.0\r\n\r\n"
        )


def shares(count):
    tally = Tally(count)
    return tally, [Share(tally, number) for number in range(count)]


def shown(share, own, **across):
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in share.sums(own, across).collect()
        for sample in family.samples
    }


def test_numbers_are_added_across_processes_with_labels_that_one_of_them_has():
    _, (here, there) = shares(2)
    own, other = CollectorRegistry(), CollectorRegistry()
    for registry, labels, amount in ((own, "ab", 1), (other, "bc", 10)):
        counts = Counts("x", "X", ["of"], registry=registry)
        for label in labels:
            counts.labels(label).inc(amount)
        Histogram("h", "H", buckets=(1, 2), registry=registry).observe(amount)
        for name in ("added", "most", "least"):
            Gauge(name, "G", registry=registry).set(amount)
    there.publish(other)
    numbers = shown(here, own, most=max, least=min)
    assert [numbers["x_total", label] for label in "abc"] == [1, 11, 10]
    assert [numbers["h_bucket", le] for le in ("1.0", "2.0", "+Inf")] == [1, 1, 2]
    assert numbers["h_sum",] == 11
    assert [numbers[name,] for name in ("added", "most", "least")] == [11, 10, 1]


def test_draining_is_not_added_and_room_is():
    _, both = shares(2)
    numbers = [Metrics(share) for share in both]
    for each in numbers:
        Admission(500, each).leaving = True
    numbers[1].exposition("")
    text, _ = numbers[0].exposition("")
    assert b"tarstream_draining 1.0\n" in text
    assert b"tarstream_archives_limit 1000.0\n" in text


def test_what_was_shown_of_a_process_stays_when_it_dies_at_that_moment():
    tally, (here, there) = shares(2)
    own = CollectorRegistry()
    counts = Counts("x", "X", registry=own)
    counts.inc(5)
    assert shown(here, own) == {("x_total",): 5}
    forget(tally, 0)
    other = CollectorRegistry()
    Counts("x", "X", registry=other)
    assert shown(there, other) == {("x_total",): 5}


def test_of_a_process_that_died_stays_what_it_counted():
    tally, (here, there) = shares(2)
    own, other = CollectorRegistry(), CollectorRegistry()
    for registry in (own, other):
        Counts("x", "X", registry=registry).inc(5)
        Gauge("g", "G", registry=registry).set(5)
    there.publish(other)
    assert shown(here, own) == {("x_total",): 10, ("g",): 10}
    forget(tally, 1)
    assert shown(here, own) == {("x_total",): 10, ("g",): 5}
    again = Share(tally, 1)
    again.publish(other)
    assert shown(here, own) == {("x_total",): 15, ("g",): 10}
    assert shown(again, other) == {("x_total",): 15, ("g",): 10}


@pytest.mark.parametrize("length", [0, 1, 8, 20, 100])
def test_a_text_that_was_not_written_to_its_end_does_not_count(length):
    """Its writer was killed: the one before it stands."""
    tally = Tally(2)
    tally.write(1, b"first " * 50)
    tally.write(1, b"second" * 50)
    tally.write(1, b"third " * 50)
    before = tally._memory[:]
    tally.write(1, b"fourth" * 50)
    changed = [at for at, byte in enumerate(tally._memory[:]) if byte != before[at]]
    for at in changed[length:]:
        tally._memory[at : at + 1] = before[at : at + 1]
    assert tally.read(1) == b"third " * 50
    assert tally.read(0) == b""


def test_numbers_that_have_no_room_are_refused():
    with pytest.raises(ValueError, match="too many"):
        Tally(1).write(0, bytes(1 << 20))


# Listening.


def test_a_name_with_several_addresses_has_one_port():
    bound = bind("localhost", 0)
    try:
        assert len({each.getsockname()[1] for each in bound}) == 1
        assert len({each.family for each in bound}) == len(bound)
    finally:
        for each in bound:
            each.close()


@pytest.mark.parametrize(
    ("host", "reason"),
    [("192.0.2.1", "cannot assign requested address"), ("no-such-host.invalid", "")],
)
def test_an_address_that_is_not_ours_is_a_line(host, reason):
    with pytest.raises(CannotListen, match=rf"^cannot listen on {host}:8080: {reason}"):
        bind(host, 8080)


@asynccontextmanager
async def sharing(other):
    """A process that has one connection, and shares its port with one that has `other`."""

    async def handler(request):
        return web.Response(text="taken")

    runner = web.ServerRunner(web.Server(handler))
    await runner.setup()
    (listening,) = bind("127.0.0.1", 0)
    loads = Loads(2)
    loads[1] = other
    site = SharedSite(runner, listening, loads, 0)
    await site.start()
    with listening, socket.create_connection(listening.getsockname()):
        try:
            async with asyncio.timeout(30):
                while not runner.server.connections:
                    await asyncio.sleep(0)
            yield listening
        finally:
            await runner.cleanup()


async def test_who_has_more_connections_lets_others_come_first():
    async with sharing(other=0) as listening:
        with socket.create_connection(listening.getsockname()):
            for _ in range(3):
                await asyncio.sleep(0)
            taken, _ = listening.accept()
            taken.close()


@pytest.mark.parametrize("other", [0, 1, 5])
async def test_what_no_other_takes_is_taken(other):
    async with sharing(other) as listening:
        answer = await raw(port_of([listening]), b"GET / HTTP/1.0\r\n\r\n")
        assert answer.endswith(b"taken")


async def test_who_stops_is_not_waited_for():
    loads = Loads(1)
    runner = web.ServerRunner(web.Server(lambda _: None))
    await runner.setup()
    (listening,) = bind("127.0.0.1", 0)
    with listening:
        site = SharedSite(runner, listening, loads, 0)
        await site.start()
        assert loads.least() == 0
        await runner.cleanup()
        assert loads.least() == sys.maxsize
        with socket.create_connection(listening.getsockname()):  # others go on
            pass


def test_who_takes_no_connections_has_the_most():
    loads = Loads(3)
    loads[0], loads[1], loads[2] = 5, 3, 4
    assert loads.least() == 3
    loads.forget(1)
    assert loads.least() == 4
