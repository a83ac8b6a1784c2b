"""Measuring: servers of a case side by side, one asked after the other, with curl as the client."""

import hashlib
import re
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from benchmarks.cases import Case
from benchmarks.figures import Result, Row, Run
from benchmarks.origin import File, Origin, made
from benchmarks.processes import BenchError, Process, free_port, said, started
from benchmarks.servers import Server, Work, note

WRITES = r"%{http_code} %{size_download} %{time_starttransfer} %{time_total}\n"

WROTE = re.compile(r"^\d{3} \d+ [\d.]+ [\d.]+$", re.MULTILINE)

SETTLES = 0.02
"""Seconds after an answer in which a server may still tidy up, before its CPU time is read."""

SLOW_RATE = "50k"
"""Bytes a second that a slow client takes."""

SLOW_SECONDS = 5

TIMED_OUT = 28
"""curl's exit status when --max-time is over."""


class Measured:
    """A server that runs, for a case, and what it did so far."""

    def __init__(self, server: Server, work: Work, process: Process, port: int) -> None:
        process.wait_for_port(port)
        self.server = server
        self.row = Row(server.name, [], process.resident(), 0)
        self._work = work
        self._process = process
        self._port = port
        self._bytes = 0
        process.forget_peak()

    def warm_up(self) -> None:
        """Ask once, and look whether what comes is what was asked for."""
        case, directory = self._work.case, self._work.directory / f"answers-{self._port}"
        directory.mkdir()
        try:
            answer = directory / ("answer" if self.server.packs else "#1")
            run = self._asked(0, answer)
            self._bytes = run.bytes // run.served
            if self.server.packs:
                check_archive(answer, self._work)
            else:
                check_files(sorted(directory.iterdir()), self._work)
        finally:
            for path in directory.iterdir():
                path.unlink()
        if case.slow:
            self.row = replace(self.row, idle=self._process.resident())
            self._process.forget_peak()

    def run(self, round_: int) -> None:
        """Ask, and count."""
        if self._work.case.slow:
            run = self._slowly()
        else:
            run = self._asked(round_, Path("/dev/null"))
            if run.bytes != self._bytes * run.served:
                raise BenchError(f"{run.bytes} bytes, and not those of the answer that was checked")
        self.row = replace(self.row, runs=[*self.row.runs, run], peak=self._process.peak())

    def gave_up(self, error: Exception) -> None:
        """It has no figures."""
        self.row = replace(self.row, runs=[], problem=str(error) or type(error).__name__)

    def _asked(self, round_: int, output: Path) -> Run:
        """All clients ask at the same moment, for all that is to come."""
        case = self._work.case
        clients = 1 if case.slow else case.clients
        request = self.server.request(self._work, self._port, round_)
        command = ["curl", "--silent", "--show-error", "--fail", "--write-out", WRITES]
        if "--data-binary" in request:
            command += ["--verbose", "--trace-time", "--stderr", "-"]
        outputs = [output, *[Path("/dev/null")] * (clients - 1)]
        commands = [[*command, "--output", str(path), *request] for path in outputs]
        cpu, began = self._process.cpu(), time.perf_counter()
        texts = said(*commands)
        wall = time.perf_counter() - began
        time.sleep(SETTLES)
        lines = [found.split() for text in texts for found in WROTE.findall(text)]
        if {line[0] for line in lines} != {"200"}:
            raise BenchError(f"statuses {sorted({line[0] for line in lines})}")
        firsts = [float(line[2]) for line in lines]
        if "--verbose" in command:
            firsts = [first_byte(text) for text in texts]
        return Run(
            # Of one client without the start of curl; of several from the first to the last.
            seconds=sum(float(line[3]) for line in lines) if clients == 1 else wall,
            bytes=sum(int(line[1]) for line in lines),
            cpu=self._process.cpu() - cpu,
            first_byte=max(firsts) if self.server.packs else firsts[0],
            members=case.members * clients,
            served=clients,
        )

    def _slowly(self) -> Run:
        """All clients take little for a while, and leave; one curl is all of them."""
        case = self._work.case
        request = self.server.request(self._work, self._port, 0)
        command = ["curl", "--silent", "--parallel", "--parallel-immediate", "--no-buffer"]
        command += ["--parallel-max", str(case.clients), "--limit-rate", SLOW_RATE]
        command += ["--max-time", str(SLOW_SECONDS), "--write-out", WRITES]
        for _ in range(case.clients):
            command += ["--output", "/dev/null", *request]
        cpu = self._process.cpu()
        lines = [line.split() for line in said(command, statuses=(TIMED_OUT,))[0].splitlines()]
        return Run(
            seconds=max(float(line[3]) for line in lines),
            bytes=sum(int(line[1]) for line in lines),
            cpu=self._process.cpu() - cpu,
            first_byte=max(float(line[2]) for line in lines),
            members=case.clients,
            served=sum(line[0] == "200" and int(line[1]) > 0 for line in lines),
        )


