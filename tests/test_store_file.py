"""Files below a directory and never outside of it, each as it was planned or not at all."""

import asyncio
import gc
import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import pytest
from made import Made
from test_stores import MTIME, Sink, copied

from tarstream.errors import Forbidden, ObjectChanged, ObjectMissing
from tarstream.stores.base import ObjectMeta
from tarstream.stores.file import CHUNK, FileStore, _open_beneath

CONTENT = Made(4 * CHUNK + 5).read()
N = len(CONTENT)


@pytest.fixture
def root(tmp_path):
    """A directory that may be read, with a neighbour that must not."""
    root = tmp_path / "data"
    (root / "inner").mkdir(parents=True)
    put(root / "inner" / "x", b"inside")
    for secret in (tmp_path / "secret", tmp_path / "data2" / "x", tmp_path / "elsewhere" / "x"):
        secret.parent.mkdir(exist_ok=True)
        put(secret, b"secret")
    return root


@pytest.fixture
def store(root):
    return FileStore([str(root)])


def put(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    os.utime(path, (MTIME, MTIME))
    return path.as_uri()


def descriptors(root) -> int:
    """How many are open of anything below the directory above the root."""
    found = 0
    for link in Path("/proc/self/fd").iterdir():
        try:
            found += link.readlink().is_relative_to(root.parent)
        except FileNotFoundError:
            continue  # the one that lists them
    return found


async def refused(store, source, size=6) -> type[Exception]:
    """What HEAD and opening raise: the same."""
    found = []
    for attempt in (store.head(source), copied(store, source, 0, size, size, None)):
        with pytest.raises((Forbidden, ObjectMissing, ObjectChanged)) as raised:
            await attempt
        found.append(raised.type)
    assert found[0] is found[1]
    return found[0]


@pytest.mark.parametrize(
    "path",
    [
        "../secret",
        "inner/../../secret",
        "inner/../inner/x",
        "./inner/x",
        "inner/.",
        "inner/..",
        "%2e%2e/secret",
        "%2E%2e/secret",
        ".%2e/secret",
        "inner/%2e%2e/%2e%2e/secret",
        "..%2fsecret",
        "%2e%2e%2fsecret",
        "inner%2Fx",
        "inner%2f..%2f..%2fsecret",
        "/../secret",
    ],
)
async def test_a_path_with_dots_or_hidden_slashes_is_forbidden(store, root, path):
    assert await refused(store, f"{root.as_uri()}/{path}") is Forbidden
    assert descriptors(root) == 0


@pytest.mark.parametrize("path", ["secret", "data2/x", "elsewhere/x"])
async def test_a_path_elsewhere_is_forbidden(store, root, path):
    assert await refused(store, f"{root.parent.as_uri()}/{path}") is Forbidden
    assert await refused(store, "file:///etc/passwd") is Forbidden
    assert await refused(store, "file:///") is Forbidden


async def test_nothing_is_read_where_nothing_is_allowed(root):
    store = FileStore([])
    assert await refused(store, f"{root.as_uri()}/inner/x") is Forbidden


@pytest.mark.parametrize(
    ("link", "target", "asked"),
    [
        ("l", "../secret", "l"),
        ("l", "{parent}/secret", "l"),
        ("l", "..", "l/secret"),
        ("l", "/", "l/etc/passwd"),
        ("l", "../data2", "l/x"),
        ("inner/l", "../../elsewhere", "inner/l/x"),
        ("l", "/proc/self/root", "l/etc/passwd"),
        ("l", "/proc/self/environ", "l"),
    ],
)
async def test_a_link_to_outside_is_forbidden(store, root, link, target, asked):
    (root / link).symlink_to(target.format(parent=root.parent))
    assert await refused(store, f"{root.as_uri()}/{asked}") is Forbidden
    (root / "second").symlink_to(link)
    asked = asked.replace(link, "second")
    assert await refused(store, f"{root.as_uri()}/{asked}") is Forbidden
    assert descriptors(root) == 0


@pytest.mark.parametrize(
    ("link", "target", "asked"),
    [
        ("l", "inner/x", "l"),
        ("l", "{root}/inner/x", "l"),
        ("l", "inner", "l/x"),
        ("inner/l", "..", "inner/l/inner/x"),
        ("l", "../data/inner/x", "l"),
        ("inner/l", "x", "inner/l"),
    ],
)
async def test_a_link_that_stays_inside_works(store, root, link, target, asked):
    (root / link).symlink_to(target.format(root=root))
    source = f"{root.as_uri()}/{asked}"
    assert (await store.head(source)).size == 6
    assert await copied(store, source, 0, 6, 6, None) == b"inside"


async def test_a_link_from_one_allowed_directory_to_another_works(root):
    store = FileStore([str(root), str(root.parent / "elsewhere")])
    (root / "l").symlink_to("../elsewhere/x")
    assert await copied(store, f"{root.as_uri()}/l", 0, 6, 6, None) == b"secret"


async def test_the_directory_may_be_a_link_that_is_switched(tmp_path, root):
    current = tmp_path / "current"
    current.symlink_to("data")
    store = FileStore([str(current)])
    source = f"{current.as_uri()}/inner/x"
    assert await copied(store, source, 0, 6, 6, None) == b"inside"
    (tmp_path / "release" / "inner").mkdir(parents=True)
    put(tmp_path / "release" / "inner" / "x", b"newer!")
    (tmp_path / "next").symlink_to("release")
    (tmp_path / "next").rename(current)
    assert await copied(store, source, 0, 6, 6, None) == b"newer!"
    # Whoever names the target itself is told no more.
    assert await refused(store, f"{root.as_uri()}/inner/x") is Forbidden


@pytest.mark.parametrize("link", ["l", "inner"])
def test_a_link_that_appears_after_the_path_was_resolved_is_not_followed(root, link):
    """As file, as directory."""
    target = root.parent / ("secret" if link == "l" else "elsewhere")
    if link == "inner":
        (root / "inner").rename(root / "away")
    (root / link).symlink_to(target)
    with pytest.raises(OSError, match=r"Too many levels|Not a directory"):
        _open_beneath(str(root), str(root / ("l" if link == "l" else "inner/x")))
    assert descriptors(root) == 0


async def test_a_link_that_is_swapped_all_the_time_never_leads_outside(store, root):
    inside, outside, link = root / "real", root.parent / "elsewhere", root / "swapped"
    inside.mkdir()
    put(inside / "x", b"inside")
    link.symlink_to(inside)
    stop = threading.Event()

    def swap():
        while not stop.is_set():
            for target in (outside, inside):
                (root / "next").symlink_to(target)
                (root / "next").rename(link)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        found = set()
        for _ in range(300):
            try:
                found.add(await copied(store, f"{link.as_uri()}/x", 0, 6, 6, None))
            except (Forbidden, ObjectMissing) as error:
                found.add(type(error))
    finally:
        stop.set()
        thread.join()
    assert found <= {b"inside", Forbidden, ObjectMissing}
    assert descriptors(root) == 0


async def test_what_is_no_regular_file_is_missing(store, root, monkeypatch):
    os.mkfifo(root / "fifo")
    monkeypatch.chdir(root)  # the path of a socket must be short
    listener = socket.socket(socket.AF_UNIX)
    with listener:
        listener.bind("socket")
        for name in ("fifo", "socket", "inner", "inner/", "nothing", "inner/x/y", "inner/x/y/z"):
            assert await refused(store, f"{root.as_uri()}/{name}") is ObjectMissing, name
    for device in ("null", "zero"):
        assert await refused(FileStore(["/dev"]), f"file:///dev/{device}") is ObjectMissing
    assert descriptors(root) == 0


@pytest.mark.parametrize("path", ["a%00b", "%00", "inner/x%00", "a\0b", "n" * 300, "n/" * 3000])
async def test_a_path_that_no_file_can_have_is_missing(store, root, path):
    assert await refused(store, f"{root.as_uri()}/{path}") is ObjectMissing


@pytest.mark.parametrize("target", ["l", "gone", "m"])
async def test_a_link_to_nothing_is_missing(store, root, target):
    (root / "l").symlink_to(target)
    (root / "m").symlink_to("l")
    assert await refused(store, f"{root.as_uri()}/l") is ObjectMissing


async def test_a_directory_on_the_way_need_only_be_searchable(store, root):
    source = f"{root.as_uri()}/inner/x"
    assert await copied(store, source, 0, 6, 6, None) == b"inside"
    above = {path: path.stat().st_mode for path in [root / "inner", *root.parents]}
    for path in [path for path, mode in above.items() if path.owner() == root.owner()]:
        path.chmod(above[path] | 0o111)
    (root / "inner").chmod(0o311)
    user = os.geteuid()
    try:
        if user == 0:
            os.seteuid(65534)  # who reads everything is refused nothing
        assert await copied(store, source, 0, 6, 6, None) == b"inside"
    finally:
        os.seteuid(user)
        for path, mode in above.items():
            if path.owner() == root.owner():
                path.chmod(mode)


async def test_what_may_not_be_read_is_missing(store, root):
    source = f"{root.as_uri()}/inner/x"
    assert await copied(store, source, 0, 6, 6, None) == b"inside"
    (root / "inner" / "x").chmod(0)
    user = os.geteuid()
    try:
        if user == 0:
            os.seteuid(65534)  # who reads everything is refused nothing
        assert await refused(store, source) is ObjectMissing
    finally:
        os.seteuid(user)


@pytest.mark.parametrize(
    "name",
    [
        "a b",
        "für",
        "日本",
        "100%",
        "a?b#c",
        "a+b",
        "a\\b",
        "...",
        ".hidden",
        "new\nline",
        "%2e%2e",
        "\udcff.bin",  # a byte that is not UTF-8
    ],
)
async def test_every_name_that_a_file_can_have_can_be_asked_for(store, root, name):
    (root / name).write_bytes(b"inside")
    source = f"{root.as_uri()}/{quote(os.fsencode(name), safe='')}"
    assert (await store.head(source)).size == 6
    assert await copied(store, source, 0, 6, 6, None) == b"inside"


async def test_a_byte_that_is_not_utf_8_stands_for_itself_alone(store, root):
    (root / "\ufffd").write_bytes(b"another")
    assert await refused(store, f"{root.as_uri()}/%ff") is ObjectMissing


async def test_slashes_too_many_do_no_harm(store, root):
    assert await copied(store, f"{root.as_uri()}//inner///x", 0, 6, 6, None) == b"inside"


async def test_mtime_is_whole_seconds_from_the_epoch_on(store, root):
    path = root / "inner" / "x"
    for seconds, mtime in ((MTIME + 0.75, MTIME), (-5, 0), (0, 0), (2**33, 2**33)):
        os.utime(path, (seconds, seconds))
        assert (await store.head(path.as_uri())).mtime == mtime


async def test_the_validator_is_that_of_the_size_and_the_exact_time(store, root):
    path = root / "inner" / "x"
    first = await store.head(path.as_uri())
    assert await store.head(path.as_uri()) == first
    os.utime(path, ns=(0, MTIME * 10**9 + 1))
    second = await store.head(path.as_uri())
    assert second == ObjectMeta(6, MTIME, second.validator)
    assert second.validator != first.validator


def rewrite(path):
    path.write_bytes(CONTENT[::-1])


def touch(path):
    os.utime(path)


def grow(path):
    with path.open("ab") as file:
        file.write(b"!")


def shrink(path):
    os.truncate(path, N - 1)


def empty(path):
    os.truncate(path, 0)


@pytest.mark.parametrize("change", [rewrite, touch, grow, shrink, empty])
@pytest.mark.parametrize("after", [0, 1, 4])
@pytest.mark.parametrize("known", [True, False])
async def test_a_file_that_changes_while_it_is_read_is_not_completed(
    store, root, change, after, known
):
    """After so many chunks. What was passed on is of the version that was planned."""
    path = root / "file"
    source = put(path, CONTENT)
    validator = (await store.head(source)).validator if known else None

    class Changing(Sink):
        async def write(self, chunk):
            await super().write(chunk)
            if len(self.chunks) == after:
                change(path)

    sink = Changing()
    async with store.open(source, 0, N, N, validator) as body:
        if after == 0:
            change(path)
        with pytest.raises(ObjectChanged):
            await body.copy_to(sink)
    assert sink.data == CONTENT[: after * CHUNK]
    assert descriptors(root) == 0


async def test_a_file_that_is_replaced_while_it_is_read_is_read_to_its_end(store, root):
    """What was opened is still there, as it was."""
    path = root / "file"
    source = put(path, CONTENT)
    put(root / "next", CONTENT[::-1])
    validator = (await store.head(source)).validator

    class Replacing(Sink):
        async def write(self, chunk):
            await super().write(chunk)
            if len(self.chunks) == 1:
                (root / "next").rename(path)
            if len(self.chunks) == 2:
                path.unlink()

    sink = Replacing()
    async with store.open(source, 0, N, N, validator) as body:
        await body.copy_to(sink)
    assert sink.data == CONTENT


async def test_a_part_of_a_file_larger_than_any_memory(store, root):
    path = root / "file"
    with path.open("wb") as file:
        file.seek(1024**4 - 6)
        file.write(b"at end")
    size = path.stat().st_size
    assert (await store.head(path.as_uri())).size == size
    assert await copied(store, path.as_uri(), size - 6, size, size, None) == b"at end"
    assert await copied(store, path.as_uri(), size - 9, size - 3, size, None) == b"\0\0\0at "


async def test_the_loop_goes_on_while_a_file_is_read(store, root):
    """Files are read in threads, so a slow disk holds up nobody else."""
    source = put(root / "file", CONTENT)
    sink = Sink()
    turns = 0

    async def count():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    async with store.open(source, 0, N, N, None) as body:
        await body.copy_to(sink)
    counting.cancel()
    assert turns > len(sink.chunks)
    assert sink.data == CONTENT


@pytest.mark.parametrize("name", ["inner/x", "inner/missing"])
async def test_who_leaves_while_it_is_opened_leaves_nothing_behind(root, store, caplog, name):
    """A thread cannot be cancelled: what it opens is closed, and that it fails is nobody's."""
    busy = threading.Event()
    with ThreadPoolExecutor(1) as executor:
        asyncio.get_running_loop().set_default_executor(executor)
        executor.submit(busy.wait)
        source = (root / name).as_uri()
        opening = asyncio.ensure_future(store.open(source, 0, 6, 6, None).__aenter__())
        await asyncio.sleep(0)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        busy.set()
        await asyncio.to_thread(int)  # comes after it
    gc.collect()
    await asyncio.sleep(0)
    assert descriptors(root) == 0
    assert caplog.records == []
