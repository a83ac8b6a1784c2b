"""Refusals as clients and operators see them: problem details (RFC 9457), and a line in the log."""

import json
import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import NamedTuple

from tarstream.catalogs.base import Caller
from tarstream.errors import Refusal

logger = logging.getLogger(__name__)

_LOGGED_IDS = 10  # ids that a log line names


class Problem(NamedTuple):
    """An answer that says what is wrong."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def problem(
    status: int,
    detail: str,
    caller: Caller,
    headers: Mapping[str, str] | None = None,
    refusals: Sequence[Refusal] = (),
) -> Problem:
    """Say what is wrong; logged, because it is the end of the request."""
    body = {
        "type": "about:blank",  # the status says it all (RFC 9457 4.2.1)
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "request_id": caller.request_id,
    }
    if refusals:
        body["ids"] = [{"id": refusal.id, "reason": refusal.reason} for refusal in refusals]
    fields = {
        "request_id": caller.request_id,
        "client": caller.address,
        "status": status,
        "detail": detail,
    }
    if refusals:
        fields["ids"] = [refusal.id for refusal in refusals[:_LOGGED_IDS]]
    text = json.dumps(body, ensure_ascii=False)
    if not text.isprintable():  # an id may move the cursor of a terminal: JSON escapes C0 only
        text = json.dumps(body)
    level = logging.WARNING if status >= 500 else logging.INFO
    logger.log(level, "refused", extra={"fields": fields})
    return Problem(
        status,
        {
            "Cache-Control": "no-store",
            "Content-Type": "application/problem+json",
            **(headers or {}),
        },
        text.encode(),
    )
