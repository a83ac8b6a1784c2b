"""What a judge says of one thing that was put before it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Verdict:
    """One row of the table at the end."""

    judge: str
    what: str
    faults: list[str] = field(default_factory=list)  # any of them makes the whole fail
    remarks: list[str] = field(default_factory=list)  # what is explained, or was measured
    promised: bool = True  # else it is only told what happens

    def line(self) -> str:
        """The row, and what is wrong below it."""
        said = "; ".join(self.remarks)
        outcome = "FAIL" if self.faults else "ok" if self.promised else "told"
        row = f"{outcome:4}  {self.judge:12}  {self.what:44}  {said}"
        return "\n".join([row.rstrip(), *(f"      {fault}" for fault in self.faults)])
