"""A streaming archive gateway: many remote files as one archive that is never stored.

For programs: `Archive`, `Member`, `Origins`; see docs/library.md.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tarstream.library import Archive, Member
    from tarstream.origins import Origins

__all__ = ["Archive", "Member", "Origins"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever it is
    """Import the library when somebody wants it: the gateway, and its pure modules, do not."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tarstream import library  # noqa: PLC0415 - see above

    return getattr(library, name)
