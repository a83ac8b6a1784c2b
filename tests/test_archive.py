"""`/archive`: each row of the contract's tables, against a real gateway and a real origin."""

import hashlib
import io
import re
import tarfile
import zlib
from urllib.parse import unquote

import aiohttp
import faults
import pytest
from answer import Object
from gateway import raw
from yarl import URL

IDS = ["a.txt", "b/ü.bin", "empty", "c.bin"]
CONTENTS = {
    "a.txt": b"hello",
    "b/ü.bin": bytes(range(250)) * 4,
    "empty": b"",
    "c.bin": bytes(reversed(range(256))) * 6,
}
MTIME = 1_000_000_000  # what the origin says of every object


class Reply:
    """An answer, read to its end or to where it broke off."""

    def __init__(self, response, body, broken):
        self.status = response.status
        self.headers = response.headers
        self.body = body
        self.broken = broken


async def ask(client, url, method="GET", **options):
    async with client.request(method, URL(url, encoded=True), **options) as response:
        body, broken = bytearray(), False
        try:
            async for chunk in response.content.iter_any():
                body += chunk
        except aiohttp.ClientPayloadError:
            broken = True
        return Reply(response, bytes(body), broken)


def tar_of(ids):
    """The same archive by the standard library, in one piece; and where each content lies."""
    buffer = io.BytesIO()
    places = {}
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for id_ in ids:
            content = CONTENTS[id_]
            info = tarfile.TarInfo(id_)
            info.size, info.mtime = len(content), MTIME
            tar.addfile(info, io.BytesIO(content))
            stop = tar.offset - (-len(content) % 512)
            places[id_] = (stop - len(content), stop)
        end = tar.offset
    return buffer.getvalue()[: end + 1024], places  # without what fills tarfile's last record


WHOLE, PLACES = tar_of(IDS)
N = len(WHOLE)


@pytest.fixture
async def gateway(origin, start):
    """A gateway in front of an origin that has `CONTENTS`."""
    for id_, content in CONTENTS.items():
        origin.add(f"/{id_}", content)
    return await start(origin)


@pytest.fixture
async def url(gateway):
    return gateway.url(IDS)


@pytest.fixture
async def etag(client, url, origin):
    """The archive's entity-tag; the origin's records begin after it was asked for."""
    reply = await ask(client, url, "HEAD")
    origin.requests.clear()
    return reply.headers["ETag"]


def catalog(origin, **more):
    """Entries that leave nothing to ask for."""
    return [
        {
            "id": id_,
            "url": origin.url(f"/{id_}"),
            "name": id_,
            "size": len(content),
            "mtime": MTIME,
            "etag": Object(content).etag,
            **more.get(id_, {}),
        }
        for id_, content in CONTENTS.items()
    ]


# The whole


async def test_get_is_the_archive_that_the_standard_library_makes(client, url):
    reply = await ask(client, url)
    assert reply.status == 200
    assert reply.body == WHOLE


def lowered(reply):
    return {name.lower(): value for name, value in reply.headers.items()}


async def test_a_successful_answer_has_exactly_these_headers(client, url):
    headers = lowered(await ask(client, url))
    assert headers.pop("date")
    assert headers.pop("x-request-id")
    assert re.fullmatch(r'"[\x21\x23-\x7e]{16,}"', headers.pop("etag"))
    assert headers == {
        "content-length": str(N),
        "content-type": "application/x-tar",
        "content-disposition": "attachment; filename=\"archive.tar\"; filename*=UTF-8''archive.tar",
        "accept-ranges": "bytes",
        "cache-control": "no-cache, no-transform",
        "x-accel-buffering": "no",
        "x-content-type-options": "nosniff",
        "server": "tarstream",
    }


async def test_head_has_the_headers_of_get_and_opens_no_member(client, url, origin):
    head = await ask(client, url, "HEAD")
    assert {request.method for request in origin.requests} == {"HEAD"}
    get = await ask(client, url)
    assert (head.status, head.body) == (200, b"")
    headers = [lowered(reply) for reply in (head, get)]
    for each in headers:
        assert each.pop("date")
        assert each.pop("x-request-id")
    assert headers[0] == headers[1]


