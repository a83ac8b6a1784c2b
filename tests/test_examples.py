"""The applications in examples/library: each started as its users start it, and downloaded from."""

import os
import re
import subprocess
import sys
import tarfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from faults import becomes
from gateway import ROOT
from made import Made
from nginx import held_port
from origin import Object, Origin

EXAMPLES = ROOT / "examples" / "library"
NOTES = b"sun, sea\n"
FILM = Made(24_000_003, seed=4)  # more than all buffers on the way hold

PATH = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
GUNICORN = ["-m", "gunicorn", "--bind", "127.0.0.1:0", "--threads", "8"]
UVICORN = ["-m", "uvicorn", "--port", "0"]
COMMANDS = {
    "aiohttp_app": ["aiohttp_app.py", "{port}"],
    "django_asgi": [*UVICORN, "django_asgi:app"],
    "django_wsgi": [*GUNICORN, "django_wsgi:app"],
    "falcon_app": [*GUNICORN, "falcon_app:app"],
    "fastapi_app": [*UVICORN, "fastapi_app:app"],
    "flask_app": [*GUNICORN, "flask_app:app"],
}


@dataclass
class Application:
    """An example that runs, and where its files come from."""

    url: str
    origin: Origin
    log: Path


@contextmanager
def running(name, origin, directory):
    """Start an example with its server, and end it."""
    log = directory / f"{name}.log"
    with held_port() as port, log.open("wb") as output:
        command = [part.format(port=port) for part in COMMANDS[name]]
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=EXAMPLES,
            env={**os.environ, "FILES": origin.root, "PYTHONPATH": PATH, "PYTHONUNBUFFERED": "1"},
            stdout=output,
            stderr=output,
        )
    try:
        deadline = time.monotonic() + 60
        pattern = r"(?:Listening at:|[Rr]unning on) (http://[\d.]+:\d+)"
        while not (found := re.search(pattern, log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        yield Application(found[1] + "/archive.tar", origin, log)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="module", params=COMMANDS)
def app(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp("app")
    with (
        Origin(send_buffer=1 << 16).in_thread() as origin,
        running(request.param, origin, directory) as application,
    ):
        origin.add("/notes.txt", NOTES)
        origin.add("/film.bin", FILM)
        yield application


def curl(*arguments):
    return subprocess.run(
        ["curl", "-sS", "--max-time", "60", *arguments], capture_output=True, check=False
    )


def headers_of(done):
    lines = done.stdout.partition(b"\r\n\r\n")[0].decode().splitlines()
    status = int(lines[0].split()[1])
    return status, {
        key.strip().lower(): value.strip()
        for key, value in (line.split(":", 1) for line in lines[1:])
    }


@pytest.fixture(scope="module")
def whole(app, tmp_path_factory):
    """A download of all of it."""
    path = tmp_path_factory.mktemp("whole") / "whole.tar"
    done = curl("-f", "-o", str(path), app.url)
    assert (done.returncode, done.stderr) == (0, b"")
    return path


def test_serves_the_files(whole):
    with tarfile.open(whole) as archive:
        assert archive.getnames() == ["README.txt", "notes.txt", "holiday/film.bin"]
        assert archive.extractfile("notes.txt").read() == NOTES
        assert archive.extractfile("holiday/film.bin").read() == FILM.read()


def test_head_says_what_get_gives(app, whole):
    status, headers = headers_of(curl("-I", app.url))
    assert status == 200
    assert int(headers["content-length"]) == whole.stat().st_size
    assert headers["accept-ranges"] == "bytes"
    assert headers["content-type"] == "application/x-tar"
    assert 'filename="holiday.tar"' in headers["content-disposition"]


def test_gives_a_part(app, whole):
    done = curl("-i", "-r", "100000-100099", app.url)
    status, headers = headers_of(done)
    size = whole.stat().st_size
    assert status == 206
    assert headers["content-range"] == f"bytes 100000-100099/{size}"
    assert done.stdout.partition(b"\r\n\r\n")[2] == whole.read_bytes()[100000:100100]


def test_a_range_that_selects_nothing_is_416(app, whole):
    status, headers = headers_of(curl("-i", "-r", "99999999-", app.url))
    assert (status, headers["content-range"]) == (416, f"bytes */{whole.stat().st_size}")


def test_conditions_count(app):
    _, headers = headers_of(curl("-I", app.url))
    etag = headers["etag"]
    assert headers_of(curl("-i", "-H", f"If-None-Match: {etag}", app.url))[0] == 304
    assert headers_of(curl("-i", "-H", 'If-Match: "another"', app.url))[0] == 412
    old = ["-H", 'If-Range: "another"', "-r", "0-0", "-o", os.devnull, "-D", "-"]
    assert headers_of(curl(*old, app.url))[0] == 200


def test_a_client_that_leaves_frees_the_origin_and_resumes(app, whole, tmp_path):
    """`head` ends curl in the middle; `curl -C -` gets the rest."""
    path = tmp_path / "cut.tar"
    command = f"curl -s --max-time 60 '{app.url}' | head -c 2000000 > '{path}'"
    subprocess.run(command, shell=True, check=True)
    assert path.stat().st_size == 2_000_000
    app.origin.wait(lambda: not app.origin.in_flight, 30)
    assert not app.origin.asked("/film.bin")[-1].finished
    before = len(app.origin.asked("/notes.txt"))
    done = curl("-f", "-C", "-", "-o", str(path), app.url)
    assert (done.returncode, done.stderr) == (0, b"")
    assert path.read_bytes() == whole.read_bytes()
    assert len(app.origin.asked("/notes.txt")) == before  # it lies before the cut


def test_a_failure_in_the_middle_is_loud_and_can_be_resumed(app, whole, tmp_path):
    """curl 18: the body ends short of Content-Length. The origin being well again, it goes on."""
    path = tmp_path / "broken.tar"
    other = Object(Made(FILM.size, seed=5))
    app.origin.objects["/film.bin"].faults.append(becomes(other, methods=("GET",), times=1))
    assert curl("-f", "-o", str(path), app.url).returncode == 18
    assert 0 < path.stat().st_size < whole.stat().st_size
    done = curl("-f", "-C", "-", "-o", str(path), app.url)
    assert (done.returncode, done.stderr) == (0, b"")
    assert path.read_bytes() == whole.read_bytes()


def test_an_origin_that_lacks_a_file_is_an_honest_502(app):
    notes = app.origin.objects.pop("/notes.txt")
    done = curl("-i", app.url)
    app.origin.objects["/notes.txt"] = notes
    assert headers_of(done)[0] == 502
    assert done.stdout.endswith(b"'notes.txt' cannot be had: its origin answers 404\n")
    assert app.origin.root.encode() not in done.stdout


def test_every_example_is_tried():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*COMMANDS, "files"}
