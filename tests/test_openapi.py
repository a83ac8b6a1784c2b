"""The OpenAPI document: all that it says is so, and nothing is that it does not say."""

import dataclasses
import json
import re
import time
from itertools import product
from urllib.parse import urlencode

import faults
import pytest
from answer import Object
from documented import ask, judge
from openapi_spec_validator import validate
from origin import Origin

from tarstream import auth, errors, openapi
from tarstream.app import Gateway
from tarstream.catalogs.template import TemplateCatalog, TemplateSettings
from tarstream.config import Settings
from tarstream.formats import KINDS as ALL_KINDS
from tarstream.query import MAX_URL, ArchiveRequest, read_request
from tarstream.request import MAX_BODY
from tarstream.signing import sign

CANARY = "canary-5ecret-0f-tests"
BEARER = {"Authorization": f"Bearer {CANARY}"}
KINDS = {
    "none": {"kind": "none"},
    "bearer": {"kind": "bearer", "tokens": [CANARY]},
    "signed": {"kind": "signed", "keys": [f"k1 {CANARY}"]},
    "either": {"kind": "either", "tokens": [CANARY], "keys": [f"k1 {CANARY}"]},
}
JSON = "application/json"
FORM = "application/x-www-form-urlencoded"


def application():
    catalog = {"kind": "template", "url": "https://files.example.com/{id}"}
    settings = Settings(catalog=catalog, upstream={"allow": ("https://files.example.com",)})
    return Gateway(settings, TemplateCatalog(TemplateSettings(**catalog))).application()


ROUTES = sorted(
    (resource.canonical, route.method)
    for resource in application().router.resources()
    for route in resource
)


def document(kind="either", base_path=""):
    routes = [(method, path) for path, method in ROUTES]
    return openapi.document(routes, base_path=base_path, auth=kind)


FULL = document()
"""Of a gateway that wants to know who asks, in either way: nobody has more to say."""

STATUSES = [
    (path, method.upper(), int(status))
    for path, operations in FULL["paths"].items()
    for method, operation in operations.items()
    for status in operation["responses"]
]


def errors_of(root):
    return {root}.union(*(errors_of(error) for error in root.__subclasses__()))


def components(name):
    return FULL["components"][name]


# The document


@pytest.mark.parametrize(("kind", "base_path"), [*product(KINDS, ["", "/files"])])
def test_it_is_an_openapi_document(kind, base_path):
    validate(json.loads(json.dumps(document(kind, base_path))))


def test_it_has_every_route_of_the_application_and_no_other():
    said = {(path, method.upper()) for path, of in FULL["paths"].items() for method in of}
    assert said == set(ROUTES)
    # Metrics may have a port of their own.
    assert openapi._ANSWERS.keys() - {path for path, _ in ROUTES} <= {"/metrics"}


def test_a_route_that_it_does_not_know_is_not_passed_over():
    with pytest.raises(KeyError):
        openapi.document([("GET", "/nosuch")], base_path="", auth="none")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_gateway_serves_its_own(origin, start, kind):
    server = {"base_path": "/files"}
    gateway = await start(origin, auth=KINDS[kind], server=server)
    target = "/openapi.json"
    if kind == "signed":
        target = signed("/files" + target).removeprefix("/files")
    answer = await ask(gateway.port, "GET", target, **BEARER)
    assert answer.status == 200
    said = json.loads(answer.body)
    assert said == json.loads(json.dumps(document(kind, "/files")))
    assert said["servers"] == [{"url": "/files"}]
    assert CANARY.encode() not in answer.body
    judge(said, "/openapi.json", answer)
    assert origin.requests == []


def test_it_does_not_tell_which_version_runs():
    assert FULL["info"]["version"] == openapi.VERSION == "1"


# What it takes from where it is in force


def test_its_parameters_are_those_of_a_request():
    names = {field.name for field in dataclasses.fields(ArchiveRequest)} | {"id"}
    assert {name for name, it in components("parameters").items() if it["in"] == "query"} == names
    for content in components("requestBodies")["Asked"]["content"].values():
        assert set(content["schema"]["properties"]) == names


