"""The worker's loop: commands in on one pipe, events out on the other, llama.cpp in between.

It ignores Ctrl-C, which is for the program the user talks to; ends when that program is gone; and offers itself first
when the system runs out of memory.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from llmrun.engine.protocol import Cancel, Event, Ready, Work
from llmrun.engine.sharing import Said, Shared, Withdraw
from llmrun.engine.wire import FrameDecoder, encode, failure_of
from llmrun.errors import LLMRunError
from llmrun.worker.bindings import skip_high_level
from llmrun.worker.desk import Desk, Emit

if TYPE_CHECKING:
    from llmrun.worker.runner import Runner

_READ_BYTES = 1 << 16


def main() -> None:
    """Serve the parent until it closes its end of the pipe."""
    started = time.perf_counter()
    commands_in, events_out = _take_pipes()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _volunteer_for_the_oom_killer()

    def emit(event: Event | Said, *, flush: bool = True) -> None:
        events_out.write(encode(event))
        if flush:
            events_out.flush()

    runner = _start_runner(emit)
    if runner is None:
        return
    commands: queue.SimpleQueue[Work | Shared] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(commands_in, commands, runner), daemon=True).start()
    threading.Thread(target=_watch_parent, daemon=True).start()
    emit(Ready(time.perf_counter() - started))
    desk = Desk(runner, commands, emit)
    while True:
        desk.work()
        events_out.flush()


def _start_runner(emit: Emit) -> Runner | None:
    """Import llama.cpp and start it; where that fails the parent is told why, and None is returned."""
    try:
        skip_high_level()
        from llmrun.worker.runner import Runner  # here, because it loads llama.cpp

        return Runner(emit)
    except LLMRunError as error:
        emit(failure_of(error))
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        from llmrun.doctor.rebuilding import not_started  # here: who starts needs nothing of it

        emit(failure_of(not_started(error)))
    return None


def _take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Keep stdin and stdout to ourselves: whatever a library prints goes to stderr, and can break no frame."""
    commands_in = os.fdopen(os.dup(0), "rb", buffering=0)
    events_out = os.fdopen(os.dup(1), "wb")
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    return commands_in, events_out


def _volunteer_for_the_oom_killer() -> None:
    """Let the system kill the worker and not the chat; Linux only, and not worth failing for."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("800")


def _listen(commands_in: BinaryIO, commands: queue.SimpleQueue[Work | Shared], runner: Runner) -> None:
    """Pass commands on; a cancel acts at once, from this thread. The end of the pipe is the end of the worker."""
    decoder, cancel = FrameDecoder(), runner.cancel
    try:
        while data := commands_in.read(_READ_BYTES):
            for message in decoder.feed(data):
                if isinstance(message, Cancel):
                    cancel.set()
                elif isinstance(message, Work):
                    cancel.clear()  # here, in the order of the pipe: a cancel that came too late is not for this one
                    commands.put(message)
                elif isinstance(message, Shared):
                    commands.put(message)  # first, so that who is interrupted finds it
                    batcher = runner.batcher
                    if isinstance(message, Withdraw) and batcher is not None and batcher.alone == message.id:
                        cancel.set()
    finally:
        os._exit(0)  # the parent is gone or talks nonsense: nobody waits for an answer or a clean end


def _watch_parent() -> None:
    """End with the parent also where a process it forked still holds the pipe open."""
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(0)


if __name__ == "__main__":
    main()
