"""Secrets that stand wherever a secret can stand, and must be found nowhere else.

Clients prove who they are by a token or by a signed URL, members lie at URLs with a secret in the
query, and each of these secrets has the canary in it: one search finds them all, in answers, logs
and metrics.
"""

from __future__ import annotations

import re

from tarstream.signing import sign

CANARY = "canary-5d1f"

TOKEN = f"{CANARY}-token-90e2a7c4"
KEY_ID, KEY = "campaign", f"{CANARY}-key-41b7f03d"
QUERY = f"key={CANARY}-query"
USERINFO = f"user:{CANARY}-password"
CREDENTIALS = (f"{CANARY}-credential-63d0", f"Bearer {CANARY}-credential-b81e")
"""Of the two origins: one is asked for by a header of its own and comes from the environment, the
other is Authorization and comes from a file."""

HEADERS = ("X-Origin-Key", "Authorization")

LATER = 4_000_000_000  # Unix seconds at which signed URLs expire

BEARER = f"Authorization: Bearer {TOKEN}"

ENVIRONMENT = {
    "TARSTREAM_AUTH__TOKENS": TOKEN,
    "TARSTREAM_AUTH__KEYS": f"{KEY_ID} {KEY}",
    "CAMPAIGN_CREDENTIAL": CREDENTIALS[0],
}

IN_A_LOG = re.compile(rf"{CANARY}|[?&]sig=")
"""A signature is as good as a token until it expires."""


def signed(path: str) -> str:
    """The path with a signature."""
    return sign(path, KEY_ID, KEY.encode(), LATER)
