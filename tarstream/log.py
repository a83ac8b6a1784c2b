"""What operators read: one line an event, as text or as JSON.

An event's fields stand in the record's `fields`. Nothing that a client, a catalog or an origin
wrote can forge a line or reach the terminal, for it is escaped; nor fill the disk, for it is cut.
"""

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import Any, Literal

_BARE = re.compile(r"[A-Za-z0-9_./:,@*+%-]+")
_LONGEST = 1000  # characters of a text: an id may have the length of a request's body


def set_up(format_: Literal["text", "json"], level: str) -> None:
    """Log to standard error; to be called once, by whoever runs the process."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if format_ == "json" else TextFormatter())
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)


def add_fields(**fields: object) -> None:
    """Let every line from here on have these as well; to be called after `set_up`."""

    def extended(record: logging.LogRecord) -> bool:
        record.fields = getattr(record, "fields", {}) | fields
        return True

    for handler in logging.getLogger().handlers:
        handler.addFilter(extended)


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Time, level, message, then the event's fields."""
        event = {"time": _time(record), "level": record.levelname.lower()}
        event |= {"message": record.getMessage()} | _fields(record)
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        return json.dumps(event, default=str)


class TextFormatter(logging.Formatter):
    """Time, level, message, then `key=value`s."""

    def format(self, record: logging.LogRecord) -> str:
        """One line; a traceback follows, indented, only where the program itself failed."""
        parts = [_time(record), record.levelname.lower(), _escaped(record.getMessage())]
        parts += [f"{key}={_value(value)}" for key, value in _fields(record).items()]
        lines = [" ".join(parts)]
        if record.exc_info:
            traceback = self.formatException(record.exc_info).split("\n")
            lines += [f"  {_escaped(line)}" for line in traceback]
        return "\n".join(lines)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {key: _cut(value) for key, value in getattr(record, "fields", {}).items()}


def _cut(value: object) -> object:
    if isinstance(value, list):
        return [_cut(each) for each in value]
    if isinstance(value, str) and len(value) > _LONGEST:
        return value[:_LONGEST] + "…"
    return value


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _value(value: object) -> str:
    text = str(value)
    return text if _BARE.fullmatch(text) else json.dumps(text)


def _escaped(text: str) -> str:
    return text if text.isprintable() else json.dumps(text)[1:-1]
