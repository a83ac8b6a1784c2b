"""What a petabyte costs, out of what a GiB and a member cost. Pure."""

from benchmarks.cases import GIB, KIB, Case
from benchmarks.figures import CPU_PER_GIB, CPU_PER_MEMBER, Report, figures_of

PETABYTE = 10**15
"""Bytes: networks and clouds count so."""

HOUR = 3600


def petabyte(report: Report) -> str:
    """A table of CPU hours of our gateway, of each case that says what a byte or a member costs."""
    lines = [
        f"Of the figures below, of {report.facts['time'].partition(',')[0]}:",
        "",
        "| 1 PB in | measured | CPU hours |",
        "| --- | ---: | ---: |",
    ]
    for result in report.results:
        case = result.case
        if case.latency or case.clients > 1 or case.once:
            continue
        for row in result.rows:
            figures = {column.key: figure for column, figure in figures_of(result, row)}
            per_gib, per_member = figures.get(CPU_PER_GIB.key), figures.get(CPU_PER_MEMBER.key)
            if not row.server.startswith("tarstream"):
                continue
            what = _title(case) + row.server.removeprefix("tarstream")
            if per_gib is not None:
                measured, seconds = f"{per_gib.median:.2f} s per GiB", per_gib.median / GIB
            elif per_member is not None:
                measured = f"{per_member.median:,.0f} µs per member"
                seconds = per_member.median / 1e6 / case.size
            else:
                continue
            lines.append(f"| {what} | {measured} | {seconds * PETABYTE / HOUR:,.0f} |")
    return "\n".join(lines) + "\n"


def _title(case: Case) -> str:
    size = f"{case.size // GIB} GiB" if case.size >= GIB else f"{case.size // KIB} KiB"
    title = f"{case.format}s of members of {size}"
    if case.place == "file":
        title += ", files of this machine"
    if case.format == "zip":
        title += f", CRC-32 {'known' if case.knows_crc else 'computed'}"
    return title if case.knows_sizes else f"{title}, a HEAD for each"
