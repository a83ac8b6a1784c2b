"""The origin is honest when it should be, and each of its faults happens on the wire."""

import asyncio
import contextlib
import gzip
import http.client
import inspect
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

import faults
import pytest
from faults import Fault
from made import Made
from origin import Object, Origin

CONTENT = Made(300_000).read()  # more than one piece
N = len(CONTENT)
TAG = Object(CONTENT).etag
OTHER = Object(CONTENT[::-1] + b"longer")
DATE = Object(CONTENT).modified
LATER, EARLIER = "Thu, 01 Jan 2015 00:00:00 GMT", "Sat, 01 Jan 2000 00:00:00 GMT"


@dataclass
class Reply:
    """All that came, how it ended, and how many seconds that took."""

    raw: bytes
    end: str
    seconds: float

    @property
    def head(self) -> bytes:
        return self.raw.partition(b"\r\n\r\n")[0]

    @property
    def body(self) -> bytes:
        return self.raw.partition(b"\r\n\r\n")[2]

    @property
    def status(self) -> int:
        found = self.head.split(b" ")
        return int(found[1]) if found[0] == b"HTTP/1.1" else 0

    def __getitem__(self, name: str) -> str | None:
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        found = [line.partition(": ")[2] for line in lines if line.lower().startswith(f"{name}:")]
        return ", ".join(found) if found else None


def connect(origin: Origin) -> socket.socket:
    return socket.create_connection(("127.0.0.1", origin.port), timeout=10)


def ask(origin: Origin, path: str = "/a", *, method: str = "GET", **headers: str) -> Reply:
    """Ask once, over a connection that the origin is to close, and read to its end."""
    fields = {"connection": "close"} | {key.replace("_", "-"): headers[key] for key in headers}
    lines = [f"{method} {path} HTTP/1.1", *(f"{key}: {fields[key]}" for key in fields)]
    began, raw, end = time.monotonic(), bytearray(), "fin"
    with connect(origin) as sock:
        sock.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
        try:
            while chunk := sock.recv(1 << 20):
                raw += chunk
        except ConnectionResetError:
            end = "rst"
    return Reply(bytes(raw), end, time.monotonic() - began)


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin().in_thread() as origin:
        origin.add("/a", CONTENT)
        yield origin


@pytest.mark.parametrize(
    ("value", "status", "span"),
    [
        ("bytes=0-0", 206, (0, 1)),
        ("bytes=1-5", 206, (1, 6)),
        ("Bytes=270000-", 206, (270_000, N)),
        ("bytes=-7", 206, (N - 7, N)),
        (f"bytes=-{N + 1}", 206, (0, N)),
        (f"bytes=0-{10**30}", 206, (0, N)),
        (f"bytes={N - 1}-{N - 1}", 206, (N - 1, N)),
        (f"bytes={N}-", 416, None),
        ("bytes=-0", 416, None),
        ("bytes=5-2", 200, (0, N)),  # RFC 9110 14.1.1: invalid, hence ignored
        ("bytes=-", 200, (0, N)),
        ("bytes=0-0,2-3", 200, (0, N)),
        ("bytes=\u00b2-", 200, (0, N)),
        ("lines=0-1", 200, (0, N)),
    ],
)
def test_a_range_is_answered_as_rfc_9110_says(origin, value, status, span):
    reply = ask(origin, range=value)
    assert (reply.status, reply.end) == (status, "fin")
    if span is None:
        assert reply["content-range"] == f"bytes */{N}"
        return
    start, stop = span
    assert reply.body == CONTENT[start:stop]
    assert reply["content-length"] == str(stop - start)
    assert reply["content-range"] == (f"bytes {start}-{stop - 1}/{N}" if status == 206 else None)
    assert (reply["etag"], reply["last-modified"]) == (TAG, DATE)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"if_match": TAG}, 200),
        ({"if_match": f'"other", {TAG}'}, 200),
        ({"if_match": "*"}, 200),
        ({"if_match": f"W/{TAG}"}, 412),
        ({"if_match": '"other"', "range": "bytes=0-0"}, 412),
        ({"if_unmodified_since": DATE}, 200),
        ({"if_unmodified_since": EARLIER}, 412),
        ({"if_unmodified_since": EARLIER, "if_match": TAG}, 200),
        ({"if_none_match": TAG}, 304),
        ({"if_none_match": f"W/{TAG}"}, 304),
        ({"if_none_match": '"other"', "if_modified_since": LATER}, 200),
        ({"if_modified_since": DATE}, 304),
        ({"if_modified_since": EARLIER}, 200),
        ({"if_range": TAG, "range": "bytes=0-0"}, 206),
        ({"if_range": DATE, "range": "bytes=0-0"}, 206),
        ({"if_range": f"W/{TAG}", "range": "bytes=0-0"}, 200),
        ({"if_range": LATER, "range": "bytes=0-0"}, 200),
        ({"if_range": '"other"', "range": f"bytes={N}-"}, 200),
    ],
)
def test_conditions_are_evaluated_as_rfc_9110_says(origin, headers, status):
    reply = ask(origin, **headers)
    assert reply.status == status
    assert reply.body == {200: CONTENT, 206: CONTENT[:1], 304: b""}.get(status, reply.body)


