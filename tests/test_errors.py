"""Errors before the first byte: each row of the contract's table, and their order."""

import asyncio
import contextlib
import json
import tarfile
from http import HTTPStatus
from io import BytesIO

import faults
import pytest
from answer import Object
from gateway import raw
from origin import Made
from yarl import URL


async def ask(client, url, method="GET", **options):
    """Status, headers and body of an answer."""
    async with client.request(method, URL(url, encoded=True), **options) as response:
        return response.status, response.headers, await response.read()


async def refusal(client, url, **options):
    """The problem that an answer is; each is held to RFC 9457 and to the contract here."""
    status, headers, body = await ask(client, url, **options)
    assert headers["Content-Type"] == "application/problem+json"
    assert headers["Cache-Control"] == "no-store"
    problem = json.loads(body)
    assert problem["status"] == status
    assert problem["title"] == HTTPStatus(status).phrase
    assert problem["type"] == "about:blank"
    assert problem["request_id"] == headers["X-Request-Id"]
    assert problem["detail"]
    assert problem.keys() <= {"type", "title", "status", "detail", "request_id", "ids"}
    for about in problem.get("ids", []):
        assert about.keys() == {"id", "reason"}
        assert about["reason"]
    return problem


def named(problem):
    return [about["id"] for about in problem.get("ids", [])]


def members(body):
    with tarfile.open(fileobj=BytesIO(body)) as tar:
        return {name: tar.extractfile(name).read() for name in tar.getnames()}


def entry(origin, id_, content=b"hello", **more):
    return {"id": id_, "url": origin.add(f"/{id_}", content), **more}


# 400


@pytest.mark.parametrize("route", ["/archive", "/plan"])
@pytest.mark.parametrize(
    "query",
    [
        "",
        "ids",
        "ids=",
        "id=",
        "ids=a,,b",
        "ids=a,",
        "ids=,a",
        "ids=a&id=",
        "ids=a%2C",
        "nosuch=1",
        "ids=a&format=nosuch",
        "ids=a&format=",
        "ids=a&format=TAR",
        "ids=a&missing=maybe",
        "ids=a&missing=",
        "ids=a&name=",
        "ids=a&version=",
        "ids=a&format=tar&format=tar",
        "ids=a&name=x&name=y",
        "ids=a&missing=fail&missing=skip",
        "ids=a&version=x&version=x",
        "ids=%FF",
        "ids=%C3",
        "ids=a&name=%ED%A0%80",
    ],
)
async def test_what_cannot_be_understood_is_400(client, origin, start, route, query):
    gateway = await start(origin)
    url = f"http://127.0.0.1:{gateway.port}{route}?{query}"
    assert (await refusal(client, url))["status"] == 400
    status, _, body = await ask(client, url, "HEAD")
    assert (status, body) == (400, b"")
    assert origin.requests == []


async def test_raw_bytes_that_are_not_utf_8_are_400(origin, start):
    gateway = await start(origin)
    answer = await raw(gateway.port, b"GET /archive?ids=\xff HTTP/1.0\r\n\r\n")
    assert answer.split(b" ")[1] == b"400"


async def test_unknown_parameters_are_ignored(client, origin, start):
    origin.add("/a", b"hello")
    gateway = await start(origin)
    url = gateway.url(["a"]) + "&nosuch=1&nosuch=2&ID=b"
    assert (await ask(client, url))[0] == 200


# 404, 403


async def test_all_unknown_ids_are_listed(client, origin, start):
    gateway = await start(origin, [entry(origin, "a")])
    problem = await refusal(client, gateway.url(["x", "a", "y", "ü,z"]))
    assert problem["status"] == 404
    assert named(problem) == ["x", "y", "ü,z"]
    assert origin.requests == []


