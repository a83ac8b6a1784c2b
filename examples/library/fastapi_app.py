"""FastAPI, Starlette: `uvicorn fastapi_app:app`; `curl -C - -O localhost:8000/archive.tar`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse, Response, StreamingResponse
from files import members

from tarstream import Archive, Origins
from tarstream.errors import TarstreamError

origins = Origins()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Keep connections to origins open from one archive to the next."""
    async with origins:
        yield


app = FastAPI(lifespan=lifespan)


@app.api_route("/archive.tar", methods=["GET", "HEAD"])
async def archive(request: Request) -> Response:
    """HEAD, conditions and Range come with it."""
    archive = await Archive.plan(members(), origins=origins)
    answer = archive.headers(request.method, request.headers, name="holiday")
    stream = archive.stream(answer.start, answer.stop)
    await stream.ready()  # an origin that is down is a 502, and not a download that breaks off
    return StreamingResponse(stream, answer.status, answer.headers)


@app.exception_handler(TarstreamError)
async def refused(request: Request, error: TarstreamError) -> Response:
    """What an application may tell its users: no URL stands in it."""
    return PlainTextResponse(error.detail + "\n", error.status)
