"""Whatever an origin does, an object behind HTTP is given as planned, or fails in the right way."""

import asyncio
import contextlib
import inspect
import ssl
import subprocess
from dataclasses import replace
from types import SimpleNamespace

import aiohttp
import faults
import pytest
from faults import Fault
from made import Made
from origin import Object, Origin
from test_stores import MTIME, Sink, any_address, copied, until

from tarstream.errors import (
    ObjectChanged,
    ObjectMissing,
    OriginBroken,
    OriginError,
    OriginTimeout,
)
from tarstream.observer import Observer
from tarstream.stores.base import ObjectMeta, Redirected
from tarstream.stores.http import HttpStore, _HttpBody, session

CONTENT = Made(300_000).read()
N = len(CONTENT)
TAG = Object(CONTENT).etag
DATE = Object(CONTENT).modified
META = ObjectMeta(N, MTIME, TAG)
OTHER = Object(Made(N, seed=1).read())  # as long, and another entity-tag
LONGER = Object(CONTENT + b"!", etag=TAG)
SHORTER = Object(CONTENT[:-1], etag=TAG)
UNCONDITIONAL = faults.ignores("If-Match", "If-Unmodified-Since")


@pytest.fixture
async def http():
    async with session(5, 30, any_address) as http:
        yield http


@pytest.fixture
def store(http):
    return HttpStore(http)


@pytest.fixture
async def impatient():
    async with session(5, 0.5, any_address) as http:
        yield HttpStore(http)


def whole(**which) -> Fault:
    """Call the whole a part."""

    def change(answer, _) -> None:
        answer.status = 206
        answer.put("Content-Range", f"bytes 0-{answer.size - 1}/{answer.size}")

    return Fault("whole", change, **which)


def only(method: str, *some: Fault) -> list[Fault]:
    return [replace(fault, methods=(method,)) for fault in some]


async def asked(store, url) -> ObjectMeta | type[BaseException]:
    """What HEAD says, or the class of what it raises."""
    try:
        return await store.head(url)
    except (OriginError, Redirected) as error:
        return type(error)


HEAD_REFUSED = [400, 401, 403, 405, 406, 501]

HEADS = {
    # Answers as they should be, and as they may be.
    "honest": ([], META),
    "after informational answers": ([faults.informational(3)], META),
    "slow": ([faults.late(0.05)], META),
    "identity said": ([faults.puts("Content-Encoding", "Identity")], META),
    "cookie": ([faults.adds("Set-Cookie", "a=b; Path=/")], META),
    "closes": ([faults.closes()], META),
    # HEAD that is refused, or says no length: the first byte is asked for.
    **{f"HEAD {code}": (only("HEAD", faults.status(code)), META) for code in HEAD_REFUSED},
    "no length": (only("HEAD", faults.without("Content-Length")), META),
    "HEAD chunked": (only("HEAD", faults.chunked()), META),
    "HEAD 206": ([whole(methods=("HEAD",))], META),
    "no Range either": (
        [*only("HEAD", faults.status(405)), faults.ignores("Range", methods=("GET",))],
        META,
    ),
    # Neither tells a usable length.
    "total unknown": (
        [*only("HEAD", faults.status(405)), faults.misranged(total=None)],
        OriginError,
    ),
    "no Content-Range": (
        [*only("HEAD", faults.status(405)), faults.without("Content-Range")],
        OriginError,
    ),
    "multipart": ([*only("HEAD", faults.status(405)), faults.multipart()], OriginError),
    "unsatisfiable": ([*only("HEAD", faults.status(405)), faults.unsatisfiable()], OriginError),
    "GET chunked": (
        [
            *only("HEAD", faults.status(405)),
            faults.ignores("Range"),
            *only("GET", faults.chunked()),
        ],
        OriginError,
    ),
    "close-delimited": ([faults.ignores("Range"), faults.close_delimited()], OriginError),
    # What it says is of something else than the contents.
    "coded": ([faults.coded()], OriginError),
    "GET coded": ([*only("HEAD", faults.status(405)), *only("GET", faults.coded())], OriginError),
    "coded twice": (
        [faults.adds("Content-Encoding", "identity"), faults.adds("Content-Encoding", "br")],
        OriginError,
    ),
    "coded in a list": ([faults.puts("Content-Encoding", "identity, gzip")], OriginError),
    # It is not there, or not for us.
    **{f"{code}": ([faults.status(code)], ObjectMissing) for code in (401, 403, 404, 410)},
    "GET 404": (
        [*only("HEAD", faults.status(403)), *only("GET", faults.status(404))],
        ObjectMissing,
    ),
    # What may pass by itself.
    **{
        f"{code}": ([faults.status(code)], OriginBroken)
        for code in (408, 425, 429, 500, 502, 503, 504, 599)
    },
    "GET 503": (
        [*only("HEAD", faults.status(405)), *only("GET", faults.status(503))],
        OriginBroken,
    ),
    "FIN for an answer": ([faults.hang_up()], OriginBroken),
    "RST for an answer": ([faults.hang_up(rst=True)], OriginBroken),
    "torn head": ([faults.torn_head(40)], OriginBroken),
    "garbage": ([faults.garbled()], OriginBroken),
    "huge header": ([faults.padded()], OriginBroken),
    "many headers": ([faults.padded(10_000, lines=1000)], OriginBroken),
    "two lengths": ([faults.adds("Content-Length", "7")], OriginBroken),
    "no number": ([faults.puts("Content-Length", "many")], OriginBroken),
    "negative": ([faults.puts("Content-Length", "-1")], OriginBroken),
    # What does not.
    **{f"{code}": ([faults.status(code)], OriginError) for code in (204, 304, 402, 418, 451)},
    "101": ([faults.garbled(b"HTTP/1.1 101 Switching Protocols")], OriginError),
    "redirected nowhere": ([faults.redirect("/", 302), faults.without("Location")], OriginError),
    **{
        f"{code}": ([faults.redirect("/elsewhere", code)], Redirected)
        for code in (301, 302, 303, 307, 308)
    },
}


