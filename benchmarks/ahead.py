"""How long 200 small members take from an origin that is 20 ms away, one by one and ahead.

.venv/bin/python benchmarks/ahead.py
"""

import asyncio
import time

import aiohttp
from aiohttp import web

from tarstream.app import Gateway, runner_of
from tarstream.catalogs.template import TemplateCatalog, TemplateSettings
from tarstream.config import Settings, Upstream

MEMBERS = 200
DISTANCE = 0.02  # seconds until an answer begins


async def _serve(request: web.Request) -> web.Response:
    await asyncio.sleep(DISTANCE)
    return web.Response(text=request.path * 100, headers={"ETag": '"1"'})


async def _listen(runner: web.AppRunner) -> str:
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return f"http://127.0.0.1:{runner.addresses[0][1]}"


async def _seconds(origin: str, ahead: int) -> float:
    """The time of a whole download; what the archive holds is known before it begins."""
    catalog = TemplateSettings(kind="template", url=f"{origin}/{{id}}")
    settings = Settings(catalog=catalog, upstream=Upstream(allow=(origin,), ahead=ahead))
    runner = runner_of(Gateway(settings, TemplateCatalog(catalog)))
    url = await _listen(runner) + "/archive?ids=" + ",".join(map(str, range(MEMBERS)))
    async with aiohttp.ClientSession() as session:
        async with session.head(url) as answer:
            size = int(answer.headers["Content-Length"])
        began = time.perf_counter()
        async with session.get(url) as answer:
            got = len(await answer.read())
        seconds = time.perf_counter() - began
    await runner.cleanup()
    if got != size:
        raise RuntimeError(f"{got} bytes of {size}")
    return seconds


async def _main() -> None:
    app = web.Application()
    app.router.add_get("/{path}", _serve)
    runner = web.AppRunner(app, access_log=None)
    origin = await _listen(runner)
    one_by_one = await _seconds(origin, 0)
    for ahead in (0, 8, 32):
        seconds = await _seconds(origin, ahead)
        print(f"ahead = {ahead:2}: {seconds:5.2f} s, {one_by_one / seconds:4.1f} times as fast")
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(_main())
