"""A lender: its device server kept alive, who borrows watched and told, the status made of both."""

from __future__ import annotations

import contextlib
import math
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from llmrun import __version__
from llmrun.errors import EngineError, LLMRunError
from llmrun.hardware.connections import read_clients
from llmrun.lending.borrower import Borrowing, Look, follow
from llmrun.lending.cache import TensorCache
from llmrun.lending.device_server import DeviceServer, Lending
from llmrun.lending.status import LentDevice, Status

_POLL_SECONDS = 0.5
_LONGEST_PAUSE = 60.0  # seconds before a server that dies again and again is started again
_SECONDS_TO_CLOSE = 5.0
_MANY_DEATHS = 4


@dataclass(frozen=True, slots=True)
class Listeners:
    """Who hears of a lender. tell: lines for people; log: the device server's log; failed: it cannot go on."""

    tell: Callable[[str], None]
    log: Callable[[str], None]
    failed: Callable[[EngineError], None]


class Lender:
    """Lends from construction on, until it is closed; raises what DeviceServer raises."""

    def __init__(self, lending: Lending, cache: TensorCache | None, listeners: Listeners) -> None:
        """cache: which is open; Lending.cache is its path, or None as well."""
        self._lending, self._listeners = lending, listeners
        self._cache = cache
        self._server = DeviceServer(lending, listeners.log)
        self.listening = self._server.listening
        self._deaths, self._died = 0, -math.inf  # in a row; when the last one was
        self._borrowing: Borrowing | None = None
        self._seen: tuple[str, int] | None = None  # the last client, whether it is still here or not
        self._ending = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def status(self) -> Status:
        """Return what is lent and free now; raises EngineError where the device server does not answer."""
        server = self._server
        client, memory = self._client(server), server.memory()
        client = client or self._leaving(sum(memory.held))
        return Status(
            llmrun=__version__,
            engine=self.listening.engine,
            rpc=self.listening.rpc,
            host=socket.gethostname(),
            devices=tuple(
                LentDevice(device.id, device.name, device.backend, device.kind, device.total, free)
                for device, free in zip(self.listening.devices, memory.free, strict=True)
            ),
            cache=self._cache is not None,
            client=None if client is None else client[0],
        )

    def close(self) -> None:
        """End the device server; who borrows loses what it has."""
        self._ending.set()
        self._watcher.join(_SECONDS_TO_CLOSE)  # what it starts just now ends with this process
        if self._cache is not None:
            self._cache.settle(self._is_idle)  # first: a server that ends may leave a tensor that it was writing
        self._server.close()
        if self._cache is not None:
            self._cache.close()

    def _client(self, server: DeviceServer) -> tuple[str, int] | None:
        found = next(iter(read_clients(server.pid, self._lending.port)), None)
        self._seen = found or self._seen
        return found

    def _leaving(self, held: int) -> tuple[str, int] | None:
        """Return who was here last where the server has not freed all of it yet: it may still be writing a tensor."""
        return self._seen if held else None

    def _is_idle(self) -> bool:
        with contextlib.suppress(EngineError):
            return self._client(self._server) is None and self._server.held() == 0
        return False

    def _watch(self) -> None:
        while not self._ending.wait(_POLL_SECONDS):
            if self._server.has_ended:
                try:
                    self._revive()
                except LLMRunError as error:
                    self._listeners.failed(EngineError(error.message, error.hint))
                    return
                continue
            with contextlib.suppress(EngineError):  # it died just now, or is busy: the next look tells
                client, held = self._client(self._server), self._server.held()
                self._follow(Look(client or self._leaving(held), held))

    def _follow(self, look: Look) -> None:
        before = self._borrowing
        self._borrowing, lines = follow(before, look, time.monotonic())
        if self._cache is not None and self._borrowing is not None:
            self._cache.bound()
        elif self._cache is not None and before is not None:
            self._cache.settle(self._is_idle)
        for line in lines:
            self._tell(line)

    def _revive(self) -> None:
        """Start a server in the place of one that died, later each time: somebody may have it die again and again.

        Returns without one once the lender is to end; raises UsageError where there can be none any more.
        """
        how = self._server.death()
        self._server.close()
        was, self._borrowing = self._borrowing, None
        whom = "" if was is None else f"; {was.client[0]} has to load its model again"
        if self._cache is not None:
            self._cache.open()  # a tensor that was being written is not whole
        while True:
            pause = self._pause()
            if pause:
                self._tell(f"the device server {how}: it is started again in {pause:.0f} s{whom}")
            if self._ending.wait(pause):
                return
            try:
                self._server = DeviceServer(self._lending, self._listeners.log, lambda: not self._ending.is_set())
                break
            except EngineError as error:  # it died again before it answered
                how = error.message.removeprefix("the device server ")
        if not pause:
            self._tell(f"the device server {how}: it was started again{whom}")

    def _tell(self, line: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # nobody reads it any more: who borrows goes on
            self._listeners.tell(line)

    def _pause(self) -> float:
        """Count a death, and return the seconds to wait; tells once what it may be."""
        now = time.monotonic()
        self._deaths = self._deaths + 1 if now - self._died < 2 * _LONGEST_PAUSE else 1
        self._died = now
        if self._deaths == _MANY_DEATHS:
            self._tell(
                "it died again and again: the borrower may have another version of llama.cpp; "
                "the same llmrun belongs on both machines"
            )
        return pause_after(self._deaths)


def pause_after(deaths: int) -> float:
    """Return the seconds to wait before the next start, after so many deaths in a row. Pure."""
    return 0.0 if deaths < 2 else min(_LONGEST_PAUSE, 2.0 ** min(deaths - 2, 10))