@pytest.mark.parametrize("case", HEADS)
async def test_what_head_makes_of_an_answer(origin, store, case):
    held, expected = HEADS[case]
    url = origin.add("/object", CONTENT, *held)
    assert await asked(store, url) == expected
    assert not held or origin.fired.total()
    # An answer that was not read to its end, of a body that nobody wants, keeps no connection.
    await origin.until(lambda: origin.in_flight == 0)


async def test_head_of_an_empty_object_where_head_is_refused(origin, store):
    """`Range: bytes=0-0` of nothing is 416, and its Content-Range says the size."""
    url = origin.add("/object", b"", faults.status(403, methods=("HEAD",)))
    assert await store.head(url) == ObjectMeta(0, None, None)
    assert origin.requests[-1].status == 416


async def test_head_asks_once_where_that_is_enough(origin, store):
    await store.head(origin.add("/object", CONTENT))
    assert [each.method for each in origin.requests] == ["HEAD"]
    assert await asked(store, origin.url("/gone")) is ObjectMissing
    assert [each.method for each in origin.requests] == ["HEAD", "HEAD"]


async def test_the_first_byte_that_is_asked_for_does_not_fetch_the_rest(origin, store):
    big = Made(64 << 20)
    url = origin.add("/object", big, faults.status(403, methods=("HEAD",)), faults.ignores("Range"))
    assert (await store.head(url)).size == big.size
    await origin.until(lambda: origin.open_connections == 0)
    assert origin.requests[-1].sent < big.size


async def test_head_says_what_the_origin_says_of_time_and_version(origin, store):
    url = origin.add("/object", Object(b"x", etag=None, last_modified=None))
    assert await store.head(url) == ObjectMeta(1, None, None)
    origin.add("/object", Object(b"x", etag=None))
    assert await store.head(url) == ObjectMeta(1, MTIME, DATE)
    origin.add("/object", Object(b"x", etag='W/"a"', last_modified=None))
    assert await store.head(url) == ObjectMeta(1, None, 'W/"a"')
    origin.add("/object", Object(b"x", etag=None, last_modified=-5))
    assert (await store.head(url)).mtime == 0


async def test_an_entity_tag_that_is_not_utf_8_counts_as_none(origin, store):
    """It could be sent back neither to the origin nor to a client."""
    url = origin.add("/object", Object(b"x", etag='"\xff"'))
    assert (await store.head(url)).validator == DATE


FULL, BEGIN, PART, REST = (0, N), (0, 1000), (100_000, 200_000), (100_000, N)

