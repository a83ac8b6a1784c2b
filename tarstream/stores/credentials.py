"""What proves to an origin that we may read it: header fields that no other origin is sent.

No message, log line or repr holds a value.
"""

import asyncio
import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, Protocol, Self

from yarl import URL

from tarstream.errors import Forbidden, OriginBroken, OriginError, TarstreamError
from tarstream.stores.guard import Policy
from tarstream.watched import Reloaded, Unusable

# field-value without obs-text (RFC 9110 5.5)
_VALUE = re.compile(rb"[!-~](?:[ \t!-~]*[!-~])?")

FIELD_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
"""field-name = token, token = 1*tchar (RFC 9110 5.1, 5.6.2)."""

NOT_TO_BE_SET = frozenset(
    {"accept-encoding", "connection", "content-length", "expect", "host", "keep-alive", "range"}
    | {"if-match", "if-modified-since", "if-none-match", "if-range", "if-unmodified-since"}
    | {"te", "trailer", "transfer-encoding", "upgrade"}
)
"""Header fields that say what is asked for, or where the request ends."""


Value = str | Callable[[], str]
"""What a program gives: the value of a header field, or what gives it for each request."""


class Credential(NamedTuple):
    """One header field for one origin; its value from the environment, or from a file."""

    origin: str
    """Scheme, host, and port where it is not the scheme's."""
    header: str
    env: str = ""
    file: str = ""


class Credentials:
    """The header fields of all origins. Raises Unusable when a value cannot be used at first."""

    def __init__(self, given: Iterable[Credential] = ()) -> None:
        self._of: dict[_Origin, dict[str, _Field]] = {}
        for credential in given:
            fields = self._of.setdefault(_origin(URL(credential.origin)), {})
            if credential.file:
                fields[credential.header] = Reloaded(credential.file, _value, "credentials")
            else:
                fields[credential.header] = _FromEnvironment(credential.env)

    @classmethod
    def given(cls, values: Mapping[str, Mapping[str, Value]], policy: Policy | None = None) -> Self:
        """Those of a program: header fields by origin, each of them one that `policy` allows.

        Raises ValueError, which shows no value.
        """
        credentials = cls()
        for origin, fields in values.items():
            _check_origin(origin, policy)
            known = credentials._of.setdefault(_origin(URL(origin)), {})
            for header, value in fields.items():
                _check_header(header, origin)
                if header.lower() in map(str.lower, known):
                    raise ValueError(f"{origin!r} has {header!r} twice")
                known[header] = _Given(value, f"{header} for {origin}")
        return credentials

    def of(self, url: URL) -> Mapping[str, str]:
        """What a request for `url` carries, redirects not followed.

        Raises OriginError where a program gives something else.
        """
        fields = self._of.get(_origin(url)) if self._of else None
        return {name: field.value for name, field in fields.items()} if fields else {}

    async def watch(self) -> None:
        """Take over new versions of files until cancelled; returns at once without any."""
        async with asyncio.TaskGroup() as watching:
            for fields in self._of.values():
                for field in fields.values():
                    if isinstance(field, Reloaded):
                        watching.create_task(field.watch())


# What was mistaken for an origin, or for the name of a header, may hold a value, and is not shown.


def _check_origin(origin: str, policy: Policy | None) -> None:
    try:
        (rule,) = Policy([origin]).rules
    except ValueError:
        rule = None
    if rule is None or rule.wildcard or not rule.host:
        raise ValueError("credentials must be for one origin, like 'https://files.example.com'")
    try:
        if policy is not None:
            policy.rule(origin)
    except Forbidden:
        raise ValueError(f"credentials are for {origin!r}, which allow does not list") from None


def _check_header(name: str, origin: str) -> None:
    if not FIELD_NAME.fullmatch(name):
        raise ValueError(f"what {origin!r} is sent must have a name, like 'Authorization'")
    if name.lower() in NOT_TO_BE_SET:
        raise ValueError(f"{name} says what is asked for, and cannot be set")


class _Field(Protocol):
    @property
    def value(self) -> str: ...


class _Given:
    """A program's value: checked when it is given, or each time."""

    def __init__(self, given: Value, where: str) -> None:
        self._give = given if callable(given) else lambda: given
        if not callable(given) and not _is_value(given):
            raise ValueError(f"the value of {where} must be one line of printable ASCII")

    @property
    def value(self) -> str:
        try:
            value = self._give()
        except TarstreamError:
            raise
        except Exception as error:
            raise OriginBroken("the credentials for its origin cannot be had") from error
        if not _is_value(value):
            raise OriginError("the credentials for its origin are not a line of printable ASCII")
        return value


class _FromEnvironment:
    def __init__(self, name: str) -> None:
        try:
            self.value = _value(os.environb[name.encode()])
        except KeyError:
            raise Unusable(f"{name}: is not set, and [upstream] credentials names it") from None
        except ValueError as error:
            raise Unusable(f"{name}:{error}") from None


_Origin = tuple[str, str, int | None]


def _origin(url: URL) -> _Origin:
    """As the guard tells origins apart: case does not matter, nor how a port is written."""
    return url.scheme.lower(), (url.raw_host or "").lower(), url.port


def _is_value(value: object) -> bool:
    """Whether it is text that can be sent as it is."""
    return isinstance(value, str) and value.isascii() and bool(_VALUE.fullmatch(value.encode()))


def _value(data: bytes) -> str:
    data = data.strip()
    if not _VALUE.fullmatch(data):
        raise ValueError(" must be one line of printable ASCII")
    return data.decode()
