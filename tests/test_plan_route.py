"""`/plan`: what an archive will hold, and where, without opening any of it."""

import json
import tarfile
from io import BytesIO

import faults
import pytest
from answer import Object
from yarl import URL

CONTENTS = {"a.txt": b"hello", "b/ü.bin": bytes(range(256)) * 5, "empty": b"", "c,d": b"comma"}
NDJSON = "application/x-ndjson"


@pytest.fixture
async def gateway(origin, start):
    for id_, content in CONTENTS.items():
        origin.add(f"/{id_}", content)
    return await start(origin)


async def ask(client, url, method="GET", **options):
    async with client.request(method, URL(url, encoded=True), **options) as response:
        return response.status, response.headers, await response.read()


async def plan(client, gateway, ids, **parameters):
    status, headers, body = await ask(client, gateway.url(ids, "/plan", **parameters))
    assert status == 200
    assert headers["Content-Type"] == "application/json"
    assert headers["Content-Length"] == str(len(body))
    assert headers["Cache-Control"] == "no-store"
    return json.loads(body)


async def lines(client, gateway, ids, **parameters):
    url = gateway.url(ids, "/plan", **parameters)
    status, headers, body = await ask(client, url, headers={"Accept": NDJSON})
    assert status == 200
    assert headers["Content-Type"] == NDJSON
    return headers, [json.loads(line) for line in body.splitlines()]


def root(gateway):
    return f"http://127.0.0.1:{gateway.port}"


async def test_a_plan_has_exactly_these_fields(client, gateway):
    read = await plan(client, gateway, ["a.txt"])
    etag = read["etag"]
    assert read == {
        "format": "tar",
        "size": 512 + 512 + 1024,
        "etag": etag,
        "url": "/archive?ids=a.txt&version=" + etag.strip('"'),
        "members": [
            {
                "id": "a.txt",
                "name": "a.txt",
                "size": 5,
                "mtime": 1_000_000_000,
                "offset": 512,
                "etag": Object(b"hello").etag,
            }
        ],
        "renamed": [],
        "missing": [],
    }


@pytest.mark.parametrize("accept", ["application/json", NDJSON])
async def test_a_plan_opens_no_body(client, gateway, origin, accept):
    url = gateway.url(list(CONTENTS), "/plan")
    assert (await ask(client, url, headers={"Accept": accept}))[0] == 200
    assert {request.method for request in origin.requests} == {"HEAD"}
    assert len(origin.requests) == len(CONTENTS)


async def test_the_plan_is_of_the_archive_that_is_then_sent(client, gateway):
    ids = [*CONTENTS, "a.txt"]
    read = await plan(client, gateway, ids)
    status, headers, body = await ask(client, root(gateway) + read["url"])
    assert status == 200
    assert len(body) == read["size"]
    assert headers["ETag"] == read["etag"]
    assert headers["Cache-Control"].startswith("private, max-age=31536000")
    assert [member["id"] for member in read["members"]] == ids
    with tarfile.open(fileobj=BytesIO(body)) as tar:
        assert [member["name"] for member in read["members"]] == tar.getnames()
        assert [member["mtime"] for member in read["members"]] == [m.mtime for m in tar]
    for member in read["members"]:
        start, stop = member["offset"], member["offset"] + member["size"]
        assert body[start:stop] == CONTENTS[member["id"]]


async def test_an_offset_and_a_size_are_a_range_of_the_pinned_archive(client, gateway):
    read = await plan(client, gateway, list(CONTENTS))
    member = read["members"][1]
    asked = f"bytes={member['offset']}-{member['offset'] + member['size'] - 1}"
    url = root(gateway) + read["url"]
    status, _, body = await ask(client, url, headers={"Range": asked})
    assert (status, body) == (206, CONTENTS["b/ü.bin"])


async def test_the_url_asks_for_the_same_again(client, origin, gateway):
    origin.add("/b", b"")
    parameters = {"name": "holi day", "missing": "skip", "format": "tar"}
    read = await plan(client, gateway, ["a.txt", "b", "gone"], **parameters)
    status, headers, body = await ask(client, root(gateway) + read["url"])
    assert (status, headers["ETag"], len(body)) == (200, read["etag"], read["size"])
    assert 'filename="holi day.tar"' in headers["Content-Disposition"]
    again = await plan(client, gateway, ["a.txt", "b", "gone"], **parameters)
    assert again == read


