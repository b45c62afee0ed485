"""Many answers at once, where something goes wrong in one: it is the matter of no other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmrun.engine.sharing import Embed, Embedded
from llmrun.sampling import Penalties
from llmrun.worker.llama import Model
from tests.batches import batch
from tests.conftest import request
from tests.test_batching import QUESTIONS, Open, alone, echo, guide_model, open_batch, raw, settings

if TYPE_CHECKING:
    import pytest

__all__ = ["alone", "echo", "guide_model", "open_batch"]  # fixtures


def test_a_fault_in_one_request_ends_that_one_alone(
    open_batch: Open, guide_model: Model, alone: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    """And its own words, which may be those of a prompt, are told to nobody."""
    odd: Any = "secret"  # what no client can send, as a fault of ours could make it
    with open_batch(guide_model) as many:
        good = [many.submit(request(question, max_tokens=48)) for question in QUESTIONS[:3]]
        many.batcher.step()
        beginning = many.submit(request("Hello", penalties=Penalties(frequency=1.0), max_tokens=8, stop=(7, odd)))
        writing = many.submit(request("Hello", max_tokens=odd))
        many.finish()
        assert [one.text for one in many.answers(request(QUESTIONS[3], max_tokens=48))] == [alone[QUESTIONS[3]]]
    assert [one.text for one in good] == [alone[question] for question in QUESTIONS[:3]]
    assert [one.failure.kind for one in (beginning, writing)] == ["EngineError"] * 2
    assert "met a bug: TypeError" in writing.failure.message
    assert "secret" not in writing.failure.message + beginning.failure.message + capfd.readouterr().err


def test_who_gave_up_its_memory_leaves_nothing_in_the_slot_of_another(echo: Model) -> None:
    with batch(echo, settings(2, 128, kv_unified=True)) as many:
        first, second = (many.submit(request(letter * 40, max_tokens=200), owner=letter) for letter in "ab")
        while (begun := second.job.begun) is None or not begun.read_at or begun.slot.past:
            many.batcher.step()
        assert not first.is_over
        many.batcher.withdraw(second.job.id)
        assert second.last.finish_reason == "cancelled"
        assert begun.slot.remembered.text == ""


def test_a_text_is_read_again_where_the_end_of_another_request_broke_it_off(echo: Model) -> None:
    """Who is withdrawn raises the flag, and its own step may be over by then."""
    with batch(echo, settings(2, 128)) as many:
        whole: list[Any] = []
        many.batcher.embedder.submit(Embed(900, "abc" * 20), whole.append)
        many.finish()
        broken: list[Any] = []
        many.batcher.embedder.submit(Embed(901, "abc" * 20), broken.append)
        gone = many.submit(raw("a", max_tokens=2))
        gone.job.say = lambda _: many.cancel.set()  # in the step, after its decode
        many.finish()
    assert broken == whole
    assert isinstance(whole[0], Embedded)
