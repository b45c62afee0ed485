"""worker.speculation: an answer with guesses is the answer without them, only sooner."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmrun.embedded import embedded_file
from llmrun.engine.protocol import Generate, Grammar
from llmrun.reference import GUIDE_QUANTS
from llmrun.sampling import Sampling
from llmrun.settings import RunSettings
from llmrun.worker.drafting import Draft, NgramDrafter
from llmrun.worker.llama import Context, Model
from llmrun.worker.speculation import Speculation
from scripts.benchmarks.scripted import ScriptedDrafter
from scripts.synthetic import LETTERS, RECURRENT, SLIDING, TINY, write_model
from tests.batches import Batch, batch, loaded
from tests.conftest import request
from tests.guessing import DRAW, SETTINGS, Answer, Eager, asked, chi_square, four_likeliest, plain, raw

QUESTIONS = ("What is quantization?", "how much memory does a 7B model need at 4 bits?", "What is flash attention?")


def guessed(model: Model, wanted: Generate, true: Answer, chance: float, settings: RunSettings = SETTINGS) -> Answer:
    """The answer with guesses that are right with a chance."""
    with asked(model, lambda: ScriptedDrafter(true.tokens, true.usage.prompt_tokens, chance), settings) as session:
        found = session.answer(wanted)
        # nothing is left in memory of guesses that were wrong
        assert session.context.n_past() == len(session.slot.past)
        written = tuple(session.slot.past[found.usage.prompt_tokens :])
        assert written in (found.tokens, found.tokens[:-1])
    return found


@pytest.fixture(scope="module")
def guide(guide_file: Path) -> Iterator[Model]:
    with loaded(guide_file, SETTINGS) as model:
        yield model


@pytest.fixture(scope="module", params=[TINY, SLIDING], ids=["attention", "sliding windows"])
def random_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """One that writes letters without an end."""
    path = tmp_path_factory.mktemp("models") / "random.gguf"
    write_model(path, replace(request.param, tied=False), writes=LETTERS)
    with loaded(path, SETTINGS) as model:
        yield model


@pytest.fixture(scope="module")
def tiny(tiny_model: Path) -> Iterator[Model]:
    with loaded(tiny_model, SETTINGS) as model:
        yield model


@pytest.fixture(scope="module")
def alphabet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """One that says the alphabet again and again."""
    path = tmp_path_factory.mktemp("models") / "alphabet.gguf"
    following = dict(zip(LETTERS, [*LETTERS[1:], LETTERS[0]], strict=True))
    write_model(path, replace(TINY, tied=False), chain=following)
    with loaded(path, SETTINGS) as model:
        yield model


# ---- the same answer


@pytest.mark.parametrize("quant", GUIDE_QUANTS)
def test_greedy_answers_of_guide_are_the_same_token_for_token(quant: str) -> None:
    with loaded(embedded_file(quant), SETTINGS) as model:
        for question in QUESTIONS:
            wanted = request(question, max_tokens=64)
            (true,) = plain(model, wanted)
            found = guessed(model, wanted, true, 0.7)
            assert found.tokens == true.tokens
            assert 0 < found.usage.accepted_tokens < found.usage.drafted_tokens


@pytest.mark.parametrize("chance", [0.0, 0.6, 1.0])
def test_greedy_answers_of_a_shape_are_the_same_token_for_token(random_model: Model, chance: float) -> None:
    """Longer than the window, so that its cells are taken over again and again, wrong guesses among them."""
    # at the 159th two tokens are 0.00007 apart: which of them is the likelier depends on the processor
    wanted = raw("abcdefghij" * 30, max_tokens=150)
    (true,) = plain(random_model, wanted)
    assert len(true.tokens) == 150
    found = guessed(random_model, wanted, true, chance)
    assert found.tokens == true.tokens
    assert (found.usage.accepted_tokens > 0) == (chance > 0)


@pytest.mark.parametrize("seed", range(4))
def test_drawn_answers_are_the_same_for_the_same_seed(guide: Model, seed: int) -> None:
    """Each token is drawn once, in its turn, by the request's own sampler with all that it remembers."""
    sampling = Sampling(temperature=1.0, top_k=40, top_p=0.95, min_p=0.02, repeat_penalty=1.1, seed=seed)
    wanted = request("Tell me about the history of France", sampling=sampling, max_tokens=80)
    (true,) = plain(guide, wanted)
    assert guessed(guide, wanted, true, 0.6).tokens == true.tokens