@pytest.mark.parametrize("id_", ["../a", "b/../a", ".", "b/./a", "b//a", "/a", "a/", ".."])
async def test_an_id_that_climbs_is_unknown_to_a_template(client, origin, start, id_):
    origin.add("/a", b"hello")
    gateway = await start(origin)
    problem = await refusal(client, gateway.url(["a", id_]))
    assert (problem["status"], named(problem)) == (404, [id_])


async def test_all_ids_that_the_policy_forbids_are_listed(client, origin, start):
    outside = {
        "host": "http://files.example.com/a",
        "port": "http://127.0.0.1:1/a",
        "scheme": origin.root.replace("http", "https") + "/a",
        "userinfo": origin.root.replace("://", "://user:secret@") + "/a",
        "file": "file:///etc/passwd",
        "octal": origin.root.replace("127.0.0.1", "0177.0.0.1") + "/a",
    }
    entries = [{"id": id_, "url": url, "size": 5} for id_, url in outside.items()]
    gateway = await start(origin, [entry(origin, "a"), *entries])
    problem = await refusal(client, gateway.url(["a", *outside]))
    assert problem["status"] == 403
    assert named(problem) == list(outside)
    assert origin.requests == []
    for secret in ("example", "secret", "passwd", origin.root):
        assert secret not in json.dumps(problem)


async def test_a_redirect_to_what_the_policy_forbids_is_403(client, origin, start):
    origin.add("/a", b"", faults.redirect("http://files.example.com/CANARY?sig=CANARY"))
    problem = await refusal(client, (await start(origin)).url(["a"]))
    assert (problem["status"], named(problem)) == (403, ["a"])
    assert "CANARY" not in json.dumps(problem)


# 413


async def test_too_many_members_are_413_with_both_numbers(client, origin, start):
    origin.add("/a", b"hello")
    gateway = await start(origin, limits={"max_members": 3})
    assert (await ask(client, gateway.url(["a"] * 3)))[0] == 200
    problem = await refusal(client, gateway.url(["a"] * 4))
    assert problem["status"] == 413
    assert "4" in problem["detail"].split()
    assert "3" in problem["detail"].split()


@pytest.mark.parametrize("stated", [True, False])
async def test_too_many_bytes_are_413_with_both_numbers(client, origin, start, stated):
    more = [{"size": size} if stated else {} for size in (70, 30, 31)]
    entries = [
        entry(origin, id_, bytes(size), **each)
        for id_, size, each in zip("abc", (70, 30, 31), more, strict=True)
    ]
    gateway = await start(origin, entries, limits={"max_bytes": 100})
    assert (await ask(client, gateway.url(["a", "b"])))[0] == 200
    origin.requests.clear()
    problem = await refusal(client, gateway.url(["a", "c"]))
    assert problem["status"] == 413
    assert "101" in problem["detail"]
    assert "100" in problem["detail"]
    if stated:
        assert origin.requests == []  # no origin has to be asked to know it


# 502, 504


@pytest.mark.parametrize("method", ["HEAD", "GET"])
@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (faults.status(500), 502),
        (faults.status(503), 502),
        (faults.status(418), 502),
        (faults.status(429, retry_after="3600"), 502),
        (faults.status(404), 502),
        (faults.status(410), 502),
        (faults.hang_up(methods=("GET", "HEAD")), 502),
        (faults.hang_up(rst=True), 502),
        (faults.garbled(), 502),
        (faults.padded(), 502),
        (faults.torn_head(20), 502),
        (faults.coded(), 502),
        (faults.late(), 504),
    ],
    ids=lambda value: getattr(value, "name", None),
)
async def test_an_origin_that_fails_is_502_or_504_and_is_named(
    client, origin, start, fault, status, method
):
    """Whether it fails when it is asked what it has, or when the first member is opened."""
    good = {"size": 5, "mtime": 1, "etag": Object(b"hello").etag}
    entries = [entry(origin, "a", **(good if method == "GET" else {})), entry(origin, "b", **good)]
    origin.objects["/a"].faults.append(fault)
    upstream = {"attempts": 1, "read_timeout": 0.2 if status == 504 else 30}
    gateway = await start(origin, entries, upstream=upstream)
    problem = await refusal(client, gateway.url(["a", "b"]))
    assert (problem["status"], named(problem)) == (status, ["a"])


