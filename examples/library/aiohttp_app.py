"""aiohttp: `python aiohttp_app.py 8000`; `curl -C - -O localhost:8000/archive.tar`."""

import sys
from collections.abc import AsyncIterator

from aiohttp import web
from files import members

from tarstream import Archive, Origins
from tarstream.errors import TarstreamError

ORIGINS = web.AppKey("origins", Origins)


async def archive(request: web.Request) -> web.StreamResponse:
    """HEAD, conditions and Range come with it."""
    try:
        archive = await Archive.plan(members(), origins=request.app[ORIGINS])
        answer = archive.headers(request.method, request.headers, name="holiday")
        stream = archive.stream(answer.start, answer.stop)
        await stream.ready()  # an origin that is down is a 502, not a download that breaks off
    except TarstreamError as error:  # no URL stands in it
        return web.Response(text=error.detail + "\n", status=error.status)
    async with stream:
        response = web.StreamResponse(status=answer.status, headers=answer.headers)
        await response.prepare(request)
        async for chunk in stream:
            await response.write(chunk)
    return response


async def connected(app: web.Application) -> AsyncIterator[None]:
    """Keep connections to origins open from one archive to the next."""
    async with Origins() as app[ORIGINS]:
        yield


app = web.Application()
app.cleanup_ctx.append(connected)
app.router.add_get("/archive.tar", archive)

if __name__ == "__main__":
    # So that an archive ends when its client leaves, and not when it is noticed by writing.
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), handler_cancellation=True)
