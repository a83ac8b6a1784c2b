import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from contextlib import contextmanager
from dataclasses import replace
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from gateway import ROOT

from benchmarks.cases import Case, cases
from benchmarks.delay import CHUNK, Delay
from benchmarks.figures import Report, Result, Row, Run
from benchmarks.measure import check_archive, check_files, first_byte
from benchmarks.origin import made
from benchmarks.processes import BenchError, started, tree
from benchmarks.report import markdown, table, within
from benchmarks.servers import SERVERS, Work, knows

BURNS = """
import os, signal, time
def burn():
    began = time.process_time()
    while time.process_time() - began < 0.2:
        pass
if not (ended := os.fork()):
    burn()
    os._exit(0)
os.waitpid(ended, 0)
read, write = os.pipe()
if not os.fork():
    burn()
    os.write(write, b"1")
    signal.pause()
os.read(read, 1)
burn()
print("burned", flush=True)
signal.pause()
"""

GROWS = """
import os, signal
read, write = os.pipe()
if not os.fork():
    del (held := [b"1" * 40_000_000])[:]
    os.write(write, b"1")
    signal.pause()
os.read(read, 1)
print("shrunk", flush=True)
signal.pause()
"""


def wait_until(holds, seconds=30):
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


@contextmanager
def program(text, output, says):
    with started([sys.executable, "-I", "-S", "-c", text], output) as process:
        wait_until(lambda: says in process.output)
        yield process


def test_cpu_time_is_that_of_a_process_its_children_and_those_that_ended(tmp_path):
    with program(BURNS, tmp_path / "output", "burned") as process:
        assert 0.57 < process.cpu() < 1.2  # three times 0.2, and what it takes to start


def test_peak_memory_is_of_the_whole_tree_and_since_it_was_forgotten(tmp_path):
    with program(GROWS, tmp_path / "output", "shrunk") as process:
        assert process.peak() > process.resident() + 30_000_000
        process.forget_peak()
        assert process.peak() < process.resident() + 10_000_000


def test_what_was_started_ends_with_all_that_it_started(tmp_path):
    with program(BURNS, tmp_path / "output", "burned") as process:
        pids = tree(process.pid)
        assert len(pids) == 2
    wait_until(lambda: not any(lives(pid) for pid in pids))


def lives(pid):
    """Zombies that nobody waits for have ended, too."""
    try:
        stat = (ROOT / f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


class Large(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    content = os.urandom(5 * CHUNK)

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content)

    def log_message(self, *_):
        pass


def test_the_delay_is_once_for_each_request_however_long_the_answer():
    sleeps = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Large) as origin:
        threading.Thread(target=origin.serve_forever, daemon=True).start()
        delay = Delay(0, origin.server_address[1], 0.02, sleeps.append)
        threading.Thread(target=delay.serve, daemon=True).start()
        client = HTTPConnection("127.0.0.1", delay.port, timeout=20)
        try:
            for number in (1, 2):
                client.request("GET", "/")
                assert client.getresponse().read() == Large.content
                assert sleeps == [0.02] * number
        finally:
            client.close()
            delay.close()
            origin.shutdown()


TAR = Case("small", "tar of 3 members", "tar", 3, 100)


def work_of(tmp_path, case):
    files = [made(tmp_path, f"files/{number}", case.size) for number in range(case.members)]
    return Work(case, files, tmp_path, 1, 1, tmp_path)


def packed(tmp_path, work, order=(0, 1, 2), contents=(0, 1, 2)):
    """An archive of these members with these contents."""
    path = tmp_path / "answer"
    if work.case.format == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for number, content in zip(order, contents, strict=True):
                archive.write(tmp_path / "files" / str(content), work.name(number))
    else:
        with tarfile.open(path, "w") as archive:
            for number, content in zip(order, contents, strict=True):
                archive.add(tmp_path / "files" / str(content), work.name(number))
    return path


FORMATS = pytest.mark.parametrize("format", ["tar", "zip"])


@FORMATS
def test_the_right_archive_counts(tmp_path, format):
    work = work_of(tmp_path, replace(TAR, format=format))
    check_archive(packed(tmp_path, work), work)


@FORMATS
@pytest.mark.parametrize(
    ("order", "contents"),
    [((0, 1), (0, 1)), ((1, 0, 2), (1, 0, 2)), ((0, 1, 2), (0, 1, 1))],
    ids=["one less", "another order", "other contents"],
)
def test_another_archive_does_not_count(tmp_path, format, order, contents):
    work = work_of(tmp_path, replace(TAR, format=format))
    with pytest.raises(BenchError):
        check_archive(packed(tmp_path, work, order, contents), work)


def test_files_that_were_passed_on_count_when_all_came(tmp_path):
    work = work_of(tmp_path, TAR)
    paths = sorted((tmp_path / "files").iterdir())
    check_files(paths, work)
    with pytest.raises(BenchError):
        check_files(paths[:2], work)
    with pytest.raises(BenchError):
        check_files([*paths[:2], paths[0]], work)


@pytest.mark.parametrize(
    ("began", "answered", "seconds"),
    [("10:00:01.250000", "10:00:03.500000", 2.25), ("23:59:59.000000", "00:00:00.500000", 1.5)],
)
def test_first_byte_of_a_trace_is_that_of_the_final_status(began, answered, seconds):
    trace = (
        f"{began} *   Trying 127.0.0.1:1...\n{began} > POST / HTTP/1.1\n"
        f"{began} < HTTP/1.1 100 Continue\n{answered} < HTTP/1.1 200 OK\n"
    )
    assert first_byte(trace) == pytest.approx(seconds)


