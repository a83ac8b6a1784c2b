"""SIGTERM and SIGINT, to the process that operators run, with downloads in flight."""

import asyncio
import json
import re
import signal
import socket
from asyncio.subprocess import DEVNULL, PIPE
from contextlib import AsyncExitStack, asynccontextmanager

import faults
import pytest
from crowd import Crowd
from gateway import archive_path, process, raw, write_catalog
from origin import Made, Object
from yarl import URL

from tarstream.response import WatchedResponse

CONTENT = Made(300_000)
STALL = 200_000  # bytes of it that arrive before the origin falls silent
FLEET = 50  # downloads in flight
SIGNALS = [signal.SIGTERM, signal.SIGINT]


@pytest.fixture
def running(tmp_path, origin):
    """A gateway as a process, in front of an origin that falls silent in the middle."""
    origin.add("/slow", CONTENT, faults.stall(at=STALL))

    def start(shutdown_timeout=300, drain_delay=0):
        return process(
            tmp_path,
            f"""
            [server]
            shutdown_timeout = {shutdown_timeout}
            drain_delay = {drain_delay}
            [catalog]
            kind = "template"
            url = "{origin.root}/{{id}}"
            [upstream]
            allow = ["{origin.root}"]
            """,
        )

    return start


@asynccontextmanager
async def curl(url, path):
    """curl, from when it has begun to save the body."""
    program = await asyncio.create_subprocess_exec("curl", "-sSfo", path, url)
    try:
        async with asyncio.timeout(30):
            while not path.exists() or not path.stat().st_size:
                await asyncio.sleep(0.005)
        yield program
    finally:
        if program.returncode is None:
            program.kill()
            await program.wait()


async def ended(gateway):
    """The process's exit status."""
    return await asyncio.to_thread(gateway.popen.wait, 15)


async def draining(gateway):
    await asyncio.to_thread(gateway.wait_for_log, "draining")


async def ask(client, url):
    async with client.get(URL(url, encoded=True)) as response:
        return response.status, response.headers, await response.read()


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
async def test_what_is_in_flight_finishes_while_the_listener_refuses_in_words(
    client, origin, running, tmp_path, number
):
    with running() as gateway:
        async with curl(gateway.url(["slow"]), tmp_path / "saved") as download:
            gateway.popen.send_signal(number)
            await draining(gateway)
            base = f"http://127.0.0.1:{gateway.port}"
            assert (await ask(client, f"{base}/healthz"))[0] == 200
            for url in (f"{base}/readyz", gateway.url(["a"]), gateway.url(["a"], "/plan")):
                status, headers, body = await ask(client, url)
                assert status == 503
                assert headers["Retry-After"].isdigit()
                assert json.loads(body)["status"] == 503
            assert gateway.popen.poll() is None
            origin.release()
            assert await asyncio.wait_for(download.wait(), 10) == 0
        assert (tmp_path / "saved").read_bytes()[512:300_512] == CONTENT.read()
        assert await ended(gateway) == 0
        assert "outcome=complete" in gateway.log
        assert "Traceback" not in gateway.log