@pytest.mark.parametrize("status", [401, 403])
async def test_an_origin_that_refuses_is_502_and_is_named(client, origin, start, status):
    origin.add("/a", b"hello", faults.status(status))
    problem = await refusal(client, (await start(origin)).url(["a"]))
    assert (problem["status"], named(problem)) == (502, ["a"])


async def test_an_origin_that_says_no_length_is_502(client, origin, start):
    origin.add("/a", b"hello", faults.ignores("Range"), faults.chunked())
    problem = await refusal(client, (await start(origin)).url(["a"]))
    assert (problem["status"], named(problem)) == (502, ["a"])


async def test_redirects_without_end_are_502(client, origin, start):
    origin.add("/a", b"hello", faults.redirect("/a"))
    problem = await refusal(client, (await start(origin)).url(["a"]))
    assert (problem["status"], named(problem)) == (502, ["a"])


async def test_planning_that_takes_too_long_is_504(client, origin, start):
    """Not the first answer that is late, but all of them together."""
    for id_ in "ab":
        origin.add(f"/{id_}", b"hello", faults.late())
    gateway = await start(origin, upstream={"plan_timeout": 0.3})
    problem = await refusal(client, gateway.url(["a", "b"]))
    assert problem["status"] == 504
    assert "0.3" in problem["detail"]
    await origin.until(lambda: origin.in_flight == 0)


# 503


async def test_a_full_gateway_is_503_until_there_is_room(client, origin, start):
    origin.add("/slow", Made(100_000), faults.stall(at=50_000))
    origin.add("/a", b"hello")
    gateway = await start(origin, limits={"max_archives": 2})
    async with contextlib.AsyncExitStack() as downloads:
        for _ in range(2):
            url = URL(gateway.url(["slow"]), encoded=True)
            slow = await downloads.enter_async_context(client.get(url))
            assert slow.status == 200
        for url in (gateway.url(["a"]), gateway.url(["a"], "/plan"), gateway.url()):
            problem = await refusal(client, url)
            assert problem["status"] == 503
            status, headers, _ = await ask(client, url, "HEAD")
            assert status == 503
            assert headers["Retry-After"].isdigit()
        for route in ("/healthz", "/readyz"):
            assert (await ask(client, f"http://127.0.0.1:{gateway.port}{route}"))[0] == 200
        origin.release()
        assert len(await slow.read()) == 512 + 100_352 + 1024
        assert (await ask(client, gateway.url(["a"])))[0] == 200


async def test_what_fails_makes_room_again(client, origin, start):
    gateway = await start(origin, limits={"max_archives": 1}, upstream={"attempts": 1})
    origin.add("/a", b"hello", faults.status(500))
    for query in ("ids=a", "", "ids=a&version=x", "ids=../a", "ids=a", "ids=a"):
        problem = await refusal(client, f"http://127.0.0.1:{gateway.port}/archive?{query}")
        assert problem["status"] != 503


async def test_a_draining_gateway_is_503(client, origin, start):
    origin.add("/a", b"hello")
    gateway = await start(origin)
    base = f"http://127.0.0.1:{gateway.port}"
    await gateway.gateway.drain()
    for url in (gateway.url(["a"]), gateway.url(["a"], "/plan"), f"{base}/readyz"):
        assert (await refusal(client, url))["status"] == 503
        _, headers, _ = await ask(client, url)
        assert headers["Retry-After"].isdigit()
        assert headers["Connection"] == "close"
    assert (await ask(client, f"{base}/healthz"))[0] == 200


# Several at once