def measured(
    case: Case,
    servers: Iterable[Server],
    origin: Origin,
    runs: int,
    tell: Callable[[str], None],
) -> Result:
    """A case: every server warmed up and looked at, then each asked in turn, `runs` times."""
    with ExitStack() as stack:
        directory = origin.root.parent / case.name
        directory.mkdir()
        port = origin.port_at(case.latency)
        runs = 1 if case.once else runs
        work = Work(case, files_of(origin, case), origin.root, port, runs + 1, directory)
        # All at the same time: most of this is Python that imports.
        begun = [_begun(stack, server, work) for server in servers]
        rows = [Measured(server, work, process, port) for server, process, port in begun]
        for round_ in range(runs + 1):
            for row in rows:
                if row.row.problem:
                    continue
                tell(f"{case.name}, {f'run {round_}' if round_ else 'warm-up'}: {row.server.name}")
                try:
                    if round_:
                        row.run(round_)
                    else:
                        row.warm_up()
                except (BenchError, tarfile.TarError, zipfile.BadZipFile) as error:
                    row.gave_up(error)
        return Result(case, [row.row for row in rows], note(case))


def files_of(origin: Origin, case: Case) -> list[File]:
    """What the origin has of a case; cases of the same size share them."""
    count = case.files or case.members
    is_text = case.place == "catalog"
    directory = f"{case.size}-text" if is_text else f"{case.size}"
    files = _MADE.setdefault((origin.root, directory), [])
    for number in range(len(files), count):
        files.append(made(origin.root, f"{directory}/{number:06}", case.size, is_text=is_text))
    return files[:count]


_MADE: dict[tuple[Path, str], list[File]] = {}


def _begun(stack: ExitStack, server: Server, work: Work) -> tuple[Server, Process, int]:
    port = free_port()
    command = server.command(work, port)
    process = stack.enter_context(started(command, work.directory / f"{port}.output"))
    return server, process, port


def first_byte(trace: str) -> float:
    """Seconds from curl's first word to the status line, in what --verbose --trace-time says.

    time_starttransfer is no use for a POST: with curl 7.88 it is when the request's body began.
    """
    times = [
        re.findall(rf"^(\d\d):(\d\d):([\d.]+) \{mark} {word}", trace, re.MULTILINE)[0]
        for mark, word in (("*", ""), ("<", "HTTP/1.1 200"))
    ]
    began, answered = (
        int(hours) * 3600 + int(minutes) * 60 + float(seconds) for hours, minutes, seconds in times
    )
    return (answered - began) % 86400  # it may have been midnight


def check_archive(path: Path, work: Work) -> None:
    """Names, sizes and order of all members, and the contents of the last. Raises BenchError."""
    case = work.case
    if case.format == "zip":
        with zipfile.ZipFile(path) as packed:
            found = [(info.filename, info.file_size) for info in packed.infolist()]
            with packed.open(packed.infolist()[-1]) as content:
                last = hashlib.file_digest(content, "sha256")  # type: ignore[arg-type]
    else:
        with tarfile.open(path, "r:") as archive:
            infos = archive.getmembers()
            found = [(info.name, info.size) for info in infos]
            last = hashlib.file_digest(archive.extractfile(infos[-1]), "sha256")  # type: ignore[arg-type]
    expected = [(work.name(number), case.size) for number in range(case.members)]
    if found != expected:
        raise BenchError(f"{len(found)} members, and not the {case.members} that were asked for")
    if last.hexdigest() != work.file(case.members - 1).sha256:
        raise BenchError("the last member has other contents than its origin")


def check_files(paths: list[Path], work: Work) -> None:
    """Number and sizes of what was only passed on, and the contents of the last."""
    if [path.stat().st_size for path in paths] != [work.case.size] * work.case.members:
        raise BenchError(f"{len(paths)} files, and not the {work.case.members} of the origin")
    with paths[-1].open("rb") as content:
        last = hashlib.file_digest(content, "sha256")
    if last.hexdigest() != work.files[-1].sha256:
        raise BenchError("the last file has other contents than that of the origin")