def test_its_defaults_are_those_of_a_request():
    request = read_request([("ids", "a")])
    for name, parameter in components("parameters").items():
        if parameter["in"] == "query" and name not in {"ids", "id"}:
            assert getattr(request, name) == parameter["schema"].get("default")


def test_each_value_that_it_lists_is_taken():
    for name, parameter in components("parameters").items():
        for value in parameter["schema"].get("enum", []):
            assert getattr(read_request([("ids", "a"), (name, value)]), name) == value


def test_its_formats_are_those_there_are():
    assert components("parameters")["format"]["schema"]["enum"] == list(ALL_KINDS)
    assert components("schemas")["Plan"]["properties"]["format"]["enum"] == list(ALL_KINDS)
    content = FULL["paths"]["/archive"]["get"]["responses"]["200"]["content"]
    assert set(content) == {kind.media_type for kind in ALL_KINDS.values()}


def test_its_refusals_are_those_that_there_are():
    """Each error that a client may be told has its status there, and a word on it."""
    told = {error.status for error in errors_of(errors.TarstreamError) if error.status != 500}
    assert set(components("responses")) == {str(status) for status in {*told, 412, 416}}
    for error in errors_of(errors.TarstreamError) - {errors.TarstreamError}:
        assert set(error.__mro__) & set(openapi._REFUSALS)
    assert {auth.Unauthorized, auth.NotAllowed} <= set(openapi._REFUSALS)


def test_its_limits_are_those_in_force():
    assert str(MAX_BODY) in components("requestBodies")["Asked"]["description"]
    assert str(MAX_BODY) in components("responses")["413"]["description"]
    assert components("schemas")["Plan"]["properties"]["url"]["maxLength"] == MAX_URL


def test_its_kinds_of_auth_are_those_there_are():
    kinds = auth.Auth.model_fields["kind"].annotation.__args__
    assert set(openapi._REQUIRED) == set(kinds) == set(KINDS)


# Answers


def signed(target, exp=None):
    return sign(target, "k1", CANARY.encode(), exp or int(time.time()) + 3600)


@pytest.fixture
async def ready(origin, start):
    """Starts a gateway that can be brought to say anything."""
    entries = [
        {"id": "a", "url": origin.add("/a", b"hello")},
        {"id": "down", "url": origin.add("/down", b"hello", faults.status(500))},
        {"id": "slow", "url": origin.add("/slow", b"hello", faults.late())},
        {"id": "forbidden", "url": "http://files.example.com/a", "size": 5},
        {"id": "big", "url": origin.add("/big", b"hello"), "size": 10**9},
    ]

    async def ready(**sections):
        sections = {"auth": KINDS["either"], **sections}
        sections["limits"] = {"max_members": 3, "max_bytes": 10**6, **sections.get("limits", {})}
        return await start(origin, entries, **sections)

    return ready


ASKING = {"/archive", "/archive.{suffix}", "/plan"}

A = {"ids": ["a"]}

ASKED = {
    200: [
        (A, {}),
        ({"ids": ["a", "a"], "missing": "skip"}, {}),
        ({**A, "name": "é"}, {}),
        ({**A, "format": "tar"}, {}),
        ({**A, "checksums": "sha256"}, {}),
    ],
    206: [(A, {"Range": "bytes=0-0"}), (A, {"Range": "bytes=-1"})],
    304: [(A, {"If-None-Match": "*"})],
    400: [
        ({}, {}),
        ({**A, "format": "nosuch"}, {}),
        ({**A, "checksums": "md5"}, {}),
        ({"ids": [""]}, {}),
    ],
    401: [(A, {"Authorization": ""}), (A, {"Authorization": "Bearer nosuch"})],
    403: [({"ids": ["forbidden", "a"]}, {})],
    404: [({"ids": ["x", "a", "y"]}, {}), ({"ids": ["x"], "missing": "skip"}, {})],
    409: [({**A, "version": "x"}, {})],
    412: [(A, {"If-Match": '"x"'})],
    413: [({"ids": ["a"] * 4}, {}), ({"ids": ["big"]}, {})],
    416: [(A, {"Range": "bytes=99999999-"}), (A, {"Range": "bytes=rubbish"})],
    502: [({"ids": ["down"]}, {})],
    503: [(A, {})],
    504: [({"ids": ["slow"]}, {})],
}
"""What leads to a status: parameters and headers. Those of POST alone are written below."""


