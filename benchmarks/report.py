"""What a run found out: as a table on a terminal, and as the figures of docs/performance.md."""

import re
from collections.abc import Sequence

from benchmarks.figures import Column, Figure, Report, Result, columns_of, figures_of


def table(result: Result) -> str:
    """A case for a terminal: median, spread, and how many times the first row's it is."""
    columns = columns_of(result.case)
    lines = [[result.case.title, *(column.title for column in columns)]]
    for row in result.rows:
        cells = [_cell(column, figure) for column, figure in figures_of(result, row)]
        lines.append([row.server, *cells])
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    shown = []
    for first, *others in lines:
        padded = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        shown.append("  ".join([first.ljust(widths[0]), *padded]).rstrip())
    shown += [f"  {row.server}: {row.problem}" for row in result.rows if row.problem]
    if result.note:
        shown.append(f"  {result.note}")
    return "\n".join(shown)


def markdown(report: Report, plots: Sequence[tuple[str, str]]) -> str:
    """All cases, the machine and the command; `plots` are paths and what they show."""
    parts = ["```console", f"$ {report.facts['command']}", "```", ""]
    parts += [f"- {key}: {value}" for key, value in report.facts.items() if key != "command"]
    for path, shows in plots:
        parts += ["", f"![{shows}]({path})"]
    for result in report.results:
        parts += ["", f"### {_sentence(result.case.title)}", "", *_rows(result)]
    return "\n".join(parts) + "\n"


def within(document: str, text: str, what: str = "figures") -> str:
    """The document with another text between the markers that are named so."""
    begin, end = f"<!-- {what}: begin -->", f"<!-- {what}: end -->"
    pattern = re.compile(re.escape(begin) + ".*" + re.escape(end), re.DOTALL)
    if len(pattern.findall(document)) != 1:
        raise ValueError(f"{begin} and {end} must stand there once")
    return pattern.sub(lambda _: f"{begin}\n\n{text}\n{end}", document)


def _rows(result: Result) -> list[str]:
    columns = columns_of(result.case)
    lines = [
        "| " + " | ".join(["", *(column.title for column in columns)]) + " |",
        "| " + " | ".join(["---", *("---:" for _ in columns)]) + " |",
    ]
    for row in result.rows:
        cells = [_cell(column, figure) for column, figure in figures_of(result, row)]
        lines.append("| " + " | ".join([row.server, *cells]) + " |")
    lines += [f"\n{row.server}: {row.problem}" for row in result.rows if row.problem]
    if result.note:
        lines += ["", result.note]
    return lines


def _cell(column: Column, figure: Figure | None) -> str:
    if figure is None:
        return "-"
    text = f"{figure.median:,.{column.digits}f}"
    if figure.spread:
        text += f" ±{figure.spread:.0%}"
    if figure.ratio is not None:
        text += f" (×{_short(figure.ratio)})"
    return text


def _short(ratio: float) -> str:
    return f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.2g}"


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]
