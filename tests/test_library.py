"""The library: `Archive`, `Member` and `Origins`, against an origin that may fail."""

import asyncio
import gc
import gzip
import hashlib
import io
import itertools
import os
import re
import subprocess
import sys
import tarfile
import threading
import time
import tomllib
import traceback
import zipfile
import zlib
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
from faults import becomes, fin, garbled, late, redirect, rst, stall, status
from gateway import ROOT
from made import Made
from multidict import CIMultiDict
from origin import Object, Origin
from werkzeug.datastructures import Headers

import tarstream
from tarstream import Archive, Member, Origins
from tarstream.compress import Levels, zstd
from tarstream.digests import of
from tarstream.errors import (
    Forbidden,
    ObjectChanged,
    ObjectMissing,
    OriginBroken,
    OriginError,
    OriginTimeout,
    TarstreamError,
    TooLarge,
)
from tarstream.formats import FORMATS, KINDS
from tarstream.layout import STEP
from tarstream.stores.base import ObjectMeta
from tarstream.stores.named import NamedPolicy

CONTENT = Made(300_007, seed=8).read()
MTIME = 1_000_000_000

EACH_FORMAT = pytest.mark.parametrize("format", FORMATS)


def opener(content, chunk=70_001, opened=None):
    """A function that gives `content` from any byte on."""

    async def open_(start, stop):
        if opened is not None:
            opened.append((start, stop))
        for offset in range(start, stop, chunk):
            await asyncio.sleep(0)
            yield content[offset : min(offset + chunk, stop)]

    return open_


async def read(archive, start=0, stop=None):
    async with aclosing(archive.stream(start, stop)) as stream:
        return b"".join([chunk async for chunk in stream])


def quiet():
    """No task but this one."""
    return asyncio.all_tasks() == {asyncio.current_task()}


async def until(condition, seconds=30):
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.002)


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "tarstream"]


def wait_until(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.fixture
def every_kind(origin, tmp_path):
    """A member of each kind of source; what they hold."""
    path = tmp_path / "a\udcff file.bin"
    path.write_bytes(CONTENT[:1000])
    url = origin.add("/big.bin", Object(CONTENT))
    return [
        (Member(name="bytes", source=b"some bytes"), b"some bytes"),
        (Member(name="path", source=path), CONTENT[:1000]),
        (Member(name="d/url", source=url), CONTENT),
        (
            Member(name="d/opener", source=opener(CONTENT), size=len(CONTENT), etag='"1"'),
            CONTENT,
        ),
        (Member(name="empty", source=b""), b""),
    ]


# What it is


async def test_an_archive_is_the_one_that_a_gateway_gives(origin, start, client):
    """Size, entity-tag and bytes; in each format."""
    urls = [origin.add(f"/d/{name}", Object(CONTENT[:size])) for name, size in SIZES.items()]
    gateway = await start(origin)
    for format_ in FORMATS:
        members = [Member(name=url.partition(f"{origin.port}/")[2], source=url) for url in urls]
        archive = await Archive.plan(members, format=format_)
        asked = gateway.url([f"d/{name}" for name in SIZES], format=format_)
        async with client.get(asked) as response:
            assert response.headers["ETag"] == archive.etag
            assert await response.read() == await read(archive)
            assert response.content_length == archive.size


SIZES = {"one": 511, "two": 100_000, "none": 0}


@EACH_FORMAT
async def test_any_part_is_that_part_of_the_whole(every_kind, format):
    """From an event loop, from none, and from a file; whatever the sources are."""
    archive = await Archive.plan([member for member, _ in every_kind], format=format)
    whole = await read(archive)
    assert len(whole) == archive.size
    assert archive.seekable
    n = archive.size
    for start, stop in [(0, 1), (511, 513), (1000, 300_000), (2000, n - 1), (n - 30, n), (5, 5)]:
        assert await read(archive, start, stop) == whole[start:stop]
        assert (
            b"".join(await asyncio.to_thread(list, archive.iterate(start, stop)))
            == (whole[start:stop])
        )

        def from_file(start=start, stop=stop):
            with archive.file() as file:
                file.seek(start)
                return file.read(stop - start)

        assert await asyncio.to_thread(from_file) == whole[start:stop]
    assert await read(archive, n, n + 5) == b""


async def test_tarfile_and_zipfile_read_the_file(every_kind):
    members = [member for member, _ in every_kind]
    contents = {member.name: content for member, content in every_kind}

    def untarred(archive):
        with archive.file() as file, tarfile.open(fileobj=file) as tar:
            return {name: tar.extractfile(name).read() for name in tar.getnames()}

    def unzipped(archive):
        with archive.file() as file, zipfile.ZipFile(file) as zip_:
            return {name: zip_.read(name) for name in zip_.namelist()}

    archive = await Archive.plan(members)
    assert await asyncio.to_thread(untarred, archive) == contents
    archive = await Archive.plan(members, format="zip")
    assert await asyncio.to_thread(unzipped, archive) == contents
    assert not threads()


def test_names_are_made_safe_and_unique():
    names = ["../up", "a", "A", "a"]
    archive = Archive([Member(name=name, source=b"") for name in names])
    assert archive.names == ["up", "a", "A (2)", "a (3)"]


def test_what_is_stated_makes_the_entity_tag():
    """Strong if all have one; weak if one is weak or comes from an iterator; else none."""

    def etag(**stated):
        return Archive([Member(name="a", source="http://a/", size=1, **stated)]).etag

    assert etag(etag='"1"').startswith('"')
    assert etag(etag='"1"') != etag(etag='"2"')
    assert etag(etag='W/"1"').startswith('W/"')
    assert etag() is None
    iterator = opener(b"1")(0, 1)
    archive = Archive([Member(name="a", source=iterator, size=1, etag='"1"')])
    assert archive.etag.startswith('W/"')
    assert not archive.seekable


@pytest.mark.parametrize(
    "stated",
    [
        {"size": -1},
        {"size": 2**62},
        {"mtime": -1},
        {"etag": "without-quotes"},
        {"crc32": "12"},
        {"sha256": "zz" * 32},
        {"source": b"four", "size": 5},
        {"md5": "0" * 31},
        {"source": b"four", "sha256": "0" * 64},
        {"source": b"", "crc32": "00000001"},
        {"size": 0, "md5": "0" * 32},
        {"source": None},
        {"name": "a/"},
        {"name": "a/", "source": None, "size": 0},
        {"name": "a/", "source": None, "etag": '"1"'},
        {"name": "a/", "source": None, "md5": "0" * 32},
    ],
)
def test_a_member_that_cannot_be_is_refused_at_once(stated):
    with pytest.raises(ValueError, match=r"'a/?'"):
        Member(**{"name": "a", "source": "http://a/", **stated})


def test_only_a_directory_has_no_source():
    """Its name ends in a slash, and errors say so."""
    with pytest.raises(ValueError, match=r"source of 'a/' must not .* empty directory"):
        Member(name="a/", source=b"")
    with pytest.raises(ValueError, match=r"source of 'a' is missing.*its name ends in '/'"):
        Member(name="a")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", Path("a")),
        ("name", None),
        ("name", b"a"),
        ("etag", 5),
        ("crc32", zlib.crc32(b"a")),
        ("md5", b"0" * 32),
        ("sha256", hashlib.sha256(b"a")),
        ("size", "1"),
        ("mtime", 1.5),
    ],
)
def test_what_is_of_another_type_is_named(field, value):
    """The field, and the member."""
    given = {"name": "a", "source": b"a", field: value}
    with pytest.raises(TypeError, match=f"^{field} of {re.escape(repr(given['name']))} must be"):
        Member(**given)


@pytest.mark.parametrize("source", ["", "a", "/etc/passwd", "//a/b", "é://a"])
def test_a_text_that_is_no_url_is_refused_at_once(source):
    with pytest.raises(ValueError, match=r"^source of 'x' must be a URL without blanks, or a Path"):
        Member(name="x", source=source)


@pytest.mark.parametrize("url", ["http://u:secret@a/", "ftp://a/secret", "http:secret", "file:///"])
async def test_a_url_that_is_never_read_names_its_member_and_shows_nothing(url):
    good = Member(name="good", source="http://a/", size=1)
    members = [good, Member(name="x", source=url, size=1)]
    with pytest.raises(
        ValueError, match=r"^source of 'x' must be a URL of http or https"
    ) as caught:
        Archive(members)
    assert "secret" not in "".join(traceback.format_exception(caught.value))
    with pytest.raises(ValueError, match=r"^source of 'x' must be a URL of http or https"):
        await Archive.plan(members)


def test_times_are_whole_seconds():
    with pytest.raises(TypeError, match="mtime of 'a' must be a whole number"):
        Member(name="a", source=b"", mtime=1.5)


