"""One line of the fake Hub's log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Origin = Literal["hub", "cdn"]


@dataclass(slots=True)
class Request:
    """A request that came, and how it was answered.

    path: as it was meant, without %20 and the like; query: as it was sent. status: None where nothing was answered.
    sent: bytes of the body that were handed to the line, of which a client may have read fewer.
    """

    origin: Origin
    method: str
    path: str
    range: str | None
    authorization: str | None
    status: int | None = None
    sent: int = 0
    query: str = ""

    def __str__(self) -> str:
        asked = f"?{self.query}" if self.query and self.origin == "hub" else ""
        wanted = f" [{self.range}]" if self.range else ""
        return f"{self.origin} {self.method} {self.path}{asked}{wanted} -> {self.status}, {self.sent:,} bytes"