async def test_fifty_in_flight_lose_nothing(origin, running):
    """Nor those who have most of it to come: members are still opened while it drains."""
    first = [Made(300_000, seed) for seed in range(FLEET)]
    then = [Made(50_000, FLEET + seed) for seed in range(FLEET)]
    for seed in range(FLEET):
        origin.add(f"/first-{seed}", first[seed], faults.stall(at=STALL))
        # Never opened ahead: it begins too far behind.
        origin.add(f"/far-{seed}", Made(5 << 20, 2 * FLEET))
        origin.add(f"/then-{seed}", then[seed])
    names = ("first", "far", "then")
    with running() as gateway, Crowd(gateway.port) as crowd:
        fleet = await crowd.ask_all(
            archive_path(f"{name}-{seed}" for name in names) for seed in range(FLEET)
        )
        reading = asyncio.gather(*(client.read_body() for client in fleet))
        await origin.until(lambda: origin.stalled == FLEET, 30)
        gateway.popen.send_signal(signal.SIGTERM)
        await asyncio.to_thread(gateway.wait_for_log, f"draining archives={FLEET} ")
        late = await (await crowd.ask(archive_path(["then-0"]))).read_all()
        assert late.status == 503
        assert not any(origin.asked(f"/then-{seed}") for seed in range(FLEET))
        origin.release()
        for seed, body in enumerate(await asyncio.wait_for(reading, 60)):
            padded = [512 + size + -size % 512 for size in (300_000, 5 << 20, 50_000)]
            assert len(body) == sum(padded) + 1024
            assert body[512:300_512] == first[seed].read()
            assert body[padded[0] + padded[1] + 512 :][:50_000] == then[seed].read()
        assert await ended(gateway) == 0
        assert gateway.log.count("outcome=complete") == FLEET
        assert "stopped cut=0" in gateway.log


async def test_a_timeout_that_is_too_short_is_told_to_everybody(origin, running, tmp_path):
    """curl by its exit status, who reads the log by a number, the service manager by ours."""
    with running(shutdown_timeout=0.2) as gateway:
        async with AsyncExitStack() as stack:
            fleet = [
                await stack.enter_async_context(curl(gateway.url(["slow"]), tmp_path / f"{n}"))
                for n in range(FLEET)
            ]
            gateway.popen.send_signal(signal.SIGTERM)
            assert await ended(gateway) == 1
            statuses = [await asyncio.wait_for(download.wait(), 10) for download in fleet]
        assert statuses == [18] * FLEET
        for number in range(FLEET):
            saved = (tmp_path / f"{number}").read_bytes()
            assert 512 < len(saved) <= 512 + STALL
            assert CONTENT.read().startswith(saved[512:])
        lines = [line for line in gateway.log.splitlines() if "archives cut at shutdown" in line]
        assert len(lines) == 1
        assert f"archives={FLEET}" in lines[0]
        assert " warning " in lines[0]
        assert f"stopped cut={FLEET}" in gateway.log
        assert "Traceback" not in gateway.log


async def test_what_is_being_planned_finishes_as_well(client, origin, running):
    origin.add("/late", b"hello", faults.late(methods=("HEAD",)))
    with running() as gateway:
        download = asyncio.create_task(ask(client, gateway.url(["late"])))
        await origin.until(lambda: origin.stalled)
        gateway.popen.send_signal(signal.SIGTERM)
        await draining(gateway)
        origin.release()
        status, _, body = await asyncio.wait_for(download, 10)
        assert (status, len(body)) == (200, 2048)
        assert await ended(gateway) == 0