def query_of(parameters):
    parameters = {**parameters}
    return urlencode([("id", id_) for id_ in parameters.pop("ids", [])] + [*parameters.items()])


def concrete(path):
    return path.replace("{suffix}", "tar")


def requests(path, method, status):
    """Requests that have this status for an answer: target, body and headers."""
    template, path = path, concrete(path)
    if template not in ASKING:
        if status == 403:
            yield f"{path}?exp=1&key=k1&sig={'0' * 64}", None, {}
        else:
            yield path, None, BEARER if status != 401 else {}
    elif method == "POST" and status == 408:
        yield path, b"{", {**BEARER, "Content-Type": JSON, "Content-Length": "100"}
    elif method == "POST" and status == 415:
        yield path, b"{}", {**BEARER, "Content-Type": "text/plain"}
        yield path, b"{}", {**BEARER, "Content-Type": JSON, "Content-Encoding": "gzip"}
    else:
        if status == 403 and method != "POST":
            yield f"{path}?ids=a&exp=1&key=k1&sig={'0' * 64}", None, {}
        if status == 413 and method == "POST":
            yield path, b"", {**BEARER, "Content-Type": JSON, "Content-Length": str(MAX_BODY + 1)}
        for parameters, headers in ASKED[status]:
            query = query_of(parameters)
            if method == "POST":
                for kind, body in ((JSON, json.dumps(parameters)), (FORM, query)):
                    yield path, body.encode(), {**BEARER, "Content-Type": kind, **headers}
            else:
                yield f"{path}?{query}", None, {**BEARER, **headers}
            if path == "/plan" and status == 200 and method != "POST":
                lines = {"Accept": "application/x-ndjson"}
                yield f"{path}?{query}", None, {**BEARER, **headers, **lines}


@pytest.mark.parametrize(("path", "method", "status"), STATUSES)
async def test_every_status_that_it_lists_is_met_and_looks_like_that(ready, path, method, status):
    sections = {
        408: {"limits": {"stall_timeout": 0.3}},
        502: {"upstream": {"attempts": 1}},
        504: {"upstream": {"attempts": 1, "read_timeout": 0.3}},
    }
    gateway = await ready(**sections.get(status, {}))
    if status == 503:
        await gateway.gateway.drain()
    asked = list(requests(path, method, status))
    assert asked
    for target, body, headers in asked:
        answer = await ask(gateway.port, method, target, body, **headers)
        assert answer.status == status
        judge(FULL, path, answer)


@pytest.mark.parametrize(("path", "method"), [route for route in ROUTES if route[0] in ASKING])
async def test_whatever_is_asked_of_a_route_it_lists_the_answer(ready, path, method):
    """What leads to a status somewhere leads to one that is listed everywhere."""
    gateway = await ready(upstream={"attempts": 1, "read_timeout": 0.3})
    for status in ASKED:
        for target, body, headers in requests(path, method, status):
            judge(FULL, path, await ask(gateway.port, method, target, body, **headers))


@pytest.mark.parametrize("path", FULL["paths"])
@pytest.mark.parametrize("method", ["DELETE", "PUT", "PATCH", "OPTIONS", "POST", "PROPFIND"])
async def test_a_method_that_it_does_not_list_is_405(ready, path, method):
    if method.lower() not in FULL["paths"][path]:
        gateway = await ready()
        judge(FULL, path, await ask(gateway.port, method, concrete(path), **BEARER))


PLANS = {
    "renamed and missing": ("ids=up/../a,a,a,nobody&missing=skip", {}),
    "nothing of note": ("ids=a", {}),
    "weak": ("ids=a,weak", {}),
    "compressed": ("ids=a&format=tar.zst", {}),
    "checksums": ("ids=a,nobody,SHA256SUMS&missing=skip&checksums=sha256", {}),
    "no remote files": ("ids=text,dir,all", {}),
    "no validator": ("ids=a,plain", {}),
    "no url": ("&".join(f"id={'a' * 250}{n}" for n in range(120)) + "&id=a", {"missing": "skip"}),
}


