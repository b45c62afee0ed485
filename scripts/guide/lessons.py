"""What one step of training may show: a conversation, and how likely the teacher finds each kind of answer in it."""

import random
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scripts.guide.conversations import Conversation, Corpus, Mix, draw_clean, draw_conversation
from scripts.guide.teacher import Teacher, cross

CROSSED_SHARE = 0.2  # of the lessons: words of two questions, of which the teacher alone knows what they ask
TRUST = 0.5  # of the teacher where the right answer is known


@dataclass(frozen=True, slots=True)
class Lesson:
    """A conversation, and the share of each kind of answer to its only question; none where that is not known."""

    talk: Conversation
    shares: npt.NDArray[np.float32] | None = None


def draw_lessons(corpus: Corpus, teacher: Teacher, rng: random.Random, count: int, mix: Mix) -> list[Lesson]:
    """About so many lessons."""
    n_crossed = int(count * CROSSED_SHARE)
    talks = [draw_conversation(corpus, rng, mix) for _ in range(count - n_crossed)]
    asked = [talk for talk in talks if len(talk.turns) == 1 and talk.opening_only]
    crossed = [cross(draw_clean(corpus, rng), draw_clean(corpus, rng), rng) for _ in range(n_crossed)]
    shares = teacher.shares([*(talk.turns[0].question for talk in asked), *crossed])
    lessons = [Lesson(talk) for talk in talks if len(talk.turns) > 1 or not talk.opening_only]
    for talk, share in zip(asked, shares, strict=False):
        mixed = TRUST * share
        mixed[corpus.kind(talk.turns[0])] += 1 - TRUST
        lessons.append(Lesson(talk, mixed))
    for question, share in zip(crossed, shares[len(asked) :], strict=True):
        turn = corpus.of_kind(int(share.argmax()), question)
        if turn is not None:
            lessons.append(Lesson(Conversation("", (turn,), opening_only=True), share))
    return lessons
