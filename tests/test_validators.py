"""Validators as origins give them, and what contradicts them (RFC 9110 8.8)."""

from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from multidict import CIMultiDict

from tarstream.layout import is_strong
from tarstream.stores.validators import (
    conditions,
    contradicts,
    http_date,
    is_entity_tag,
    validator_of,
)

OLD = "Sun, 09 Sep 2001 01:46:40 GMT"
NOW = "Sun, 09 Sep 2001 01:47:40 GMT"  # a minute later
SOON = "Sun, 09 Sep 2001 01:47:39 GMT"  # a second too early


@pytest.mark.parametrize(
    ("etag", "modified", "date", "validator"),
    [
        ('"a"', None, None, '"a"'),
        ('"a"', OLD, NOW, '"a"'),
        ('""', None, None, '""'),
        (' "a" ', None, None, '"a"'),
        ('"a,b;c=\\"', None, None, '"a,b;c=\\"'),
        ('"é"', None, None, '"é"'),
        ('W/"a"', None, None, 'W/"a"'),
        # Strong is better than weak, an entity-tag than a date.
        ('W/"a"', OLD, NOW, OLD),
        ('W/"a"', OLD, SOON, 'W/"a"'),
        (None, OLD, NOW, OLD),
        (None, OLD, SOON, f"W/{OLD}"),
        (None, OLD, OLD, f"W/{OLD}"),
        (None, NOW, OLD, f"W/{NOW}"),
        (None, OLD, None, f"W/{OLD}"),
        (None, OLD, "soon", f"W/{OLD}"),
        (None, None, NOW, None),
        # The other forms of an HTTP-date (5.6.7); it is sent back as it came.
        (None, "Sunday, 09-Sep-01 01:46:40 GMT", NOW, "Sunday, 09-Sep-01 01:46:40 GMT"),
        (None, "Sun Sep  9 01:46:40 2001", NOW, "Sun Sep  9 01:46:40 2001"),
        # What is no entity-tag counts as none.
        ("a", None, None, None),
        ("a", OLD, NOW, OLD),
        ('"a', None, None, None),
        ('w/"a"', None, None, None),
        ('W/ "a"', None, None, None),
        ('"a b"', None, None, None),
        ('"a"b"', None, None, None),
        ('"a", "b"', None, None, None),
        ('"a\x7f"', None, None, None),
        ('"a\tb"', None, None, None),
        ('"\udcff"', OLD, NOW, OLD),
        ("", "", "", None),
        (None, "yesterday", NOW, None),
        (None, f"{OLD} \udcff", NOW, None),
        (None, "Sun, 09 Sep 99999999999999999999 01:46:40 GMT", NOW, None),
        (None, "Sun, 09 Sep 2001 01:46:40 +99999999999999999999", NOW, None),
    ],
)
def test_the_best_validator_of_an_answer(etag, modified, date, validator):
    fields = {"ETag": etag, "Last-Modified": modified, "Date": date}
    headers = CIMultiDict({name: value for name, value in fields.items() if value is not None})
    assert validator_of(headers) == validator


def test_any_mapping_holds_fields():
    """One that does not fold case too: fields are asked for as RFC 9110 writes them."""
    assert validator_of({"ETag": '"a"'}) == '"a"'
    assert validator_of({"Last-Modified": OLD, "Date": NOW}) == OLD
    assert contradicts('"a"', {"ETag": '"b"'})
    assert not contradicts('"a"', {"ETag": '"a"'})
    assert contradicts(OLD, {"Last-Modified": NOW})
    assert not contradicts(OLD, {"Last-Modified": OLD})


A, OTHER_DATE = '"a"', "Sun, 09 Sep 2001 01:46:41 GMT"


