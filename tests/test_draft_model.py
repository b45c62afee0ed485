"""worker.draft_model: a smaller model guesses, and the answer is the answer without it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmrun.embedded import embedded_file
from llmrun.planning.drafts import draft_settings
from llmrun.sampling import Sampling
from llmrun.worker.cancel import CancelFlag
from llmrun.worker.draft_model import FEW, LEAST_READ, DraftModel, ModelDrafter, load_draft
from llmrun.worker.drafting import MODEL_STRENGTH, Draft
from llmrun.worker.llama import Context, Model
from llmrun.worker.speculation import Speculation
from scripts.synthetic import LETTERS
from tests.alphabets import ALPHABET, Nobody, alphabet_models, draft_of, go_on, letters
from tests.batches import batch, loaded
from tests.conftest import request
from tests.guessing import DRAW, N_MOST, SETTINGS, Eager, asked, chi_square, four_likeliest, plain, raw


class Sure(DraftModel):
    """One that is always sure of what is likeliest: random weights never are."""

    def likeliest(self) -> tuple[int, float]:
        return super().likeliest()[0], 1.0


@pytest.fixture(scope="module")
def guide(guide_file: Path) -> Iterator[Model]:
    with loaded(guide_file, SETTINGS) as model:
        yield model


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return alphabet_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def alphabet(files: dict[str, Path]) -> Iterator[Model]:
    with loaded(files["right"], SETTINGS) as model:
        yield model


# ---- the same answer


def test_a_model_that_guesses_for_itself_is_right_wherever_it_is_sure(guide: Model, guide_file: Path) -> None:
    """But for rounding, and for where the answer ends."""
    wanted = [request(question, max_tokens=64) for question in ("What is quantization?", "What is a KV cache?")]
    true = plain(guide, *wanted)
    with draft_of(guide, guide_file) as draft, asked(guide, Nobody, draft=draft) as session:
        found = [session.answer(one) for one in wanted]
        assert session.context.n_past() == len(session.slot.past)
    assert [answer.tokens for answer in found] == [answer.tokens for answer in true]
    for answer in found:
        assert answer.usage.drafted_tokens > 20
        assert answer.usage.accepted_tokens >= 0.9 * answer.usage.drafted_tokens


def test_a_smaller_quantization_guesses_for_a_larger_one(guide: Model) -> None:
    wanted = request("How much memory does a 7B model need?", max_tokens=64)
    (true,) = plain(guide, wanted)
    with draft_of(guide, embedded_file("Q4_K_M")) as draft, asked(guide, Nobody, draft=draft) as session:
        found = session.answer(wanted)
    assert found.tokens == true.tokens
    assert 0 < found.usage.accepted_tokens <= found.usage.drafted_tokens


@pytest.mark.parametrize(("name", "right"), [("right", 1.0), ("small", 1.0), ("wrong", 0.0)])
def test_right_or_wrong_the_answer_is_the_same(
    alphabet: Model, files: dict[str, Path], name: str, right: float
) -> None:
    with draft_of(alphabet, files[name]) as draft, asked(alphabet, Nobody, draft=draft) as session:
        found = session.answer(raw(ALPHABET, max_tokens=60))
        assert session.context.n_past() == len(session.slot.past)
    assert found.text == (ALPHABET * 3)[:60]
    assert found.usage.drafted_tokens > 50
    assert found.usage.accepted_tokens == right * found.usage.drafted_tokens


def test_a_draft_with_sliding_windows_reads_again_what_it_forgot(alphabet: Model, files: dict[str, Path]) -> None:
    """Longer than its window, with guesses that are wrong, so that its cells are taken over again and again."""
    wanted = raw(ALPHABET * 8, max_tokens=200)
    own = load_draft(files["sliding"], SETTINGS, alphabet, CancelFlag(), go_on)
    draft = Sure(own.context, alphabet.vocabulary.n_tokens)
    with asked(alphabet, Nobody, draft=draft) as session:
        found = session.answer(wanted)
        assert draft.context.n_past() == len(draft.slot.past)
    own.close()
    assert found.text == (ALPHABET * 8)[:200]
    assert found.usage.drafted_tokens > 500


@pytest.mark.parametrize("seed", range(3))
def test_drawn_answers_are_the_same_for_the_same_seed(guide: Model, guide_file: Path, seed: int) -> None:
    sampling = Sampling(temperature=1.0, top_k=40, top_p=0.95, min_p=0.02, repeat_penalty=1.1, seed=seed)
    wanted = request("Tell me about the history of France", sampling=sampling, max_tokens=60)
    (true,) = plain(guide, wanted)
    with draft_of(guide, guide_file) as draft, asked(guide, Nobody, draft=draft) as session:
        assert session.answer(wanted).tokens == true.tokens


def test_tokens_are_drawn_from_the_models_own_distribution_whatever_is_guessed(tiny_model: Path) -> None:
    """With a draft that guesses what is likeliest, which is drawn in about half of all answers."""
    prompt, n_answers = "abcabd", 600
    with loaded(tiny_model, SETTINGS) as tiny:
        with asked(tiny) as session:
            start = tuple(tiny.vocabulary.tokenize(prompt, parse_special=False))
            first = max(four_likeliest(session.context, start).items(), key=lambda pair: pair[1])[0]
            second = four_likeliest(session.context, (*start, first))
        own = draft_settings(SETTINGS)
        draft = Sure(Context(tiny, own, CancelFlag()), tiny.vocabulary.n_tokens)
        with asked(tiny, Nobody, draft=draft) as session:
            answers = [
                session.answer(raw(prompt, sampling=replace(DRAW, seed=seed), max_tokens=3))
                for seed in range(n_answers)
            ]
        draft.context.close()
    accepted, drafted = (
        sum(getattr(answer.usage, name) for answer in answers) for name in ("accepted_tokens", "drafted_tokens")
    )
    assert 0.1 < accepted / drafted < 0.9
    begun = [answer.tokens for answer in answers if answer.tokens[:1] == (first,) and len(answer.tokens) > 1]
    found, most = chi_square(Counter(tokens[1] for tokens in begun), second)
    assert found <= most


def test_several_turns_are_answered_as_without(guide: Model, guide_file: Path) -> None:
    """What the draft has read of one turn it does not read again for the next."""
    (true,) = plain(guide, first := request("What is quantization?", max_tokens=40))
    turns = [first, request("What is quantization?", true.text, "Why?", max_tokens=40), request("Who are you?"), first]
    with asked(guide, Nobody, settings=replace(SETTINGS, n_draft_max=0)) as session:
        wanted = [session.answer(turn).tokens for turn in turns]
    with draft_of(guide, guide_file) as draft, asked(guide, Nobody, draft=draft) as session:
        assert [session.answer(turn).tokens for turn in turns] == wanted


def test_a_full_context_ends_the_answer_at_the_same_token(alphabet: Model, files: dict[str, Path]) -> None:
    changed = replace(SETTINGS, n_ctx=256)
    wanted = raw(ALPHABET * 7, max_tokens=None)
    (true,) = plain(alphabet, wanted, settings=changed)
    with draft_of(alphabet, files["small"], changed) as draft, asked(alphabet, Nobody, changed, draft) as session:
        found = session.answer(wanted)
        assert len(draft.slot.past) <= 256
    assert (found.tokens, found.last.finish_reason) == (true.tokens, "context")
    assert found.usage.accepted_tokens > 50


# ---- what it has read


def drafter_of(draft: DraftModel) -> ModelDrafter:
    draft.context.clear()
    draft.slot.past.clear()
    draft.start = draft.n_head = 0
    return ModelDrafter(draft)


@pytest.fixture(scope="module")
def small(alphabet: Model, files: dict[str, Path]) -> Iterator[DraftModel]:
    with draft_of(alphabet, files["small"]) as draft:
        yield draft


def test_it_says_how_sure_it_is(small: DraftModel) -> None:
    found = drafter_of(small).draft(letters("xyzabc"), letters("d")[0], 5)
    assert found is not None
    assert found.tokens == tuple(letters("efghi"))
    assert found.strength > MODEL_STRENGTH
    assert not found.ends


def test_it_says_nothing_where_it_is_not_sure(small: DraftModel) -> None:
    found = drafter_of(small).draft(letters("abc"), 300, 5)  # a token after which the chain names none
    assert found == Draft((), MODEL_STRENGTH, ends=True)


@given(data=st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_its_memory_is_the_conversation_whatever_was_guessed(small: DraftModel, data: st.DataObject) -> None:
    """Token by token or many at once, with images between, however little may be read, and over several answers."""
    kinds = st.one_of(st.sampled_from(list(LETTERS)), st.just(-5))
    for _ in range(data.draw(st.integers(1, 2))):
        drafter, past = ModelDrafter(small), data.draw(st.lists(kinds, max_size=90))
        for more in data.draw(st.lists(st.lists(kinds, min_size=1, max_size=30), max_size=4)):
            past = [*past, *more]
            n_most = data.draw(st.sampled_from([0, 20, LEAST_READ, 64, 10_000]))
            n_read = drafter.follow(past, n_most)
            assert n_read <= n_most
            if drafter.n_missing(past) > FEW:
                continue
            found = drafter.draft(past, LETTERS[0], data.draw(st.integers(1, 7)))
            assert found is not None
            assert found.tokens[:1] == (LETTERS[1],)
            head, start = small.n_head, small.start
            true = [*past[:head], *past[start:], LETTERS[0], *found.tokens[:-1]]
            assert small.slot.past == true
            assert small.context.n_past() == len(true)
            assert min(true) >= 0


def test_a_long_conversation_is_read_from_its_end_and_more_of_it_where_there_is_time(small: DraftModel) -> None:
    drafter, past = drafter_of(small), letters(ALPHABET * 20)
    assert drafter.follow(past, LEAST_READ) == 0  # with the first tokens it would be more
    assert drafter.n_missing(past) == len(past)
    assert drafter.follow(past, 64) == 64
    assert small.slot.past == past[:4] + past[-60:]
    assert drafter.follow(past, 100) == 0  # not worth to begin anew
    assert drafter.follow(past, 200) == 196
    assert drafter.follow(past, len(past)) == len(past) - 4
    assert small.slot.past == past
    assert (small.start, small.n_head) == (0, 0)


def test_what_its_own_decoding_fails_with_means_no_guess(alphabet: Model, files: dict[str, Path]) -> None:
    """A cancel is heard in the middle of what it reads, and costs only this guess."""
    cancel = CancelFlag()
    with draft_of(alphabet, files["small"], cancel=cancel) as draft:
        drafter, past = ModelDrafter(draft), letters(ALPHABET * 20)
        cancel.set()
        assert drafter.follow(past, 10_000) == 0
        assert drafter.draft(past, LETTERS[0], 5) is None
        cancel.clear()
        found = drafter.draft(past, LETTERS[0], 5)
        assert found is not None
        assert found.tokens == tuple(LETTERS[1:6])


def test_a_cancelled_answer_ends_though_it_is_guessed_for(alphabet: Model, files: dict[str, Path]) -> None:
    """The flag is raised while the draft computes."""
    cancel = CancelFlag()
    with draft_of(alphabet, files["small"], cancel=cancel) as draft:

        class Raising(DraftModel):
            def likeliest(self) -> tuple[int, float]:
                session.cancel.set()
                return super().likeliest()

        raising = Raising(draft.context, alphabet.vocabulary.n_tokens)
        with asked(alphabet, Nobody, draft=raising) as session:
            found = session.answer(raw(ALPHABET, max_tokens=200))
    assert found.last.finish_reason == "cancelled"
    assert len(found.tokens) < 20


# ---- many answers


def test_who_writes_alone_is_guessed_for_and_again_when_the_others_are_done(
    alphabet: Model, files: dict[str, Path]
) -> None:
    changed = replace(SETTINGS, n_ctx=1024, n_seq_max=2)
    wanted = [raw(ALPHABET, max_tokens=90), raw(ALPHABET[5:] + ALPHABET[:5], max_tokens=30)]
    with draft_of(alphabet, files["small"], changed) as draft:

        def speculate(context: Context) -> Speculation:
            return Speculation(context, Nobody, Eager(context.n_draft_max), draft)

        with batch(alphabet, changed, speculate) as both:
            (alone,) = both.answers(wanted[0])
            beside = both.answers(*wanted)
            (after,) = both.answers(wanted[1])
    texts = [(ALPHABET * 5)[:90], (ALPHABET * 5)[5:35]]
    assert [heard.text for heard in (alone, *beside, after)] == [texts[0], *texts, texts[1]]
    used = [heard.last.usage for heard in (alone, *beside, after)]
    accepted = [0 if usage is None else usage.accepted_tokens for usage in used]
    assert accepted[0] > 60
    assert 30 < accepted[1] < accepted[0]  # while the other wrote there was no guess
    assert accepted[2] == 0
    assert accepted[3] > 15


def test_nothing_of_a_conversation_is_left_in_a_draft_that_guesses_for_somebody_else(
    alphabet: Model, files: dict[str, Path]
) -> None:
    """Nobody can learn from the time it takes what others asked."""
    prompt = raw(ALPHABET * 3, max_tokens=8)
    with draft_of(alphabet, files["small"]) as draft:
        reused = []

        class Telling(ModelDrafter):
            def n_missing(self, past: Sequence[int]) -> int:
                reused.append(super().n_missing(past) < len(past))
                return super().n_missing(past)

        for owner, knows in (("a", False), ("a", True), ("b", False), ("a", False)):
            draft.claim(owner)
            Telling(draft).follow(letters(prompt.raw.text if prompt.raw else ""), 1000)
            assert (reused[0], draft.slot.owner) == (knows, owner)
            reused.clear()
        with batch(alphabet, SETTINGS, lambda made: Speculation(made, Nobody, Eager(N_MOST), draft)) as one:
            one.answers(prompt, owner="c")
        assert draft.slot.owner == "c"
