"""Falcon: `gunicorn --threads 8 falcon_app:app`; `curl -C - -O localhost:8000/archive.tar`."""

import asyncio

import falcon
from files import members

from tarstream import Archive
from tarstream.errors import TarstreamError


class Archives:
    """HEAD, conditions and Range come with it."""

    def on_get(self, request: falcon.Request, response: falcon.Response) -> None:
        """Send all of it, or the part that is asked for."""
        archive = asyncio.run(Archive.plan(members()))
        answer = archive.headers(request.method, request.headers, name="holiday")
        chunks = archive.iterate(answer.start, answer.stop)
        chunks.ready()  # an origin that is down is a 502, and not a download that breaks off
        response.status = answer.status
        response.set_headers(answer.headers)
        response.stream = chunks

    on_head = on_get


def refused(
    request: falcon.Request,
    response: falcon.Response,
    error: TarstreamError,
    parameters: object,
) -> None:
    """What an application may tell its users: no URL stands in it."""
    response.status = error.status
    response.content_type = falcon.MEDIA_TEXT
    response.text = error.detail + "\n"


app = falcon.App()
app.add_route("/archive.tar", Archives())
app.add_error_handler(TarstreamError, refused)
