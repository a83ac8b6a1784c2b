"""Members that are no remote files, over HTTP: text, empty directories, ids that are several."""

import asyncio
import hashlib
import io
import logging
import re
import tarfile
import zipfile
import zlib

import pytest
from gateway import ROOT
from made import Made
from test_formats import ENVIRONMENT, READERS, READERS_OF_STATED, extract

from tarstream.formats import FORMATS

CLIP = Made(70_000, 1)
PAGE = Made(512, 2)
TEXT = "Grüezi!\n"
MTIME = 1_700_000_000  # an even second, as DOS has them

any_format = pytest.mark.parametrize("format_", FORMATS)
every_reader = pytest.mark.parametrize(
    ("format_", "reader"),
    [
        (format_, reader)
        for format_ in FORMATS
        for reader in READERS[format_] | READERS_OF_STATED.get(format_, {})
    ],
)


def entries(origin):
    """Every form that a line of a catalog may have."""
    clip = {"url": origin.add("/clip.bin", CLIP), "crc32": f"{zlib.crc32(CLIP.read()):08x}"}
    page = {"url": origin.add("/page/1", PAGE), "crc32": f"{zlib.crc32(PAGE.read()):08x}"}
    return [
        {"id": "clip", **clip},
        {"id": "licence", "text": TEXT, "name": "LICENCE.txt", "mtime": MTIME},
        {"id": "nothing", "text": "", "name": "ü/nothing.txt"},
        {"id": "out", "name": "out/", "mtime": MTIME},
        {"id": "deep", "name": "out/a/b é/"},
        {
            "id": "book",
            "prefix": "book/",
            "members": [
                {"text": "one page\n", "name": "README"},
                {"name": "notes/"},
                {**page, "name": "pages/1"},
                {**page, "name": "pages/1"},
            ],
        },
        {"id": "loose", "members": [{**page}, {"text": TEXT, "name": "LICENCE.txt"}]},
        {"id": "gone", "url": origin.url("/gone")},
        {
            "id": "torn",
            "prefix": "torn",
            "members": [{"url": origin.url("/gone"), "name": "x"}, {"text": "y", "name": "y"}],
        },
    ]


IDS = ["clip", "licence", "nothing", "out", "deep", "book", "loose"]

TREE = {
    "clip.bin": CLIP.read(),
    "LICENCE.txt": TEXT.encode(),
    "ü/nothing.txt": b"",
    "out/": None,
    "out/a/b é/": None,
    "book/README": b"one page\n",
    "book/notes/": None,
    "book/pages/1": PAGE.read(),
    "book/pages/1 (2)": PAGE.read(),
    "1": PAGE.read(),
    "LICENCE (2).txt": TEXT.encode(),
}
"""What they are: contents by name, in their order; None of an empty directory."""


async def get(client, url, start=None, stop=None):
    """An answer and its body; of the bytes [start, stop) when they are given."""
    part = f"bytes={start}-{'' if stop is None else stop - 1}"
    async with client.get(url, headers={} if start is None else {"Range": part}) as answer:
        return answer, await answer.read()


async def planned(client, gateway, ids, **parameters):
    async with client.get(gateway.url(ids, "/plan", **parameters)) as answer:
        assert answer.status == 200
        return await answer.json()


def names_in(body, format_):
    if format_ == "zip":
        return zipfile.ZipFile(io.BytesIO(body)).namelist()
    with tarfile.open(fileobj=io.BytesIO(body)) as archive:
        return [info.name + "/" * info.isdir() for info in archive]


def found_below(root):
    """Files with their contents, and directories in which there is nothing."""
    found = {}
    for path in root.rglob("*"):
        name = str(path.relative_to(root))
        if path.is_file():
            found[name] = path.read_bytes()
        elif not list(path.iterdir()):
            found[f"{name}/"] = None
    return found


def read_by(reader, body, format_, root):
    """The target of a reader, which has left nothing beside it."""
    readers = READERS[format_] | READERS_OF_STATED.get(format_, {})
    done, _ = extract(readers[reader], body, FORMATS[format_].SUFFIX, root)
    assert done.returncode == 0, done.stderr[-2000:]
    target = root / "above" / "target"
    assert [*root.iterdir(), *target.parent.iterdir()] == [target.parent, target]
    return target


