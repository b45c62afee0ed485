"""The process that serves devices: started, asked what is lent, its death explained."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO

from llmrun.engine.spawn import environment_of
from llmrun.errors import EngineError, LLMRunError, UsageError
from llmrun.lending.words import ASK_HELD, ASK_MEMORY, Listening, Memory, NoServer, Word, parse_word

_SECONDS_TO_START = 120.0  # a driver and its cards take their time
_SECONDS_TO_ANSWER = 3.0
_SECONDS_TO_ASK = 0.2  # whether it is still wanted
_SECONDS_TO_END = 2.0
_LOG_LINES = 100
_SIGKILL = 9  # has no name on Windows
_CHATTER = ("Accepted client connection", "Client connection closed", "Starting RPC server", "Devices:", "  ")


@dataclass(frozen=True, slots=True)
class Lending:
    """What is to be lent. address: in numbers. devices: as ggml calls them, None is the GPUs or else the CPU.

    memory: bytes of each device, None is all that the machine can spare. cache: a folder for tensors that came once.
    """

    address: str
    port: int
    devices: tuple[str, ...] | None
    memory: int | None
    n_threads: int
    cache: str | None

    def command(self) -> list[str]:
        """Return what starts such a server."""
        words = [sys.executable, "-P", "-m", "llmrun.worker.rpc_server", f"{self.address}:{self.port}", "--lender"]
        words += ["--threads", str(self.n_threads)]
        words += [word for name in self.devices or () for word in ("--device", name)]
        words += [] if self.memory is None else ["--memory", str(self.memory)]
        return words + ([] if self.cache is None else ["--cache", self.cache])


class DeviceServer:
    """A running server. listening: what it offers. on_log gets every line of its log, from another thread."""

    def __init__(
        self, lending: Lending, on_log: Callable[[str], None], is_wanted: Callable[[], bool] = lambda: True
    ) -> None:
        """Start it, and wait until it answers; raises UsageError or EngineError that says why it does not.

        is_wanted is asked now and then while it starts: where it is not wanted any more, that is an EngineError too.
        """
        self._on_log, self._is_wanted = on_log, is_wanted
        self._log: deque[str] = deque(maxlen=_LOG_LINES)
        self._words: queue.SimpleQueue[Word | LLMRunError | None] = queue.SimpleQueue()
        self._asking = threading.Lock()
        try:
            self._process = subprocess.Popen(
                lending.command(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment_of(os.environ),
            )
        except OSError as error:
            raise EngineError(f"the device server could not be started: {error.strerror}") from error
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._hear, self._hear_log)]
        for thread in self._threads:
            thread.start()
        try:
            self.listening = self._begin()
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        """Whether it is gone."""
        return self._process.poll() is not None

    def memory(self) -> Memory:
        """Ask what is lent and what is free now; raises EngineError where nobody answers."""
        return self._ask(ASK_MEMORY)

    def held(self) -> int:
        """Ask how many bytes are lent, of all devices; raises EngineError where nobody answers."""
        return sum(self._ask(ASK_HELD).held)

    def _ask(self, question: bytes) -> Memory:
        with self._asking:
            if self.has_ended:
                raise EngineError("the device server has ended")
            while not self._words.empty():  # an answer that came too late for who had asked
                self._words.get()
            with contextlib.suppress(OSError, ValueError):  # it is gone: there will be no answer
                _pipe(self._process.stdin).write(question)
                _pipe(self._process.stdin).flush()
            word = self._next(_SECONDS_TO_ANSWER)
        if isinstance(word, Memory) and (word.free or question != ASK_MEMORY):
            return word
        raise EngineError("the device server does not answer")

    def death(self) -> str:
        """Say what it died of, in words that follow "the device server"."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_SECONDS_TO_END)
        self._threads[1].join(_SECONDS_TO_END)  # the last lines of its log
        last = next((line for line in reversed(self._log) if line and not line.startswith(_CHATTER)), "")
        code = self._process.returncode
        # who is killed has no last words: what stands in the log is of something earlier
        return _ending(code) + (f": {last}" if last and code != -_SIGKILL else "")

    def close(self) -> None:
        """End it, whatever it is doing, and wait until it is gone."""
        with contextlib.suppress(OSError):
            _pipe(self._process.stdin).close()  # it ends at the end of its input
        try:
            self._process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for thread in self._threads:
            thread.join(_SECONDS_TO_END)
        for pipe in (self._process.stdout, self._process.stderr):
            _pipe(pipe).close()

    def _begin(self) -> Listening:
        give_up = time.monotonic() + _SECONDS_TO_START
        while (word := self._next(_SECONDS_TO_ASK)) is None and time.monotonic() < give_up and not self.has_ended:
            if not self._is_wanted():
                raise EngineError("the device server is not wanted any more")
        if word is None and self.has_ended:  # its last word may have come since
            word = self._next(_SECONDS_TO_END)
        if isinstance(word, Listening):
            return word
        if isinstance(word, NoServer):
            raise (UsageError if word.usage else EngineError)(word.message, word.hint)
        raise EngineError(f"the device server {self.death()}", "`llmrun doctor` looks at the engine")

    def _next(self, seconds: float) -> Word | None:
        """Wait for the next word; None is the server's end, or that it says nothing."""
        try:
            word = self._words.get(timeout=seconds)
        except queue.Empty:
            return None
        if isinstance(word, LLMRunError):
            raise word
        return word

    def _hear(self) -> None:
        for line in _pipe(self._process.stdout):
            try:
                self._words.put(parse_word(line))
            except LLMRunError as error:
                self._words.put(error)
        self._words.put(None)

    def _hear_log(self) -> None:
        for raw in _pipe(self._process.stderr):
            line = raw.decode("utf-8", "replace").rstrip()
            self._log.append(line)
            with contextlib.suppress(OSError, ValueError):  # nobody reads it any more; the pipe must be drained
                self._on_log(line)


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None  # Popen was asked for all three
    return pipe


def _ending(code: int | None) -> str:
    if code is None:
        return "does not answer"
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was killed ({name})" if code == -_SIGKILL else f"crashed ({name})"