@pytest.mark.parametrize("source", [bytearray(b"a"), iter([b"a"]), 5])
def test_a_source_is_of_a_kind_that_is_known(source):
    with pytest.raises(TypeError, match="source of 'a'"):
        Member(name="a", source=source, size=1)


def test_a_size_that_is_missing_and_a_format_that_is_none():
    with pytest.raises(ValueError, match=r"size of 'a' is missing.*plan"):
        Archive([Member(name="a", source="http://a/")])
    with pytest.raises(ValueError, match=r"must be one of: tar, zip, tar\.gz, tar\.zst"):
        Archive([], format="rar")
    with pytest.raises(ValueError, match="checksums must be sha256"):
        Archive([], checksums="md5")


@pytest.mark.parametrize(
    ("format", "level", "says"),
    [
        ("tar", 1, "tar is not"),
        ("zip", 1, "zip is not"),
        ("tar.gz", 0, "1 to 9"),
        ("tar.gz", 10, "1 to 9"),
        ("tar.zst", 20, "1 to 19"),
    ],
)
async def test_what_cannot_be_is_refused_before_an_origin_is_asked(origin, format, level, says):
    member = Member(name="a", source=origin.add("/a", b"abc"))
    with pytest.raises(ValueError, match=says):
        await Archive.plan([member], format=format, level=level)
    assert not origin.requests


def test_limits():
    members = [Member(name="a", source=b"12"), Member(name="b", source=b"34")]
    with pytest.raises(TooLarge, match="2 members are given, and at most 1"):
        Archive(members, max_members=1)
    with pytest.raises(TooLarge, match="4 bytes, and at most 3"):
        Archive(members, max_bytes=3)
    assert Archive(members, max_members=2, max_bytes=4).size == 3 * 1024


def test_importing_it_is_light():
    """Neither settings nor metrics; and nothing at all before something of it is used."""
    program = (
        "import sys, tarstream\n"
        "assert not {'aiohttp', 'asyncio'} & set(sys.modules)\n"
        "from tarstream import Archive, Member, Origins\n"
        "print(*{name.partition('.')[0] for name in sys.modules})\n"
        "assert 'aiohttp.web' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not {"pydantic", "pydantic_settings", "prometheus_client", "uvloop"} & set(
        done.stdout.split()
    )


def test_what_it_exports():
    assert all(getattr(tarstream, name) for name in tarstream.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        _ = tarstream.nothing


# Planning


async def test_a_plan_asks_for_what_is_missing_and_nothing_else(origin, tmp_path):
    url, known = origin.add("/a", Object(b"abc")), origin.add("/b", Object(b"def"))
    path = tmp_path / "c"
    path.write_bytes(b"1234")
    archive = await Archive.plan(
        [
            Member(name="a", source=url),
            Member(name="again", source=url),
            Member(name="b", source=known, size=3, mtime=MTIME, etag='"1"'),
            Member(name="c", source=path),
        ]
    )
    assert [(each.method, each.path) for each in origin.requests] == [("HEAD", "/a")]
    assert archive.seekable


@EACH_FORMAT
async def test_an_archive_of_nothing(format):
    archive = Archive([], format=format)
    assert len(await read(archive)) == archive.size
    assert archive.seekable


@pytest.mark.parametrize("age", [3600, 0])
async def test_an_origin_without_entity_tags(origin, age):
    """Its date counts: as a strong validator when it is old enough (RFC 9110 8.8.2.2)."""
    modified = int(time.time()) - age
    url = origin.add("/a", Object(CONTENT, etag=None, last_modified=modified))
    archive = await Archive.plan([Member(name="a", source=url)])
    assert archive.seekable == (age > 0)
    assert archive.etag.startswith("W/") == (age == 0)
    assert CONTENT in await read(archive)
    stated = Member(
        name="a",
        source=origin.add("/b", Object(CONTENT)),
        etag="Sun, 09 Sep 2001 01:46:40 GMT",
    )
    assert CONTENT in await read(await Archive.plan([stated]))


async def test_what_is_stated_is_held_against_what_the_origin_says(origin):
    url = origin.add("/a", Object(b"abc"))
    where = "'x' cannot be had: it has 3 bytes where the application states 4"
    with pytest.raises(OriginError, match=where):
        await Archive.plan([Member(name="x", source=url, size=4)])
    with pytest.raises(OriginError, match="'x' cannot be had: it has another entity-tag"):
        await Archive.plan([Member(name="x", source=url, etag='"other"')])


async def test_a_plan_names_the_member_that_is_missing(origin):
    with pytest.raises(ObjectMissing, match="'x' cannot be had: its origin answers 404") as caught:
        await Archive.plan([Member(name="x", source=origin.url("/gone"))])
    assert caught.value.status == 502
    await until(quiet)


async def test_a_plan_has_its_time(origin):
    url = origin.add("/a", Object(b"abc"), late())
    with pytest.raises(OriginTimeout, match=r"'x' cannot .* 0\.2 seconds \(plan_timeout\)"):
        await Archive.plan([Member(name="x", source=url)], origins=Origins(plan_timeout=0.2))
    await origin.until(lambda: not origin.open_connections)
    await until(quiet)


async def test_a_plan_asks_with_half_of_the_connections_at_a_time(origin):
    urls = [origin.add(f"/{n}", Object(b"abc"), late()) for n in range(40)]
    members = [Member(name=url, source=url) for url in urls]
    planning = asyncio.create_task(Archive.plan(members, origins=Origins(connections=64)))
    await origin.until(lambda: origin.in_flight == 32)
    for url in urls:
        origin.objects[url.removeprefix(origin.root)].faults.clear()
    origin.release()
    assert len((await planning).names) == 40
    assert origin.most_in_flight == 32


async def test_nobody_says_how_long_an_opener_is():
    with pytest.raises(ValueError, match="size of 'a' is missing"):
        await Archive.plan([Member(name="a", source=opener(b""))])


async def turns_during(awaitable):
    """How often others had their turn before it was done."""
    done = asyncio.ensure_future(awaitable)
    turns = 0
    while not done.done():
        await asyncio.sleep(0)
        turns += 1
    await done
    return turns


@pytest.mark.parametrize("sources", ["bytes", "complete", "asked"])
async def test_a_plan_of_many_lets_others_have_their_turn(sources):
    """In each loop over its members; there are seven."""
    origins = Origins(stores={"shelf": Shelf({"shelf://a": b"a"})})
    rest = {
        "bytes": {"source": b"a"},
        "complete": {"source": "http://a/", "size": 1, "mtime": 1, "etag": '"1"'},
        "asked": {"source": "shelf://a"},
    }[sources]
    members = [Member(name=f"{n}", **rest) for n in range(10 * STEP)]
    few = await turns_during(Archive.plan(members[:1], origins=origins))
    assert await turns_during(Archive.plan(members, origins=origins)) >= few + 7 * 9


async def test_contents_that_take_long_to_hash_are_hashed_in_a_thread():
    """While the event loop goes on."""
    asking = set()

    class Told(bytes):
        def __len__(self):
            asking.add(threading.current_thread())
            return super().__len__()

    async def plan(size):
        asking.clear()
        await Archive.plan([Member(name="a", source=Told(size))])
        return asking - {threading.current_thread()}

    assert await plan(2 * 1024 * 1024)
    assert not await plan(1000)


# Where members come from


async def test_private_addresses_are_read_when_they_are_named(origin):
    """And where they redirect to only if that was named too."""
    async with Origin() as other:
        target = other.add("/target", Object(b"abc"))
        url = origin.add("/a", Object(b"abc"), redirect(target))
        with pytest.raises(Forbidden):
            await Archive.plan([Member(name="a", source=url)])
        assert not other.requests
        archive = await Archive.plan(
            [Member(name="a", source=url), Member(name="b", source=target)]
        )
        assert len(await read(archive)) == archive.size


async def test_link_local_addresses_are_closed():
    """Where clouds keep their credentials; `allow` with that very literal opens them."""
    member = Member(name="a", source="http://169.254.169.254/latest/meta-data/")
    with pytest.raises(Forbidden, match="'a' cannot be had: its origin is at an address"):
        await Archive.plan([member])


def test_only_what_allow_lists_is_read(origin):
    origins = Origins(allow=["https://files.example.com", "https://*.example.org"])
    good = ["https://files.example.com/a", "https://a.example.org/b"]
    bad = ["https://example.org/", "http://files.example.com/", "file:///etc/passwd"]
    members = [Member(name=f"<{url}>", source=url, size=1) for url in good + bad]
    Archive(members[:2], origins=origins)
    with pytest.raises(Forbidden) as caught:
        Archive(members, origins=origins)
    assert [refusal.id for refusal in caught.value.refusals] == [f"<{url}>" for url in bad]


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://a/b", "path:///etc/passwd", "nothing", "http://u:p@a/"]
)
def test_a_string_is_a_url_of_http_or_nothing(url):
    """A file of this machine is a `Path`: a string may have come from anywhere."""
    with pytest.raises((ValueError, Forbidden)):
        Archive([Member(name="a", source=url, size=1)])


