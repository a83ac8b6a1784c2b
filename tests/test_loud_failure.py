"""An archive that breaks off looks broken to everybody: to HTTP clients by its length, and to tar
in a pipe without `pipefail`, which knows no length, by the place where it breaks off.
"""

import asyncio
import hashlib
import io
import re
import socket
import subprocess
import tarfile
import time
from dataclasses import dataclass, field
from itertools import accumulate

import faults
import pytest
from faults import Fault
from gateway import archive_path, process, write_catalog
from nginx import RECOMMENDED, STOCK, nginx
from origin import Made, Object, Origin

from tarstream.digests import Digests
from tarstream.formats import tar
from tarstream.layout import Layout, Member
from tarstream.memory import LocalMemory
from tarstream.observer import Observer
from tarstream.stores.limit import Slots
from tarstream.stores.literal import LiteralStore
from tarstream.transfer import GATHER, Reach, Supply, Transfer

ALIGNED = (
    48 * 1024
)  # a multiple of 512, so that no padding follows; too little to count as progress
ODD = 50_001
MTIME = 1_000_000_000  # as the origin says

CONFIG = """
[catalog]
kind = "file"
path = "{catalog}"
[upstream]
allow = ["{root}"]
attempts = 2
patience = 8
read_timeout = 2
"""

EXTRACTORS = {
    "GNU tar": ["tar", "-x"],
    "bsdtar": ["bsdtar", "-x"],
    "busybox": ["busybox", "tar", "-x"],
}


def in_first_answer(answer):
    return "range" not in answer.request.headers


def in_reopened(answer):
    return not in_first_answer(answer)


@dataclass
class Case:
    """Members of which one is broken: sizes, which one, how, and how much of it arrives."""

    sizes: list[int]
    broken: int
    faults: list[Fault]
    arrives: int | None  # bytes of the broken member; None: not all of them
    name: str = "file"
    entry: dict[str, str] = field(default_factory=dict)  # what the catalog says of the broken one

    def content(self, index):
        return Made(self.sizes[index], seed=index + 1)

    def ids(self, case):
        number = list(SERVED).index(case)
        return [f"{number}.{index}" for index in range(len(self.sizes))]

    def names(self):
        return [f"{index}.{self.name}" for index in range(len(self.sizes))]


def of_three(size, broken, at):
    return Case([size] * 3, broken, [faults.fin(at=at)], at)


def replaced(other, at=20_000):
    """It breaks off once, and is another object from then on."""
    return [faults.fin(at=at, when=in_first_answer), faults.becomes(other, when=in_reopened)]


def grown(content):
    """It has become longer than HEAD says, and no Content-Length tells."""
    longer = Object(content, etag=f'"made-{content.seed}-{ALIGNED}"')
    return [faults.becomes(longer, methods=("GET",)), faults.chunked(methods=("GET",))]


