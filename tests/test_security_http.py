"""Hostile clients and hostile origins, over real HTTP: what none of them gets us to do."""

import asyncio
import json
import re
import socket
from contextlib import asynccontextmanager, suppress
from urllib.parse import quote

import faults
import pytest
from answer import Object
from gateway import process, raw
from origin import Made, Origin
from pydantic import ValidationError

from tarstream import app, request
from tarstream.config import Server

LINE = 32 * 1024
HEADERS = 128  # lines of a request; aiohttp's own limit
HEALTHZ = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

HEADER_LINE = re.compile(rb"[A-Za-z-]+: [ -~]*")
"""What every header line of ours looks like: nothing in it but visible ASCII and blanks."""

ARCHIVE = {
    b"Accept-Ranges", b"Cache-Control", b"Content-Disposition", b"Content-Length", b"Content-Type",
    b"Date", b"ETag", b"Server", b"X-Accel-Buffering", b"X-Content-Type-Options", b"X-Request-Id",
}  # fmt: skip


def asking(target="/archive?ids=a", method="GET", version="1.1", *lines):
    head = [f"{method} {target} HTTP/{version}", "Host: x", *lines]
    return "\r\n".join(head).encode("latin-1") + b"\r\n\r\n"


async def head_of(port, asked):
    """Status, and header lines as they came, of one answer on a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(asked)
        async with asyncio.timeout(20):
            head = await reader.readuntil(b"\r\n\r\n")
    finally:
        writer.close()
    status_line, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    return int(status_line.split(b" ")[1]), lines


def answers_in(received):
    """How many answers there are in what came; aiohttp's 400 quotes what it did not understand."""
    return len(re.findall(rb"HTTP/1\.[01] [1-5][0-9][0-9] ", received))


def names_of(lines):
    """The names of header lines, each of which has to be well-formed and stand there once."""
    for line in lines:
        assert HEADER_LINE.fullmatch(line), line
    names = [line.partition(b":")[0] for line in lines]
    assert len(names) == len(set(names))
    return set(names)


@pytest.fixture
async def gateway(origin, start):
    origin.add("/a", b"hello")
    return await start(origin)


# Lines and headers of requests


async def test_a_request_line_or_a_header_line_beyond_32_kib_is_400(gateway, origin):
    for asked in (
        asking("/archive?ids=a&pad=" + "x" * (LINE + 1)),
        asking("/archive?ids=a", "GET", "1.1", "X-Pad: " + "x" * (LINE + 1)),
        asking("/archive?ids=a", "GET", "1.1", "x" * (LINE + 1) + ": x"),
        asking("/archive?ids=a", "X" * (LINE + 1)),
    ):
        answer = await raw(gateway.port, asked + HEALTHZ)
        assert answer.split(b" ")[1] == b"400"
        assert answers_in(answer) == 1, "the connection is over"
    assert origin.requests == []


async def test_a_request_of_more_than_128_headers_is_400(gateway, origin):
    lines = ["X: y"] * (HEADERS - 2)  # and Host, and Connection
    status, _ = await head_of(gateway.port, asking("/healthz", "GET", "1.1", *lines))
    assert status == 200
    answer = await raw(gateway.port, asking("/archive?ids=a", "GET", "1.1", *lines * 2) + HEALTHZ)
    assert answer.split(b" ")[1] == b"400"
    assert answers_in(answer) == 1
    assert origin.requests == []


async def test_headers_that_never_end_are_not_waited_for(origin, start, monkeypatch):
    """Not on a new connection, nor behind a request that was answered."""
    monkeypatch.setattr(app, "KEEPALIVE", 0.2)
    gateway = await start(origin)
    for begin in (b"", b"G", b"GET /archive?ids=a HTTP/1.1\r\nHost: x\r\nX: "):
        assert await raw(gateway.port, begin) == b""
        answer = await raw(gateway.port, asking("/healthz") + begin)
        assert answer.endswith(b"ok\n")
        assert answers_in(answer) == 1


