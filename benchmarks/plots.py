"""Plots of a run, as SVG: a figure, the cases that it is the point of, a bar for each server."""

from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.figures import (
    CPU_PER_GIB,
    CPU_PER_MEMBER,
    OVER_IDLE,
    PER_CLIENT,
    RATE,
    SPEED,
    Column,
    Report,
    Result,
    figures_of,
)

OURS, OTHERS, LIMIT = "#1f6feb", "#8b949e", "#c9d1d9"


@dataclass(frozen=True)
class Plot:
    """A file, what it shows, and of which cases."""

    name: str
    title: str
    column: Column
    cases: tuple[str, ...]


PLOTS = [
    Plot(
        "cpu-per-gib",
        "CPU seconds per GiB of one large member; less is better",
        CPU_PER_GIB,
        ("large-tar", "large-zip-known", "large-zip-computed"),
    ),
    Plot(
        "throughput",
        "MiB per second of one large member; more is better",
        SPEED,
        ("large-tar", "large-tar-far", "large-zip-known", "large-zip-computed"),
    ),
    Plot(
        "cpu-per-member",
        "CPU microseconds per small member; less is better",
        CPU_PER_MEMBER,
        ("small-tar", "small-tar-head", "small-zip-known", "small-zip-computed"),
    ),
    Plot(
        "latency",
        "Members per second from an origin that is far away; more is better",
        RATE,
        ("far-tar", "far-zip"),
    ),
    Plot("slow-clients", "Memory of each slow client, MiB; less is better", PER_CLIENT, ("slow",)),
    Plot(
        "memory",
        "Memory over idle during a download, MiB; less is better",
        OVER_IDLE,
        ("large-tar", "large-zip-computed", "small-tar", "small-zip-computed", "huge"),
    ),
]


def drawn(report: Report, directory: Path) -> list[tuple[str, str]]:
    """Write the plots whose cases were measured; the files' names and what they show."""
    # The same numbers give the same file.
    mpl.rcParams["svg.hashsalt"] = "tarstream"
    mpl.rcParams["font.size"] = 9
    mpl.rcParams["svg.fonttype"] = "none"
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for plot in PLOTS:
        results = [result for result in report.results if result.case.name in plot.cases]
        if results:
            name = f"{plot.name}.svg"
            _draw(plot, results).savefig(
                directory / name, metadata={"Date": None, "Creator": None}, facecolor="white"
            )
            written.append((name, plot.title))
    return written


def _draw(plot: Plot, results: list[Result]) -> Figure:
    heights = [len(result.rows) + 1 for result in results]
    figure = Figure(figsize=(8, 0.25 * sum(heights) + 0.6), layout="constrained")
    figure.suptitle(plot.title, fontweight="bold")
    all_axes = figure.subplots(len(results), 1, squeeze=False, height_ratios=heights, sharex=True)
    for axes, result in zip(all_axes[:, 0], results, strict=True):
        axes.set_title(result.case.title, loc="left", fontsize=9)
        for row in reversed(result.rows):
            shown = dict(figures_of(result, row)).get(plot.column)
            value = shown.median if shown else 0
            errors = [[value - shown.low], [shown.high - value]] if shown else None
            bar = axes.barh(row.server, value, color=_color(row.server), xerr=errors)
            axes.bar_label(
                bar, labels=[f"{value:,.{plot.column.digits}f}" if shown else "-"], padding=4
            )
        axes.spines[["top", "right", "bottom"]].set_visible(False)
        axes.tick_params(axis="x", labelbottom=False, bottom=False)
        axes.margins(x=0.12)
    return figure


def _color(server: str) -> str:
    if server.startswith("tarstream"):
        return OURS
    return LIMIT if server.startswith("nginx") else OTHERS
