"""One line for each archive at its end, one for each request that was refused."""

import asyncio
import json
import logging
import re
import sys
from types import SimpleNamespace

import faults
import pytest
from aiohttp import ClientPayloadError
from answer import Object
from gateway import ROOT, process, raw
from nginx import held_port
from origin import Made
from yarl import URL

from tarstream import log
from tarstream.app import Gateway, runner_of
from tarstream.catalogs.template import TemplateCatalog, TemplateSettings
from tarstream.config import Settings, Upstream
from tarstream.response import WatchedResponse
from tarstream.transfer import Transfer

PROMISED = {
    "request_id",
    "client",
    "members",
    "sent",
    "of",
    "archive",
    "seconds",
    "repairs",
    "outcome",
}


@pytest.fixture(autouse=True)
def _everything_is_logged(caplog):
    caplog.set_level(logging.INFO)


@pytest.fixture
async def gateway(origin, start):
    origin.add("/a", b"hello")
    origin.add("/b", Made(300_000))
    return await start(origin, upstream={"attempts": 2})


def becomes_another(**which):
    return faults.becomes(Object(Made(300_000, 1), '"another"'), methods=("GET",), **which)


def lines(caplog, message):
    return [record for record in caplog.records if record.message == message]


async def line(origin, caplog, message="archive"):
    """The one line, which may come a moment after the client has seen the end."""
    await origin.until(lambda: lines(caplog, message))
    [record] = lines(caplog, message)
    return record


async def ask(client, url, method="GET", **headers):
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    async with client.request(method, URL(url, encoded=True), headers=headers) as response:
        return await response.read()


# Archives


async def test_an_archive_has_one_line_with_what_was_promised(client, gateway, origin, caplog):
    body = await ask(client, gateway.url(["a", "b"]), X_Request_Id="r-1")
    record = await line(origin, caplog)
    assert record.levelno == logging.INFO
    assert record.fields.keys() == PROMISED
    assert 0 <= record.fields.pop("seconds") < 60
    assert record.fields == {
        "request_id": "r-1",
        "client": "127.0.0.1",
        "members": 2,
        "sent": len(body),
        "of": len(body),
        "archive": len(body),
        "repairs": 0,
        "outcome": "complete",
    }
    assert not lines(caplog, "refused")


async def test_a_part_is_counted_as_a_part(client, gateway, origin, caplog):
    await ask(client, gateway.url(["a"]), Range="bytes=0-9")
    fields = (await line(origin, caplog)).fields
    assert (fields["sent"], fields["of"], fields["archive"]) == (10, 10, 2048)


async def test_repairs_are_counted(client, gateway, origin, caplog):
    origin.objects["/b"].faults.append(faults.fin(at=100_000, times=1))
    await ask(client, gateway.url(["b"]))
    record = await line(origin, caplog)
    assert (record.fields["repairs"], record.fields["outcome"]) == (1, "complete")


async def test_a_failure_names_the_member_the_origin_and_the_cause(client, gateway, origin, caplog):
    origin.objects["/b"].faults.append(faults.fin(at=100_000))
    with pytest.raises(Exception, match="not completed"):
        await ask(client, gateway.url(["a", "b"]))
    record = await line(origin, caplog)
    assert record.levelno == logging.WARNING
    assert record.fields.keys() == PROMISED | {"member", "name", "origin", "cause"}
    assert record.fields["outcome"] == "failed"
    assert record.fields["member"] == "b"
    assert record.fields["origin"] == origin.root
    assert record.fields["cause"] == "its origin broke the connection"
    assert 1536 < record.fields["sent"] < record.fields["of"]
    assert not lines(caplog, "refused")


async def test_a_change_in_the_middle_is_a_failure_that_says_so(client, gateway, origin, caplog):
    origin.objects["/b"].faults += [
        faults.fin(at=100_000, times=1),
        becomes_another(skip=1),
    ]
    with pytest.raises(Exception, match="not completed"):
        await ask(client, gateway.url(["b"]))
    assert "no longer the object" in (await line(origin, caplog)).fields["cause"]


