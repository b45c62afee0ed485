"""Records what llama.cpp's llama-completion writes with guide, greedily: tests/golden/guide_greedy.json."""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
from pathlib import Path

from llmrun.embedded import embedded_file
from llmrun.reference import GUIDE_QUANTS

GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "golden" / "guide_greedy.json"
N_TOKENS = 32
_TIMES = 3  # beside other work it sometimes ends before its last tokens are printed
QUESTIONS = (
    "how much memory does a 7B model need at 4 bits?",
    "what is a KV cache?",
    "can i run a model without a gpu",
    "tell me about the history of france",
    "hello",
)


def prompt_of(question: str) -> str:
    """The ChatML text of a question, as guide's template renders it."""
    return f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"


def complete(program: Path, model: Path, question: str) -> str:
    """The first N_TOKENS tokens as text, without the prompt; weights not repacked, as llmrun loads them."""
    command = [str(program), "-m", str(model), "-p", prompt_of(question), "-n", str(N_TOKENS), "--temp", "0"]
    command += ["-no-cnv", "--no-display-prompt", "-t", "1", "-ngl", "0", "--no-repack", "--no-warmup"]

    def run() -> str:
        done = subprocess.run(command, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL)
        return done.stdout.strip("\n").removesuffix(" [end of text]")

    return max((run() for _ in range(_TIMES)), key=len)


def main() -> None:
    """Write the golden file with the answers of all three files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("llama_completion", type=Path)
    program = parser.parse_args().llama_completion
    golden = {}
    for quant in GUIDE_QUANTS:
        path = embedded_file(quant)
        answers = {question: complete(program, path, question) for question in QUESTIONS}
        golden[quant] = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "answers": answers}
    GOLDEN.write_text(json.dumps(golden, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