@pytest.mark.parametrize(
    ("validator", "headers", "contradicted"),
    [
        (None, {"ETag": A}, False),
        (None, {}, False),
        (A, {"ETag": A}, False),
        (A, {"ETag": f" {A} "}, False),
        (A, {"ETag": A, "Last-Modified": OTHER_DATE}, False),
        # Nothing proves that it is the same.
        (A, {}, True),
        (A, {"ETag": ""}, True),
        (A, {"ETag": 'W/"a"'}, True),
        (A, {"ETag": '"b"'}, True),
        (A, {"Last-Modified": OLD}, True),
        (OLD, {"Last-Modified": OLD}, False),
        (OLD, {"Last-Modified": OLD, "ETag": A}, False),
        (OLD, {"ETag": A}, True),
        (OLD, {"Last-Modified": OTHER_DATE}, True),
        (OLD, {}, True),
        # A weak one proves nothing, and is contradicted by another.
        ('W/"a"', {}, False),
        ('W/"a"', {"ETag": 'W/"a"'}, False),
        ('W/"a"', {"ETag": A}, False),
        ('W/"a"', {"ETag": 'W/"b"'}, True),
        ('W/"a"', {"ETag": '"b"'}, True),
        (f"W/{OLD}", {}, False),
        (f"W/{OLD}", {"ETag": A}, False),
        (f"W/{OLD}", {"Last-Modified": OLD}, False),
        (f"W/{OLD}", {"Last-Modified": OTHER_DATE}, True),
    ],
)
def test_what_an_answer_contradicts(validator, headers, contradicted):
    assert contradicts(validator, CIMultiDict(headers)) is contradicted


def test_a_strong_validator_is_a_condition_of_its_kind():
    assert conditions(A) == {"If-Match": A}
    assert conditions(OLD) == {"If-Unmodified-Since": OLD}
    assert conditions('W/"a"') == conditions(f"W/{OLD}") == conditions(None) == {}


def test_entity_tags_are_told_from_dates():
    assert is_entity_tag(A)
    assert is_entity_tag('W/"a"')
    assert not is_entity_tag(OLD)
    assert not is_entity_tag(f"W/{OLD}")
    assert not is_entity_tag(None)


@given(st.datetimes(datetime(1000, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001 - bounds have none
def test_the_fixed_form_of_a_date_is_read_as_the_standard_library_does(moment):
    text = format_datetime(moment, usegmt=True)
    assert http_date(text) == parsedate_to_datetime(text) == moment.replace(microsecond=0)


@pytest.mark.parametrize("text", [OLD.replace("09 Sep", "31 Sep"), OLD.replace("Sep", "Xyz")])
def test_a_date_that_no_calendar_has_is_none(text):
    assert http_date(text) is None


def test_an_http_date_is_a_time():
    for text in (OLD, "Sunday, 09-Sep-01 01:46:40 GMT", "Sun Sep  9 01:46:40 2001"):
        assert http_date(text) == datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC)
    # A zone that RFC 9110 has no longer, and none at all.
    for text in ("Sun, 09 Sep 2001 03:46:40 +0200", "Sun, 09 Sep 2001 01:46:40 -0000"):
        assert http_date(text) == datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC)
    assert http_date(None) is None
    assert http_date("") is None


header = st.text(st.characters(blacklist_characters="\r\n\0"), max_size=60)
dates = st.one_of(
    header,
    st.from_regex(
        r"(Sun, )?[0-9]{1,30}[ -](Sep|13)[ -][0-9]{1,30} [0-9]{1,9}:[0-9]{2}(:[0-9]{1,20})?"
        r" (GMT|[+-][0-9]{1,30}|EST|\(x\))",
        fullmatch=True,
    ),
)


@given(header, dates, dates)
@example("", "Mon, 1 Jan 1 00:00:00 +2359", "Fri, 31 Dec 9999 23:59:59 -2359")
def test_whatever_headers_hold_a_validator_can_be_written_down_and_sent_back(etag, modified, date):
    headers = CIMultiDict({"ETag": etag, "Last-Modified": modified, "Date": date})
    validator = validator_of(headers)
    if validator is None:
        return
    assert validator.encode()
    assert not contradicts(validator, headers)
    assert bool(conditions(validator)) == is_strong(validator)


def test_an_entity_tag_that_is_too_long_to_be_remembered_counts_as_none():
    longest = f'"{"x" * 510}"'
    assert validator_of(CIMultiDict({"ETag": longest})) == longest
    assert validator_of(CIMultiDict({"ETag": f'"x{longest[1:]}'})) is None
    modified = {"Last-Modified": OLD, "Date": "Sun, 09 Sep 2001 02:46:40 GMT"}
    assert validator_of(CIMultiDict({"ETag": f'"x{longest[1:]}', **modified})) == OLD