async def test_headers_that_drip_are_not_waited_for_either(origin, start, monkeypatch):
    monkeypatch.setattr(app, "KEEPALIVE", 0.3)
    gateway = await start(origin)
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: ")
    with suppress(ConnectionError):
        async with asyncio.timeout(20):
            while not reader.at_eof():
                writer.write(b"x")
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.05):
                        assert await reader.read(1) == b""
    writer.close()


# Framing of requests


SMUGGLED = b"GET /plan?ids=a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
CHUNKED = "Transfer-Encoding: chunked"


@pytest.mark.parametrize(
    "lines",
    [
        (f"Content-Length: {len(SMUGGLED)}", CHUNKED),
        (CHUNKED, f"Content-Length: {len(SMUGGLED)}"),
        ("Content-Length: 0", f"Content-Length: {len(SMUGGLED)}"),
        ("Content-Length: 0", "Content-Length: 0"),
        (f"Content-Length: 0, {len(SMUGGLED)}",),
        ("Content-Length: +0",),
        ("Content-Length: -1",),
        ("Content-Length: 0x0",),
        ("Content-Length: 0 0",),
        ("Content-Length: 99999999999999999999999999",),
        ("Content-Length : 0",),
        ("Content-Length: 0", " folded"),
        ("Content-Length\x0b: 0",),
        (CHUNKED, CHUNKED),
        (f"{CHUNKED}, identity",),
        ("Transfer-Encoding: xchunked",),
        ("Transfer-Encoding: identity",),
        ("Transfer-Encoding\t: chunked",),
        ("Host: y",),
        ("X: a\rContent-Length: 0",),
        ("X: a\nContent-Length: 0\r",),
        ("X: a\0",),
    ],
    ids=repr,
)
async def test_a_request_whose_end_is_in_doubt_is_400_and_ends_the_connection(
    gateway, origin, lines
):
    """Whatever follows it is not taken for a request (RFC 9112 11.2)."""
    answer = await raw(gateway.port, asking("/archive?ids=a", "POST", "1.1", *lines) + SMUGGLED)
    assert answer.split(b" ")[1] == b"400"
    assert answers_in(answer) == 1
    assert origin.requests == []


@pytest.mark.parametrize(
    "asked",
    [
        b"GET /archive?ids=a HTTP/1.1\nHost: x\n\n",
        b"GET /archive?ids=a HTTP/2.0\r\nHost: x\r\n\r\n",
        b"GET /archive?ids=a HTTP/1.9\r\nHost: x\r\n\r\n",
        b"GET /archive?ids=a\r\n\r\n",
        b"GET /archive?ids=a\x01 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /archive?ids=a\tb HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        asking("/archive?ids=a", "POST", "1.0", CHUNKED) + b"0\r\n\r\n",
        asking("/archive", "POST", "1.1", CHUNKED, "Content-Type: application/json") + b"2\n{}",
        asking("/archive", "POST", "1.1", CHUNKED, "Content-Type: application/json")
        + b"0\r\n"
        + b"X: y\r\n" * 2_000
        + b"\r\n",
    ],
    ids=lambda asked: repr(asked[:60]),
)
async def test_what_is_not_quite_http_is_400_and_ends_the_connection(gateway, origin, asked):
    answer = await raw(gateway.port, asked + SMUGGLED)
    assert answer.split(b" ")[1] == b"400"
    assert (
        b"\r\nContent-Type: text/plain; charset=utf-8\r\n" in answer
    )  # it quotes what it was sent
    assert answers_in(answer) == 1
    assert origin.requests == []


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE"])
@pytest.mark.parametrize("target", ["/archive?ids=a", "/archive", "/nowhere", "/healthz"])
async def test_a_body_that_nobody_asked_for_is_not_taken_for_a_request(gateway, method, target):
    asked = asking(target, method, "1.1", f"Content-Length: {len(SMUGGLED)}") + SMUGGLED
    answer = await raw(gateway.port, asked + HEALTHZ)
    assert answers_in(answer) == 2
    assert b"application/json\r\n" not in answer  # of the plan
    assert answer.endswith(b"ok\n")


