"""A second question about a long file: `llmrun run --cache`, against the first one, and beside llama.cpp's own program.

From the start of the process to the first token, all of it. The text is new in each turn, so that nothing is known of
it; the model's file is in the page cache.
"""

from __future__ import annotations

import os
import random
import string
import tempfile
from pathlib import Path

from scripts.benchmarks.peers import peer
from scripts.benchmarks.start import CHATML, first_output, llmrun_command
from scripts.benchmarks.table import Row
from scripts.synthetic import QWEN3_0_6B, write_model

TURNS = 3  # of two minutes each
N_TEXT = 4000  # letters, each a token
_CTX = 8192
_QUESTIONS = ("what is it about?", "who wrote it?")


def measure_again(folder: Path) -> list[Row]:
    """A 0.6B shape and 4,000 tokens."""
    model = folder / "qwen3-0.6b-chat-Q4_K_M.gguf"
    if not model.exists():
        write_model(model, QWEN3_0_6B, mix="Q4_K_M")
    first, second, theirs = list[float](), list[float](), list[float]()
    with tempfile.TemporaryDirectory() as folder_of_ours:
        kept = Path(folder_of_ours)
        own = {**os.environ, "XDG_CACHE_HOME": str(kept / "cache")}  # nothing is left in the user's
        first_output(llmrun_command(model, _QUESTIONS[0]), own)  # the machine is measured
        for turn in range(TURNS):
            text, state = kept / f"{turn}.txt", kept / f"{turn}.state"
            text.write_text("".join(random.Random(turn).choices(string.ascii_lowercase, k=N_TEXT)))
            for question, seconds in zip(_QUESTIONS, (first, second), strict=True):
                seconds.append(first_output(_ours(model, text, question), own))
            _, again = (first_output(_theirs(model, text, question, state)) for question in _QUESTIONS)
            theirs.append(again)
            print(f"first {first[-1]:.2f} s, second {second[-1]:.2f} s, theirs {again:.2f} s", flush=True)
    command = f"llama-completion -m {model.name} -c {_CTX} -n 1 --temp 0 -no-cnv --prompt-cache STATE -f TEXT"
    name = f"question about {N_TEXT:,} tokens"
    return [
        Row(f"second {name}, against the first", "s", tuple(second), tuple(first), 0.1, at_least=False),
        Row(f"second {name}", "s", tuple(second), tuple(theirs), 1.15, at_least=False, command=command),
    ]


def _ours(model: Path, text: Path, question: str) -> list[str]:
    return [*llmrun_command(model, question), "--ctx", str(_CTX), "--file", str(text), "--cache"]


def _theirs(model: Path, text: Path, question: str, state: Path) -> list[str]:
    prompt = CHATML.format(f"{text.read_text()}\n\n{question}")
    command = [str(peer("llama-completion")), "-m", str(model), "-p", prompt, "--prompt-cache", str(state)]
    return [*command, "-c", str(_CTX), "-no-cnv", "--no-display-prompt", "-n", "1", "--temp", "0"]
