"""Zip over HTTP: the same bytes whole and in parts, whatever is known of contents beforehand."""

import asyncio
import io
import re
import subprocess
import urllib.request
import zipfile
import zlib

import faults
import pytest
from gateway import ROOT, process
from made import Made
from origin import Object, Origin
from test_formats import READERS, READERS_OF_STATED
from test_layout import assemble
from test_zip import LOOK_AT_NO_CRC, ONLY_LAST

from tarstream.formats import zip as zip_
from tarstream.layout import Layout, Member

SOURCES = {
    "first.bin": Made(50_000, 1),
    "dir/ü.txt": Made(1000, 2),
    "empty": Made(0),
    "large.bin": Made(300_000, 3),
    "last": Made(77, 4),
}
TOTAL = sum(each.size for each in SOURCES.values())


def add(origin, sources=SOURCES):
    for name, made in sources.items():
        origin.add(f"/{name}", made)


def crc(made):
    return f"{zlib.crc32(made.read()):08x}"


def entries(origin, sources=SOURCES, *, stated=True, **more):
    """A catalog that states CRCs."""
    return [
        {"id": name, "url": origin.url(f"/{name}"), "name": name, **more}
        | ({"crc32": crc(made)} if stated else {})
        for name, made in sources.items()
    ]


def expected(gateway_or_origin, stated=False, sources=SOURCES):
    """The layout of the archive, and its bytes."""
    origin = gateway_or_origin
    members = []
    for name, made in sources.items():
        thing = origin.objects[f"/{name}"]
        digests = (("crc32", crc(made)),) if stated else ()
        mtime = int(thing.last_modified)
        members.append(
            Member(name, made.size, mtime, origin.url(f"/{name}"), thing.etag, digests, name)
        )
    layout = Layout(zip_, members)
    by_name = {each.name: sources[each.name] for each in members}
    read = lambda member, start, stop: by_name[member.name].read(start, stop)  # noqa: E731
    return layout, assemble(layout.slice(0, layout.size), read)


