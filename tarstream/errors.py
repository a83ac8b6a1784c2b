"""What can go wrong, each with its HTTP status and whether trying again helps.

A closed tree: everything that a client may be told descends from `TarstreamError`; `app` alone
turns it into an answer. No message holds a URL, a credential or a header of an origin.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class Refusal:
    """An id that cannot be had, and why, in words for the one who asked for it."""

    id: str
    reason: str


class TarstreamError(Exception):
    """What a client may be told.

    `detail` says what is wrong and what to do, `refusals` name the ids that are concerned.
    """

    status = 500

    def __init__(self, detail: str, refusals: Sequence[Refusal] = ()) -> None:
        super().__init__(detail)
        self.detail = detail
        self.refusals = tuple(refusals)

    def about(self, id_: str) -> Self:
        """The same error, naming the id whose it is. Others may share the original."""
        error = copy(self)
        error.refusals = (Refusal(id_, self.detail),)
        error.detail = f"{id_!r} cannot be had: {self.detail}"
        error.args = (error.detail,)
        return error


class BadRequest(TarstreamError):
    """The request cannot be understood; it fails the same way next time."""

    status = 400


class UnknownIds(TarstreamError):
    """Ids that the catalog or their origins do not know; all of them are listed."""

    status = 404


class Forbidden(TarstreamError):
    """A source that the configuration does not allow."""

    status = 403


class VersionConflict(TarstreamError):
    """The sources no longer give the archive that `version` names."""

    status = 409


class TooLarge(TarstreamError):
    """A limit is exceeded; `detail` names both numbers."""

    status = 413


class BodyTimeout(TarstreamError):
    """A POST body that does not arrive."""

    status = 408


class UnsupportedBody(TarstreamError):
    """A POST body of a type that is neither JSON nor a form."""

    status = 415


class Unavailable(TarstreamError):
    """Not now: full, draining, or the sources change while they are looked at."""

    status = 503

    def __init__(self, detail: str, retry_after: int = 5) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class OriginError(TarstreamError):
    """An origin does not give what it has to give. Trying again does not help."""

    status = 502
    transient = False


class OriginBroken(OriginError):
    """A failure that may pass: refused, reset, short, stalled, 5xx, 429.

    `kind` is one of `KINDS`, `retry_after` what the origin asked for, in seconds.
    """

    transient = True
    KINDS = ("broken", "connect", "protocol", "read", "slow", "status", "timeout")

    def __init__(
        self, detail: str, *, kind: str = "broken", retry_after: float | None = None
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.retry_after = retry_after


class OriginTimeout(OriginBroken):
    """An origin that is too slow."""

    status = 504

    def __init__(self, detail: str, *, kind: str = "timeout") -> None:
        super().__init__(detail, kind=kind)


class ObjectMissing(OriginError):
    """The origin answers 404, 410, 401 or 403: this object cannot be had (`missing=skip`)."""


class ObjectChanged(OriginError):
    """The object is not the one that was planned: other size, other validator."""
