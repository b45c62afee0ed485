"""Whether llama.cpp says with the F16 file what torch says with the trained weights: the proof of an export.

`python -m scripts.guide.agreement --out build/guide` prints the questions on which they differ, and the count.
"""

import argparse
import random
import sys
from pathlib import Path

from scripts.guide.answers import answer
from scripts.guide.conversations import draw_exchange, read_corpus
from scripts.guide.run import Run
from scripts.guide.tokenizer import END, encode_prompt


def differences(run: Run, questions: list[str]) -> list[tuple[str, str, str]]:
    """Each question with different answers, torch's, and llama.cpp's."""
    network, tokenizer = run.load_network(), run.load_tokenizer()
    by_torch = [tokenizer.decode(network.greedy(encode_prompt(tokenizer, text), END)) for text in questions]
    by_llama = answer(run.gguf_path("F16"), [(question,) for question in questions])
    triples = zip(questions, by_torch, by_llama, strict=True)
    return [(text, ours, theirs) for text, ours, theirs in triples if ours != theirs]


def main() -> int:
    """Compare on noisy training questions; 1 if an answer differs."""
    parser = argparse.ArgumentParser(prog="python -m scripts.guide.agreement")
    parser.add_argument("--out", type=Path, default=Path("build/guide"), help="folder of the run")
    parser.add_argument("--count", type=int, default=64)
    options = parser.parse_args()
    corpus, rng = read_corpus(), random.Random(0)
    questions = [draw_exchange(corpus, rng).question for _ in range(options.count)]
    found = differences(Run(options.out), questions)
    for text, ours, theirs in found:
        print(f"{text!r}\n  torch     {ours}\n  llama.cpp {theirs}")
    print(f"{len(questions) - len(found)} of {len(questions)} answers equal")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