# name: faults, spans, what comes of it; None: exactly the bytes that were asked for.
OPENS = {
    "honest": ([], [FULL, BEGIN, PART, REST], None),
    "after informational answers": ([faults.informational(3)], [FULL, PART], None),
    "slow": ([faults.late(0.05), faults.stall(0.05, at=150_000)], [FULL, PART], None),
    "drips": ([faults.drip(0.001, 9000, at=110_000)], [FULL, PART], None),
    "chunked": ([faults.chunked()], [FULL, PART, REST], None),
    "chunked bit by bit": ([faults.chunked(), faults.drip(0.001, 9000)], [FULL, REST], None),
    "close-delimited": ([faults.close_delimited()], [FULL, PART, REST], None),
    "Range ignored": ([faults.ignores("Range")], [BEGIN, PART, REST], None),
    "Range ignored, chunked": (
        [faults.ignores("Range"), faults.chunked()],
        [BEGIN, PART, REST],
        None,
    ),
    "Range ignored, close-delimited": (
        [faults.ignores("Range"), faults.close_delimited()],
        [BEGIN, PART, REST],
        None,
    ),
    "extra bytes": ([faults.extra()], [FULL, PART], None),
    "closes": ([faults.closes()], [FULL, PART], None),
    "no date": ([faults.without("Date", "Last-Modified")], [FULL, PART], None),
    # The store cannot know; digests can.
    "corrupt elsewhere": ([faults.corrupt(at=0)], [PART, REST], None),
    # It is not the version that was planned.
    "replaced": ([faults.becomes(OTHER)], [FULL, PART, REST], ObjectChanged),
    "replaced unnoticed": ([faults.becomes(OTHER), UNCONDITIONAL], [FULL, PART], ObjectChanged),
    "replaced, Range ignored": (
        [faults.becomes(OTHER), faults.ignores("Range", "If-Match")],
        [PART, REST],
        ObjectChanged,
    ),
    "no entity-tag": ([faults.without("ETag")], [FULL, PART, REST], ObjectChanged),
    "weak entity-tag": ([faults.weak_etag()], [FULL, PART], ObjectChanged),
    "another entity-tag": ([faults.puts("ETag", '"other"')], [FULL, PART], ObjectChanged),
    "longer": ([faults.becomes(LONGER)], [FULL, BEGIN, PART, REST], ObjectChanged),
    "shorter": ([faults.becomes(SHORTER)], [FULL, BEGIN, PART], ObjectChanged),
    "longer, chunked": (
        [faults.becomes(LONGER), faults.chunked()],
        [FULL, PART, REST],
        ObjectChanged,
    ),
    "longer, close-delimited": (
        [faults.becomes(LONGER), faults.close_delimited()],
        [FULL, PART],
        ObjectChanged,
    ),
    "412": ([faults.status(412)], [FULL, PART], ObjectChanged),
    "416": ([faults.status(416)], [FULL, PART], ObjectChanged),
    "unsatisfiable": ([faults.unsatisfiable()], [PART, REST], ObjectChanged),
    "another total": ([faults.misranged(total=1)], [PART], ObjectChanged),
    "said to be longer": ([faults.length(5)], [FULL], ObjectChanged),
    "said to be shorter": ([faults.length(-5)], [FULL], ObjectChanged),
    # It is not what was asked for.
    "another first-pos": ([faults.misranged(first=1)], [PART], OriginError),
    "another last-pos": ([faults.misranged(last=1)], [PART], OriginError),
    "a part of the part": ([faults.misranged(last=-1)], [PART], OriginError),
    "total unknown": ([faults.misranged(total=None)], [PART], OriginError),
    "shifted": ([faults.shifted(-7)], [PART, REST], OriginError),
    "multipart": ([faults.multipart()], [PART, REST], OriginError),
    "no Content-Range": ([faults.without("Content-Range")], [PART], OriginError),
    "part said to be longer": ([faults.length(5)], [PART], OriginError),
    "part said to be shorter": ([faults.length(-5)], [PART], OriginError),
    "a part for the whole": ([whole()], [FULL], OriginError),
    "coded": ([faults.coded()], [FULL, PART], OriginError),
    "coded twice": (
        [faults.adds("Content-Encoding", "identity"), faults.adds("Content-Encoding", "br")],
        [FULL],
        OriginError,
    ),
    **{
        f"{code}": ([faults.status(code)], [FULL, PART], OriginError)
        for code in (204, 304, 400, 405, 418)
    },
    "101": ([faults.garbled(b"HTTP/1.1 101 Switching Protocols")], [FULL], OriginError),
    "redirected nowhere": (
        [faults.redirect("/"), faults.without("Location")],
        [FULL, PART],
        OriginError,
    ),
    "redirected": ([faults.redirect("/elsewhere")], [FULL, PART], Redirected),
    # It is not there, or not for us.
    **{
        f"{code}": ([faults.status(code)], [FULL, PART], ObjectMissing)
        for code in (401, 403, 404, 410)
    },
    # It may pass by itself.
    **{
        f"{code}": ([faults.status(code)], [FULL, PART], OriginBroken)
        for code in (408, 425, 429, 500, 502, 503, 504, 599)
    },
    "FIN for an answer": ([faults.hang_up()], [FULL, PART], OriginBroken),
    "RST for an answer": ([faults.hang_up(rst=True)], [FULL, PART], OriginBroken),
    "torn head": ([faults.torn_head(40)], [FULL, PART], OriginBroken),
    "garbage": ([faults.garbled()], [FULL, PART], OriginBroken),
    "huge header": ([faults.padded()], [FULL, PART], OriginBroken),
    "many headers": ([faults.padded(10_000, lines=1000)], [FULL], OriginBroken),
    "FIN at once": ([faults.fin(at=100_000)], [REST, PART], OriginBroken),
    "FIN": ([faults.fin(at=150_000)], [FULL, PART, REST], OriginBroken),
    "RST": ([faults.rst(at=150_000)], [FULL, PART, REST], OriginBroken),
    "RST in place of the last byte": ([faults.rst(at=N - 1)], [FULL, REST], OriginBroken),
    "FIN, chunked": ([faults.chunked(), faults.fin(at=150_000)], [FULL, PART], OriginBroken),
    "no last chunk": ([faults.chunked(last=False)], [FULL, PART, REST], OriginBroken),
    "no last chunk, after a while": (
        [faults.chunked(last=False), faults.drip(0.001, 9000), faults.stall(0.05, at=N)],
        [FULL, REST],
        OriginBroken,
    ),
    "RST for the last chunk": ([faults.chunked(), faults.rst(at=N)], [FULL, REST], OriginBroken),
    "broken chunk": ([faults.broken_chunk(at=150_000)], [FULL, PART], OriginBroken),
    "FIN, close-delimited": (
        [faults.close_delimited(), faults.fin(at=150_000)],
        [FULL, PART],
        OriginBroken,
    ),
    "shorter, chunked": (
        [faults.becomes(SHORTER), faults.ignores("Range"), faults.chunked()],
        [FULL, REST],
        OriginBroken,
    ),
}