async def get(client, url, start=None, stop=None, **headers):
    """An answer and its body; of the bytes [start, stop) when they are given."""
    if start is not None:
        headers["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
    async with client.get(url, headers=headers) as answer:
        return answer, await answer.read()


def fetched(origin):
    """Bytes of contents that were asked for, by name."""
    return {
        path[1:]: sum(each.sent for each in origin.asked(path))
        for path in origin.objects
        if origin.asked(path)
    }


@pytest.mark.parametrize("stated", [False, True])
async def test_the_whole_is_the_layout_and_says_so_beforehand(origin, start, client, stated):
    add(origin)
    gateway = await start(origin, entries(origin) if stated else None)
    layout, whole = expected(origin, stated)
    url = gateway.url(SOURCES, format="zip", name="holiday")
    async with client.head(url) as head:
        pass
    answer, body = await get(client, url)
    assert answer.status == head.status == 200
    assert body == whole
    for headers in (answer.headers, head.headers):
        assert headers["Content-Length"] == str(len(whole))
        assert headers["ETag"] == layout.etag
        assert headers["Accept-Ranges"] == "bytes"
        assert headers["Content-Type"] == "application/zip"
        assert 'filename="holiday.zip"' in headers["Content-Disposition"]
    assert zipfile.ZipFile(io.BytesIO(body)).testzip() is None


async def test_bytes_and_entity_tag_follow_from_what_is_stated_only(origin, start, client):
    """What was learnt meanwhile changes nothing."""
    add(origin)
    found = {}
    for stated in (False, True):
        gateway = await start(origin, entries(origin) if stated else None)
        url = gateway.url(SOURCES, format="zip")
        answers = [await get(client, url) for _ in range(2)]
        [found[stated]] = {(answer.headers["ETag"], body) for answer, body in answers}
        descriptors = found[stated][1].count(b"PK\7\x08")
        assert descriptors == (0 if stated else len(SOURCES))
    assert found[False][0] != found[True][0]


# Parts.


@pytest.mark.parametrize("stated", [False, True])
async def test_any_part_is_that_part_of_the_whole(origin, start, client, stated):
    """Nothing was sent before, so what a part follows from is read first."""
    add(origin)
    layout, whole = expected(origin, stated)
    edges = {0, layout.size - 1, layout.trailer_start, layout.trailer_start + 60}
    for index, each in enumerate(layout.members):
        content = layout.content_start(index)
        edges |= {content, content + 1, content + each.size, content + each.size + 7}
    for place in sorted(edges):
        gateway = await start(origin, entries(origin) if stated else None)
        url = gateway.url(SOURCES, format="zip")
        for stop in (min(place + 9, layout.size), layout.size):
            answer, body = await get(client, url, place, stop)
            assert answer.status == 206
            assert answer.headers["ETag"] == layout.etag
            assert answer.headers["Accept-Ranges"] == "bytes"
            assert body == whole[place:stop]


async def test_what_passed_once_is_not_read_again(origin, start, client):
    """Not even a budget of nothing is touched."""
    add(origin)
    gateway = await start(origin, zip={"reread_bytes": 0})
    layout, whole = expected(origin)
    url = gateway.url(SOURCES, format="zip")
    await get(client, url)
    before = fetched(origin)
    for place in (layout.trailer_start, layout.content_start(0) + 50_001):
        answer, body = await get(client, url, place)
        assert (answer.status, body) == (206, whole[place:])
    after = fetched(origin)
    assert after["first.bin"] == before["first.bin"]


async def test_what_was_read_once_is_not_read_again(origin, start, client):
    add(origin)
    gateway = await start(origin)
    layout, whole = expected(origin)
    url = gateway.url(SOURCES, format="zip")
    for _ in range(2):
        _, body = await get(client, url, layout.trailer_start)
        assert body == whole[layout.trailer_start :]
        assert fetched(origin) == {
            name: made.size for name, made in SOURCES.items() if made.size
        } | ({"empty": 0} if origin.asked("/empty") else {})


async def test_only_members_that_a_part_follows_from_are_read(origin, start, client):
    add(origin)
    gateway = await start(origin)
    layout, whole = expected(origin)
    url = gateway.url(SOURCES, format="zip")
    # The first one's descriptor, and no more.
    place = layout.content_start(0) + 50_000
    _, body = await get(client, url, place, place + 16)
    assert body == whole[place : place + 16]
    assert fetched(origin) == {"first.bin": 50_000}
    # Inside contents nothing follows from anything.
    place = layout.content_start(3) + 1000
    _, body = await get(client, url, place, place + 100)
    assert body == whole[place : place + 100]
    assert fetched(origin) == {"first.bin": 50_000, "large.bin": 100}


async def test_a_part_that_needs_too_much_reading_is_answered_with_the_whole(origin, start, client):
    """`Accept-Ranges` says so beforehand, and no longer once all is known."""
    add(origin)
    gateway = await start(origin, zip={"reread_bytes": TOTAL - 1})
    layout, whole = expected(origin)
    url = gateway.url(SOURCES, format="zip")
    async with client.head(url, headers={"Range": "bytes=0-0"}) as head:
        assert (head.status, head.headers["Accept-Ranges"]) == (200, "none")
    # A part that needs no more than the budget is answered all the same.
    answer, body = await get(client, url, 0, 1000)
    assert (answer.status, body) == (206, whole[:1000])
    answer, body = await get(client, url, layout.trailer_start)
    assert answer.status == 200
    assert body == whole
    assert answer.headers["Accept-Ranges"] == "none"
    assert answer.headers["Content-Length"] == str(len(whole))
    assert "Content-Range" not in answer.headers
    async with client.head(url) as head:
        assert head.headers["Accept-Ranges"] == "bytes"
    answer, body = await get(client, url, layout.trailer_start)
    assert (answer.status, body) == (206, whole[layout.trailer_start :])


async def test_a_part_whose_reading_just_fits_is_given(origin, start, client):
    add(origin)
    gateway = await start(origin, zip={"reread_bytes": TOTAL})
    layout, whole = expected(origin)
    url = gateway.url(SOURCES, format="zip")
    async with client.head(url) as head:
        assert head.headers["Accept-Ranges"] == "bytes"
    answer, body = await get(client, url, layout.trailer_start)
    assert (answer.status, body) == (206, whole[layout.trailer_start :])


@pytest.mark.parametrize("budget", [0, TOTAL])
async def test_conditions_are_answered_without_reading(origin, start, client, budget):
    add(origin)
    gateway = await start(origin, zip={"reread_bytes": budget})
    layout, _ = expected(origin)
    url = gateway.url(SOURCES, format="zip")
    tail = {"Range": f"bytes={layout.trailer_start}-"}
    for headers, status in [
        ({"If-None-Match": layout.etag} | tail, 304),
        ({"If-Match": '"other"'} | tail, 412),
        ({"Range": f"bytes={layout.size}-"}, 416),
    ]:
        answer, _ = await get(client, url, **headers)
        assert answer.status == status
    assert fetched(origin) == dict.fromkeys(fetched(origin), 0)


async def test_without_a_strong_entity_tag_there_are_no_parts(origin, start, client):
    add(origin)
    origin.objects["/last"].etag = 'W/"weak"'
    origin.objects["/last"].last_modified = None
    gateway = await start(origin)
    url = gateway.url(SOURCES, format="zip")
    for _ in range(2):
        answer, body = await get(client, url, 100)
        assert (answer.status, answer.headers["Accept-Ranges"]) == (200, "none")
        assert zipfile.ZipFile(io.BytesIO(body)).testzip() is None


async def test_curl_resumes_an_archive(origin, start, client, tmp_path):
    add(origin)
    gateway = await start(origin)
    _, whole = expected(origin)
    url = gateway.url(SOURCES, format="zip")
    path = tmp_path / "archive.zip"
    for length in (1, 60_000, len(whole) - 30):
        path.write_bytes(whole[:length])
        curl = await asyncio.create_subprocess_exec("curl", "-fsS", "-C", "-", "-o", path, url)
        assert await curl.wait() == 0
        assert path.read_bytes() == whole
    unzip = await asyncio.create_subprocess_exec("unzip", "-tqq", path)
    assert await unzip.wait() == 0


async def test_what_breaks_off_while_it_is_read_again_is_repaired(origin, start, client):
    add(origin)
    origin.objects["/large.bin"].faults.append(faults.rst(at=200_000, times=1))
    gateway = await start(origin)
    layout, whole = expected(origin)
    answer, body = await get(client, gateway.url(SOURCES, format="zip"), layout.trailer_start)
    assert (answer.status, body) == (206, whole[layout.trailer_start :])
    assert len(origin.asked("/large.bin")) == 2


async def test_a_member_that_is_given_up_while_it_is_read_is_an_answer(origin, start, client):
    add(origin)
    gateway = await start(origin, upstream={"attempts": 1})
    layout, _ = expected(origin)
    url = gateway.url(SOURCES, format="zip")
    origin.objects["/large.bin"].faults.append(faults.status(500))
    async with client.get(url, headers={"Range": f"bytes={layout.trailer_start}-"}) as answer:
        assert answer.status == 502
        assert answer.content_type == "application/problem+json"
        problem = await answer.json()
    assert [each["id"] for each in problem["ids"]] == ["large.bin"]


async def test_a_client_that_leaves_ends_what_is_read_for_it(origin, start, client):
    add(origin)
    origin.objects["/large.bin"].faults.append(faults.stall(at=1000))
    gateway = await start(origin)
    layout, _ = expected(origin)
    task = asyncio.create_task(
        get(client, gateway.url(SOURCES, format="zip"), layout.trailer_start)
    )
    await origin.until(lambda: origin.stalled)
    task.cancel()
    await asyncio.wait([task])
    await origin.until(lambda: not origin.stalled and not origin.in_flight)


async def test_contents_that_change_in_silence_are_learnt_anew(origin, start, client):
    """Under the same validator: the whole is sound again, and so is each part from then on."""
    add(origin)
    gateway = await start(origin)
    layout, _ = expected(origin)
    url = gateway.url(SOURCES, format="zip")
    await get(client, url)
    thing = origin.objects["/large.bin"]
    origin.add(
        "/large.bin",
        Object(Made(300_000, 99), etag=thing.etag, last_modified=thing.last_modified),
    )
    changed = SOURCES | {"large.bin": Made(300_000, 99)}
    _, whole = expected(origin, sources=changed)
    answer, body = await get(client, url)
    assert (answer.headers["ETag"], body) == (layout.etag, whole)
    answer, body = await get(client, url, layout.trailer_start)
    assert (answer.status, body) == (206, whole[layout.trailer_start :])


async def test_a_member_that_changed_is_noticed_while_it_is_read(origin, start, client):
    """Then all is planned once more, and what is answered is of the archive that there is."""
    add(origin)
    gateway = await start(origin)
    url = gateway.url(SOURCES, format="zip")
    async with client.head(url) as head:
        assert head.status == 200
    origin.add("/large.bin", Made(300_000, 99))
    layout, whole = expected(origin, sources=SOURCES | {"large.bin": Made(300_000, 99)})
    answer, body = await get(client, url, layout.trailer_start)
    assert answer.headers["ETag"] == layout.etag != head.headers["ETag"]
    assert (answer.status, body) == (206, whole[layout.trailer_start :])


async def test_contents_that_change_are_another_archive(origin, start, client):
    add(origin)
    gateway = await start(origin, upstream={"remember": 0})
    layout, _ = expected(origin)
    url = gateway.url(SOURCES, format="zip")
    await get(client, url)
    origin.add("/large.bin", Made(300_000, 99))
    other, whole = expected(origin, sources=SOURCES | {"large.bin": Made(300_000, 99)})
    answer, body = await get(client, url, layout.trailer_start, **{"If-Range": layout.etag})
    assert (answer.status, answer.headers["ETag"], body) == (200, other.etag, whole)


async def test_a_wrong_stated_crc_breaks_the_archive_inside_the_member(origin, start, client):
    """Before its last bytes, so that no reader takes it for whole."""
    add(origin)
    listed = entries(origin)
    listed[3]["crc32"] = "00000000"
    gateway = await start(origin, listed)
    curl = await asyncio.create_subprocess_exec(
        "curl", "-s", gateway.url(SOURCES, format="zip"), stdout=subprocess.PIPE
    )
    body, _ = await curl.communicate()
    assert curl.returncode == 18
    found = body.rpartition(b"large.bin")[2]
    assert 0 < len(found) - 9 < 300_000


async def test_nothing_is_read_of_empty_members(origin, start, client):
    sources = {"a": Made(0), "b": Made(0)}
    add(origin, sources)
    gateway = await start(origin, zip={"reread_bytes": 0})
    layout, whole = expected(origin, sources=sources)
    url = gateway.url(sources, format="zip")
    for place in range(layout.size):
        answer, body = await get(client, url, place)
        assert (answer.status, body) == (206, whole[place:])
    assert fetched(origin) == dict.fromkeys(fetched(origin), 0)


async def test_the_missing_are_listed_in_a_last_member(origin, start, client):
    add(origin)
    gateway = await start(origin)
    url = gateway.url([*SOURCES, "nowhere"], format="zip", missing="skip")
    answer, body = await get(client, url)
    archive = zipfile.ZipFile(io.BytesIO(body))
    assert archive.testzip() is None
    assert archive.namelist() == [*SOURCES, "MISSING.txt"]
    assert archive.read("MISSING.txt").startswith(b"nowhere\t")
    answer, tail = await get(client, url, len(body) - 400)
    assert (answer.status, tail) == (206, body[-400:])


async def test_names_are_mended_for_windows_in_zip_only(origin, start, client):
    url = origin.add("/x", b"x")
    given = ["aux.h", "ab:c?.txt", "dir./c ", "CON", "con"]
    gateway = await start(
        origin, [{"id": str(i), "url": url, "name": name} for i, name in enumerate(given)]
    )
    ids = [str(index) for index in range(len(given))]
    _, body = await get(client, gateway.url(ids, format="zip"))
    mended = ["au_.h", "ab_c_.txt", "dir_/c_", "CO_", "co_ (2)"]
    assert zipfile.ZipFile(io.BytesIO(body)).namelist() == mended
    for format_, names in (("zip", mended), ("tar", [*given[:4], "con (2)"])):
        async with client.get(gateway.url(ids, "/plan", format=format_)) as answer:
            plan = await answer.json()
        assert [each["name"] for each in plan["members"]] == names
        assert [(each["from"], each["to"]) for each in plan["renamed"]] == [
            (from_, to) for from_, to in zip(given, names, strict=True) if from_ != to
        ]


# Large ones.


class Remote(io.RawIOBase):
    """An archive at a URL, as a file to read and seek in."""

    def __init__(self, url):
        self._url = url
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD")) as head:
            assert head.headers["Accept-Ranges"] == "bytes"
            self._size = int(head.headers["Content-Length"])
        self._position = 0

    def readable(self):
        return True

    def seekable(self):
        return True

    def seek(self, offset, whence=io.SEEK_SET):
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}
        self._position = base[whence] + offset
        return self._position

    def readinto(self, buffer):
        stop = min(self._position + len(buffer), self._size)
        if self._position >= stop:
            return 0
        part = {"Range": f"bytes={self._position}-{stop - 1}"}
        with urllib.request.urlopen(urllib.request.Request(self._url, headers=part)) as answer:
            assert answer.status == 206
            data = answer.read()
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def looked_into(url, sources):
    """What the standard library finds by ranges, at the beginning of each member."""
    found = {}
    with zipfile.ZipFile(io.BufferedReader(Remote(url), 4096)) as archive:
        for info in archive.infolist():
            with archive.open(info) as file:
                found[info.filename] = (info.file_size, info.header_offset, file.read(9))
    return found