@pytest.mark.parametrize("protocol", ["websocket", "h2c", "TLS/1.0"])
async def test_no_other_protocol_is_switched_to(gateway, protocol):
    upgrade = ("Connection: Upgrade, HTTP2-Settings", f"Upgrade: {protocol}", "HTTP2-Settings: A")
    status, _ = await head_of(gateway.port, asking("/healthz", "GET", "1.1", *upgrade))
    assert status == 200


@pytest.mark.parametrize("asked", ["CONNECT 127.0.0.1:{} HTTP/1.1", "GET {}/a HTTP/1.1"])
async def test_nobody_is_led_on_to_where_he_likes(gateway, origin, asked):
    """A gateway is no proxy."""
    target = origin.port if "CONNECT" in asked else origin.root
    line = asked.format(target)
    status, _ = await head_of(gateway.port, f"{line}\r\nHost: x\r\n\r\n".encode())
    assert status == 404
    assert origin.connections == 0


# Bodies of requests


def unfinished(length):
    headers = ("Content-Type: application/json", f"Content-Length: {length + 1}")
    return asking("/archive", "POST", "1.1", *headers) + b" " * length


async def test_bodies_share_a_bounded_room(gateway, origin, monkeypatch):
    """Else as many as there may be archives, each of 8 MiB, could be sent slowly."""
    monkeypatch.setattr(request, "MAX_BODIES", 1_000_000)
    _, first = await asyncio.open_connection("127.0.0.1", gateway.port)
    first.write(unfinished(700_000))
    await origin.until(lambda: request._BODIES.held == 700_000)
    status, lines = await head_of(gateway.port, unfinished(700_000))
    assert status == 503
    assert b"Retry-After: 5" in lines
    await origin.until(lambda: request._BODIES.held == 700_000)
    # It is the room that was too small, and it is given back however it ends.
    first.write(b"{")
    first.transport.abort()
    await origin.until(lambda: request._BODIES.held == 0)
    body = json.dumps({"ids": ["a"], "pad": "x" * 700_000}).encode()
    headers = ("Content-Type: application/json", f"Content-Length: {len(body)}")
    for _ in range(2):
        status, _ = await head_of(gateway.port, asking("/archive", "POST", "1.1", *headers) + body)
        assert status == 200
    await origin.until(lambda: request._BODIES.held == 0)