def test_what_repeats_itself_is_guessed_from_the_conversation(alphabet: Model) -> None:
    wanted = raw("abcdefghijklmnopqrstuvwxyz")
    (true,) = plain(alphabet, wanted)
    with asked(alphabet) as session:
        found = session.answer(wanted)
    assert (found.tokens, found.text) == (true.tokens, ("abcdefghijklmnopqrstuvwxyz" * 3)[:64])
    assert found.usage.drafted_tokens == found.usage.accepted_tokens >= 50


# ---- the same ends


@pytest.mark.parametrize("max_tokens", range(1, 14))
def test_an_answer_ends_at_the_same_token(random_model: Model, max_tokens: int) -> None:
    wanted = raw("abcdefghij", max_tokens=max_tokens)
    (true,) = plain(random_model, wanted)
    found = guessed(random_model, wanted, true, 1.0)
    assert (found.tokens, found.last.finish_reason) == (true.tokens, "length")
    assert found.usage.drafted_tokens <= max(0, max_tokens - 2)  # no more than could be written


def test_a_full_context_ends_it_at_the_same_token(random_model: Model) -> None:
    settings = replace(SETTINGS, n_ctx=200)
    wanted = raw("abcdefghij" * 15, max_tokens=None)
    (true,) = plain(random_model, wanted, settings=settings)
    found = guessed(random_model, wanted, true, 1.0, settings)
    assert (found.tokens, found.last.finish_reason) == (true.tokens, "context")


def test_a_stop_text_and_the_end_of_the_turn_end_it_at_the_same_token(guide: Model) -> None:
    whole = request(QUESTIONS[0], max_tokens=200)
    (true,) = plain(guide, whole)
    assert true.last.finish_reason == "stop"
    for wanted in (whole, replace(whole, stop=(true.text[40:44],))):
        (true,) = plain(guide, wanted)
        found = guessed(guide, wanted, true, 0.9)
        assert (found.tokens, found.text) == (true.tokens, true.text)
        assert found.last.stopped_by == true.last.stopped_by


def test_a_grammar_holds_for_every_token(guide: Model) -> None:
    grammar = Grammar("gbnf", 'root ::= "[" [0-9]+ ("," [0-9]+)* "]"')
    wanted = request("Write a list of numbers", grammar=grammar, max_tokens=60)
    (true,) = plain(guide, wanted)
    found = guessed(guide, wanted, true, 0.7)
    assert (found.tokens, found.text) == (true.tokens, true.text)


def test_the_conversation_goes_on_from_what_was_written(guide: Model) -> None:
    (true,) = plain(guide, first := request(QUESTIONS[0], max_tokens=48))
    second = request(QUESTIONS[0], true.text, QUESTIONS[2], max_tokens=48)
    with asked(guide, settings=replace(SETTINGS, n_draft_max=0)) as session:
        session.answer(first)
        wanted = session.answer(second)
    with asked(guide, lambda: ScriptedDrafter(true.tokens, true.usage.prompt_tokens, 0.6)) as session:
        session.answer(first)
        found = session.answer(second)
    assert found.tokens == wanted.tokens
    assert found.usage.cached_tokens == wanted.usage.cached_tokens


# ---- where it cannot be


