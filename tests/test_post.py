"""POST: the same parameters as JSON or as a form, for lists that outgrow a URL."""

import asyncio
import gzip
import io
import json
from urllib.parse import quote, urlencode

import pytest
from gateway import raw
from yarl import URL

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
NDJSON = "application/x-ndjson"
MAX_BODY = 8 * 1024**2


@pytest.fixture
async def gateway(origin, start):
    for id_ in ("a", "b", "c,d", "ü+ &="):
        origin.add(f"/{id_}", b"content of " + id_.encode())
    return await start(origin)


async def ask(client, url, **options):
    method = "POST" if "data" in options else "GET"
    async with client.request(method, URL(url, encoded=True), **options) as response:
        return response.status, response.headers, await response.read()


async def post(client, gateway, body, kind=JSON, query="", route="/archive", **headers):
    """POST a body: bytes as they are, anything else as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    url = f"http://127.0.0.1:{gateway.port}{route}{query}"
    return await ask(client, url, data=data, headers={"Content-Type": kind, **headers})


def form(*fields):
    return urlencode(fields).encode()


IDS = ["b", "c,d", "ü+ &=", "a", "a"]


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (JSON, json.dumps({"ids": IDS}).encode()),
        (JSON, json.dumps({"ids": IDS}, ensure_ascii=False).encode()),
        ("Application/JSON; charset=utf-8", json.dumps({"ids": IDS, "later": {"x": 1}}).encode()),
        (JSON, b'{"id": "b", "id": "c,d", "ids": ["\\u00fc+ &="], "ids": ["a", "a"]}'),
        (FORM, form(*(("id", id_) for id_ in IDS))),
        (FORM, form(("ids", "b"), ("id", "c,d"), ("id", "ü+ &="), ("ids", "a,a"))),
        (f"{FORM}; charset=utf-8", b"id=b&id=c%2Cd&id=%C3%BC%2B+%26%3D&ids=a%2Ca"),
    ],
)
async def test_it_is_the_archive_that_get_gives(client, gateway, kind, body):
    status, headers, content = await post(client, gateway, body, kind)
    expected_status, expected_headers, expected = await ask(client, gateway.url(IDS))
    assert (status, content) == (expected_status, expected) == (200, expected)
    varying = {"date", "x-request-id"}
    assert {k.lower(): v for k, v in headers.items() if k.lower() not in varying} == {
        k.lower(): v for k, v in expected_headers.items() if k.lower() not in varying
    }


@pytest.mark.parametrize("kind", [JSON, FORM])
async def test_all_parameters_may_stand_in_the_body(client, gateway, kind):
    etag = (await ask(client, gateway.url(["a"])))[1]["ETag"].strip('"')
    fields = {"format": "tar", "name": "Zü", "missing": "fail", "version": etag}
    body = {"ids": ["a"], **fields} if kind == JSON else form(("ids", "a"), *fields.items())
    status, headers, _ = await post(client, gateway, body, kind)
    assert status == 200
    assert "UTF-8''Z%C3%BC.tar" in headers["Content-Disposition"]
    body = {"ids": ["a"], "version": "x"} if kind == JSON else form(("ids", "a"), ("version", "x"))
    assert (await post(client, gateway, body, kind))[0] == 409


@pytest.mark.parametrize("kind", [JSON, FORM])
async def test_query_and_body_are_read_together_the_query_first(client, gateway, kind):
    body = {"ids": ["b"]} if kind == JSON else b"ids=b"
    query = f"?ids=a&id={quote('c,d')}&name=both"
    status, headers, content = await post(client, gateway, body, kind, query)
    assert status == 200
    assert content == (await ask(client, gateway.url(["a", "c,d", "b"])))[2]
    assert "both.tar" in headers["Content-Disposition"]


@pytest.mark.parametrize("kind", [JSON, FORM])
async def test_a_parameter_in_both_query_and_body_is_given_twice(client, gateway, kind):
    body = {"ids": ["b"], "name": "x"} if kind == JSON else b"ids=b&name=x"
    assert (await post(client, gateway, body, kind, "?name=x"))[0] == 400


async def test_an_empty_body_leaves_the_query(client, gateway):
    assert (await post(client, gateway, b"", FORM, "?ids=a"))[0] == 200
    assert (await post(client, gateway, b"{}", JSON, "?ids=a"))[0] == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'["a"]',
        b'"a"',
        b"null",
        b"{}",
        b'{"ids": []}',
        b'{"ids": "a"}',
        b'{"ids": {"a": 1}}',
        b'{"ids": null}',
        b'{"ids": [1]}',
        b'{"ids": [null]}',
        b'{"ids": [["a"]]}',
        b'{"ids": [""]}',
        b'{"ids": ["a", ""]}',
        b'{"ids": ["a"]} x',
        b'{"ids": ["a"], "name": 1}',
        b'{"ids": ["a"], "name": "x", "name": "y"}',
        b'{"ids": ["a"], "format": "nosuch"}',
        b'{"ids": ["a"], "missing": true}',
        b'{"ids": ["\\ud800"]}',
        b'{"ids": ["a"], "x": NaN}',
        b'{"ids": ["\xff"]}',
        '{"ids": ["a"]}'.encode("utf-16"),
        b"[" * 100_000,
        b'{"a":' * 100_000,
    ],
    ids=lambda body: repr(body[:30]),
)
async def test_json_that_is_not_understood_is_400(client, gateway, body):
    status, headers, content = await post(client, gateway, body)
    assert status == 400
    assert headers["Content-Type"] == "application/problem+json"
    assert json.loads(content)["status"] == 400


@pytest.mark.parametrize("body", [b"", b"ids=", b"ids=a,,b", b"id=%FF", b"id=\xff", b"ids=a&name="])
async def test_a_form_that_is_not_understood_is_400(client, gateway, body):
    assert (await post(client, gateway, body, FORM))[0] == 400


@pytest.mark.parametrize("route", ["/archive", "/plan"])
@pytest.mark.parametrize(
    "kind", ["text/plain", "multipart/form-data; boundary=x", "text/json", "*/*"]
)
async def test_another_kind_of_body_is_415(client, gateway, kind, route):
    status, headers, _ = await post(client, gateway, {"ids": ["a"]}, kind, route=route)
    assert status == 415
    assert headers["Content-Type"] == "application/problem+json"


async def test_a_body_without_a_kind_is_415(gateway):
    ask_ = (
        b"POST /archive?ids=a HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    )
    assert (await raw(gateway.port, ask_)).startswith(b"HTTP/1.1 415 ")


@pytest.mark.parametrize("coding", ["gzip", "br", "identity"])
async def test_a_coded_body_is_415_and_is_not_decoded(client, gateway, coding):
    for body in (gzip.compress(b'{"ids": ["a"]}'), b"not gzip at all"):
        status, _, _ = await post(client, gateway, body, **{"Content-Encoding": coding})
        assert status == 415


def padded(length):
    body = json.dumps({"ids": ["a"]}).encode()
    return body + b" " * (length - len(body))


async def chunks_of(body):
    for start in range(0, len(body), 1 << 20):
        yield body[start : start + (1 << 20)]


async def test_a_body_of_8_mib_is_taken_and_a_longer_one_is_413(client, gateway):
    url = f"http://127.0.0.1:{gateway.port}/archive"
    for length, expected in ((MAX_BODY, 200), (MAX_BODY + 1, 413)):
        body = padded(length)
        for data in (io.BytesIO(body), chunks_of(body)):  # with Content-Length, and chunked
            status, _, content = await ask(client, url, data=data, headers={"Content-Type": JSON})
            assert status == expected
    assert str(MAX_BODY) in json.loads(content)["detail"]


UNFINISHED = (
    b"POST /archive HTTP/1.1\r\nHost: x\r\n"
    b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
)


async def test_a_body_that_does_not_arrive_is_408(origin, start):
    gateway = await start(origin, limits={"stall_timeout": 0.2})
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(UNFINISHED)
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    assert head.startswith(b"HTTP/1.1 408 ")
    assert b"\r\nConnection: close\r\n" in head  # RFC 9110 15.5.9
    writer.close()


async def test_a_client_that_leaves_within_its_body_is_no_error(gateway, caplog, origin):
    before = len(asyncio.all_tasks())
    _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(UNFINISHED)
    await origin.until(lambda: len(asyncio.all_tasks()) > before + 1)
    writer.transport.abort()
    await origin.until(lambda: len(asyncio.all_tasks()) == before)
    assert not [record for record in caplog.records if record.levelname in {"ERROR", "WARNING"}]


@pytest.mark.parametrize(
    "headers",
    [
        {"Range": "bytes=0-0"},
        {"Range": "bytes=99999999-"},
        {"If-None-Match": "*"},
        {"If-Match": '"x"'},
        {"Range": "bytes=0-0", "If-Range": '"x"'},
    ],
)
async def test_range_and_conditions_are_gets(client, gateway, headers):
    status, answered, content = await post(client, gateway, {"ids": ["a"]}, **headers)
    assert status == 200
    assert "Content-Range" not in answered
    assert content == (await ask(client, gateway.url(["a"])))[2]


@pytest.mark.parametrize("kind", [JSON, FORM])
async def test_plan_takes_the_same(client, gateway, kind):
    body = {"ids": IDS} if kind == JSON else form(*(("id", id_) for id_ in IDS))
    status, _, content = await post(client, gateway, body, kind, route="/plan")
    assert status == 200
    plan = json.loads(content)
    assert [member["id"] for member in plan["members"]] == IDS
    assert content == (await ask(client, gateway.url(IDS, "/plan")))[2]
    _, _, content = await post(client, gateway, body, kind, route="/plan", Accept=NDJSON)
    assert [json.loads(line) for line in content.splitlines()] == plan["members"]


@pytest.mark.parametrize("kind", [JSON, FORM])
async def test_thousands_of_ids_are_taken(client, origin, start, kind):
    ids = [f"{n:036}" for n in range(9000)]
    entries = [
        {"id": id_, "url": f"{origin.root}/{id_}", "size": 0, "mtime": 1, "etag": '"1"'}
        for id_ in ids
    ]
    gateway = await start(origin, entries)
    body = {"ids": ids} if kind == JSON else form(("ids", ",".join(ids)))
    status, _, content = await post(client, gateway, body, kind)
    assert status == 200
    assert len(content) == 9000 * 512 + 1024
    assert content[: 9000 * 512 : 512] == b"0" * 9000  # each header begins with its name
    status, _, content = await post(client, gateway, body, kind, route="/plan")
    plan = json.loads(content)
    assert [member["id"] for member in plan["members"]] == ids
    assert plan["url"] is None
    too_many = {"ids": ids * 2} if kind == JSON else form(("ids", ",".join(ids * 2)))
    assert (await post(client, gateway, too_many, kind))[0] == 413
    assert origin.requests == []
