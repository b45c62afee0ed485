"""What both servers do with a request: write it down, let a fault strike, answer."""

from __future__ import annotations

import http.server
import json
import re
import socket
import struct
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.hub_server.content import Content, of_bytes
from tests.hub_server.fault import LOGIN_PAGE, Fault
from tests.hub_server.request import Origin, Request

if TYPE_CHECKING:
    from tests.hub_server.server import HubServer

JSON = "application/json; charset=utf-8"
TEXT = "text/plain; charset=utf-8"
_ACCESS_DENIED = b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>AccessDenied</Code></Error>'
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
Query = Mapping[str, list[str]]


class Handler(http.server.BaseHTTPRequestHandler):
    """A connection to one of the two servers, and the requests that come on it."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one packet, or each request takes 40 ms
    disable_nagle_algorithm = True
    owner: HubServer
    origin: Origin
    fault: Fault
    record: Request
    payload: bytes

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name in the base
        """Say nothing: the owner's log has it."""

    def do_GET(self) -> None:
        """Answer, unless a fault is in the way."""
        address = urlsplit(self.path)
        path, wanted = unquote(address.path), self.headers.get("Range")
        self.payload = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        token = self.headers.get("Authorization")
        self.record = Request(self.origin, self.command, path, wanted, token, query=address.query)
        self.fault = self.owner.struck_by(self.record)
        if not self._is_struck():
            self.route(address.path, parse_qs(address.query, keep_blank_values=True))
        self.owner.answered(self.record)

    do_HEAD = do_GET  # noqa: N815 - the names http.server looks for
    do_POST = do_GET  # noqa: N815

    def route(self, path: str, query: Query) -> None:
        """Answer a request; path: as it was sent, with its %2F."""
        raise NotImplementedError

    def _is_struck(self) -> bool:
        """Let a fault take the place of the answer; return whether it did."""
        if self.fault.hang:
            self._wait_until_they_go()
        elif self.fault.drop:
            self.close_connection = True
        elif self.fault.page:
            self.reply(HTTPStatus.OK, LOGIN_PAGE, content_type="text/html; charset=utf-8")
        elif self.fault.expired:
            self.deny()
        elif self.fault.status is not None:
            self.reply(self.fault.status, self.fault.body)
        else:
            return False
        return True

    def _wait_until_they_go(self) -> None:
        self.rfile.read(1)  # or until the owner ends, and shuts all connections
        self.close_connection = True

    def deny(self) -> None:
        """Answer as to a signature that is no good."""
        self.reply(HTTPStatus.FORBIDDEN, _ACCESS_DENIED, content_type="application/xml")

    def refuse(self, status: int, code: str, message: str, headers: Mapping[str, str] = {}) -> None:
        """Answer with an error as the Hub writes it."""
        self.reply(status, {"error": message}, {**headers, "X-Error-Code": code, "X-Error-Message": message})

    def reply(self, status: int, body: Any, headers: Mapping[str, str] = {}, content_type: str = JSON) -> None:
        """Answer with bytes, or with a value as JSON."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self._send(status, of_bytes(data), (0, len(data)), {"Content-Type": content_type, **headers})

    def send_content(self, content: Content, headers: Mapping[str, str]) -> None:
        """Answer with a file, or with the part of it that is asked for."""
        part = None if self.fault.no_range else _part(self.headers.get("Range"), content.size)
        told = {"Accept-Ranges": "bytes", **headers}
        if part is None:
            return self._send(HTTPStatus.OK, content, (0, content.size), told)
        start, end = part
        if start >= end or self.fault.refuse_range:
            refusal = {"Content-Range": f"bytes */{content.size}", **told}
            return self.reply(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, b"", refusal, TEXT)
        told["Content-Range"] = f"bytes {start}-{end - 1}/{content.size}"
        return self._send(HTTPStatus.PARTIAL_CONTENT, content, part, told)

    def _send(self, status: int, content: Content, part: tuple[int, int], headers: Mapping[str, str]) -> None:
        start, end = part
        if self.fault.short is not None:
            end = min(end, start + self.fault.short)
        self.record.status = status
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(end - start), **self.fault.headers}.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self._send_body(self.fault.spoil(content.pieces(start, end)))

    def _send_body(self, pieces: Iterator[bytes]) -> None:
        try:
            for piece in pieces:
                if self.fault.slow:
                    self.wfile.flush()
                    self.owner.ending.wait(self.fault.slow)
                self.record.sent += len(piece)  # before they have it: who has all of it may look at once
                self.wfile.write(piece)
            if self.fault.cut is not None:
                self._break_off()
        except OSError:  # whoever asked has gone
            self.close_connection = True

    def _break_off(self) -> None:
        self.wfile.flush()
        if self.fault.stall:
            self._wait_until_they_go()
        if self.fault.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        self.close_connection = True


def _part(wanted: str | None, size: int) -> tuple[int, int] | None:
    """Return the bytes that a Range asks for, None where it asks for all; from and to are one where it has none."""
    match = _RANGE.fullmatch(wanted or "")
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        return max(0, size - int(last)), size
    return min(int(first), size), min(int(last) + 1, size) if last else size
