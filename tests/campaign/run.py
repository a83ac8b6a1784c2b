"""Runs cases: a clean download, the faults, the client, the verdict."""

from __future__ import annotations

import asyncio
import re
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP

from campaign import clients, judge, oracle, tools
from campaign.arm import Armed, arm
from campaign.cases import FRESH, GONE, OURS, WARM, Case, path_of
from campaign.download import LIMIT, Download, Target, until
from campaign.house import House, house
from campaign.judge import CANARY, Archive, Evidence
from campaign.report import Report, Result

FREED = 3.0  # seconds in which a client that left has freed what it held
STOPPED = 1.0  # seconds that a stopped gateway sleeps
ENDS = 10.0  # seconds in which a gateway ends that has nothing left to do

_BAD = re.compile(rf"internal error|{CANARY}|^\S+ (error|critical) |^  ")
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
    async with house(chosen, guard) as it:

        async def work() -> None:
            for case in left:
                report.results.append(await run_case(it, case))
                tell(report)

        watching = asyncio.create_task(_watch_ourselves(report))
        async with asyncio.TaskGroup() as group:
            for _ in range(jobs):
                group.create_task(work())
        watching.cancel()
        if not await until(lambda: not any(origin.in_flight for origin in it.origins), FREED):
            report.about_all.append("all clients have ended, and origins are still being asked")
        report.logs = "".join(gateway.log for gateway in it.everything())
    report.about_all += [
        f"in a log: {line}" for line in report.logs.splitlines() if _BAD.search(line)
    ]
    report.conclude()
    return report


async def _watch_ourselves(report: Report) -> None:
    """Note how late we are at most: origins run in this loop, and gateways wait 0.5 s for them."""
    loop = asyncio.get_running_loop()
    while True:
        began = loop.time()
        await asyncio.sleep(0.01)
        report.late = max(report.late, loop.time() - began)


async def run_case(it: House, case: Case) -> Result:
    """Run one case, and leave nothing of it behind."""
    try:
        with tempfile.TemporaryDirectory(dir=it.directory) as directory:
            return await _judged(it, case, Path(directory))
    except oracle.Wrong as wrong:
        return Result(case, "wrong", succeeded=False, fired=True, violations=[str(wrong)])
    finally:
        it.origin(case).forget(case.name)


async def _judged(it: House, case: Case, directory: Path) -> Result:
    origin, struck = it.origin(case), case.members[case.struck].object()
    for number, member in enumerate(case.members):
        origin.objects[path_of(case, number)] = member.object()
    place = path_of(case, case.struck)
    origin.objects[place] = struck
    armed = arm(origin, case, struck, it.dead)
    versions = [await _clean(it, case, directory / "clean")]
    if armed.other is not None and not case.members[case.struck].stated:
        origin.objects[place] = armed.other
        versions.append(await _clean(it, case, directory / "other"))
        origin.objects[place] = struck
    if case.gateway == WARM:
        await oracle.get(it.port(case), it.path(case), "HEAD")
    origin.seen[case.name].clear()
    struck.faults.extend(armed.faults)
    target = _target(it, case, versions[0], directory)
    status = None
    if case.kind.signal is None:
        download = await clients.download(target)
    else:
        download, status = await _befallen(it, case, armed, target)
    evidence = Evidence(
        case,
        download,
        versions,
        fired=origin.fired[armed.name] > 0,
        continued=any(
            asked.path == place and "range" in asked.headers for asked in origin.seen[case.name]
        ),
        status=status,
    )
    if case.client == GONE:
        evidence.freed = await until(lambda: not origin.busy[case.name], FREED)
    if judge.asks_tar(case, download):
        evidence.tar = await _tar(versions[0].body[: download.begin] + download.received)
    return Result(
        case,
        download.outcome,
        download.succeeded,
        evidence.fired,
        judge.violations(evidence),
        needed=oracle.needed(case.members, versions[0], target.begin or 0),
        again=oracle.read_again(case, origin.seen[case.name]),
        notes=_notes(it, case, download),
    )


async def _clean(it: House, case: Case, directory: Path) -> Archive:
    objects = [it.origin(case).objects[path_of(case, n)] for n in range(len(case.members))]
    return await oracle.clean(it.gateways[FRESH].port, it.path(case), case, objects, directory)


def _target(it: House, case: Case, archive: Archive, directory: Path) -> Target:
    tag = (archive.etag or "").strip('"')
    begin = None
    if case.begin is not None:
        member, byte = case.begin
        begin = archive.headers[member] if byte is None else archive.contents[member] + byte
    return Target(
        case.client,
        it.port(case),
        it.path(case),
        it.path(case, version=tag),
        archive.etag,
        begin,
        case.leaves,
        directory,
    )


async def _tar(received: bytes) -> int | None:
    code, _ = await tools.run("tar", "-xO", given=received, output=asyncio.subprocess.DEVNULL)
    return code


async def _befallen(
    it: House, case: Case, armed: Armed, target: Target
) -> tuple[Download, int | None]:
    """Download while something befalls the gateway; its exit status if that ends it."""
    lane = it.lane
    assert lane is not None
    async with lane.lock:
        await lane.mend()
        # Behind nginx the other gateway is there for who comes back.
        proxied = case.kind.signal == SIGKILL or case.path == OURS
        target = replace(target, port=lane.proxy if proxied else lane.gateways[0].port)
        befalls = asyncio.create_task(_befall(it, case, armed.name))
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


async def _befall(it: House, case: Case, fault: str) -> subprocess.Popen[bytes]:
    """Send the signal to the gateway that is at work, once its origin hesitates."""
    assert it.lane is not None
    assert case.kind.signal is not None
    origin = it.origin(case)
    await until(lambda: origin.fired[fault], LIMIT)
    [via] = {request.target.rpartition("via=")[2] for request in origin.seen[case.name]}
    popen = it.lane.gateways[int(via)].process.popen
    popen.send_signal(case.kind.signal)
    if case.kind.signal == SIGSTOP:
        await asyncio.sleep(STOPPED)
        popen.send_signal(SIGCONT)
    return popen


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
