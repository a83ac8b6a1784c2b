"""A compressed archive that breaks off looks broken to every reader, even where HTTP says that all
is well: nginx before 1.29.7, told nothing, speaks HTTP/1.0 to the gateway, which has no sign for a
broken body.
"""

import gzip
import http.client
import subprocess
import sys
import zlib
from contextlib import closing

import faults
import pytest
from gateway import process
from nginx import HTTP_1_0, RECOMMENDED, STOCK, nginx
from origin import Made, Origin

from tarstream.compress import zstd
from tarstream.formats import tar
from tarstream.layout import Layout, Member

CONFIG = """
[catalog]
kind = "template"
url = "{root}/{{id}}"
[upstream]
allow = ["{root}"]
attempts = 1
"""

SIZE = 48 * 1024  # a multiple of 512, so that no padding follows
BIG = 5_000_000
MTIME = 1_000_000_000  # as the origin says

CASES = {f"{which}.{at}": (which, at) for which in (0, 1, 2) for at in (0, SIZE // 2, SIZE - 1)} | {
    "big": (1, BIG // 2),
    "gone": (2, None),
}
"""Which of three members breaks off at which byte; None: it cannot be had at all."""

_BY_PYTHON = """
import sys, tarfile
for member in (archive := tarfile.open(fileobj=sys.stdin.buffer, mode="r|gz")):
    archive.members = []
"""

READERS = {
    "tar.gz": {
        "gzip": ["gzip", "-t"],
        "busybox": ["busybox", "gunzip", "-t"],
        "GNU tar": ["tar", "-tz"],
        "bsdtar": ["bsdtar", "-tf", "-"],
        "7z": ["7z", "t", "-tgzip", "-si"],
        "Python": [sys.executable, "-c", _BY_PYTHON],
    },
    "tar.zst": {
        "zstd": ["zstd", "-t"],
        "GNU tar": ["tar", "-t", "--zstd"],
        "bsdtar": ["bsdtar", "-tf", "-"],
    },
}

PIPES = {
    "tar.gz": ["gzip -dc | tar -x", "busybox gunzip -c | busybox tar -x", "gzip -dc | bsdtar -x"],
    "tar.zst": ["zstd -dc | tar -x", "zstd -dc | busybox tar -x", "zstd -dc | bsdtar -x"],
}
"""Without `pipefail` nobody hears what the first of them says."""

any_format = pytest.mark.parametrize("format_", READERS)
any_case = pytest.mark.parametrize("case", CASES)


def content(case, index):
    return Made(BIG if case == "big" else SIZE, seed=index + 1)


def ids(case):
    return [f"{case}-{index}" for index in range(3)]


@pytest.fixture(scope="module")
def origin():
    with Origin().in_thread() as origin:
        for case, (broken, at) in CASES.items():
            for index, id_ in enumerate(ids(case)):
                gone = faults.hang_up(methods=("GET",))
                fault = gone if at is None else faults.fin(at=at, methods=("GET",))
                origin.add(f"/{id_}", content(case, index), *[fault][: index == broken])
                origin.add(f"/whole-{id_}", content(case, index))
        yield origin


@pytest.fixture(scope="module")
def gateway(origin, tmp_path_factory):
    with process(tmp_path_factory.mktemp("gateway"), CONFIG.format(root=origin.root)) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def recommended(gateway, tmp_path_factory):
    with nginx(tmp_path_factory.mktemp("nginx") / "recommended", RECOMMENDED, gateway.port) as it:
        yield it


@pytest.fixture(scope="module")
def stock(gateway, tmp_path_factory):
    with nginx(tmp_path_factory.mktemp("nginx") / "stock", STOCK, gateway.port) as it:
        yield it


@pytest.fixture(params=["gateway", "recommended", "stock"])
def server(request):
    return request.getfixturevalue(request.param)


def curl(url, *options):
    return run(["curl", "-sS", *options, url])


def run(command, **how):
    return subprocess.run(command, check=False, capture_output=True, timeout=60, **how)


def readable(format_, data):
    """What can be read of a body, and whether that is all of it."""
    reader = zlib.decompressobj(31) if format_ == "tar.gz" else zstd.ZstdDecompressor()
    return reader.decompress(data), reader.eof


def inside(case):
    """The tar that is compressed, and the offsets between which the broken contents lie."""
    members = [
        Member(id_, content(case, index).size, MTIME, b"") for index, id_ in enumerate(ids(case))
    ]
    layout = Layout(tar, members)
    start = layout.content_start(CASES[case][0])
    return layout, start, start + members[0].size


@any_format
@any_case
def test_curl_hears_of_it(gateway, format_, case):
    assert curl(gateway.url(ids(case), format=format_)).returncode == 18
    # And by HTTP/1.0 it cannot: what follows is why readers must.
    done = curl(gateway.url(ids(case), format=format_), "-0")
    assert done.returncode == 0
    assert not readable(format_, done.stdout)[1]


@any_format
@any_case
def test_what_arrives_ends_inside_the_contents_that_broke_off(server, format_, case):
    """So that a tar behind a decompressor that went on without its end reports it as well."""
    done = curl(server.url(ids(case), format=format_))
    read, complete = readable(format_, done.stdout)
    assert not complete
    layout, start, stop = inside(case)
    assert start <= len(read) < stop
    if case == "big":
        assert len(read) > start
    at = 0
    for piece in layout.slice(0, len(read)):
        if isinstance(piece, bytes):
            assert read[at : at + len(piece)] == piece
            at += len(piece)
        else:
            index = ids(case).index(piece.member.name)
            length = piece.stop - piece.start
            assert read[at : at + length] == content(case, index).read(piece.start, piece.stop)
            at += length


@pytest.fixture(scope="module")
def bodies(gateway, tmp_path_factory):
    """What curl got of each case in each format, and thought to be whole; and of a whole one."""
    got = {}
    with nginx(tmp_path_factory.mktemp("nginx") / "1.0", HTTP_1_0, gateway.port) as old:
        for format_ in READERS:
            for case in CASES:
                done = curl(old.url(ids(case), format=format_))
                assert done.returncode == 0
                got[format_, case] = done.stdout
            done = curl(old.url([f"whole-{id_}" for id_ in ids("big")], format=format_))
            got[format_, "whole"] = done.stdout
    return got


@pytest.mark.parametrize(
    ("format_", "reader"), [(format_, reader) for format_ in READERS for reader in READERS[format_]]
)
def test_every_reader_fails(bodies, format_, reader):
    command = READERS[format_][reader]
    for case in CASES:
        assert run(command, input=bodies[format_, case]).returncode != 0, case
    done = run(command, input=bodies[format_, "whole"])
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("format_", "pipe"), [(f, pipe) for f in PIPES for pipe in PIPES[f]])
def test_a_tar_at_the_end_of_a_pipe_fails(bodies, format_, pipe, tmp_path):
    for case in CASES:
        done = run(pipe, shell=True, cwd=tmp_path, input=bodies[format_, case])
        assert done.returncode != 0, case
    assert run(pipe, shell=True, cwd=tmp_path, input=bodies[format_, "whole"]).returncode == 0


def test_the_recommended_file_passes_the_failure_on(recommended):
    assert curl(recommended.url(ids("big"), format="tar.gz")).returncode != 0


@any_format
def test_a_whole_one_arrives_whole(server, format_):
    done = curl(server.url([f"whole-{id_}" for id_ in ids("big")], format=format_))
    assert done.returncode == 0
    read, complete = readable(format_, done.stdout)
    assert complete
    assert len(read) == inside("big")[0].size


@any_format
def test_behind_nginx_its_headers_are_the_same(gateway, recommended, stock, format_):
    seen = []
    for port in (gateway.port, recommended.port, stock.port):
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
            path = gateway.url(ids("big"), format=format_).partition(str(gateway.port))[2]
            connection.request("HEAD", path)
            headers = connection.getresponse().headers
        assert headers["Content-Length"] is None
        seen.append([headers[name] for name in ("ETag", "Content-Type", "Accept-Ranges")])
    assert seen[0] == seen[1] == seen[2]


def test_python_says_so_too(bodies):
    with pytest.raises(EOFError):
        gzip.decompress(bodies["tar.gz", "big"])
    with pytest.raises(zstd.ZstdError):
        zstd.decompress(bodies["tar.zst", "big"])
