"""The server's life: a socket bound, the application run on it, an end in which answers may finish."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import math
import os
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from llmrun.console import one_line
from llmrun.errors import UsageError
from llmrun.server.connection import Connection
from llmrun.server.limits import MAX_HEADERS, SECONDS_IDLE
from llmrun.server.origins import is_loopback

_BACKLOG = 2048
_FOR_ALL = 1024  # the first port that needs no right of its own
# SIGHUP is the end of the terminal that it was started from; there is none on Windows
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens; port 0 is any that is free."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


def bind(address: Address, *, open_to_others: bool = True) -> socket.socket:
    """Return a socket that listens there.

    open_to_others: whether it may be an address that other machines can reach. Raises UsageError where it may not, or
    where nothing can listen.
    """
    family, where = _resolve(address)
    if not open_to_others and not is_loopback(where[0]):
        raise UsageError(
            f"{address.host} can be reached from other machines, and no API key is asked for",
            "--api-key new makes a key; --insecure serves whoever comes",
        )
    listener = socket.socket(family, socket.SOCK_STREAM)
    if os.name == "posix":  # on Windows it would let another program take the port as well
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(where)
        listener.listen(_BACKLOG)
    except (OSError, OverflowError) as error:
        listener.close()
        raise refused_by(address, error) from error
    return listener


def refused_by(address: Address, error: OSError | OverflowError) -> UsageError:
    """Return why nothing can listen at an address, with what helps against that."""
    number = getattr(error, "errno", None)
    what = f"{address} cannot be listened at"
    if number == errno.EADDRINUSE:
        hint = "another server may be there: `llmrun ps` shows ours, `--port 0` takes any that is free"
        return UsageError(f"{what}: the port is in use", hint)
    if number == errno.EADDRNOTAVAIL:
        return UsageError(f"{what}: this machine has no such address", "--host 0.0.0.0 is all that it has")
    if number in (errno.EACCES, errno.EPERM) and 0 < address.port < _FOR_ALL:
        return UsageError(f"{what}: ports below {_FOR_ALL} are for root", "--port 8080")
    return UsageError(f"{what}: {getattr(error, 'strerror', None) or error}", "--port 0 takes any that is free")


def _resolve(address: Address) -> tuple[socket.AddressFamily, tuple[str, int]]:
    """Return what a host's name stands for; one of several that are meant is as good as another."""
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise UsageError(
            f"{address.host!r} is no address of this machine", "--host takes a name or an address: 127.0.0.1, 0.0.0.0"
        ) from error
    family, _, _, _, where = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    return family, (str(where[0]), int(where[1]))


def address_of(listener: socket.socket) -> Address:
    """Return where a socket really listens."""
    host, port = listener.getsockname()[:2]
    return Address(host, port)


class _Server(uvicorn.Server):
    """Ends in order at a signal; uvicorn's own raises the signal once more afterwards, as if it had been in vain.

    on_ending: called when it is first asked to, perhaps in the handler of a signal.
    """

    def __init__(self, config: uvicorn.Config, on_ending: Callable[[], object]) -> None:
        super().__init__(config)
        self._on_ending = on_ending

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Be asked to end by signals, for as long as the server runs."""
        wanted = [number for number in _SIGNALS if not _is_ignored(number)]
        before = {number: signal.signal(number, self.handle_exit) for number in wanted}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End: at the first signal in order, at the second at once."""
        del sig, frame
        if not self.should_exit:
            self.should_exit = True
            self._on_ending()
            return
        self.force_exit = True
        for connection in list(self.server_state.connections):
            if isinstance(connection, Connection):
                connection.cut()


def _is_ignored(number: int) -> bool:
    """Whether who started it wants it to outlive its terminal, as nohup does."""
    return number == getattr(signal, "SIGHUP", None) and signal.getsignal(number) == signal.SIG_IGN


@dataclass(frozen=True, slots=True)
class Life:
    """on_ready: called once clients are answered. log: gets what the HTTP server has to say, line by line.

    patience: seconds that answers have to finish when it is to end. on_made: gets a function that ends it in order.
    connection: what each client gets. on_ending: called once when it begins to end, in the event loop.
    """

    on_ready: Callable[[], None]
    log: Callable[[str], None]
    patience: float
    on_made: Callable[[Callable[[], None]], None] = lambda _: None
    connection: type[Connection] = Connection
    on_ending: Callable[[], None] = lambda: None


async def serve(app: ASGIApp, listener: socket.socket, life: Life) -> None:
    """Serve until SIGINT, SIGTERM or SIGHUP, or until it is ended otherwise."""
    _redirect_log(life.log)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        http=life.connection,
        loop="asyncio",
        ws="none",
        server_header=False,
        proxy_headers=False,
        backlog=_BACKLOG,
        timeout_keep_alive=SECONDS_IDLE,
        h11_max_incomplete_event_size=MAX_HEADERS,
        timeout_graceful_shutdown=max(1, math.ceil(life.patience)),
    )
    loop = asyncio.get_running_loop()
    server = _Server(config, lambda: loop.call_soon_threadsafe(life.on_ending))  # no words in a signal's handler
    life.on_made(lambda: server.handle_exit(signal.SIGTERM, None))
    running = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started and not running.done():
        await asyncio.sleep(0.01)
    if server.started:
        life.on_ready()
    await running


class _Lines(logging.Handler):
    def __init__(self, log: Callable[[str], None]) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        self._log(one_line(f"http: {record.getMessage().strip()}"))


def _redirect_log(log: Callable[[str], None]) -> None:
    """Let what the HTTP server says go where our own words go, without tracebacks: they could hold what was asked."""
    logger = logging.getLogger("uvicorn.error")
    logger.handlers = [_Lines(log)]
    logger.propagate = False
    logger.setLevel(logging.WARNING)
