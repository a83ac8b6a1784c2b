"""`format=tar.gz` and `tar.zst` over HTTP, and routes by suffix."""

import argparse
import asyncio
import gzip
import io
import json
import logging
import tarfile
import time
from pathlib import Path

import aiohttp
import faults
import pytest
from gateway import archive_path, raw
from origin import Made, Object
from test_compress import READERS, WHOLE, threads_taken
from yarl import URL

from tarstream.compress import zstd
from tarstream.formats import FORMATS, KINDS
from tarstream.signing import sign

CODED = [name for name, kind in KINDS.items() if kind.coding]
MEMBERS = {"a": b"hello " * 10_000, "b": Made(700_001, seed=1), "dir/ü.txt": b""}
IDS = list(MEMBERS)

any_coded = pytest.mark.parametrize("name", CODED)
any_kind = pytest.mark.parametrize("name", KINDS)


@pytest.fixture
async def gateway(origin, start):
    for id_, content in MEMBERS.items():
        origin.add(f"/{id_}", content)
    return await start(origin)


async def ask(client, url, method="GET", **options):
    async with client.request(method, URL(url, encoded=True), **options) as response:
        return response.status, response.headers, await response.read()


def coding(name):
    return KINDS[name].coding


def test_both_are_there():
    assert {name: (KINDS[name].media_type, KINDS[name].format) for name in CODED} == {
        "tar.gz": ("application/gzip", "tar"),
        "tar.zst": ("application/zstd", "tar"),
    }


@any_coded
async def test_it_is_the_tar_compressed(client, gateway, name):
    _, _, expected = await ask(client, gateway.url(IDS))
    status, _, body = await ask(client, gateway.url(IDS, format=name))
    assert status == 200
    assert WHOLE[coding(name)](body) == expected
    with tarfile.open(fileobj=io.BytesIO(expected)) as archive:
        assert archive.getnames() == IDS


@any_coded
async def test_its_headers_promise_nothing_that_is_not_known(client, gateway, name):
    _, headers, _ = await ask(client, gateway.url(IDS, format=name))
    assert "Content-Length" not in headers
    assert "Content-Encoding" not in headers
    assert headers["Transfer-Encoding"] == "chunked"
    assert headers["Accept-Ranges"] == "none"
    assert headers["ETag"].startswith('W/"')
    assert headers["Content-Type"] == KINDS[name].media_type
    assert f'filename="archive.{name}"' in headers["Content-Disposition"]
    assert headers["Cache-Control"] == "no-cache, no-transform"


@any_coded
async def test_a_name_gets_its_suffix(client, gateway, name):
    _, headers, _ = await ask(client, gateway.url(IDS, format=name, name="holiday"))
    assert f'filename="holiday.{name}"' in headers["Content-Disposition"]


