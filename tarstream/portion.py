"""How much is read at a time for a client: as little as costs little for one that is slow.

What was read and not taken yet is held for it, while each piece costs the same whatever its size.
"""

LEAST = 128 * 1024
"""Bytes for a client of which nothing is known, or that is slow."""

MOST = 512 * 1024
"""Bytes for one that is fast. Others wait for their turn while a piece is read and seen."""

TRUST = 16 * 1024 * 1024
"""Bytes that a fast client takes ..."""

SECONDS = 8
"""... before it was waited for so long. Sockets take several MiB for one that reads nothing."""


class Portion:
    """The size of what is read at a time, for one client."""

    def __init__(self) -> None:
        self.size = LEAST
        """Bytes."""
        self._forget()

    def taken(self, size: int, seconds: float) -> None:
        """Count bytes that the client took, and how long that was waited for."""
        self._bytes += size
        self._seconds += seconds
        if self._seconds > SECONDS:
            self.size = LEAST
            self._forget()
        elif self._bytes >= TRUST:
            self.size = MOST
            self._forget()

    def _forget(self) -> None:
        self._bytes, self._seconds = 0, 0.0