def test_a_weak_entity_tag_proves_nothing(origin):
    origin.add("/weak", Object(CONTENT, etag='W/"x"'))
    assert ask(origin, "/weak", if_match='W/"x"').status == 412
    assert ask(origin, "/weak", if_range='W/"x"', range="bytes=0-0").status == 200
    assert ask(origin, "/weak", if_none_match='"x"').status == 304


def test_head_has_the_headers_of_get_and_no_body(origin):
    get, head = ask(origin), ask(origin, method="HEAD", range="bytes=0-0")
    assert head.status == 200
    assert head.body == b""
    assert (head["content-length"], head["etag"]) == (str(N), TAG)
    assert get.body == CONTENT
    assert [request.sent for request in origin.requests] == [N, 0]


def test_what_is_not_there_is_404_and_other_methods_are_405(origin):
    assert ask(origin, "/b").status == 404
    assert ask(origin, method="POST")["allow"] == "GET, HEAD"


def test_connections_are_kept_and_requests_are_recorded(origin):
    url = urlsplit(origin.add("/dir/\u00e9 x", b"small"))
    client = http.client.HTTPConnection(url.netloc)
    with contextlib.closing(client):
        for _ in range(3):
            client.request("GET", f"{url.path}?q=1", headers={"X-Who": "me"})
            assert client.getresponse().read() == b"small"
        assert origin.connections == origin.open_connections == 1
    origin.wait(lambda: origin.open_connections == 0)
    first, *_, last = origin.asked("/dir/\u00e9 x")
    assert len(origin.requests) == 3
    assert (last.target, last.headers["x-who"]) == ("/dir/%C3%A9%20x?q=1", "me")
    assert (last.status, last.sent, last.finished, last.connection) == (200, 5, True, 0)
    assert first.opened <= last.opened
    assert (origin.in_flight, origin.most_in_flight) == (0, 1)


@pytest.mark.parametrize("keep", [True, False])
def test_http_1_0_is_kept_open_only_when_asked(origin, keep):
    with connect(origin) as sock:
        sock.sendall(b"GET /b HTTP/1.0\r\n" + b"Connection: keep-alive\r\n" * keep + b"\r\n")
        assert (b"Connection: keep-alive" if keep else b"Connection: close") in sock.recv(4096)
        if not keep:
            assert sock.recv(1) == b""


def test_head_and_small_content_leave_in_one_write(origin):
    origin.add("/small", b"small")
    with connect(origin) as sock:
        sock.sendall(b"GET /small HTTP/1.1\r\n\r\n")
        assert sock.recv(4096).endswith(b"\r\n\r\nsmall")


def framed(*contents: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in contents)


RANGE = {"range": "bytes=10-19"}
CUT = 270_000