async def test_the_origin_is_asked_once_for_each_member_and_never_for_an_empty_one(
    client, url, origin
):
    await ask(client, url)
    for id_ in IDS:
        assert len(origin.asked(f"/{id_}", "HEAD")) == 1
        assert len(origin.asked(f"/{id_}", "GET")) == (0 if id_ == "empty" else 1)


async def test_an_archive_of_nothing_but_empty_members_is_sent_without_the_origin(
    client, origin, start
):
    origin.add("/empty", b"")
    gateway = await start(origin)
    reply = await ask(client, gateway.url(["empty", "empty"]))
    assert (reply.status, len(reply.body)) == (200, 2 * 512 + 1024)
    assert origin.asked("/empty", "GET") == []
    reply = await ask(client, gateway.url(["empty"]), headers={"Range": "bytes=-1"})
    assert (reply.status, reply.body) == (206, b"\0")


async def test_content_codings_are_never_used(client, url, etag):
    reply = await ask(client, url, headers={"Accept-Encoding": "gzip, br, *"})
    assert "Content-Encoding" not in reply.headers
    assert reply.headers["ETag"] == etag
    assert reply.body == WHOLE


async def test_commas_separate_ids_encoded_or_not_and_order_and_repetition_are_kept(
    client, gateway
):
    one = f"http://127.0.0.1:{gateway.port}/archive"
    expected, _ = tar_of(["c.bin", "a.txt"])
    for query in (
        "ids=c.bin,a.txt",
        "ids=c.bin%2Ca.txt",
        "ids=c.bin&ids=a.txt",
        "ids=c.bin&id=a.txt",
    ):
        assert (await ask(client, f"{one}?{query}")).body == expected
    reply = await ask(client, f"{one}?ids=a.txt,a.txt")
    with tarfile.open(fileobj=io.BytesIO(reply.body)) as tar:
        assert tar.getnames() == ["a.txt", "a (2).txt"]


# Range


RANGES = [
    ("bytes=0-0", 0, 1),
    ("bytes=0-", 0, N),
    ("bytes=100-", 100, N),
    (f"bytes={N - 1}-", N - 1, N),
    ("bytes=-1", N - 1, N),
    (f"bytes=-{N}", 0, N),
    (f"bytes=-{N + 1}", 0, N),
    (f"bytes=-{10**30}", 0, N),
    (f"bytes=0-{10**30}", 0, N),
    (f"bytes=511-{N - 1}", 511, N),
    (f"bytes=511-{N}", 511, N),
    ("bytes=512-516", 512, 517),
    ("BYTES=7-9", 7, 10),
    ("bytes= 7-9 ", 7, 10),
    ("bytes=007-0009", 7, 10),
]


@pytest.mark.parametrize(("asked", "first", "stop"), RANGES)
async def test_a_range_is_answered_by_exactly_its_bytes(client, url, etag, asked, first, stop):
    reply = await ask(client, url, headers={"Range": asked})
    assert reply.status == 206
    assert reply.headers["Content-Range"] == f"bytes {first}-{stop - 1}/{N}"
    assert reply.headers["Content-Length"] == str(stop - first)
    assert reply.headers["ETag"] == etag
    assert reply.headers["Cache-Control"] == "no-cache, no-transform"
    assert reply.headers["Content-Type"] == "application/x-tar"
    assert reply.headers["Accept-Ranges"] == "bytes"
    assert reply.body == WHOLE[first:stop]


@pytest.mark.parametrize(
    "asked",
    [
        f"bytes={N}-",
        f"bytes={N}-{N}",
        f"bytes={10**30}-",
        "bytes=-0",
        "bytes=5-2",
        "bytes=a-b",
        "bytes=10",
        "bytes=",
        "bytes=-",
        "bytes=--1",
        "bytes=+1-2",
        "bytes=0x1-2",
        "bytes=1 - 2",
        "bytes=\u0661-\u0662",
        "bytes=\u00b2-",
    ],
)
async def test_a_range_that_selects_nothing_is_416(client, url, etag, origin, asked):
    reply = await ask(client, url, headers={"Range": asked})
    assert reply.status == 416
    assert reply.headers["Content-Range"] == f"bytes */{N}"
    assert reply.headers["ETag"] == etag
    assert reply.headers["Content-Type"] == "application/problem+json"
    assert origin.requests == []