async def test_where_several_errors_apply_the_contract_says_which_is_told(client, origin, start):
    entries = [
        entry(origin, "forbidden") | {"url": "http://files.example.com/a"},
        entry(origin, "big", size=1000),
        entry(origin, "down"),
    ]
    origin.objects["/down"].faults.append(faults.status(500))
    gateway = await start(
        origin,
        entries,
        limits={"max_members": 4, "max_bytes": 100},
        upstream={"attempts": 1},
    )
    ids = ["down", "big", "forbidden", "nobody", "nobody"]
    for given, more, status, names in (
        (ids, {"format": "nosuch"}, 400, []),
        (ids, {}, 413, []),
        (ids[:4], {}, 404, ["nobody"]),
        (ids[:3], {}, 403, ["forbidden"]),
        (ids[:2], {}, 413, []),
        (ids[:1], {}, 502, ["down"]),
    ):
        problem = await refusal(client, gateway.url(given, **more))
        assert (problem["status"], named(problem)) == (status, names)
        if status != 502:
            assert origin.requests == []


async def test_an_origin_that_fails_comes_before_a_version_and_conditions(client, origin, start):
    origin.add("/a", b"hello", faults.status(500))
    gateway = await start(origin, upstream={"attempts": 1})
    problem = await refusal(
        client, gateway.url(["a"], version="x"), headers={"If-Match": '"x"', "Range": "bytes=-0"}
    )
    assert problem["status"] == 502


# What is remembered may be stale


async def test_what_changed_since_it_was_asked_about_is_planned_once_more(client, origin, start):
    origin.add("/a", b"before, and longer")
    gateway = await start(origin)
    _, before, _ = await ask(client, gateway.url(["a"]), "HEAD")
    origin.add("/a", b"after")
    origin.requests.clear()
    status, headers, body = await ask(client, gateway.url(["a"]))
    assert status == 200
    assert members(body) == {"a": b"after"}
    assert headers["ETag"] != before["ETag"]
    assert int(headers["Content-Length"]) == len(body)
    assert [(r.method, r.status) for r in origin.requests] == [
        ("GET", 412),
        ("HEAD", 200),
        ("GET", 200),
    ]


async def test_a_range_of_what_changed_is_not_given_to_who_names_the_former(client, origin, start):
    origin.add("/a", b"before")
    gateway = await start(origin)
    _, before, _ = await ask(client, gateway.url(["a"]), "HEAD")
    origin.add("/a", b"after!")
    asked = {"Range": "bytes=512-", "If-Range": before["ETag"]}
    status, _, body = await ask(client, gateway.url(["a"]), headers=asked)
    assert status == 200  # the whole, because the tag names another archive
    assert members(body) == {"a": b"after!"}


async def test_what_changes_all_the_time_is_503(client, origin, start):
    origin.add("/a", b"hello", faults.becomes(Object(b"other"), methods=("GET",)))
    gateway = await start(origin)
    problem = await refusal(client, gateway.url(["a"]))
    assert problem["status"] == 503
    status, headers, _ = await ask(client, gateway.url(["a"]))
    assert (status, headers["Retry-After"]) == (503, "1")
    # Each time it is planned twice, and nothing stale is left behind.
    assert len(origin.asked("/a", "HEAD")) == 4
    assert len(origin.asked("/a", "GET")) == 4


async def test_what_has_gone_since_it_was_asked_about_is_skipped_where_that_is_wanted(
    client, origin, start
):
    origin.add("/a", b"hello")
    origin.add("/b", b"hello")
    gateway = await start(origin)
    url = gateway.url(["a", "b"], missing="skip")
    assert (await ask(client, url, "HEAD"))[0] == 200
    del origin.objects["/a"]
    status, _, body = await ask(client, url)
    assert status == 200
    assert members(body).keys() == {"b", "MISSING.txt"}


