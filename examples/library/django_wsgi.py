"""Django: `gunicorn --threads 8 django_wsgi:app`; `curl -C - -O localhost:8000/archive.tar`."""

import asyncio

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.urls import path
from django.views.decorators.http import require_safe
from files import members

from tarstream import Archive
from tarstream.errors import TarstreamError


@require_safe
def archive(request: HttpRequest) -> HttpResponseBase:
    """HEAD, conditions and Range come with it."""
    try:
        archive = asyncio.run(Archive.plan(members()))
        answer = archive.headers(request.method, request.headers, name="holiday")
        chunks = archive.iterate(answer.start, answer.stop)
        chunks.ready()  # an origin that is down is a 502, and not a download that breaks off
    except TarstreamError as error:  # no URL stands in it
        return HttpResponse(error.detail + "\n", status=error.status, content_type="text/plain")
    return StreamingHttpResponse(chunks, status=answer.status, headers=answer.headers)


urlpatterns = [path("archive.tar", archive)]

settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["localhost", "127.0.0.1"])
app = get_wsgi_application()
