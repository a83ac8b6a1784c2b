"""Settings: a TOML file and the environment, validated into immutable objects.

Every key may also be given as `TARSTREAM_SECTION__KEY`, which wins over the file.
"""

import json
import os
from functools import reduce
from operator import or_
from pathlib import Path
from tomllib import TOMLDecodeError
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    IPvAnyNetwork,
    ValidationError,
    field_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from tarstream.catalogs import CATALOGS
from tarstream.stores.guard import Policy


def _listed(value: object) -> object:
    """Lists in the environment: JSON, or simply with commas."""
    if not isinstance(value, str):
        return value
    return json.loads(value) if value.startswith("[") else [v.strip() for v in value.split(",")]


Texts = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_listed)]
Networks = Annotated[tuple[IPvAnyNetwork, ...], NoDecode, BeforeValidator(_listed)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class ConfigError(Exception):
    """Configuration that cannot be used; a line for each mistake."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Server(_Section):
    """`[server]`."""

    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65535)
    shutdown_timeout: float = Field(default=300, ge=0, allow_inf_nan=False)
    base_path: str = ""
    trusted_proxies: Networks = ()
    public: bool = False

    @field_validator("base_path")
    @classmethod
    def _is_a_prefix(cls, value: str) -> str:
        if value and (not value.startswith("/") or value.endswith("/") or not value.isascii()):
            raise ValueError("must begin with a slash and not end with one, like '/files'")
        return value


class Log(_Section):
    """`[log]`."""

    format: Literal["text", "json"] = "text"
    level: Literal["debug", "info", "warning", "error"] = "info"


class Upstream(_Section):
    """`[upstream]`."""

    allow: Texts = Field(min_length=1)
    connect_timeout: Seconds = 5
    read_timeout: Seconds = 30
    attempts: int = Field(default=5, ge=1)
    ahead: int = Field(default=8, ge=0)
    ahead_bytes: ByteSize = Field(default=ByteSize(4 * 1024**2), ge=0)
    ahead_total_bytes: ByteSize = Field(default=ByteSize(64 * 1024**2), ge=0)
    patience: Seconds = 45
    plan_timeout: Seconds = 60
    connections: int = Field(default=100, ge=1)
    remember: float = Field(default=10, ge=0, allow_inf_nan=False)

    @field_validator("allow")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        Policy(value)
        return value


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
        env_prefix="TARSTREAM_", env_nested_delimiter="__", extra="forbid", frozen=True
    )

    server: Server = Server()
    catalog: CatalogSettings
    upstream: Upstream
    limits: Limits = Limits()
    log: Log = Log()


def load(path: Path) -> Settings:
    """The settings of a file and the environment. Raises ConfigError with all that is wrong."""

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
            return env_settings, TomlConfigSettingsSource(settings_cls, path)

    try:
        # Opened here, because the library takes a missing file for an empty one.
        with path.open("rb"):
            return FromFile()  # type: ignore[call-arg]  # its sources say the rest
    except OSError as error:
        reason = (error.strerror or "cannot be read").lower()
        raise ConfigError([f"{path}: {reason}"]) from None
    except (TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: not valid TOML: {error}"]) from None
    except ValidationError as error:
        raise ConfigError([_line(path, mistake) for mistake in error.errors()]) from None


def _line(path: Path, mistake: ErrorDetails) -> str:
    """One mistake: where it stands, and what it must be instead."""
    section, *rest = (str(part) for part in mistake["loc"])
    if section == "catalog" and rest and rest[0] in CATALOGS:
        rest = rest[1:]  # the library tells which kind of catalog it took it for
    key = rest[0] if rest else ""
    variable = f"TARSTREAM_{section}__{key}".upper()
    if key and variable in map(str.upper, os.environ):
        return f"{variable}: {_what(mistake)}"
    where = f"[{section}] {key}".rstrip()
    return f"{path}: {where}: {_what(mistake)}"


def _what(mistake: ErrorDetails) -> str:
    context = mistake.get("ctx", {})
    known = {
        "missing": "is required",
        "extra_forbidden": "is not a setting",
        "greater_than_equal": f"must be at least {context.get('ge')}",
        "greater_than": "must be more than 0",
        "less_than_equal": f"must be at most {context.get('le')}",
        "too_short": "must not be empty",
        "union_tag_not_found": "kind is required",
        "union_tag_invalid": f"kind must be one of {context.get('expected_tags')}",
        "literal_error": f"must be {context.get('expected')}",
        "value_error": str(context.get("error")),
        "byte_size": "must be a number of bytes, like '4 MiB'",
        "byte_size_unit": f"has an unknown unit {context.get('unit')!r}; write it like '4 MiB'",
    }
    if mistake["type"] in known:
        return known[mistake["type"]]
    said = mistake["msg"]
    return said.replace("Input should be", "must be").replace("Input is", "is")
