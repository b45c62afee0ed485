"""Questions outside guide's field, made of frames and subjects, and the honest refusal they get."""

import random
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from scripts.guide.exchange import Exchange
from scripts.guide.facts import GUIDE, read_toml

PLAIN_SHARE = 0.5  # of the refusals that are drawn: whole questions, and no frame with a subject
PHRASE = "only know about running language models"


@dataclass(frozen=True, slots=True)
class Group:
    """Frames and subjects that make sense together."""

    kind: str
    frames: tuple[str, ...]
    subjects: tuple[str, ...]


@dataclass(frozen=True)
class Refusals:
    """Everything in `models/guide/refusals.toml`."""

    groups: tuple[Group, ...]
    plain: tuple[str, ...]
    answers: tuple[str, ...]

    @cached_property
    def trained_plain(self) -> tuple[str, ...]:
        """The questions without slots that training may use."""
        return tuple(text for text in self.plain if not is_held(text))

    @cached_property
    def trained_groups(self) -> tuple[Group, ...]:
        """The groups with only the frames and subjects that training may use."""
        return tuple(_part(group, held=False) for group in self.groups)


def read_refusals(path: Path = GUIDE / "refusals.toml") -> Refusals:
    """The frames, subjects and refusals in `path`."""
    raw = read_toml(path)
    groups = tuple(Group(g["kind"], tuple(g["frames"]), tuple(g["subjects"])) for g in raw["group"])
    return Refusals(groups, tuple(raw["plain"]), tuple(raw["answers"]))


def is_held(text: str) -> bool:
    """Whether a frame, subject or plain question is kept for evaluation: about one in twelve."""
    return zlib.crc32(text.encode()) % 12 == 0


def _part(group: Group, *, held: bool) -> Group:
    frames = tuple(text for text in group.frames if is_held(text) == held)
    subjects = tuple(text for text in group.subjects if is_held(text) == held)
    return Group(group.kind, frames, subjects)


def refusal(refusals: Refusals, question: str) -> Exchange:
    """`question` refused.

    Always the first answer: several answers would share the probability of the first token, and a wrong fact
    would win although most of the model says no.
    """
    return Exchange(question, refusals.answers[0], (PHRASE,), "refusals")


def draw_refusal(refusals: Refusals, rng: random.Random) -> Exchange:
    """A training question outside the field."""
    if rng.random() < PLAIN_SHARE:
        return refusal(refusals, rng.choice(refusals.trained_plain))
    group = rng.choice(refusals.trained_groups)
    return refusal(refusals, rng.choice(group.frames).format(s=rng.choice(group.subjects)))


def held_out_refusals(refusals: Refusals, count: int, seed: int = 0) -> list[Exchange]:
    """Half of the unseen plain questions, and up to `count` made of unseen frames with unseen subjects.

    An even seed and an odd one have not one plain question in common.
    """
    rng = random.Random(seed)
    mine = [text for text in refusals.plain if is_held(text) and zlib.crc32(text.encode()) // 12 % 2 == seed % 2]
    found = [refusal(refusals, text) for text in mine]
    groups = [part for group in refusals.groups if (part := _part(group, held=True)).frames and part.subjects]
    pairs = sorted({frame.format(s=rng.choice(group.subjects)) for group in groups for frame in group.frames})
    return found + [refusal(refusals, text) for text in rng.sample(pairs, min(count, len(pairs)))]