@pytest.mark.parametrize("case", OPENS)
async def test_what_open_makes_of_an_answer(origin, store, case):
    """Bytes of an answer that is wrong reach the sink only as far as they may be right."""
    held, spans, expected = OPENS[case]
    url = origin.add("/object", CONTENT, *held)
    for start, stop in spans:
        origin.fired.clear()
        sink = Sink()
        found = None
        try:
            async with store.open(url, start, stop, N, TAG) as body:
                await body.copy_to(sink)
        except (OriginError, Redirected) as error:
            found = type(error)
        assert found == expected, (start, stop)
        assert CONTENT[start:stop].startswith(sink.data)
        assert (len(sink.data) == stop - start) == (expected is None)
        assert not held or origin.fired.total() or case == "corrupt elsewhere"
    # Whatever came before, the next request is answered with what it asks for; bytes that follow
    # an answer may cost it its connection.
    del origin.objects["/object"].faults[:]
    try:
        again = await copied(store, url, *PART, N, TAG)
    except OriginBroken:
        again = await copied(store, url, *PART, N, TAG)
    assert again == CONTENT[slice(*PART)]


async def test_an_answer_that_nobody_asked_for_is_never_taken_for_a_members_contents(origin, store):
    evil = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % N + bytes(N)
    url = origin.add("/object", CONTENT, faults.extra(evil))
    sink = Sink()
    for _ in range(5):
        with contextlib.suppress(OriginError):
            async with store.open(url, 0, N, N, TAG) as body:
                sink.chunks.clear()
                await body.copy_to(sink)
        assert CONTENT.startswith(sink.data)


def test_every_fault_there_is_has_been_tried():
    made = [
        value
        for name, value in inspect.getmembers(faults, inspect.isfunction)
        if value.__module__ == "faults" and not name.startswith("_")
    ]
    tried = {fault.name for held, *_ in [*HEADS.values(), *OPENS.values()] for fault in held}
    assert {each.__name__ for each in made} <= tried


