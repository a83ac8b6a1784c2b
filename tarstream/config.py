"""Settings: a TOML file and the environment, validated into immutable objects.

Every key may also be given as `TARSTREAM_SECTION__KEY`, which wins over the file.
"""

import json
import os
import re
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from functools import reduce
from ipaddress import IPv4Network, IPv6Network, ip_network
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from tarstream.auth import Auth
from tarstream.catalogs import CATALOGS
from tarstream.compress import RANGES, Levels
from tarstream.errors import Forbidden
from tarstream.mistakes import line_of, variable
from tarstream.stores.credentials import FIELD_NAME, NOT_TO_BE_SET
from tarstream.stores.guard import Policy


def _texts(value: object) -> tuple[str, ...]:
    """A list of strings; in the environment it is JSON, or simply has commas."""
    if isinstance(value, str):
        if value.lstrip().startswith("["):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                raise ValueError(
                    "must be a JSON list, or values with commas between them"
                ) from None
        else:
            value = [text for each in value.split(",") if (text := each.strip())]
    if not isinstance(value, list | tuple) or not all(isinstance(text, str) for text in value):
        raise ValueError("must be a list of strings")
    return tuple(value)


def _networks(value: object) -> tuple[IPv4Network | IPv6Network, ...]:
    return tuple(map(ip_network, _texts(value)))


def _tables(value: object) -> object:
    """A list of tables; in the environment it is JSON."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError("must be a JSON list of objects") from None
    if not isinstance(value, list | tuple):
        raise ValueError("must be a list of tables")
    return tuple(value)


Texts = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_texts)]
Networks = Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode, BeforeValidator(_networks)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


# path-abempty = *( "/" segment )   (RFC 3986 3.3), without empty segments
_PREFIX = re.compile(r"(/[A-Za-z0-9._~!$&'()*+,;=:@%-]+)*")


class ConfigError(Exception):
    """Configuration that cannot be used; a line for each mistake."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _is_no_number(cls, value: object, info: ValidationInfo) -> object:
        # To Python true is 1.
        field = cls.model_fields[info.field_name or ""]
        if isinstance(value, bool) and field.annotation is not bool:
            raise ValueError("must not be true or false")
        return value


class Server(_Section):
    """`[server]`."""

    host: str = Field(default="127.0.0.1", min_length=1)
    port: int = Field(default=8080, ge=0, le=65535)
    workers: int = Field(default=1, ge=1, le=256)
    shutdown_timeout: float = Field(default=300, ge=0, allow_inf_nan=False)
    drain_delay: float = Field(default=0, ge=0, allow_inf_nan=False)
    base_path: str = ""
    trusted_proxies: Networks = ()
    public: bool = False
    zero_copy: bool = True

    @field_validator("workers")
    @classmethod
    def _can_be_forked(cls, value: int) -> int:
        if value > 1 and not hasattr(os, "fork"):
            raise ValueError("must be 1 on this system")
        return value

    @field_validator("base_path")
    @classmethod
    def _is_a_prefix(cls, value: str) -> str:
        if not _PREFIX.fullmatch(value):
            raise ValueError("must be like '/files': a slash at its beginning, none at its end")
        return value


class Metrics(_Section):
    """`[metrics]`."""

    host: str = Field(default="127.0.0.1", min_length=1)
    port: int = Field(default=0, ge=0, le=65535)


class Log(_Section):
    """`[log]`."""

    format: Literal["text", "json"] = "text"
    level: Literal["debug", "info", "warning", "error"] = "info"


class OriginCredential(_Section):
    """`[[upstream.credentials]]`."""

    origin: str
    header: str
    env: str = ""
    file: str = ""

    @field_validator("origin")
    @classmethod
    def _is_an_origin(cls, value: str) -> str:
        (rule,) = Policy([value]).rules
        if rule.wildcard or not rule.host:
            raise ValueError("must be one origin, like 'https://files.example.com'")
        return value

    @field_validator("header")
    @classmethod
    def _is_a_header(cls, value: str) -> str:
        if not FIELD_NAME.fullmatch(value):
            raise ValueError("must be the name of a header, like 'Authorization'")
        if value.lower() in NOT_TO_BE_SET:
            raise ValueError(f"{value} says what is asked for, and cannot be set")
        return value

    @model_validator(mode="after")
    def _has_one_value(self) -> Self:
        if bool(self.env) == bool(self.file):
            raise ValueError("needs env or file, and not both")
        return self


Credentials = Annotated[tuple[OriginCredential, ...], NoDecode, BeforeValidator(_tables)]


