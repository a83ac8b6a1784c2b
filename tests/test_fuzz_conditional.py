"""Range and conditions against RFC 9110, read a second time: octet by octet, without any regex.

Where the RFC leaves a choice the documents have made it (docs/http.md): several ranges are answered
with the whole, a malformed one with 416, and who sends If-Match with what is no tag meets 412.
"""

from hypothesis import example, given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict

from tarstream.conditional import select

FUZZ = settings(deadline=None, max_examples=300)  # however fast the machine is


class Malformed(Exception):
    """What the grammar does not derive."""


class Octets:
    """A value, read from the left."""

    def __init__(self, text):
        self.text = text
        self.place = 0

    def at_end(self):
        return self.place == len(self.text)

    def peek(self):
        return "" if self.at_end() else self.text[self.place]

    def take(self, wanted):
        if not self.text.startswith(wanted, self.place):
            raise Malformed
        self.place += len(wanted)

    def skip_blanks(self):
        """OWS = *( SP / HTAB ) (5.6.3)."""
        while self.peek() in (" ", "\t"):
            self.place += 1

    def digits(self):
        """*DIGIT, of ASCII (RFC 5234)."""
        found = ""
        while self.peek() and self.peek() in "0123456789":
            found += self.peek()
            self.place += 1
        return found

    def entity_tag(self):
        """entity-tag = [ weak ] opaque-tag (8.8.3), as whether it is weak, and its opaque-tag."""
        weak = self.text.startswith("W/", self.place)
        if weak:
            self.take("W/")
        start = self.place
        self.take('"')
        while self.peek() != '"':
            code = ord(self.peek() or "\0")
            if not (code == 0x21 or 0x23 <= code <= 0x7E or code >= 0x80):
                raise Malformed
            self.place += 1
        self.take('"')
        return weak, self.text[start : self.place]


def tags_of(value):
    """#entity-tag (13.1.1, 5.6.1.2): empty elements are passed over. Raises Malformed."""
    octets, tags = Octets(value), []
    while True:
        octets.skip_blanks()
        if octets.peek() not in (",", ""):
            tags.append(octets.entity_tag())
            octets.skip_blanks()
        if octets.at_end():
            return tags
        octets.take(",")


def range_of(value, size):
    """What Range asks for: None to be ignored, else start and stop. Raises Malformed."""
    octets = Octets(value)
    unit = ""
    while octets.peek() not in ("=", ""):
        unit += octets.peek()
        octets.place += 1
    if octets.at_end() or unit.lower() != "bytes":
        return None
    octets.take("=")
    elements = [piece.strip(" \t") for piece in value[octets.place :].split(",")]
    elements = [piece for piece in elements if piece]
    if len(elements) > 1:
        return None
    if not elements:
        raise Malformed
    octets = Octets(elements[0])
    first = octets.digits()
    octets.take("-")
    last = octets.digits()
    if not octets.at_end() or not (first or last):
        raise Malformed
    if not first:
        return max(size - number(last), 0), size
    if last and number(last) < number(first):
        raise Malformed
    return number(first), min(number(last) + 1, size) if last else size


def number(digits):
    """Of any length: int() refuses more than some thousand digits."""
    return sum(int(digit) * 10**place for place, digit in enumerate(reversed(digits)))


def expected(method, fields, etag, size):
    """RFC 9110 13.2.2, step by step; None where the RFC and the documents leave it open."""
    joined = {}
    for name, value in fields:
        joined[name] = f"{joined[name]}, {value}" if name in joined else value
    strong = None if etag is None or etag.startswith("W/") else etag
    if method == "POST":
        return 200, 0, size
    if "If-Match" in joined:
        value = joined["If-Match"].strip(" \t")
        try:
            fits = value == "*" or (False, strong) in tags_of(value)
        except Malformed:
            fits = False
        if not fits:
            return 412, 0, 0
    if "If-None-Match" in joined:
        value = joined["If-None-Match"].strip(" \t")
        try:
            opaque = None if etag is None else etag.removeprefix("W/")
            if value == "*" or opaque in [tag for _, tag in tags_of(value)]:
                return 304, 0, 0
        except Malformed:
            return None  # which of its elements are tags may be read in several ways
    if method == "HEAD" or "Range" not in joined or strong is None:
        return 200, 0, size
    if "If-Range" in joined and joined["If-Range"].strip(" \t") != strong:
        return 200, 0, size
    try:
        span = range_of(joined["Range"].strip(" \t"), size)
    except Malformed:
        return 416, 0, 0
    if span is None:
        return 200, 0, size
    return (206, *span) if span[0] < span[1] else (416, 0, 0)