CASES = {
    f"the {which} of three, of {size} bytes, at its {where}": of_three(size, broken, at)
    for size in (ALIGNED, ODD)
    for broken, which in enumerate(("first", "middle", "last"))
    for where, at in (("first byte", 0), ("middle", size // 2), ("last byte", size - 1))
} | {
    "by reset": Case([ALIGNED] * 2, 1, [faults.rst(at=ALIGNED // 2)], ALIGNED // 2),
    "by silence": Case([ALIGNED] * 2, 1, [faults.stall(at=100)], 100),
    "the next hangs up": Case([ALIGNED] * 2, 1, [faults.hang_up(methods=("GET",))], 0),
    "the next is gone": Case([ODD] * 2, 1, [faults.status(404, methods=("GET",))], 0),
    "the next is overloaded": Case([ODD] * 2, 1, [faults.status(503, methods=("GET",))], 0),
    "the next is longer": Case([ALIGNED] * 2, 1, [faults.length(5, methods=("GET",))], 0),
    "the validator changes": Case(
        [ALIGNED] * 2, 0, replaced(Object(Made(ALIGNED, seed=9))), 20_000
    ),
    "the validator changes, and If-Match is ignored": Case(
        [ALIGNED] * 2,
        0,
        [*replaced(Object(Made(ALIGNED, seed=9))), faults.ignores("If-Match")],
        20_000,
    ),
    "the size changes": Case(
        [ALIGNED] * 3, 1, replaced(Object(Made(ODD, seed=2), etag=f'"made-2-{ALIGNED}"')), 20_000
    ),
    "the last chunk is missing": Case([ALIGNED] * 2, 0, [faults.chunked(last=False)], None),
    "chunks that go on": Case([ALIGNED] * 2, 0, grown(Made(ALIGNED + 1, seed=1)), None),
    "empty members around": Case([0, ALIGNED, 0, ALIGNED, 0], 3, [faults.fin(at=0)], 0),
    "empty members before": Case([0, 0, 0, 512], 3, [faults.fin(at=511)], 511),
    "one byte": Case([512, 1, 512], 1, [faults.fin(at=0)], 0),
    "hundreds of small ones": Case([100] * 300, 299, [faults.fin(at=50)], 50),
    "a name that needs a pax header": Case([ALIGNED] * 2, 1, [faults.fin(at=0)], 0, name="ü" * 100),
    "another digest": Case(
        [ODD] * 3, 1, [], None, entry={"sha256": hashlib.sha256(b"other").hexdigest()}
    ),
    "another digest of as much as is gathered": Case(
        [GATHER - 512, 512], 0, [], GATHER - 513, entry={"crc32": "00000000"}
    ),
    "another digest of one byte": Case([512, 1, 512], 1, [], 0, entry={"crc32": "00000000"}),
    "another digest of the last": Case([ODD, 512], 1, [], None, entry={"crc32": "00000000"}),
}

SLOW = Case([100, 2**24], 1, [], 2**24 - 1, entry={"crc32": "00000000"})
WHOLE = Case([ALIGNED, ODD, 0], 0, [], None)
SERVED = {**CASES, "slow": SLOW, "whole": WHOLE}


def entries_of(name, origin):
    """What the catalog says of a case's members, which are the origin's from here on."""
    case = SERVED[name]
    for index, (id_, path) in enumerate(zip(case.ids(name), case.names(), strict=True)):
        broken = index == case.broken
        url = origin.add(f"/{id_}", case.content(index), *(case.faults if broken else ()))
        yield {"id": id_, "url": url, "name": path, **(case.entry if broken else {})}


@pytest.fixture(scope="module")
def origin():
    with Origin(send_buffer=256 * 1024).in_thread() as origin:
        yield origin


@pytest.fixture(scope="module")
def config(origin, tmp_path_factory):
    directory = tmp_path_factory.mktemp("catalog")
    entries = [entry for name in SERVED for entry in entries_of(name, origin)]
    catalog = write_catalog(directory / "catalog.jsonl", entries)
    return CONFIG.format(catalog=catalog, root=origin.root)


@pytest.fixture(scope="module")
def direct(config, tmp_path_factory):
    with process(tmp_path_factory.mktemp("gateway"), config) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def recommended(direct, tmp_path_factory):
    with nginx(tmp_path_factory.mktemp("nginx") / "recommended", RECOMMENDED, direct.port) as it:
        yield it


@pytest.fixture(scope="module")
def stock(direct, tmp_path_factory):
    with nginx(tmp_path_factory.mktemp("nginx") / "stock", STOCK, direct.port) as it:
        yield it


@pytest.fixture(params=["direct", "recommended", "stock"])
def through(request):
    return request.getfixturevalue(request.param)


def reference(name):
    """The archive as the standard library makes it, and where each member's contents begin."""
    case = SERVED[name]
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT) as writer:
        for index, path in enumerate(case.names()):
            info = tarfile.TarInfo(path)
            info.size, info.mtime = case.sizes[index], MTIME
            writer.addfile(info, io.BytesIO(case.content(index).read()))
    archive.seek(0)
    with tarfile.open(fileobj=archive) as reader:
        return archive.getvalue(), [info.offset_data for info in reader]


def url_of(server, name):
    return server.url(SERVED[name].ids(name))


def request_for(ids):
    line = f"GET {archive_path(ids)} HTTP/1.1\r\n"
    return f"{line}Host: gateway\r\nConnection: close\r\n\r\n".encode()


def extract(command, archive, directory):
    """How an extractor ends that reads this from a pipe."""
    directory.mkdir()
    return run(command, input=archive, cwd=directory).returncode


def run(command, **how):
    return subprocess.run(command, check=False, capture_output=True, timeout=30, **how)


def assert_no_extractor_is_content(archive, directory):
    ends = {
        extractor: extract(command, archive, directory / extractor)
        for extractor, command in EXTRACTORS.items()
    }
    assert 0 not in ends.values(), ends


def assert_broken_inside(name, received):
    """It is the archive, as far as it goes, and it goes no further than into the broken member."""
    case, (archive, starts) = SERVED[name], reference(name)
    assert archive.startswith(received)
    arrived = len(received) - starts[case.broken]
    assert 0 <= arrived < case.sizes[case.broken]
    assert case.arrives in {None, arrived}


@pytest.mark.parametrize("name", CASES)
def test_it_looks_broken_to_everybody(through, name, tmp_path):
    url = url_of(through, name)
    by_curl, by_wget, head = (tmp_path / each for each in ("by-curl", "by-wget", "head"))
    both = [
        subprocess.Popen(["curl", "-s", "-D", head, "-o", by_curl, url]),
        subprocess.Popen(["wget", "-q", "--tries=1", "-O", by_wget, url]),
    ]
    curl, wget = [each.wait(30) for each in both]
    received = by_curl.read_bytes()
    assert re.match(r"HTTP/1\.1 200 ", head.read_text())
    assert len(received) < int(re.search(r"Content-Length: (\d+)", head.read_text())[1])
    assert curl in {18, 56}
    assert wget == 4
    assert_broken_inside(name, received)
    assert_broken_inside(name, by_wget.read_bytes())
    assert_no_extractor_is_content(received, tmp_path)


@pytest.mark.parametrize("extractor", EXTRACTORS)
def test_a_pipe_of_curl_and_tar_fails_without_pipefail(through, extractor, tmp_path):
    command = " ".join(EXTRACTORS[extractor])
    for name, fails in (("the next hangs up", True), ("whole", False)):
        piped = f"curl -s '{url_of(through, name)}' | {command}"
        assert bool(run(["sh", "-c", piped], cwd=tmp_path).returncode) is fails


def test_a_slow_client_gets_all_that_precedes_the_failure(through):
    received = bytearray()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
        client.settimeout(30)
        client.connect(("127.0.0.1", through.port))
        client.sendall(request_for(SLOW.ids("slow")))
        while chunk := client.recv(1 << 16):
            received += chunk
            time.sleep(0.0005)  # this is what makes it slow
    assert_broken_inside("slow", bytes(received.partition(b"\r\n\r\n")[2]))


async def test_a_failure_waits_for_bytes_that_no_socket_took(start, origin):
    name = "another digest of as much as is gathered"
    gateway = await start(origin, entries_of(name, origin))
    listener = next(iter(gateway.runner.sites))._server.sockets[0]
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # what is accepted inherits it
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", gateway.port))
        reader, writer = await asyncio.open_connection(sock=client)
        writer.write(request_for(SERVED[name].ids(name)))
        async with asyncio.timeout(20):
            received = await reader.read(-1)
        writer.close()
        await writer.wait_closed()
    assert_broken_inside(name, received.partition(b"\r\n\r\n")[2])


def test_a_part_that_breaks_off_does_so_inside_contents(through):
    """A download that was resumed is as loud: what is asked for here begins inside a header."""
    name = "empty members around"
    archive, starts = reference(name)
    got = run(["curl", "-s", "-H", "Range: bytes=300-", url_of(through, name)])
    assert got.returncode in {18, 56}
    assert got.stdout == archive[300 : starts[3]]


@pytest.mark.parametrize("size", [65_000, 65_100, 65_500])
async def test_no_write_ends_between_two_members(size):
    """Whatever ends the process after a write cuts the archive there.

    The sizes are such that padding completes what is gathered into one write.
    """
    members = [Member(f"{index}", size, 0, bytes(size), '"x"') for index in range(4)]
    layout = Layout(tar, members)
    written = []

    async def write(data):
        written.append(len(data))

    async def begin():
        return write

    supply = Supply(LiteralStore(), Slots(9, 9**9), Reach(8, 9**9), Observer())
    digests = Digests([], LocalMemory(0))
    await Transfer(layout.slice(0, layout.size), digests, supply).run(begin)
    ends = set(accumulate(written[:-1]))
    for index in range(3):
        content_stop = layout.content_start(index) + size
        assert ends.isdisjoint(range(content_stop, layout.content_start(index + 1)))
