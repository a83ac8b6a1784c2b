"""Requests of every kind of nonsense on real sockets: an honest answer or none, and never a 500."""

import json
import re
import socket

import pytest
from documented import judge, read_answer
from gateway import process, write_catalog
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from origin import Made, Origin

OVER_HTTP = settings(
    deadline=None, max_examples=500, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
SECONDS = 60  # for an answer; far more than any takes


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    """A real process, which has answered well and logged no failure when all is over."""
    directory = tmp_path_factory.mktemp("fuzz")
    with Origin().in_thread() as origin:
        objects = {"a": b"hello", "b": Made(3000), "a,b": b"", "é": b"x" * 512}
        entries = [{"id": id_, "url": origin.add(f"/{id_}", it)} for id_, it in objects.items()]
        catalog = write_catalog(directory / "catalog.jsonl", entries)
        config = f"""
[catalog]
kind = "file"
path = "{catalog}"
[upstream]
allow = ["{origin.root}"]
"""
        with process(directory, config) as gateway:
            yield gateway
            answer = asked(
                gateway.port, b"GET /archive?ids=a,b HTTP/1.1\r\nHost: x\r\n", None, "GET"
            )
            assert answer.status == 200
            assert gateway.popen.poll() is None
            assert "Traceback" not in gateway.log
            assert "status=500" not in gateway.log
            assert gateway.stop() == 0
            assert "Traceback" not in gateway.log


class Document(dict):
    """Too long to be shown with each failure."""

    def __repr__(self):
        return "Document(…)"


@pytest.fixture(scope="module")
def document(gateway):
    answer = asked(gateway.port, b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n", None, "GET")
    return Document(json.loads(answer.body))


def exchange(port, sent, *, half_close):
    """Send, and take all that comes until the other side closes."""
    received = bytearray()
    with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as client:
        try:
            client.sendall(sent)
            if half_close:
                client.shutdown(socket.SHUT_WR)
            while chunk := client.recv(1 << 16):
                received += chunk
        except ConnectionError:
            pass  # it may close while there is more to say
    return bytes(received)


def asked(port, head, body, method):
    """The answer to a whole request."""
    sent = head + b"Connection: close\r\n"
    if body is not None:
        sent += b"Content-Length: %d\r\n" % len(body)
    received = exchange(port, sent + b"\r\n" + (body or b""), half_close=False)
    return read_answer(method, received)


def statuses(received):
    """Of all answers in what came; aiohttp's 400 quotes what it did not understand."""
    return [int(found) for found in re.findall(rb"HTTP/1\.[01] ([1-5][0-9]{2}) [A-Z]", received)]


# Bytes that are hardly a request

PIECES = st.sampled_from(
    [
        b"GET ", b"POST ", b"HEAD ", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"CONNECT x:1 ",
        b"/archive?ids=a", b"/plan?ids=a", b"/openapi.json", b"http://h/archive?ids=a", b"*", b"//",
        b"/../", b"?", b"#", b" HTTP/1.1", b" HTTP/1.0", b" HTTP/0.9", b" HTTP/9.9", b"\r\n", b"\n",
        b"\r", b"\r\n\r\n", b" ", b"\t", b"\0", b"\xff", b"\xc3\xa9", b"Host: x\r\n", b"Host: \r\n",
        b": ", b":", b"Range: bytes=0-\r\n", b"Content-Length: 5\r\n", b"Content-Length: -1\r\n",
        b"Content-Length: 99999999999999999999\r\n", b"Transfer-Encoding: chunked\r\n",
        b"5\r\nhello\r\n0\r\n\r\n", b"FFFFFFFFFFFFFFFFF\r\n", b"{}",
        b"Content-Type: application/json\r\n", b"Expect: 100-continue\r\n",
        b"Upgrade: websocket\r\n", b"Connection: upgrade\r\n", b"Connection: close\r\n",
        b"x" * 9000, b"\x16\x03\x01\x02\x00\x01",
    ]
)  # fmt: skip


@OVER_HTTP
@given(st.lists(PIECES | st.binary(max_size=6), max_size=16).map(b"".join))
@example(b"GET /archive?ids=a HTTP/1.1\r\nHost: x\r\n\r\n" * 5)
@example(b"POST /archive HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{")
def test_bytes_that_are_hardly_a_request(gateway, sent):
    for status in statuses(exchange(gateway.port, sent, half_close=True)):
        assert status in {200, 206, 304, 400, 404, 405, 411, 412, 413, 414, 415, 416, 417, 431, 505}


# Requests that are well-formed, and strange in what they say

VISIBLE = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=8)
ENCODED = st.binary(max_size=4).map(lambda data: "".join(f"%{byte:02X}" for byte in data))
MORE = st.lists(
    st.sampled_from(
        [
            "ids=a", "ids=a,b", "id=a%2Cb", "ids=%C3%A9", "ids=", "id", "&", "=", "missing=skip",
            "missing=", "format=tar", "format=zip", "name=x", "name=%0D%0ASet-Cookie:%20x",
            "checksums=sha256", "checksums=", "checksums=md5",
            "name=%00", "name=..", "version=x", "exp=1", "key=k", "sig=x", "ids=%FF", "ids=a" * 9,
            "ids=" + "a," * 2000 + "a",
        ]
    )
    | VISIBLE
    | ENCODED,
    max_size=3,
).map("&".join).map(lambda query: query.replace("#", ""))  # fmt: skip
# Most begin well, so that what follows is met by more than a refusal.
QUERIES = st.builds("{}&{}".format, st.sampled_from(["", "ids=a", "id=a%2Cb", "ids=a,b"]), MORE)
FIELDS = st.sampled_from(
    [
        "Range", "If-Range", "If-Match", "If-None-Match", "If-Modified-Since", "Accept",
        "Accept-Encoding", "Authorization", "Cookie", "X-Request-Id", "X-Forwarded-For",
        "Forwarded", "Content-Type", "Content-Encoding", "Origin", "Expect-CT", "TE", "Via",
        "Max-Forwards", "X",
    ]
)  # fmt: skip
VALUES = (
    st.sampled_from(
        [
            "bytes=0-0", "bytes=-5", "bytes=5-2", "bytes=99999-", "bytes=0-1,3-4", "*", '"x"',
            'W/"x"', '"', "application/x-ndjson", "application/x-ndjson;q=0", "application/json",
            "*/*;q=", "gzip", "bytes", "application/x-www-form-urlencoded", "multipart/form-data",
            "Bearer x", "::1, 1.2.3.4", ",", ";",
        ]
    )
    | st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=12)
    | st.text(st.characters(min_codepoint=0x80, max_codepoint=0xFF), max_size=4)
)  # fmt: skip
LIKELY = st.sampled_from(
    [
        ("Range", "bytes=0-0"), ("Range", "bytes=99999-"), ("If-None-Match", "*"),
        ("If-Match", '"x"'), ("Accept", "application/x-ndjson"),
        ("Content-Type", "application/json"), ("Content-Type", "application/x-www-form-urlencoded"),
    ]
)  # fmt: skip
HEADERS = st.lists(LIKELY | st.tuples(FIELDS, VALUES), max_size=4)
METHODS = st.sampled_from([*["GET"] * 6, *["HEAD", "POST"] * 2, "PUT", "DELETE", "OPTIONS"])
PATHS = st.sampled_from([*["/archive"] * 5, *["/plan"] * 3, "/healthz", "/readyz", "/openapi.json"])
BODIES = st.sampled_from(
    [
        b"{}",
        b'{"ids": ["a"]}',
        b'{"ids": "a"}',
        b'{"ids": [1]}',
        b"ids=a,b",
        b"ids=%FF",
        b"[",
        b"\xff",
        b"\0",
    ]
) | st.binary(min_size=1, max_size=9)


