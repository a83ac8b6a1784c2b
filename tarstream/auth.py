"""Who may ask: anybody, who has a token (RFC 6750), or who has a signed URL.

What is secret stays in here: no message, log line or repr holds a token, a secret or a signature.
"""

import asyncio
import hashlib
import hmac
import json
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Generic, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    SecretStr,
    field_validator,
    model_validator,
)
from pydantic_settings import NoDecode

from tarstream.conditional import Fields
from tarstream.errors import TarstreamError
from tarstream.signing import (
    MIN_SECRET,
    Key,
    SignatureError,
    parse_key,
    read_signature,
    signed_as_it_is,
)
from tarstream.watched import Reloaded

# Every 401 has a challenge (RFC 9110 15.5.2). For signed URLs no scheme is registered.
_BEARER = 'Bearer realm="tarstream"'
_SIGNED_URL = 'Signed-URL realm="tarstream"'

# RFC 6750 2.1: b64token = 1*( ALPHA / DIGIT / "-" / "." / "_" / "~" / "+" / "/" ) *"="
#               credentials = "Bearer" 1*SP b64token
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
_CREDENTIALS = re.compile(r"bearer +(?P<token>[^ ].*)", re.IGNORECASE | re.DOTALL)

K = TypeVar("K")
V = TypeVar("V")
Parse = Callable[[str], tuple[K, V]]
"""One line, as what it is found by and what it is. Raises ValueError that holds no secret."""


class Unauthorized(TarstreamError):
    """Nothing says who asks, or a wrong token does. `challenge` is for WWW-Authenticate."""

    status = 401

    def __init__(self, detail: str, challenge: str) -> None:
        super().__init__(detail)
        self.challenge = challenge


class NotAllowed(TarstreamError):
    """A URL whose signature is wrong or no longer counts, or a request that none can allow."""

    status = 403


def parse_token(line: str) -> tuple[bytes, None]:
    """A token, as its digest: all are of one length, and none is of use to who finds it."""
    if not _TOKEN.fullmatch(line):
        raise ValueError("a token has letters, digits and '-._~+/', and '=' only at its end")
    if len(line) < MIN_SECRET:
        raise ValueError(f"a token has at least {MIN_SECRET} characters")
    return _digest(line), None


def _secrets(value: object) -> object:
    """A list of strings; in the environment it is JSON, or simply has commas."""
    if isinstance(value, str):
        if not value.lstrip().startswith("["):
            return tuple(text for each in value.split(",") if (text := each.strip()))
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError("must be a JSON list, or values with commas between them") from None
    if not isinstance(value, list | tuple) or not all(
        isinstance(each, str | SecretStr) for each in value
    ):
        raise ValueError("must be a list of strings")
    return tuple(value)


Secrets = Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(_secrets)]


