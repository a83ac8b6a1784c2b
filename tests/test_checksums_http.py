"""`checksums=sha256` over HTTP: what the tools for it say, and its bytes, whole and in parts."""

import asyncio
import hashlib
import io
import json
import logging
import os
import subprocess
import tarfile
import zipfile
import zlib

import faults
import pytest
from made import Made
from origin import Object
from test_compress import WHOLE
from test_names import HOSTILE

from tarstream.formats import FORMATS, KINDS

CONTENTS = {
    "first.bin": Made(50_000, 1),
    "dir/ü.txt": Made(1000, 2),
    "empty": Made(0),
    "-": Made(5, 3),
    "large.bin": Made(300_000, 4),
    "*star": Made(512, 5),
    " two  blanks": Made(77, 6),
    "\\back": Made(78, 7),
}
NAMES = {
    "tar": {"\\back": "back"},
    "zip": {"\\back": "back", "*star": "_star"},
}
"""What is called otherwise in an archive."""

HERE = {"text": b"Hello, \xc3\xa9\n", "hollow/": b""}
IDS = [*CONTENTS, *HERE]
CHECKS = {
    "GNU": "sha256sum --strict -c SHA256SUMS",
    "busybox": "busybox sha256sum -c SHA256SUMS",
    "perl": "shasum -a 256 --strict -c SHA256SUMS",
}

any_format = pytest.mark.parametrize("format_", FORMATS)
any_kind = pytest.mark.parametrize("kind", KINDS)


def crc(data):
    return f"{zlib.crc32(data):08x}"


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def entries(origin, *algorithms, contents=CONTENTS):
    """A catalog that states these digests."""
    digests = {"crc32": crc, "sha256": sha256, "md5": lambda data: hashlib.md5(data).hexdigest()}
    listed = [
        {"id": name, "url": origin.add(f"/{number}", made), "name": name}
        | {each: digests[each](made.read()) for each in algorithms}
        for number, (name, made) in enumerate(contents.items())
    ]
    listed += [{"id": "text", "name": "text", "text": HERE["text"].decode(), "mtime": 7}]
    return [*listed, {"id": "hollow/", "name": "hollow/"}]


def expected(format_):
    """The lines of a listing of all of it."""
    named = {NAMES[format_].get(name, name): made.read() for name, made in CONTENTS.items()}
    lines = [f"{sha256(data)}  {'./' * (name == '-')}{name}\n" for name, data in named.items()]
    return "".join([*lines, f"{sha256(HERE['text'])}  text\n"]).encode()


async def get(client, url, start=None, stop=None):
    """An answer and its body; of the bytes [start, stop) when they are given."""
    part = f"bytes={start}-{'' if stop is None else stop - 1}"
    async with client.get(url, headers={} if start is None else {"Range": part}) as answer:
        return answer, await answer.read()


async def planned(client, gateway, ids, **parameters):
    async with client.get(gateway.url(ids, "/plan", **parameters)) as answer:
        assert answer.status == 200
        return await answer.json()


def read(body, name):
    """The members of an archive, by name, in their order; those without contents as None."""
    if name == "zip":
        archive = zipfile.ZipFile(io.BytesIO(body))
        assert archive.testzip() is None
        return {
            info.filename: None if info.is_dir() else archive.read(info)
            for info in archive.infolist()
        }
    if KINDS[name].coding:
        body = WHOLE[KINDS[name].coding](body)
    with tarfile.open(fileobj=io.BytesIO(body)) as archive:
        return {
            info.name + "/" * info.isdir(): archive.extractfile(info).read()
            if info.isreg()
            else None
            for info in archive
        }