@pytest.mark.parametrize(
    "url",
    ["http://u:p@b/", "https://*.b/", "file:///etc/passwd", "http://b\\@a/", "ftp://b/", "b", ""],
)
def test_a_redirect_leads_to_plain_http_or_nowhere(url):
    policy = NamedPolicy(["https://a/x", "http://a:8080/y"])
    assert not policy.rule("https://A/other").wildcard
    assert not policy.rule("http://a:8080/").wildcard
    assert policy.rule("http://a/").wildcard  # another port, another origin
    assert policy.rule("https://b/").wildcard
    with pytest.raises(Forbidden):
        policy.rule(url)


async def test_directories_that_allow_lists(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a").write_bytes(b"abc")
    (tmp_path / "out").write_bytes(b"abc")
    origins = Origins(allow=[f"file://{tmp_path}/in"])
    archive = await Archive.plan(
        [Member(name="a", source=f"file://{tmp_path}/in/a")], origins=origins
    )
    assert b"abc" in await read(archive)
    with pytest.raises(Forbidden):
        Archive([Member(name="a", source=f"file://{tmp_path}/out", size=3)], origins=origins)


async def test_a_path_may_be_relative_and_a_link(tmp_path, monkeypatch):
    (tmp_path / "d").mkdir()
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "d/link").symlink_to(tmp_path / "file")
    monkeypatch.chdir(tmp_path / "d")
    archive = await Archive.plan(
        [Member(name="a", source=Path("link")), Member(name="b", source=Path("../file"))]
    )
    assert (await read(archive)).count(b"abc") == 2


class Shelf:
    """A store that a program brings along."""

    def __init__(self, contents):
        self.contents = contents

    async def head(self, source):
        return ObjectMeta(len(self.contents[source]), MTIME, '"1"')

    @asynccontextmanager
    async def open(self, source, start, stop, size, validator):
        yield ShelfBody(self.contents[source][start:stop])


class ShelfBody:
    def __init__(self, data):
        self.data = data

    async def ready(self):
        pass

    async def copy_to(self, sink):
        await sink.write(self.data)


async def test_stores_are_passed_in_by_scheme():
    origins = Origins(stores={"shelf": Shelf({"shelf://a": CONTENT})})
    archive = await Archive.plan([Member(name="a", source="shelf://a")], origins=origins)
    whole = await read(archive)
    assert CONTENT in whole
    assert await read(archive, 1000, 2000) == whole[1000:2000]


async def test_origins_that_are_open_keep_connections(origin):
    urls = [origin.add(f"/{n}", Object(b"abc")) for n in range(3)]
    async with Origins() as origins:
        for url in urls:
            await read(await Archive.plan([Member(name="a", source=url)], origins=origins))
        assert origin.connections == 1
        # Those of another loop are not touched.
        archive = await Archive.plan([Member(name="a", source=urls[0])], origins=origins)
        assert await asyncio.to_thread(list, archive.iterate())
        assert origin.connections == 2
        with pytest.raises(RuntimeError, match="open already"):
            async with origins:
                pass
    await origin.until(lambda: not origin.open_connections)


@pytest.mark.parametrize("size", [100_000, 3_000_000])
async def test_a_stream_that_outlives_its_origins_says_so(origin, size):
    """Whether its next member has been opened before or not."""
    urls = [origin.add(f"/{n}", Object(Made(size, n))) for n in range(20)]
    async with Origins() as origins:
        members = [Member(name=url[-2:], source=url) for url in urls]
        archive = await Archive.plan(members, origins=origins)
        stream = archive.stream()
        await anext(stream)
    with pytest.raises(ValueError, match="the origins were closed before the stream"):
        await drain(stream)
    # What begins later has connections of its own.
    assert len(await read(archive)) == archive.size


FORKED = """
import asyncio, os, signal, threading
from tarstream import Archive, Member, Origins
from tarstream.digests import DigestKey

origins, clock = Origins(), threading.Event()
learnt, time = origins.learnt, origins.learnt._clock
inside, key = threading.Event(), DigestKey("crc32", "http://a/", 1, None)

def late():
    inside.set()
    clock.wait(20)
    return time()

def learn():
    asyncio.run(learnt.put_many({key: "0"}))

learnt._clock = late
threading.Thread(target=learn).start()
inside.wait()
learnt._clock = time
child = os.fork()
if not child:
    signal.alarm(10)
    learn()
    os._exit(key not in learnt)
clock.set()
assert os.waitpid(child, 0)[1] == 0
"""


def test_a_fork_remembers_whatever_other_threads_did_meanwhile():
    quiet = ["-W", "ignore::DeprecationWarning"]  # Python 3.12 warns of forks of threads
    subprocess.run([sys.executable, *quiet, "-c", FORKED], cwd=ROOT, check=True, timeout=60)


# What callers open


async def test_an_opener_that_fails_is_opened_again_at_the_exact_byte():
    opened = []

    async def flaky(start, stop):
        opened.append((start, stop))
        for offset in range(start, stop, 10_000):
            if len(opened) < 3 and offset - start >= 100_000:
                raise ConnectionResetError
            yield CONTENT[offset : min(offset + 10_000, stop)]

    n = len(CONTENT)
    archive = Archive([Member(name="a", source=flaky, size=n, etag='"1"')])
    assert CONTENT in await read(archive)
    assert opened == [(0, n), (100_000, n), (200_000, n)]


async def test_without_etag_an_opener_is_not_continued():
    """Nothing would prove that the rest is of the same contents."""
    opened = []

    async def flaky(start, stop):
        opened.append((start, stop))
        yield CONTENT[start : start + 100_000]
        raise ConnectionResetError

    archive = Archive([Member(name="a", source=flaky, size=len(CONTENT))])
    with pytest.raises(OriginBroken, match="'a' cannot be had: its source failed"):
        await read(archive)
    assert len(opened) == 1


async def test_what_fails_for_good_says_so_and_is_not_tried_again():
    opened = []

    async def gone(start, stop):
        opened.append(start)
        raise ObjectMissing("it was deleted")

    archive = Archive([Member(name="a", source=gone, size=1, etag='"1"')])
    with pytest.raises(ObjectMissing, match="'a' cannot be had: it was deleted"):
        await read(archive)
    assert opened == [0]


@pytest.mark.parametrize(
    ("given", "error"), [(CONTENT + b"!", ObjectChanged), (CONTENT[:-1], OriginBroken)]
)
async def test_an_opener_gives_what_was_planned(given, error):
    async def wrong(start, stop):
        yield given[start:]

    member = Member(name="a", source=wrong, size=len(CONTENT), etag='"1"')
    with pytest.raises(error) as caught:
        await read(Archive([member], origins=Origins(attempts=1)))
    assert caught.value.detail.startswith("'a' cannot be had: it")


@pytest.mark.parametrize("given", [CONTENT[:-1], CONTENT])
async def test_an_opener_that_never_comes_to_its_end_is_given_up(given):
    """Whether bytes are missing or not: until it ends there may be more of them."""

    async def endless(start, stop):
        yield given[start:]
        await asyncio.Event().wait()

    member = Member(name="a", source=endless, size=len(CONTENT), etag='"1"')
    archive = Archive([member], origins=Origins(patience=0.3))
    with pytest.raises(OriginTimeout, match="'a' cannot be had: its origin is too slow"):
        await asyncio.wait_for(read(archive), 10)


async def test_an_opener_may_be_a_coroutine_that_gives_an_iterator():
    async def open_(start, stop):
        return opener(CONTENT)(start, stop)

    archive = Archive([Member(name="a", source=open_, size=len(CONTENT), etag='"1"')])
    assert CONTENT in await read(archive)


@pytest.mark.parametrize("format", [*FORMATS, "tar.gz"])
@pytest.mark.parametrize("given", [lambda buffer: buffer, memoryview])
async def test_a_buffer_may_be_filled_again(format, given):
    """What it held is what is sent, and what digests are of."""
    n = len(CONTENT)

    async def refilled(start, stop):
        buffer = bytearray(7_000)
        for offset in range(start, stop, 7_000):
            chunk = CONTENT[offset : min(offset + 7_000, stop)]
            buffer[: len(chunk)] = chunk
            del buffer[len(chunk) :]
            yield given(buffer)
        buffer[:] = bytes(len(buffer))

    sha256 = hashlib.sha256(CONTENT).hexdigest()
    members = [
        Member(name="a", source=refilled, size=n, etag='"1"', sha256=sha256),
        Member(name="b", source=refilled(0, n), size=n, sha256=sha256),
    ]
    body = await read(Archive(members, format=format))
    assert (gzip.decompress(body) if format == "tar.gz" else body).count(CONTENT) == 2


