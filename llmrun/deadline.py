"""An end to what is said on a connection: timeouts of sockets begin anew with every byte that comes."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def within(connection: socket.socket, seconds: float) -> Iterator[None]:
    """Break a connection off where what is done on it takes longer; raises TimeoutError then, whatever came of it."""
    is_late = threading.Event()

    def end() -> None:
        is_late.set()
        with contextlib.suppress(OSError):  # it was closed just now
            connection.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    except Exception as error:
        if is_late.is_set():
            raise TimeoutError(f"not done in {seconds:g} seconds") from error
        raise
    finally:
        timer.cancel()
    if is_late.is_set():
        raise TimeoutError(f"not done in {seconds:g} seconds")