@pytest.mark.parametrize(
    "asked",
    [
        "bytes=0-0,5-6",
        "bytes=0-0, -1",
        f"bytes={N}-,{N}-",
        "pages=1-2",
        "items=0-5",
        "0-5",
        "bytes",
    ],
)
async def test_several_ranges_and_other_units_get_the_whole(client, url, asked):
    reply = await ask(client, url, headers={"Range": asked})
    assert (reply.status, reply.body) == (200, WHOLE)
    assert "Content-Range" not in reply.headers


async def test_ranges_over_several_lines_are_several_ranges(client, url):
    headers = [("Range", "bytes=0-0"), ("Range", "bytes=2-3")]
    reply = await ask(client, url, headers=headers)
    assert (reply.status, reply.body) == (200, WHOLE)


@pytest.mark.parametrize("asked", ["bytes=0-0", f"bytes={N}-", "bytes=a-b"])
async def test_head_takes_no_notice_of_range(client, url, origin, asked):
    reply = await ask(client, url, "HEAD", headers={"Range": asked})
    assert (reply.status, reply.body) == (200, b"")
    assert reply.headers["Content-Length"] == str(N)
    assert "Content-Range" not in reply.headers
    assert {request.method for request in origin.requests} == {"HEAD"}


async def test_only_members_that_a_range_touches_are_asked_for_and_only_for_their_bytes(
    client, url, etag, origin
):
    start, stop = PLACES["b/ü.bin"]
    await ask(client, url, headers={"Range": f"bytes={start + 10}-{start + 19}"})
    [request] = origin.requests
    assert (request.method, request.path) == ("GET", "/b/ü.bin")
    assert request.headers["range"] == "bytes=10-19"
    assert request.sent == 10
    origin.requests.clear()

    # From within one member into another: the rest of one, the beginning of the other.
    last = PLACES["c.bin"][0] + 99
    reply = await ask(client, url, headers={"Range": f"bytes={stop - 5}-{last}"})
    assert reply.body == WHOLE[stop - 5 : last + 1]
    assert {(r.method, r.path, r.headers["range"]) for r in origin.requests} == {
        ("GET", "/b/ü.bin", "bytes=995-999"),
        ("GET", "/c.bin", "bytes=0-99"),
    }


async def test_a_range_of_headers_and_padding_asks_for_nothing(client, url, etag, origin):
    for start, stop in ((0, 512), (PLACES["a.txt"][1], 1024), (N - 1024, N)):
        reply = await ask(client, url, headers={"Range": f"bytes={start}-{stop - 1}"})
        assert (reply.status, reply.body) == (206, WHOLE[start:stop])
    assert origin.requests == []


async def test_every_offset_around_a_member_is_sliced_right(client, url):
    edges = {edge + d for place in PLACES.values() for edge in place for d in (-1, 0, 1)}
    for edge in sorted(edges):
        before = await ask(client, url, headers={"Range": f"bytes=0-{edge - 1}"})
        after = await ask(client, url, headers={"Range": f"bytes={edge}-"})
        assert before.body + after.body == WHOLE


# Conditions


@pytest.mark.parametrize("range_", [None, "bytes=0-9", f"bytes={N}-"])
@pytest.mark.parametrize("given", ["{e}", "W/{e}", '"x", {e}, W/"y"', '"x",{e}', "*", " {e} "])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_if_none_match_that_names_it_is_304(client, url, etag, origin, method, given, range_):
    headers = {"If-None-Match": given.format(e=etag)}
    if range_:
        headers["Range"] = range_
    reply = await ask(client, url, method, headers=headers)
    assert (reply.status, reply.body) == (304, b"")
    assert reply.headers["ETag"] == etag
    assert reply.headers["Cache-Control"] == "no-cache, no-transform"
    assert origin.requests == []


@pytest.mark.parametrize("given", ['"x"', "{bare}", "W/{bare}", '"x", "y"', "", "w/{e}"])
async def test_if_none_match_that_does_not_name_it_is_no_condition(client, url, etag, given):
    given = given.format(e=etag, bare=etag.strip('"'))
    reply = await ask(client, url, headers={"If-None-Match": given})
    assert (reply.status, reply.body) == (200, WHOLE)


@pytest.mark.parametrize("given", ['"x"', "W/{e}", '"x", W/{e}', "{bare}", ""])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_if_match_that_does_not_name_it_is_412(client, url, etag, origin, method, given):
    given = given.format(e=etag, bare=etag.strip('"'))
    reply = await ask(client, url, method, headers={"If-Match": given})
    assert reply.status == 412
    assert reply.headers["ETag"] == etag
    assert reply.headers["Content-Type"] == "application/problem+json"
    assert (reply.body == b"") == (method == "HEAD")
    assert origin.requests == []