@every_reader
async def test_every_reader_extracts_them(origin, start, client, tmp_path, format_, reader):
    gateway = await start(origin, entries(origin))
    _, body = await get(client, gateway.url(IDS, format=format_))
    assert names_in(body, format_) == list(TREE)
    target = await asyncio.to_thread(read_by, reader, body, format_, tmp_path / "root")
    above = {name: each for name, each in TREE.items() if name != "out/"}  # it is not empty
    assert found_below(target) == above
    # Whoever extracted them may look into them, and put something there.
    for name in ("out", "out/a/b é", "book/notes"):
        assert (target / name).stat().st_mode & 0o700 == 0o700


@every_reader
async def test_a_directory_more_than_once_harms_no_reader(
    origin, start, client, tmp_path, format_, reader
):
    """Twice the same, once more in other letters, and before and behind what is in it."""
    listed = [
        {"id": "before", "name": "d/e/", "mtime": MTIME},
        {"id": "file", "name": "d/e/f", "text": "x"},
        {"id": "behind", "name": "d/e/"},
        {"id": "above", "name": "d/"},
        {"id": "upper", "name": "D/"},
    ]
    gateway = await start(origin, listed)
    ids = ["before", "before", "file", "behind", "above", "upper"]
    _, body = await get(client, gateway.url(ids, format=format_))
    assert names_in(body, format_) == ["d/e/", "d/e/", "d/e/f", "d/e/", "d/", "D/"]
    target = await asyncio.to_thread(read_by, reader, body, format_, tmp_path / "root")
    assert found_below(target) == {"d/e/f": b"x", "D/": None}


@pytest.mark.parametrize(
    "command",
    [
        ["tar", "-xf", "{archive}"],
        ["bsdtar", "-xf", "{archive}"],
        ["busybox", "tar", "-xf", "{archive}"],
        ["unzip", "-q", "{archive}"],
    ],
    ids=lambda command: command[0],
)
async def test_modes_and_times_are_what_is_extracted(origin, start, client, tmp_path, command):
    format_ = "zip" if command[0] == "unzip" else "tar"
    listed = [
        {"id": "text", "name": "text", "text": "x", "mtime": MTIME},
        {"id": "dir", "name": "dir/", "mtime": MTIME},
    ]
    gateway = await start(origin, listed)
    _, body = await get(client, gateway.url(["text", "dir"], format=format_))
    archive = tmp_path / f"archive.{format_}"
    archive.write_bytes(body)
    done = await asyncio.create_subprocess_exec(
        *[part.format(archive=archive) for part in command], cwd=tmp_path, env=ENVIRONMENT, umask=0
    )
    assert await done.wait() == 0
    found = {
        name: (oct((tmp_path / name).stat().st_mode), int((tmp_path / name).stat().st_mtime))
        for name in ("text", "dir")
    }
    assert found == {"text": ("0o100644", MTIME), "dir": ("0o40755", MTIME)}


@any_format
async def test_without_a_time_it_is_that_of_the_epoch(origin, start, client, format_):
    gateway = await start(origin, entries(origin))
    plan = await planned(client, gateway, ["nothing", "deep"], format=format_)
    assert [member["mtime"] for member in plan["members"]] == [0, 0]


@any_format
async def test_their_plan_says_where_they_are(origin, start, client, format_):
    gateway = await start(origin, entries(origin))
    plan = await planned(client, gateway, IDS, format=format_)
    answer, body = await get(client, gateway.url(IDS, format=format_))
    assert plan["size"] == len(body) == int(answer.headers["Content-Length"])
    assert plan["etag"] == answer.headers["ETag"]
    assert [member["name"] for member in plan["members"]] == list(TREE)
    ids = [member["id"] for member in plan["members"]]
    assert ids == [*IDS[:5], *["book"] * 4, *["loose"] * 2]
    for member in plan["members"]:
        contents = TREE[member["name"]] or b""
        assert body[member["offset"] :][: member["size"]] == contents
        if member["id"] in {"licence", "nothing", "out", "deep"}:
            assert member["etag"] == f'"{hashlib.sha256(contents).hexdigest()[:32]}"'
    assert [(each["id"], each["to"]) for each in plan["renamed"]] == [
        ("book", "book/pages/1 (2)"),
        ("loose", "LICENCE (2).txt"),
    ]