def test_a_state_that_cannot_be_taken_back_is_never_read_ahead(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf", replace(RECURRENT, tied=False), writes=LETTERS)
    with loaded(path, SETTINGS) as model, asked(model) as session:
        assert session.context.n_draft_max == 0
        assert session.answer(raw("abab" * 20)).usage.drafted_tokens == 0


@pytest.mark.parametrize(
    ("changes", "n"), [({}, 7), ({"n_draft_max": 0}, 0), ({"n_outputs_max": 4}, 3), ({"n_ubatch": 2}, 1)], ids=str
)
def test_no_more_is_guessed_than_a_step_can_hold(guide: Model, changes: dict[str, Any], n: int) -> None:
    with asked(guide, settings=replace(SETTINGS, **changes)) as session:
        assert session.context.n_draft_max == n
        session.answer(raw("one two three four five six seven, " * 6, max_tokens=16))


# ---- many answers


def eagerly(context: Context) -> Speculation:
    return Speculation(context, NgramDrafter, Eager(context.n_draft_max))


@contextmanager
def many(model: Model, n_slots: int, *, unified: bool) -> Iterator[Batch]:
    settings = replace(SETTINGS, n_ctx=512 * n_slots, n_seq_max=n_slots, kv_unified=unified)
    with batch(
        model, settings, lambda context: Speculation(context, NgramDrafter, Eager(context.n_draft_max))
    ) as found:
        yield found


@pytest.mark.parametrize("unified", [False, True], ids=["streams", "unified"])
def test_who_writes_alone_is_read_ahead_and_who_writes_beside_others_is_not(alphabet: Model, *, unified: bool) -> None:
    letters = "abcdefghijklmnopqrstuvwxyz"
    with many(alphabet, 2, unified=unified) as both:
        (alone,) = both.answers(raw(letters, max_tokens=40))
        beside = both.answers(raw(letters, max_tokens=40), raw(letters[5:] + letters[:7], max_tokens=40))
    assert [heard.text for heard in (alone, *beside)] == [(letters * 3)[at : at + 40] for at in (0, 0, 7)]
    used = [heard.last.usage for heard in (alone, *beside)]
    assert [usage is not None and usage.accepted_tokens > 20 for usage in used] == [True, False, False]


def test_the_last_cells_are_written_without_guesses(alphabet: Model) -> None:
    """What is guessed ends no answer that had room for itself, where others hold some of the cells."""
    settings = replace(SETTINGS, n_ctx=256, n_seq_max=2, kv_unified=True)
    prompt = raw("abcdefghijklmnopqrstuvwxyz" * 9, max_tokens=None)
    with batch(alphabet, settings) as without:
        (true,) = without.answers(prompt)
    with batch(alphabet, settings, eagerly) as with_guesses:
        (found,) = with_guesses.answers(prompt)
    assert (found.text, found.last.finish_reason) == (true.text, true.last.finish_reason)
    assert found.last.usage is not None
    assert found.last.usage.accepted_tokens > 5


# ---- the same distribution

N_ANSWERS = 1000


class Guesser:
    """Guesses the likeliest tokens often, others often, and never knows what will be drawn."""

    def __init__(self, likely: Sequence[int], seed: int) -> None:
        self._likely, self._coin = likely, random.Random(seed)

    def draft(self, past: Sequence[int], token: int, n_most: int) -> Draft | None:
        del past, token
        return Draft(tuple(self._coin.choice(self._likely) for _ in range(n_most)))


def test_tokens_are_drawn_from_the_models_own_distribution_whatever_is_guessed(tiny: Model) -> None:
    """The second token and the third, of answers whose guesses are often right and often wrong."""
    prompt = "abcabd"
    with asked(tiny) as session:
        start = tuple(tiny.vocabulary.tokenize(prompt, parse_special=False))
        first = max(four_likeliest(session.context, start).items(), key=lambda pair: pair[1])[0]
        second = four_likeliest(session.context, (*start, first))
        third = {token: four_likeliest(session.context, (*start, first, token)) for token in second}
    likely = [*second, *(token for after in third.values() for token in after)]
    seeds = itertools.count()
    answers = []
    with asked(tiny, lambda: Guesser(likely, next(seeds) + 10_000)) as session:
        for seed in range(N_ANSWERS):
            wanted = raw(prompt, sampling=replace(DRAW, seed=seed), max_tokens=3)
            answers.append(session.answer(wanted))
    accepted = sum(answer.usage.accepted_tokens for answer in answers)
    assert accepted > N_ANSWERS / 20
    begun = [answer.tokens for answer in answers if answer.tokens[:1] == (first,) and len(answer.tokens) > 1]
    found, most = chi_square(Counter(tokens[1] for tokens in begun), second)
    assert found <= most
    token = max(second, key=second.__getitem__)
    following = Counter(tokens[2] for tokens in begun if tokens[1] == token and len(tokens) > 2)
    found, most = chi_square(following, third[token])
    assert found <= most
    # the guesses themselves would not have passed
    coin = random.Random(1)
    taken = Counter(coin.choice(list(second)) for _ in begun)
    found, most = chi_square(taken, second)
    assert found > most
