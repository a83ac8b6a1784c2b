"""What a gateway says when it is asked for what it refuses, and for all that it tells."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping

from campaign import oracle
from campaign.canaries import BEARER, CANARY, QUERY, TOKEN, USERINFO, signed

HONEST = "knock/honest"


def entries(root: str) -> Iterator[Mapping[str, str]]:
    """Members for `knock`: one that lies at the origin, and some that nobody may fetch."""
    host = root.removeprefix("http://")
    yield {"id": HONEST, "url": f"{root}/{HONEST}?{QUERY}", "name": "honest"}
    yield {"id": "knock/userinfo", "url": f"http://{USERINFO}@{host}/{HONEST}", "name": "a"}
    yield {"id": "knock/elsewhere", "url": f"http://192.0.2.1/?{QUERY}", "name": "b"}
    yield {"id": "knock/file", "url": f"file:///{CANARY}", "name": "c"}
    yield {"id": "knock/gone", "url": f"{root}/knock/gone?{QUERY}", "name": "d"}


async def knock(port: int) -> list[str]:
    """Ask a gateway for what it refuses, and for all that it tells; what is wrong with it."""
    mine, honest = (BEARER,), f"/archive?ids={HONEST}"
    wrong_token = f"Authorization: Bearer {TOKEN}-wrong"
    wrong_sig = re.sub("sig=.", "sig=!", signed(honest))
    other_sig = signed(honest).replace(HONEST, "knock/gone")
    asked = [
        ("GET", honest, (), 401),
        ("GET", honest, (wrong_token,), 401),
        ("GET", wrong_sig, (), 403),
        ("GET", other_sig, (), 403),
        ("POST", signed("/archive"), (), 401),
        ("GET", "/archive?ids=knock/userinfo,knock/elsewhere,knock/file", mine, 403),
        ("GET", "/plan?ids=knock/userinfo", mine, 403),
        ("GET", "/archive?ids=knock/gone", mine, 502),
        ("GET", "/archive?ids=knock/nobody", mine, 404),
        ("GET", f"{honest}&version=other", mine, 409),
        ("GET", "/archive", mine, 400),
        ("GET", honest, (*mine, "Range: bytes=9999999-"), 416),
        ("GET", honest, (*mine, 'If-Match: "other"'), 412),
        ("DELETE", honest, mine, 405),
        ("GET", honest, mine, 200),
        ("GET", signed(honest), (), 200),
        ("HEAD", honest, mine, 200),
        ("GET", honest.replace("archive", "plan"), mine, 200),
        ("GET", f"{honest.replace('archive', 'plan')}&missing=skip&ids=knock/gone", mine, 200),
        ("GET", "/metrics", mine, 200),
        ("GET", "/metrics", (), 401),
        ("GET", "/openapi.json", mine, 200),
    ]
    found = []
    for method, path, headers, expected in asked:
        status, fields, body = await oracle.get(port, path, method, headers)
        if expected not in {status, None}:
            found.append(f"{method} {path}: {status} instead of {expected}")
        if CANARY in json.dumps(fields) or CANARY.encode() in body:
            found.append(f"secret: {method} {path} {headers} is answered with one: {body[:300]!r}")
    return found