class Upstream(_Section):
    """`[upstream]`."""

    allow: Texts = Field(min_length=1)
    connect_timeout: Seconds = 5
    read_timeout: Seconds = 30
    min_rate: ByteSize = Field(default=ByteSize(1024), ge=0)
    attempts: int = Field(default=5, ge=1)
    ahead: int = Field(default=8, ge=0)
    ahead_bytes: ByteSize = Field(default=ByteSize(4 * 1024**2), ge=0)
    ahead_total_bytes: ByteSize = Field(default=ByteSize(64 * 1024**2), ge=0)
    patience: Seconds = 45
    plan_timeout: Seconds = 60
    connections: int = Field(default=100, ge=1)
    remember: float = Field(default=10, ge=0, allow_inf_nan=False)
    sendfile: bool = False
    credentials: Credentials = ()

    @field_validator("allow")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        Policy(value)
        return value

    @field_validator("credentials")
    @classmethod
    def _are_of_use(
        cls, value: tuple[OriginCredential, ...], info: ValidationInfo
    ) -> tuple[OriginCredential, ...]:
        policy, seen = Policy(info.data.get("allow", ())), set()
        for each in value:
            try:
                policy.rule(each.origin)
            except Forbidden:
                raise ValueError(f"{each.origin!r} is not in allow") from None
            if (key := (each.origin.lower(), each.header.lower())) in seen:
                raise ValueError(f"{each.origin!r} has {each.header!r} twice")
            seen.add(key)
        return value


class Zip(_Section):
    """`[zip]`."""

    reread_bytes: ByteSize = Field(default=ByteSize(256 * 1024**2), ge=0)


class Compression(_Section):
    """`[compression]`."""

    gzip_level: int = Field(default=Levels().gzip, ge=1, le=RANGES["gzip"][-1])
    zstd_level: int = Field(default=Levels().zstd, ge=1, le=RANGES["zstd"][-1])

    @property
    def levels(self) -> Levels:
        """As compressors take them."""
        return Levels(self.gzip_level, self.zstd_level)


class Limits(_Section):
    """`[limits]`."""

    max_members: int = Field(default=10_000, ge=1)
    max_bytes: ByteSize = Field(default=ByteSize(1024**4), ge=1, le=2**62)
    max_archives: int = Field(default=500, ge=1)
    stall_timeout: Seconds = 120


if TYPE_CHECKING:
    CatalogSettings = BaseModel
else:
    _KINDS = reduce(or_, (kind.settings for kind in CATALOGS.values()))
    CatalogSettings = Annotated[_KINDS, Field(discriminator="kind")]


class Settings(BaseSettings):
    """All settings. Read them with `load`."""

    model_config = SettingsConfigDict(
        env_prefix="TARSTREAM_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    server: Server = Server()
    auth: Auth = Auth()
    catalog: CatalogSettings
    upstream: Upstream
    limits: Limits = Limits()
    zip: Zip = Zip()
    compression: Compression = Compression()
    log: Log = Log()
    metrics: Metrics = Metrics()


def load(path: Path) -> Settings:
    """The settings of a file and the environment. Raises ConfigError with all that is wrong."""
    known = {variable(section, key) for section, model in sections() for key in model.model_fields}

    class FromFile(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - it is called by name
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
            file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            assert isinstance(env_settings, EnvSettingsSource)
            variables = env_settings.env_vars.items()
            # It would make something even of those that are no settings.
            env_settings.env_vars = {k: v for k, v in variables if k.upper() in known}
            return env_settings, TomlConfigSettingsSource(settings_cls, path)

    lines = [f"{name}: is not a setting" for name in _strays(known)]
    try:
        # Opened here, because the library takes a missing file for an empty one.
        with path.open("rb"):
            settings = FromFile()  # type: ignore[call-arg]  # its sources say the rest
    except OSError as error:
        lines.append(f"{path}: {(error.strerror or 'cannot be read').lower()}")
    except ValidationError as error:
        lines += [line_of(path, mistake) for mistake in error.errors()]
    except (ValueError, RecursionError) as error:
        lines.append(f"{path}: not valid TOML: {error}")
    else:
        if settings.server.public and settings.auth.kind != "none":
            lines.append(
                f"{path}: [server] public: must be false where [auth] does not let in everybody"
            )
    if lines:
        raise ConfigError(lines)
    return settings


def sections() -> Iterator[tuple[str, type[BaseModel]]]:
    """Each section and what may stand in it; `catalog` once for each kind."""
    for section, field in Settings.model_fields.items():
        if section == "catalog":
            yield from ((section, kind.settings) for kind in CATALOGS.values())
        elif isinstance(field.annotation, type):
            yield section, field.annotation


def _strays(known: AbstractSet[str]) -> list[str]:
    """Variables that look like settings and are none, in upper case."""
    whole = {f"TARSTREAM_{section}".upper() for section, _ in sections()}
    # Others begin so too: Kubernetes sets TARSTREAM_PORT where a service is called tarstream.
    return sorted(
        name
        for name in {name.upper() for name in os.environ} - known
        if name in whole or (name.startswith("TARSTREAM_") and "__" in name)
    )
