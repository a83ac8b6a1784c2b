"""zipstream-ng behind aiohttp: the size stated, the iterator of its README run in threads.

python zipstream_ng.py PORT MANIFEST

Its iterables are synchronous, and so is the client that reads members: urllib3, which takes less
CPU than requests. An event loop of uvloop, as the gateway has.
"""

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import urllib3
import uvloop
from aiohttp import web
from zipstream import ZipStream

CHUNK = 64 * 1024

MEMBERS = json.loads(Path(sys.argv[2]).read_text())
POOL = urllib3.PoolManager(maxsize=100)


def content(url: str) -> Iterator[bytes]:
    """A member from its origin, as it is asked for."""
    response = POOL.request("GET", url, preload_content=False)
    if response.status != 200:
        raise RuntimeError(f"{url}: {response.status}")
    yield from response.stream(CHUNK)
    response.release_conn()


async def archive(request: web.Request) -> web.StreamResponse:
    """All members as a zip."""
    packed = ZipStream(sized=True)
    for member in MEMBERS:
        packed.add(content(member["url"]), member["name"], size=member["size"])
    response = web.StreamResponse(
        headers={"Content-Type": "application/zip", "Content-Length": str(len(packed))}
    )
    await response.prepare(request)
    loop, parts = asyncio.get_running_loop(), iter(packed)
    while (part := await loop.run_in_executor(None, next, parts, None)) is not None:
        await response.write(part)
    return response


if __name__ == "__main__":
    app = web.Application()
    app.router.add_get("/zip", archive)
    web.run_app(
        app, host="127.0.0.1", port=int(sys.argv[1]), access_log=None, loop=uvloop.new_event_loop()
    )