@pytest.mark.parametrize("case", PLANS)
@pytest.mark.parametrize("accept", [JSON, "application/x-ndjson"])
async def test_every_plan_looks_like_that(origin, start, case, accept):
    query, more = PLANS[case]
    entries = [
        {"id": "a", "url": origin.add("/a", b"hello")},
        {"id": "up/../a", "url": origin.add("/b", b""), "name": "up/../a"},
        {"id": "SHA256SUMS", "url": origin.add("/SHA256SUMS", b"")},
        {"id": "text", "text": "hello", "name": "text"},
        {"id": "dir", "name": "dir/"},
        {"id": "all", "members": [{"text": "x", "name": "x"}, {"name": "y/"}], "prefix": "p"},
        {"id": "weak", "url": origin.add("/weak", Object(b"x", 'W/"x"', None))},
        {"id": "plain", "url": origin.add("/plain", Object(b"x", None, None))},
    ]
    gateway = await start(origin, entries)
    query += "".join(f"&{name}={value}" for name, value in more.items())
    for method in ("GET", "HEAD"):
        answer = await ask(gateway.port, method, f"/plan?{query}", Accept=accept)
        assert answer.status == 200
        assert answer.headers.get_content_type() == accept
        judge(document("none"), "/plan", answer)


@pytest.mark.parametrize("kind", ALL_KINDS)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_an_archive_of_every_kind_looks_like_that(origin, start, kind, method):
    gateway = await start(origin, [{"id": "a", "url": origin.add("/a", b"hello")}])
    for path, target in (
        ("/archive", f"/archive?ids=a&format={kind}"),
        ("/archive.{suffix}", f"/archive.{kind}?ids=a"),
    ):
        answer = await ask(gateway.port, method, target)
        assert answer.status == 200
        assert answer.headers.get_content_type() == ALL_KINDS[kind].media_type
        judge(document("none"), path, answer)


# Who may ask


def lets_in(requirement, path):
    """A target and headers that are what a security requirement wants."""
    if "bearer" in requirement:
        return path, BEARER
    assert set(requirement) == {"exp", "key", "sig"}
    target = signed(path)
    assert re.search(r"[?&]exp=\d+&key=k1&sig=[0-9a-f]+$", target)
    return target, {}


@pytest.mark.parametrize("kind", KINDS)
async def test_who_has_what_it_asks_for_is_let_in_and_nobody_else(ready, kind):
    gateway = await ready(auth=KINDS[kind])
    said = document(kind)
    schemes = said["components"]["securitySchemes"]
    for path, method in ROUTES:
        operation = said["paths"][path][method.lower()]
        target = f"{concrete(path)}?ids=a" if path in ASKING else path
        post = (b"{}", {"Content-Type": JSON}) if method == "POST" else (None, {})
        answer = await ask(gateway.port, method, target, post[0], **post[1])
        judge(said, path, answer)
        if not operation["security"]:
            assert answer.status == 200
            continue
        assert answer.status == (403 if (kind, method) == ("signed", "POST") else 401)
        for requirement in operation["security"]:
            assert requirement.keys() <= schemes.keys()
            target_, headers = lets_in(requirement, target)
            answer = await ask(gateway.port, method, target_, post[0], **post[1], **headers)
            judge(said, path, answer)
            assert answer.status == (403 if (kind, method) == ("signed", "POST") else 200)


async def test_only_health_is_open_to_all_where_auth_says_who_may_ask():
    said = document("either")["paths"]
    opened = {path for path, of in said.items() if any(not o["security"] for o in of.values())}
    assert opened == {"/healthz", "/readyz"}


async def test_no_origin_is_asked_for_it(ready, origin: Origin):
    gateway = await ready()
    await ask(gateway.port, "GET", "/openapi.json", **BEARER)
    assert origin.requests == []