async def test_a_connection_that_was_kept_open_is_answered_and_closed(origin, running, tmp_path):
    with running() as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"Connection: close" not in await reader.readuntil(b"ok\n")
        async with curl(gateway.url(["slow"]), tmp_path / "saved"):
            gateway.popen.send_signal(signal.SIGTERM)
            await draining(gateway)
            writer.write(b"GET /archive?ids=a HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = await asyncio.wait_for(reader.read(-1), 10)
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"\r\nConnection: close\r\n" in answer
            origin.release()
            assert await ended(gateway) == 0
        writer.close()


async def test_load_balancers_are_told_before_anybody_is_refused(origin, running, client):
    origin.add("/quick", b"quick")
    with running(drain_delay=600) as gateway:
        gateway.popen.send_signal(signal.SIGTERM)
        await asyncio.to_thread(gateway.wait_for_log, "leaving")
        async with client.get(f"http://127.0.0.1:{gateway.port}/readyz") as answer:
            assert answer.status == 503
        async with client.get(gateway.url(["quick"])) as answer:
            assert answer.status == 200
        gateway.popen.send_signal(signal.SIGTERM)
        assert await ended(gateway) == 0


async def test_after_the_delay_new_archives_are_refused_and_no_others(
    origin, running, client, tmp_path
):
    origin.add("/quick", b"quick")
    with running(drain_delay=0.5) as gateway:
        async with curl(gateway.url(["slow"]), tmp_path / "saved") as download:
            gateway.popen.send_signal(signal.SIGTERM)
            await draining(gateway)
            assert re.search(r"leaving seconds=0\.5\n.*draining archives=1 ", gateway.log)
            assert (await ask(client, gateway.url(["quick"])))[0] == 503
            assert not origin.asked("/quick", "HEAD")
            origin.release()
            assert await asyncio.wait_for(download.wait(), 10) == 0
        assert (tmp_path / "saved").read_bytes()[512:300_512] == CONTENT.read()
        assert await ended(gateway) == 0


async def test_a_second_signal_cuts_the_delay_short_too(origin, running, tmp_path):
    with running(drain_delay=600) as gateway:
        async with curl(gateway.url(["slow"]), tmp_path / "saved") as download:
            gateway.popen.send_signal(signal.SIGTERM)
            await asyncio.to_thread(gateway.wait_for_log, "leaving")
            gateway.popen.send_signal(signal.SIGTERM)
            assert await ended(gateway) == 1
            assert await asyncio.wait_for(download.wait(), 10) == 18


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
async def test_what_outlasts_the_timeout_is_cut_visibly(origin, running, tmp_path, number):
    with running(shutdown_timeout=0.2) as gateway:
        async with curl(gateway.url(["slow"]), tmp_path / "saved") as download:
            gateway.popen.send_signal(number)
            assert await ended(gateway) == 1
            assert await asyncio.wait_for(download.wait(), 10) == 18  # "Partial file"
        saved = (tmp_path / "saved").read_bytes()
        assert 512 < len(saved) <= 512 + STALL
        assert CONTENT.read().startswith(saved[512:])
        assert 'outcome="cut at shutdown"' in gateway.log
        assert "Traceback" not in gateway.log


async def test_a_slow_client_that_is_cut_gets_what_tar_reports(origin, tmp_path):
    """What the gateway holds is passed on first, or the cut is wherever the client was."""
    names = [f"m{number:05}" for number in range(8000)]
    entries = [
        {
            "id": name,
            "url": origin.add(f"/{name}", Object(b"x" * 512, etag='"x"')),
            "size": 512,
            "mtime": 1,
            "etag": '"x"',
        }
        for name in names
    ]
    config = f"""
        [server]
        shutdown_timeout = 0.1
        [catalog]
        kind = "file"
        path = "{write_catalog(tmp_path / "catalog.jsonl", entries)}"
        [upstream]
        allow = ["{origin.root}"]
        """

    def blocked():
        """Whether nothing more is asked for: the client's connection takes no more."""
        now = asyncio.get_running_loop().time()
        if len(origin.requests) != seen[0]:
            seen[:] = len(origin.requests), now
        return now - seen[1] > 0.5

    for read_first in (100_000, 300_001):
        with process(tmp_path, config) as gateway:
            client = socket.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", gateway.port))
            reader, writer = await asyncio.open_connection(sock=client, limit=4096)
            body = json.dumps({"ids": names}).encode()
            head = f"POST /archive HTTP/1.0\r\nContent-Length: {len(body)}\r\n"
            writer.write(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
            got = await reader.readexactly(read_first)
            seen = [0, 0.0]
            await origin.until(blocked, 20)
            gateway.popen.send_signal(signal.SIGTERM)
            await asyncio.to_thread(gateway.wait_for_log, "cut at shutdown")
            ending = asyncio.create_task(ended(gateway))
            with pytest.raises(TimeoutError):  # the process stays for a client that is this slow
                await asyncio.wait_for(asyncio.shield(ending), 2)
            got += await asyncio.wait_for(reader.read(-1), 20)
            assert await ending == 1
            writer.close()
        archive = got.partition(b"\r\n\r\n")[2]
        assert len(archive) < 8000 * 1024
        tar = await asyncio.create_subprocess_exec(
            "tar", "t", stdin=PIPE, stdout=DEVNULL, stderr=DEVNULL
        )
        await tar.communicate(archive)
        assert tar.returncode != 0


async def test_a_client_that_reads_nothing_does_not_hold_the_process(origin, running):
    origin.add("/large", Made(64 << 20))
    with running(shutdown_timeout=0.2) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, limit=1000)
        writer.write(b"GET /archive?ids=large HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")  # and then no more than fits in the buffers
        gateway.popen.send_signal(signal.SIGTERM)
        assert await ended(gateway) == 1
        writer.close()


@pytest.mark.parametrize(
    ("first", "second"),
    [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGINT), SIGNALS],
    ids=lambda number: number.name,
)
async def test_a_second_signal_ends_at_once(origin, running, tmp_path, first, second):
    with running(shutdown_timeout=300) as gateway:
        async with curl(gateway.url(["slow"]), tmp_path / "saved") as download:
            gateway.popen.send_signal(first)
            await draining(gateway)
            gateway.popen.send_signal(second)
            assert await ended(gateway) == 1
            assert await asyncio.wait_for(download.wait(), 10) == 18


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
async def test_without_downloads_it_ends_with_0_whoever_is_connected(running, number):
    with running(shutdown_timeout=300) as gateway:
        silent = await asyncio.open_connection("127.0.0.1", gateway.port)
        kept = await asyncio.open_connection("127.0.0.1", gateway.port)
        kept[1].write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        await kept[0].readuntil(b"ok\n")
        half = await asyncio.open_connection("127.0.0.1", gateway.port)
        half[1].write(b"GET /archive?ids=a HTT")
        await half[1].drain()
        gateway.popen.send_signal(number)
        assert await ended(gateway) == 0
        for reader, writer in (silent, kept, half):
            assert await asyncio.wait_for(reader.read(-1), 10) == b""
            writer.close()
        assert re.search(r"draining archives=0 ", gateway.log)
        assert "Traceback" not in gateway.log


