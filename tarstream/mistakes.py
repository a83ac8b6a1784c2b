"""What is wrong with a configuration, in one line for those who wrote it."""

import os
from pathlib import Path
from typing import Any

from pydantic_core import ErrorDetails


def variable(section: str, key: str) -> str:
    """The environment variable of a setting."""
    return f"TARSTREAM_{section}__{key}".upper()


def line_of(path: Path, mistake: ErrorDetails) -> str:
    """One mistake: where it stands, and what it must be instead."""
    section, *rest = (
        text if (text := str(part)).isprintable() else repr(text) for part in mistake["loc"]
    )
    kind = rest.pop(0) if section == "catalog" and rest else ""  # which it was taken for
    key = rest.pop(0) if rest else "kind" if mistake["type"].startswith("union_tag") else ""
    what = _what(mistake)
    if not key and mistake["type"] == "extra_forbidden":
        what = "is not a section"
    inside = "".join(f"[{part}]" if part.isdecimal() else f".{part}" for part in rest)
    if variable(section, key) in map(str.upper, os.environ):
        return f"{variable(section, key)}{inside}: {what}"
    if kind and mistake["type"] == "extra_forbidden":
        what += f" of kind {kind!r}"
    return f"{path}: {f'[{section}] {key}{inside}'.rstrip()}: {what}"


_WHAT = {
    "missing": "is required",
    "extra_forbidden": "is not a setting",
    "model_type": "must be a section",
    "model_attributes_type": "must be a section",
    "greater_than_equal": "must be at least {ge:g}",
    "greater_than": "must be more than {gt:g}",
    "less_than_equal": "must be at most {le}",
    "too_short": "must not be empty",
    "string_too_short": "must not be empty",
    "union_tag_not_found": "is required",
    "union_tag_invalid": "must be one of {expected_tags}",
    "literal_error": "must be {expected}",
    "value_error": "{error}",
    "finite_number": "must be a finite number",
    "byte_size": "must be a number of bytes, like '4 MiB'",
    "byte_size_unit": "has an unknown unit {unit!r}; write it like '4 MiB'",
    "string_type": "must be a string",
    "path_type": "must be a path",
    "int": "must be a whole number",
    "float": "must be a number",
    "bool": "must be true or false",
}
"""What the library's types of mistakes say to operators."""


def _what(mistake: ErrorDetails) -> str:
    context: dict[str, Any] = mistake.get("ctx", {})
    kind = mistake["type"]
    said = _WHAT.get(kind) or _WHAT.get(kind.partition("_")[0])
    return mistake["msg"] if said is None else said.format(**context)