async def test_a_client_that_leaves_is_no_warning(gateway, origin, caplog):
    origin.objects["/b"].faults.append(faults.stall(at=100_000))
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(b"GET /archive?ids=b HTTP/1.1\r\nHost: x\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    await origin.until(lambda: origin.stalled)
    writer.close()
    record = await line(origin, caplog)
    assert record.fields["outcome"] == "client left"
    assert record.fields["sent"] < record.fields["of"]
    assert record.levelno == logging.INFO


@pytest.mark.parametrize("size", [1, 600_000])
async def test_a_client_that_leaves_with_all_of_it_has_not_left(
    gateway, origin, caplog, monkeypatch, size
):
    """Whoever has counted Content-Length bytes may close before we have come to an end."""
    run = Transfer.run

    async def run_and_linger(transfer, begin):
        await run(transfer, begin)
        await asyncio.Event().wait()

    monkeypatch.setattr(Transfer, "run", run_and_linger)
    origin.add("/it", Made(size))
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(b"GET /archive?ids=it HTTP/1.1\r\nHost: x\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    await reader.readexactly(512 + size + -size % 512 + 1024)
    writer.close()
    assert (await line(origin, caplog)).fields["outcome"] == "complete"


async def test_an_archive_that_was_planned_twice_has_one_line(client, gateway, origin, caplog):
    await ask(client, gateway.url(["a"]), "HEAD")
    origin.add("/a", b"other")
    await ask(client, gateway.url(["a"]))
    assert (await line(origin, caplog)).fields["outcome"] == "complete"
    assert not lines(caplog, "refused")


async def test_what_sends_no_archive_and_refuses_nothing_has_no_line(client, gateway, caplog):
    base = f"http://127.0.0.1:{gateway.port}"
    await ask(client, gateway.url(["a"]), "HEAD")
    await ask(client, gateway.url(["a"]), If_None_Match="*")
    await ask(client, gateway.url(["a"], "/plan"))
    await ask(client, f"{base}/healthz")
    await ask(client, f"{base}/readyz")
    assert caplog.records == []


# Refusals


@pytest.mark.parametrize(
    ("path", "status", "ids"),
    [
        ("/archive", 400, None),
        ("/plan?ids=a&format=x", 400, None),
        ("/archive?ids=a,../b,../c", 404, ["../b", "../c"]),
        ("/archive?ids=a&version=x", 409, None),
        ("/archive?ids=gone", 502, ["gone"]),
        ("/nowhere", 404, None),
    ],
)
async def test_a_refusal_has_one_line(client, gateway, origin, caplog, path, status, ids):
    body = await ask(client, f"http://127.0.0.1:{gateway.port}{path}", X_Request_Id="r-1")
    record = await line(origin, caplog, "refused")
    expected = {
        "request_id": "r-1",
        "client": "127.0.0.1",
        "status": status,
        "detail": json.loads(body)["detail"],
    }
    assert record.fields == expected | ({} if ids is None else {"ids": ids})
    assert record.levelno == (logging.WARNING if status >= 500 else logging.INFO)
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("headers", "status"), [({"Range": "bytes=-0"}, 416), ({"If_Match": '"x"'}, 412)]
)
async def test_conditions_that_fail_are_refusals(client, gateway, origin, caplog, headers, status):
    await ask(client, gateway.url(["a"]), **headers)
    assert (await line(origin, caplog, "refused")).fields["status"] == status
    assert len(caplog.records) == 1


async def test_a_refusal_of_many_ids_names_some(client, gateway, origin, caplog):
    await ask(client, gateway.url([f"../{n}" for n in range(500)]))
    assert len((await line(origin, caplog, "refused")).fields["ids"]) == 10


# Who asks


@pytest.mark.parametrize(
    ("trusted", "forwarded", "client_"),
    [
        ([], ["203.0.113.7"], "127.0.0.1"),
        (["10.0.0.0/8"], ["203.0.113.7"], "127.0.0.1"),
        (["127.0.0.0/8"], [], "127.0.0.1"),
        (["127.0.0.0/8"], ["203.0.113.7"], "203.0.113.7"),
        (["127.0.0.0/8"], ["203.0.113.7, 198.51.100.1"], "198.51.100.1"),
        (["127.0.0.0/8", "198.51.100.0/24"], ["203.0.113.7, 198.51.100.1"], "203.0.113.7"),
        (["127.0.0.0/8", "198.51.100.0/24"], ["203.0.113.7", "198.51.100.1"], "203.0.113.7"),
        (["127.0.0.0/8"], ["2001:db8::1"], "2001:db8::1"),
        (["127.0.0.0/8"], ["forged\n, nonsense"], "127.0.0.1"),
    ],
)
async def test_trusted_proxies_say_who_the_client_is(
    origin, start, caplog, trusted, forwarded, client_
):
    origin.add("/a", b"hello")
    gateway = await start(origin, server={"trusted_proxies": trusted})
    fields = "".join(f"X-Forwarded-For: {value}\r\n" for value in forwarded).replace("\n,", ",")
    for path, message in (("/archive?ids=a", "archive"), ("/archive", "refused")):
        await raw(gateway.port, f"GET {path} HTTP/1.0\r\n{fields}\r\n".encode())
        assert (await line(origin, caplog, message)).fields["client"] == client_


# Other events


async def test_a_catalog_that_is_no_longer_watched_is_told(origin, caplog):
    class Broken(TemplateCatalog):
        async def watch(self):
            raise RuntimeError("a mistake of ours")

    catalog = TemplateSettings(kind="template", url=f"{origin.root}/{{id}}")
    settings = Settings(catalog=catalog, upstream=Upstream(allow=(origin.root,)))
    runner = runner_of(Gateway(settings, Broken(catalog)))
    await runner.setup()
    await origin.until(lambda: caplog.records)
    await runner.cleanup()
    [record] = caplog.records
    assert "no longer watched" in record.message
    assert record.exc_info


# As operators read it


def configured(origin, log=""):
    return f"""
    [catalog]
    kind = "template"
    url = "{origin.root}/{{id}}"
    [upstream]
    allow = ["{origin.root}"]
    [log]
    {log}
    """


async def get(gateway, target):
    """Ask on a socket of its own; all of the answer, however it ends."""
    return await raw(gateway.port, f"GET {target} HTTP/1.0\r\nX-Request-Id: r-1\r\n\r\n".encode())


async def test_nothing_secret_of_an_origin_is_logged_at_any_level(origin, start, caplog):
    """Whatever becomes of a request: presigned URLs are credentials."""
    caplog.set_level(logging.DEBUG)
    trouble = {
        "fine": [],
        "repaired": [faults.fin(at=100_000, times=1)],
        "cut": [faults.fin(at=100_000)],
        "reset": [faults.rst(at=100_000)],
        "changed": [faults.fin(at=99_999, times=1), becomes_another(skip=1)],
        "changing": [becomes_another()],
        "forbidden": [faults.status(403)],
        "broken": [faults.status(500)],
        "garbled": [faults.garbled(b"HTTP/1.1 CANARY")],
        "elsewhere": [faults.redirect("http://CANARY.example.com/?CANARY")],
        "nowhere": [faults.redirect("http://[CANARY")],
        "coded": [faults.puts("Content-Encoding", "CANARY")],
        "hung-up": [faults.hang_up()],
    }
    entries = [{"id": "userinfo", "url": origin.root.replace("//", "//u:CANARY@") + "/x"}]
    for id_, its_faults in trouble.items():
        thing = Object(Made(300_000), '"CANARY"')
        origin.add(f"/CANARY/{id_}", thing, faults.puts("X-Key", "CANARY"), *its_faults)
        url = origin.url(f"/CANARY/{id_}") + "?X-Amz-Signature=CANARY"
        entries.append({"id": id_, "url": url, "name": id_})
    gateway = await start(origin, entries, upstream={"attempts": 2})
    for entry in entries:
        await get(gateway, f"/archive?ids={entry['id']}")
    await origin.until(
        lambda: len(lines(caplog, "archive") + lines(caplog, "refused")) == len(entries)
    )
    outcomes = {record.fields["outcome"] for record in lines(caplog, "archive")}
    assert outcomes == {"complete", "failed"}
    for record in caplog.records:
        for formatter in (log.TextFormatter(), log.JsonFormatter()):
            assert "CANARY" not in formatter.format(record)
        assert not record.exc_info


async def test_a_line_of_text(origin, tmp_path):
    origin.add("/a", b"hello")
    with process(tmp_path, configured(origin)) as gateway:
        await get(gateway, "/archive?ids=a")
        found = await asyncio.to_thread(gateway.wait_for_log, r".* archive .*\n")
        assert re.fullmatch(
            r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z info archive request_id=r-1 "
            r"client=127\.0\.0\.1 members=1 sent=2048 of=2048 archive=2048 seconds=\d+\.\d+ "
            r"repairs=0 outcome=complete\n",
            found[0],
        )
        await get(gateway, "/archive?id=../%0A2099-01-01T00:00:00.000Z%20info%20forged%1B[2J")
        found = await asyncio.to_thread(gateway.wait_for_log, r".* refused .*\n")
        assert "2099-01-01T00:00:00.000Z info forged" in found[0]  # within this line
        assert "\x1b" not in gateway.log
        assert not re.search(r"^2099", gateway.log, re.MULTILINE)


async def test_a_line_of_json(origin, tmp_path):
    origin.add("/a", b"hello")
    path = tmp_path / "config.toml"
    path.write_text(configured(origin, 'format = "json"'))
    with held_port() as port:
        program = await asyncio.create_subprocess_exec(
            *(sys.executable, ROOT / "server.py", "--config", path, "--port", str(port)),
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            assert json.loads(await program.stderr.readline())["message"] == "listening"
            gateway = SimpleNamespace(port=port)
            await get(gateway, "/archive?ids=a")
            await get(gateway, "/archive?ids=%0A")
            archive, refused = [json.loads(await program.stderr.readline()) for _ in range(2)]
        finally:
            program.terminate()
            await program.communicate()
    assert archive.keys() == PROMISED | {"time", "level", "message"}
    assert (archive["level"], archive["message"], archive["request_id"]) == (
        "info",
        "archive",
        "r-1",
    )
    assert (archive["sent"], archive["of"], archive["outcome"]) == (2048, 2048, "complete")
    assert (refused["message"], refused["status"], refused["ids"]) == ("refused", 502, ["\n"])


async def test_what_is_written_to_a_client_that_left_causes_no_traceback(
    client, gateway, origin, caplog, monkeypatch
):
    """Before aiohttp has noticed, and cancelled the handler."""
    send = WatchedResponse.send

    async def sent(self, data):
        await send(self, data)
        raise ConnectionResetError("Cannot write to closing transport")

    monkeypatch.setattr(WatchedResponse, "send", sent)
    with pytest.raises(ClientPayloadError):
        async with client.get(gateway.url(["b"])) as response:
            await response.read()
    assert (await line(origin, caplog)).fields["outcome"] == "client left"
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


async def test_clients_that_leave_cause_no_traceback(origin, tmp_path):
    """Whenever they leave: while it is planned, before the first byte, in the middle."""
    origin.add("/late", b"hello", faults.late(0.2))
    origin.add("/slow", Made(64 << 20), faults.drip(0.01, 4096))
    with process(tmp_path, configured(origin, 'level = "debug"')) as gateway:
        for path in ("/archive?ids=late", "/archive?ids=slow", "/plan?ids=late"):
            for after in (0, 1, 200, 5000):
                reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
                writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                await writer.drain()
                if after and "late" not in path:
                    await reader.readexactly(after)
                writer.transport.abort()
        await raw(gateway.port, b"GET /healthz HTTP/1.0\r\n\r\n")  # so the others were seen too
        await origin.until(lambda: origin.in_flight == 0)
        await asyncio.to_thread(gateway.stop)
        assert 'outcome="client left"' in gateway.log
        assert "Traceback" not in gateway.log
        assert " error " not in gateway.log
