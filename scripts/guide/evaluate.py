"""Ask the exported files what they were never trained on, and count the right answers.

Right is an answer that contains what its fact expects. A wrong refusal is a question inside the field that was
refused. Every question is asked in a fresh conversation, greedily; one that leans on another after that one's answer.
"""

import argparse
import json
import random
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from scripts.guide.answers import answer
from scripts.guide.conversations import Corpus, read_corpus
from scripts.guide.exchange import Exchange, is_right
from scripts.guide.facts import GUIDE, held_out_exchanges, read_held_out
from scripts.guide.follows import held_out_follows
from scripts.guide.number_follows import held_out_talks
from scripts.guide.numbers import REQUIRED_FRAME, Slots, compute, held_out_numbers
from scripts.guide.refusals import PHRASE, held_out_refusals

QUANTS = ("F16", "Q8_0", "Q4_K_M")
NUMBERS = 40  # questions per family
REFUSALS = 150
FOLLOWS = 300
SEEDS = {"dev": 1, "test": 2}


@dataclass(frozen=True, slots=True)
class Score:
    """The counts of one topic with one file."""

    topic: str
    asked: int
    right: int
    wrong_refusals: int


@dataclass(frozen=True, slots=True)
class Failure:
    """A question that was not answered right."""

    topic: str
    question: str
    expected: str
    answered: str


def talks_of(corpus: Corpus, name: str) -> list[Sequence[Exchange]]:
    """The evaluation questions of the set `name` ("dev" or "test"): single ones, then those that lean on another."""
    return [*((question,) for question in questions_of(corpus, name)), *follow_ups(corpus, name)]


def follow_ups(corpus: Corpus, name: str) -> list[Sequence[Exchange]]:
    """Talks of two turns, of which the second is judged: half of those kept for evaluation are for each set."""
    held = list(held_out_follows(corpus.follows))
    random.Random("follows").shuffle(held)
    chosen = held[sorted(SEEDS).index(name) :: len(SEEDS)][:FOLLOWS]
    facts = [(told, after.of_topic("follow-ups")) for told, after in chosen]
    talks = held_out_talks(corpus.numbers, 2 * NUMBERS, SEEDS[name])
    return [*facts, *((*talk[:-1], talk[-1].of_topic("numbers: follow-ups")) for talk in talks)]


def questions_of(corpus: Corpus, name: str) -> list[Exchange]:
    """The single questions of the set `name`: facts, numbers, refusals."""
    held_out = read_held_out(GUIDE / "heldout" / f"{name}.toml")
    question = REQUIRED_FRAME.format(n="7B", b="4 bits") + "?"
    required = Exchange(question, *compute("memory", Slots(70, 4, 8)), "required")
    return [
        required,
        *held_out_exchanges(held_out, corpus.facts),
        *held_out_numbers(corpus.numbers, NUMBERS, SEEDS[name]),
        *held_out_refusals(corpus.refusals, REFUSALS, SEEDS[name]),
    ]


def score(exchanges: list[Exchange], answers: list[str]) -> tuple[list[Score], list[Failure]]:
    """Counts per topic, the topics in order of appearance, and the failures."""
    counts: dict[str, list[int]] = {}
    failures = []
    for exchange, given in zip(exchanges, answers, strict=True):
        right = is_right(given, exchange.expect)
        refused = exchange.topic != "refusals" and PHRASE in given
        row = counts.setdefault(exchange.topic, [0, 0, 0])
        for place, value in enumerate((1, right, refused)):
            row[place] += value
        if not right:
            failures.append(Failure(exchange.topic, exchange.question, exchange.answer, given))
    return [Score(topic, *row) for topic, row in counts.items()], failures


def totals(scores: Iterable[Score]) -> list[Score]:
    """The sums over the facts, the number families, the refusals and everything."""
    found = list(scores)
    kinds: dict[str, Callable[[str], bool]] = {
        "facts": lambda t: not t.startswith(("numbers", "refusals", "required", "follow-ups")),
        "follow-ups": lambda t: t == "follow-ups",
        "numbers": lambda t: t.startswith("numbers"),
        "refusals": lambda t: t == "refusals",
        "all": lambda _: True,
    }
    sums = []
    for name, belongs in kinds.items():
        members = [s for s in found if belongs(s.topic)]
        sums.append(Score(name, sum(s.asked for s in members), sum(s.right for s in members),
                          sum(s.wrong_refusals for s in members)))  # fmt: skip
    return sums


def print_table(results: dict[str, list[Score]]) -> None:
    """One line a topic, one column a file; the last line has the totals."""
    print(f"{'topic':26} {'asked':>5}  " + "  ".join(f"{quant:>14}" for quant in results))
    for rows in zip(*results.values(), strict=True):
        print(f"{rows[0].topic:26} {rows[0].asked:5}  " + "  ".join(_cell(row) for row in rows))
    sums = {quant: totals(scores) for quant, scores in results.items()}
    print("totals (right answers; in brackets wrong refusals)")
    for rows in zip(*sums.values(), strict=True):
        print(f"{rows[0].topic:26} {rows[0].asked:5}  " + "  ".join(_cell(row) for row in rows))


def _cell(row: Score) -> str:
    share = row.right / row.asked if row.asked else 0.0
    return f"{share:8.1%} {f'({row.wrong_refusals})':>5}"


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="evaluate_guide", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--set", choices=("dev", "test"), default="test", help="which held-out wordings (default test)")
    parser.add_argument("--models", type=Path, default=GUIDE.parent, help="folder of guide-*.gguf (default models/)")
    parser.add_argument("--quant", nargs="+", choices=QUANTS, default=QUANTS)
    parser.add_argument("--failures", action="store_true", help="print every wrong answer")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args(arguments)


def main() -> int:
    """Evaluate each file; always 0, a low score is no error."""
    options = parse_arguments()
    talks = talks_of(read_corpus(), options.set)
    exchanges = [talk[-1] for talk in talks]
    results: dict[str, list[Score]] = {}
    failures: dict[str, list[Failure]] = {}
    for quant in options.quant:
        answers = answer(options.models / f"guide-{quant}.gguf", [[turn.question for turn in talk] for talk in talks])
        results[quant], failures[quant] = score(exchanges, answers)
    if options.json:
        report = {quant: {"topics": [asdict(row) for row in rows], "totals": [asdict(row) for row in totals(rows)],
                          "failures": [asdict(item) for item in failures[quant]]}
                  for quant, rows in results.items()}  # fmt: skip
        print(json.dumps({"set": options.set, "quants": report}, indent=2))
        return 0
    if options.failures:
        for quant, items in failures.items():
            for item in items:
                print(f"{quant} {item.topic}: {item.question!r}")
                print(f"  expected {item.expected}\n  answered {item.answered}")
    print_table(results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
