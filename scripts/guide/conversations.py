"""Facts, numbers and refusals to an endless, seeded stream of conversations as people would type them."""

import random
from dataclasses import dataclass
from functools import cached_property

from scripts.guide.exchange import Exchange
from scripts.guide.facts import Fact, read_facts
from scripts.guide.follows import Follows, draw_follow, read_follows
from scripts.guide.noise import Keywords, blend, disturb, find_keywords, shake
from scripts.guide.number_follows import draw_number_talk
from scripts.guide.numbers import FAMILIES, Numbers, Slots, compute, draw_number, read_numbers
from scripts.guide.refusals import Refusals, draw_refusal, read_refusals, refusal

NUMBER_SHARE = 0.2  # where a mix says nothing else
REFUSAL_SHARE = 0.25  # of what is no sum
SHAKEN_SHARE = 0.25  # of the fact questions; see noise.shake
JOINED_SHARE = 0.06  # of the fact questions: two wordings in one message
BLENDED_SHARE = 0.1  # of the fact questions: some words of two wordings, so that the words decide and not the phrase
FOLLOW_SHARE = 0.12  # of the conversations: an answer, and a question about it
NUMBER_FOLLOW_SHARE = 0.03  # of the conversations: sums of which the later ones change one number
TURNS = ((1, 2, 3), (55, 28, 17))
LONG_SHARE = 0.006  # of the conversations: up to LONG_TURNS turns, so that the claimed context has been seen
LONG_TURNS = 38
SYSTEM_SHARE = 0.04
SYSTEMS = ("You are a helpful assistant.", "You are guide.", "Answer briefly.", "You are a friendly expert.",
           "Be concise and honest.", "You answer questions about local models.")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns in order, and a system prompt or "" for none. opening_only: the last answer is cut after its first tokens,
    and those before it are not learned.

    The opening decides which fact is told; what follows it is soon known by heart, and would take most of the time.
    """

    system: str
    turns: tuple[Exchange, ...]
    opening_only: bool = False


@dataclass(frozen=True)
class Corpus:
    """All that guide is taught."""

    facts: tuple[Fact, ...]
    numbers: Numbers
    refusals: Refusals
    follows: Follows

    @cached_property
    def keywords(self) -> Keywords:
        """Which words of the questions carry their topic."""
        return find_keywords(self.facts)

    @cached_property
    def by_answer(self) -> dict[str, Fact]:
        """The facts by what they answer."""
        return {fact.answer: fact for fact in self.facts}

    @cached_property
    def kinds(self) -> dict[str, int]:
        """A number for each kind of answer: every fact, every family of sums, and the refusal."""
        texts = (*self.by_answer, *(f"numbers: {name}" for name in FAMILIES), "refusals")
        return {text: number for number, text in enumerate(texts)}

    def kind(self, exchange: Exchange) -> int:
        """The number of the kind of answer that `exchange` asks for; -1 for sums that training does not draw."""
        return self.kinds.get(exchange.answer, self.kinds.get(exchange.topic, -1))

    def of_kind(self, kind: int, question: str) -> Exchange | None:
        """The answer of a kind to `question`; None for sums, which would need numbers."""
        if kind < len(self.by_answer):
            return self.facts_by_kind[kind].exchange(question)
        return refusal(self.refusals, question) if kind == self.kinds["refusals"] else None

    def openings(self) -> tuple[str, ...]:
        """An answer of each kind, which begins as all of it do."""
        sums = (compute(name, Slots(70, 4, 8))[0] for name in FAMILIES)
        return (*self.by_answer, *sums, self.refusals.answers[0])

    @cached_property
    def facts_by_kind(self) -> tuple[Fact, ...]:
        """The facts in the order of their kinds."""
        return tuple(self.by_answer.values())


def read_corpus() -> Corpus:
    """The corpus in `models/guide`."""
    facts = read_facts()
    return Corpus(facts, read_numbers(facts), read_refusals(), read_follows(facts))


@dataclass(frozen=True, slots=True)
class Mix:
    """What is drawn: the share of conversations that are the opening of a single answer alone, and of sums in all."""

    openings: float
    sums: float = NUMBER_SHARE


def draw_clean(corpus: Corpus, rng: random.Random, sums: float = NUMBER_SHARE) -> Exchange:
    """One exchange as it was written, without noise; a share of `sums` has a computed answer."""
    if rng.random() < sums:
        return draw_number(corpus.numbers, rng)
    if rng.random() < REFUSAL_SHARE:
        return draw_refusal(corpus.refusals, rng)
    fact = rng.choice(corpus.facts)
    return fact.exchange(rng.choice(fact.questions))


def draw_exchange(corpus: Corpus, rng: random.Random, sums: float = NUMBER_SHARE) -> Exchange:
    """One exchange with noise in its question."""
    exchange = draw_clean(corpus, rng, sums)
    question = exchange.question
    is_fact = not exchange.topic.startswith(("numbers", "refusals"))
    chance = rng.random()
    if is_fact and chance < JOINED_SHARE + BLENDED_SHARE:
        other = rng.choice(corpus.by_answer[exchange.answer].questions)
        if chance < JOINED_SHARE:
            question = f"{question}{rng.choice(('. ', ', ', '? ', ' '))}{other}"
        else:
            question = blend(question, other, rng)
    if is_fact and rng.random() < SHAKEN_SHARE:
        question = shake(question, corpus.keywords, rng)
    return exchange.asked(disturb(question, rng))


def draw_conversation(corpus: Corpus, rng: random.Random, mix: Mix) -> Conversation:
    """One to three turns, rarely very many; a share of `mix.openings` is the opening of a single answer alone."""
    if rng.random() < mix.openings:
        turn = draw_exchange(corpus, rng, mix.sums)
        return Conversation("", (turn,), opening_only=not turn.topic.startswith("numbers"))
    chance = rng.random() * (1 - mix.openings)
    if chance < FOLLOW_SHARE:
        told, after = draw_follow(corpus.follows, rng)
        return Conversation("", (told, after.asked(disturb(after.question, rng))), opening_only=True)
    if chance < FOLLOW_SHARE + NUMBER_FOLLOW_SHARE:
        talk = draw_number_talk(corpus.numbers, rng)
        return Conversation("", tuple(turn.asked(disturb(turn.question, rng)) for turn in talk))
    count = rng.choices(*TURNS)[0]
    if rng.random() < LONG_SHARE:
        count = rng.randint(4, LONG_TURNS)
    system = rng.choice(SYSTEMS) if rng.random() < SYSTEM_SHARE else ""
    return Conversation(system, tuple(draw_exchange(corpus, rng, mix.sums) for _ in range(count)))
