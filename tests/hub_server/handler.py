"""What both servers do with a request: write it down, let a fault strike, answer."""

from __future__ import annotations

import http.server
import json
import socket
import struct
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.hub_server.fault import LOGIN_PAGE, Fault

if TYPE_CHECKING:
    from tests.hub_server.server import HubServer, Request

JSON = "application/json; charset=utf-8"


class Handler(http.server.BaseHTTPRequestHandler):
    """A request; `origin` says to which of the two servers."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one packet, or each request takes 40 ms
    disable_nagle_algorithm = True
    owner: HubServer
    origin: str
    fault: Fault
    record: Request

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name in the base
        """Say nothing: the owner's log has it."""

    def do_GET(self) -> None:
        """Answer, unless a fault is in the way."""
        address = urlsplit(self.path)
        path = unquote(address.path)
        length = int(self.headers.get("Content-Length") or 0)
        self.payload = self.rfile.read(length)
        self.record = self.owner.written_down(self, path)
        self.fault = self.owner.struck_by(self.origin, self.command, path)
        if self._is_struck():
            return
        self.route(path, {name: values[0] for name, values in parse_qs(address.query, keep_blank_values=True).items()})

    do_HEAD = do_GET  # noqa: N815 - the names http.server looks for
    do_POST = do_GET  # noqa: N815

    def route(self, path: str, query: Mapping[str, str]) -> None:
        """Answer a request that nothing is wrong with."""
        raise NotImplementedError

    def _is_struck(self) -> bool:
        fault = self.fault
        if fault.hang:
            self.owner.ending.wait()
        if fault.hang or fault.drop:
            self.close_connection = True
            return True
        if fault.page:
            self.reply(200, LOGIN_PAGE, content_type="text/html; charset=utf-8")
            return True
        if fault.status is not None:
            self.reply(fault.status, fault.body)
            return True
        return False

    def reply(
        self, status: int, body: bytes | object, headers: Mapping[str, str] = {}, content_type: str = JSON
    ) -> None:
        """Answer with a body that is at hand."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.begin(status, {"Content-Type": content_type, "Content-Length": str(len(data)), **headers})
        if self.command != "HEAD":
            self.wfile.write(data)

    def refuse(self, status: int, code: str, message: str, headers: Mapping[str, str] = {}) -> None:
        """Answer with an error as the Hub writes it."""
        self.reply(status, {"error": message}, {**headers, "X-Error-Code": code, "X-Error-Message": message})

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """Send status and headers, with what a fault changes in them."""
        self.record.status = status
        self.send_response(status)
        for name, value in {**headers, **self.fault.headers}.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()

    def send_pieces(self, pieces: Iterable[bytes]) -> None:
        """Send a body as it is made, as far as the fault lets it."""
        limit = self.fault.cut
        for piece in pieces:
            if self.fault.slow:
                self.owner.ending.wait(self.fault.slow)
            sent = piece if limit is None else piece[: max(0, limit - self.record.sent)]
            try:
                self.wfile.write(sent)
            except OSError:  # whoever asked has gone
                self.close_connection = True
                return
            self.record.sent += len(sent)
            if limit is not None and self.record.sent >= limit:
                self._break_off()
                return

    def _break_off(self) -> None:
        self.wfile.flush()
        if self.fault.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        self.close_connection = True
