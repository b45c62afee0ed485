"""Facts and held-out wordings: TOML files to values, and what is wrong with them.

Run as a module it prints the complaints and the counts: `python -m scripts.guide.facts`.
"""

import re
import sys
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.guide.exchange import Exchange, is_right, normalized

GUIDE = Path(__file__).resolve().parents[2] / "models" / "guide"


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing guide knows, with many wordings of the question it answers."""

    id: str
    answer: str
    expect: tuple[str, ...]
    questions: tuple[str, ...]
    topic: str

    def exchange(self, question: str) -> Exchange:
        """This fact's answer to `question`."""
        return Exchange(question, self.answer, self.expect, self.topic)


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A wording that is never trained on."""

    fact: str
    text: str


def read_toml(path: Path) -> dict[str, Any]:
    """The table in the file at `path`."""
    with path.open("rb") as file:
        return tomllib.load(file)


def read_facts(folder: Path = GUIDE / "facts") -> tuple[Fact, ...]:
    """Every fact in the TOML files of `folder`, in the files' order."""
    return tuple(
        Fact(raw["id"], raw["answer"].strip(), tuple(raw["expect"]), tuple(raw["questions"]), path.stem)
        for path in sorted(folder.glob("*.toml"))
        for raw in read_toml(path)["fact"]
    )


def read_held_out(path: Path) -> tuple[HeldOut, ...]:
    """The held-out wordings in `path`, none if there is no such file."""
    if not path.exists():
        return ()
    return tuple(HeldOut(raw["fact"], raw["text"]) for raw in read_toml(path)["question"])


def held_out_exchanges(held_out: Iterable[HeldOut], facts: Iterable[Fact]) -> list[Exchange]:
    """The held-out wordings with the answers of their facts.

    Left out are wordings of facts that are gone, and any that training has seen: they would measure nothing.
    """
    by_id = {fact.id: fact for fact in facts}
    trained = {normalized(text) for fact in by_id.values() for text in fact.questions}
    kept = (item for item in held_out if item.fact in by_id and normalized(item.text) not in trained)
    return [by_id[item.fact].exchange(item.text) for item in kept]


def complaints(facts: tuple[Fact, ...], held_out: tuple[HeldOut, ...]) -> Iterator[str]:
    """What is wrong with the data, one sentence each."""
    ids = Counter(fact.id for fact in facts)
    yield from (f"{name}: id used {count} times" for name, count in ids.items() if count > 1)
    yield from (f"{name}: not kebab-case" for name in ids if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name))
    for fact in facts:
        if not fact.expect or not is_right(fact.answer, fact.expect):
            yield f"{fact.id}: its own answer does not meet expect {list(fact.expect)}"
        if not 8 <= len(fact.answer.split()) <= 40:
            yield f"{fact.id}: answer of {len(fact.answer.split())} words"
        if len(fact.questions) < 20:
            yield f"{fact.id}: only {len(fact.questions)} wordings"
    yield from _repeated(facts)
    trained = {normalized(text): fact.id for fact in facts for text in fact.questions}
    for item in held_out:
        if item.fact not in ids:
            yield f"held out {item.text!r}: there is no fact {item.fact}"
        if normalized(item.text) in trained:
            yield f"held out {item.text!r} is a training wording of {trained[normalized(item.text)]}"


def _repeated(facts: tuple[Fact, ...]) -> Iterator[str]:
    """Wordings and answers that stand in the data twice."""
    seen: dict[str, str] = {}
    for fact in facts:
        for text in (fact.answer, *fact.questions):
            first = seen.setdefault(normalized(text), fact.id)
            if first != fact.id:
                yield f"{fact.id}: {text!r} is also in {first}"
        for text, count in Counter(map(normalized, fact.questions)).items():
            if count > 1:
                yield f"{fact.id}: {text!r} stands there {count} times"


def main() -> int:
    """Print complaints and counts; 1 if there is a complaint."""
    facts = read_facts()
    held_out = read_held_out(GUIDE / "heldout" / "dev.toml") + read_held_out(GUIDE / "heldout" / "test.toml")
    found = list(complaints(facts, held_out))
    for line in found:
        print(line)
    wordings = sum(len(fact.questions) for fact in facts)
    print(f"{len(facts)} facts, {wordings} wordings, {len(held_out)} held out, {len(found)} complaints")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
