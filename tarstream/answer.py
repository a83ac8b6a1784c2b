"""What a program answers to a request about an archive, and how it hands over the request."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple


class Answer(NamedTuple):
    """What a request about an archive is to be answered with."""

    status: int
    """200, 206, 304, 412 or 416."""
    headers: dict[str, str]
    start: int
    """The body is the bytes [start, stop) of the archive: ..."""
    stop: int | None
    """... none for HEAD, 304, 412 and 416. None is the end of a compressed one."""


Headers = Mapping[str, str] | Iterable[tuple[str, str]] | Iterable[tuple[bytes, bytes]]
"""Header fields as frameworks have them; ASGI has pairs of bytes."""


class Fields:
    """Header fields of any framework, each with all of its lines."""

    def __init__(self, headers: "Headers") -> None:
        self._lines: dict[str, list[str]] = {}
        for key, value in headers.items() if isinstance(headers, Mapping) else headers:
            self._lines.setdefault(_text(key).lower(), []).append(_text(value))

    def getall(self, key: str, default: list[str]) -> list[str]:
        """The values of the lines of a field, in their order."""
        return self._lines.get(key.lower(), default)


def _text(field: str | bytes) -> str:
    return field.decode("latin-1") if isinstance(field, bytes) else field
