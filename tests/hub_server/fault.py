"""What can go wrong on the way, and how often: values that a server acts upon."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

LOGIN_PAGE = b"<!DOCTYPE html><html><head><title>Log in</title></head><body>Please log in to the network</body></html>"


@dataclass
class Fault:
    """One thing that goes wrong with requests that match, `times` times.

    on, method, path: which requests; path is a pattern that is searched for. status, body, headers: answered in place
    of what should be; headers alone go along with what should be, None takes one away. drop: the connection is closed
    without an answer. hang: nothing is answered until the server ends. page: a login page, with status 200. cut: the
    body ends after so many bytes, though more were announced; reset: it does so with a TCP reset. short: a body of so
    many bytes, announced so. corrupt: a byte of the body is another. no_range: the whole file to whoever asks for a
    part. slow: seconds before each piece.
    """

    on: Literal["hub", "cdn"]
    method: str = "GET"
    path: str = ""
    times: int = 1
    status: int | None = None
    body: bytes = b"{}"
    headers: Mapping[str, str | None] = field(default_factory=dict)
    drop: bool = False
    hang: bool = False
    page: bool = False
    cut: int | None = None
    reset: bool = False
    short: int | None = None
    corrupt: bool = False
    no_range: bool = False
    slow: float = 0.0

    def is_for(self, on: str, method: str, path: str) -> bool:
        """Whether it strikes this request, and has not struck often enough."""
        return self.times > 0 and (self.on, self.method) == (on, method) and re.search(self.path, path) is not None
