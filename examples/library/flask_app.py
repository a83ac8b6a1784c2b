"""Flask: `gunicorn --threads 8 flask_app:app`; `curl -C - -O localhost:8000/archive.tar`."""

import asyncio

from files import members
from flask import Flask, Response, request

from tarstream import Archive
from tarstream.errors import TarstreamError

app = Flask(__name__)


@app.get("/archive.tar")
def archive() -> Response:
    """HEAD, conditions and Range come with it."""
    archive = asyncio.run(Archive.plan(members()))
    answer = archive.headers(request.method, request.headers, name="holiday")
    chunks = archive.iterate(answer.start, answer.stop)
    chunks.ready()  # an origin that is down is a 502, and not a download that breaks off
    return Response(chunks, answer.status, answer.headers)


@app.errorhandler(TarstreamError)
def refused(error: TarstreamError) -> Response:
    """What an application may tell its users: no URL stands in it."""
    return Response(error.detail + "\n", error.status, mimetype="text/plain")