async def test_one_wrong_byte_is_for_digests_to_find(origin, store):
    url = origin.add("/object", CONTENT, faults.corrupt(at=7))
    assert len(await copied(store, url, *FULL, N, TAG)) == N


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("said", "least", "most"),
    [
        ("17", 17, 17),
        ("0", 0, 0),
        ("Fri, 31 Dec 1999 23:59:59 GMT", 0, 0),
        ("Fri, 31 Dec 9998 23:59:59 GMT", 1e9, 1e12),
        ("Fri, 31 Dec 99999999999999999999 23:59:59 GMT", None, None),
        ("soon", None, None),
        ("-1", None, None),
        ("1e3", None, None),
        (None, None, None),
    ],
)
async def test_how_long_an_origin_asks_to_be_left_alone(origin, store, status, said, least, most):
    url = origin.add("/object", CONTENT, faults.status(status, retry_after=said))
    for attempt in (store.head(url), copied(store, url, *PART, N, TAG)):
        with pytest.raises(OriginBroken) as broken:
            await attempt
        if least is None:
            assert broken.value.retry_after is None
        else:
            assert least <= broken.value.retry_after <= most


@pytest.mark.parametrize(
    "fault",
    [
        faults.late(),
        faults.stall(at=0),
        faults.stall(at=150_000),
        faults.stall(at=N - 1),
        pytest.param([faults.chunked(), faults.stall(at=N)], id="stalls before the last chunk"),
    ],
    ids=lambda fault: f"{fault.name}-{fault.at}",
)
async def test_an_origin_that_falls_silent_is_too_slow(origin, impatient, fault):
    held = fault if isinstance(fault, list) else [fault]
    url = origin.add("/object", CONTENT, *held)
    sink = Sink()
    with pytest.raises(OriginTimeout):
        async with impatient.open(url, 0, N, N, TAG) as body:
            await body.copy_to(sink)
    assert len(sink.data) < N
    await origin.until(lambda: origin.open_connections == 0)


async def test_a_head_that_is_never_answered_is_too_slow(origin, impatient):
    url = origin.add("/object", CONTENT, faults.late())
    assert await asked(impatient, url) is OriginTimeout
    await origin.until(lambda: origin.open_connections == 0)


async def test_an_origin_that_does_not_listen_is_broken(origin, store):
    url = origin.add("/object", CONTENT)
    origin.refuse()
    assert await asked(store, url) is OriginBroken
    with pytest.raises(OriginBroken):
        await copied(store, url, *FULL, N, TAG)


async def test_a_host_that_cannot_be_found_is_broken(store):
    """Broken, or too slow, as the resolver of this machine has it: tried again in any case."""
    assert issubclass(await asked(store, "http://no-such-host.invalid/object"), OriginBroken)


@pytest.mark.parametrize(
    "url", ["http://[::1/", "http://h:99999/", "http://\ud800/", "http://" + 70 * "a"]
)
async def test_a_url_that_cannot_be_asked_for_is_an_error_of_its_origin(store, url):
    assert await asked(store, url) is OriginError
    with pytest.raises(OriginError):
        await copied(store, url, *FULL, N, TAG)


async def test_redirects_are_raised_and_never_followed(origin, store):
    origin.add("/elsewhere", CONTENT)
    url = origin.add("/object", CONTENT, faults.redirect("//else where/%2f?a=b#c"))
    with pytest.raises(Redirected) as redirected:
        await store.head(url)
    assert redirected.value.location == "//else where/%2f?a=b#c"
    with pytest.raises(Redirected) as redirected:
        await copied(store, url, *FULL, N, TAG)
    assert redirected.value.location == "//else where/%2f?a=b#c"
    assert {each.path for each in origin.requests} == {"/object"}


@pytest.mark.parametrize(
    "target",
    [
        "/bucket/a%2fb%7Ec?X-Amz-Signature=ab%2Bc%2f%3D%3D&X-Amz-Date=20260101T000000Z",
        "/key+with+plus?sig=a+b/c==&se=2026-01-01T00%3A00%3A00Z",
        "/%41%7e%2E%2e/x?x",
        "/a//b/../c/./d",
        "/a;b=c,d@e:f!$&'()*[]|^`{}<>\"",
        "/?a=b?c&d=%",
        "/%",
    ],
)
async def test_a_url_is_sent_byte_for_byte(origin, store, target):
    """A signature covers its spelling."""
    await asked(store, origin.root + target)
    assert [each.target for each in origin.requests] == [target]


