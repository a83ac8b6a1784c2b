"""Bytes on the wire (RFC 9112): where an answer ends, and what becomes of the connection."""

import asyncio
import json
import re
from contextlib import asynccontextmanager

import faults
import pytest
from gateway import process, raw
from origin import Made

from tarstream.formats import tar

ID = "r-1"
SIZE = 512 + 512 + 1024  # of an archive of `a`
HEALTHZ = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"

ARCHIVE_HEADERS = {
    b"ETag: {etag}",
    b"Cache-Control: no-cache, no-transform",
    b"Content-Type: application/x-tar",
    b"Content-Disposition: attachment; filename=\"archive.tar\"; filename*=UTF-8''archive.tar",
    b"Accept-Ranges: bytes",
    b"X-Accel-Buffering: no",
}
COMMON_HEADERS = {
    b"Date: {date}",
    b"Server: tarstream",
    b"X-Content-Type-Options: nosniff",
    b"X-Request-Id: r-1",
}
PROBLEM_HEADERS = {
    b"ETag: {etag}",
    b"Cache-Control: no-store",
    b"Content-Type: application/problem+json",
}


class Wire:
    """A connection on which nothing is interpreted but what is asked for."""

    def __init__(self, reader, writer):
        self.reader = reader
        self.write = writer.write

    async def head(self):
        """Status line and header lines of the next answer, which has to begin right here."""
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 10)
        assert head.startswith(b"HTTP/1.")
        status_line, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
        return status_line, lines

    async def answer(self, *, body=True):
        """The next answer: status line, header lines, and as much body as they announce."""
        status_line, lines = await self.head()
        [length] = [int(v) for k, v in map(_field, lines) if k == b"content-length"] or [0]
        content = await asyncio.wait_for(self.reader.readexactly(length if body else 0), 10)
        return status_line, lines, content

    async def rest(self):
        """All that comes until the other side closes, with FIN."""
        return await asyncio.wait_for(self.reader.read(-1), 10)


def _field(line):
    name, _, value = line.partition(b": ")
    return name.lower(), value


@asynccontextmanager
async def wire(gateway):
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, limit=1 << 20)
    try:
        yield Wire(reader, writer)
    finally:
        writer.close()


