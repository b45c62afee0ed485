"""What a command does first: begin the worker that it will need, before anything else is imported.

The worker imports llama.cpp while the program imports itself, reads the command line and plans. Nothing may stand here
that takes time before that.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

INTERRUPTED = 130  # the exit code: 128 + SIGINT, the shell's convention
_ANSWERING = frozenset({"chat", "run"})  # commands that load a model, unless a server has it
_ASKING = frozenset({"--help", "-h"})


def will_load(arguments: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Tell whether a command line is about to load a model, as far as that is seen at once.

    Who is wrong about it loses the start of a process, and nothing else.
    """
    if not arguments or arguments[0] not in _ANSWERING or "_LLMRUN_COMPLETE" in environment:
        return False
    return _ASKING.isdisjoint(arguments) and (arguments[0] == "chat" or len(arguments) > 1)


def begin_worker() -> None:
    """Begin the worker of a command that will need one."""
    if will_load(sys.argv[1:], os.environ):
        from llmrun.engine.spawn import begin

        begin()