class Auth(BaseModel):
    """`[auth]`."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    kind: Literal["none", "bearer", "signed", "either"] = "none"
    tokens: Secrets = ()
    tokens_file: str = ""
    keys: Secrets = ()
    keys_file: str = ""

    @field_validator("tokens")
    @classmethod
    def _are_tokens(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        _parsed(parse_token, value)
        return value

    @field_validator("keys")
    @classmethod
    def _are_keys(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        _parsed(parse_key, value)
        return value

    @model_validator(mode="after")
    def _uses_what_is_given(self) -> Self:
        # Who gives a token and forgets the kind would have an open gateway.
        for name, kinds in (("tokens", {"bearer", "either"}), ("keys", {"signed", "either"})):
            given = [key for key in (name, f"{name}_file") if getattr(self, key)]
            if self.kind in kinds and not given:
                raise ValueError(f"kind {self.kind!r} needs {name}_file or {name}")
            if self.kind not in kinds and given:
                raise ValueError(f"{given[0]} is given, but kind {self.kind!r} does not use it")
        return self


@dataclass(frozen=True, slots=True)
class Grant:
    """That a request is let in; with the key and the expiry of its URL where that is signed."""

    key: Key | None = None
    exp: int = 0

    def signed(self, target: str) -> str:
        """A path and query that is let in as this request was: signed anew if it was signed."""
        if self.key is None:
            return target
        return signed_as_it_is(target, self.key, self.exp)


class Authorizer:
    """Lets requests in, or not. Raises Unusable when its files cannot be used at first.

    `base_path` is what a proxy takes away from the beginning of the paths that are signed.
    """

    def __init__(
        self, settings: Auth, base_path: str = "", clock: Callable[[], float] = time.time
    ) -> None:
        self._kind = settings.kind
        self._base_path = base_path
        self._clock = clock
        self._tokens = _InForce(parse_token, settings.tokens, settings.tokens_file)
        self._keys = _InForce(parse_key, settings.keys, settings.keys_file)

    def check(self, method: str, target: str, headers: Fields) -> Grant:
        """Let a request in. Raises Unauthorized or NotAllowed.

        `target` is the path and the query as they arrived, nothing of them decoded.
        """
        if self._kind == "none":
            return Grant()
        if self._kind == "bearer":
            return self._by_token(headers, "a token is required: Authorization: Bearer …")
        # A signature covers no body, so none is taken on its word.
        grant = self._by_signature(target) if method in {"GET", "HEAD"} else None
        if grant is not None:
            return grant
        if self._kind == "either":
            return self._by_token(headers, "a token or a signed URL is required")
        if method not in {"GET", "HEAD"}:
            raise NotAllowed("only GET and HEAD can be asked for by a signed URL")
        raise Unauthorized("a signed URL is required", _SIGNED_URL)

    async def watch(self) -> None:
        """Take over new versions of the files until cancelled; returns at once without any."""
        async with asyncio.TaskGroup() as watching:
            watching.create_task(self._tokens.watch())
            watching.create_task(self._keys.watch())

    def _by_token(self, headers: Fields, required: str) -> Grant:
        values = headers.getall("Authorization", [])
        given = [found["token"] for value in values if (found := _CREDENTIALS.fullmatch(value))]
        if not given:
            raise Unauthorized(required, _BEARER)
        digest = _digest(given[0])
        # All are compared, so that the time does not tell which of them was nearly right.
        known = [hmac.compare_digest(digest, each) for each in self._tokens.value]
        if len(values) > 1 or not any(known):
            raise Unauthorized("the token is not known", f'{_BEARER}, error="invalid_token"')
        return Grant()

    def _by_signature(self, target: str) -> Grant | None:
        """None where there is no signature. Raises NotAllowed."""
        try:
            signature = read_signature(self._base_path + target)
        except SignatureError as error:
            raise NotAllowed(f"the signed URL is wrong: {error}") from None
        if signature is None:
            return None
        key = self._keys.value.get(signature.key_id)
        if key is None:
            raise NotAllowed("the signed URL names a key that is not in force, or no longer")
        if not signature.fits(key.secret):
            raise NotAllowed("the signed URL is wrong: its signature is not that of path and query")
        late = self._clock() - signature.exp
        if late >= 0:
            raise NotAllowed(f"the signed URL expired {late:.0f} seconds ago")
        return Grant(key, signature.exp)


class _InForce(Generic[K, V]):
    """What the settings give, together with what stands in a file where they name one."""

    def __init__(self, parse: Parse[K, V], given: Iterable[SecretStr], path: str) -> None:
        self._parse = parse
        self._given = _parsed(parse, given)
        self._file = Reloaded(path, self._load, "secrets") if path else None

    @property
    def value(self) -> Mapping[K, V]:
        return self._given if self._file is None else self._file.value

    async def watch(self) -> None:
        if self._file is not None:
            await self._file.watch()

    def _load(self, data: bytes) -> dict[K, V]:
        """One bad line rejects all of it."""
        found = dict(self._given)
        empty = True
        for number, line in enumerate(data.splitlines(), 1):
            text = line.decode("latin-1").strip(" \t")
            if text and not text.startswith("#"):
                try:
                    _add(found, self._parse(text))
                except ValueError as error:
                    raise ValueError(f"{number}: {error}") from None
                empty = False
        if empty:
            raise ValueError(" holds nothing but blank lines and comments")
        return found


def _parsed(parse: Parse[K, V], given: Iterable[SecretStr]) -> dict[K, V]:
    found: dict[K, V] = {}
    for number, secret in enumerate(given, 1):
        try:
            _add(found, parse(secret.get_secret_value()))
        except ValueError as error:
            raise ValueError(f"value {number}: {error}") from None
    return found


def _add(found: dict[K, V], entry: tuple[K, V]) -> None:
    name, value = entry
    if found.setdefault(name, value) != value:
        raise ValueError(f"the key {name!r} has another secret already")


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="surrogateescape")).digest()