@any_coded
async def test_to_http_1_0_the_end_of_the_connection_is_its_end(gateway, name):
    path = archive_path(IDS, format=name)
    answer = await raw(gateway.port, f"GET {path} HTTP/1.0\r\n\r\n".encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b" 200 " in head.split(b"\r\n")[0]
    assert b"content-length" not in head.lower()
    assert b"transfer-encoding" not in head.lower()
    assert WHOLE[coding(name)](body)


@any_coded
async def test_head_has_the_headers_and_no_body(client, origin, gateway, name):
    url = gateway.url(IDS, format=name)
    _, expected, _ = await ask(client, url)
    opened = len([each for each in origin.requests if each.method == "GET"])
    path = archive_path(IDS, format=name)
    answer = await raw(
        gateway.port, f"HEAD {path} HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n".encode()
    )
    head, _, body = answer.partition(b"\r\n\r\n")
    assert body == b""
    assert b"content-length" not in head.lower()
    for header in ("ETag", "Content-Type", "Content-Disposition", "Accept-Ranges"):
        assert f"{header}: {expected[header]}".encode() in head
    assert len([each for each in origin.requests if each.method == "GET"]) == opened


@any_coded
async def test_ranges_are_ignored_and_conditions_are_those_of_a_weak_tag(client, gateway, name):
    url = gateway.url(IDS, format=name)
    _, headers, whole = await ask(client, url)
    etag = headers["ETag"]
    for asked in (
        {"Range": "bytes=0-9"},
        {"Range": "bytes=99999999-"},
        {"Range": "bytes=0-9", "If-Range": etag},
        {"Range": "bytes=0-9", "If-Range": etag.removeprefix("W/")},
        {"If-None-Match": '"other"'},
    ):
        status, headers, body = await ask(client, url, headers=asked)
        assert (status, WHOLE[coding(name)](body)) == (200, WHOLE[coding(name)](whole)), asked
    for given in (etag, etag.removeprefix("W/"), f'"x", {etag}', "*"):
        status, headers, body = await ask(client, url, headers={"If-None-Match": given})
        assert (status, headers["ETag"], body) == (304, etag, b"")
    assert (await ask(client, url, headers={"If-Match": etag}))[0] == 412


async def test_every_kind_has_a_tag_of_its_own(client, gateway):
    tags = [(await ask(client, gateway.url(IDS, format=name)))[1]["ETag"] for name in KINDS]
    assert len({tag.removeprefix("W/") for tag in tags}) == len(KINDS)


@any_coded
async def test_the_tag_follows_the_members(client, origin, start, name):
    origin.add("/a", Object(b"one", etag='W/"1"', last_modified=None))
    origin.add("/b", Object(b"two", etag=None, last_modified=None))
    gateway = await start(origin, upstream={"remember": 0})
    _, before, _ = await ask(client, gateway.url("a", format=name))
    assert before["ETag"].startswith('W/"')
    origin.add("/a", Object(b"one", etag='W/"2"', last_modified=None))
    _, after, _ = await ask(client, gateway.url("a", format=name))
    assert after["ETag"] != before["ETag"]
    assert "ETag" not in (await ask(client, gateway.url("ab", format=name)))[1]


@any_coded
async def test_it_cannot_be_pinned(client, gateway, name):
    tag = json.loads((await ask(client, gateway.url(IDS, "/plan", format=name)))[2])["etag"]
    for version in ("x", tag, tag.removeprefix("W/").strip('"')):
        for route in ("/archive", "/plan", f"/archive.{name}"):
            status, _, body = await ask(
                client, gateway.url(IDS, route, format=name, version=version)
            )
            assert (status, name in json.loads(body)["detail"]) == (400, True)


@any_coded
async def test_its_plan_is_that_of_the_tar_inside_without_a_size(client, gateway, name):
    inside = json.loads((await ask(client, gateway.url(IDS, "/plan")))[2])
    plan = json.loads((await ask(client, gateway.url(IDS, "/plan", format=name)))[2])
    assert plan["size"] is None
    assert plan["members"] == inside["members"]
    assert plan["url"].endswith(f"&format={name}")
    root = f"http://127.0.0.1:{gateway.port}"
    _, headers, body = await ask(client, root + plan["url"])
    assert headers["ETag"] == plan["etag"]
    tar = WHOLE[coding(name)](body)
    for id_, member in zip(IDS, plan["members"], strict=True):
        content = MEMBERS[id_]
        expected = content.read() if isinstance(content, Made) else content
        assert tar[member["offset"] :][: member["size"]] == expected


@any_coded
async def test_its_plan_in_lines_states_no_size(client, gateway, name):
    _, headers, _ = await ask(
        client,
        gateway.url(IDS, "/plan", format=name),
        headers={"Accept": "application/x-ndjson"},
    )
    assert "X-Archive-Size" not in headers
    assert headers["ETag"].startswith('W/"')
    assert headers["X-Archive-Members"] == "3"
    assert "version=" not in headers["Link"]


@any_coded
async def test_what_is_wrong_before_the_first_byte_is_an_answer(client, origin, start, name):
    gateway = await start(origin, upstream={"attempts": 1})
    origin.add("/broken", b"x" * 5000, faults.status(500, methods=("GET",)))
    assert (await ask(client, gateway.url(["broken"], format=name)))[0] == 502
    assert (await ask(client, gateway.url(["nobody"], format=name)))[0] == 502


@any_coded
async def test_an_archive_of_weak_members_may_be_compressed_as_well(client, origin, start, name):
    origin.add("/a", Object(b"x" * 5000, etag=None, last_modified=None))
    gateway = await start(origin)
    status, _, body = await ask(client, gateway.url("a", format=name))
    assert status == 200
    assert WHOLE[coding(name)](body)


@any_coded
async def test_missing_members_are_listed_in_it(client, gateway, name):
    _, _, body = await ask(client, gateway.url(["a", "nobody"], format=name, missing="skip"))
    with tarfile.open(fileobj=io.BytesIO(WHOLE[coding(name)](body))) as archive:
        assert archive.getnames() == ["a", "MISSING.txt"]


@any_coded
async def test_levels_are_settings(client, origin, start, name):
    origin.add("/text", Path(argparse.__file__).read_bytes())
    sizes = []
    for level in (1, 9):
        levels = {"gzip_level": level, "zstd_level": level}
        gateway = await start(origin, compression=levels)
        sizes.append(len((await ask(client, gateway.url(["text"], format=name)))[2]))
    assert sizes[1] < sizes[0]


# On its way


@any_coded
async def test_what_a_slow_origin_gave_is_not_held_back(client, origin, start, name):
    content = Made(2_000_000, seed=5)
    origin.add("/slow", content, faults.stall(at=1_000_000))
    gateway = await start(origin)
    reader, read = READERS[coding(name)](), b""
    async with client.get(URL(gateway.url(["slow"], format=name), encoded=True)) as response:
        async with asyncio.timeout(30):
            while len(read) < 512 + 1_000_000:
                read += reader.decompress(await response.content.readany())
        assert origin.stalled == 1
        assert read[512:] == content.read(0, 1_000_000)
        origin.release()
        rest = await response.read()
    assert len(read + reader.decompress(rest)) > 2_000_000
    assert reader.eof


@any_coded
async def test_others_go_on_while_nothing_can_be_compressed(client, gateway, name):
    with threads_taken():
        waiting = asyncio.create_task(ask(client, gateway.url(IDS, format=name)))
        for plain in FORMATS:
            assert (await ask(client, gateway.url(IDS, format=plain)))[0] == 200
        assert not waiting.done()
    status, _, body = await waiting
    assert status == 200
    assert WHOLE[coding(name)](body)


@any_coded
async def test_an_origin_is_asked_no_faster_than_the_client_reads(origin, start, name):
    """Memory is bounded: random bytes cannot be compressed, so they wait where they are."""
    origin.send_buffer = 64 * 1024
    big = Made(256 * 1024**2, seed=6)
    origin.add("/big", big)
    gateway = await start(origin)
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, limit=1024)
    path = archive_path(["big"], format=name)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: g\r\n\r\n".encode())
    await reader.readline()
    await origin.until(lambda: origin.asked("/big"))
    (request,) = origin.asked("/big")
    sent = -1
    async with asyncio.timeout(30):
        while sent != request.sent:
            sent = request.sent
            await asyncio.sleep(0.5)
    assert sent < big.size // 2
    writer.transport.abort()
    await origin.until(lambda: not origin.in_flight)