E = '"0123abc"'
TAGS = st.sampled_from([E, f"W/{E}", '"other"', 'W/"other"', '""', '"a,b"', '"é"', '"\udce9"'])
GLUE = st.sampled_from([",", ", ", " , ", ",,", "\t,\t", ", ,", " ", "", '"', "W/", "w/", "*"])


@st.composite
def tag_lists(draw):
    """Lists that are mostly well-formed, some with one thing too much or too little."""
    comma = st.sampled_from([",", ", ", " , ", ",,", "\t,\t", ", ,"])
    out = draw(st.sampled_from(["", "", ",", " "]))
    for tag in draw(st.lists(TAGS, max_size=4)):
        out += tag + draw(comma if draw(st.integers(0, 9)) else GLUE)
    return out + draw(st.sampled_from(["", "", "", "*", '"', "x"]))


NUMBERS = st.integers(0, 45).map(str) | st.sampled_from(
    ["", "00", "007", "9" * 20, "9" * 5000, "0" * 5000 + "7", "٣", "²", "+1", "1_0", " 1", "0x1"]
)
SPECS = st.builds(
    "{}{}{}".format, NUMBERS, st.sampled_from(["-", "-", "-", "--", "", "–"]), NUMBERS
)
UNITS = st.sampled_from(
    ["bytes=", "bytes=", "Bytes=", "BYTES=", "bytes =", "bytes", "items=", "=", ""]
)
RANGES = st.builds(
    lambda unit, specs, comma: unit + comma.join(specs),
    UNITS,
    st.lists(SPECS, max_size=3) | SPECS.map(lambda spec: [spec]),
    st.sampled_from([",", ", ", ",,", " "]),
)
BLANKS = st.text(" \t", max_size=1)
VALUES = {
    "Range": RANGES,
    "If-Match": tag_lists() | st.just("*"),
    "If-None-Match": tag_lists() | st.just("*"),
    "If-Range": TAGS | tag_lists() | st.just("Sat, 29 Oct 1994 19:43:31 GMT"),
}
LINES = st.sampled_from([*VALUES, "Range"]).flatmap(
    lambda name: st.tuples(st.just(name), st.builds("{}{}{}".format, BLANKS, VALUES[name], BLANKS))
)
METHODS = st.sampled_from(["GET", "GET", "GET", "HEAD", "POST"])
ETAGS = st.sampled_from([E, E, E, f"W/{E}", None, '"a,b"', '"é"', '""'])
SIZES = st.integers(1, 40) | st.integers(1, 2**64)


@FUZZ
@given(METHODS, st.lists(LINES, max_size=4), ETAGS, SIZES)
@example("GET", [("Range", "bytes=0-"), ("Range", "")], E, 10)
@example("GET", [("Range", f"bytes=1-{'9' * 5000}")], E, 10)
@example("GET", [("Range", f"bytes={'0' * 5000}1-")], E, 10)
@example("GET", [("If-Match", f'{E}, "torn')], E, 10)
@example("GET", [("If-Range", f"W/{E}"), ("Range", "bytes=1-2")], E, 10)
@example("GET", [("If-Range", E), ("Range", "bytes=1-2")], E, 10)
def test_any_request_is_answered_as_the_rfc_says(method, lines, etag, size):
    wanted = expected(method, lines, etag, size)
    got = select(method, CIMultiDict(lines), etag, size)
    if wanted is not None:
        assert (got.status, got.start, got.stop) == wanted
    else:
        assert got.status in {200, 206, 304, 416}


@FUZZ
@given(LINES, ETAGS, SIZES)
def test_any_single_field_is_answered_as_the_rfc_says(line, etag, size):
    wanted = expected("GET", [line], etag, size)
    got = select("GET", CIMultiDict([line]), etag, size)
    if wanted is not None:
        assert (got.status, got.start, got.stop) == wanted


@FUZZ
@given(st.lists(LINES, max_size=4), SIZES)
def test_what_is_no_list_of_tags_is_never_a_reason_to_send_less(lines, size):
    """304 without any of our tag's text in it would be an archive that a client never had."""
    got = select("GET", CIMultiDict(lines), E, size)
    if got.status == 304:
        values = [value for name, value in lines if name == "If-None-Match"]
        assert any(E in value or value.strip(" \t") == "*" for value in values)