def request(target="/archive?ids=a", method="GET", version="1.1", **headers):
    lines = [f"{method} {target} HTTP/{version}", "Host: x", f"X-Request-Id: {ID}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def normal(lines, etag):
    """Header lines with what differs each time taken out."""
    lines = [
        re.sub(rb"^Date: \w{3}, \d\d \w{3} \d{4} [\d:]{8} GMT$", b"Date: {date}", x) for x in lines
    ]
    lines = [line.replace(etag, b"{etag}") for line in lines]
    assert len(lines) == len(set(lines))
    return set(lines)


@pytest.fixture
async def gateway(origin, start):
    origin.add("/a", b"hello")
    return await start(origin)


@pytest.fixture
async def etag(gateway):
    async with wire(gateway) as connection:
        connection.write(request(method="HEAD"))
        _, lines, _ = await connection.answer(body=False)
    return dict(map(_field, lines))[b"etag"]


@pytest.fixture
async def whole(gateway):
    async with wire(gateway) as connection:
        connection.write(request())
        return (await connection.answer())[2]


# Answers, byte by byte


async def test_an_archive(gateway, etag, whole):
    async with wire(gateway) as connection:
        connection.write(request() + HEALTHZ)
        status_line, lines, body = await connection.answer()
        assert status_line == b"HTTP/1.1 200 OK"
        assert normal(lines, etag) == ARCHIVE_HEADERS | COMMON_HEADERS | {b"Content-Length: 2048"}
        assert body == whole
        assert len(body) == SIZE
        assert (await connection.answer())[2] == b"ok\n"


@pytest.mark.parametrize("range_", [{}, {"Range": "bytes=0-9"}, {"Range": "bytes=9999-"}])
async def test_head_has_not_one_byte_of_body(gateway, etag, range_):
    async with wire(gateway) as connection:
        connection.write(request(method="HEAD", **range_) + HEALTHZ)
        status_line, lines, _ = await connection.answer(body=False)
        assert status_line == b"HTTP/1.1 200 OK"
        assert normal(lines, etag) == ARCHIVE_HEADERS | COMMON_HEADERS | {b"Content-Length: 2048"}
        assert (await connection.answer())[2] == b"ok\n"


async def test_a_part(gateway, etag, whole):
    async with wire(gateway) as connection:
        connection.write(request(Range="bytes=510-519") + HEALTHZ)
        status_line, lines, body = await connection.answer()
        assert status_line == b"HTTP/1.1 206 Partial Content"
        framing = {b"Content-Length: 10", b"Content-Range: bytes 510-519/2048"}
        assert normal(lines, etag) == ARCHIVE_HEADERS | COMMON_HEADERS | framing
        assert body == whole[510:520]
        assert (await connection.answer())[2] == b"ok\n"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_304_has_neither_body_nor_headers_of_one(gateway, etag, method):
    async with wire(gateway) as connection:
        connection.write(request(method=method, If_None_Match="*") + HEALTHZ)
        status_line, lines, _ = await connection.answer(body=False)
        assert status_line == b"HTTP/1.1 304 Not Modified"
        expected = {b"ETag: {etag}", b"Cache-Control: no-cache, no-transform"}
        assert normal(lines, etag) == expected | COMMON_HEADERS
        assert (await connection.answer())[2] == b"ok\n"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_412(gateway, etag, method):
    async with wire(gateway) as connection:
        connection.write(request(method=method, If_Match='"x"') + HEALTHZ)
        status_line, lines, body = await connection.answer(body=method == "GET")
        assert status_line == b"HTTP/1.1 412 Precondition Failed"
        lines.remove(next(line for line in lines if line.startswith(b"Content-Length: ")))
        assert normal(lines, etag) == PROBLEM_HEADERS | COMMON_HEADERS
        assert method == "HEAD" or json.loads(body)["status"] == 412
        assert (await connection.answer())[2] == b"ok\n"


async def test_416(gateway, etag):
    async with wire(gateway) as connection:
        connection.write(request(Range="bytes=2048-") + HEALTHZ)
        status_line, lines, body = await connection.answer()
        assert status_line.split(b" ")[1] == b"416"
        lines.remove(next(line for line in lines if line.startswith(b"Content-Length: ")))
        expected = PROBLEM_HEADERS | COMMON_HEADERS | {b"Content-Range: bytes */2048"}
        assert normal(lines, etag) == expected
        assert json.loads(body)["status"] == 416
        assert (await connection.answer())[2] == b"ok\n"


@pytest.mark.parametrize(
    ("target", "method", "status"),
    [
        ("/archive", "GET", b"400"),
        ("/archive", "HEAD", b"400"),
        ("/archive?ids=nobody", "GET", b"502"),
        ("/archive?ids=nobody", "HEAD", b"502"),
        ("/archive?ids=a&version=x", "GET", b"409"),
        ("/archive?ids=a&version=x", "HEAD", b"409"),
        ("/archive?ids=a", "DELETE", b"405"),
        ("/nowhere", "GET", b"404"),
        ("/nowhere", "HEAD", b"404"),
        ("/plan?ids=a", "GET", b"200"),
        ("/plan?ids=a", "HEAD", b"200"),
        ("/healthz", "HEAD", b"200"),
        ("/readyz", "HEAD", b"200"),
    ],
)
async def test_the_next_answer_begins_where_this_one_ends(gateway, target, method, status):
    async with wire(gateway) as connection:
        connection.write((request(target, method) + HEALTHZ) * 2)
        for _ in range(2):
            status_line, _, body = await connection.answer(body=method != "HEAD")
            assert status_line.split(b" ")[1] == status
            assert (body == b"") == (method == "HEAD")
            assert (await connection.answer())[2] == b"ok\n"


@pytest.mark.parametrize("kind", ["text/plain", "application/json", "multipart/form-data"])
async def test_a_body_that_is_refused_is_not_taken_for_a_request(gateway, kind):
    smuggled = b"GET /plan?ids=a HTTP/1.1\r\nHost: x\r\n\r\n"
    post = request(method="POST", Content_Type=kind, Content_Length=len(smuggled)) + smuggled
    async with wire(gateway) as connection:
        connection.write(post + HEALTHZ)
        status_line, _, _ = await connection.answer()
        assert status_line.split(b" ")[1] == (b"400" if kind == "application/json" else b"415")
        assert (await connection.answer())[2] == b"ok\n"


async def test_a_client_that_waits_for_100_continue_gets_it(gateway, whole):
    body = b'{"ids": ["a"]}'
    headers = {"Content_Type": "application/json", "Content_Length": len(body)}
    async with wire(gateway) as connection:
        connection.write(request("/archive", "POST", Expect="100-continue", **headers))
        assert await connection.head() == (b"HTTP/1.1 100 Continue", [])
        connection.write(body + HEALTHZ)
        status_line, _, content = await connection.answer()
        assert (status_line, content) == (b"HTTP/1.1 200 OK", whole)
        assert (await connection.answer())[2] == b"ok\n"


async def test_a_streamed_plan_ends_with_the_last_chunk(gateway):
    async with wire(gateway) as connection:
        connection.write(request("/plan?ids=a,a", Accept="application/x-ndjson") + HEALTHZ)
        _, lines = await connection.head()
        assert b"Transfer-Encoding: chunked" in lines
        content = b""
        while length := int(await connection.reader.readline(), 16):
            content += await connection.reader.readexactly(length)
            assert await connection.reader.readexactly(2) == b"\r\n"
        assert await connection.reader.readline() == b"\r\n"
        assert [json.loads(line)["id"] for line in content.splitlines()] == ["a", "a"]
        assert (await connection.answer())[2] == b"ok\n"


async def test_a_streamed_plan_over_http_1_0_ends_with_the_connection(gateway):
    ask = request("/plan?ids=a,a", version="1.0", Accept="application/x-ndjson")
    async with wire(gateway) as connection:
        connection.write(ask)
        status_line, lines = await connection.head()
        assert status_line == b"HTTP/1.0 200 OK"
        assert b"Transfer-Encoding: chunked" not in lines
        assert b"X-Archive-Members: 2" in lines
        assert len((await connection.rest()).splitlines()) == 2


# Connections


async def test_http_1_1_stays_open_until_told_to_close(gateway):
    async with wire(gateway) as connection:
        for _ in range(3):
            connection.write(request())
            _, lines, _ = await connection.answer()
            assert not any(line.startswith(b"Connection:") for line in lines)
        connection.write(request(Connection="close"))
        _, lines, body = await connection.answer()
        assert b"Connection: close" in lines
        assert len(body) == SIZE
        assert await connection.rest() == b""


async def test_http_1_0_closes_unless_told_to_stay_open(gateway, whole):
    async with wire(gateway) as connection:
        connection.write(request(version="1.0", Connection="keep-alive"))
        status_line, lines, body = await connection.answer()
        assert (status_line, body) == (b"HTTP/1.0 200 OK", whole)
        assert b"Connection: keep-alive" in lines
        connection.write(request(version="1.0", Range="bytes=0-9"))
        status_line, lines, body = await connection.answer()
        assert (status_line, body) == (b"HTTP/1.0 206 Partial Content", whole[:10])
        assert b"Connection: keep-alive" not in lines
        assert await connection.rest() == b""


# Broken off


@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_a_body_that_breaks_off_ends_short_with_fin_and_without_a_second_answer(
    origin, start, version
):
    origin.add("/a", Made(200_000, 1))
    origin.add("/b", Made(300_000, 2), faults.fin(at=123_456))
    gateway = await start(origin, upstream={"attempts": 1})
    begins = 512 + 200_192 + 512
    async with wire(gateway) as connection:
        # What was asked for behind it is not answered either.
        ask = request("/archive?ids=a,b", version=version, Connection="keep-alive")
        connection.write(ask + HEALTHZ)
        _, lines = await connection.head()
        [length] = [int(v) for k, v in map(_field, lines) if k == b"content-length"]
        body = await connection.rest()
    assert length == begins + 300_032 + 1024
    assert begins < len(body) <= begins + 123_456
    assert body[512:200_512] == Made(200_000, 1).read()
    assert Made(300_000, 2).read().startswith(body[begins:])
    assert b"HTTP/1." not in body


async def test_a_mistake_of_ours_in_the_middle_breaks_off_as_well(
    origin, start, client, monkeypatch, caplog
):
    """A layout that renders other bytes than it counted must never be sent as if it were whole."""
    origin.add("/a", b"hello")
    origin.add("/b", Made(300_000))
    gateway = await start(origin)
    async with client.head(gateway.url("ab")) as response:  # lengths are remembered from here on
        assert response.status == 200
    rendered = tar.before
    monkeypatch.setattr(
        tar, "before", lambda member: rendered(member) + b"!" * (member.name == "b")
    )
    async with wire(gateway) as connection:
        connection.write(request("/archive?ids=a,b") + HEALTHZ)
        await connection.head()
        body = await connection.rest()
    assert b"HTTP/1." not in body
    assert len(body) < 512 + 512 + 512
    [record] = [record for record in caplog.records if record.message == "archive"]
    assert record.fields["outcome"] == "internal error"
    [record] = [record for record in caplog.records if record.exc_info]
    assert record.fields["request_id"] == ID


# What clients may send


async def test_a_name_cannot_inject_a_header(gateway):
    for breaking in ("%0D%0A", "%0A", "%0D", "%E2%80%A8", "%C2%85"):
        async with wire(gateway) as connection:
            connection.write(request(f"/archive?ids=a&name=x{breaking}Set-Cookie:%20y=1"))
            _, lines, body = await connection.answer()
            assert not any(line.lower().startswith(b"set-cookie") for line in lines)
            [disposition] = [line for line in lines if line.startswith(b"Content-Disposition")]
            assert not set(disposition) & {10, 13, 0x85}
            assert len(body) == SIZE


async def test_several_range_lines_are_several_ranges(gateway, whole):
    for first, second in (("bytes=0-0", "bytes=5-9"), ("bytes=0-0", "bytes=0-0")):
        lines = f"Range: {first}\r\nRange: {second}\r\nConnection: close\r\n\r\n".encode()
        answer = await raw(gateway.port, request().removesuffix(b"\r\n") + lines)
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert body == whole


def padded_request(length, field=""):
    """A request whose request line, or header line, has `length` bytes with CRLF."""
    lines = {"line": "GET /archive?ids=a&pad={} HTTP/1.1\r\n", "field": "X-Pad: {}\r\n"}
    long = lines["field" if field else "line"]
    long = long.format("x" * (length - len(long) + 2))
    assert len(long) == length
    begin = "GET /archive?ids=a HTTP/1.1\r\n" if field else ""
    return f"{begin}{long}Host: x\r\nConnection: close\r\n\r\n".encode()


@pytest.mark.parametrize("field", ["", "X-Pad"])
async def test_lines_of_32_kib_are_taken(gateway, whole, field):
    answer = await raw(gateway.port, padded_request(32 * 1024, field))
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(whole)


CONFIG = """
[catalog]
kind = "template"
url = "http://127.0.0.1:9/{id}"
[upstream]
allow = ["http://127.0.0.1:9"]
"""


async def test_what_is_not_http_is_a_plain_400_without_a_traceback(tmp_path):
    with process(tmp_path, CONFIG) as gateway:
        for broken in (
            padded_request(40 * 1024),
            padded_request(40 * 1024, "X-Pad"),
            b"GET /archive?ids=a HTTP/1.1\r\nX-Folded: a\r\n b\r\n\r\n",
            b"GET /healthz HTTP/1.1\r\n\r\n",  # without Host
            b"POST /archive HTTP/1.1\r\nHost: x\r\nContent-Length: 1, 2\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"POST /archive HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            b"nonsense\r\n\r\n",
        ):
            answer = await raw(gateway.port, broken)
            head, _, _ = answer.partition(b"\r\n\r\n")
            assert head.split(b" ")[1] == b"400", broken[:80]
            assert b"Server: tarstream" in head.split(b"\r\n"), broken[:80]
        assert (await raw(gateway.port, b"GET /healthz HTTP/1.0\r\n\r\n")).endswith(b"ok\n")
        gateway.stop()
        assert "not HTTP" in gateway.log
        assert "Traceback" not in gateway.log
