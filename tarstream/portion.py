"""How much is read at a time for a client: as little as costs little for one that is slow.

What was read and not taken yet is held for it, while each piece costs the same whatever its size.
"""

LEAST = 128 * 1024
"""Bytes for a client of which nothing is known, or that is slow."""

MOST = 1024 * 1024
"""Bytes for one that is fast."""

SLOW = 0.05
"""Seconds in which a client takes what it is given, or is slow."""

TRUST = 16 * 1024 * 1024
"""Bytes after which one that was never slow is fast: sockets take several MiB for one that reads
nothing, at once."""


class Portion:
    """The size of what is read at a time, for one client."""

    def __init__(self) -> None:
        self.size = LEAST
        """Bytes."""
        self._trusted = 0

    def taken(self, size: int, seconds: float) -> None:
        """Count a piece that the client took, and learn from how long that was."""
        self._trusted = 0 if seconds > SLOW else self._trusted + size
        self.size = MOST if self._trusted >= TRUST else LEAST