# A fault, the headers of a request that it strikes, and what is true of that answer alone.
FAULTS = [
    (faults.late(1), {}, lambda r: r.seconds >= 1),
    (faults.hang_up(), {}, lambda r: (r.raw, r.end) == (b"", "fin")),
    (faults.hang_up(rst=True), {}, lambda r: (r.raw, r.end) == (b"", "rst")),
    (faults.informational(500), {}, lambda r: r.raw.count(b"HTTP/1.1 103 Early Hints\r\n") == 500),
    (faults.torn_head(20), {}, lambda r: r.raw == b"HTTP/1.1 200 OK\r\nDat"),
    (faults.fin(at=CUT), {}, lambda r: (r.body, r.end) == (CONTENT[:CUT], "fin")),
    (faults.fin(at=15), RANGE, lambda r: r.body == CONTENT[10:15]),
    (faults.fin(after=3), RANGE, lambda r: r.body == CONTENT[10:13]),
    (faults.fin(), {}, lambda r: (r.status, r.body) == (200, b"")),
    (faults.rst(at=CUT), {}, lambda r: (r.body, r.end) == (CONTENT[:CUT], "rst")),
    (faults.rst(at=0), {}, lambda r: (r.status, r.body, r.end) == (200, b"", "rst")),
    (faults.rst(at=N), {}, lambda r: (r.body, r.end) == (CONTENT, "rst")),
    (faults.stall(1, at=CUT), {}, lambda r: r.body == CONTENT and r.seconds >= 1),
    (faults.drip(0.1, at=N - 10), {}, lambda r: r.body == CONTENT and r.seconds >= 1),
    (faults.corrupt(at=CUT), {}, lambda r: [r.body[CUT] ^ CONTENT[CUT], len(r.body)] == [255, N]),
    (faults.becomes(OTHER), {}, lambda r: (r.body, r["etag"]) == (OTHER.content, OTHER.etag)),
    (faults.ignores("Range"), RANGE, lambda r: (r.status, r.body) == (200, CONTENT)),
    (faults.ignores("If-Match"), {"if_match": '"x"'}, lambda r: r.status == 200),
    (faults.status(503), {}, lambda r: (r.status, r["etag"]) == (503, None)),
    (faults.status(429, retry_after="7"), {}, lambda r: (r.status, r["retry-after"]) == (429, "7")),
    (faults.redirect("/b"), {}, lambda r: (r.status, r["location"]) == (302, "/b")),
    (
        faults.unsatisfiable(),
        RANGE,
        lambda r: (r.status, r["content-range"]) == (416, f"bytes */{N}"),
    ),
    (
        faults.multipart(),
        RANGE,
        lambda r: (
            r.body.endswith(b"-19/%d\r\n\r\n%b\r\n--part--\r\n" % (N, CONTENT[10:20]))
            and r["content-type"].startswith("multipart/byteranges")
        ),
    ),
    (
        faults.coded(),
        {},
        lambda r: r["content-encoding"] == "gzip" and gzip.decompress(r.body) == CONTENT,
    ),
    (faults.puts("ETag", '"x"'), {}, lambda r: r["etag"] == '"x"'),
    (faults.adds("ETag", '"x"'), {}, lambda r: r["etag"] == f'{TAG}, "x"'),
    (faults.adds("Set-Cookie", "a=b"), {}, lambda r: r["set-cookie"] == "a=b"),
    (
        faults.without("ETag", "Last-Modified", statuses={206}),
        RANGE,
        lambda r: (r.status, r["etag"], r["last-modified"]) == (206, None, None),
    ),
    (faults.weak_etag(), {}, lambda r: r["etag"] == f"W/{TAG}"),
    (faults.padded(100_000, lines=4), {}, lambda r: len(r.head) > 100_000),
    (faults.garbled(), {}, lambda r: r.raw.startswith(b"\x00\x80 nonsense\r\n")),
    (faults.misranged(first=1), RANGE, lambda r: r["content-range"] == f"bytes 11-19/{N}"),
    (faults.misranged(last=-1), RANGE, lambda r: r["content-range"] == f"bytes 10-18/{N}"),
    (faults.misranged(total=5), RANGE, lambda r: r["content-range"] == f"bytes 10-19/{N + 5}"),
    (faults.misranged(total=None), RANGE, lambda r: r["content-range"] == "bytes 10-19/*"),
    (
        faults.shifted(-1),
        RANGE,
        lambda r: (r["content-range"], r.body) == (f"bytes 9-18/{N}", CONTENT[9:19]),
    ),
    (
        faults.chunked(),
        RANGE,
        lambda r: r.body == framed(CONTENT[10:20]) + b"0\r\n\r\n" and not r["content-length"],
    ),
    (faults.chunked(last=False), RANGE, lambda r: r.body == framed(CONTENT[10:20])),
    (
        faults.broken_chunk(at=15),
        RANGE,
        lambda r: r.body.startswith(framed(CONTENT[10:15]) + b"zz\r\n"),
    ),
    (faults.close_delimited(), {}, lambda r: r.body == CONTENT and not r["content-length"]),
    (faults.length(by=-3), {}, lambda r: (r["content-length"], len(r.body)) == (str(N - 3), N)),
    (faults.length(by=3), {}, lambda r: (r["content-length"], len(r.body)) == (str(N + 3), N)),
    (faults.extra(b"more"), {}, lambda r: (r["content-length"], r.body[N:]) == (str(N), b"more")),
]


