"""The other server, which has the bytes: it knows signatures, and neither models nor tokens."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping

from tests.hub_server.content import Content
from tests.hub_server.handler import Handler

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


class CDNHandler(Handler):
    """A request for bytes."""

    origin = "cdn"

    def route(self, path: str, query: Mapping[str, str]) -> None:
        """Send what the signature is for."""
        content = self.owner.content_of(query.get("Signature", ""), path.rpartition("/")[2])
        if content is None:
            return self.reply(403, b"<Error><Code>AccessDenied</Code></Error>", content_type="application/xml")
        start, end, status = 0, content.size, 200
        match = None if self.fault.no_range else _RANGE.fullmatch(self.headers.get("Range") or "")
        if match is not None:
            start, end, status = int(match[1]), min(int(match[2] or content.size) + 1, content.size), 206
            if start >= content.size:
                return self.reply(416, b"", {"Content-Range": f"bytes */{content.size}"})
        return self._send(content, start, end, status)

    def _send(self, content: Content, start: int, end: int, status: int) -> None:
        end = end if self.fault.short is None else min(end, start + self.fault.short)
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(end - start),
            "Accept-Ranges": "bytes",
            # 64 digits that are no checksum of anything anybody asked for
            "ETag": f'"{hashlib.md5(content.sha256.encode()).hexdigest() * 2}"',
        }
        if status == 206:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{content.size}"
        self.begin(status, headers)
        if self.command != "HEAD":
            self.send_pieces(self._spoilt(content.pieces(start, end)))

    def _spoilt(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """Yield the pieces, of which a fault may have changed the last byte of the first."""
        for number, piece in enumerate(pieces):
            if self.fault.corrupt and number == 0:
                yield piece[:-1] + bytes([piece[-1] ^ 0xFF])
            else:
                yield piece