@pytest.mark.parametrize("size", [2**32 - 2, 2**32 - 1, 2**32])
async def test_members_around_4_gib_by_range(origin, start, client, size):
    """Each begins where the layout says, the second one within three bytes of that offset."""
    header = 30 + len("first") + 9
    sources = {
        "first": Made(size - header, 1),
        "second": Made(size, 2),
        "third": Made(2**40, 3),
        "last": Made(7, 4),
    }
    add(origin, sources)
    listed = entries(origin, sources, stated=False, crc32="0a0b0c0d")
    listed[3]["crc32"] = crc(sources["last"])
    gateway = await start(origin, listed, limits={"max_bytes": 2**41})
    url = gateway.url(sources, format="zip")
    found = await asyncio.to_thread(looked_into, url, sources)
    assert found["second"][1] == size
    for name, made in sources.items():
        assert found[name][0] == made.size
        assert found[name][2] == made.read(0, 9)
    # Across the last bytes of one and the header of the next.
    answer, body = await get(client, url, size - 5, size + 4)
    assert answer.status == 206
    assert body == sources["first"].read(size - header - 5) + b"PK\3\4"


async def test_a_large_member_that_is_not_stated_cannot_be_resumed_in_its_trailer(
    origin, start, client
):
    """Inside its contents it can."""
    add(origin, {"large": Made(2**40)})
    gateway = await start(origin, limits={"max_bytes": 2**41})
    url = gateway.url(["large"], format="zip")
    async with client.head(url) as head:
        assert head.headers["Accept-Ranges"] == "none"
        size = int(head.headers["Content-Length"])
    start_of = 30 + 5 + 9 + 20
    answer, body = await get(client, url, start_of + 2**39, start_of + 2**39 + 100)
    assert (answer.status, body) == (206, Made(2**40).read(2**39, 2**39 + 100))
    async with client.get(url, headers={"Range": f"bytes={size - 150}-"}) as answer:
        assert answer.status == 200


