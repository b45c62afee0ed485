"""A server of this user's that is asked over HTTP: one question, or an answer that comes in lines.

The standard library's client: its import costs 30 ms, and no proxy of the environment comes between.
"""

from __future__ import annotations

import contextlib
import http
import http.client
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import urlsplit

from llmrun.engine.protocol import Failed
from llmrun.engine.wire import error_of
from llmrun.errors import EngineError, LLMRunError, ServerGoneError
from llmrun.servers.control import Line, decode, decode_line, encode
from llmrun.servers.note import Note

_T = TypeVar("_T")
CONNECTING = 5.0  # seconds that a connection to this machine may take at most
_LONGEST_LINE = 64 << 20  # bytes; as the longest message between engine and worker


class LineStream:
    """The lines of an answer as they come; to be closed, which ends the answer where it is not over."""

    def __init__(self, connection: http.client.HTTPConnection, where: str) -> None:
        self._connection, self._where = connection, where
        assert connection.sock is not None  # it is connected
        self._socket: socket.socket = connection.sock
        self._response: http.client.HTTPResponse | None = None

    def next(self) -> Line:
        """Wait for a line; raises ServerGoneError where it does not come, or what the server refused it with."""
        with _as_gone(self._where, "went away in the middle of an answer"):
            if self._response is None:
                self._response = self._connection.getresponse()
                _check(self._response, self._where)
            data = self._response.readline(_LONGEST_LINE)
        if not data.endswith(b"\n"):
            raise ServerGoneError(f"{self._where} went away in the middle of an answer", "ask again")
        return decode_line(data)

    def break_off(self) -> None:
        """Let the server see that nobody listens any more; a wait for a line ends. Safe in the handler of a signal."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Leave the connection."""
        self.break_off()
        if self._response is not None:
            self._response.close()
        self._connection.close()


class ServerClient:
    """Who gives orders to a server, by the key in its note."""

    def __init__(self, note: Note) -> None:
        self.note = note
        self.where = f"the server at {note.address}"

    def ask(self, path: str, kind: type[_T], body: Any = None, patience: float | None = None) -> _T:
        """Send a request (GET without a body) and return the answer; patience: seconds to wait for it, None is ever.

        Raises ServerGoneError where none comes, and what the server refused it with.
        """
        connection = self._connect(patience)
        try:
            with _as_gone(self.where, "does not answer"):
                self._send(connection, path, body)
                response = connection.getresponse()
                _check(response, self.where)
                data = response.read()
        finally:
            connection.close()
        return decode(data, kind)

    def stream(self, path: str, body: Any) -> LineStream:
        """Send a request and return the lines of its answer, before the first has come."""
        connection = self._connect(None)
        try:
            with _as_gone(self.where, "does not answer"):
                self._send(connection, path, body)
        except BaseException:
            connection.close()
            raise
        return LineStream(connection, self.where)

    def _connect(self, patience: float | None) -> http.client.HTTPConnection:
        parts = urlsplit(self.note.address)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=CONNECTING)
        with _as_gone(self.where, "is not there any more"):
            connection.connect()
            assert connection.sock is not None
            connection.sock.settimeout(patience)
        return connection

    def _send(self, connection: http.client.HTTPConnection, path: str, body: Any) -> None:
        headers = {"Authorization": f"Bearer {self.note.key}"}
        if body is None:
            connection.request("GET", path, headers=headers)
        else:
            connection.request("POST", path, encode(body), headers | {"Content-Type": "application/json"})


@contextmanager
def _as_gone(where: str, what: str) -> Iterator[None]:
    """Turn what connections die of into an error of ours."""
    try:
        yield
    except LLMRunError:
        raise
    except (OSError, http.client.HTTPException, ValueError) as error:  # the last: closed under a reader
        raise ServerGoneError(f"{where} {what}", "`llmrun ps` shows the servers that run") from error


def _check(response: http.client.HTTPResponse, where: str) -> None:
    """Raise what the server refused a request with."""
    if response.status == http.HTTPStatus.OK:
        return
    try:
        line = decode_line(response.read(_LONGEST_LINE))
    except EngineError:
        line = None
    if isinstance(line, Failed):
        raise error_of(line)
    raise EngineError(f"{where} refused: HTTP {response.status}", "--no-server does without it")
