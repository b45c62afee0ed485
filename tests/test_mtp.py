"""worker.mtp: a model's own layers for multi-token prediction guess, and the answer is the answer without them."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from llmrun.engine.client import Engine
from llmrun.engine.protocol import Chunk
from llmrun.errors import EngineError
from llmrun.memory.mtp import KEPT_ROWS
from llmrun.planning.drafts import draft_settings
from llmrun.settings import MTP
from llmrun.worker.cancel import CancelFlag
from llmrun.worker.drafting import Draft
from llmrun.worker.governor import Governor
from llmrun.worker.llama import Context, Model
from llmrun.worker.mtp import MtpDrafter, MtpLayers, load_layers
from llmrun.worker.speculation import Speculation
from scripts.synthetic import TINY, write_model
from tests.alphabets import ALPHABET, NEXT, Nobody, letters
from tests.batches import batch, loaded
from tests.guessing import DRAW, N_MOST, SETTINGS, Asked, asked, chi_square, four_likeliest, plain, raw

HEADED = replace(TINY, architecture="hy_v3", n_layer=3, n_mtp=1, tied=False)
WITH = replace(SETTINGS, draft=MTP)


class Sure(MtpLayers):
    """Layers that are always sure of what is likeliest: random weights never are."""

    def likeliest(self) -> tuple[int, float]:
        return super().likeliest()[0], 1.0


class Told(MtpLayers):
    """Layers that say what they are told to."""

    token = 0

    def likeliest(self) -> tuple[int, float]:
        return self.token, 1.0


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    template = "{{ messages[-1].content }}"
    return {
        "right": write_model(folder / "right.gguf", HEADED, chain=NEXT, template=template),
        "wrong": write_model(folder / "wrong.gguf", HEADED, chain=NEXT, foresees=False),
        "random": write_model(folder / "random.gguf", HEADED),
    }


def layers_of(context: Context, cancel: CancelFlag) -> MtpLayers:
    return load_layers(context, WITH, cancel)


@contextmanager
def guessing(model: Model, kind: type[MtpLayers] = MtpLayers) -> Iterator[tuple[Asked, MtpLayers]]:
    def made(context: Context, cancel: CancelFlag) -> MtpLayers:
        layers = layers_of(context, cancel)
        return kind(layers.context, layers.hidden)

    with asked(model, Nobody, WITH, made) as session:
        assert isinstance(session.guesser, MtpLayers)
        yield session, session.guesser
        session.guesser.close()


def past_of(session: Asked) -> tuple[list[int], int]:
    """What a session has read but for the last token, and that."""
    return session.slot.past[:-1], session.slot.past[-1]


# ---- the same answer


@pytest.mark.parametrize(("name", "right"), [("right", 1.0), ("wrong", 0.0)])
def test_right_or_wrong_the_answer_is_the_same(files: dict[str, Path], name: str, right: float) -> None:
    with loaded(files[name], WITH) as model, guessing(model) as (session, _):
        found = session.answer(raw(ALPHABET, max_tokens=60))
        assert session.context.n_past() == len(session.slot.past)
    assert found.text == (ALPHABET * 3)[:60]
    assert found.usage.drafted_tokens > 50
    assert found.usage.accepted_tokens == right * found.usage.drafted_tokens


def test_tokens_are_drawn_from_the_models_own_distribution_whatever_is_guessed(files: dict[str, Path]) -> None:
    prompt, n_answers = "abcabd", 600
    with loaded(files["random"], WITH) as model:
        with asked(model, settings=WITH) as session:
            start = tuple(model.vocabulary.tokenize(prompt, parse_special=False))
            likely = four_likeliest(session.context, start)
            first = max(likely, key=lambda token: likely[token])
            second = four_likeliest(session.context, (*start, first))
        with guessing(model, Told) as (session, layers):
            assert isinstance(layers, Told)
            layers.token = max(second, key=lambda token: second[token])
            answers = [
                session.answer(raw(prompt, sampling=replace(DRAW, seed=seed), max_tokens=3))
                for seed in range(n_answers)
            ]
    accepted, drafted = (
        sum(getattr(answer.usage, name) for answer in answers) for name in ("accepted_tokens", "drafted_tokens")
    )
    assert 0.04 < accepted / drafted < 0.9
    begun = [answer.tokens for answer in answers if answer.tokens[:1] == (first,) and len(answer.tokens) > 1]
    assert len(begun) > 100
    found, most = chi_square(Counter(tokens[1] for tokens in begun), second)
    assert found <= most


def test_several_turns_are_answered_as_without(files: dict[str, Path]) -> None:
    """Over a conversation that goes on, one that begins anew, and one whose hidden states are mostly gone."""
    wanted = [raw(text, max_tokens=40) for text in ("abc", ALPHABET, "abcx", "q", ALPHABET * 25, ALPHABET * 26)]
    with loaded(files["right"], WITH) as model:
        true = plain(model, *wanted, settings=WITH)
        with guessing(model) as (session, layers):
            found = [session.answer(one) for one in wanted]
            assert layers.start + KEPT_ROWS <= len(session.slot.past)
    assert [answer.tokens for answer in found] == [answer.tokens for answer in true]
    assert all(answer.usage.accepted_tokens == answer.usage.drafted_tokens > 20 for answer in found)


# ---- what is read


def test_what_is_guessed_does_not_depend_on_how_it_was_read(files: dict[str, Path]) -> None:
    """Token by token between wrong guesses, or all at once."""
    with loaded(files["random"], WITH) as model, guessing(model, Sure) as (session, layers):
        found = session.answer(raw("abcabdxyz" * 3, max_tokens=50))
        assert found.usage.drafted_tokens > found.usage.accepted_tokens
        past, token = past_of(session)
        kept = layers.hidden.of[0]
        along = layers.drafter(session.slot)
        assert along.n_missing(past) < 3
        layers.keep(len(past) - 4)
        assert along.n_missing(past) == 4
        guessed = along.draft(past, token, 5)
        layers.begin(0)
        anew = MtpDrafter(layers, kept)
        assert anew.draft(past, token, 5) is None
        assert anew.follow(past, 10_000) == len(past)
        again = anew.draft(past, token, 5)
    assert isinstance(guessed, Draft)
    assert again == guessed
    assert len(guessed.tokens) == 5


def test_nothing_of_a_conversation_is_left_for_somebody_else(files: dict[str, Path]) -> None:
    with loaded(files["right"], WITH) as model:
        made: list[MtpLayers] = []

        def speculation(context: Context) -> Speculation:
            made.append(layers_of(context, CancelFlag()))
            return Speculation(context, Nobody, None, made[0])

        with batch(model, WITH, speculation) as one:
            one.answers(raw(ALPHABET * 3, max_tokens=60), owner="a")
            layers = made[0]
            assert layers.memory
            layers.claim("a")
            assert layers.memory
            layers.claim("b")
            assert layers.memory == []
            assert layers.context.n_past() == 0
            layers.close()


def test_guesses_that_are_always_wrong_are_given_up(files: dict[str, Path]) -> None:
    """By the governor as it is, whatever the layers cost."""
    with loaded(files["wrong"], WITH) as model:
        made: list[MtpLayers] = []

        def speculation(context: Context) -> Speculation:
            made.append(layers_of(context, CancelFlag()))
            return Speculation(context, Nobody, Governor(N_MOST), made[0])

        with batch(model, WITH, speculation) as one:
            found = one.answers(raw(ALPHABET, max_tokens=200))
            made[0].close()
    usage = found[0].last.usage
    assert usage is not None
    # of 1,400: where guesses cost next to nothing, some twenty steps tell that they are wrong
    assert usage.drafted_tokens < 140


# ---- loading


def test_the_worker_loads_them_and_tells_what_they_took(files: dict[str, Path]) -> None:
    data = files["right"].read_bytes()
    with Engine() as engine:
        info = engine.load(files["right"], WITH)
        told = engine.dry_run(data, len(data), replace(WITH, draft=None))
        own = engine.dry_run(data, len(data), draft_settings(WITH))
        assert info.memory is not None
        assert info.draft_memory == own
        assert info.memory == replace(told, host=replace(told.host, weights=own.host.weights))
        chunks = list(engine.answer(raw(ALPHABET, max_tokens=100)))
    assert "".join(chunk.text for chunk in chunks if isinstance(chunk, Chunk)) == (ALPHABET * 4)[:100]


def test_without_its_names_in_the_library_it_is_said_and_the_model_goes_on(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "llama_cpp.llama_cpp_ext", None)  # as where it cannot be imported
    with loaded(files["right"], WITH) as model, asked(model, Nobody, WITH) as session:
        with pytest.raises(EngineError, match="does not give out what a model's MTP layers guess with") as caught:
            load_layers(session.context, WITH, session.cancel)
        assert caught.value.hint == "leave --draft mtp out"
        assert session.answer(raw("abc", max_tokens=3)).text == "def"


def test_letters_are_one_token_each(files: dict[str, Path]) -> None:
    """What the tests above count with."""
    with loaded(files["right"], WITH) as model:
        assert model.vocabulary.tokenize(ALPHABET, parse_special=False) == letters(ALPHABET)