async def test_a_buffer_of_numbers_has_as_many_bytes_as_it_has():
    async def numbers(start, stop):
        yield memoryview(CONTENT[start:stop]).cast("I")

    archive = Archive([Member(name="a", source=numbers, size=4000)])
    assert CONTENT[:4000] in await read(archive)


@pytest.mark.parametrize(
    ("chunk", "kind"), [("text", "str"), (5, "int"), (None, "NoneType"), ([b"a"], "list")]
)
async def test_what_is_not_bytes_is_a_mistake_that_is_not_tried_again(chunk, kind):
    opened = []

    async def wrong(start, stop):
        opened.append(start)
        yield chunk

    with pytest.raises(TypeError, match=f"must give bytes: it gave a {kind}$"):
        await read(Archive([Member(name="a", source=wrong, size=4, etag='"1"')]))
    assert opened == [0]
    with pytest.raises(TypeError, match=f"must give bytes: it gave a {kind}$"):
        await read(Archive([Member(name="a", source=wrong(0, 4), size=4)]))
    await until(quiet)


async def gives_a_list(start, stop):
    return [b"a"]


@pytest.mark.parametrize(
    ("open_", "kind"),
    [
        (lambda start, stop: (chunk for chunk in [b"a"]), "generator"),
        (lambda start, stop: b"a", "bytes"),
        (lambda start, stop: None, "NoneType"),
        (gives_a_list, "list"),
    ],
)
async def test_a_function_that_gives_no_asynchronous_iterator_is_a_mistake(open_, kind):
    """And not a failure that may pass."""
    opened = []

    def counted(start, stop):
        opened.append(start)
        return open_(start, stop)

    with pytest.raises(TypeError, match=f"an asynchronous iterator, .*: it gave a {kind}$"):
        await read(Archive([Member(name="a", source=counted, size=1, etag='"1"')]))
    assert opened == [0]


async def test_what_an_opener_gives_is_closed_wherever_it_ends():
    closed = []

    async def open_(start, stop):
        try:
            while True:
                yield bytes(70_000)
        finally:
            closed.append(start)

    members = [Member(name=f"{n}", source=open_, size=700_000, etag='"1"') for n in range(3)]
    async for _ in (stream := Archive(members).stream()):
        break
    await stream.aclose()
    assert len(closed) == 3  # two of them were ahead
    assert quiet()


async def test_an_iterator_is_sent_once_and_not_resumed():
    """A range is answered with the whole; a second transfer fails before its first byte."""
    n = len(CONTENT)
    member = Member(name="a", source=opener(CONTENT)(0, n), size=n, etag='"1"')
    archive = Archive([member])
    answer = archive.headers("GET", {"Range": "bytes=5-9"})
    assert (answer.status, answer.start, answer.stop) == (200, 0, archive.size)
    assert answer.headers["Accept-Ranges"] == "none"
    assert CONTENT in await read(archive)
    with pytest.raises(OriginError, match="'a' cannot be had: it can be read only once"):
        await archive.stream().ready()


async def test_an_iterator_that_fails_is_given_up_at_once():
    async def breaks():
        yield CONTENT[:100_000]
        raise ConnectionResetError

    archive = Archive([Member(name="a", source=breaks(), size=len(CONTENT), etag='"1"')])
    with pytest.raises(OriginError, match="its source failed") as caught:
        await read(archive)
    assert not isinstance(caught.value, OriginBroken)


async def test_a_part_out_of_an_iterator_is_read_up_to_there():
    n = len(CONTENT)
    archive = Archive([Member(name="a", source=opener(CONTENT)(0, n), size=n)])
    assert await read(archive, 512 + 100_000, 512 + 100_100) == CONTENT[100_000:100_100]


# Pulling


async def test_nothing_is_read_on_while_nobody_pulls():
    """What waits is a chunk or so, however fast its source is."""
    given = 0

    async def endless(start, stop):
        nonlocal given
        for offset in range(start, stop, 65_536):
            given += 1
            yield bytes(min(65_536, stop - offset))

    archive = Archive([Member(name="a", source=endless, size=1 << 30, etag='"1"')])
    async with archive.stream() as stream:
        for pulled in range(1, 20):
            await anext(stream)
            for _ in range(50):
                await asyncio.sleep(0)
            assert given <= pulled + 4
    assert quiet()


async def drain(stream):
    async for _ in stream:
        pass


async def abandoned_by_break(archive):
    async for _ in archive.stream():
        break


async def abandoned_by_aclose(archive):
    stream = archive.stream()
    await anext(stream)
    await stream.aclose()
    with pytest.raises(ValueError, match="closed"):
        await anext(stream)


async def abandoned_by_cancellation(archive):
    task = asyncio.create_task(drain(archive.stream()))
    await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def abandoned_by_a_timeout(archive):
    stream = archive.stream()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(drain(stream), 0.1)
    with pytest.raises(ValueError, match="closed"):  # and not the end, which it is not
        await anext(stream)


@pytest.mark.parametrize(
    "abandoned",
    [
        abandoned_by_break,
        abandoned_by_aclose,
        abandoned_by_cancellation,
        abandoned_by_a_timeout,
    ],
)
async def test_a_stream_that_is_abandoned_frees_what_it_has_open(origin, abandoned):
    urls = [origin.add(f"/{n}", Object(Made(200_000, n)), stall(at=150_000)) for n in range(3)]
    archive = await Archive.plan([Member(name=url[-1], source=url) for url in urls])
    await abandoned(archive)
    gc.collect()
    await until(quiet)
    await origin.until(lambda: not origin.open_connections)


def test_a_loop_that_ends_before_the_stream_does():
    archive = Archive([Member(name="a", source=opener(CONTENT), size=len(CONTENT))])
    kept = []

    async def main():
        kept.append(archive.stream())
        await anext(kept[0])

    asyncio.run(main())
    kept.clear()
    gc.collect()


def in_thread(archive, what):
    """An archive's stream without an event loop, ended by `what`."""
    stream = archive.iterate()
    next(stream)
    assert len(threads()) == 1
    what(stream)


def closed(stream):
    stream.close()
    assert not threads()
    with pytest.raises(ValueError, match="closed"):
        next(stream)


def dropped(stream):
    pass


@pytest.mark.parametrize("what", [closed, dropped])
async def test_an_iterator_that_is_abandoned_ends_its_thread(origin, what):
    urls = [origin.add(f"/{n}", Object(Made(200_000, n)), stall(at=150_000)) for n in range(3)]
    archive = await Archive.plan([Member(name=url[-1], source=url) for url in urls])
    await asyncio.to_thread(in_thread, archive, what)
    gc.collect()
    await until(lambda: not threads())
    await origin.until(lambda: not origin.open_connections)


def test_an_iterator_that_came_to_its_end_has_no_thread():
    stream = Archive([Member(name="a", source=b"abc")]).iterate()
    assert len(b"".join(stream)) == 2048
    assert list(stream) == []
    assert not threads()


LEFT_OPEN = """
import os, sys
from tarstream import Archive, Member

async def numbers(start, stop):
    try:
        for _ in range(start, stop, 1000):
            yield bytes(1000)
    finally:
        os.write(1, b"closed\\n")

for source in (numbers, sys.argv[1]):
    member = Member(name="a", source=source, size=3_000_000)
    for format in ("tar", "tar.gz"):
        archive = Archive([member], format=format)
        stream, file = archive.iterate(), archive.file()
        globals()[f"{source} {format}"] = stream, file
        next(stream), file.read(1)
        for _ in archive.iterate():
            break
"""