async def run(script, cwd, *, pipefail=True):
    """What a shell makes of it: exit status and standard output; nothing may be said besides."""
    options = ["-euo", "pipefail"] if pipefail else []
    shell = await asyncio.create_subprocess_exec(
        "bash",
        *options,
        "-c",
        script,
        cwd=cwd,
        env=os.environ | {"LC_ALL": "C.UTF-8"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    return shell, *(await shell.communicate())


def fetched(origin):
    """Bytes of contents that were asked for, all together."""
    return sum(each.sent for path in origin.objects for each in origin.asked(path))


def opened(caplog):
    """Fields of the lines that say how archives ended."""
    return [each.fields for each in caplog.records if each.message == "archive"]


# Whole ones


@any_kind
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_the_tools_for_it_find_everything_right(origin, start, tmp_path, kind, method):
    gateway = await start(origin, entries(origin))
    ask = f"curl -fsS '{gateway.url(IDS, format=kind, checksums='sha256')}'"
    if method == "POST":
        asked = {"ids": IDS, "format": kind, "checksums": "sha256"}
        (tmp_path / "asked.json").write_text(json.dumps(asked))
        ask = f"curl -fsS --json @asked.json http://127.0.0.1:{gateway.port}/archive"
    extract = {
        "tar": f"{ask} | tar x",
        "zip": f"{ask} -o a.zip; unzip -q a.zip",
        "tar.gz": f"{ask} | tar xz",
        "tar.zst": f"{ask} | tar x --zstd",
    }[kind]
    shell, said, complaints = await run("; ".join([extract, *CHECKS.values()]), tmp_path)
    assert (shell.returncode, complaints) == (0, b"")
    listing = expected(KINDS[kind].format)
    assert (tmp_path / "SHA256SUMS").read_bytes() == listing
    names = [line[66:] for line in listing.decode().splitlines()]
    assert said.decode().splitlines() == [f"{name}: OK" for name in names] * len(CHECKS)
    assert (tmp_path / "hollow").is_dir()


STRANGE = [
    *HOSTILE, "#", "a\nb", "back\\slash", "a  b", "  a", "a ", "*", "-", "./-", "d/-", "0" * 64,
    "SHA256 (x) = y", "\\", "%s", "\r", "--help", "-c", "a\tb", "$(x)", "\u2028", "é", "e\u0301",
]  # fmt: skip


@pytest.mark.parametrize("check", CHECKS)
async def test_the_tools_for_it_take_every_name(origin, start, tmp_path, check):
    listed = [
        {"id": str(number), "name": name, "text": name}
        for number, name in enumerate(STRANGE)
        if not name.endswith("/") and name == name.encode(errors="ignore").decode() != ""
    ]
    gateway = await start(origin, listed)
    url = gateway.url([each["id"] for each in listed], checksums="sha256")
    script = f"mkdir x; cd x; curl -fsS '{url}' | tar x; {CHECKS[check]}"
    shell, said, complaints = await run(script, tmp_path)
    assert (shell.returncode, complaints) == (0, b"")
    assert len(said.splitlines()) == len(listed)
    assert all(line.endswith(b": OK") for line in said.splitlines())


@pytest.mark.parametrize("check", CHECKS)
async def test_the_tools_for_it_notice_what_was_changed_later(origin, start, tmp_path, check):
    gateway = await start(origin, entries(origin))
    url = gateway.url(IDS, checksums="sha256")
    script = f"curl -fsS '{url}' | tar x; echo x >> empty; {CHECKS[check]}"
    shell, said, _ = await run(script, tmp_path)
    assert shell.returncode == 1
    assert b"empty: FAILED\n" in said


@any_kind
async def test_it_is_the_last_member_and_lists_what_says_what_is_missing(
    origin, start, client, kind
):
    gateway = await start(origin, entries(origin))
    ids = ["first.bin", "nowhere", "hollow/", "-"]
    url = gateway.url(ids, format=kind, checksums="sha256", missing="skip")
    _, body = await get(client, url)
    members = read(body, kind)
    assert list(members) == ["first.bin", "hollow/", "-", "MISSING.txt", "SHA256SUMS"]
    lines = members["SHA256SUMS"].decode().splitlines()
    assert [line[66:] for line in lines] == ["first.bin", "./-", "MISSING.txt"]
    assert lines[-1][:64] == sha256(members["MISSING.txt"])


async def test_a_file_of_its_name_keeps_it(origin, start, client, tmp_path):
    listed = [
        {"id": name, "url": origin.add(f"/{name}", b"theirs"), "name": name}
        for name in ("SHA256SUMS", "b")
    ]
    gateway = await start(origin, listed)
    url = gateway.url(["SHA256SUMS", "b"], checksums="sha256")
    script = f"curl -fsS '{url}' | tar x; sha256sum --strict -c 'SHA256SUMS (2)'"
    shell, said, complaints = await run(script, tmp_path)
    assert (shell.returncode, said, complaints) == (0, b"SHA256SUMS: OK\nb: OK\n", b"")
    plan = await planned(client, gateway, ["SHA256SUMS", "b"], checksums="sha256")
    assert plan["renamed"] == [{"id": None, "from": "SHA256SUMS", "to": "SHA256SUMS (2)"}]


@any_format
@pytest.mark.parametrize("stated", [(), ("sha256",), ("sha256", "crc32", "md5")])
async def test_its_length_is_known_beforehand(origin, start, client, format_, stated):
    """What HEAD, GET and /plan say of an archive is what arrives, before and after it was sent."""
    gateway = await start(origin, entries(origin, *stated))
    url = gateway.url(IDS, format=format_, checksums="sha256")
    said = []
    for _ in range(2):
        async with client.head(url) as head:
            plan = await planned(client, gateway, IDS, format=format_, checksums="sha256")
            answer, body = await get(client, url)
        lengths = {int(each.headers["Content-Length"]) for each in (head, answer)}
        assert lengths == {plan["size"], len(body)}
        [tag] = {head.headers["ETag"], answer.headers["ETag"], plan["etag"]}
        said.append((tag, body))
    assert said[0] == said[1]
    last = plan["members"][-1]
    assert (last["id"], last["name"], last["mtime"], last["etag"]) == (None, "SHA256SUMS", 0, None)
    assert body[last["offset"] :][: last["size"]] == expected(format_)


@any_format
async def test_every_kind_of_it_is_an_archive_of_its_own(origin, start, client, format_):
    """Its entity-tag is strong; without a listing, and with digests stated, it is another one."""
    tags = set()
    for stated in ((), ("sha256",)):
        gateway = await start(origin, entries(origin, *stated))
        for parameters in ({}, {"checksums": "sha256"}):
            plan = await planned(client, gateway, IDS, format=format_, **parameters)
            assert not plan["etag"].startswith("W/")
            tags.add(plan["etag"])
    assert len(tags) == 4


async def test_without_a_strong_validator_it_is_no_stronger(origin, start, client):
    """What is not remembered of such a member is not claimed either."""
    url = origin.add("/weak", Object(b"hello", 'W/"w"', None))
    gateway = await start(origin, [{"id": "weak", "url": url}])
    for _ in range(2):
        answer, body = await get(client, gateway.url(["weak"], checksums="sha256"), 0, 9)
        assert answer.status == 200
        assert answer.headers["ETag"].startswith('W/"')
        assert answer.headers["Accept-Ranges"] == "none"
        assert read(body, "tar")["SHA256SUMS"] == f"{sha256(b'hello')}  weak\n".encode()


# Parts


def edges(plan, size):
    """Offsets at which something begins or ends, and their neighbours."""
    found = {0, size - 1, size - 22}
    for member in plan["members"]:
        stop = member["offset"] + member["size"]
        found |= {member["offset"], member["offset"] + 1, stop - 1, stop, stop + 1, stop + 16}
    last = plan["members"][-1]
    found |= {last["offset"] + 64, last["offset"] + last["size"] // 2}
    return sorted(place for place in found if 0 <= place < size)


async def check_parts(client, url, plan, whole):
    for place in edges(plan, len(whole)):
        for stop in (min(place + 40, len(whole)), len(whole)):
            answer, body = await get(client, url, place, stop)
            assert answer.status == 206
            assert answer.headers["Accept-Ranges"] == "bytes"
            assert answer.headers["Content-Range"] == f"bytes {place}-{stop - 1}/{len(whole)}"
            assert body == whole[place:stop]


@any_format
async def test_parts_that_follow_from_what_nobody_knows_are_answered_with_the_whole(
    origin, start, client, format_
):
    """`Accept-Ranges` says so beforehand. Nothing is read for it that is not sent."""
    gateway = await start(origin, entries(origin))
    parameters = {"format": format_, "checksums": "sha256"}
    url = gateway.url(IDS, **parameters)
    plan = await planned(client, gateway, IDS, **parameters)
    async with client.head(url) as head:
        assert head.headers["Accept-Ranges"] == "none"
    # The contents of one member follow from nothing but themselves.
    first = plan["members"][0]["offset"]
    answer, body = await get(client, url, first, first + 100)
    assert (answer.status, body) == (206, CONTENTS["first.bin"].read(0, 100))
    assert fetched(origin) == 100
    listing = plan["members"][-1]
    before = fetched(origin)
    answer, body = await get(client, url, listing["offset"] + 3, listing["offset"] + 9)
    assert (answer.status, answer.headers["Accept-Ranges"]) == (200, "none")
    assert "Content-Range" not in answer.headers
    assert len(body) == plan["size"]
    assert read(body, format_)["SHA256SUMS"] == expected(format_)
    assert fetched(origin) - before == sum(each.size for each in CONTENTS.values())


@any_format
async def test_what_passed_once_is_remembered(origin, start, client, format_):
    """From then on any part is that part of the whole, and nothing is read again for it."""
    gateway = await start(origin, entries(origin))
    parameters = {"format": format_, "checksums": "sha256"}
    url = gateway.url(IDS, **parameters)
    answer, whole = await get(client, url)
    assert answer.headers["Accept-Ranges"] == "none"
    async with client.head(url) as head:
        assert head.headers["Accept-Ranges"] == "bytes"
    before = fetched(origin)
    plan = await planned(client, gateway, IDS, **parameters)
    answer, body = await get(client, url, plan["members"][-1]["offset"])
    assert (answer.status, body) == (206, whole[plan["members"][-1]["offset"] :])
    assert fetched(origin) == before
    await check_parts(client, url, plan, whole)


@any_format
@pytest.mark.parametrize("stated", [("sha256",), ("sha256", "crc32")])
async def test_where_all_is_stated_any_part_may_come_first(origin, start, client, format_, stated):
    """The whole was never sent before. What a zip needs besides, it reads."""
    parameters = {"format": format_, "checksums": "sha256"}
    gateway = await start(origin, entries(origin, *stated))
    _, whole = await get(client, gateway.url(IDS, **parameters))
    plan = await planned(client, gateway, IDS, **parameters)
    gateway = await start(origin, entries(origin, *stated))
    await check_parts(client, gateway.url(IDS, **parameters), plan, whole)


@any_format
async def test_a_part_of_one_gateway_fits_to_that_of_another(origin, start, client, format_):
    """One that has sent it before, and one that has not and begins where the first one ended."""
    parameters = {"format": format_, "checksums": "sha256"}
    gateways = [await start(origin, entries(origin)) for _ in range(2)]
    _, whole = await get(client, gateways[0].url(IDS, **parameters))
    _, begun = await get(client, gateways[1].url(IDS, **parameters), 0, 1000)
    answer, rest = await get(client, gateways[0].url(IDS, **parameters), 1000)
    assert answer.status == 206
    assert begun + rest == whole


@pytest.mark.parametrize("stated", [("crc32",), ("crc32", "sha256")])
async def test_a_zip_of_which_all_is_stated_can_be_read_from_a_pipe(
    origin, start, client, tmp_path, stated
):
    """Then the listing's own CRC-32 is known beforehand, so it needs no data descriptor."""
    gateway = await start(origin, entries(origin, *stated))
    url = gateway.url(IDS, format="zip", checksums="sha256")
    script = f"curl -fsS '{url}' | busybox unzip -q - && sha256sum --quiet -c SHA256SUMS"
    shell, _, _ = await run(script, tmp_path)
    assert (shell.returncode == 0) == ("sha256" in stated)
    _, body = await get(client, url)
    assert body.count(b"PK\7\x08") == ("sha256" not in stated)


async def test_a_listing_of_many_lines_has_parts_as_well(origin, start, client):
    """It is made some hundred lines at a time."""
    listed = [
        {"id": str(number), "name": f"{number:03}", "text": "x" * number} for number in range(600)
    ]
    gateway = await start(origin, listed)
    ids = [each["id"] for each in listed]
    url = gateway.url(ids, checksums="sha256")
    _, whole = await get(client, url)
    lines = [f"{sha256(each['text'].encode())}  {each['name']}\n" for each in listed]
    assert read(whole, "tar")["SHA256SUMS"].decode() == "".join(lines)
    offset = whole.index(lines[0].encode())
    for first in (0, 255 * 70 - 1, 256 * 70, 512 * 70 + 3, 599 * 70):
        for length in (1, 70, 300 * 70):
            start_ = offset + first
            answer, body = await get(client, url, start_, start_ + length)
            assert (answer.status, body) == (206, whole[start_ : start_ + length])


async def test_it_may_be_pinned(origin, start, client):
    """By the URL that its plan gives: this archive or none."""
    gateway = await start(origin, entries(origin), upstream={"remember": 0})
    plan = await planned(client, gateway, IDS, format="zip", checksums="sha256")
    assert "&checksums=sha256&version=" in plan["url"]
    url = f"http://127.0.0.1:{gateway.port}{plan['url']}"
    answer, body = await get(client, url)
    assert (answer.status, answer.headers["ETag"], len(body)) == (200, plan["etag"], plan["size"])
    assert read(body, "zip")["SHA256SUMS"] == expected("zip")
    answer, _ = await get(client, url.replace("&checksums=sha256", ""))
    assert answer.status == 409
    origin.add("/0", Made(50_000, 99))
    answer, _ = await get(client, url)
    assert answer.status == 409


async def test_curl_resumes_it_once_digests_are_known(origin, start, client, tmp_path):
    """Before that it says itself that it cannot, and leaves what it has."""
    gateway = await start(origin, entries(origin))
    url = gateway.url(IDS, checksums="sha256")
    _, begun = await get(client, url, 0, 60_000)
    (tmp_path / "a.tar").write_bytes(begun)
    shell, _, _ = await run(f"curl -fsS -C - -o a.tar '{url}'", tmp_path)
    assert shell.returncode == 33
    assert (tmp_path / "a.tar").read_bytes() == begun
    _, whole = await get(client, url)
    for length in (1, 60_000, len(whole) - 1500):
        (tmp_path / "a.tar").write_bytes(whole[:length])
        shell, _, complaints = await run(f"curl -fsS -C - -o a.tar '{url}'", tmp_path)
        assert (shell.returncode, complaints) == (0, b"")
        assert (tmp_path / "a.tar").read_bytes() == whole


# Wrong digests

WRONG = {"crc32": "00000000", "md5": "0" * 32, "sha256": "0" * 64}


@any_format
@pytest.mark.parametrize("algorithm", WRONG)
@pytest.mark.parametrize("checksums", [{}, {"checksums": "sha256"}])
@pytest.mark.parametrize("name", ["-", "*star", "large.bin"])
async def test_a_wrong_stated_digest_breaks_it_inside_the_member(
    origin, start, client, tmp_path, caplog, format_, algorithm, checksums, name
):
    """Whatever its length, whatever else is stated rightly; and the log says which one."""
    caplog.set_level(logging.INFO)
    listed = entries(origin, "md5", "sha256")
    [entry] = [each for each in listed if each["id"] == name]
    entry[algorithm] = WRONG[algorithm]
    gateway = await start(origin, listed)
    plan = await planned(client, gateway, IDS, format=format_, **checksums)
    [member] = [each for each in plan["members"] if each["id"] == name]
    url = gateway.url(IDS, format=format_, **checksums)
    extract = "tar x 2> tar.err" if format_ == "tar" else "cat > /dev/null"
    script = f"curl -sS '{url}' 2> curl.err | tee got | {extract}; echo ${{PIPESTATUS[@]}}"
    _, said, _ = await run(script, tmp_path, pipefail=False)
    statuses = list(map(int, said.split()))
    assert statuses[0] == 18
    assert (statuses[2] != 0) == (format_ == "tar")
    received = len((tmp_path / "got").read_bytes())
    assert member["offset"] <= received < member["offset"] + member["size"]
    [line] = opened(caplog)
    assert (line["outcome"], line["member"]) == ("failed", name)
    assert line["cause"] == f"it does not have the {algorithm} that is stated of it"


@pytest.mark.parametrize("algorithm", WRONG)
async def test_a_wrong_digest_of_an_empty_file_is_an_answer(origin, start, client, algorithm):
    """Nothing of it passes, so nothing could break off inside it."""
    listed = entries(origin)
    [entry] = [each for each in listed if each["id"] == "empty"]
    entry[algorithm] = WRONG[algorithm].replace("0", "1")
    gateway = await start(origin, listed)
    async with client.get(gateway.url(IDS, checksums="sha256")) as answer:
        assert answer.status == 502
        assert [each["id"] for each in (await answer.json())["ids"]] == ["empty"]


async def test_contents_that_break_off_are_listed_as_one(origin, start, client):
    """A repair in the middle of a member is part of what its digest is of."""
    gateway = await start(origin, entries(origin))
    origin.objects["/4"].faults.append(faults.rst(at=200_000, times=1))
    _, body = await get(client, gateway.url(IDS, checksums="sha256"))
    assert len(origin.asked("/4")) == 2
    assert read(body, "tar")["SHA256SUMS"] == expected("tar")


@any_format
async def test_a_part_of_a_member_raises_no_false_alarm(origin, start, client, format_):
    """A digest says nothing about a part; what is listed is what was stated."""
    parameters = {"format": format_, "checksums": "sha256"}
    listed = entries(origin, "md5", "sha256", "crc32")
    gateway = await start(origin, listed)
    plan = await planned(client, gateway, IDS, **parameters)
    _, whole = await get(client, gateway.url(IDS, **parameters))
    middle = plan["members"][4]["offset"] + 1000
    gateway = await start(origin, listed)
    answer, body = await get(client, gateway.url(IDS, **parameters), middle)
    assert (answer.status, body) == (206, whole[middle:])


async def test_a_wrong_digest_is_listed_where_only_a_part_is_sent(origin, start, client, tmp_path):
    """So that who resumes finds out as well, by the listing."""
    listed = entries(origin, "sha256")
    listed[4]["sha256"] = WRONG["sha256"]
    gateway = await start(origin, listed)
    url = gateway.url(IDS, checksums="sha256")
    plan = await planned(client, gateway, IDS, checksums="sha256")
    middle = plan["members"][4]["offset"] + 1000
    script = f"curl -sS '{url}' -r 0-{middle - 1} -o a; curl -sS '{url}' -C - -o a; tar xf a"
    shell, _, complaints = await run(script, tmp_path)
    assert (shell.returncode, complaints) == (0, b"")
    shell, said, _ = await run("sha256sum -c SHA256SUMS", tmp_path)
    assert shell.returncode == 1
    assert [line for line in said.splitlines() if not line.endswith(b": OK")] == [
        b"large.bin: FAILED"
    ]


async def test_what_changed_in_silence_is_listed_as_it_was_sent(origin, start, client):
    """Under the same validator: what was remembered is no longer, once the whole has passed."""
    gateway = await start(origin, entries(origin))
    url = gateway.url(IDS, checksums="sha256")
    await get(client, url)
    before = origin.objects["/4"]
    changed = Made(300_000, 99)
    origin.add("/4", Object(changed, etag=before.etag, last_modified=before.last_modified))
    _, whole = await get(client, url)
    members = read(whole, "tar")
    assert members["large.bin"] == changed.read()
    assert f"{sha256(changed.read())}  large.bin\n".encode() in members["SHA256SUMS"]
    answer, body = await get(client, url, len(whole) - 2000)
    assert (answer.status, body) == (206, whole[-2000:])