@any_format
async def test_any_part_is_that_part_of_the_whole(origin, start, client, format_):
    ids = [each for each in IDS if each != "clip"]
    gateway = await start(origin, entries(origin))
    url = gateway.url(ids, format=format_)
    answer, whole = await get(client, url)
    assert answer.headers["Accept-Ranges"] == "bytes"
    for place in range(0, len(whole), 61):
        for stop in (min(place + 600, len(whole)), len(whole)):
            answer, body = await get(client, url, place, stop)
            assert (answer.status, body) == (206, whole[place:stop])


@any_format
async def test_no_origin_is_asked_for_them(origin, start, client, format_):
    """Not even where all that can be missing is looked for."""
    gateway = await start(origin, entries(origin))
    url = gateway.url(["licence", "nothing", "out", "deep"], format=format_, missing="skip")
    answer, body = await get(client, url)
    assert answer.status == 200
    assert names_in(body, format_) == ["LICENCE.txt", "ü/nothing.txt", "out/", "out/a/b é/"]
    assert origin.requests == []


async def test_a_zip_says_what_is_a_directory_in_every_way(origin, start, client):
    """By name, by Unix mode, and as DOS does (APPNOTE 4.4.15)."""
    gateway = await start(origin, entries(origin))
    _, body = await get(client, gateway.url(["licence", "out"], format="zip"))
    infos = zipfile.ZipFile(io.BytesIO(body)).infolist()
    assert [(info.filename, oct(info.external_attr >> 16)) for info in infos] == [
        ("LICENCE.txt", "0o100644"),
        ("out/", "0o40755"),
    ]
    assert [info.external_attr & 0x10 for info in infos] == [0, 0x10]


async def test_a_zip_states_what_it_knows_of_them(origin, start, client):
    """So that every reader takes them from a pipe."""
    gateway = await start(origin, entries(origin))
    _, body = await get(client, gateway.url(["licence", "nothing", "out"], format="zip"))
    assert b"PK\7\x08" not in body


@any_format
async def test_of_a_collection_only_what_is_gone_is_left_out(origin, start, client, format_):
    """What says so names the file, since the id is not enough."""
    gateway = await start(origin, entries(origin))
    ids = ["torn", "gone", "nobody"]
    parameters = {"format": format_, "missing": "skip"}
    plan = await planned(client, gateway, ids, **parameters)
    assert [member["name"] for member in plan["members"]] == ["torn/y", "MISSING.txt"]
    assert plan["missing"] == [
        {"id": "torn", "reason": "torn/x: its origin answers 404"},
        {"id": "gone", "reason": "its origin answers 404"},
        {"id": "nobody", "reason": "unknown"},
    ]
    _, body = await get(client, gateway.url(ids, **parameters))
    listed = "".join(f"{each['id']}\t{each['reason']}\n" for each in plan["missing"]).encode()
    assert listed in body
    async with client.get(gateway.url(["torn"], format=format_)) as answer:
        assert answer.status == 502
        assert [each["id"] for each in (await answer.json())["ids"]] == ["torn"]


async def test_each_file_of_a_collection_counts(origin, start, client):
    """Limits are those of members and of their bytes, not of ids."""
    for limits in ({"max_members": 3}, {"max_bytes": 1032}):
        gateway = await start(origin, entries(origin), limits=limits)
        async with client.get(gateway.url(["book"])) as answer:
            assert answer.status == 413


async def test_a_source_of_a_collection_that_is_not_allowed_is_refused(origin, start, client):
    """Once for each id, however many of them are."""
    far = {"url": "http://elsewhere.example.com/x"}
    listed = [{"id": "mixed", "members": [{"text": "x", "name": "x"}, far, far]}]
    gateway = await start(origin, listed)
    async with client.get(gateway.url(["mixed"])) as answer:
        assert answer.status == 403
        assert [each["id"] for each in (await answer.json())["ids"]] == ["mixed"]