@pytest.mark.parametrize("given", ["{e}", '"x", {e}', "*"])
async def test_if_match_that_names_it_goes_on(client, url, etag, given):
    headers = {"If-Match": given.format(e=etag), "Range": "bytes=5-9"}
    reply = await ask(client, url, headers=headers)
    assert (reply.status, reply.body) == (206, WHOLE[5:10])


async def test_if_match_comes_before_if_none_match(client, url, etag):
    reply = await ask(client, url, headers={"If-Match": '"x"', "If-None-Match": etag})
    assert reply.status == 412
    reply = await ask(client, url, headers={"If-Match": etag, "If-None-Match": etag})
    assert reply.status == 304


async def test_if_range_with_the_entity_tag_gives_the_range(client, url, etag):
    reply = await ask(client, url, headers={"Range": "bytes=5-9", "If-Range": etag})
    assert (reply.status, reply.body) == (206, WHOLE[5:10])


@pytest.mark.parametrize(
    "given",
    [
        '"x"',
        "W/{e}",
        "{bare}",
        "*",
        "{e}, {e}",
        "Sun, 09 Sep 2001 01:46:40 GMT",  # the members' Last-Modified
        "Fri, 01 Jan 2100 00:00:00 GMT",
        "garbage",
        "",
    ],
)
@pytest.mark.parametrize("range_", ["bytes=5-9", f"bytes={N}-"])
async def test_if_range_with_anything_else_gives_the_whole(client, url, etag, given, range_):
    given = given.format(e=etag, bare=etag.strip('"'))
    reply = await ask(client, url, headers={"Range": range_, "If-Range": given})
    assert (reply.status, reply.body) == (200, WHOLE)


@pytest.mark.parametrize("name", ["If-Modified-Since", "If-Unmodified-Since"])
@pytest.mark.parametrize("date", ["Sat, 01 Jan 2000 00:00:00 GMT", "Fri, 01 Jan 2100 00:00:00 GMT"])
async def test_dates_are_no_conditions_and_none_is_given(client, url, name, date):
    reply = await ask(client, url, headers={name: date})
    assert (reply.status, reply.body) == (200, WHOLE)
    assert "Last-Modified" not in reply.headers


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"If-None-Match": "*"},
        {"If-Match": '"x"'},
        {"If-Match": "*"},
        {"Range": "bytes=0-0"},
        {"Range": "bytes=-0"},
        {"Range": "bytes=0-0", "If-Range": '"x"'},
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_an_unknown_id_is_404_under_any_condition(client, origin, start, method, headers):
    gateway = await start(origin, catalog(origin))
    reply = await ask(client, gateway.url(["a.txt", "nobody"]), method, headers=headers)
    assert reply.status == 404


async def test_an_answer_to_a_condition_is_not_kept_in_place_of_the_archive(client, url, etag):
    """A pinned URL lives for a year in caches; its 412 and 416 must not."""
    pinned = f"{url}&version=" + etag.strip('"')
    for headers, status in (({"If-Match": '"x"'}, 412), ({"Range": "bytes=-0"}, 416)):
        reply = await ask(client, pinned, headers=headers)
        assert (reply.status, reply.headers["Cache-Control"]) == (status, "no-store")
    reply = await ask(client, pinned, headers={"If-None-Match": etag})
    assert reply.status == 304
    assert reply.headers["Cache-Control"].endswith("immutable, no-transform")


# Methods and versions of HTTP


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"])
@pytest.mark.parametrize(
    ("route", "allowed"),
    [
        ("/archive", {"GET", "HEAD", "POST"}),
        ("/plan", {"GET", "HEAD", "POST"}),
        ("/healthz", {"GET", "HEAD"}),
        ("/readyz", {"GET", "HEAD"}),
    ],
)
async def test_other_methods_are_405_with_allow(gateway, method, route, allowed):
    # On a socket of its own, because aiohttp's client does not speak every method.
    answer = await raw(
        gateway.port,
        f"{method} {route}?ids=a.txt HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode(),
    )
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 405 ")
    [allow] = [line for line in head.split(b"\r\n") if line.startswith(b"Allow: ")]
    assert {m.strip() for m in allow.removeprefix(b"Allow: ").decode().split(",")} == allowed
    assert b"application/problem+json" in head
    assert b'"status": 405' in body


