"""The connections of this process to lenders: kept awake, looked after, and which of them is lost.

llama.cpp opens one to each lender whenever it needs one, waits in it for ever, and aborts where it breaks, without
saying which it was. A machine that is gone without a word breaks none for minutes: TCP asks an idle peer after two
hours, and resends what was not acknowledged for a quarter of an hour. So each connection that is found among this
process's files is asked within a second whether anybody is there, and looked at four times a second.

Who is slow is not lost: what counts is whether the other system acknowledges, which it does while its process computes,
stands still or reads nothing. (TCP_USER_TIMEOUT would not do: it also ends a connection whose peer does not read.)
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

_LOOK_SECONDS = 0.25
_SILENT_SECONDS = 2.2  # nothing heard for so long: with a look and the way to the user less than three
_ASKED_SECONDS = 1.0  # of them an answer was waited for: who was suspended itself has not asked
_IDLE_SECONDS = 1  # the least that systems take
_PROBES = 2  # unanswered, and the system gives up itself, where it does not tell what we look at
_MANY_PROBES = 60  # where it does, ours is the word: each look asks once

_TELLS = sys.platform == "linux"  # elsewhere nobody says what a connection has heard
_FOLDERS = ("/proc/self/fd", "/dev/fd")
# linux/tcp.h, struct tcp_info: eight bytes, of which the first is the state and the fourth counts probes that were not
# answered, then 32-bit numbers
_INFO = struct.Struct("=8B13I")
_STATE, _UNANSWERED, _UNACKNOWLEDGED, _DATA_HEARD, _ACK_HEARD = 0, 3, 8 + 4, 8 + 11, 8 + 12
_RTO_MAX_MS = 44  # linux/tcp.h, TCP_RTO_MAX_MS: also between questions whether it reads again, where a peer does not
_RXT_CONNDROPTIME, _RESENDING = 0x80, 3  # macOS, netinet/tcp.h: seconds that something is sent again, unanswered
_CLOSE, _CLOSE_WAIT = 7, 8  # include/net/tcp_states.h: broken; closed by the other side


@dataclass(slots=True)
class _Connection:
    """One that was found. asked_since: by time.monotonic, since when an answer is owed, None where none is."""

    lender: str
    inode: int
    asked_since: float | None = None


class Connections:
    """This process's connections to the lenders that it knows; on_lost hears of one that is lost, as long as it is.

    It is called from a thread of its own, which begins with the first lender.
    """

    def __init__(self, on_lost: Callable[[str], None]) -> None:
        self._on_lost = on_lost
        self._lenders: dict[tuple[str, int], str] = {}
        self._found: dict[int, _Connection] = {}  # by file descriptor
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def know(self, host: str, port: int, lender: str) -> None:
        """Look after connections to HOST:PORT from here on, as those to a lender of this name."""
        with contextlib.suppress(OSError):  # whoever connects will say so
            for *_, address in socket.getaddrinfo(host, port, socket.AF_INET, socket.SOCK_STREAM):
                self._lenders[str(address[0]), port] = lender
        if self._thread is None:
            self._thread = threading.Thread(target=self._look_after, name="connections", daemon=True)
            self._thread.start()

    @contextlib.contextmanager
    def unwatched(self) -> Iterator[None]:
        """Let nobody look meanwhile: for connections of our own, at whose end nothing is lost."""
        with self._lock:
            yield

    def lost(self) -> tuple[str, ...]:
        """Return the lenders that are lost, as far as that can be told now."""
        with self._lock:
            return tuple(dict.fromkeys(self._look(time.monotonic())))

    def _look_after(self) -> None:
        while True:
            time.sleep(_LOOK_SECONDS)
            with contextlib.suppress(OSError):  # as where no file can be opened just now: the next look is soon
                for lender in self.lost():
                    self._on_lost(lender)

    def _look(self, now: float) -> Iterator[str]:
        """Find what is new, ask who is quiet, and give the lenders whose connections are lost."""
        seen = dict(_sockets())
        for number in [number for number, one in self._found.items() if seen.get(number) != one.inode]:
            del self._found[number]
        for number, inode in seen.items():
            with contextlib.suppress(OSError), _copied(number, inode) as connection:
                if number not in self._found and not self._takes(number, inode, connection):
                    continue
                if _is_lost(self._found[number], connection, now):
                    yield self._found[number].lender

    def _takes(self, number: int, inode: int, connection: socket.socket) -> bool:
        """Whether a socket that is new is a connection to a lender, which is then kept awake."""
        peer = connection.getpeername()  # an error where it is not connected yet: the next look is soon
        lender = self._lenders.get(peer[:2]) if connection.family == socket.AF_INET else None
        if lender is None:
            return False
        _keep_awake(connection)
        self._found[number] = _Connection(lender, inode)
        return True


def _sockets() -> Iterator[tuple[int, int]]:
    """Give this process's sockets by number, with what tells each from others that have had the number."""
    folder = next(filter(os.path.isdir, _FOLDERS), None)
    for file in Path(folder).iterdir() if folder is not None else ():
        with contextlib.suppress(OSError, ValueError):  # closed meanwhile
            status = os.fstat(int(file.name))
            if stat.S_ISSOCK(status.st_mode):
                yield int(file.name), status.st_ino


@contextlib.contextmanager
def _copied(number: int, inode: int) -> Iterator[socket.socket]:
    """Give a socket for a moment: as long as there is a copy of it, who closes it does not end the connection."""
    duplicate = os.dup(number)
    try:
        if os.fstat(duplicate).st_ino != inode:
            raise OSError("another file has taken its number")
        copy = socket.socket(fileno=duplicate)
    except OSError:
        os.close(duplicate)
        raise
    with copy:
        yield copy


def _keep_awake(connection: socket.socket) -> None:
    """Let the system ask the other side whether it is there, where nothing was heard of it for a second."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options = {
        "TCP_KEEPALIVE": _IDLE_SECONDS,  # as macOS calls it
        "TCP_KEEPIDLE": _IDLE_SECONDS,
        "TCP_KEEPINTVL": 1,
        "TCP_KEEPCNT": _MANY_PROBES if _TELLS else _PROBES,
    }
    own = {"linux": (_RTO_MAX_MS, 1000), "darwin": (_RXT_CONNDROPTIME, _RESENDING)}.get(sys.platform)
    if own is not None:
        with contextlib.suppress(OSError):  # before Linux 6.15 the times between such questions double without end
            connection.setsockopt(socket.IPPROTO_TCP, *own)
    for name, value in options.items():
        with contextlib.suppress(OSError):
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _is_lost(known: _Connection, connection: socket.socket, now: float) -> bool:
    """Whether a connection is broken, or its other side owes an answer for too long."""
    if not _TELLS:
        return False  # the system ends it by what `_keep_awake` says, and llama.cpp notices
    info = _INFO.unpack(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO.size))
    if info[_STATE] in (_CLOSE, _CLOSE_WAIT):
        return True
    silent = min(info[_DATA_HEARD], info[_ACK_HEARD]) / 1000
    if silent >= _IDLE_SECONDS:
        # Linux asks at once where this is set and the time is over already (tcp.c, tcp_sock_set_keepidle_locked): so
        # that one probe that the network loses is not the end
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _IDLE_SECONDS)
    if not (info[_UNANSWERED] or info[_UNACKNOWLEDGED]):
        known.asked_since = None
        return False
    if known.asked_since is None or silent < now - known.asked_since:
        known.asked_since = now  # it was heard of meanwhile, and owes another answer
    return silent >= _SILENT_SECONDS and now - known.asked_since >= _ASKED_SECONDS
