"""RFC 9110 13 and 14: request headers -> the status and the bytes asked for.

There is no Last-Modified, so conditions rest on the entity-tag alone: If-Modified-Since and
If-Unmodified-Since are ignored (13.1.3, 13.1.4), and a date in If-Range matches nothing.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

# RFC 9110 5.6.3
#   OWS = *( SP / HTAB )   ; optional whitespace
_OWS = " \t"

# RFC 9110 8.8.3
#   entity-tag = [ weak ] opaque-tag
#   weak       = %s"W/"
#   opaque-tag = DQUOTE *etagc DQUOTE
#   etagc      = %x21 / %x23-7E / obs-text   ; VCHAR except double quotes, plus obs-text
#
# obs-text is %x80-FF in octets; a decoder may have made any character beyond ASCII of it.
_ENTITY_TAG = re.compile(r'(?:W/)?"[\x21\x23-\x7E\x80-\U0010FFFF]*+"')

# RFC 9110 5.6.1.2
#   #element => [ element ] *( OWS "," OWS [ element ] )
#
# A comma between quotes is part of a tag. After a quote that is never closed nobody can tell which
# commas separate: the rest is one element, and no entity-tag. Possessive, hence linear.
_TAG_LIST_ELEMENT = re.compile(r'(?:"[^"]*+"?+|[^",]++)++')

# RFC 9110 14.1.1
#   int-range    = first-pos "-" [ last-pos ]
#   suffix-range = "-" suffix-length
#   first-pos, last-pos, suffix-length = 1*DIGIT
#
# DIGIT is ASCII only (RFC 5234 B.1), which str.isdigit and \d are not.
_RANGE_SPEC = re.compile(r"(?P<first>[0-9]++)-(?P<last>[0-9]*+)|-(?P<suffix>[0-9]++)")


class Fields(Protocol):
    """Header fields that know every line of a field, such as multidict's."""

    def getall(self, key: str, default: list[str], /) -> list[str]:
        """The values of the field's lines in their order, or `default` without any."""


@dataclass(frozen=True, slots=True)
class Selection:
    """The status of an answer, and the half-open bytes of the representation that it is about.

    200 is the whole, for HEAD too, whose body is not sent; 206 is at least one byte; 304, 412 and
    416 are about none: 0, 0.
    """

    status: int
    start: int
    stop: int

    def content_range(self, size: int) -> str | None:
        """The value of Content-Range (RFC 9110 14.4) for 206 and 416, else None.

        `size` is what `select` was given.
        """
        if self.status == 206:
            return f"bytes {self.start}-{self.stop - 1}/{size}"
        return f"bytes */{size}" if self.status == 416 else None


def select(method: str, headers: Fields, etag: str | None, size: int) -> Selection:
    """What a request asks of an existing representation of `size` bytes, by RFC 9110 13.2.2.

    `etag` is the well-formed entity-tag that the answer carries. Unless it is strong nothing
    proves that two parts are of one representation, and every Range is answered with the whole.
    Range is for GET alone (14.2); methods other than GET and HEAD have no conditions here.
    """
    whole = Selection(200, 0, size)
    if method not in {"GET", "HEAD"}:
        return whole
    strong = etag if etag is not None and etag.startswith('"') else None
    if_match = _field_value(headers, "If-Match")
    if if_match is not None and not _matches_strongly(if_match, strong):
        return Selection(412, 0, 0)
    if_none_match = _field_value(headers, "If-None-Match")
    if if_none_match is not None and _matches_weakly(if_none_match, etag):
        return Selection(304, 0, 0)
    ranges_specifier = _field_value(headers, "Range")
    if method == "HEAD" or strong is None or ranges_specifier is None:
        return whole
    # If-Range = entity-tag / HTTP-date (13.1.5): one tag, compared strongly. All else is no match.
    if _field_value(headers, "If-Range") not in {None, strong}:
        return whole
    return _select_range(ranges_specifier, size) or whole


def _field_value(headers: Fields, name: str) -> str | None:
    """All lines of a field as one (RFC 9110 5.3), or None when there is no line."""
    lines = headers.getall(name, [])
    return ", ".join(lines).strip(_OWS) if lines else None


def _non_empty(elements: Iterable[str]) -> list[str]:
    """A list's elements without their OWS, and without the empty ones (5.6.1.2)."""
    return [stripped for element in elements if (stripped := element.strip(_OWS))]


def _matches_strongly(value: str, strong: str | None) -> bool:
    """If-Match = "*" / #entity-tag (13.1.1), compared strongly (8.8.3.2).

    False as well when any element is no entity-tag: who sent it meant a condition, and 412 is the
    answer that does nothing.
    """
    if value == "*":
        return True
    elements = _non_empty(_TAG_LIST_ELEMENT.findall(value))
    return strong in elements and all(map(_ENTITY_TAG.fullmatch, elements))


def _matches_weakly(value: str, etag: str | None) -> bool:
    """If-None-Match = "*" / #entity-tag (13.1.2), compared weakly (8.8.3.2).

    An element that is no entity-tag matches nothing: the whole is never a wrong answer, 304 may be.
    """
    if value == "*":
        return True
    if etag is None:
        return False
    opaque_tag = etag.removeprefix("W/")
    elements = _non_empty(_TAG_LIST_ELEMENT.findall(value))
    return any(element.removeprefix("W/") == opaque_tag for element in elements)


def _select_range(value: str, size: int) -> Selection | None:
    """Range = ranges-specifier (14.2), or None when it is to be ignored.

        ranges-specifier = range-unit "=" range-set
        range-set        = 1#range-spec

    Ignored are other units (14.1: names are case-insensitive), what has no "=" and so no unit, and
    several ranges, valid or not (14.2 allows it). One that is malformed or selects no byte is 416.
    """
    range_unit, equals, range_set = value.partition("=")
    if not equals or range_unit.lower() != "bytes":
        return None
    range_specs = _non_empty(range_set.split(","))
    if len(range_specs) > 1:
        return None
    range_spec = _RANGE_SPEC.fullmatch(range_specs[0]) if range_specs else None
    if range_spec is None:
        return Selection(416, 0, 0)
    first, last, suffix = range_spec.group("first", "last", "suffix")
    if suffix:
        start, stop = max(size - _number(suffix, size), 0), size
    else:
        start = _number(first, size)
        stop = min(_number(last, size) + 1, size) if last else size
    return Selection(206, start, stop) if start < stop else Selection(416, 0, 0)


def _number(digits: str, size: int) -> int:
    """The number, or `size` for one with more digits, which means the same to every range.

    int() raises ValueError beyond some thousand digits, and is quadratic before that.
    """
    significant = digits.lstrip("0")
    return int(significant or "0") if len(significant) <= len(str(size)) else size
