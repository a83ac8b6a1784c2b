"""Safe, unique names for the members of an archive. A name is mended, never refused.

Where names come from is not trusted, so each is held to what GNU tar, bsdtar, busybox tar, 7z and
Python's tarfile were all seen to extract as one file, below the target, under exactly that name:

- `/` is the only separator. A backslash becomes one: it comes from a Windows catalog.
- Empty, `.` and `..` segments are dropped, and with them whatever makes a name absolute.
- NUL and the other controls (C0, DEL, C1), line and paragraph separators, lone surrogates, and the
  controls of writing direction, which let `a_txt.exe` be shown as `a_exe.txt`, each become `_`.
- A name is in NFC (UAX #15): bsdtar extracts nothing else, whatever the archive says.
- Of combining marks that follow one another each tenth becomes `_`, and so does each of class 228
  (U+05AE, U+18A9, U+1DF7, U+1DF8, U+302B): with more than it has room for bsdtar exits with 1.
- A drive letter `C:` at the beginning becomes `C_`: bsdtar strips it, again and again.
- A segment does not begin as a bzip2 stream does, `BZh91AY&SY`; its `B` becomes `_`. As the first
  member's name it begins the archive, which bsdtar then tries to decompress.
- A segment has at most 255 bytes of UTF-8: its stem is cut, at a code point, its suffix stays.
- A name has at most 1,024 bytes of UTF-8: the directories nearest to the file are left out.
- If nothing is left, the name is `unnamed`.
- A name that ends in `/` is that of an empty directory, and ends in one `/`, which does not count.

A suffix is what follows the last dot, if that is 1 to 16 characters without white space, and a
`.tar` before it; something other than dots has to stand before the suffix. `.bashrc` has none.

Two names collide if they are equal after case folding and NFC, much as macOS and Windows compare
them, or if one names a file and the other a directory, or a directory above a file. Directories do
not collide with each other: what is in either is then in one.

What only Windows refuses stays, for it is a good name elsewhere; `mend_for_windows` is for formats
that are read there too. By it `<>:"|?*` and the last character of a segment, if that is a dot or a
space, become `_`, and so does the last one of a device's name: of `AUX`, `nul.txt`, `COM1` remain
`AU_`, `nu_.txt`, `COM_`.
"""

import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Sequence
from itertools import count
from unicodedata import combining, normalize

MAX_SEGMENT = 255  # bytes: NAME_MAX of Linux and of nearly every file system
MAX_NAME = 1024  # bytes: PATH_MAX of macOS, the smallest in use
UNNAMED = "unnamed"

_STEP = 256  # names between two yields; less than a millisecond

_NUMBER = len(" (12345678)")  # bytes; reserved at once, so that all numbers have the same stem

_BZIP2 = "Zh[1-9]1AY&SY"  # behind a B
_UNSAFE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
    r"|[\u05ae\u18a9\u1df7\u1df8\u302b]"
    rf"|(?<![^/\\])B(?={_BZIP2})"
)
_MARKS = re.compile(r"[^\w\x00-\u02ff]{10,}")  # and other signs: `_interrupted` looks closer
_DRIVE = re.compile(r"\A([A-Za-z]):")
_SEPARATOR = re.compile(r"[/\\]")
_SUFFIX = re.compile(r"\.*[^.].*?((?i:\.tar)?\.[^.\s]{1,16})", re.DOTALL)

# learn.microsoft.com/windows/win32/fileio/naming-a-file
_REFUSED_BY_WINDOWS = re.compile(r'[<>:"|?*]|[. ](?=/|\Z)')
_DEVICE = re.compile(
    r"(?<![^/])(?:CON|PRN|AUX|NUL|(?:COM|LPT)[0-9¹²³]|CONIN\$|CONOUT\$)(?= *(?:[./]|\Z))",
    re.IGNORECASE,
)

# What most names are; nothing in them needs mending.
_SEGMENT = rf"(?!\.\.?(?:/|\Z)|B{_BZIP2})[^/\\\x00-\x1f\x7f]++"
_CLEAN_ASCII = re.compile(rf"(?!{_DRIVE.pattern}){_SEGMENT}(?:/{_SEGMENT})*+")


def mend(name: str) -> str:
    """Return the safe name nearest to `name`; `name` itself if it is safe. Idempotent."""
    if len(name) <= MAX_SEGMENT and name.isascii() and _CLEAN_ASCII.fullmatch(name):
        return name
    segments = _SEPARATOR.split(_composed(_UNSAFE.sub("_", name)))
    segments = [segment for segment in segments if segment not in {"", ".", ".."}] or [UNNAMED]
    last = _shorten(segments.pop())
    mended = _leading(map(_shorten, segments), MAX_NAME - _size(last)) + last
    # Only here, because a Kelvin sign is a K after NFC.
    mended = _DRIVE.sub(r"\1_", mended)
    return name if mended == name else mended


def mend_for_windows(name: str) -> str:
    """Return the nearest name that is safe on Windows too, no longer than `mend(name)`."""
    name = _REFUSED_BY_WINDOWS.sub("_", mend(name))
    return _DEVICE.sub(lambda device: device[0][:-1] + "_", name)


