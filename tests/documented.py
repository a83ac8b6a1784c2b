"""Holds answers to the OpenAPI document: what is not documented is wrong, and so is the reverse."""

import asyncio
import http.client
import io
import json
from contextlib import suppress
from dataclasses import dataclass

from jsonschema import Draft202012Validator

PROBLEM = "application/problem+json"

FRAMING = {"connection", "content-length", "content-type", "date", "server", "transfer-encoding"}
"""Headers that HTTP itself wants; a document does not list them."""


@dataclass
class Answer:
    """What came back to a request."""

    method: str
    status: int
    headers: http.client.HTTPMessage
    body: bytes


class _Received:
    """What `http.client` takes for a socket."""

    def __init__(self, data):
        self._data = data

    def makefile(self, _mode):
        return io.BytesIO(self._data)


def read_answer(method, data):
    """The only answer in what a server has sent."""
    response = http.client.HTTPResponse(_Received(data), method=method)
    response.begin()
    return Answer(method, response.status, response.headers, response.read())


async def ask(port, method, target, body=None, seconds=20, **headers):
    """Ask on a connection of its own, and wait for no more than the answer."""
    lines = [f"{method} {target} HTTP/1.1", "Host: test", "Connection: close"]
    if body is not None:
        headers.setdefault("Content-Length", len(body))
    lines += [f"{name}: {value}" for name, value in headers.items()]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write("\r\n".join([*lines, "", ""]).encode() + (body or b""))
        async with asyncio.timeout(seconds):
            data = await reader.readuntil(b"\r\n\r\n")
            while True:
                with suppress(http.client.IncompleteRead):
                    return read_answer(method, data)
                chunk = await reader.read(1 << 16)
                assert chunk, "the answer ends short"
                data += chunk
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


def judge(document, path, answer):
    """Fail unless the document says that this may be the answer of a route, down to each field."""
    operations = document["paths"][path]
    operation = operations.get(answer.method.lower())
    if operation is None:
        assert answer.status == 405
        allowed = {method.strip().lower() for method in answer.headers["Allow"].split(",")}
        assert allowed == set(operations)
        _judge_body(document, answer, "Problem")
        return
    response = _followed(document, operation["responses"][str(answer.status)])
    _judge_headers(document, answer, response["headers"])
    if answer.method == "HEAD" or answer.status == 304:
        assert answer.body == b""
        return
    media_type = answer.headers.get_content_type()
    schema = response["content"][media_type].get("schema", {})
    if media_type == "application/x-ndjson":
        assert answer.body.endswith(b"\n")
        for line in answer.body.splitlines():
            _validate(document, {"$ref": "#/components/schemas/Member"}, json.loads(line))
    elif media_type in {"application/json", PROBLEM}:
        _validate(document, schema, json.loads(answer.body))


def _judge_headers(document, answer, documented):
    present = {name.lower() for name in answer.headers}
    assert not present - {name.lower() for name in documented} - FRAMING
    for name, described in documented.items():
        header = _followed(document, described)
        values = answer.headers.get_all(name, [])
        assert len(values) <= 1
        assert values or not header["required"], f"{name} is missing"
        for value in values:
            number = header["schema"].get("type") == "integer"
            _validate(document, header["schema"], int(value) if number else value)


def _judge_body(document, answer, schema):
    assert answer.headers.get_content_type() == PROBLEM
    _validate(document, {"$ref": f"#/components/schemas/{schema}"}, json.loads(answer.body))


def _followed(document, thing):
    while "$ref" in thing:
        target = document
        for part in thing["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        thing = target
    return thing


def _validate(document, schema, value):
    components = {"schemas": _closed(document["components"]["schemas"])}
    Draft202012Validator({**_closed(schema), "components": components}).validate(value)


def _closed(schema):
    """The schema with no room for fields that it does not name."""
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    return closed | ({"additionalProperties": False} if "properties" in schema else {})
