"""The other server, which has the bytes: it knows signatures, and neither models nor tokens."""

from __future__ import annotations

import hashlib

from tests.hub_server.handler import Handler, Query


class CDNHandler(Handler):
    """A connection to the server that has the bytes."""

    origin = "cdn"

    def route(self, path: str, query: Query) -> None:
        """Send what the signature is for."""
        content = self.owner.content_of(query.get("Signature", [""])[0])
        if content is None or path != f"/xet-bridge-us/{content.sha256}":
            return self.deny()
        # 64 digits that are no checksum of anything anybody asked for
        etag = hashlib.md5(content.sha256.encode()).hexdigest() * 2
        return self.send_content(content, {"Content-Type": "application/octet-stream", "ETag": f'"{etag}"'})
