"""Validators as origins give them (RFC 9110 8.8), reduced to one string.

A strong one stands as it was sent: `"abc"`, or a date. A weak one has `W/` before it.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from tarstream.layout import is_strong

# entity-tag = [ weak ] opaque-tag; opaque-tag = DQUOTE *etagc DQUOTE   (RFC 9110 8.8.3)
# Bytes that are not UTF-8 arrive as lone surrogates, and could not be sent back as they were.
ENTITY_TAG = re.compile(r'(W/)?"[!\x23-\x7e\x80-\ud7ff\ue000-\U0010ffff]*"')

MAX_TAG = 512
"""Characters of an entity-tag that is worth remembering; a longer one counts as none."""

# IMF-fixdate: what senders must write; the obsolete forms are read by the standard library.
_DATE = re.compile(
    r"[A-Z][a-z]{2}, ([0-9]{2}) ([A-Z][a-z]{2}) ([1-9][0-9]{3}) "
    r"([0-9]{2}):([0-9]{2}):([0-9]{2}) GMT"
)
_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]

_STRONG_AGE = 60  # seconds between Last-Modified and Date that make a date strong (8.8.2.2)


def http_date(value: str | None) -> datetime | None:
    """An HTTP-date (RFC 9110 5.6.7), or None where it is not one."""
    if not value or not value.isascii():
        return None
    try:
        if (fixed := _DATE.fullmatch(value)) and fixed[2] in _MONTHS:
            month = _MONTHS.index(fixed[2]) + 1
            day, year, hour, minute, second = (int(fixed[index]) for index in (1, 3, 4, 5, 6))
            return datetime(year, month, day, hour, minute, second, tzinfo=UTC)
        parsed = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def validator_of(headers: Mapping[str, str]) -> str | None:
    """The best validator of an answer: strong entity-tag, strong date, weak tag, weak date."""
    etag = headers.get("ETag", "").strip()
    if len(etag) > MAX_TAG or not ENTITY_TAG.fullmatch(etag):
        etag = ""
    if etag and is_strong(etag):
        return etag
    date = headers.get("Last-Modified", "").strip()
    modified = http_date(date)
    if modified is not None:
        sent = http_date(headers.get("Date"))
        if sent is not None and (sent - modified).total_seconds() >= _STRONG_AGE:
            return date
    if etag:
        return etag
    return None if modified is None else f"W/{date}"


def contradicts(validator: str | None, headers: Mapping[str, str]) -> bool:
    """Whether an answer cannot be of the representation that `validator` names.

    An answer without it cannot prove a strong one; a weak one is only contradicted by another.
    """
    if validator is None:
        return False
    if not is_strong(validator):
        named = _named(validator, headers)
        return named is not None and named != validator.removeprefix("W/")
    return _named(validator, headers) != validator


def conditions(validator: str | None) -> dict[str, str]:
    """Request headers that make the origin itself notice a change.

    If-Range is of no use here: a 206 that answers it may omit Last-Modified (RFC 9110 15.3.7).
    """
    if validator is None or not is_strong(validator):
        return {}
    assert validator is not None
    return {(is_entity_tag(validator) and "If-Match") or "If-Unmodified-Since": validator}


def is_entity_tag(validator: str | None) -> bool:
    """Whether it is an entity-tag, not a date."""
    return validator is not None and validator.removeprefix("W/").startswith('"')


def _named(validator: str, headers: Mapping[str, str]) -> str | None:
    """The answer's value of the field that `validator` came from; a weak tag's opaque part."""
    if not is_entity_tag(validator):
        return headers.get("Last-Modified", "").strip() or None
    etag = headers.get("ETag", "").strip() or None
    return etag if etag is None or is_strong(validator) else etag.removeprefix("W/")