@pytest.mark.parametrize("id_", ["c,d", "a+b", "a b", "a%2Cb", "ü", "a&b=c", "a#b", "a?b", '"<>'])
async def test_the_url_survives_whatever_an_id_holds(client, origin, gateway, id_):
    origin.add(f"/{id_}", b"content of " + id_.encode())
    read = await plan(client, gateway, [id_, "a.txt"])
    assert read["url"].isascii()
    _, _, body = await ask(client, root(gateway) + read["url"])
    assert b"content of " + id_.encode() in body


async def test_the_base_path_stands_before_urls_that_are_given_out(client, origin, start, gateway):
    other = await start(origin, server={"base_path": "/files"})
    read = await plan(client, other, ["a.txt"])
    assert read["url"].startswith("/files/archive?ids=a.txt&version=")


async def test_a_url_that_would_be_too_long_is_null(client, origin, start):
    origin.add("/" + "x" * 2000, b"hello")
    gateway = await start(origin)
    base = await plan(client, gateway, ["x" * 2000] * 14)
    assert len(base["url"]) <= 30_000
    assert (await ask(client, root(gateway) + base["url"]))[0] == 200
    assert (await plan(client, gateway, ["x" * 2000] * 15))["url"] is None
    headers, _ = await lines(client, gateway, ["x" * 2000] * 15)
    assert "Link" not in headers


async def test_the_plan_of_a_weak_archive_is_not_pinned(client, origin, gateway):
    origin.objects["/a.txt"].faults.append(faults.weak_etag())
    origin.objects["/a.txt"].last_modified = None
    read = await plan(client, gateway, ["a.txt"])
    assert read["etag"].startswith('W/"')
    assert read["url"] == "/archive?ids=a.txt"
    assert read["members"][0]["etag"] == "W/" + Object(b"hello").etag
    assert (await ask(client, root(gateway) + read["url"]))[0] == 200


async def test_a_member_whose_validator_is_a_date_has_no_etag(client, origin, gateway):
    origin.objects["/a.txt"].etag = None
    read = await plan(client, gateway, ["a.txt"])
    assert read["members"][0]["etag"] is None
    assert "version=" in read["url"]


async def test_a_plan_without_any_validator_has_no_etag(client, origin, gateway):
    origin.objects["/a.txt"].etag = origin.objects["/a.txt"].last_modified = None
    read = await plan(client, gateway, ["a.txt"])
    assert (read["etag"], read["url"]) == (None, "/archive?ids=a.txt")
    headers, [member] = await lines(client, gateway, ["a.txt"])
    assert "ETag" not in headers
    assert member["mtime"] == 0


async def test_renamed_members_are_told(client, origin, gateway):
    origin.add("/A.TXT", b"other")
    read = await plan(client, gateway, ["a.txt", "a.txt", "A.TXT"])
    assert [member["name"] for member in read["members"]] == ["a.txt", "a (2).txt", "A (3).TXT"]
    assert read["renamed"] == [
        {"id": "a.txt", "from": "a.txt", "to": "a (2).txt"},
        {"id": "A.TXT", "from": "A.TXT", "to": "A (3).TXT"},
    ]


async def test_missing_members_are_told_and_listed_in_a_last_member(client, gateway):
    read = await plan(client, gateway, ["gone", "a.txt", "../up"], missing="skip")
    assert {each["id"] for each in read["missing"]} == {"gone", "../up"}
    assert all(each["reason"] for each in read["missing"])
    last = read["members"][-1]
    assert (last["id"], last["name"], last["mtime"]) == (None, "MISSING.txt", 0)
    _, _, body = await ask(client, root(gateway) + read["url"])
    listed = body[last["offset"] : last["offset"] + last["size"]].decode()
    assert [line.split("\t")[0] for line in listed.splitlines()] == [
        each["id"] for each in read["missing"]
    ]
    for each in read["missing"]:
        assert each["reason"] in listed


async def test_nothing_left_is_404(client, gateway):
    url = gateway.url(["gone", "../up"], "/plan", missing="skip")
    status, _, body = await ask(client, url)
    assert status == 404
    assert {each["id"] for each in json.loads(body)["ids"]} == {"gone", "../up"}


async def test_lines_hold_the_members_and_headers_the_rest(client, gateway):
    ids = [*CONTENTS, "gone", "a.txt"]
    read = await plan(client, gateway, ids, missing="skip")
    headers, members = await lines(client, gateway, ids, missing="skip")
    assert members == read["members"]
    assert headers["X-Archive-Size"] == str(read["size"])
    assert headers["X-Archive-Members"] == str(len(members))
    assert headers["ETag"] == read["etag"]
    assert headers["Link"] == f'<{read["url"]}>; rel="canonical"'
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Accel-Buffering"] == "no"


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (NDJSON, NDJSON),
        ("Application/X-NDJSON; q=0.9", NDJSON),
        (f"text/html, {NDJSON}", NDJSON),
        ("*/*", "application/json"),
        ("application/json", "application/json"),
        ("application/x-ndjson;q=0", "application/json"),
        ("application/x-ndjson; q=0.5", NDJSON),
        ("text/html, Application/X-NDJSON;q=1", NDJSON),
        ("application/x-ndjson-not", "application/json"),
    ],
)
async def test_accept_chooses_lines(client, gateway, accept, kind):
    url = gateway.url(["a.txt"], "/plan")
    _, headers, _ = await ask(client, url, headers={"Accept": accept})
    assert headers["Content-Type"] == kind


