"""Where ids come from: a class is a catalog, a line in `CATALOGS` makes its kind known."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel

from tarstream.catalogs.base import Catalog
from tarstream.catalogs.file import FileCatalog, FileSettings
from tarstream.catalogs.template import TemplateCatalog, TemplateSettings


class Kind(NamedTuple):
    """A kind of catalog: what `[catalog]` must say, and what is made of it."""

    settings: type[BaseModel]
    catalog: Callable[[Any], Catalog]


CATALOGS: Mapping[str, Kind] = {
    "file": Kind(FileSettings, FileCatalog),
    "template": Kind(TemplateSettings, TemplateCatalog),
}
"""What `[catalog] kind` may say."""