@any_coded
async def test_a_client_that_leaves_ends_it_all(origin, start, caplog, name):
    caplog.set_level(logging.INFO)
    origin.add("/slow", Made(2_000_000, seed=5), faults.stall(at=1_000_000))
    gateway = await start(origin)
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        url = URL(gateway.url(["slow"], format=name), encoded=True)
        async with session.get(url) as response:
            await response.content.readany()
    await origin.until(lambda: not origin.in_flight)
    await origin.until(lambda: any(record.message == "archive" for record in caplog.records))
    assert [each.fields["outcome"] for each in caplog.records if each.message == "archive"] == [
        "client left"
    ]


@any_coded
async def test_a_client_that_leaves_while_its_chunk_waits_leaves_nothing(
    origin, start, caplog, name
):
    caplog.set_level(logging.INFO)
    origin.add("/a", MEMBERS["a"])
    gateway = await start(origin)
    with threads_taken():
        _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        path = archive_path(["a"], format=name)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: g\r\n\r\n".encode())
        await origin.until(lambda: origin.asked("/a"))
        await origin.until(lambda: not origin.in_flight)
        writer.transport.abort()
        await origin.until(lambda: any(each.message == "archive" for each in caplog.records))
    assert not gateway.gateway._admission._busy


async def test_the_log_states_no_length_that_was_not_known(client, gateway, caplog):
    caplog.set_level(logging.INFO)
    _, _, body = await ask(client, gateway.url(IDS, format="tar.gz"))
    (line,) = [each.fields for each in caplog.records if each.message == "archive"]
    assert (line["outcome"], line["sent"], line["of"]) == ("complete", len(body), None)
    assert line["archive"] == len(gzip.decompress(body))


async def test_what_was_compressed_before_a_shutdown_arrives_and_looks_cut(origin, start, client):
    content = Made(2_000_000, seed=5)
    origin.add("/slow", content, faults.stall(at=1_000_000))
    gateway = await start(origin)
    async with client.get(URL(gateway.url(["slow"], format="tar.zst"), encoded=True)) as response:
        await origin.until(lambda: origin.stalled)
        cutting = asyncio.create_task(gateway.gateway._admission.cut(5))
        received = bytearray()

        async def receive():
            async for chunk in response.content.iter_any():
                received.extend(chunk)

        with pytest.raises(aiohttp.ClientPayloadError):
            await receive()
        assert await cutting == 1
    read = zstd.ZstdDecompressor().decompress(bytes(received))
    assert read[512:] == content.read(0, len(read) - 512)
    with pytest.raises(zstd.ZstdError):
        zstd.decompress(bytes(received))


