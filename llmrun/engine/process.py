"""The worker's process: started, spoken to, listened to, and its death explained."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import BinaryIO

from llmrun.engine.lost import find_lost, lenders_in
from llmrun.engine.protocol import Cancel, Command, Event, Failed, Phase, Ready, Work
from llmrun.engine.refusal import has_lost_a_server, parse_refusal
from llmrun.engine.sharing import Said, Shared
from llmrun.engine.spawn import spawn
from llmrun.engine.wire import FrameDecoder, encode
from llmrun.errors import EngineError, GGUFError, LenderLostError, LLMRunError, WorkerDiedError

LOG_LINES = 400  # kept of the engine's log
_TOLD_LINES = 6  # of them, told when it dies
_READ_BYTES = 1 << 16
_STUCK_SECONDS = 2.0  # that sending one command may take
_POLL_SECONDS = 0.2  # a wait without end could not be interrupted on Windows

_DOING = {
    "start": "while it started",
    "idle": "while it waited",
    "template": "while it prepared the conversation",
    "load": "while it loaded the model",
    "prefill": "while it read the prompt",
    "decode": "while it wrote the answer",
    "dry_run": "while it asked llama.cpp what the model would take",
    "devices": "while it looked at the devices",
    "measure": "while it measured this machine",
    "state": "while it kept or took back a conversation's state",
}


# What takes the events of a worker, all that came at once; an error is its end.
Sink = Callable[[Sequence[Event | Said | LLMRunError | None]], None]


class WorkerProcess:
    """A running worker. `on_log` is called with every line of the engine's log, from another thread.

    started: when it was begun, by time.perf_counter.
    """

    def __init__(self, on_log: Callable[[str], None] | None = None) -> None:
        self._on_log = on_log
        self._log: deque[str] = deque(maxlen=LOG_LINES)
        self._events: queue.SimpleQueue[Event | LLMRunError | None] = queue.SimpleQueue()
        self._sink: Sink | None = None
        self._phase = "start"
        self._lenders: tuple[str, ...] = ()  # that it has to do with
        self._ended: LLMRunError | None = None
        begun = spawn()
        self._process, self.started = begun.process, begun.at
        self._send_lock = threading.Lock()
        self._sink_lock = threading.Lock()
        self._is_silent = False  # all was heard that the worker will ever say
        self._threads = [
            threading.Thread(target=target, daemon=True) for target in (self._listen_events, self._listen_log)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def pid(self) -> int:
        """The worker's process id."""
        return self._process.pid

    def send(self, command: Command) -> None:
        """Send a command; a worker that is gone is noticed by `receive`, not here. Raises UsageError (see encode)."""
        if isinstance(command, Work):
            self._lenders = lenders_in(command) or self._lenders
        self.send_frame(encode(command))

    def send_frame(self, frame: bytes) -> None:
        """Send what was encoded before, as `send` does."""
        with self._send_lock, contextlib.suppress(OSError, ValueError):  # ValueError: the pipe is closed
            stdin = _pipe(self._process.stdin)
            stdin.write(frame)
            stdin.flush()

    @property
    def has_ended(self) -> bool:
        """Whether the worker is known to be gone."""
        return self._ended is not None or self._process.poll() is not None

    @property
    def death(self) -> LLMRunError | None:
        """What it died of, in words; None while it lives."""
        if self._ended is None and self._process.poll() is not None:
            self._ended = self._explain_death()
        return self._ended

    def receive(self) -> Event:
        """Wait for the next event; raises WorkerDiedError, or GGUFError where a template was the death of it."""
        if self._ended is not None:
            raise self._ended
        while True:
            with contextlib.suppress(queue.Empty):
                event = self._events.get(timeout=_POLL_SECONDS)
                break
        self._follow(event)
        if event is None or isinstance(event, LLMRunError):
            self._ended = event or self._explain_death()
            raise self._ended
        return event

    def divert(self, sink: Sink) -> None:
        """Give what the worker says to `sink` from here on, and not to `receive`: while it waits for a command.

        It is called from another thread with all that came together; the worker's death is the last of it, at once
        where it is dead already.
        """
        with self._sink_lock:
            self._sink = sink
            is_over = self._is_silent
        if is_over:  # who listened is gone, and has told nobody
            self._pass_on([None])

    def _follow(self, event: Event | LLMRunError | None) -> None:
        """Note what the worker does from here on, so that its death can be explained."""
        if isinstance(event, Phase):
            self._phase = event.name
        elif isinstance(event, Ready | Failed):
            self._phase = "idle"

    def close(self) -> None:
        """End the worker, whatever it is doing, and wait until it is gone."""
        if self._send_lock.acquire(timeout=_STUCK_SECONDS):
            self._send_lock.release()
        else:  # it does not read what it is sent, and whoever sends holds the pipe
            self._process.kill()
        with contextlib.suppress(OSError):
            _pipe(self._process.stdin).close()  # the worker ends at the end of its input
        try:
            self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(timeout=1)
        for pipe in (self._process.stdout, self._process.stderr):
            _pipe(pipe).close()

    def _listen_events(self) -> None:
        decoder = FrameDecoder()
        try:
            while data := os.read(_pipe(self._process.stdout).fileno(), _READ_BYTES):
                # a worker says no commands
                self._pass_on([m for m in decoder.feed(data) if not isinstance(m, Work | Cancel | Shared)])
        except EngineError as error:
            self._process.kill()
            self._pass_on([error])
        self._pass_on([None])

    def _pass_on(self, events: Sequence[Event | Said | LLMRunError | None]) -> None:
        with self._sink_lock:
            sink = self._sink
            self._is_silent |= None in events
        if sink is not None:
            for event in events:
                if not isinstance(event, Said):
                    self._follow(event)
            if None in events and self._ended is None:
                self._ended = self._explain_death()
            sink([self._ended if event is None else event for event in events])
            return
        for event in events:
            if not isinstance(event, Said):  # nobody asked for that here
                self._events.put(event)

    def _listen_log(self) -> None:
        for raw in _pipe(self._process.stderr):
            line = raw.decode("utf-8", "replace").rstrip()
            self._log.append(line)
            if self._on_log is None:
                continue
            try:
                self._on_log(line)
            except (OSError, ValueError):  # nobody reads it any more; the pipe must be drained all the same
                self._on_log = None

    def _explain_death(self) -> LLMRunError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1)
        self._threads[1].join(timeout=0.5)  # the last lines of the log
        log = tuple(line for line in self._log if line.strip(" ."))[-_TOLD_LINES:]
        # 1 is the exit code of the watchdog in worker.template_limits; a signal is another story
        if self._phase == "template" and self._process.returncode == 1:
            return GGUFError(
                "the model's chat template was stopped: it took more than 2 seconds or too much memory",
                "the file is faulty or hostile; `llmrun chat guide` always works",
            )
        if has_lost_a_server(log):
            return _lost(find_lost(log, self._lenders), _DOING[self._phase], log)
        how, hint = _how_it_ended(self._process.returncode)
        number = _signal_of(self._process.returncode)
        # who is killed has no last words: what stands in the log is of an earlier load
        refusal = None if number == signal.SIGKILL else parse_refusal(log)
        return WorkerDiedError(f"the engine's process {how} {_DOING[self._phase]}", hint, log, number, refusal)


