"""Facts, numbers and refusals to an endless, seeded stream of conversations as people would type them."""

import random
from dataclasses import dataclass
from functools import cached_property

from scripts.guide.exchange import Exchange
from scripts.guide.facts import Fact, read_facts
from scripts.guide.noise import Keywords, disturb, find_keywords, shake
from scripts.guide.numbers import Numbers, draw_number, read_numbers
from scripts.guide.refusals import Refusals, draw_refusal, read_refusals

NUMBER_SHARE = 0.24
REFUSAL_SHARE = 0.16
SHAKEN_SHARE = 0.42  # of the fact questions; see noise.shake
JOINED_SHARE = 0.06  # of the fact questions: two wordings in one message
TURNS = ((1, 2, 3), (55, 28, 17))
LONG_SHARE = 0.006  # of the conversations: up to LONG_TURNS turns, so that the claimed context has been seen
LONG_TURNS = 38
SYSTEM_SHARE = 0.04
SYSTEMS = ("You are a helpful assistant.", "You are guide.", "Answer briefly.", "You are a friendly expert.",
           "Be concise and honest.", "You answer questions about local models.")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns in order, and a system prompt or "" for none."""

    system: str
    turns: tuple[Exchange, ...]


@dataclass(frozen=True)
class Corpus:
    """All that guide is taught."""

    facts: tuple[Fact, ...]
    numbers: Numbers
    refusals: Refusals

    @cached_property
    def keywords(self) -> Keywords:
        """Which words of the questions carry their topic."""
        return find_keywords(self.facts)


def read_corpus() -> Corpus:
    """The corpus in `models/guide`."""
    facts = read_facts()
    return Corpus(facts, read_numbers(facts), read_refusals())


def draw_clean(corpus: Corpus, rng: random.Random) -> Exchange:
    """One exchange as it was written, without noise."""
    chance = rng.random()
    if chance < NUMBER_SHARE:
        return draw_number(corpus.numbers, rng)
    if chance < NUMBER_SHARE + REFUSAL_SHARE:
        return draw_refusal(corpus.refusals, rng)
    fact = rng.choice(corpus.facts)
    return fact.exchange(rng.choice(fact.questions))


def draw_exchange(corpus: Corpus, rng: random.Random) -> Exchange:
    """One exchange with noise in its question."""
    exchange = draw_clean(corpus, rng)
    question = exchange.question
    is_fact = not exchange.topic.startswith(("numbers", "refusals"))
    if is_fact and rng.random() < JOINED_SHARE:
        fact = next(fact for fact in corpus.facts if fact.answer == exchange.answer)
        question = f"{question}{rng.choice(('. ', ', ', '? ', ' '))}{rng.choice(fact.questions)}"
    if is_fact and rng.random() < SHAKEN_SHARE:
        question = shake(question, corpus.keywords, rng)
    return exchange.asked(disturb(question, rng))


def draw_conversation(corpus: Corpus, rng: random.Random) -> Conversation:
    """One to three turns, rarely very many."""
    count = rng.choices(*TURNS)[0]
    if rng.random() < LONG_SHARE:
        count = rng.randint(4, LONG_TURNS)
    system = rng.choice(SYSTEMS) if rng.random() < SYSTEM_SHARE else ""
    return Conversation(system, tuple(draw_exchange(corpus, rng) for _ in range(count)))