async def test_what_a_url_cannot_hold_is_encoded(origin, store):
    origin.add("/für dich/日本", CONTENT)
    assert await store.head(f"{origin.root}/für dich/日本#part") == META
    assert await store.head(f"{origin.root}/f%C3%BCr%20dich/%E6%97%A5%E6%9C%AC#part") == META
    assert {each.target for each in origin.requests} == {"/f%C3%BCr%20dich/%E6%97%A5%E6%9C%AC"}


async def test_requests_carry_what_they_need_and_nothing_of_anybody(
    origin, store, monkeypatch, tmp_path
):
    """No cookie, no credential, no proxy, whatever the origin says and the environment holds."""
    netrc = tmp_path / "netrc"
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    netrc.write_text("default login me password secret\n")
    host = f"localhost:{origin.port}"  # no cookie jar keeps what an address sets
    url = f"http://{host}/object"
    origin.add("/object", CONTENT, faults.adds("Set-Cookie", "a=b; Path=/"))
    await store.head(url)
    await copied(store, url, *FULL, N, TAG)
    await copied(store, url, *PART, N, TAG)
    common = {
        "host": host,
        "accept": "*/*",
        "accept-encoding": "identity",
        "user-agent": "tarstream",
    }
    assert [each.headers for each in origin.requests] == [
        common,
        common | {"if-match": TAG},
        common | {"if-match": TAG, "range": "bytes=100000-199999"},
    ]


@pytest.mark.parametrize(
    ("validator", "sent"),
    [
        (TAG, {"if-match": TAG}),
        (DATE, {"if-unmodified-since": DATE}),
        ('W/"weak"', {}),
        (f"W/{DATE}", {}),
        (None, {}),
    ],
)
async def test_only_a_strong_validator_is_a_condition(origin, store, validator, sent):
    url = origin.add("/object", Object(CONTENT, etag='W/"weak"' if validator != TAG else TAG))
    assert await copied(store, url, *PART, N, validator) == CONTENT[slice(*PART)]
    headers = origin.requests[-1].headers
    assert {name: headers[name] for name in headers if name.startswith("if-")} == sent


@pytest.mark.parametrize(
    ("validator", "fault"),
    [
        (DATE, faults.without("Last-Modified")),
        (DATE, faults.puts("Last-Modified", "Sun, 09 Sep 2001 01:46:41 GMT")),
        ('W/"a"', faults.puts("ETag", 'W/"b"')),
        (f"W/{DATE}", faults.puts("Last-Modified", "Sun, 09 Sep 2001 01:46:41 GMT")),
    ],
)
async def test_an_answer_without_the_planned_validator_has_changed(origin, store, validator, fault):
    url = origin.add("/object", CONTENT, UNCONDITIONAL, fault)
    with pytest.raises(ObjectChanged):
        await copied(store, url, *PART, N, validator)


