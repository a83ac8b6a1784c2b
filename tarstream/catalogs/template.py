"""A catalog that is a rule: `https://files.example.com/{id}`."""

import asyncio
from collections.abc import Sequence
from typing import Literal
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, field_validator

from tarstream.catalogs.base import Caller, Entry, Found, Unknown
from tarstream.layout import STEP


class TemplateSettings(BaseModel):
    """`[catalog]` with kind = "template"."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["template"]
    url: str
    name: str = "{id}"

    @field_validator("url", "name")
    @classmethod
    def _holds_id(cls, value: str) -> str:
        if "{id}" not in value:
            raise ValueError("must contain {id}")
        return value

    @field_validator("name")
    @classmethod
    def _names_a_file(cls, value: str) -> str:
        if value.endswith("/"):
            raise ValueError("must not end in '/': members are files")
        return value

    @field_validator("url")
    @classmethod
    def _id_is_not_the_host(cls, value: str) -> str:
        # An id that names the host would make every allowed origin reachable by anybody.
        scheme, _, rest = value.partition("://")
        authority = rest.partition("/")[0]
        named = bool(authority) != (scheme == "file")  # no host, no port: a directory
        if not named or "{id}" in scheme + authority:
            raise ValueError(
                "must look like 'https://files.example.com/{id}' or 'file:///srv/data/{id}'"
            )
        return value


class TemplateCatalog:
    """Every id that is a path is known; whether there is a file is for its origin to say."""

    def __init__(self, settings: TemplateSettings) -> None:
        self._url = settings.url
        self._name = settings.name

    async def lookup(self, ids: Sequence[str], caller: Caller) -> Sequence[Found]:
        """Fill in the template, percent-encoded segment by segment."""
        found = []
        for index, id_ in enumerate(ids):
            if index % STEP == 0:
                await asyncio.sleep(0)
            found.append(self._entry(id_))
        return found

    async def watch(self) -> None:
        """A rule does not change."""

    def _entry(self, id_: str) -> Found:
        # yarl and servers resolve dot segments: `../secret` must not get that far.
        if any(segment in {"", ".", ".."} for segment in id_.split("/")):
            return Unknown("unknown")
        url = self._url.replace("{id}", quote(id_, safe="/"))
        return (Entry(url, self._name.replace("{id}", id_)),)
