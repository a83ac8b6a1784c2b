"""How many members are opened before their turn just now."""

FEW = 2
"""For a client that is slower than its origins: no more than one turn has to be bridged."""


class Width:
    """All of `most` while origins are what is waited for, `FEW` while it is the client.

    What is opened for a client that takes its time only holds connections and memory, and is closed
    by its origin before it is wanted.
    """

    def __init__(self, most: int) -> None:
        self.members = most
        self._most = most
        self._ready = 0  # members in a row that nobody had to wait for

    def waited(self) -> bool:
        """An origin is waited for; whether more may be opened for that."""
        grows = self.members < self._most
        self.members = self._most
        self._ready = 0
        return grows

    def sent(self) -> None:
        """A member was sent."""
        self._ready += 1
        # Members that were opened together arrive together: only the first of them is waited for.
        if self._ready > 2 * self._most:
            self.members = max(self.members // 2, min(FEW, self._most))
            self._ready = 0
