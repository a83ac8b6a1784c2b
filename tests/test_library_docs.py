"""docs/library.md: what it shows is what happens, and it names all that is public."""

import doctest
import inspect
import io
import re
import tarfile
from types import SimpleNamespace

from django.conf import settings
from django.test import RequestFactory
from gateway import ROOT
from made import Made
from origin import Origin

from tarstream import Archive, Member, Origins, errors
from tarstream.blocking import BlockingStream
from tarstream.compress import Levels
from tarstream.formats import KINDS
from tarstream.library import Answer
from tarstream.stream import Stream

DOCUMENT = ROOT / "docs" / "library.md"
TEXT = DOCUMENT.read_text()


def test_what_it_shows_is_what_happens():
    with Origin().in_thread() as origin:
        origin.add("/notes.txt", b"sun, sea\n")
        origin.add("/film.bin", Made(100_000))
        failed, tried = doctest.testfile(
            str(DOCUMENT), module_relative=False, globs={"files": origin.root}
        )
    assert tried > 10
    assert not failed


def test_the_view_that_it_begins_with_is_one():
    """As it stands there: whole, in part, and an origin that lacks a film."""
    if not settings.configured:
        settings.configure()
    view = re.search(r"```python\n(import asyncio\n.*?)```", TEXT, re.DOTALL)[1]
    with Origin().in_thread() as origin:
        film = SimpleNamespace(title="Sun & sea", url=origin.add("/1.mp4", Made(100_000)))
        objects = SimpleNamespace(filter=lambda owner: [film])
        names = {"Film": SimpleNamespace(objects=objects)}
        exec(compile(view, str(DOCUMENT), "exec"), names)

        def get(**headers):
            request = RequestFactory().get("/download", headers=headers)
            request.user = None
            return names["download"](request)

        whole = get()
        body = b"".join(whole)
        assert (whole.status_code, whole["Content-Length"]) == (200, str(len(body)))
        with tarfile.open(fileobj=io.BytesIO(body)) as archive:
            assert archive.getnames() == ["films/Sun & sea.mp4"]
        part = get(range="bytes=60000-")
        assert (part.status_code, b"".join(part)) == (206, body[60_000:])
        origin.objects.clear()
        gone = get()
        assert gone.status_code == 502
        assert gone.content == b"'films/Sun & sea.mp4' cannot be had: its origin answers 404"


def test_it_names_every_parameter_and_attribute():
    for thing in (Archive, Archive.plan, Archive.headers, Member, Origins):
        for name in set(inspect.signature(thing).parameters) - {"self"}:
            assert f"`{name}`" in TEXT or f"{name}=" in TEXT or f"{name}," in TEXT, name
    for thing in (Archive, Stream, BlockingStream, Answer):
        for name in {*vars(thing), *getattr(thing, "_fields", ())}:
            if not name.startswith("_"):
                assert re.search(rf"`(await )?{name}\b|Archive\.{name}", TEXT), name


def test_it_names_every_format_level_and_error():
    for name, kind in KINDS.items():
        assert f"`{name}`" in TEXT
        assert f"`{kind.media_type}`" in TEXT
    assert "{} and {} where it is not given".format(*Levels()) in TEXT
    origins = [errors.OriginError, *errors.OriginError.__subclasses__(), errors.OriginTimeout]
    for error in (errors.Forbidden, errors.TooLarge, *origins):
        assert f"| `{error.__name__}` | {error.status} |" in TEXT


def test_it_states_the_defaults():
    for name, parameter in inspect.signature(Origins).parameters.items():
        if isinstance(parameter.default, int | float):
            row = next(
                line for line in TEXT.splitlines() if line.startswith("|") and f"`{name}`" in line
            )
            stated = row.split("|")[2]
            mebibytes = f"{parameter.default // 2**20} MiB"
            assert (
                f"{parameter.default:g}" in stated.replace(",", " ").split() or mebibytes in stated
            )


def test_every_example_is_named():
    for path in (ROOT / "examples" / "library").glob("*_*.py"):
        assert f"(../examples/library/{path.name})" in TEXT
