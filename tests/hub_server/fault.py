"""What can go wrong on the way, and how often: values that a server acts upon."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from tests.hub_server.request import Origin

LOGIN_PAGE = b"<!DOCTYPE html><html><head><title>Log in</title></head><body>Please log in to the network</body></html>"


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that goes wrong with the next `times` requests to `on` by `method` for a path in which `path` is found.

    path is a regular expression. Where several faults are for a request, the first that was appended strikes.
    """

    on: Origin
    method: str = "GET"
    path: str = ""
    times: int = 1

    # this status with `body` and `headers` is the answer
    status: int | None = None
    body: bytes = b"{}"
    # put into the answer, whichever it is, in place of what stands there; None takes a header away
    headers: Mapping[str, str | None] = field(default_factory=dict)
    # a login page with status 200 is the answer
    page: bool = False
    # 403 is the answer, as the CDN gives it for a signature of yesterday
    expired: bool = False
    # the connection is closed without an answer
    drop: bool = False
    # nothing is answered until whoever asked goes, or the server ends
    hang: bool = False

    # the connection is closed after so many bytes of the body, though more were announced
    cut: int | None = None
    # after them it is reset in place of that, and what was not read yet may be lost
    reset: bool = False
    # after them nothing comes in place of that, and the connection stays open
    stall: bool = False
    # the body has so many bytes, and that is announced
    short: int | None = None
    # a byte of the body is another: the last of the first piece that is sent
    corrupt: bool = False
    # the whole file with status 200 to whoever asks for a part
    no_range: bool = False
    # 416 to whoever asks for a part
    refuse_range: bool = False
    # seconds before each piece of 256 KiB
    slow: float = 0.0

    def is_for(self, on: Origin, method: str, path: str) -> bool:
        """Return whether it strikes this request."""
        return (self.on, self.method) == (on, method) and re.search(self.path, path) is not None

    def spoil(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """Yield a body as it goes out."""
        left = self.cut
        for number, piece in enumerate(pieces):
            sent = piece if left is None else piece[:left]
            if self.corrupt and number == 0:
                sent = sent[:-1] + bytes(byte ^ 0xFF for byte in sent[-1:])
            yield sent
            left = None if left is None else left - len(sent)
            if left == 0:
                return


NO_FAULT = Fault("hub", times=0)