def report():
    """Fixed numbers: 1 GiB in 2 s, 0.5 s of CPU; another with twice that; a third that failed."""
    case = Case("large-tar", "tar of one member of 1024 MiB", "tar", 1, 1024**3)
    runs = [Run(2, 1024**3, cpu, 0.003, 1, 1) for cpu in (0.5, 0.45, 0.7)]
    twice = [replace(run, seconds=run.seconds * 2, cpu=run.cpu * 2) for run in runs]
    rows = [
        Row("tarstream", runs, 50 * 1024**2, 52 * 1024**2),
        Row("another", twice, 40 * 1024**2, 80 * 1024**2),
        Row("a third", [], 0, 0, "statuses ['500']"),
    ]
    return Report({"command": "make bench", "machine": "a machine"}, [Result(case, rows, "Note.")])


def test_a_table_has_median_spread_and_ratio():
    lines = table(report().results[0]).splitlines()
    cells = [re.split("  +", line) for line in lines]
    assert cells == [
        [
            "tar of one member of 1024 MiB", "MiB/s", "CPU s per GiB", "first byte, ms",
            "idle memory, MiB", "peak memory, MiB", "over idle, MiB",
        ],
        ["tarstream", "512", "0.50 ±40%", "3.0", "50", "52", "2.0"],
        [
            "another", "256 (×0.5)", "1.00 ±40% (×2)", "3.0 (×1)", "40 (×0.8)", "80 (×1.5)",
            "40.0 (×20)",
        ],
        ["a third", *"------"],
        ["", "a third: statuses ['500']"],
        ["", "Note."],
    ]  # fmt: skip
    assert len({len(line) for line in lines[:4]}) == 1


def test_json_has_the_figures_and_is_all_that_a_report_needs():
    found = json.loads(json.dumps(report().as_json()))
    figures = found["results"][0]["rows"][1]["figures"]
    assert figures["cpu_seconds_per_gib"] == {"median": 1, "low": 0.9, "high": 1.4, "ratio": 2}
    assert found["results"][0]["rows"][2]["figures"] == {}
    assert Report.of_json(found) == report()


BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"


def test_other_figures_take_the_place_of_those_between_the_markers():
    figures = markdown(report(), [("performance/a.svg", "A plot")])
    document = within(f"before\n{BEGIN}\nold\n{END}\nafter\n", figures)
    assert within(document, figures) == document
    assert document.startswith(f"before\n{BEGIN}\n\n```console\n$ make bench\n```\n")
    assert document.endswith(f"{END}\nafter\n")
    assert "| another | 256 (×0.5) | 1.00 ±40% (×2) |" in document
    assert "![A plot](performance/a.svg)" in document
    assert "old" not in document
    with pytest.raises(ValueError, match="once"):
        within("no markers", figures)


def test_others_are_compared_with_our_gateway_as_it_is_without_settings():
    for quick in (False, True):
        for case in cases(quick=quick):
            first = next(server for server in SERVERS if server.fits(case))
            assert first.name == "tarstream"
            assert not first.settings


def test_a_row_for_a_setting_stands_only_where_the_gateway_has_it():
    assert knows("server", "public", "true")
    assert not knows("server", "no_such_setting", "true")


COMMAND = [sys.executable, "-m", "benchmarks", "--quick", "--runs", "1"]


@pytest.mark.timeout(330)
def test_a_run_measures_our_gateway_and_the_limit(tmp_path):
    figures = tmp_path / "figures.json"
    options = ["--case", "small-tar", "--server", "tarstream", "--server", "nginx"]
    done = subprocess.run(
        [*COMMAND, *options, "--json", figures, "--on", tmp_path],
        cwd=ROOT, capture_output=True, check=False, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (result,) = json.loads(figures.read_text())["results"]
    assert [row["server"] for row in result["rows"]] == [
        "tarstream",
        "nginx proxy_pass (no archive)",
    ]
    for row in result["rows"]:
        assert row["peak"] >= row["idle"] > 0
        for figure in ("members_per_second", "cpu_us_per_member", "first_byte_ms"):
            assert row["figures"][figure]["median"] > 0
        assert row["server"] in done.stdout


@pytest.mark.parametrize(
    ("case", "beside"),
    [
        ("large-tar-file", "tarstream, sendfile = true"),
        ("cores", "tarstream, workers = 2"),
    ],
)
@pytest.mark.timeout(330)
def test_what_no_origin_has_is_measured_too(tmp_path, case, beside):
    """Each row's answer was looked at before; another one would be a problem, and status 1."""
    figures = tmp_path / "figures.json"
    done = subprocess.run(
        [*COMMAND, "--case", case, "--json", figures, "--on", tmp_path],
        cwd=ROOT, capture_output=True, check=False, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (result,) = json.loads(figures.read_text())["results"]
    assert [row["server"] for row in result["rows"]] == ["tarstream", beside]
    assert all(row["runs"] for row in result["rows"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_of_a_run_that_is_ended(tmp_path, number):
    popen = subprocess.Popen(
        ["env", "--default-signal=INT", *COMMAND, "--case", "slow", "--server", "tarstream",
         "--on", tmp_path],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        # An nginx with its worker, and the gateway.
        pids = wait_until(lambda: len(pids := tree(popen.pid)) > 3 and pids)
        popen.send_signal(number)
        assert popen.wait(60) == 130
    finally:
        popen.kill()
        popen.wait()
    assert not any(lives(pid) for pid in pids)
    assert not list(tmp_path.iterdir())