# What the documentation says.

REFERENCE = ROOT / "docs" / "zip.md"


def test_every_command_of_the_documentation_runs_as_it_stands(tmp_path):
    commands = re.findall(r"^```sh\n(.*?)^```", REFERENCE.read_text(), re.MULTILINE | re.DOTALL)
    with Origin().in_thread() as origin:
        for name in ("README.txt", "video/clip.bin"):
            origin.add(f"/{name}", Made(30_000))
        config = f"""
[catalog]
kind = "template"
url = "{origin.root}/{{id}}"
[upstream]
allow = ["{origin.root}"]
"""
        with process(tmp_path, config) as gateway:
            base = f"base=http://127.0.0.1:{gateway.port}"
            script = "".join(commands).replace("base=http://127.0.0.1:8080", base)
            assert base in script
            ended = subprocess.run(
                ["bash", "-euo", "pipefail"],
                input=script,
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "No errors detected" in ended.stdout


def test_the_documentation_says_of_each_reader_what_was_measured():
    rows = re.findall(
        r"^\| ([^|]+?) \| [\d.]+ \| (.*) \| yes \|$", REFERENCE.read_text(), re.MULTILINE
    )
    found = {name.partition(" (")[0]: cells.split("|") for name, cells in rows}
    assert set(found) == {*READERS["zip"], *READERS_OF_STATED["zip"]}
    for name, cells in found.items():
        stated, not_stated, wrong_crc, large = map(str.strip, cells)
        assert stated == "yes"
        assert not_stated == ("yes" if name in READERS["zip"] else "**no**")
        assert (wrong_crc == "error") == (name not in LOOK_AT_NO_CRC)
        tried = {"yes"} if name in ONLY_LAST else {"**no**"} if "busybox" in name else {""}
        assert large in tried