def _lost(lenders: tuple[str, ...], when: str, log: tuple[str, ...]) -> LenderLostError:
    names, verb = " and ".join(lenders) or "a lender", "are" if len(lenders) > 1 else "is"
    return LenderLostError(
        f"{names} {verb} gone: the engine lost what was lent {when}",
        "see that `llmrun lend` runs there, or leave that device out",
        lenders,
        log,
    )


def _pipe(pipe: object) -> BinaryIO:
    assert pipe is not None  # Popen was asked for all three
    return pipe  # type: ignore[return-value]


def _signal_of(returncode: int | None) -> int | None:
    return -returncode if returncode is not None and returncode < 0 else None


def _how_it_ended(returncode: int | None) -> tuple[str, str | None]:
    if returncode is None or returncode >= 0:
        return f"ended with exit code {returncode}", "run again with --verbose to see its whole log"
    try:
        name = signal.Signals(-returncode).name
    except ValueError:
        name = f"signal {-returncode}"
    if name == "SIGKILL":
        return f"was killed ({name})", "if nobody did that, memory ran out: try a smaller --ctx or a smaller file"
    if name == "SIGILL":
        from llmrun.doctor.rebuilding import rebuild_hint  # here: who lives needs nothing of it

        return f"met an illegal instruction ({name})", f"the engine was built for another processor: {rebuild_hint()}"
    return f"crashed ({name})", "the file may be damaged, or this is a fault of the engine: see its last words above"