@pytest.mark.parametrize(
    ("fault", "headers", "is_struck"), FAULTS, ids=[fault.name for fault, _, _ in FAULTS]
)
def test_a_fault_happens_on_the_wire_once_and_then_no_more(origin, fault, headers, is_struck):
    origin.objects["/a"].faults.append(replace(fault, times=1))
    assert is_struck(ask(origin, **headers))
    assert not is_struck(ask(origin, **headers))
    assert origin.fired == {fault.name: 1}


def test_every_fault_has_a_case():
    made = inspect.getmembers(faults, inspect.isfunction)
    public = {name for name, it in made if it.__module__ == "faults" and not name.startswith("_")}
    assert public == {fault.name for fault, _, _ in FAULTS} | {"closes"}  # which has its own test


def test_a_close_that_is_not_announced_meets_the_next_request(origin):
    origin.faults.append(faults.closes())
    client = http.client.HTTPConnection("127.0.0.1", origin.port)
    with contextlib.closing(client):
        client.request("GET", "/a")
        response = client.getresponse()
        assert response.read() == CONTENT
        assert response.getheader("Connection") is None
        origin.wait(lambda: origin.open_connections == 0)
        assert client.sock.recv(1) == b""


@pytest.mark.parametrize(
    ("fault", "statuses"),
    [
        (faults.status(503), [503, 503, 503, 503]),
        (faults.status(503, times=2), [503, 503, 200, 200]),
        (faults.status(503, skip=1, times=2), [200, 503, 503, 200]),
        (faults.status(503, methods={"HEAD"}), [200, 200, 200, 200]),
        (faults.status(503, at=N - 1, skip=1), [200, 503, 503, 503]),
        (faults.status(503, at=N + 1), [200, 200, 200, 200]),
        (faults.status(503, statuses={206}), [200, 200, 200, 200]),
        (faults.status(503, when=lambda answer: answer.request.path == "/a"), [503] * 4),
    ],
)
def test_a_fault_strikes_only_what_it_says(origin, fault, statuses):
    origin.faults.append(fault)
    assert [ask(origin).status for _ in range(4)] == statuses
    assert origin.fired["status"] == statuses.count(503)


def test_a_byte_is_reached_only_by_ranges_that_hold_it(origin):
    origin.objects["/a"].faults.append(faults.fin(at=100))
    assert len(ask(origin, range="bytes=0-99").body) == 100
    assert len(ask(origin, range="bytes=0-100").body) == 100
    assert len(ask(origin, range="bytes=100-100").body) == 0
    assert len(ask(origin, range="bytes=101-").body) == N - 101
    assert origin.fired["fin"] == 2


def test_objects_count_for_themselves_and_the_origin_for_all(origin):
    fault = faults.status(503, times=1)
    origin.add("/a", CONTENT, fault)
    origin.add("/b", CONTENT, fault)
    assert [ask(origin, path).status for path in ("/a", "/b", "/a", "/b")] == [503, 503, 200, 200]
    origin.faults.append(fault)
    assert [ask(origin, path).status for path in ("/a", "/b")] == [503, 200]


def test_a_cut_that_is_not_reached_is_not_spent(origin):
    cuts = [faults.fin(at=20, times=1), faults.rst(at=10, times=1), faults.status(503, times=1)]
    origin.add("/a", CONTENT, *cuts)
    assert [len(ask(origin).body) for _ in range(4)] == [24, 10, 20, N]


def test_the_origin_refuses_and_accepts_on_the_same_port(origin):
    with connect(origin) as sock:
        port = origin.port
        origin.refuse()
        with pytest.raises(ConnectionRefusedError):
            connect(origin)
        sock.sendall(b"GET /a HTTP/1.1\r\n\r\n")
        assert sock.recv(8) == b"HTTP/1.1"
        origin.accept()
        assert origin.port == port
        assert ask(origin).body == CONTENT


def test_the_origin_resets_what_is_open(origin):
    with connect(origin) as sock:
        origin.wait(lambda: origin.open_connections == 1)
        origin.reset()
        with pytest.raises(ConnectionResetError):
            sock.recv(1)