def segment(name: str) -> str:
    """Return `name` as one safe segment, to name a download: each separator becomes `_`."""
    return mend(_SEPARATOR.sub("_", name))


def unique(names: Sequence[str], mend: Callable[[str], str] = mend) -> list[str]:
    """Return `names`, mended, none colliding with another; see `unique_in_steps`."""
    steps = unique_in_steps(names, mend)
    while True:
        try:
            next(steps)
        except StopIteration as stopped:
            result: list[str] = stopped.value
            return result


def unique_in_steps(
    names: Sequence[str], mend: Callable[[str], str] = mend
) -> Generator[None, None, list[str]]:
    """Return `names`, mended, none colliding with another; in their order, a function of them only.

    A file that collides gets ` (2)`, ` (3)`, ... before its suffix: the first that no name has. The
    first of equal names keeps it, as does every name that is in the way of a number; a file loses
    its name to a directory wherever it stands. If there is no room for a number, the stem is cut
    and directories are left out as in `mend`, as if for a number of eight digits.

    The work is that of sorting the names, whatever they are. It yields now and then, so that
    whoever has many of them can do something else meanwhile.
    """
    mended: list[str] = []
    keys: list[str] = []
    for first in range(0, len(names), _STEP):
        mended += [
            f"{mend(name)}/" if name.endswith("/") else mend(name)
            for name in names[first : first + _STEP]
        ]
        keys += map(_key, mended[first:])
        yield
    # A renamed file stays in a directory that was there before, so this holds to the end.
    tree = sorted(set(keys))
    taken: set[str] = set()
    colliding: list[int] = []
    for index, key in enumerate(keys):
        if index % _STEP == 0:
            yield
        if not key.endswith("\0") and (key in taken or _is_directory(key, tree)):
            colliding.append(index)
        else:
            taken.add(key)
    # Names that are numbered alike share one count. As a suffix has no white space, a numbered name
    # can be read in one way only: no two counts try the same one, so none has to be remembered, and
    # each name that is in the way is met once.
    counts: defaultdict[tuple[str, str], count[int]] = defaultdict(lambda: count(2))
    for step, index in enumerate(colliding):
        if step % _STEP == 0:
            yield
        before, after = _around_number(mended[index])
        for number in counts[_key(before), _key(after)]:
            numbered = f"{before} ({number}){after}"
            key = _key(numbered)
            if key not in taken and not _is_directory(key, tree):
                break
        mended[index] = numbered
    return mended


def _composed(name: str) -> str:
    """Return `name` in NFC, with at most nine combining marks in a row.

    They are replaced before NFC too, which takes quadratic time for many; it may bring new ones.
    """
    return _MARKS.sub(_interrupted, normalize("NFC", _MARKS.sub(_interrupted, name)))


def _interrupted(marks: re.Match[str]) -> str:
    """Return what was matched, each tenth combining mark in a row replaced."""
    characters = list(marks[0])
    row = 0
    for index, character in enumerate(characters):
        row = row + 1 if combining(character) else 0
        if row == 10:
            characters[index] = "_"
            row = 0
    return "".join(characters)


def _key(name: str) -> str:
    """Return what colliding names have in common.

    NUL, the least character, separates: so what lies below a directory sorts right behind it.
    """
    return normalize("NFC", name.casefold()).replace("/", "\0")


def _is_directory(key: str, tree: list[str]) -> bool:
    """Tell whether a name lies below `key`; `tree` has the keys of all names, sorted."""
    below = key + "\0"
    position = bisect_left(tree, below)
    return position < len(tree) and tree[position].startswith(below)


def _around_number(name: str) -> tuple[str, str]:
    """Return what stands before and behind the number of a file that collides."""
    *directories, last = name.split("/")
    stem, suffix = _split(_shorten(last, MAX_SEGMENT - _NUMBER))
    room = MAX_NAME - _NUMBER - _size(stem) - _size(suffix)
    return _leading(directories, room) + stem, suffix


def _leading(directories: Iterable[str], room: int) -> str:
    """Return the first directories that fit into `room` bytes, each with its slash.

    The first one always fits: two segments have less than `MAX_NAME` bytes. So no name begins
    with what was not at its beginning before, which might be a drive letter.
    """
    leading = []
    for directory in directories:
        room -= _size(directory) + 1
        if room < 0:
            break
        leading.append(directory + "/")
    return "".join(leading)


def _shorten(segment: str, limit: int = MAX_SEGMENT) -> str:
    """Return `segment` with at most `limit` bytes: its stem is cut, its suffix stays.

    It stays in NFC, as each part of it is, and as a dot composes with nothing before it.
    """
    if _size(segment) <= limit:
        return segment
    stem, suffix = _split(segment)
    # Of UTF-8 that was cut, only the last code point can be incomplete.
    return stem.encode()[: limit - _size(suffix)].decode(errors="ignore") + suffix


def _split(segment: str) -> tuple[str, str]:
    """Return the stem and the suffix of `segment`; together they are it."""
    match = _SUFFIX.fullmatch(segment)
    position = match.start(1) if match else len(segment)
    return segment[:position], segment[position:]


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())