async def test_large_bodies_are_read_one_at_a_time(origin, tmp_path):
    """A mebibyte of nothing but separators takes fifty until it is refused."""
    with process(tmp_path, configured(origin)) as gateway:
        gateway.forget_peak_memory()
        idle = gateway.peak_memory()
        body = b"a=&" * (1024**2 // 3)
        kind = "Content-Type: application/x-www-form-urlencoded"
        asked = asking("/archive", "POST", "1.1", kind, f"Content-Length: {len(body)}") + body
        answers = await asyncio.gather(*(head_of(gateway.port, asked) for _ in range(6)))
        assert {status for status, _ in answers} == {400}
        assert gateway.peak_memory() - idle < 150 * 1024**2  # all at once take three hundred


def configured(origin):
    return f"""
    [catalog]
    kind = "template"
    url = "{origin.root}/{{id}}"
    [upstream]
    allow = ["{origin.root}"]
    """


# Response splitting


HOSTILE = [chr(code) for code in range(0x300)] + list("\u2028\u2029\u202e\ufeff\ufffe\U0001f600")


async def test_no_character_of_a_name_reaches_a_header_raw(gateway):
    for first in range(0, len(HOSTILE), 24):
        name = "x".join(HOSTILE[first : first + 24])
        for breaking in ("", "\r\nSet-Cookie: a=b\r\n\r\n<html>"):
            target = f"/archive?ids=a&name={quote('n' + name + breaking)}"
            status, lines = await head_of(gateway.port, asking(target, "HEAD"))
            assert status == 200
            assert names_of(lines) == ARCHIVE


async def test_no_character_of_an_id_reaches_a_header_raw(origin, start):
    """Neither of an answer, nor of a refusal that names it, nor in a link."""
    ids = ["".join(HOSTILE[first : first + 64]) for first in range(0, len(HOSTILE), 64)]
    ids += ['"><script>', 'a>; rel="x", <b', "\r\nSet-Cookie: a=b\r\n\r\n"]
    entries = [
        {"id": id_, "url": f"{origin.root}/{n}", "size": 0, "mtime": 0, "etag": '"1"'}
        for n, id_ in enumerate(ids)
    ]
    gateway = await start(origin, entries)
    for id_ in ids:
        target = f"/archive?id={quote(id_, safe='')}"
        status, lines = await head_of(gateway.port, asking(target))
        assert (status, names_of(lines)) == (200, ARCHIVE)
        status, lines = await head_of(gateway.port, asking(target + "x"))
        assert (status, names_of(lines) & {b"Set-Cookie"}) == (404, set())
        plan = asking(
            target.replace("archive", "plan"), "GET", "1.1", "Accept: application/x-ndjson"
        )
        status, lines = await head_of(gateway.port, plan)
        assert status == 200
        assert b"Set-Cookie" not in names_of(lines)
        [link] = [line for line in lines if line.startswith(b"Link: ")]
        assert re.fullmatch(rb'Link: <[^<> "]*>; rel="canonical"', link)


async def test_no_character_of_a_request_id_reaches_a_header_raw(gateway):
    for code in range(256):
        given = b"id-%c-id" % code
        asked = asking("/healthz").replace(b"Host:", b"X-Request-Id: " + given + b"\r\nHost:")
        status, lines = await head_of(gateway.port, asked)
        if status == 400 and not any(line.startswith(b"X-Request-Id") for line in lines):
            assert code < 32 or code == 127  # aiohttp's: it was no header
            continue
        names_of(lines)
        [answered] = [line[14:] for line in lines if line.startswith(b"X-Request-Id: ")]
        assert answered == given or re.fullmatch(rb"[0-9a-f]{32}", answered)


HEADERS_OF_ORIGINS = [
    ("ETag", '"\x80\xff"'),
    ("ETag", '"a\tb"'),
    ("ETag", '"a", X-Injected: y'),
    ("ETag", "a"),
    ("ETag", '"' + "e" * 8000 + '"'),
    ("Last-Modified", "Thu, 01 Jan 1970 00:00:00 GMT\tX-Injected: y"),
    ("Last-Modified", "\x80" * 100),
    ("Content-Type", "text/html; X-Injected=y"),
    ("Content-Disposition", 'attachment; filename="X-Injected"'),
    ("Content-Security-Policy", "X-Injected"),
    ("Set-Cookie", "X-Injected=y"),
    ("Location", "http://X-Injected/"),
    ("Refresh", "0; url=http://X-Injected/"),
    ("X-Accel-Redirect", "/X-Injected"),
    ("X-Sendfile", "/X-Injected"),
    ("X-Request-Id", "X-Injected"),
    ("Server", "X-Injected"),
    ("Warning", '299 - "X-Injected"'),
    ("Via", "1.1 X-Injected"),
    ("Clear-Site-Data", '"*" X-Injected'),
]


@pytest.mark.parametrize(("name", "value"), HEADERS_OF_ORIGINS, ids=lambda text: text[:24])
@pytest.mark.parametrize("stated", [{}, {"size": 5, "mtime": 0, "etag": '"1"'}])
async def test_no_header_of_an_origin_reaches_a_client(origin, start, name, value, stated):
    """Our own ETag is a digest of theirs; nothing else of them is needed."""
    url = origin.add("/a", Object(b"hello", '"1"'), faults.puts(name, value))
    gateway = await start(origin, [{"id": "a", "url": url, **stated}], upstream={"attempts": 1})
    for target in ("/archive?ids=a", "/plan?ids=a"):
        for accept in ("*/*", "application/x-ndjson"):
            asked = asking(target, "GET", "1.1", f"Accept: {accept}")
            status, lines = await head_of(gateway.port, asked)
            assert status in {200, 502, 503}
            assert not {b"Set-Cookie", b"Location", b"Refresh"} & names_of(lines)
            assert b"X-Injected" not in b"\n".join(lines)


@pytest.mark.parametrize("line", [b"X: a\rSet-Cookie: b=c", b"X: a\nSet-Cookie: b=c", b"X: \0"])
async def test_an_origin_that_splits_its_own_answer_splits_not_ours(start, line):
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n" + line + b"\r\n\r\nhello"
    async with talking(answer) as root, Origin() as origin:
        gateway = await start(
            origin, [{"id": "a", "url": f"{root}/a"}], allow=[root], upstream={"attempts": 1}
        )
        status, lines = await head_of(gateway.port, asking())
        assert status in {200, 502}
        assert b"Set-Cookie" not in names_of(lines)


@pytest.mark.parametrize(
    "prefix",
    ["/a\r\nSet-Cookie: b=c", "/a\n", "/a\0", '/a"', "/a>", "/a b", "/ü", "/a\x7f", "/a\\b"],
)
def test_a_base_path_holds_nothing_that_a_header_could_not(prefix):
    with pytest.raises(ValidationError):
        Server(base_path=prefix)


async def test_what_a_terminal_would_obey_is_escaped_in_refusals(gateway):
    answer = await raw(gateway.port, b"GET /archive?id=../%C2%9B2J%E2%80%AE%1B%7F HTTP/1.0\r\n\r\n")
    body = answer.partition(b"\r\n\r\n")[2].decode()
    assert body.isprintable()
    assert json.loads(body)["ids"][0]["id"] == "../\x9b2J\u202e\x1b\x7f"


# The log


async def test_no_request_fills_the_log(origin, tmp_path):
    """Not with ids of any length, however many of them there are."""
    with process(tmp_path, configured(origin)) as gateway:
        before = len(gateway.log)
        body = json.dumps({"ids": ["../" + "x" * 20_000] * 100}).encode()
        headers = ("Content-Type: application/json", f"Content-Length: {len(body)}")
        status, _ = await head_of(gateway.port, asking("/archive", "POST", "1.1", *headers) + body)
        assert status == 404
        gateway.wait_for_log(r"refused .*status=404")
        body = json.dumps({"ids": ["y" * 20_000]}).encode()
        headers = ("Content-Type: application/json", f"Content-Length: {len(body)}")
        status, _ = await head_of(gateway.port, asking("/archive", "POST", "1.1", *headers) + body)
        assert status == 502
        gateway.wait_for_log(r"refused .*status=502")
        assert len(gateway.log) - before < 20_000


async def test_nothing_secret_of_a_request_is_logged(origin, tmp_path):
    """No URL as it was asked for, which may be signed, and no header but a sane request id."""
    origin.add("/a", b"hello")
    config = configured(origin) + '[log]\nlevel = "debug"\n'
    secrets = ("sig=CANARY", "token=CANARY", "exp=1", "X-Amz-Signature=CANARY")
    lines = [f"{name}: CANARY" for name in ("Authorization", "Cookie", "Referer", "User-Agent")]
    lines += ["Proxy-Authorization: CANARY", "X-Api-Key: CANARY", "X-Request-Id: a b CANARY"]
    with process(tmp_path, config) as gateway:
        for target in (
            "/archive?ids=a",
            "/archive?ids=b",
            "/plan?ids=a",
            "/CANARY?x=1",
            "/archive?x",
        ):
            asked = asking(f"{target}&{'&'.join(secrets)}", "GET", "1.1", *lines)
            await head_of(gateway.port, asked)
        await raw(gateway.port, asking("/archive?CANARY", "GET", "1.1", "CANARY : x"))
        gateway.wait_for_log("not HTTP")
        gateway.stop()
        assert gateway.log.count("refused") == 3
        assert "CANARY" not in gateway.log


# Requests on one connection


async def test_requests_sent_ahead_are_not_gathered(origin, tmp_path):
    """A client that asks on and on while it is being answered is not listened to."""
    origin.add("/a", Made(100_000), faults.stall(at=50_000))
    with process(tmp_path, configured(origin)) as gateway:
        gateway.forget_peak_memory()
        idle = gateway.peak_memory()
        with socket.create_connection(("127.0.0.1", gateway.port)) as client:
            client.sendall(asking())
            await origin.until(lambda: origin.stalled, 20)
            client.settimeout(2)
            with pytest.raises(TimeoutError):
                client.sendall(asking("/healthz") * 1_500_000)  # 46 MB
        assert gateway.peak_memory() - idle < 48 * 1024**2


# Caches


UNKEYED = [
    "X-Forwarded-Host: evil.example",
    "X-Forwarded-Proto: gopher",
    "X-Forwarded-Prefix: /evil",
    "X-Forwarded-Port: 666",
    "Forwarded: host=evil.example;proto=gopher",
    "X-Host: evil.example",
    "X-Original-URL: /plan?ids=evil",
    "X-Rewrite-URL: /plan?ids=evil",
    "X-HTTP-Method-Override: DELETE",
    "X-Forwarded-For: evil",
    "Origin: http://evil.example",
    "Referer: http://evil.example/",
    "Cookie: evil=evil",
    "Accept-Language: evil",
    "Accept-Encoding: gzip, br, zstd",
    "Accept-Charset: evil",
    "User-Agent: evil",
]


async def whole(port, asked):
    """Status, header lines without what is of the moment, and body."""
    answer = await raw(port, asked)
    head, _, body = answer.partition(b"\r\n\r\n")
    status_line, *lines = head.split(b"\r\n")
    return (
        status_line,
        {line for line in lines if not line.startswith((b"Date: ", b"X-Request-Id: "))},
        re.sub(rb'"request_id": "[0-9a-f]+"', b"", body),
    )


@pytest.mark.parametrize(
    "target", ["/archive?ids=a", "/archive?ids=a&version={}", "/plan?ids=a", "/nowhere"]
)
async def test_an_answer_depends_on_nothing_that_a_cache_does_not_look_at(gateway, target):
    """So what one client makes of it is what all may have; nothing needs a Vary."""
    _, lines = await head_of(gateway.port, asking())
    [etag] = [line[7:-1].decode() for line in lines if line.startswith(b"ETag: ")]
    target = target.format(etag)
    usual = await whole(gateway.port, asking(target, "GET", "1.1", "Connection: close"))
    assert not any(line.startswith(b"Vary") for line in usual[1])
    for line in UNKEYED:
        assert (
            await whole(gateway.port, asking(target, "GET", "1.1", line, "Connection: close"))
            == usual
        )
    evil = asking(target, "GET", "1.1", "Connection: close").replace(
        b"Host: x", b"Host: evil.example"
    )
    assert await whole(gateway.port, evil) == usual


async def test_no_refusal_is_kept_by_a_cache(gateway):
    for target in ("/archive", "/archive?ids=b", "/archive?ids=a&version=x", "/nowhere"):
        _, lines = await head_of(gateway.port, asking(target))
        assert b"Cache-Control: no-store" in lines


# Credentials of clients, cookies of origins


async def test_nothing_of_a_client_reaches_an_origin_and_no_cookie_a_client(origin, start):
    cookie = faults.puts("Set-Cookie", "CANARY=1; Path=/")
    for id_ in "ab":
        origin.add(f"/{id_}", Made(100_000), cookie, faults.fin(at=50_000, times=1))
    gateway = await start(origin)
    lines = [f"{name}: CANARY" for name in ("Cookie", "Authorization", "Referer", "X-Api-Key")]
    lines += ["X-Forwarded-For: CANARY", "User-Agent: CANARY", "X-Request-Id: CANARY"]
    for _ in range(2):
        answer = await raw(
            gateway.port,
            asking("/archive?ids=a,b&CANARY=1", "GET", "1.1", *lines, "Connection: close"),
        )
        assert b"Set-Cookie" not in answer.partition(b"\r\n\r\n")[0]
        assert len(answer) > 200_000
    assert len(origin.requests) > 4
    for seen in origin.requests:
        assert "CANARY" not in f"{seen.target} {seen.headers}"


async def test_nothing_of_the_environment_reaches_an_origin(origin, tmp_path):
    """Neither a proxy that somebody set, nor what lies in .netrc."""
    origin.add("/a", b"hello")
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login CANARY password CANARY\n")
    async with Origin() as proxy:
        environment = {"HOME": str(tmp_path), "NETRC": str(tmp_path / ".netrc")}
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
            environment[name] = proxy.root
        with process(tmp_path, configured(origin), environment=environment) as gateway:
            status, _ = await head_of(gateway.port, asking())
        assert status == 200
        assert proxy.connections == 0
    for seen in origin.requests:
        assert "authorization" not in seen.headers
        assert "proxy-authorization" not in seen.headers


# Origins without measure


@asynccontextmanager
async def talking(begin, forever=b"", sent=None):
    """A server that answers whatever it is asked with these bytes, the last ones without end."""
    answering = set()

    async def answer(reader, writer):
        answering.add(asyncio.current_task())
        try:
            with suppress(ConnectionError):
                await reader.readuntil(b"\r\n\r\n")
                writer.write(begin)
                while forever:
                    await writer.drain()
                    writer.write(forever)
                    if sent is not None:
                        sent.append(len(forever))
                await writer.drain()
        finally:
            if forever:
                writer.transport.abort()
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in answering:
            task.cancel()
        await asyncio.gather(*answering, return_exceptions=True)


@pytest.mark.parametrize(
    "fault",
    [faults.padded(10_000), faults.padded(100_000), faults.padded(100, lines=200)],
    ids=["a long line", "a very long line", "many lines"],
)
@pytest.mark.parametrize("stated", [{}, {"size": 5, "mtime": 0, "etag": '"1"'}])
async def test_huge_headers_of_an_origin_are_502(origin, start, fault, stated):
    url = origin.add("/a", Object(b"hello", '"1"'), fault)
    gateway = await start(origin, [{"id": "a", "url": url, **stated}], upstream={"attempts": 1})
    status, _ = await head_of(gateway.port, asking())
    assert status == 502


OK = b"HTTP/1.1 200 OK\r\n"
WITHOUT_END = {
    "status line": (b"HTTP/1.1 200 ", b"x" * 4096),
    "header line": (OK + b"X: ", b"x" * 4096),
    "header name": (OK, b"x" * 4096),
    "header lines": (OK, b"X: y\r\n" * 500),
    "nothing that is HTTP": (b"", b"x" * 4096),
    "informational": (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100),
}
BODY = OK + b'ETag: "1"\r\nTransfer-Encoding: chunked\r\n\r\n'
BODY_WITHOUT_END = {
    "chunk extension": (BODY + b"2;", b"x" * 4096),
    "chunk size": (BODY, b"0" * 4096),
    "trailer": (BODY + b"5\r\nhello\r\n0\r\n", b"X: y\r\n" * 500),
    "trailer line": (BODY + b"5\r\nhello\r\n0\r\nX: ", b"x" * 4096),
    "body": (BODY + b"5\r\nhello\r\n", b"4\r\nmore\r\n" * 500),
    "body without length": (OK + b'ETag: "1"\r\n\r\nhello', b"x" * 4096),
}


@pytest.mark.parametrize("kind", WITHOUT_END)
async def test_an_answer_of_an_origin_that_never_begins_is_given_up(start, origin, kind):
    sent = []
    async with talking(*WITHOUT_END[kind], sent) as root:
        gateway = await start(
            origin,
            [{"id": "a", "url": f"{root}/a"}],
            allow=[root],
            upstream={"attempts": 1, "patience": 1, "plan_timeout": 1},
        )
        status, _ = await head_of(gateway.port, asking())
        assert status in {502, 504}
    if kind != "informational":  # each of those is an answer, and there may be any number
        assert sum(sent) < 16 * 1024**2  # most of it in sockets


@pytest.mark.parametrize("kind", BODY_WITHOUT_END)
async def test_a_body_of_an_origin_that_never_ends_is_given_up(start, origin, kind):
    """It is cut short where the length that was announced is owed."""
    async with talking(*BODY_WITHOUT_END[kind]) as root:
        stated = {"size": 5, "mtime": 0, "etag": '"1"'}
        gateway = await start(
            origin,
            [{"id": "a", "url": f"{root}/a", **stated}],
            allow=[root],
            upstream={"attempts": 1, "patience": 1},
        )
        answer = await raw(gateway.port, asking() + HEALTHZ, 20)
        head, _, body = answer.partition(b"\r\n\r\n")
        if head.split(b" ")[1] == b"200":
            assert 512 <= len(body) < 512 + 5
        else:
            assert head.split(b" ")[1] in {b"502", b"504"}