HOSTILE = [
    {"id": "1", "name": "../../up", "text": "1"},
    {"id": "2", "name": "/abs/olute", "text": "2"},
    {"id": "3", "name": "../../"},
    {"id": "4", "name": "/"},
    {"id": "5", "name": "/abs/"},
    {"id": "6", "name": "C:\\dir/"},
    {"id": "7", "prefix": "../..", "members": [{"name": "../a", "text": "7"}, {"name": "../"}]},
    {"id": "8", "prefix": "/etc//", "members": [{"name": "/b", "text": "8"}, {"name": "c\x1b/"}]},
    {"id": "9", "prefix": "..\\", "members": [{"name": "d", "text": "9"}]},
]


@every_reader
async def test_hostile_names_stay_inside(origin, start, client, tmp_path, format_, reader):
    """Of directories and below prefixes as well."""
    gateway = await start(origin, HOSTILE)
    ids = [each["id"] for each in HOSTILE]
    _, body = await get(client, gateway.url(ids, format=format_))
    assert names_in(body, format_) == [
        "up", "abs/olute", "unnamed/", "unnamed/", "abs/", "C_/dir/", "a", "unnamed/", "etc/b",
        "etc/c_/", "d",
    ]  # fmt: skip
    target = await asyncio.to_thread(read_by, reader, body, format_, tmp_path / "root")
    found = found_below(target)
    assert {name for name, contents in found.items() if contents is not None} == {
        "up", "abs/olute", "a", "etc/b", "d",
    }  # fmt: skip
    assert found.keys() >= {"unnamed/", "C_/dir/", "etc/c_/"}


async def test_a_file_loses_its_name_to_a_directory(origin, start, client):
    """Wherever it stands; that directory may be empty."""
    listed = [
        {"id": "file", "name": "x", "text": "1"},
        {"id": "dir", "name": "x/"},
        {"id": "upper", "name": "X", "text": "2"},
    ]
    gateway = await start(origin, listed)
    plan = await planned(client, gateway, ["file", "dir", "upper"])
    assert [member["name"] for member in plan["members"]] == ["x (2)", "x/", "X (3)"]


async def test_a_file_without_a_name_stays_below_the_prefix(origin, start, client):
    """Its URL has no path that could be one."""
    origin.add("/", b"index")
    listed = [{"id": "c", "prefix": "p", "members": [{"url": origin.root + "/"}, {"name": "q/"}]}]
    gateway = await start(origin, listed)
    plan = await planned(client, gateway, ["c"])
    assert [member["name"] for member in plan["members"]] == ["p/unnamed", "p/q/"]


@any_format
async def test_they_may_be_all_there_is(origin, start, client, format_, caplog):
    """An archive of one empty directory is one, and is logged like any other."""
    caplog.set_level(logging.INFO)
    gateway = await start(origin, entries(origin))
    url = gateway.url(["out"], format=format_, checksums="sha256")
    answer, body = await get(client, url)
    assert answer.status == 200
    assert names_in(body, format_) == ["out/", "SHA256SUMS"]
    [line] = [each.fields for each in caplog.records if each.message == "archive"]
    assert (line["outcome"], line["sent"]) == ("complete", len(body))


async def test_a_new_text_is_another_archive(origin, start, client, tmp_path):
    """Its entity-tag follows from what it says, and from nothing that somebody has to count up."""
    tags = set()
    for text in ("one", "two"):
        gateway = await start(origin, [{"id": "t", "name": "t", "text": text}])
        tags.add((await planned(client, gateway, ["t"]))["etag"])
    assert len(tags) == 2


def test_the_documentation_has_a_row_on_directories_for_each_reader_of_zip():
    text = (ROOT / "docs" / "zip.md").read_text()
    assert "| empty directories |\n" in text
    rows = re.findall(r"(?m)^\| ([^|(]+?) (?:\([^|]+\) )?\| [\d.]+ \|.*\| yes \|$", text)
    assert set(rows) == {*READERS["zip"], *READERS_OF_STATED["zip"]}
