"""Questions that only make sense after an answer ("and how do i shrink it?"), and the facts that answer them."""

import random
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from scripts.guide.exchange import Exchange, normalized
from scripts.guide.facts import GUIDE, Fact, read_toml


@dataclass(frozen=True, slots=True)
class Follow:
    """What may be asked after one of the facts `after` was told, and the id of the fact that answers it."""

    after: tuple[str, ...]
    fact: str
    questions: tuple[str, ...]


@dataclass(frozen=True)
class Follows:
    """Everything in `models/guide/follow`, and the facts by their ids."""

    all: tuple[Follow, ...]
    facts: Mapping[str, Fact]

    def turns(self, follow: Follow, first: str, question: str, rng: random.Random) -> tuple[Exchange, Exchange]:
        """The told fact, asked in one of its wordings, and the question after it."""
        told = self.facts[first]
        return told.exchange(rng.choice(told.questions)), self.facts[follow.fact].exchange(question)


def read_follows(facts: tuple[Fact, ...], folder: Path = GUIDE / "follow") -> Follows:
    """Every follow-up in the TOML files of `folder`; the facts of all of them must be among `facts`."""
    found = [
        Follow(tuple(raw["after"]), raw["fact"], tuple(raw["questions"]))
        for path in sorted(folder.glob("*.toml"))
        for raw in read_toml(path)["follow"]
    ]
    return Follows(tuple(found), {fact.id: fact for fact in facts})


def is_held(follow: Follow, question: str) -> bool:
    """Whether a question after these facts is kept for evaluation: about one in seven."""
    return zlib.crc32(f"{'/'.join(follow.after)}/{normalized(question)}".encode()) % 7 == 0


def draw_follow(follows: Follows, rng: random.Random) -> tuple[Exchange, Exchange]:
    """Two turns for training."""
    while True:
        follow = rng.choice(follows.all)
        trained = [question for question in follow.questions if not is_held(follow, question)]
        if trained:
            return follows.turns(follow, rng.choice(follow.after), rng.choice(trained), rng)


def held_out_follows(follows: Follows, seed: int = 0) -> list[tuple[Exchange, Exchange]]:
    """Two turns for each question that is kept for evaluation, the first in a wording of training."""
    rng = random.Random(seed)
    return [
        follows.turns(follow, rng.choice(follow.after), question, rng)
        for follow in follows.all
        for question in follow.questions
        if is_held(follow, question)
    ]
