"""Facts, numbers and refusals to an endless, seeded stream of conversations as people would type them."""

import random
from dataclasses import dataclass
from functools import cached_property

from scripts.guide.exchange import Exchange
from scripts.guide.facts import Fact, read_facts
from scripts.guide.noise import Keywords, blend, disturb, find_keywords, shake
from scripts.guide.numbers import Numbers, draw_number, read_numbers
from scripts.guide.refusals import Refusals, draw_refusal, read_refusals

NUMBER_SHARE = 0.2
REFUSAL_SHARE = 0.2
SHAKEN_SHARE = 0.25  # of the fact questions; see noise.shake
JOINED_SHARE = 0.06  # of the fact questions: two wordings in one message
BLENDED_SHARE = 0.1  # of the fact questions: some words of two wordings, so that the words decide and not the phrase
OPENING_SHARE = 0.8  # of the conversations: one turn, of which only the answer's opening is learned
TURNS = ((1, 2, 3), (55, 28, 17))
LONG_SHARE = 0.006  # of the conversations: up to LONG_TURNS turns, so that the claimed context has been seen
LONG_TURNS = 38
SYSTEM_SHARE = 0.04
SYSTEMS = ("You are a helpful assistant.", "You are guide.", "Answer briefly.", "You are a friendly expert.",
           "Be concise and honest.", "You answer questions about local models.")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns in order, and a system prompt or "" for none. opening_only: the answer is cut after its first tokens.

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

    @cached_property
    def keywords(self) -> Keywords:
        """Which words of the questions carry their topic."""
        return find_keywords(self.facts)

    @cached_property
    def by_answer(self) -> dict[str, Fact]:
        """The facts by what they answer."""
        return {fact.answer: fact for fact in self.facts}


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


def draw_conversation(corpus: Corpus, rng: random.Random) -> Conversation:
    """One to three turns, rarely very many; often only the opening of a single answer."""
    if rng.random() < OPENING_SHARE:
        turn = draw_exchange(corpus, rng)
        return Conversation("", (turn,), opening_only=not turn.topic.startswith("numbers"))
    count = rng.choices(*TURNS)[0]
    if rng.random() < LONG_SHARE:
        count = rng.randint(4, LONG_TURNS)
    system = rng.choice(SYSTEMS) if rng.random() < SYSTEM_SHARE else ""
    return Conversation(system, tuple(draw_exchange(corpus, rng) for _ in range(count)))
