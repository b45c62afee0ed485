"""Which slots are taken: neighbours, so that no step reads all weights twice; and who has the prompt already."""

from __future__ import annotations

from pathlib import Path

from llmrun.engine.protocol import Generate
from llmrun.message import RawPrompt
from llmrun.sampling import Sampling
from llmrun.settings import RunSettings
from tests.batches import Batch, Heard, batch, loaded

SETTINGS = RunSettings(n_ctx=6 * 256, n_seq_max=6, n_outputs_max=6, n_threads=1, n_threads_batch=1)


def endless(text: str) -> Generate:
    return Generate((), Sampling(temperature=0), raw=RawPrompt(text))


def begun(many: Batch, *texts: str) -> list[Heard]:
    heard = [many.submit(endless(text)) for text in texts]
    while not all(one.n_written for one in heard):
        many.batcher.step()
    return heard


def slots_of(heard: list[Heard]) -> list[int]:
    return [one.job.begun.slot.seq for one in heard if one.job.begun is not None]


def test_busy_slots_are_neighbours_and_a_gap_is_filled_first(endless_model: Path) -> None:
    with loaded(endless_model, SETTINGS) as model, batch(model, SETTINGS) as many:
        heard = begun(many, "abc", "def", "ghi", "jkl")
        assert slots_of(heard) == [0, 1, 2, 3]
        many.batcher.withdraw(heard[1].job.id)
        many.batcher.withdraw(heard[3].job.id)
        assert slots_of(begun(many, "mno")) == [1]
        assert slots_of(begun(many, "pqr")) == [3]


def test_who_has_the_prompt_already_goes_before_a_neighbour(endless_model: Path) -> None:
    with loaded(endless_model, SETTINGS) as model, batch(model, SETTINGS) as many:
        heard = begun(many, "abc", "def", "ghi", "jkl " * 20)
        for one in heard[1:]:
            many.batcher.withdraw(one.job.id)
        assert slots_of(begun(many, "jkl " * 20)) == [3]
        assert slots_of(begun(many, "something else")) == [4]  # beside it too, and nothing there is lost


def test_a_beginning_that_all_have_makes_no_gaps(endless_model: Path) -> None:
    """A template's first words, or a letter: whoever had them, those who write at once are neighbours again."""
    few = RunSettings(n_ctx=4 * 256, n_seq_max=4, n_outputs_max=4, n_threads=1, n_threads_batch=1)
    with loaded(endless_model, few) as model, batch(model, few) as many:
        for texts in (["<user>abc", "<user>bcd", "<user>cde", "<user>def"], ["<user>dee", "<user>abb"]):
            heard = begun(many, *texts)
            for one in heard:
                many.batcher.withdraw(one.job.id)
        first, second = slots_of(begun(many, "<user>deep", "<user>abbey"))
        assert abs(first - second) == 1
        (third,) = slots_of(begun(many, "<user>cdeef"))
        taken = sorted([first, second, third])
        assert taken == list(range(taken[0], taken[0] + 3))
