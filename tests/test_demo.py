"""What a stranger does first: `make run`, paste the line that it prints, Ctrl-C."""

import re
import signal
import socket
import subprocess
import sys

import pytest
from gateway import ROOT

from tarstream import demo

REFERENCE = ROOT / "docs" / "http.md"
SERVER = [sys.executable, str(ROOT / "server.py")]


@pytest.fixture
def printed():
    """The demo, and what it has printed when it can be used."""
    program = subprocess.Popen(
        [*SERVER, "--demo", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        text = ""
        while "curl" not in text:
            line = program.stdout.readline()
            assert line, f"it ended: {program.stderr.read()}"
            text += line
        yield program, text
    finally:
        program.kill()
        program.communicate()


def test_make_run_starts_the_demo():
    commands = subprocess.run(
        ["make", "--no-print-directory", "--dry-run", "run"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert commands.stdout.splitlines()[-1].endswith("python server.py --demo")


def test_the_printed_line_fetches_every_sample_file_and_ctrl_c_ends_it(printed, tmp_path):
    program, text = printed
    [line] = re.findall(r"^ *(curl -s '.*' \| tar xv)$", text, re.MULTILINE)
    shell = subprocess.run(
        ["sh", "-c", line], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=True
    )
    assert len(shell.stdout.splitlines()) == len(demo.files())
    extracted = {
        str(path.relative_to(tmp_path)): path.read_bytes()
        for path in tmp_path.rglob("*")
        if path.is_file()
    }
    assert extracted == demo.files()
    program.send_signal(signal.SIGINT)
    _, log = program.communicate(timeout=15)
    assert program.returncode == 0
    assert "outcome=complete" in log
    assert "Traceback" not in log


def test_the_sample_files_are_what_shows_most():
    """Nested and non-ASCII names, a blank, and one file of some MiB."""
    assert any("/" in name for name in demo.files())
    assert any(not name.isascii() for name in demo.files())
    assert any(" " in name for name in demo.files())
    assert max(map(len, demo.files().values())) > 4 << 20


def test_an_interrupted_download_of_the_demo_is_resumed(printed, tmp_path):
    _, text = printed
    [url] = re.findall(r"curl -s '(.*)' \|", text)
    saved = tmp_path / "archive.tar"
    subprocess.run(["curl", "-sr", "0-9999999", "-o", saved, url], timeout=30, check=True)
    assert saved.stat().st_size == 10_000_000
    subprocess.run(["curl", "-sC", "-", "-o", saved, url], timeout=30, check=True)
    whole = subprocess.run(["curl", "-s", url], timeout=30, check=True, capture_output=True).stdout
    assert saved.read_bytes() == whole


def test_every_command_of_the_http_reference_runs_as_it_stands(printed, tmp_path):
    _, text = printed
    [base] = re.findall(r"'(http://[^/]+)/archive", text)
    commands = re.findall(r"^```sh\n(.*?)^```", REFERENCE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(commands) > 8
    assert commands[0].startswith("base=http://127.0.0.1:8080\n")
    script = "".join(commands).replace("base=http://127.0.0.1:8080", f"base={base}")
    ended = subprocess.run(
        ["bash", "-euo", "pipefail"],
        input=script,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    assert "nobody\tits origin answers 404\n" in ended.stdout
    assert demo.files()["README.txt"].decode() in ended.stdout
    assert (tmp_path / "holiday.tar").exists()


def run(*arguments):
    return subprocess.run(
        [*SERVER, *arguments], capture_output=True, text=True, timeout=30, check=False
    )


def test_a_port_that_is_taken_is_one_line():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        ended = run("--demo", "--port", str(port))
    assert ended.returncode == 1
    assert ended.stderr == f"cannot listen on 127.0.0.1:{port}: address already in use\n"


@pytest.mark.parametrize("port", ["65536", "http"])
def test_a_port_that_is_none_is_refused(port):
    ended = run("--demo", f"--port={port}")
    assert ended.returncode == 2
    assert "must be a number from 0 to 65535" in ended.stderr
    assert "Traceback" not in ended.stderr