def head_of(method, path, query, headers, version="1.1"):
    lines = [f"{method} {path}{'?' if query else ''}{query} HTTP/{version}", "Host: x"]
    lines += [f"{name}: {value}" for name, value in headers]
    return "".join(f"{line}\r\n" for line in lines).encode("latin-1")


@OVER_HTTP
@given(METHODS, PATHS, QUERIES, HEADERS, st.sampled_from(["1.1", "1.1", "1.0"]), st.none() | BODIES)
def test_whatever_is_asked_the_answer_is_documented(
    gateway, document, method, path, query, headers, version, body
):
    """A status that the OpenAPI document lists, with headers and a body that look like it says."""
    head = head_of(method, path, query, headers, version)
    answer = asked(gateway.port, head, body, method)
    if answer.status == 400 and answer.headers.get_content_type() == "text/plain":
        return  # aiohttp's own, to what it cannot parse
    judge(document, path, answer)


@OVER_HTTP
@given(METHODS, st.text("/abc.%2Fe;_~:@é\\", max_size=12), QUERIES)
def test_no_other_path_leads_anywhere(gateway, method, path, query):
    target = "/" + path.lstrip("/")
    answer = asked(gateway.port, head_of(method, target, query, []), None, method)
    assert answer.status in {400, 404, 405}