@pytest.mark.parametrize("place", ["write", "flush"])
@pytest.mark.parametrize(
    "error",
    [
        aiohttp.ClientConnectionResetError("the client left"),
        aiohttp.ClientPayloadError("the client left"),
        ConnectionResetError("the client left"),
        TimeoutError("the client is slow"),
        ValueError("the sink is wrong"),
        OriginBroken("somebody else's origin"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_an_error_of_the_sink_is_never_taken_for_the_origins(origin, store, place, error):
    class Failing(Sink):
        async def write(self, chunk):
            await super().write(chunk)
            if place == "write":
                raise error

        async def flush(self):
            if place == "flush":
                raise error

    url = origin.add("/object", Made(8 << 20), faults.stall(at=100_000))
    etag = origin.objects["/object"].etag
    with pytest.raises(type(error)) as raised:
        async with store.open(url, 0, 8 << 20, 8 << 20, etag) as body:
            await body.copy_to(Failing())
    assert raised.value is error
    await origin.until(lambda: origin.open_connections == 0)


async def test_a_sink_that_takes_nothing_makes_the_origin_wait(store):
    """What is on its way is bounded by the sockets and a small buffer, not by the object."""
    big = Made(64 << 20)
    # The origin gives up on a client that takes nothing for so long.
    async with Origin(send_buffer=64 << 10, send_timeout=0.5) as origin:
        url = origin.add("/object", big)
        sink = Sink()
        sink.gate.clear()
        async with store.open(url, 0, big.size, big.size, origin.objects["/object"].etag) as body:
            task = asyncio.create_task(body.copy_to(sink))
            await origin.until(lambda: origin.open_connections == 0)
            assert len(sink.chunks) == 1
            assert origin.requests[-1].sent < 16 << 20  # most of it in the kernel's buffers
            sink.gate.set()
            with pytest.raises(OriginBroken):
                await task
        assert big.read(0, len(sink.data)) == sink.data


async def test_a_slow_sink_is_not_taken_for_a_silent_origin(origin, impatient):
    big = Made(16 << 20)
    url = origin.add("/object", big)
    sink = Sink()
    sink.gate.clear()
    async with impatient.open(url, 0, big.size, big.size, origin.objects["/object"].etag) as body:
        task = asyncio.create_task(body.copy_to(sink))
        await until(lambda: sink.chunks)
        loop = asyncio.get_running_loop()
        enough = loop.time() + 3 * 0.5
        await until(lambda: loop.time() > enough)
        sink.gate.set()
        await task
    assert sink.data == big.read()


@pytest.mark.parametrize(
    "held",
    [[faults.closes()], [faults.chunked(), faults.closes()], [faults.close_delimited()]],
    ids=["length", "chunked", "close-delimited"],
)
async def test_what_an_origin_sent_before_it_left_is_not_lost_on_a_slow_sink(origin, store, held):
    content = Made(1 << 20)
    url = origin.add("/object", content, *held)
    sink = Sink()
    sink.gate.clear()
    async with store.open(url, 0, 1 << 20, 1 << 20, origin.objects["/object"].etag) as body:
        task = asyncio.create_task(body.copy_to(sink))
        await origin.until(lambda: origin.requests[-1].finished and sink.chunks)
        sink.gate.set()
        await task
    assert sink.data == content.read()


async def test_the_sink_is_flushed_before_every_wait_for_the_origin(origin, store):
    url = origin.add("/object", CONTENT, faults.stall(at=150_000))
    sink = Sink()
    async with store.open(url, 0, N, N, TAG) as body:
        task = asyncio.create_task(body.copy_to(sink))
        await origin.until(lambda: sink.flushes and sink.flushes[-1] == 7 + 150_000)
        origin.release()
        await task
    assert sink.data == CONTENT


async def test_connections_are_used_again(origin, store):
    url = origin.add("/object", CONTENT)
    for _ in range(5):
        await store.head(url)
        await copied(store, url, *FULL, N, TAG)
        await copied(store, url, *PART, N, TAG)
    assert origin.connections == 1


async def test_a_connection_that_was_closed_meanwhile_is_replaced(origin, store):
    url = origin.add("/object", CONTENT)
    await store.head(url)
    origin.reset()
    await origin.until(lambda: origin.open_connections == 0)
    assert await store.head(url) == META


@pytest.fixture
async def tls(tmp_path):
    """The port of a server whose certificate nobody has signed."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=x"
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
    subprocess.run(
        [*command.split(), "-addext", names, "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_an_origin_without_a_valid_certificate_is_not_tried_again(tls, store):
    assert await asked(store, f"https://127.0.0.1:{tls}/object") is OriginError
    with pytest.raises(OriginError) as refused:
        await copied(store, f"https://localhost:{tls}/object", *FULL, N, TAG)
    assert not refused.value.transient
    assert "certificate" in refused.value.detail


async def test_an_origin_that_speaks_no_tls_is_broken(store):
    async def answer(reader, writer):
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1") as server:
        port = server.sockets[0].getsockname()[1]
        assert await asked(store, f"https://127.0.0.1:{port}/object") is OriginBroken


async def test_a_connection_that_is_lost_before_its_body_is_told_is_broken():
    """For one turn of the loop aiohttp has neither bytes nor an error, only a RuntimeError."""
    loop = asyncio.get_running_loop()
    lost = aiohttp.client_proto.ResponseHandler(loop)  # never connected
    content = aiohttp.StreamReader(lost, 2**16, loop=loop)
    answer = SimpleNamespace(
        content=content,
        headers={"Content-Length": "10"},
        held=False,
    )
    with pytest.raises(OriginBroken):
        await _HttpBody(answer, 0, 10, Observer(), ends=True).copy_to(Sink())
