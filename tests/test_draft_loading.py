"""worker.draft_model: which draft models can be loaded beside which model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from llmrun.engine.client import Engine
from llmrun.engine.protocol import Chunk
from llmrun.errors import GGUFError, LLMRunError
from llmrun.planning.drafts import draft_settings
from llmrun.worker.cancel import CancelFlag
from llmrun.worker.draft_model import ModelDrafter, load_draft
from llmrun.worker.llama import Model
from scripts.synthetic import LETTERS, RECURRENT, TINY, write_model
from tests.alphabets import ALPHABET, NEXT, UNTIED, Nobody, alphabet_models, draft_of, go_on, letters
from tests.batches import loaded
from tests.guessing import SETTINGS, asked, raw


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return alphabet_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def alphabet(files: dict[str, Path]) -> Iterator[Model]:
    with loaded(files["right"], SETTINGS) as model:
        yield model


def refusal(model: Model, path: Path) -> LLMRunError:
    with pytest.raises(LLMRunError) as caught:
        load_draft(path, SETTINGS, model, CancelFlag(), go_on)
    return caught.value


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: write_model(path, RECURRENT), "its memory cannot forget a wrong guess"),
        (lambda path: write_model(path, pieces={300: "zzz"}), "token 300 is 'zzz' to it, and"),
        (lambda path: write_model(path, replace(TINY, n_vocab=700)), "it knows 700 tokens, and the model 512"),
        (lambda path: path.write_bytes(b"GGUF" + bytes(40)), "could not be loaded"),
        (lambda path: path, "could not be loaded"),
    ],
    ids=["state", "texts", "size", "damaged", "gone"],
)
def test_a_draft_that_cannot_guess_is_named(
    alphabet: Model, tmp_path: Path, write: Callable[[Path], object], message: str
) -> None:
    path = tmp_path / "other.gguf"
    write(path)
    error = refusal(alphabet, path)
    assert isinstance(error, GGUFError)
    assert error.message.startswith("the draft other.gguf cannot be used: ")
    assert message in error.message
    assert error.hint is not None


def test_a_few_more_tokens_than_the_model_knows_are_never_guessed(tmp_path: Path) -> None:
    """As with Qwen's, which are padded to other lengths: the draft would rather write what is not there."""
    more = {**NEXT, LETTERS[3]: 550}
    path = write_model(tmp_path / "wide.gguf", replace(UNTIED, n_vocab=600), chain=more)
    with (
        loaded(write_model(tmp_path / "m.gguf", UNTIED, chain=NEXT), SETTINGS) as model,
        draft_of(model, path) as draft,
    ):
        found = ModelDrafter(draft).draft(letters("za"), LETTERS[1], 5)
        assert found is not None
        assert found.tokens == tuple(LETTERS[2:4])
        with asked(model, Nobody, draft=draft) as session:
            assert session.answer(raw(ALPHABET, max_tokens=40)).text == (ALPHABET * 2)[:40]


def test_the_worker_loads_it_and_tells_what_it_took(files: dict[str, Path]) -> None:
    wanted = replace(SETTINGS, draft=str(files["small"]))
    progress: list[float] = []
    with Engine() as engine:
        info = engine.load(files["right"], wanted, on_progress=progress.append)
        assert info.memory is not None
        assert info.draft_memory is not None
        own = draft_settings(wanted)
        data = files["small"].read_bytes()
        assert info.draft_memory == engine.dry_run(data, len(data), own)
        chunks = list(engine.answer(raw(ALPHABET, max_tokens=100)))
    assert "".join(chunk.text for chunk in chunks if isinstance(chunk, Chunk)) == (ALPHABET * 4)[:100]
    assert progress == sorted(progress)
    assert all(0 <= fraction <= 1 for fraction in progress)


def test_a_worker_whose_draft_cannot_be_loaded_can_load_the_model_without(
    files: dict[str, Path], tmp_path: Path
) -> None:
    state = write_model(tmp_path / "state.gguf", RECURRENT)
    with Engine() as engine:
        with pytest.raises(GGUFError, match=r"the draft state\.gguf cannot be used: its memory"):
            engine.load(files["right"], replace(SETTINGS, draft=str(state)))
        assert engine.load(files["right"], SETTINGS).draft_memory is None