# By suffix


@any_kind
async def test_a_suffix_says_the_format(client, gateway, name):
    expected = await ask(client, gateway.url(IDS, format=name))
    for url in (
        gateway.url(IDS, f"/archive.{name}"),
        gateway.url(IDS, f"/archive.{name}", format=name),
    ):
        status, headers, body = await ask(client, url)
        assert (status, body) == (200, expected[2]) if coding(name) is None else (200, body)
        for header in ("ETag", "Content-Type", "Content-Disposition", "Content-Length"):
            assert headers.get(header) == expected[1].get(header)


@any_kind
@pytest.mark.parametrize("other", KINDS)
async def test_a_suffix_and_a_format_that_disagree_are_400(client, gateway, name, other):
    url = gateway.url(IDS, f"/archive.{name}", format=other)
    status, _, _ = await ask(client, url, "GET")
    assert status == (200 if name == other else 400)
    posted = {"ids": IDS, "format": other}
    url = f"http://127.0.0.1:{gateway.port}/archive.{name}"
    assert (await ask(client, url, "POST", json=posted))[0] == status


@any_kind
async def test_head_and_post_know_suffixes(client, gateway, name):
    url = f"http://127.0.0.1:{gateway.port}/archive.{name}"
    status, headers, _ = await ask(client, url, "POST", json={"ids": IDS})
    assert (status, headers["Content-Type"]) == (200, KINDS[name].media_type)
    status, headers, _ = await ask(client, gateway.url(IDS, f"/archive.{name}"), "HEAD")
    assert (status, headers["Content-Type"]) == (200, KINDS[name].media_type)
    assert (await ask(client, url, "DELETE"))[0] == 405


@pytest.mark.parametrize("suffix", ["rar", "tar.xz", "TAR", "tarx", "t%61r.xz"])
async def test_other_suffixes_are_refused_with_what_there_is(client, gateway, suffix):
    status, _, body = await ask(client, gateway.url(IDS, f"/archive.{suffix}"))
    assert status == 400
    assert json.loads(body)["detail"] == f"format must be one of: {', '.join(KINDS)}"


@pytest.mark.parametrize("path", ["/archive.", "/archive.tar/", "/archivetar", "/x/archive.tar"])
async def test_what_has_no_suffix_is_not_found(client, gateway, path):
    assert (await ask(client, gateway.url(IDS, path)))[0] == 404


async def test_a_suffix_takes_ranges_and_versions(client, gateway):
    _, headers, whole = await ask(client, gateway.url(IDS, "/archive.tar"))
    version = headers["ETag"].strip('"')
    url = gateway.url(IDS, "/archive.tar", version=version)
    status, _, part = await ask(client, url, headers={"Range": "bytes=700-799"})
    assert (status, part) == (206, whole[700:800])


async def test_accept_negotiates_nothing(client, gateway):
    for accept in ("application/zip", "application/gzip", "application/zstd;q=1"):
        _, headers, _ = await ask(client, gateway.url(IDS), headers={"Accept": accept})
        assert headers["Content-Type"] == "application/x-tar"


async def test_a_signature_covers_the_suffix(client, origin, start):
    origin.add("/a", b"x")
    secret = "0123456789abcdef" * 2
    gateway = await start(origin, auth={"kind": "signed", "keys": [f"k {secret}"]})
    path = sign("/archive.tar.gz?ids=a", "k", secret.encode(), int(time.time()) + 1000)
    root = f"http://127.0.0.1:{gateway.port}"
    assert (await ask(client, root + path))[0] == 200
    for other in ("/archive", "/archive.tar", "/archive.tar.zst"):
        assert (await ask(client, root + path.replace("/archive.tar.gz", other)))[0] == 403


async def test_archives_of_any_suffix_count_as_archives(client, gateway):
    for name in KINDS:
        await ask(client, gateway.url(IDS, f"/archive.{name}"))
    await ask(client, gateway.url(IDS, "/archive.rar"))
    _, _, body = await ask(client, f"http://127.0.0.1:{gateway.port}/metrics")
    assert f'route="/archive",status="200"}} {len(KINDS)}.0' in body.decode()
    assert "/archive." not in body.decode()


async def test_the_document_lists_them(client, gateway):
    _, _, body = await ask(client, f"http://127.0.0.1:{gateway.port}/openapi.json")
    path = json.loads(body)["paths"]["/archive.{suffix}"]
    assert set(path) == {"get", "head", "post"}
    for operation in path.values():
        (suffix,) = [each for each in operation["parameters"] if each.get("in") == "path"]
        assert suffix["schema"] == {"enum": list(KINDS)}