def test_what_is_left_open_at_the_end_of_the_process_is_closed_and_quiet():
    with Origin().in_thread() as origin:
        url = origin.add("/a", Object(Made(3_000_000)))
        done = subprocess.run(
            [sys.executable, "-c", LEFT_OPEN, url],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
    assert done.stderr == ""
    assert done.stdout.split() == ["closed"] * 6


def test_a_failure_reaches_whoever_iterates(origin):
    async def gone(start, stop):
        raise ObjectMissing("it was deleted")
        yield

    archive = Archive([Member(name="a", source=gone, size=1)])
    with pytest.raises(ObjectMissing, match="'a' cannot be had"):
        archive.iterate().ready()
    with pytest.raises(ObjectMissing, match="'a' cannot be had"):
        list(archive.iterate())
    with archive.file() as file, pytest.raises(ObjectMissing, match="'a' cannot be had"):
        file.read()
    assert not threads()


async def test_ready_opens_the_first_member_and_takes_nothing(origin):
    """So that an origin that is down is an answer, and not a download that breaks off."""
    url = origin.add("/a", Object(CONTENT))
    archive = await Archive.plan([Member(name="a", source=url)])
    async with archive.stream() as stream:
        await stream.ready()
        assert len(origin.asked("/a")) == 1
        assert len(b"".join([chunk async for chunk in stream])) == archive.size
    del origin.objects["/a"]
    with pytest.raises(ObjectMissing):
        await archive.stream().ready()


async def test_a_break_in_the_middle_is_repaired(origin):
    url = origin.add("/a", Object(CONTENT), rst(at=100_000, times=1), fin(at=200_000, times=1))
    archive = await Archive.plan([Member(name="a", source=url)])
    assert CONTENT in await read(archive)
    assert len(origin.asked("/a")) == 3


@EACH_FORMAT
async def test_a_failure_ends_inside_of_a_member(origin, format):
    """What was given before is the beginning of the archive, cut in contents: tar notices."""
    good = origin.add("/good", Object(CONTENT))
    other = Object(Made(len(CONTENT), seed=9))
    bad = origin.add("/bad", Object(CONTENT), becomes(other, methods=("GET",), times=1))
    archive = await Archive.plan(
        [Member(name="good", source=good), Member(name="bad", source=bad)], format=format
    )
    given = bytearray()

    async def pull():
        async for chunk in archive.stream():
            given.extend(chunk)

    with pytest.raises(ObjectChanged, match="'bad' cannot be had"):
        await pull()
    whole = await read(archive)
    first = whole.index(CONTENT)
    assert given == whole[: len(given)]
    begins = whole.index(CONTENT, first + 1)
    assert begins <= len(given) < begins + len(CONTENT)
    await until(quiet)


# Answers


def archive_of_bytes():
    return Archive([Member(name="a", source=CONTENT)])


@pytest.mark.parametrize(
    "headers",
    [
        {"Range": "bytes=5-9"},
        {"RANGE": "bytes=5-9"},
        [("range", "bytes=5-9")],
        CIMultiDict({"Range": "bytes=5-9"}),
        Headers({"Range": "bytes=5-9"}),
    ],
)
def test_headers_of_any_framework(headers):
    archive = archive_of_bytes()
    answer = archive.headers("GET", headers, name="Fotos é")
    assert answer == (
        206,
        {
            "ETag": archive.etag,
            "Content-Range": f"bytes 5-9/{archive.size}",
            "Cache-Control": "no-cache, no-transform",
            "Content-Type": "application/x-tar",
            "Content-Disposition": (
                "attachment; filename=\"Fotos _.tar\"; filename*=UTF-8''Fotos%20%C3%A9.tar"
            ),
            "Content-Length": "5",
            "Accept-Ranges": "bytes",
            "X-Accel-Buffering": "no",
        },
        5,
        10,
    )


@pytest.mark.parametrize("several", [CIMultiDict, Headers, list])
def test_several_lines_of_a_field_are_all_seen(several):
    lines = several([("Range", "bytes=0-0"), ("Range", "bytes=5-9")])
    assert archive_of_bytes().headers("GET", lines).status == 200


def test_each_status_has_its_headers():
    archive = archive_of_bytes()
    n, etag = str(archive.size), archive.etag

    def headers(method, **fields):
        answer = archive.headers(method, {k.replace("_", "-"): v for k, v in fields.items()})
        return answer.status, answer.headers, answer.stop - answer.start

    for method, length in (("GET", archive.size), ("HEAD", 0)):
        status_, fields, body = headers(method)
        assert (status_, fields["Content-Length"], fields["ETag"], body) == (200, n, etag, length)
    assert headers("HEAD", Range="bytes=0-0")[0] == 200
    assert headers("GET", If_None_Match=etag) == (
        304,
        {"ETag": etag, "Cache-Control": "no-cache, no-transform"},
        0,
    )
    assert headers("GET", If_Match='"x"') == (412, {"ETag": etag, "Content-Length": "0"}, 0)
    assert headers("GET", Range=f"bytes={n}-") == (
        416,
        {"ETag": etag, "Content-Range": f"bytes */{n}", "Content-Length": "0"},
        0,
    )
    assert headers("POST", Range="bytes=0-0")[0] == 200


async def test_a_range_of_a_zip_reads_no_more_than_it_may(origin):
    """Its end follows from checksums: learnt ones, or members read again within `reread_bytes`."""
    url = origin.add("/a", Object(CONTENT))
    origins = Origins(reread_bytes=len(CONTENT) - 1)
    tail = {"Range": "bytes=-50"}

    async def plan(**stated):
        member = Member(name="a", source=url, **stated)
        return await Archive.plan([member], format="zip", origins=origins)

    archive = await plan()
    answer = archive.headers("GET", tail)
    assert (answer.status, answer.headers["Accept-Ranges"]) == (200, "none")
    whole = await read(archive)
    # It passed: another archive of it, the same as this one, knows it.
    archive = await plan()
    answer = archive.headers("GET", tail)
    assert (answer.status, answer.headers["Accept-Ranges"]) == (206, "bytes")
    asked = len(origin.asked("/a"))
    assert await read(archive, answer.start, answer.stop) == whole[-50:]
    assert len(origin.asked("/a")) == asked
    with zipfile.ZipFile(io.BytesIO(whole)) as file:
        crc = file.getinfo("a").CRC
    stated = Archive(
        [Member(name="a", source=url, size=len(CONTENT), etag='"1"', crc32=f"{crc:08X}")],
        format="zip",
    )
    assert stated.headers("GET", tail).status == 206


async def test_a_zip_states_the_checksums_of_bytes():
    """So it has no data descriptors, and every reader takes it from a pipe; any part is at hand."""
    archive = Archive(
        [Member(name="a", source=CONTENT)], format="zip", origins=Origins(reread_bytes=0)
    )
    assert archive.seekable
    with zipfile.ZipFile(io.BytesIO(await read(archive))) as file:
        assert not file.getinfo("a").flag_bits & 8
        assert file.testzip() is None


async def test_digests_that_are_stated_are_verified():
    member = Member(name="a", source=opener(CONTENT), size=len(CONTENT), etag='"1"', crc32="0" * 8)
    for format_ in FORMATS:
        with pytest.raises(ObjectChanged, match="'a' cannot be had: it does not have the crc32"):
            await read(Archive([member], format=format_))


# Directories, digests, checksums


async def test_text_directories_and_checksums_are_those_of_a_gateway(origin, start, client):
    """Entity-tag and bytes; in each format."""
    url = origin.add("/big.bin", Object(CONTENT))
    entries = [
        {"id": "1", "name": "empty/", "mtime": MTIME},
        {"id": "2", "name": "d/README", "text": "some text\n"},
        {"id": "3", "name": "big.bin", "url": url},
        {"id": "4", "name": "none", "text": ""},
    ]
    members = [
        Member(name="empty/", mtime=MTIME),
        Member(name="d/README", source=b"some text\n"),
        Member(name="big.bin", source=url),
        Member(name="none", source=b""),
    ]
    gateway = await start(origin, entries)
    for format_ in FORMATS:
        for asked in ({}, {"checksums": "sha256"}):
            archive = await Archive.plan(members, format=format_, **asked)
            async with client.get(gateway.url("1234", format=format_, **asked)) as response:
                assert response.headers["ETag"] == archive.etag
                assert await response.read() == await read(archive)


@pytest.mark.parametrize("format", KINDS)
async def test_sha256sum_takes_the_checksums(every_kind, tmp_path, format):
    """Of each kind of source, an iterator too; directories have none to list."""
    members = [member for member, _ in every_kind]
    members += [
        Member(name="once", source=opener(CONTENT)(0, 1000), size=1000),
        Member(name="empty directory/", mtime=5),
    ]
    archive = await Archive.plan(members, format=format, checksums="sha256")
    assert archive.names[-1] == "SHA256SUMS"
    path = tmp_path / "archive"
    path.write_bytes(await read(archive))
    command = ["unzip", "-q"] if format == "zip" else ["tar", "-xf"]
    into = tmp_path / "into"
    into.mkdir()
    subprocess.run([*command, path], cwd=into, check=True)
    assert (into / "empty directory").is_dir()
    done = subprocess.run(
        ["sha256sum", "--strict", "-c", "SHA256SUMS"],
        cwd=into,
        capture_output=True,
        text=True,
        check=True,
    )
    assert [line.rpartition(": ")[2] for line in done.stdout.splitlines()] == ["OK"] * 6


async def test_checksums_have_ranges_once_they_are_known(origin):
    """Stated, or passed before; nothing is read for them alone."""
    url = origin.add("/a", Object(CONTENT))
    tail = {"Range": "bytes=-1500"}
    origins = Origins()

    async def plan(**stated):
        members = [Member(name="b", source=b"bytes"), Member(name="a", source=url, **stated)]
        return await Archive.plan(members, checksums="sha256", origins=origins)

    stated = await plan(sha256=hashlib.sha256(CONTENT).hexdigest())
    assert stated.seekable
    assert stated.headers("GET", tail).status == 206
    archive = await plan()
    assert not archive.seekable
    answer = archive.headers("GET", tail)
    assert (answer.status, answer.headers["Accept-Ranges"]) == (200, "none")
    whole = await read(archive)
    archive = await plan()
    answer = archive.headers("GET", tail)
    assert (answer.status, answer.headers["Accept-Ranges"]) == (206, "bytes")
    asked = len(origin.requests)
    assert await read(archive, answer.start, answer.stop) == whole[-1500:]
    assert len(origin.requests) == asked


async def test_checksums_of_a_function_are_not_remembered():
    """State them: another function is another source."""
    origins = Origins()

    def archive(**stated):
        member = Member(name="a", source=opener(CONTENT), size=len(CONTENT), etag='"1"', **stated)
        return Archive([member], checksums="sha256", origins=origins)

    whole = await read(archive())
    assert archive().headers("GET", {"Range": "bytes=-1500"}).status == 200
    stated = archive(sha256=hashlib.sha256(CONTENT).hexdigest())
    answer = stated.headers("GET", {"Range": "bytes=-1500"})
    assert answer.status == 206
    assert await read(stated, answer.start, answer.stop) == whole[-1500:]


@pytest.mark.parametrize("known", [True, False], ids=["known", "unknown"])
async def test_any_part_of_a_zip_with_checksums(every_kind, known):
    """Whatever has to be read for it: each byte, and parts that begin and end wherever they may."""
    members = [member for member, _ in every_kind]
    origins = Origins()
    archive = await Archive.plan(members, format="zip", checksums="sha256", origins=origins)
    whole = await read(archive)
    assert len(whole) == archive.size
    with zipfile.ZipFile(io.BytesIO(whole)) as file:
        assert file.testzip() is None
        begins = [entry.header_offset for entry in file.infolist()]
    ends = sorted({*begins, *(offset + 60 for offset in begins), archive.size - 30, archive.size})
    for start, stop in itertools.combinations([*ends, archive.size - 300], 2):
        if not known:
            archive = await Archive.plan(members, format="zip", checksums="sha256")
        assert await read(archive, start, stop) == whole[start:stop], (start, stop)


def test_a_member_that_is_called_as_the_checksums_are_keeps_its_name():
    archive = Archive([Member(name="SHA256SUMS", source=b"mine")], checksums="sha256")
    assert archive.names == ["SHA256SUMS", "SHA256SUMS (2)"]


def test_directories_collide_with_files_and_not_with_each_other():
    members = [Member(name="a/"), Member(name="a/"), Member(name="a", source=b"")]
    assert Archive(members).names == ["a/", "a/", "a (2)"]


@pytest.mark.parametrize("algorithm", ["crc32", "md5", "sha256"])
async def test_each_digest_is_verified(origin, algorithm):
    """In either case of its letters; a wrong one fails, and no etag hides it."""
    url = origin.add("/a", Object(CONTENT))
    right = of(CONTENT, algorithm)
    good = await Archive.plan([Member(name="a", source=url, **{algorithm: right.upper()})])
    assert CONTENT in await read(good)
    wrong = ("1" if right[0] == "0" else "0") + right[1:]
    with pytest.raises(ObjectChanged, match=f"'a' cannot be had: it does not have the {algorithm}"):
        await read(await Archive.plan([Member(name="a", source=url, **{algorithm: wrong})]))


async def test_a_digest_that_nothing_has_is_refused_by_the_plan(origin):
    """Nothing of an empty member passes, so nothing would notice later."""
    url = origin.add("/a", Object(b""))
    good = await Archive.plan([Member(name="x", source=url, crc32="00000000")])
    assert good.size == 1536
    with pytest.raises(OriginError, match="'x' cannot be had: it is empty, and does not have the"):
        await Archive.plan([Member(name="x", source=url, crc32="00000001")])


# Compressed

COMPRESSED = {
    "tar.gz": ("gzip", "application/gzip", gzip.decompress, EOFError),
    "tar.zst": ("zstd", "application/zstd", zstd.decompress, zstd.ZstdError),
}
EACH_COMPRESSED = pytest.mark.parametrize("format", COMPRESSED)


@EACH_COMPRESSED
async def test_a_compressed_archive_is_the_tar_within(every_kind, format):
    """Streamed, iterated or as a file; its entity-tag is the gateway's, and weak."""
    coding, media_type, decompress, _ = COMPRESSED[format]
    members = [member for member, _ in every_kind]
    tar = await Archive.plan(members)
    archive = await Archive.plan(members, format=format)
    assert archive.size is None
    assert archive.etag == f'W/"{tar.etag[1:-1]}-{coding}"'
    assert archive.media_type == media_type
    assert not archive.seekable
    within = await read(tar)
    assert decompress(await read(archive)) == within
    assert decompress(b"".join(await asyncio.to_thread(list, archive.iterate()))) == within

    def from_file():
        with archive.file() as file, tarfile.open(fileobj=file, mode="r|*") as tar_file:
            return tar_file.getnames()

    if format == "tar.gz" or sys.version_info >= (3, 14):  # those that tarfile reads
        assert await asyncio.to_thread(from_file) == archive.names


@EACH_COMPRESSED
def test_a_compressed_file_ends_and_cannot_be_sought_in(format):
    _, _, decompress, _ = COMPRESSED[format]
    archive = Archive([Member(name="a", source=CONTENT)], format=format)
    with archive.file() as file:
        assert not file.seekable()
        with pytest.raises(io.UnsupportedOperation, match="nobody knows where"):
            file.seek(0, os.SEEK_END)
        head = file.read(1000)
        assert (len(head), file.tell(), file.seek(0, os.SEEK_CUR)) == (1000, 1000, 1000)
        for offset, whence in ((0, os.SEEK_SET), (0, os.SEEK_END)):
            with pytest.raises(io.UnsupportedOperation):
                file.seek(offset, whence)
        body = head + file.read()
        assert (file.tell(), file.read(10), file.read()) == (len(body), b"", b"")
    assert CONTENT in decompress(body)
    assert not threads()


@EACH_COMPRESSED
async def test_a_compressed_answer_is_the_whole_without_a_length(every_kind, format):
    archive = await Archive.plan([member for member, _ in every_kind], format=format)
    strong = archive.etag.removeprefix("W/")
    for fields in ({}, {"Range": "bytes=5-9"}, {"Range": "bytes=5-9", "If-Range": strong}):
        answer = archive.headers("GET", fields, name="holiday")
        assert (answer.status, answer.start, answer.stop) == (200, 0, None)
        assert "Content-Length" not in answer.headers
        assert answer.headers["Accept-Ranges"] == "none"
        assert answer.headers["Content-Type"] == archive.media_type
        assert f'filename="holiday.{format}"' in answer.headers["Content-Disposition"]
    head = archive.headers("HEAD")
    assert (head.headers, head.start, head.stop) == (archive.headers("GET").headers, 0, 0)
    assert archive.headers("GET", {"If-None-Match": archive.etag}).status == 304
    assert archive.headers("GET", {"If-Match": archive.etag}).status == 412
    assert await read(archive, head.start, head.stop) == b""


@EACH_COMPRESSED
@pytest.mark.parametrize(("start", "stop"), [(1, None), (0, 5), (5, 9), (-1, None), (0, -1)])
def test_no_part_of_a_compressed_archive_is_given(format, start, stop):
    archive = Archive([Member(name="a", source=CONTENT)], format=format)
    for part in (archive.stream, archive.iterate):
        with pytest.raises(ValueError, match=f"of a {format} no part can be had"):
            part(start, stop)


@EACH_COMPRESSED
@pytest.mark.parametrize("at", [0, 100_000, len(CONTENT) - 1])
async def test_a_compressed_archive_that_breaks_off_looks_so(format, at):
    """Its end is missing, and what can be read of it ends inside of the member."""
    _, _, decompress, truncated = COMPRESSED[format]

    async def breaks(start, stop):
        yield CONTENT[:at]
        raise ObjectMissing("it was deleted")

    members = [
        Member(name="a", source=CONTENT),
        Member(name="b", source=breaks, size=len(CONTENT), etag='"1"'),
    ]
    archive = Archive(members, format=format)
    given = b""

    async def pull():
        nonlocal given
        async for chunk in archive.stream():
            given += chunk

    with pytest.raises(ObjectMissing, match="'b' cannot be had"):
        await pull()
    with pytest.raises(truncated):
        decompress(given)
    reader = zlib.decompressobj(31) if format == "tar.gz" else zstd.ZstdDecompressor()
    within = reader.decompress(given)
    first = 512 + len(CONTENT)
    assert first < len(within) < first + 512 + 512 + len(CONTENT)
    assert within[512:first] == CONTENT
    await until(quiet)


@pytest.mark.parametrize("format", ["tar", *COMPRESSED])
async def test_a_wrong_digest_lacks_the_last_byte_at_least(format):
    """All else may be given: also what was held back until the digest was looked at."""
    member = Member(name="a", source=opener(CONTENT), size=len(CONTENT), crc32="0" * 8)
    archive = Archive([member], format=format)
    given = b""

    async def pull():
        nonlocal given
        async for chunk in archive.stream():
            given += chunk

    with pytest.raises(ObjectChanged):
        await pull()
    if format == "tar.gz":
        given = zlib.decompressobj(31).decompress(given)
    elif format == "tar.zst":
        given = zstd.ZstdDecompressor().decompress(given)
    assert given[512:] == CONTENT[:-1]


@EACH_COMPRESSED
async def test_a_level_makes_it_smaller(format):
    lines = Path(__file__).read_bytes()

    async def size(**level):
        archive = Archive([Member(name="a", source=lines)], format=format, **level)
        return len(await read(archive))

    assert await size(level=9) < await size(level=1)
    level = {"tar.gz": Levels().gzip, "tar.zst": Levels().zstd}[format]
    assert await size() == await size(level=level)


@EACH_COMPRESSED
async def test_a_compressed_stream_that_is_abandoned_frees_what_it_has_open(origin, format):
    url = origin.add("/a", Object(Made(200_000), stall(at=150_000)))
    archive = await Archive.plan([Member(name="a", source=url)], format=format)
    await abandoned_by_break(archive)
    gc.collect()
    await until(quiet)
    await origin.until(lambda: not origin.open_connections)


@EACH_COMPRESSED
async def test_what_has_come_can_be_read_before_the_end(format):
    """No compressor waits for more: a slow origin does not look like one that is dead."""
    more = asyncio.Event()

    async def slow(start, stop):
        yield CONTENT[:1000]
        await more.wait()
        yield CONTENT[1000:]

    member = Member(name="a", source=slow, size=len(CONTENT))
    reader = zlib.decompressobj(31) if format == "tar.gz" else zstd.ZstdDecompressor()
    async with Archive([member], format=format).stream() as stream, asyncio.timeout(30):
        within = b""
        while len(within) < 1512:
            within += reader.decompress(await anext(stream))
        more.set()
        async for chunk in stream:
            within += reader.decompress(chunk)
    assert CONTENT in within


# Credentials

CANARY = "Bearer canary-5ecret-0f-tests"


@pytest.fixture
async def other():
    async with Origin() as origin:
        yield origin


def carried(origin):
    return {request.headers.get("x-key") for request in origin.requests}


async def test_each_request_to_the_origin_carries_its_credentials(origin, other):
    """HEAD, GET, a range, and a repair; no other origin does."""
    members = [
        Member(name="a", source=origin.add("/a", Object(CONTENT), fin(at=200_000, times=1))),
        Member(name="b", source=other.add("/b", Object(b"abc"))),
    ]
    origins = Origins(credentials={origin.root: {"X-Key": CANARY}})
    archive = await Archive.plan(members, origins=origins)
    assert CONTENT in await read(archive)
    assert len(await read(archive, 600, 700)) == 100
    assert len(origin.requests) >= 4
    assert carried(origin) == {CANARY}
    assert carried(other) == {None}


@pytest.mark.parametrize("allowed", [False, True])
async def test_a_redirect_elsewhere_loses_credentials_for_good(origin, other, allowed):
    origin.add("/a", b"", redirect(other.url("/b")))
    target = other.add("/b", b"", redirect(origin.url("/c")))
    origin.add("/c", b"contents")
    origins = Origins(
        [origin.root, other.root] if allowed else None,
        credentials={origin.root: {"X-Key": CANARY}},
    )
    members = [
        Member(name="a", source=origin.url("/a")),
        Member(name="b", source=target),
    ]
    archive = await Archive.plan(members, origins=origins)
    assert (await read(archive)).count(b"contents") == 2
    assert len(other.requests) >= 4
    assert carried(other) == {None}
    asked = {(request.path, request.headers.get("x-key")) for request in origin.requests}
    assert asked == {("/a", CANARY), ("/c", None)}


async def test_a_function_gives_credentials_for_each_request(origin):
    """Those that change while an archive is read; each origin and header has its own."""
    url = origin.add("/a", Object(CONTENT), fin(at=200_000, times=1))
    given = []

    def token():
        given.append(f"Bearer {len(given)}")
        return given[-1]

    fields = {"X-Key": token, "X-Other": "constant"}
    async with Origins(credentials={origin.root: fields}) as origins:
        archive = await Archive.plan([Member(name="a", source=url)], origins=origins)
        assert CONTENT in await read(archive)
    seen = [request.headers["x-key"] for request in origin.requests]
    assert seen == given
    assert len(seen) >= 3
    assert {request.headers["x-other"] for request in origin.requests} == {"constant"}


def failing():
    raise LookupError("the vault is closed")


@pytest.mark.parametrize(
    ("give", "error", "says"),
    [
        (failing, OriginBroken, "the credentials for its origin cannot be had"),
        (lambda: CANARY + "\r\nX-Other: b", OriginError, "are not a line of printable ASCII"),
        (lambda: CANARY + "é", OriginError, "are not a line of printable ASCII"),
        (lambda: None, OriginError, "are not a line of printable ASCII"),
        (lambda: b"canary", OriginError, "are not a line of printable ASCII"),
    ],
)
async def test_a_function_that_gives_none_is_an_error_that_does_not_show_it(
    origin, give, error, says
):
    """And nothing is sent."""
    url = origin.add("/a", Object(b"abc"))
    origins = Origins(credentials={origin.root: {"X-Key": give}}, attempts=1)
    with pytest.raises(error, match=f"'x' cannot be had: .*{says}") as caught:
        await Archive.plan([Member(name="x", source=url)], origins=origins)
    assert "canary" not in "".join(map(repr, chain_of(caught.value)))
    assert not origin.requests


def chain_of(error):
    """An error and all that led to it."""
    while error is not None:
        yield from getattr(error, "exceptions", ())
        yield error
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize(
    "fault",
    [fin(at=100), rst(at=100), status(403), status(503), garbled(), redirect("http://evil/")],
    ids=["fin", "rst", "403", "503", "garbled", "redirect"],
)
async def test_no_error_holds_credentials(origin, caplog, fault):
    """Whatever happens; neither what is raised, nor the log, nor a repr."""
    url = origin.add("/a", Object(CONTENT), fault)
    origins = Origins(credentials={origin.root: {"X-Key": CANARY}}, attempts=1)
    archive = Archive([Member(name="a", source=url, size=len(CONTENT))], origins=origins)
    with pytest.raises(TarstreamError) as caught, caplog.at_level("DEBUG"):
        await read(archive)
    assert carried(origin) == {CANARY}
    shown = [repr(origins), repr(archive), caplog.text, caught.value.detail]
    shown += [f"{error} {error!r}" for error in chain_of(caught.value)]
    shown += traceback.format_exception(caught.value)
    assert "canary" not in "".join(shown)


@pytest.mark.parametrize(
    "credentials",
    [
        {"https://*.example.com": {"X-Key": CANARY}},
        {"file:///srv": {"X-Key": CANARY}},
        {"https://u:canary@h": {"X-Key": CANARY}},
        {"https://h/path": {"X-Key": CANARY}},
        {"canary": {"X-Key": CANARY}},
        {"https://h": {"Range": CANARY}},
        {"https://h": {"Host": CANARY}},
        {"https://h": {f"X-Key: {CANARY}": CANARY}},
        {"https://h": {"X-Key": ""}},
        {"https://h": {"X-Key": CANARY + "\n"}},
        {"https://h": {"X-Key": CANARY.encode()}},
        {"https://h": {"X-Key": CANARY, "x-key": CANARY}},
        {"https://h": {"X-Key": CANARY}, "https://H:443": {"X-KEY": CANARY}},
    ],
)
def test_credentials_that_cannot_be_sent_are_refused_and_not_shown(credentials):
    with pytest.raises(ValueError, match=r"origin|header|value|name|twice|cannot be set") as caught:
        Origins(credentials=credentials)
    assert "canary" not in "".join(map(repr, chain_of(caught.value)))


def test_credentials_are_for_origins_that_are_allowed():
    allow = ["https://a.example.com", "https://*.example.org"]
    for good in ("https://A.example.com:443", "https://b.example.org"):
        Origins(allow, credentials={good: {"X-Key": CANARY}})
    with pytest.raises(ValueError, match=r"'https://c.example.com', which allow does not list"):
        Origins(allow, credentials={"https://c.example.com": {"X-Key": CANARY}})


# What it stands on


def test_it_needs_nothing_of_the_server(tmp_path):
    """Neither what reads settings, nor metrics, nor another event loop has to be installed."""
    program = (
        "import sys\n"
        "for name in sys.argv[1].split(): sys.modules[name] = None\n"
        "import asyncio\n"
        "from pathlib import Path\n"
        "from tarstream import Archive, Member, Origins\n"
        "members = [Member(name='d/'), Member(name='a', source=Path(sys.argv[2]))]\n"
        "for format in ('tar', 'zip', 'tar.gz', 'tar.zst'):\n"
        "    archive = asyncio.run(Archive.plan(members, format=format, checksums='sha256'))\n"
        "    with archive.file() as file:\n"
        "        print(archive.size, len(file.read()))\n"
    )
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    done = subprocess.run(
        [sys.executable, "-c", program, " ".join(SERVER), path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    sizes, lengths = zip(*(line.split() for line in done.stdout.splitlines()), strict=True)
    assert sizes == (*lengths[:2], "None", "None")
    assert all(map(int, lengths))


SERVER = {
    "prometheus_client": "prometheus-client",
    "pydantic": "pydantic-settings",
    "pydantic_core": "pydantic-settings",
    "pydantic_settings": "pydantic-settings",
    "uvloop": "uvloop",
}
"""What only the server imports, and what brings it."""


def test_what_the_server_needs_is_an_extra():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    def names(requirements):
        return {re.match(r"[a-z.-]+", each)[0] for each in requirements}

    assert names(project["dependencies"]) == {"aiohttp", "backports.zstd", "isal"}
    assert names(project["optional-dependencies"]["server"]) == set(SERVER.values())


# The file


def test_the_file_is_read_only_and_knows_its_place():
    archive = archive_of_bytes()
    with archive.file() as file:
        assert isinstance(file, io.RawIOBase)
        assert (file.readable(), file.writable(), file.seekable()) == (True, False, True)
        assert file.seek(-10, os.SEEK_END) == archive.size - 10
        assert file.read() == bytes(10)
        assert (file.tell(), file.read(5)) == (archive.size, b"")
        assert file.seek(512) == 512
        assert file.read(100) == CONTENT[:100]
        assert file.seek(100, os.SEEK_CUR) == 712
        assert file.read(100) == CONTENT[200:300]
        assert file.seek(archive.size + 5) == archive.size + 5
        assert file.read() == b""
        with pytest.raises(ValueError, match="-1"):
            file.seek(-1)
    with pytest.raises(ValueError, match="closed"):
        file.read(1)
    with pytest.raises(ValueError, match="closed"):
        file.seek(0)
    assert not threads()


def test_a_file_of_what_may_change_cannot_be_sought_in():
    archive = Archive([Member(name="a", source=opener(CONTENT), size=len(CONTENT))])
    with archive.file() as file:
        assert not file.seekable()
        assert len(file.read(1000)) == 1000
        assert file.seek(1000) == 1000
        with pytest.raises(
            io.UnsupportedOperation, match="no part of the archive can be had alone"
        ):
            file.seek(5)
    assert not threads()


def test_a_file_may_be_read_to_its_end():
    archive = archive_of_bytes()
    with archive.file() as file:
        assert io.BufferedReader(file).read() == b"".join(archive.iterate())


@pytest.mark.parametrize("read_on", ["iterator", "file"])
def test_what_was_begun_before_a_fork_is_the_parents(read_on):
    """It has a thread that the other process has not: to wait for it would be for ever."""
    program = f"""
import os
from tarstream import Archive, Member
archive = Archive([Member(name="a", source=bytes(1_000_000), mtime=0)])
if {read_on!r} == "file":
    opened = archive.file()
    go_on = lambda: opened.read(1000)
else:
    opened = archive.iterate()
    go_on = lambda: next(opened)
go_on()
child = os.fork()
if child == 0:
    try:
        for _ in range(100):
            go_on()
    except ValueError as error:
        opened.close()
        os._exit(0 if "another process" in str(error) else 1)
    os._exit(2)
assert os.waitpid(child, 0)[1] == 0
while go_on() and {read_on!r} == "file":
    pass
opened.close()
"""
    quiet = ["-W", "ignore::DeprecationWarning"]  # Python 3.12 warns of forks of threads
    subprocess.run([sys.executable, *quiet, "-c", program], cwd=ROOT, check=True, timeout=60)


@pytest.mark.parametrize("source", [lambda start: None, lambda: None, lambda a, b, c: None])
def test_a_function_that_takes_other_than_start_and_stop_is_a_mistake(source):
    with pytest.raises(TypeError, match="source of 'a' must take two numbers"):
        Member(name="a", source=source, size=1)


def test_a_function_may_take_more_than_it_is_given():
    Member(name="a", source=lambda start, stop, block=1: None, size=1)
    Member(name="a", source=lambda *given: None, size=1)
    Member(name="a", source=max, size=1)


def test_headers_may_be_pairs_of_bytes_as_asgi_has_them():
    archive = Archive([Member(name="a", source=CONTENT)])
    answer = archive.headers("GET", [(b"range", b"bytes=0-9")])
    assert (answer.status, answer.start, answer.stop) == (206, 0, 10)
    tag = archive.etag.encode()
    assert archive.headers("GET", [(b"if-none-match", tag)]).status == 304


def test_a_file_is_sought_in_by_whole_numbers_and_from_places_there_are():
    file = Archive([Member(name="a", source=CONTENT)]).file()
    with pytest.raises(ValueError, match="whence"):
        file.seek(0, 9)
    with pytest.raises(TypeError):
        file.seek(1.5)
    assert file.tell() == 0


async def test_bytes_leave_in_pieces():
    stream = Archive([Member(name="a", source=bytes(10_000_000))]).stream()
    assert max([len(chunk) async for chunk in stream]) < 200_000


def twice(origin, etag):
    """Two members of one URL that gives other contents from the second time on."""
    first, second = (Object(Made(100_000, n), etag=etag, last_modified=None) for n in (1, 2))
    url = origin.add("/a", first, becomes(second, skip=1, methods=("GET",)))
    members = [
        Member(name=name, source=url, size=100_000, mtime=0, etag=etag) for name in ("a", "b")
    ]
    return members, first.content.read(), second.content.read()


BOTH = pytest.mark.parametrize("options", [{"format": "zip"}, {"checksums": "sha256"}])


@BOTH
async def test_contents_that_are_sent_twice_and_differ_have_a_digest_each(origin, options):
    """Where nothing says that they are the same."""
    members, first, second = twice(origin, None)
    got = await read(Archive(members, **options))
    assert first in got
    assert second in got
    if "format" in options:
        assert zipfile.ZipFile(io.BytesIO(got)).testzip() is None
    else:
        for content in (first, second):
            assert hashlib.sha256(content).hexdigest().encode() in got


@BOTH
async def test_contents_that_differ_under_one_validator_fail_within_the_second(origin, options):
    """What is said of them at the end could be right for one of them only."""
    members, first, second = twice(origin, '"same"')
    got, error = await cut(Archive(members, **options).stream())
    assert "'b' cannot be had: it changes while it is sent" in str(error)
    assert first in got
    assert second[:50_000] in got
    assert second not in got


async def test_a_part_of_a_zip_waits_for_several_members_at_a_time(origin):
    """Those that it follows from; each alone would cost a round trip."""
    members = [
        Member(name=url, source=url, size=1000, mtime=0, etag=f'"{n}"')
        for n, url in enumerate(
            origin.add(f"/{n}", Object(Made(1000, n), etag=f'"{n}"'), late()) for n in range(30)
        )
    ]
    archive = Archive(members, format="zip", origins=Origins(ahead=8))
    reading = asyncio.create_task(read(archive, archive._layout.trailer_start))
    await origin.until(lambda: origin.in_flight == 9)
    for thing in origin.objects.values():
        thing.faults.clear()
    origin.release()
    assert (await reading)[-22:-18] == b"PK\5\6"
    assert origin.most_in_flight == 9
    assert len(origin.requests) == 30


async def test_what_is_there_twice_is_counted_once_of_what_may_be_read(origin):
    url = origin.add("/a", Object(Made(1000), etag='"a"'))
    members = [Member(name=n, source=url, size=1000, mtime=0, etag='"a"') for n in ("a", "b")]
    archive = Archive(members, format="zip", origins=Origins(reread_bytes=1000))
    assert archive.seekable
    assert await read(archive, archive.size - 22)


def test_a_file_that_could_not_be_read_may_be_tried_again():
    broken = True

    async def flaky(start, stop):
        yield CONTENT[start : start + 50_000]
        if broken:
            raise ObjectMissing("not just now")
        yield CONTENT[start + 50_000 : stop]

    member = Member(name="a", source=flaky, size=len(CONTENT), mtime=0, etag='"a"')
    file = Archive([member]).file()
    file.seek(512)
    for _ in range(2):
        with pytest.raises(ObjectMissing):
            file.read(len(CONTENT))
        assert file.tell() == 512
    broken = False
    assert file.read(len(CONTENT)) == CONTENT


async def cut(stream):
    """What came of a stream, and why no more did."""
    got = bytearray()
    with pytest.raises(ObjectChanged) as caught:
        await _into(got, stream)
    return bytes(got), caught.value


async def _into(got, stream):
    async for chunk in stream:
        got += chunk