@pytest.mark.parametrize("accept", ["application/json", NDJSON])
async def test_head_has_the_headers_of_get(client, gateway, accept):
    url = gateway.url(["a.txt"], "/plan")
    replies = [await ask(client, url, m, headers={"Accept": accept}) for m in ("HEAD", "GET")]
    assert replies[0][2] == b""
    ignored = {"date", "x-request-id", "transfer-encoding"}  # RFC 9110 9.3.2 lets the last one go
    headers = [
        {k.lower(): v for k, v in reply[1].items() if k.lower() not in ignored} for reply in replies
    ]
    assert headers[0] == headers[1]


async def test_conditions_and_ranges_are_of_the_archive_not_of_its_plan(client, gateway):
    url = gateway.url(["a.txt"], "/plan")
    for headers in ({"If-None-Match": "*"}, {"If-Match": '"x"'}, {"Range": "bytes=0-0"}):
        status, _, body = await ask(client, url, headers=headers)
        assert status == 200
        assert json.loads(body)["size"] == 2048


async def test_a_version_that_the_sources_do_not_give_is_409(client, gateway):
    read = await plan(client, gateway, ["a.txt"])
    version = read["etag"].strip('"')
    assert await plan(client, gateway, ["a.txt"], version=version) == read
    assert (await ask(client, gateway.url(["a.txt"], "/plan", version="x")))[0] == 409


async def test_a_plan_of_thousands_is_whole(client, origin, start):
    entries = [
        {"id": f"{n}", "url": f"{origin.root}/{n}", "size": n, "mtime": 1, "etag": f'"{n}"'}
        for n in range(5000)
    ]
    gateway = await start(origin, entries)
    ids = ",".join(str(n) for n in range(5000))
    url = f"http://127.0.0.1:{gateway.port}/plan?ids={ids}"
    status, _, body = await ask(client, url)
    assert status == 200
    members = json.loads(body)["members"]
    assert [member["size"] for member in members] == list(range(5000))
    # The URL stands in a header, which is as long as a URL may be.
    _, headers, body = await ask(
        client, url, headers={"Accept": NDJSON}, max_line_size=32_768, max_field_size=32_768
    )
    assert [json.loads(line) for line in body.splitlines()] == members
    assert headers["X-Archive-Members"] == "5000"


async def test_a_pinned_url_is_newer_than_what_another_gateway_remembers(client, origin, start):
    """Also where the catalog states the entity-tag, and only the time is asked for."""
    url = origin.add("/a", Object(b"abc", etag='"e"', last_modified=1_000_000_000))
    entries = [{"id": "a", "url": url, "size": 3, "etag": '"e"'}]
    first = await start(origin, entries)
    async with client.get(URL(first.url(["a"], "/plan"), encoded=True)) as answer:
        old = (await answer.json())["url"]
    origin.add("/a", Object(b"abc", etag='"e"', last_modified=1_100_000_000))
    second = await start(origin, entries)
    async with client.get(URL(second.url(["a"], "/plan"), encoded=True)) as answer:
        new = (await answer.json())["url"]
    assert new != old
    async with client.get(URL(f"http://127.0.0.1:{first.port}{new}", encoded=True)) as answer:
        assert answer.status == 200
    async with client.get(URL(f"http://127.0.0.1:{first.port}{old}", encoded=True)) as answer:
        assert answer.status == 409


@pytest.mark.parametrize("accept", ["application/json", NDJSON])
async def test_what_a_terminal_would_obey_is_escaped(client, origin, start, accept):
    """An id may hold controls of its own, and of the direction of writing."""
    id_ = "a\x9b31m\u202etxt"
    entries = [{"id": id_, "url": origin.add("/a", b"x")}]
    gateway = await start(origin, entries)
    status, _, body = await ask(client, gateway.url([id_], "/plan"), headers={"Accept": accept})
    assert status == 200
    assert body.decode().removesuffix("\n").isprintable()
    read = json.loads(body)
    assert (read["members"][0] if accept == "application/json" else read)["id"] == id_
