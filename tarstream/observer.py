"""What happens while archives are sent, for whoever wants to know.

Who tells does not know who listens; who listens returns at once and raises nothing.
"""

from tarstream.errors import OriginBroken


class Observer:
    """Is told, and does nothing with it."""

    def received(self, size: int) -> None:
        """An origin gave so many bytes of contents; those read again count again."""

    def repaired(self, cause: OriginBroken) -> None:
        """A member whose origin failed is opened again."""

    def member_sent(self) -> None:
        """All that was asked for of a member has been taken."""

    def sent(self, size: int) -> None:
        """A client was sent so many bytes of an archive."""

    def spliced(self, size: int) -> None:
        """So many of these were moved by the kernel alone."""
