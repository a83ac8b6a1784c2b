"""Django: `uvicorn django_asgi:app`; `curl -C - -O localhost:8000/archive.tar`."""

from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.urls import path
from django.views.decorators.http import require_safe
from files import members

from tarstream import Archive
from tarstream.errors import TarstreamError


@require_safe
async def archive(request: HttpRequest) -> HttpResponseBase:
    """HEAD, conditions and Range come with it."""
    try:
        archive = await Archive.plan(members())
        answer = archive.headers(request.method, request.headers, name="holiday")
        stream = archive.stream(answer.start, answer.stop)
        await stream.ready()  # an origin that is down is a 502, not a download that breaks off
    except TarstreamError as error:  # no URL stands in it
        return HttpResponse(error.detail + "\n", status=error.status, content_type="text/plain")
    return StreamingHttpResponse(stream, status=answer.status, headers=answer.headers)


urlpatterns = [path("archive.tar", archive)]

settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["localhost", "127.0.0.1"])
app = get_asgi_application()
