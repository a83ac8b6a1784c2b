"""A sample origin: real HTTP on a loopback port of its own, to try the gateway with."""

import random
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import cache
from hashlib import sha256
from urllib.parse import quote

from aiohttp import web

_MODIFIED = format_datetime(datetime(2024, 5, 17, 9, 30, tzinfo=UTC), usegmt=True)


@cache
def files() -> Mapping[str, bytes]:
    """Path and contents. They exist from then on: the real server has no use for their memory."""
    clip = random.Random(1).randbytes(24 * 1024**2)  # nosec B311 # noqa: S311 - only has to be big
    rows = b"".join(b"%d,%d\n" % (n, n * n) for n in range(999))
    return {
        "README.txt": b"Three files from another server, in one tar that was never stored.\n",
        "photos/Zürich am See.txt": "Grüezi! A name with a space and an umlaut.\n".encode(),
        "データ/measurements.csv": b"second,value\n" + rows,
        "video/clip.bin": clip,
    }


class SampleOrigin:
    """Serves `files` with entity-tags and ranges, as any storage does."""

    async def start(self) -> str:
        """Listen on a free loopback port; the URL below which the files are."""
        app = web.Application()
        app.router.add_get("/{path:.+}", _serve)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        port = self._runner.addresses[0][1]
        return f"http://127.0.0.1:{port}"

    async def stop(self) -> None:
        """Stop listening."""
        await self._runner.cleanup()


def archive_path() -> str:
    """Path and query of an archive of all files."""
    return "/archive?ids=" + ",".join(quote(path, safe="/") for path in files())


async def _serve(request: web.Request) -> web.StreamResponse:
    data = files().get(request.match_info["path"])
    if data is None:
        raise web.HTTPNotFound
    etag = f'"{sha256(data).hexdigest()[:32]}"'
    headers = {"ETag": etag, "Last-Modified": _MODIFIED, "Accept-Ranges": "bytes"}
    if request.headers.get("If-Match", etag) != etag:
        raise web.HTTPPreconditionFailed
    asked = request.http_range
    if asked.start is None and asked.stop is None:
        return web.Response(body=data, headers=headers)
    start, stop, _ = asked.indices(len(data))
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
    return web.Response(status=206, body=data[start:stop], headers=headers)