@pytest.mark.parametrize(
    ("headers", "status", "expected"),
    [
        ("", b"200", WHOLE),
        ("Range: bytes=3-600\r\n", b"206", WHOLE[3:601]),
        (f"Range: bytes={N}-\r\n", b"416", None),
        ("If-None-Match: *\r\n", b"304", b""),
        ('If-Match: "x"\r\n', b"412", None),
    ],
)
async def test_http_1_0_is_answered_as_http_1_1(gateway, headers, status, expected):
    path = URL(gateway.url(IDS), encoded=True).raw_path_qs
    answer = await raw(gateway.port, f"GET {path} HTTP/1.0\r\n{headers}\r\n".encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.split(b" ")[1] == status
    assert b"Transfer-Encoding" not in head
    if expected is not None:
        assert body == expected


async def test_healthz_and_readyz_are_200(client, gateway):
    for route in ("/healthz", "/readyz"):
        reply = await ask(client, f"http://127.0.0.1:{gateway.port}{route}")
        assert reply.status == 200


# Validators


async def test_a_weak_member_makes_the_archive_weak_and_every_range_the_whole(
    client, origin, gateway
):
    origin.objects["/a.txt"].faults.append(faults.weak_etag())
    origin.objects["/a.txt"].last_modified = None
    url = gateway.url(IDS)
    for method in ("GET", "HEAD"):
        reply = await ask(client, url, method, headers={"Range": "bytes=0-9"})
        assert reply.status == 200
        assert reply.headers["ETag"].startswith('W/"')
        assert reply.headers["Accept-Ranges"] == "none"
        assert reply.headers["Content-Length"] == str(N)
    etag = reply.headers["ETag"]
    for headers, status in (
        ({"If-None-Match": etag}, 304),
        ({"If-None-Match": etag.removeprefix("W/")}, 304),
        ({"If-Match": etag}, 412),
        ({"If-Range": etag, "Range": "bytes=0-9"}, 200),
        ({"Range": f"bytes={N}-"}, 200),
    ):
        assert (await ask(client, url, headers=headers)).status == status


async def test_a_member_without_any_validator_leaves_the_archive_without_etag(
    client, origin, gateway
):
    origin.objects["/a.txt"].etag = origin.objects["/a.txt"].last_modified = None
    reply = await ask(client, gateway.url(["a.txt"]), headers={"Range": "bytes=0-9"})
    assert reply.status == 200
    assert "ETag" not in reply.headers
    assert reply.headers["Accept-Ranges"] == "none"


async def test_an_old_enough_date_is_a_strong_validator(client, origin, gateway):
    for thing in origin.objects.values():
        thing.etag = None
    reply = await ask(client, gateway.url(IDS), headers={"Range": "bytes=512-516"})
    assert (reply.status, reply.body) == (206, b"hello")
    assert reply.headers["ETag"].startswith('"')


async def test_a_digest_validates_nothing_in_part_but_enters_the_entity_tag(
    client, origin, start, tmp_path
):
    digest = hashlib.sha256(b"hello").hexdigest()
    entries = {"id": "a", "url": origin.add("/a", Object(b"hello", None, None)), "size": 5}
    gateway = await start(origin, [entries | {"sha256": digest}])
    reply = await ask(client, gateway.url(["a"]), headers={"Range": "bytes=0-9"})
    assert (reply.status, reply.headers["Accept-Ranges"]) == (200, "none")
    tags = set()
    for more in ({}, {"sha256": digest}, {"crc32": f"{zlib.crc32(b'hello'):08x}"}):
        gateway = await start(origin, [entries | {"etag": '"1"', "mtime": 1} | more])
        tags.add((await ask(client, gateway.url(["a"]), "HEAD")).headers["ETag"])
    assert len(tags) == 3


# Pinned


async def test_a_pinned_archive_may_be_kept_privately(client, url, etag):
    reply = await ask(client, f"{url}&version=" + etag.strip('"'))
    assert (reply.status, reply.body) == (200, WHOLE)
    assert reply.headers["Cache-Control"] == "private, max-age=31536000, immutable, no-transform"


async def test_a_pinned_archive_may_be_kept_by_all_where_the_setting_says_so(
    client, origin, start, url, etag
):
    gateway = await start(origin, server={"public": True})
    version = etag.strip('"')
    for headers, status in (
        ({}, 200),
        ({"Range": "bytes=0-1"}, 206),
        ({"If-None-Match": "*"}, 304),
    ):
        reply = await ask(client, gateway.url(IDS, version=version), headers=headers)
        assert reply.status == status
        expected = "public, max-age=31536000, immutable, no-transform"
        assert reply.headers["Cache-Control"] == expected
    reply = await ask(client, gateway.url(IDS))
    assert reply.headers["Cache-Control"] == "no-cache, no-transform"


async def test_a_version_that_the_sources_do_not_give_is_409(client, url, etag, origin):
    for method in ("GET", "HEAD"):
        reply = await ask(client, f"{url}&version=x", method)
        assert reply.status == 409
        assert reply.headers["Cache-Control"] == "no-store"
    assert all(request.method == "HEAD" for request in origin.requests)


async def test_a_pinned_download_of_changed_sources_is_409_and_never_other_bytes(
    client, url, etag, origin
):
    origin.add("/a.txt", b"HELLO")
    reply = await ask(client, f"{url}&version=" + etag.strip('"'))
    assert reply.status == 409
    assert b"HELLO" not in reply.body


async def test_a_version_newer_than_what_is_remembered_is_given(client, url, etag, origin, start):
    """Another gateway may have seen the sources after this one did."""
    await ask(client, url, "HEAD")  # remembered, for longer than this test
    origin.add("/a.txt", b"HELLO")
    other = await start(origin)
    newer = (await ask(client, other.url(IDS), "HEAD")).headers["ETag"]
    reply = await ask(client, f"{url}&version=" + newer.strip('"'))
    assert reply.status == 200
    assert reply.headers["ETag"] == newer


async def test_a_weak_archive_cannot_be_pinned(client, gateway, origin):
    origin.objects["/a.txt"].faults.append(faults.weak_etag())
    origin.objects["/a.txt"].last_modified = None
    etag = (await ask(client, gateway.url(["a.txt"]), "HEAD")).headers["ETag"]
    for version in (etag, etag.removeprefix("W/").strip('"'), "x"):
        assert (await ask(client, gateway.url(["a.txt"], version=version))).status == 400


# Names


@pytest.mark.parametrize(
    ("name", "ascii_name", "utf8_name"),
    [
        ("holiday", "holiday.tar", "holiday.tar"),
        ("two words", "two words.tar", "two words.tar"),
        ("Zürich", "Z_rich.tar", "Zürich.tar"),
        ("データ", "___.tar", "データ.tar"),
        ("😀", "_.tar", "😀.tar"),
        ('say "hi"', "say _hi_.tar", 'say "hi".tar'),
        ("50%20", "50_20.tar", "50%20.tar"),
        ("a;b=c", "a_b=c.tar", "a;b=c.tar"),
        ("it's", "it's.tar", "it's.tar"),
        ("../../etc/passwd", ".._.._etc_passwd.tar", ".._.._etc_passwd.tar"),
        ("a\\b", "a_b.tar", "a_b.tar"),
        ("a\r\nSet-Cookie: x=1", "a__Set-Cookie: x=1.tar", "a__Set-Cookie: x=1.tar"),
        ("a\x00b\x1b[2J\u202e", "a_b_[2J_.tar", "a_b_[2J_.tar"),
    ],
)
async def test_the_download_is_named_for_old_clients_and_for_rfc_8187(
    client, gateway, name, ascii_name, utf8_name
):
    reply = await ask(client, gateway.url(["a.txt"], name=name))
    assert reply.status == 200
    value = reply.headers["Content-Disposition"]
    assert value.isascii()
    plain, _, extended = value.removeprefix("attachment; filename=").partition("; filename*=")
    assert plain == f'"{ascii_name}"'
    assert extended.startswith("UTF-8''")
    encoded = extended.removeprefix("UTF-8''")
    assert unquote(encoded) == utf8_name
    assert not set(encoded) & set("\"'()*,/:;<=>?@[\\]{} \t")  # no attr-char (RFC 8187 3.2.1)
    assert "Set-Cookie" not in reply.headers


@pytest.mark.parametrize("name", ["x" * 5000, "ü" * 1000])
async def test_a_long_name_is_cut_to_what_file_systems_take(client, gateway, name):
    reply = await ask(client, gateway.url(["a.txt"], name=name), "HEAD")
    encoded = reply.headers["Content-Disposition"].partition("UTF-8''")[2]
    saved = unquote(encoded)
    assert saved.endswith(".tar")
    assert 200 < len(saved.encode()) <= 255
    assert set(saved.removesuffix(".tar")) == {name[0]}


# Request ids


@pytest.mark.parametrize("given", ["abc-123", "A.b_c:d/e=f+g-h", "x" * 128])
async def test_a_sane_request_id_is_kept(client, gateway, given):
    for path in (gateway.url(["a.txt"]), gateway.url(["a.txt"], "/plan"), gateway.url()):
        reply = await ask(client, path, headers={"X-Request-Id": given})
        assert reply.headers["X-Request-Id"] == given


@pytest.mark.parametrize("given", ["", "x" * 129, "two words", "<script>", "ü", '"', "a,b"])
async def test_any_other_request_id_is_replaced(client, gateway, given):
    reply = await ask(client, gateway.url(["a.txt"]), headers={"X-Request-Id": given})
    assert reply.headers["X-Request-Id"] not in {given, ""}
    again = await ask(client, gateway.url(["a.txt"]), headers={"X-Request-Id": given})
    assert again.headers["X-Request-Id"] != reply.headers["X-Request-Id"]


# Before and after the first byte


@pytest.mark.parametrize("range_", ["bytes=0-", f"bytes={PLACES['c.bin'][0]}-"])
async def test_an_origin_that_is_down_is_502_and_not_a_broken_download(
    client, origin, start, range_
):
    """The first member that is needed is opened before the headers go out."""
    gateway = await start(origin, catalog(origin), upstream={"attempts": 1})
    for id_, content in CONTENTS.items():
        origin.add(f"/{id_}", content)
    origin.refuse()
    reply = await ask(client, gateway.url(IDS), headers={"Range": range_})
    assert reply.status == 502
    assert reply.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize("algorithm", ["sha256", "crc32"])
@pytest.mark.parametrize("id_", ["b/ü.bin", "c.bin"])
async def test_a_wrong_digest_breaks_the_download_inside_the_member(
    client, origin, start, algorithm, id_
):
    for each, content in CONTENTS.items():
        origin.add(f"/{each}", content)
    wrong = {"sha256": "0" * 64, "crc32": "0" * 8}[algorithm]
    gateway = await start(origin, catalog(origin, **{id_: {algorithm: wrong}}))
    reply = await ask(client, gateway.url(IDS))
    assert reply.status == 200
    assert reply.broken
    begins, ends = PLACES[id_]
    assert begins < len(reply.body) < ends
    assert WHOLE.startswith(reply.body)


async def test_right_digests_are_verified_and_pass(client, origin, start):
    more = {
        id_: {
            "sha256": hashlib.sha256(content).hexdigest().upper(),
            "crc32": f"{zlib.crc32(content):08X}",
        }
        for id_, content in CONTENTS.items()
    }
    for id_, content in CONTENTS.items():
        origin.add(f"/{id_}", content)
    gateway = await start(origin, catalog(origin, **more))
    reply = await ask(client, gateway.url(IDS))
    assert (reply.body, reply.broken) == (WHOLE, False)


async def test_a_part_of_a_member_is_not_verified(client, origin, start):
    origin.add("/c.bin", CONTENTS["c.bin"])
    gateway = await start(origin, catalog(origin, **{"c.bin": {"sha256": "0" * 64}}))
    start_ = PLACES["c.bin"][0]
    reply = await ask(client, gateway.url(IDS), headers={"Range": f"bytes={start_ + 1}-"})
    assert (reply.status, reply.body) == (206, WHOLE[start_ + 1 :])


async def test_server_names_itself_without_version_everywhere(client, gateway, origin):
    base = f"http://127.0.0.1:{gateway.port}"
    for path, status in (("/archive?ids=a.txt", 200), ("/plan", 400), ("/nowhere", 404)):
        reply = await ask(client, base + path)
        assert (reply.status, reply.headers["Server"]) == (status, "tarstream")
        assert reply.headers["X-Content-Type-Options"] == "nosniff"
