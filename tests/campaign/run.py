"""Runs cases: a clean download, the faults, the client, the verdict."""

from __future__ import annotations

import asyncio
import re
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP, SIGTERM

from gateway import archive_path
from origin import Request

from campaign import clients, judge, knock, oracle, tools
from campaign.arm import Armed, arm
from campaign.canaries import IN_A_LOG, KEY, TOKEN
from campaign.cases import DEFAULTS, FILE, FRESH, GONE, LEARNT, OURS, WARM, Case, path_of
from campaign.download import LIMIT, Download, Target, until
from campaign.forms import UNPACK, unpacked
from campaign.house import House, Lane, house
from campaign.judge import Archive, Evidence
from campaign.pulse import Pulse
from campaign.report import Report, Result

FREED = 5.0  # seconds in which a client that left has freed what it held; origins may take 20
TRIES = 3  # of a case that ended otherwise than expected while something was late
STOPPED = 3.0  # seconds that a stopped gateway sleeps: its limits of time have passed meanwhile
ENDS = 30.0  # seconds in which a gateway ends that has nothing left to do

_BAD = re.compile(rf"internal error|{IN_A_LOG.pattern}|^\S+ (error|critical) |^  ")
"""A line that must not stand in a log; tracebacks are indented."""


async def campaign(
    chosen: Sequence[Case],
    guard: str | None,
    jobs: int,
    tell: Callable[[Report], None] = lambda _: None,
) -> Report:
    """Run cases, some at a time, and `tell` after each."""
    report = Report()
    left = iter(chosen)
    doubtful: list[Case] = []
    async with house(chosen, guard) as it:
        pulse = Pulse([gateway.port for gateway in it.gateways.values()])
        watching = asyncio.create_task(pulse.watch())

        def add(result: Result) -> None:
            result.in_doubt = result.in_doubt and guard is None
            report.results.append(result)
            tell(report)

        async def work() -> None:
            for case in left:
                result = await _run(it, case, pulse)
                if result.in_doubt and guard is None:
                    doubtful.append(case)
                else:
                    add(result)

        async with asyncio.TaskGroup() as group:
            for _ in range(jobs):
                group.create_task(work())
        report.repeated = len(doubtful)
        for case in doubtful:
            add(await _again(it, case, pulse))
        for name, gateway in it.gateways.items():
            report.about_all += await knock.knock(gateway.port)
            await it.count_spliced(name)
        report.spliced = it.spliced
        report.about_all += [each for origin in it.origins for each in origin.wrong]
        report.about_all += [
            f"a gateway has ended by itself: {gateway.process.popen.poll()}"
            for gateway in it.gateways.values()
            if gateway.process.popen.poll() is not None
        ]
        watching.cancel()
        report.late = pulse.longest
        if not await until(lambda: not any(origin.in_flight for origin in it.origins), FREED):
            report.about_all.append("all clients have ended, and origins are still being asked")
        report.logs = "".join(gateway.log for gateway in it.everything())
    report.about_all += [
        f"in a log: {line}" for line in report.logs.splitlines() if _BAD.search(line)
    ]
    report.conclude()
    return report


async def _run(it: House, case: Case, pulse: Pulse) -> Result:
    """Run one case; in doubt if it is wrong in a way that lateness may explain, and some was."""
    began = asyncio.get_running_loop().time()
    result = await run_case(it, case)
    wrong = result.violations
    result.in_doubt = bool(wrong) and judge.excusable(wrong) and pulse.skipped(began)
    return result


async def _again(it: House, case: Case, pulse: Pulse) -> Result:
    """Run a case again, alone and when all is calm. It stays in doubt if that never happens."""
    for _ in range(TRIES):
        await it.forget(case)
        await pulse.calm()
        result = await _run(it, case, pulse)
        if not result.in_doubt:
            break
    return result


async def run_case(it: House, case: Case) -> Result:
    """Run one case, and leave nothing of it behind."""
    try:
        with tempfile.TemporaryDirectory(dir=it.directory) as directory:
            return await _judged(it, case, Path(directory))
    except oracle.Wrong as wrong:
        return Result(case, "wrong", succeeded=False, fired=True, violations=[str(wrong)])
    finally:
        for origin in it.origins:
            origin.forget(case.name)


async def _judged(it: House, case: Case, directory: Path) -> Result:
    origin, struck = it.origin(case), case.members[case.struck].object()
    for number, member in enumerate(case.members):
        if member.source == FILE:
            origin.objects[path_of(case, number)] = member.object()
    place = path_of(case, case.struck)
    origin.objects[place] = struck
    armed = arm(origin, it.abroad(case), case, struck, it.dead)
    versions = [await _clean(it, case, directory / "clean")]
    if armed.other is not None and not case.members[case.struck].stated:
        origin.objects[place] = armed.other
        versions.append(await _clean(it, case, directory / "other"))
        origin.objects[place] = struck
    learns = case.form.follows and case.known == LEARNT
    if case.gateway == WARM or (learns and case.gateway != FRESH):
        method = "GET" if learns else "HEAD"
        await oracle.get(it.port(case), it.path(case), method, it.fields(case))
    origin.seen[case.name].clear()
    struck.faults.extend(armed.faults)
    target = _target(it, case, versions[0], directory)
    status = None
    if case.kind.signal is None:
        download = await clients.download(target)
    else:
        download, status = await _befallen(it, case, armed, target)
    raw = download.received
    ended = await asyncio.to_thread(_unpack, case, download)
    evidence = Evidence(
        case,
        download,
        versions,
        fired=origin.fired[armed.name] > 0,
        continued=any(
            asked.path == place and "range" in asked.headers for asked in origin.seen[case.name]
        ),
        status=status,
        ended=ended,
        told=any(_tells(asked) for asked in origin.seen[case.name]),
    )
    if case.client == GONE:
        evidence.freed = await until(lambda: not origin.busy[case.name], FREED)
    if judge.asks_readers(case, download):
        whole = versions[0].body[: download.begin] + download.received
        evidence.takers = await _takers(case, whole, raw, directory)
    return Result(
        case,
        download.outcome,
        download.succeeded,
        evidence.fired,
        judge.violations(evidence),
        needed=oracle.needed(case, versions[0], target.begin or 0),
        sent=oracle.sent(case, origin.seen[case.name]),
        notes=_notes(it, case, download),
    )