async def test_what_has_gone_since_it_was_asked_about_is_502_otherwise(client, origin, start):
    origin.add("/a", b"hello")
    gateway = await start(origin)
    assert (await ask(client, gateway.url(["a"]), "HEAD"))[0] == 200
    del origin.objects["/a"]
    for method in ("GET", "HEAD"):  # the second one shows that it was forgotten
        status, _, body = await ask(client, gateway.url(["a"]), method)
        assert status == 502
        assert method == "HEAD" or named(json.loads(body)) == ["a"]


# The catalog is contradicted


@pytest.mark.parametrize("mtime", [{}, {"mtime": 1}])
@pytest.mark.parametrize("wrong", [{"size": 6}, {"etag": '"other"'}, {"size": 4}])
async def test_an_origin_that_contradicts_the_catalog_is_502_and_is_named(
    client, origin, start, wrong, mtime
):
    """With `mtime` nothing is left to ask for beforehand: it shows when the member is opened."""
    stated = {"size": 5, "etag": Object(b"hello").etag} | mtime | wrong
    gateway = await start(origin, [entry(origin, "b"), entry(origin, "a", **stated)])
    problem = await refusal(client, gateway.url(["a", "b"]))
    assert (problem["status"], named(problem)) == (502, ["a"])


async def test_a_contradiction_is_not_planned_again(client, origin, start):
    gateway = await start(origin, [entry(origin, "a", size=5, mtime=1, etag='"other"')])
    await refusal(client, gateway.url(["a"]))
    assert len(origin.requests) == 1


# Nothing that belongs to an origin leaks


@pytest.mark.parametrize(
    "fault",
    [
        faults.status(500),
        faults.status(404),
        faults.hang_up(),
        faults.garbled(b"HTTP/1.1 CANARY"),
        faults.redirect("http://CANARY.example.com/CANARY?CANARY"),
        faults.redirect("/CANARY?CANARY"),
        faults.redirect("http://[CANARY"),
        faults.coded(),
        faults.chunked(),
        faults.late(),
        faults.becomes(Object(b"longer than CANARY", '"CANARY"')),
        faults.misranged(total=1),
    ],
    ids=lambda fault: fault.name,
)
@pytest.mark.parametrize("size", [{}, {"size": 6}, {"size": 6, "mtime": 1, "etag": '"CANARY"'}])
async def test_no_error_holds_anything_of_an_origin(client, origin, start, fault, size):
    content = Object(b"CANARY", '"CANARY"', content_type="text/CANARY")
    path = "/CANARY-path"
    origin.add(path, content, faults.puts("X-Secret", "CANARY"), faults.ignores("Range"), fault)
    url = f"{origin.root}{path}?X-Amz-Signature=CANARY&token=CANARY"
    gateway = await start(
        origin,
        [{"id": "a", "url": url, "name": "a", **size}],
        upstream={"attempts": 1, "read_timeout": 0.2},
    )
    for route in ("/archive", "/plan"):
        status, headers, body = await ask(client, gateway.url(["a"], route))
        if status == 200:
            continue  # not every fault shows to every question
        told = f"{headers} {body.decode()}"
        for secret in ("CANARY", f":{origin.port}", "127.0.0.1", "Traceback", ".py", "aiohttp"):
            assert secret not in told.replace(f"127.0.0.1:{gateway.port}", "")


async def test_two_archives_at_once_do_not_share_their_errors(client, origin, start):
    """Their questions about one source are one question; the answers name each one's own id."""
    url = origin.add("/a", b"hello", faults.late(0.2), faults.status(500))
    entries = [{"id": id_, "url": url} for id_ in ("x", "y")]
    gateway = await start(origin, entries, upstream={"attempts": 1})
    one, other = await asyncio.gather(
        refusal(client, gateway.url(["x"])), refusal(client, gateway.url(["y"]))
    )
    assert (named(one), named(other)) == (["x"], ["y"])
    assert one["request_id"] != other["request_id"]
    assert len(origin.requests) == 1
