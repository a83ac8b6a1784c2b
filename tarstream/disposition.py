"""What a download is called: Content-Disposition (RFC 6266, 8187). Pure."""

from urllib.parse import quote

from tarstream.names import segment

_MAX_NAME = 255 - len(" (1).crdownload")
"""Bytes: what file systems take, less what Chromium adds while it saves; it gives up otherwise."""


def file_name(name: str, suffix: str) -> str:
    """The name of a download with its suffix, short enough to be saved."""
    # Of UTF-8 that was cut, only the last code point can be incomplete.
    stem = name.encode()[: _MAX_NAME - len(suffix) - 1].decode(errors="ignore")
    return segment(f"{stem}.{suffix}")


def content_disposition(name: str) -> str:
    """`attachment` with a name for everybody: ASCII, and UTF-8 for who reads it (RFC 6266, 8187).

    `name` has no control characters. Quotes, backslashes and percent signs are read differently
    by different browsers, and some clients split at semicolons whatever is quoted, so the ASCII
    name does without.
    """
    plain = "".join(c if " " <= c <= "~" and c not in '"\\%;' else "_" for c in name)
    # attr-char = ALPHA / DIGIT / "!" / "#" / "$" / "&" / "+" / "-" / "." / "^" / "_" / …
    encoded = quote(name, safe="!#$&+^`|~")
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{encoded}"
