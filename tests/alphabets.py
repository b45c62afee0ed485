"""Models that write the alphabet, and drafts that guess for them, rightly or wrongly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from llmrun.settings import RunSettings
from llmrun.worker.cancel import CancelFlag
from llmrun.worker.draft_model import DraftModel, load_draft
from llmrun.worker.drafting import Draft
from llmrun.worker.llama import Model
from scripts.synthetic import LETTERS, SLIDING, TINY, write_model
from tests.guessing import SETTINGS

ALPHABET = "abcdefghijklmnopqrstuvwxyz"
NEXT = dict(zip(LETTERS, [*LETTERS[1:], LETTERS[0]], strict=True))
AFTER_NEXT = dict(zip(LETTERS, [*LETTERS[2:], *LETTERS[:2]], strict=True))
UNTIED = replace(TINY, tied=False)


class Nobody:
    """Guesses nothing, so that all guesses are the draft model's."""

    def draft(self, past: Sequence[int], token: int, n_most: int) -> Draft | None:
        del past, token, n_most
        return None


def go_on(path: float) -> bool:
    del path
    return True


@contextmanager
def draft_of(
    model: Model, path: Path, changed: RunSettings = SETTINGS, cancel: CancelFlag | None = None
) -> Iterator[DraftModel]:
    found = load_draft(path, changed, model, cancel or CancelFlag(), go_on)
    yield found
    found.close()


def alphabet_models(folder: Path) -> dict[str, Path]:
    """Models that say the alphabet, one that leaves out each second letter, and one with windows."""
    template = "{{ messages[-1].content }}"
    return {
        "right": write_model(folder / "right.gguf", UNTIED, chain=NEXT, template=template),
        "small": write_model(folder / "small.gguf", replace(UNTIED, n_layer=1), chain=NEXT, seed=1),
        "wrong": write_model(folder / "wrong.gguf", UNTIED, chain=AFTER_NEXT),
        "sliding": write_model(folder / "sliding.gguf", replace(SLIDING, tied=False), writes=LETTERS),
    }


def letters(text: str) -> list[int]:
    return [3 + ord(letter) for letter in text]
