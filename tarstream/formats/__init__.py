"""How archives are laid out: a module is a format, a line in `FORMATS` makes it known."""

from collections.abc import Mapping

from tarstream.formats import tar
from tarstream.layout import Format

FORMATS: Mapping[str, Format] = {"tar": tar}
"""What `format=` may say."""
