"""An interrupted download goes on where it stopped, with the tools that people have."""

import io
import json
import signal
import subprocess
import sys
import tarfile
import time
import urllib.request
from contextlib import ExitStack, contextmanager

import faults
import pytest
from gateway import ROOT, Process, process
from nginx import held_port
from origin import Made, Object, Origin

MIB = 1024**2
STEP = 5 * MIB  # bytes that arrive between two interruptions
MTIME = 1_000_000_000  # as the origin says
MEMBERS = {
    "notes.txt": Made(1000, seed=1),
    "clip.bin": Made(16 * MIB, seed=2),
    "empty": Made(0),
    "scan.tif": Made(5_000_001, seed=3),
}

CONFIG = """
[server]
port = {port}
[catalog]
kind = "template"
url = "{root}/{{id}}"
[upstream]
allow = ["{root}"]
read_timeout = 3
attempts = 2
patience = 12
"""

PYTHON = """
import shutil, sys, urllib.request
url, path = sys.argv[1:]
with open(path, "ab") as file:
    asked = urllib.request.Request(url, headers={"Range": f"bytes={file.tell()}-"})
    with urllib.request.urlopen(asked) as answer:
        size = int(answer.headers["Content-Range"].rpartition("/")[2])
        shutil.copyfileobj(answer, file)
    sys.exit(file.tell() != size)
"""


def by_curl(url, path):
    return ["curl", "-sS", "-C", "-", "-o", str(path), url]


def by_wget(url, path):
    return ["wget", "-q", "-c", "--tries=1", "-O", str(path), url]


def by_aria2c(url, path):
    options = ["-q", "-c", "-x4", "-s4", "-k1M", "--file-allocation=none", "--max-tries=1"]
    return ["aria2c", *options, "-d", str(path.parent), "-o", path.name, url]


def by_python(url, path):
    return [sys.executable, "-c", PYTHON, url, str(path)]


TOOLS = {
    # Who begins, and who goes on.
    "curl -C -": (by_curl, by_curl),
    "wget -c": (by_wget, by_wget),
    "aria2c -x4": (by_aria2c, by_aria2c),
    "aria2c -x4 after curl": (by_curl, by_aria2c),
    "Python": (by_python, by_python),
}


@pytest.fixture
def origin():
    """Slow enough for every interruption to come in the middle, whatever sockets hold."""
    pace = faults.drip(0.004, 128 * 1024, methods=("GET",))
    with Origin(faults=[pace], send_buffer=256 * 1024).in_thread() as origin:
        for path, content in MEMBERS.items():
            origin.add(f"/{path}", content)
        yield origin


@pytest.fixture(scope="module")
def expected():
    """The archive, as the standard library makes it."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT) as writer:
        for path, content in MEMBERS.items():
            info = tarfile.TarInfo(path)
            info.size, info.mtime = content.size, MTIME
            writer.addfile(info, io.BytesIO(content.read()))
        length = writer.offset + 1024
    return archive.getvalue()[:length]


class Restartable:
    """A gateway that always comes back on the same port."""

    def __init__(self, directory, config, port):
        self._path = directory / "config.toml"
        self._path.write_text(config)
        self._log = directory / "log"
        self._port = port
        self._start()

    def kill(self):
        """End it as power failures do, and start it again."""
        self.process.stop(signal.SIGKILL)
        self._start()

    def _start(self):
        with self._log.open("wb") as log:
            command = [sys.executable, str(ROOT / "server.py"), "--config", str(self._path)]
            popen = subprocess.Popen(command, stdout=log, stderr=log)
        self.process = Process(popen, self._log)
        assert self.process.port == self._port


@contextmanager
def restartable(directory, origin):
    with held_port() as port:
        gateway = Restartable(directory, CONFIG.format(port=port, root=origin.root), port)
        try:
            yield gateway
        finally:
            gateway.process.stop(signal.SIGKILL)


def pinned(gateway):
    """The archive's pinned URL, path and query, as its plan gives it."""
    with urllib.request.urlopen(gateway.url(MEMBERS, "/plan")) as answer:
        url = json.load(answer)["url"]
    assert "&version=" in url
    return url


def root_of(gateway):
    return f"http://127.0.0.1:{gateway.port}"


def arrived(path):
    """Bytes of a file that are there; four connections leave holes."""
    return path.stat().st_blocks * 512 if path.exists() else 0