async def _clean(it: House, case: Case, directory: Path) -> Archive:
    there = it.origin(case).objects
    objects = [
        there.get(path_of(case, number)) or member.object()
        for number, member in enumerate(case.members)
    ]
    path = archive_path(case.clean_ids, **case.form.parameters)
    return await oracle.clean(it.gateways[FRESH].port, path, case, objects, directory)


def _target(it: House, case: Case, archive: Archive, directory: Path) -> Target:
    tag = (archive.etag or "").strip('"')
    begin = None
    if case.begin is not None:
        member, byte = case.begin
        begin = archive.headers[member] if byte is None else archive.contents[member] + byte
    return Target(
        case.client,
        0 if case.kind.signal else it.port(case),
        it.path(case),
        it.path(case, version=tag),
        it.fields(case),
        archive.etag,
        begin,
        archive.sent,
        case.leaves,
        directory,
    )


def _unpack(case: Case, download: Download) -> bool | None:
    """Let a client of a compressed archive look into it, and whether it finds the end.

    Where the path has no sign for a body that breaks off, that is how it learns of it.
    """
    run = download.runs[-1]
    if not case.form.compressed or run.outcome == "refused":
        return None
    try:
        download.received, ended = unpacked(case.form.format, download.received)
    except ValueError as error:
        raise oracle.Wrong(f"promise 1: {error}") from error
    if run.outcome == "whole" and not ended and case.path == DEFAULTS and not case.kind.signal:
        run.outcome = "short"
    return ended


async def _takers(case: Case, received: bytes, raw: bytes, directory: Path) -> list[str]:
    """Those who take what broke off for an archive; `raw` is what it came as, if compressed."""
    asked: list[tuple[bytes | None, tuple[str | Path, ...]]]
    if case.form.is_zip:
        file = directory / "cut.zip"
        file.write_bytes(received)
        asked = [(None, ("unzip", "-tqq", file)), (None, ("7z", "t", "-bd", file))]
    else:
        asked = [(received, ("tar", "-xO"))]
        if case.form.compressed:
            asked.append((raw, ("tar", "-xO", *UNPACK[case.form.format])))
    return [
        " ".join(map(str, command[:2]))
        for given, command in asked
        if (await tools.run(*command, given=given, output=asyncio.subprocess.DEVNULL))[0] == 0
    ]


async def _befallen(
    it: House, case: Case, armed: Armed, target: Target
) -> tuple[Download, int | None]:
    """Download while something befalls the gateway; its exit status if that ends it."""
    async with it.lane() as lane:
        # Behind nginx the other gateway is there for who comes back.
        proxied = case.kind.signal == SIGKILL or case.path == OURS
        target = replace(target, port=lane.proxy.port if proxied else lane.gateways[0].port)
        befalls = asyncio.create_task(_befall(it, lane, case, armed))
        try:
            download = await clients.download(target)
            if not it.origin(case).fired[armed.name]:
                return download, None
            struck = await befalls
        finally:
            befalls.cancel()
        if case.kind.signal == SIGSTOP:
            return download, None
        await until(lambda: struck.poll() is not None, ENDS)
        return download, struck.poll()


async def _befall(it: House, lane: Lane, case: Case, armed: Armed) -> subprocess.Popen[bytes]:
    """Send the signal to the gateway that is at work, once its origin hesitates."""
    assert case.kind.signal is not None
    origin = it.origin(case)
    await until(lambda: origin.fired[armed.name], LIMIT)
    via = origin.seen[case.name][0].target.rpartition("-")[2]
    process = lane.gateways[int(via)].process
    popen = process.popen
    popen.send_signal(case.kind.signal)
    if case.kind.signal == SIGTERM:
        await until(lambda: popen.poll() is not None or " draining " in process.log, LIMIT)
    armed.befallen.set()
    if case.kind.signal == SIGSTOP:
        try:
            await asyncio.sleep(STOPPED)
        finally:
            popen.send_signal(SIGCONT)
    return popen


def _tells(asked: Request) -> bool:
    """Whether it holds what only the gateway's own clients know."""
    said = f"{asked.target} {asked.headers}"
    return any(secret in said for secret in (TOKEN, KEY, "sig="))


def _notes(it: House, case: Case, download: Download) -> list[str]:
    """What happened, for who looks into it."""
    return [
        *(
            f"client: {run.outcome} {run.status}, {run.got} of {run.length} bytes {run.note}"
            f" {run.body.decode(errors='replace')}"
            for run in download.runs
        ),
        *(
            f"origin: {asked.method} {asked.path} {asked.headers.get('range', '')} "
            f"{asked.headers.get('if-match', '')}: {asked.status}, {asked.sent} bytes"
            for asked in it.origin(case).seen[case.name]
        ),
    ]