async def test_a_download_that_has_ended_does_not_hold_the_process(origin, running):
    origin.add("/a", b"hello")
    with running(shutdown_timeout=300) as gateway:
        answer = await raw(gateway.port, b"GET /archive?ids=a HTTP/1.0\r\n\r\n")
        assert answer.startswith(b"HTTP/1.0 200 OK\r\n")
        gateway.popen.send_signal(signal.SIGTERM)
        assert await ended(gateway) == 0


async def test_wherever_it_is_cut_tar_reports_it(origin, start, monkeypatch):
    """A slow client may be cut after any write: none may end between two members."""
    send = WatchedResponse.send
    writes = 0

    async def send_and_stay(response, data):
        nonlocal writes
        await send(response, data)
        writes += 1
        if writes == last:
            cutting.append(asyncio.create_task(gateway.gateway.cut()))
            await asyncio.Event().wait()

    monkeypatch.setattr(WatchedResponse, "send", send_and_stay)
    sizes = (100_000, 100_001, 130_000, 1, 70_000)
    for size in sizes:
        origin.add(f"/{size}", Made(size))
    all_members = sum(512 + size + -size % 512 for size in sizes)
    last, cutting, body = 0, [], b""
    while len(body) < all_members + 1024:
        last, writes = last + 1, 0
        gateway = await start(origin)
        path = "/archive?ids=" + ",".join(map(str, sizes))
        answer = await raw(gateway.port, f"GET {path} HTTP/1.0\r\n\r\n".encode())
        body = answer.partition(b"\r\n\r\n")[2]
        tar = await asyncio.create_subprocess_exec(
            "tar", "t", stdin=PIPE, stdout=DEVNULL, stderr=DEVNULL
        )
        await tar.communicate(body)
        assert (tar.returncode == 0) == (len(body) >= all_members), f"cut at {len(body)}"
        await asyncio.gather(*cutting)
    assert last > 2
