"""Writes into the README what can be generated: the commands' help, the chat's commands, the exit codes.

Each piece stands between `<!-- generated: NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

from llmrun import errors
from llmrun.chat.commands import help_text

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
_BLOCK = re.compile(r"(<!-- generated: (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)


def render(text: str) -> str:
    """Return the README's text with every generated piece as it is now."""
    return _BLOCK.sub(lambda block: f"{block[1]}{_PIECES[block[2]]()}\n{block[3]}", text)


def _help(*command: str) -> str:
    """What `llmrun … --help` prints on 80 columns, without colours."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", "from llmrun.cli.main import app; app(prog_name='llmrun')", *command, "--help"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"COLUMNS": "80", "TERMINAL_WIDTH": "80", "TERM": "dumb", "NO_COLOR": "1"},
    )
    return _fenced("\n".join(line.rstrip() for line in done.stdout.strip("\n").splitlines()))


_ASKED = (
    "how much memory does a 7B model need at 4 bits?",
    "can i run a model without a gpu?",
    "and on the CPU and the GPU together?",
)


def _session() -> str:
    """A chat with guide, as a pipe gives it, with the questions put back in."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "llmrun.cli.main", "chat", "guide", "--json"],
        input="\n".join(_ASKED),
        capture_output=True,
        text=True,
        check=True,
    )
    answers = [json.loads(line)["answer"] for line in done.stdout.splitlines()]
    turns = [f">>> {asked}\n{textwrap.fill(answer, 80)}" for asked, answer in zip(_ASKED, answers, strict=True)]
    return _fenced("\n".join(["$ scripts/chat", *turns]))


def _exit_codes() -> str:
    rows = ["| exit code | what | HTTP status |", "|---|---|---|", "| 0 | all well | 200 |"]
    for _, cls in inspect.getmembers(errors, inspect.isclass):
        if issubclass(cls, errors.LLMRunError) and cls is not errors.LLMRunError:
            what = (cls.__doc__ or "").splitlines()[0].split(";")[0].rstrip(".")
            rows.append(f"| {cls.exit_code} | {what} | {cls.http_status} |")
    codes = sorted(rows[3:], key=lambda row: int(row.split("|")[1]))
    return "\n".join([*rows[:3], *codes, "| 130 | Ctrl-C | |"])


def _fenced(text: str) -> str:
    return f"```\n{text}\n```"


_PIECES: dict[str, Callable[[], str]] = {
    "llmrun --help": lambda: _help(),
    "llmrun chat --help": lambda: _help("chat"),
    "llmrun run --help": lambda: _help("run"),
    "session": _session,
    "/help": lambda: _fenced(help_text()),
    "exit codes": _exit_codes,
}


def main() -> None:
    """Rewrite the README."""
    README.write_text(render(README.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main()
