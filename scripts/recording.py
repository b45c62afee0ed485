"""A session with the chat as it stands on an 80-column screen, for the README: real keys, the real program."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Sequence

from scripts.terminal import Terminal

_ENTER, _PROMPT = "\r", r"^>>>[^\n]*\n\s*[^\n]* tokens[^\n]*\Z"
_FIRST = (
    "what is a kv cache?",
    "can i run a model without a gpu?",
    "/context",
    "/set temp 0.2",
    "/save first-steps",
    "/exit",
)
_SECOND = ("and on the CPU and the GPU together?",)


def recorded_session() -> str:
    """Return two chats with guide, the second going on where the first ended; what differs by machine is left out."""
    with tempfile.TemporaryDirectory() as home:
        first = _record(home, ("chat", "guide"), _FIRST)
        second = _record(home, ("chat", "--continue"), _SECOND)
    return f"$ llmrun chat guide\n{first}\n$ llmrun chat --continue\n{second}"


def _record(home: str, command: Sequence[str], keys: Sequence[str]) -> str:
    places = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"), home)
    env = {**os.environ, **places, "TERM": "xterm-256color"}
    for name in ("COLUMNS", "LINES", "EDITOR", "VISUAL", "NO_COLOR"):
        env.pop(name, None)
    arguments = [sys.executable, "-P", "-m", "llmrun.cli.main", *command, "--temp", "0", "-t", "1"]
    with Terminal(arguments, env, 80, 30) as terminal:
        terminal.wait_for(_PROMPT)
        for line in keys:
            terminal.send(line + _ENTER)
            if line != "/exit":
                terminal.wait_for(re.escape(line) + r"[\s\S]*\n" + _PROMPT)
        if keys[-1] == "/exit":
            terminal.wait_for_end()
        return _same_everywhere(terminal.lines())


def _same_everywhere(lines: Sequence[str]) -> str:
    """The lines without the story of the machine, without the empty ones of the screen, and without speeds."""
    told = [
        line for line in lines if line.strip() and not re.match(r"(looking for|machine|model|runs|speed|  )\s", line)
    ]
    return "\n".join(re.sub(r"[\d,.]+ tok/s", "… tok/s", line) for line in told)