def test_a_slow_client_is_waited_for_and_given_up(origin):
    origin.add("/big", Made(1 << 40))
    origin.send_buffer = 1 << 15
    with connect(origin) as sock:
        sock.sendall(b"GET /big HTTP/1.1\r\n\r\n")
        raw = bytearray()
        while len(raw) < 10_000_000:
            raw += sock.recv(1 << 16)
        _, _, content = raw.partition(b"\r\n\r\n")
        assert content == Made(1 << 40).read(0, len(content))
        assert origin.requests[0].sent < 40_000_000  # what loopback swallows, and no more
    origin.wait(lambda: origin.open_connections == 0)
    assert not origin.requests[0].finished
    origin.send_timeout = 0.2
    with connect(origin) as sock:
        sock.sendall(b"GET /big HTTP/1.1\r\n\r\n")
        origin.wait(lambda: origin.connections == 2 and origin.open_connections == 0)


async def test_what_stalls_is_released_and_counted():
    async with Origin() as origin:
        origin.add("/a", CONTENT, faults.stall(at=5))
        origin.add("/b", b"b", faults.late())
        streams = [await asyncio.open_connection("127.0.0.1", origin.port) for _ in range(3)]
        for (_, writer), path in zip(streams, ("/a", "/a", "/b"), strict=True):
            writer.write(f"GET {path} HTTP/1.1\r\n\r\n".encode())
        await origin.until(lambda: origin.stalled == 3)
        assert (origin.in_flight, origin.most_open_connections) == (3, 3)
        streams[1][1].close()  # a client that leaves is noticed while its answer stalls
        await streams[1][1].wait_closed()
        await origin.until(lambda: origin.open_connections == 2 == origin.stalled)
        head = await streams[0][0].readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK")
        assert await streams[0][0].readexactly(5) == CONTENT[:5]
        origin.release()
        assert await streams[0][0].readexactly(N - 5) == CONTENT[5:]
        assert (await streams[2][0].readuntil(b"\r\n\r\nb")).startswith(b"HTTP/1.1 200 OK")
        await origin.until(lambda: origin.in_flight == 0)
        assert [request.finished for request in origin.requests] == [True, False, True]
        for _, writer in streams:
            writer.close()


async def test_a_flood_that_never_ends_leaves_the_loop_alive():
    async with Origin(faults=[faults.informational()]) as origin:
        _, writer = await asyncio.open_connection("127.0.0.1", origin.port, limit=1 << 10)
        writer.write(b"GET /a HTTP/1.1\r\n\r\n")
        await origin.until(lambda: origin.in_flight == 1)
        writer.close()
        await writer.wait_closed()
        await origin.until(lambda: origin.open_connections == 0)


async def test_a_condition_that_does_not_come_true_is_an_error():
    async with Origin() as origin:
        with pytest.raises(TimeoutError, match="open=0 in_flight=0"):
            await origin.until(lambda: origin.requests, timeout=0.01)


async def test_a_mistake_in_a_fault_fails_the_test():
    origin = Origin(faults=[Fault("wrong", lambda *_: 1 // 0)])
    await origin.__aenter__()
    reader, writer = await asyncio.open_connection("127.0.0.1", origin.port)
    writer.write(b"GET /a HTTP/1.1\r\n\r\n")
    assert await reader.read() == b""
    writer.close()
    with pytest.raises(ExceptionGroup, match="the origin itself is wrong"):
        await origin.__aexit__()


async def test_an_origin_comes_back_on_its_port():
    origin = Origin({"/a": Object(CONTENT)})
    async with origin:
        port = origin.port
    async with origin:
        assert origin.port == port


def test_made_content_is_a_function_of_its_offset_and_has_no_period():
    made = Made(1_000_000)
    whole = made.read()
    for start, stop in [(0, 1), (65_535, 65_537), (1, 999_999), (999_999, 2_000_000), (7, 7)]:
        assert made.read(start, stop) == whole[start:stop]
    assert b"".join(made.pieces(3, 800_000)) == whole[3:800_000]
    sectors = [whole[start : start + 512] for start in range(0, len(whole), 512)]
    assert len(set(sectors)) == len(sectors)
    assert len({sector[:8] for sector in sectors}) == -(-len(whole) // 65_536)  # marks
    assert Made(1_000_000, seed=1).read(0, 100) != whole[:100]
    assert len(Made(1 << 40).read((1 << 40) - 5)) == 5
