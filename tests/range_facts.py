"""What other servers' own tests expect of Range and conditions, as facts about an archive.

Each fact names the test it was read from. Numbers are theirs where they do not depend on the size
of what is asked for; otherwise they are as far from its end, N, as there. Where this gateway
answers otherwise on purpose, `theirs` is what the source expects, and `why` the reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

NAMES = ("file1.txt", "file2.txt")
CONTENTS = (b"This is the first file.\n", b"This is the second file.\n")  # as in mod_zip's tests
SIZE = 512 + 512 + 512 + 512 + 1024
FIRST, SECOND = 512, 1536  # where the contents begin

ONE_PART = "several ranges are answered with the whole, as RFC 9110 14.2 allows"
NO_DATE = "there is no Last-Modified: conditions rest on the entity-tag alone"
NO_UNIT = "`bytes ` is no range unit, and unknown units are ignored (RFC 9110 14.2 allows either)"


@dataclass(frozen=True)
class Fact:
    """A request about the archive, and what must come of it."""

    source: str
    headers: tuple[str, ...]
    status: int
    part: tuple[int, int] | None = None  # first-pos and last-pos
    content: bytes | None = None  # what the part begins with, when the source says so
    theirs: int | None = None  # the status that the source expects, where it is another one
    why: str = ""

    def lines(self, etag: str) -> list[str]:
        """The header lines, of an archive with this entity-tag."""
        return [_filled(line).replace("{E}", etag) for line in self.headers]

    @property
    def content_range(self) -> str | None:
        """The value of Content-Range."""
        if self.part is not None:
            return f"bytes {self.part[0]}-{self.part[1]}/{SIZE}"
        return f"bytes */{SIZE}" if self.status == 416 else None

    @property
    def length(self) -> int | None:
        """Bytes of content, of an answer with some of the archive."""
        if self.part is not None:
            return self.part[1] - self.part[0] + 1
        return SIZE if self.status == 200 else None

    def __str__(self) -> str:
        return f"{self.source}: {' + '.join(self.headers) or 'nothing'}"


def _filled(line: str) -> str:
    return re.sub(r"\{N([+-]\d+)?\}", lambda found: str(SIZE + int(found[1] or 0)), line)


def _facts() -> Iterator[Fact]:
    yield from _varnish()
    yield from _nginx()
    yield from _nginx_conditions()
    yield from _mod_zip()


def _varnish() -> Iterator[Fact]:
    source = "varnish c00034.vtc"
    for unit in ("bytes =0-9", "bytes =-9", "bytes =0-a"):
        yield Fact(source, (f"Range: {unit}",), 200, theirs=416, why=NO_UNIT)
    for spec in ("0- 9", "-", "5-2", "-0", "{N}-"):
        yield Fact(source, (f"Range: bytes={spec}",), 416)
    for spec, part in (
        ("0-49", (0, 49)),
        ("{N-50}-{N-1}", (SIZE - 50, SIZE - 1)),
        ("-50", (SIZE - 50, SIZE - 1)),
        ("{N-50}-", (SIZE - 50, SIZE - 1)),
        ("0-0", (0, 0)),
        ("-{N+1900}", (0, SIZE - 1)),
        ("{N-80}-", (SIZE - 80, SIZE - 1)),
    ):
        yield Fact(source, (f"Range: bytes={spec}",), 206, part)
    late = ("Range: bytes={N-50}-{N+100}",)
    yield Fact("varnish r00702.vtc", late, 206, (SIZE - 50, SIZE - 1))
    yield Fact("varnish r00704.vtc", ("Range: bytes=-20",), 206, (SIZE - 20, SIZE - 1))
    yield Fact('varnish "pass, rollback, invalid range"', ("Range: 42",), 200)
    source = 'varnish "if-range header"'
    yield Fact(source, ("If-Range: {E}",), 200)
    yield Fact(source, ('If-Range: "fooled"', "Range: bytes=5-9"), 200)
    yield Fact(source, ("If-Range: {E}", "Range: bytes=5-9"), 206, (5, 9))


def _nginx() -> Iterator[Fact]:
    source = "nginx-tests range.t"
    for spec, part in (
        ("0-8", (0, 8)),
        ("-10", (SIZE - 10, SIZE - 1)),
        ("{N-10}-", (SIZE - 10, SIZE - 1)),
        ("{N-10}-{N+990}", (SIZE - 10, SIZE - 1)),
        ("0-{N+9001}", (0, SIZE - 1)),
    ):
        yield Fact(source, (f"Range: bytes={spec}",), 206, part)
    for spec in ("{N+99000}-", "alpha", "10-alpha", "10", "10-11 12-"):
        yield Fact(source, (f"Range: bytes={spec}",), 416)
    for spec in ("0-9, -10, 10-19", "0-9, -10, {N+99000}-, 10-19", "0-9, -10"):
        yield Fact(source, (f"Range: bytes={spec}",), 200, theirs=206, why=ONE_PART)
    yield Fact(source, ("Range: bytes=0-{N+9001}, 0-0",), 200)
    source = "nginx-tests range_if_range.t"
    yield Fact(source, ("Range: bytes=0-9", "If-Range: wrong"), 200)
    dated = ("Range: bytes=0-9", "If-Range: Mon, 28 Sep 1970 06:00:00 GMT")
    yield Fact(source, dated, 200, theirs=206, why=NO_DATE)


def _nginx_conditions() -> Iterator[Fact]:
    source = "nginx-tests not_modified.t"
    for date in ("Wed, 08 Jul 2037 22:53:52 GMT", "Tue, 19 Jan 2038 03:14:07 GMT"):
        yield Fact(source, (f"If-Modified-Since: {date}",), 200, theirs=304, why=NO_DATE)
    yield Fact(source, ("If-None-Match: {E}",), 304)
    yield Fact(source, ('If-None-Match: "foo"',), 200)
    yield Fact(source, ('If-None-Match: "foo", "bar", {E} , "baz"',), 304)
    yield Fact(source, ("If-None-Match: *",), 304)
    yield Fact(source, ("If-None-Match: W/{E}",), 304)
    yield Fact(source, ("If-Match: {E}",), 200)
    yield Fact(source, ('If-Match: "foo"',), 412)
    yield Fact(source, ('If-Match: "foo", "bar", \t{E} , "baz"',), 200)
    yield Fact(source, ("If-Match: *",), 200)
    yield Fact(source, ("If-Match: W/{E}",), 412)


def _mod_zip() -> Iterator[Fact]:
    source = "mod_zip ziptest.pl"
    yield Fact(source, ("Range: bytes={N+9697}-{N+9698}",), 416)
    for what, part, content in (
        ("at the beginning", (0, 1), b"fi"),
        ("in a header", (0, 8), b"file1.txt"),
        ("a whole member", (SECOND, SECOND + 24), CONTENTS[1]),
        ("the beginning of a member", (SECOND, SECOND + 3), b"This"),
        ("within a member", (SECOND + 2, SECOND + 3), b"is"),
        ("over a member into the next", (0, SECOND + 4), b"file1.txt"),
        ("from one member to the next", (FIRST + 8, SECOND + 3), b"the first file"),
    ):
        header = f"Range: bytes={part[0]}-{part[1]}"
        yield Fact(f"{source}, {what}", (header,), 206, part, content)
    last = (SECOND, SIZE - 1)
    for what, spec in (("prefix", f"{SECOND}-"), ("suffix", f"-{SIZE - SECOND}")):
        yield Fact(f"{source}, {what}", (f"Range: bytes={spec}",), 206, last, CONTENTS[1])
    for spec in (f"0-1,{SECOND}-{SECOND + 3}", f"{SECOND}-{SECOND + 3},0-1"):
        yield Fact(source, (f"Range: bytes={spec}",), 200, theirs=206, why=ONE_PART)
    for second, theirs in (("07", None), ("08", 206)):
        date = f"If-Range: Wed, 15 Nov 1995 04:58:{second} GMT"
        headers = (date, "Range: bytes=0-1")
        yield Fact(source, headers, 200, theirs=theirs, why=NO_DATE if theirs else "")
    yield Fact(source, ("If-Range: 2.71828", "Range: bytes=0-1"), 200)
    yield Fact(source, ("If-Range: {E}", "Range: bytes=0-1"), 206, (0, 1), b"fi")


FACTS = list(_facts())
