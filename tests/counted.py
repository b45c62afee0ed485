"""A connection that is counted: between a borrower and a lender, every byte either way."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from types import TracebackType


class Counted:
    """Listens at `port`, and hands everything on to another port of this machine; use as a context manager.

    sent, received: bytes to that port, and from it.
    """

    def __init__(self, to: int) -> None:
        self.sent = self.received = 0
        self._to = to
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._open: list[socket.socket] = []

    @property
    def id(self) -> str:
        """The device behind it, as settings name it."""
        return f"rpc:127.0.0.1:{self.port}"

    def __enter__(self) -> Counted:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for one in (self._listening, *self._open):
            _end(one)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listening.accept()
                far = socket.create_connection(("127.0.0.1", self._to))
                for one in (near, far):
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._open += (near, far)
                threading.Thread(target=self._upward, args=(near, far), daemon=True).start()
                threading.Thread(target=self._downward, args=(far, near), daemon=True).start()

    def _upward(self, near: socket.socket, far: socket.socket) -> None:
        for data in _pieces(near):
            self.sent += len(data)
            if not _hand_on(far, data):
                break
        _end(far)

    def _downward(self, far: socket.socket, near: socket.socket) -> None:
        for data in _pieces(far):
            self.received += len(data)
            if not _hand_on(near, data):
                break
        _end(near)


def _pieces(source: socket.socket) -> Iterator[bytes]:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 18):
            yield data


def _hand_on(to: socket.socket, data: bytes) -> bool:
    try:
        to.sendall(data)
    except OSError:
        return False
    return True


def _end(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()
