"""From the start of a process to its first token: `llmrun run` beside llama.cpp's own program, on the same file.

Both read the same tokens; once each with the context it chooses, once with the same: filling the KV cache with zeros is
most of what starting a small model takes. What each does besides is its own: llmrun looks at the machine and plans;
llama-completion copies weights into another layout and computes once for nothing, unless it is told not to.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from scripts.benchmarks.peers import peer
from scripts.benchmarks.table import Row, format_table
from scripts.synthetic import QWEN3_0_6B, write_model

TURNS = 9
BAR = 1.15
_QUESTION = "what is a kv cache"
CHATML = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"


def measure_start(folder: Path) -> list[Row]:
    """A 0.6B shape, whose page cache is warm, against the peer as it is, and at its leanest."""
    large = folder / "qwen3-0.6b-chat-Q4_K_M.gguf"
    if not large.exists():
        write_model(large, QWEN3_0_6B, mix="Q4_K_M")
    lean = ("-c", "8192", "--no-warmup", "--no-repack")
    return [
        _row("0.6B Q4_K_M", large),
        _row("0.6B Q4_K_M, 8,192 cells", large, ("--ctx", "8192"), ("-c", "8192")),
        _row("0.6B Q4_K_M, 8,192 cells, a lean peer", large, ("--ctx", "8192"), lean),
    ]


def _row(name: str, path: Path, own: Sequence[str] = (), options: Sequence[str] = ()) -> Row:
    ours = [*llmrun_command(path, _QUESTION), *own]
    theirs = [str(peer("llama-completion")), "-m", str(path), "-p", CHATML.format(_QUESTION)]
    theirs += ["-no-cnv", "--no-display-prompt", "-n", "1", "--temp", "0", *options]
    for command in (ours, theirs):
        first_output(command)  # what either remembers, and the page cache
    pairs = [(first_output(ours), first_output(theirs)) for _ in range(TURNS)]
    first, second = zip(*pairs, strict=True)
    told = shlex.join(["llama-completion", "-m", path.name, "-p", "PROMPT", *theirs[5:]])
    row = Row(f"start, {name}", "s", first, second, BAR, at_least=False, command=told)
    print(format_table([row]), flush=True)
    return row


def llmrun_command(path: Path, question: str) -> list[str]:
    """The command that asks a model one question, and wants one token of its answer."""
    asked = [sys.executable, "-P", "-m", "llmrun.cli.entry", "run", str(path), question]
    return [*asked, "--temp", "0", "-n", "1", "--no-server", "--quiet"]


def first_output(command: Sequence[str], environment: Mapping[str, str] | None = None) -> float:
    """Seconds until the first byte of a program's stdout."""
    start = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    ) as process:
        assert process.stdout
        if not process.stdout.read(1):
            raise SystemExit(f"error: {command[0]} wrote nothing")
        seconds = time.perf_counter() - start
        process.stdout.read()
    return seconds