def interrupted(command, path, interrupt):
    """Run a tool until some more has arrived, interrupt it, and wait for its end."""
    tool = subprocess.Popen(command)
    try:
        enough, deadline = arrived(path) + STEP, time.monotonic() + 20
        while arrived(path) < enough:
            assert tool.poll() is None, f"{command[0]} ended by itself: {tool.returncode}"
            assert time.monotonic() < deadline
            time.sleep(0.002)
        interrupt(tool)
        assert tool.wait(20) != 0
    finally:
        tool.kill()
        tool.wait()


@pytest.mark.parametrize("tool", TOOLS)
def test_a_gateway_that_is_killed_and_comes_back(origin, expected, tool, tmp_path):
    begin, go_on = TOOLS[tool]
    path = tmp_path / "archive.tar"
    with restartable(tmp_path, origin) as gateway:
        url = root_of(gateway.process) + pinned(gateway.process)
        for command in (begin(url, path), go_on(url, path)):
            interrupted(command, path, lambda _: gateway.kill())
        assert subprocess.run(go_on(url, path), check=False).returncode == 0
    assert path.read_bytes() == expected


@pytest.mark.parametrize("tool", TOOLS)
def test_two_gateways_that_take_turns(origin, expected, tool, tmp_path):
    begin, go_on = TOOLS[tool]
    path = tmp_path / "archive.tar"
    config = CONFIG.format(port=0, root=origin.root)
    with ExitStack() as stack:
        zones = ({"TZ": "Asia/Tokyo", "LC_ALL": "C"}, {"TZ": "America/Lima", "PYTHONHASHSEED": "7"})
        one, other = (
            stack.enter_context(process(tmp_path, config, environment=zone)) for zone in zones
        )
        assert pinned(one) == pinned(other)
        url = pinned(one)
        # A tool that is told to stop keeps what it has; aria2c writes down which parts those are.
        stop = subprocess.Popen.terminate
        interrupted(begin(root_of(one) + url, path), path, stop)
        interrupted(go_on(root_of(other) + url, path), path, stop)
        assert subprocess.run(go_on(root_of(one) + url, path), check=False).returncode == 0
        other.wait_for_log('outcome="client left"')
    assert path.read_bytes() == expected


def test_an_origin_that_breaks_off_is_healed_unseen(origin, expected, tmp_path):
    origin.objects["/clip.bin"].faults += [
        faults.fin(at=3 * MIB, times=1),
        faults.rst(at=6 * MIB + 1, times=1),
        faults.stall(at=9 * MIB - 1, times=1),
        faults.status(503, skip=1, times=1, methods=("GET",)),  # the first answer that goes on
    ]
    with (
        process(tmp_path, CONFIG.format(port=0, root=origin.root)) as gateway,
        urllib.request.urlopen(gateway.url(MEMBERS)) as answer,
    ):
        assert answer.read() == expected
        gateway.wait_for_log("archive request_id=.* repairs=4 outcome=complete")
    reopened = [each.headers for each in origin.asked("/clip.bin") if "range" in each.headers]
    assert [each["range"].partition("-")[0] for each in reopened] == [
        f"bytes={at}" for at in (3 * MIB, 3 * MIB, 6 * MIB + 1, 9 * MIB - 1)
    ]
    assert {each["if-match"] for each in reopened} == {origin.objects["/clip.bin"].etag}


@pytest.mark.parametrize("tool", ["curl -C -", "wget -c", "aria2c -x4 after curl", "Python"])
def test_a_source_that_changed_is_never_mixed_in(origin, expected, tool, tmp_path):
    """The pinned URL answers 409, and what had arrived is left as it was."""
    begin, go_on = TOOLS[tool]
    path = tmp_path / "archive.tar"
    with process(tmp_path, CONFIG.format(port=0, root=origin.root)) as gateway:
        url = root_of(gateway) + pinned(gateway)
        interrupted(begin(url, path), path, subprocess.Popen.terminate)
        before = path.read_bytes()
        assert expected.startswith(before)
        assert len(before) < len(expected)
        origin.objects["/clip.bin"] = Object(Made(16 * MIB, seed=9))  # as long as it was
        assert subprocess.run(go_on(url, path), check=False, stderr=subprocess.PIPE).returncode
        gateway.wait_for_log("status=409")
    assert path.read_bytes() == before
