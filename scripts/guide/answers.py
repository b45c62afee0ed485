"""Greedy answers of a GGUF file, each conversation a fresh one, given by llmrun's own engine."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from llmrun.engine.client import Engine
from llmrun.engine.protocol import Chunk, Generate
from llmrun.message import Message
from llmrun.sampling import Sampling
from llmrun.settings import RunSettings

LIMIT = 120  # tokens of an answer


def answer(model_path: Path, talks: Iterable[Sequence[str]]) -> list[str]:
    """What the model at `model_path` answers to the last question of each talk, decoded greedily on the CPU.

    It answers the questions before the last one too, and reads what it said.
    """
    with Engine() as engine:
        engine.load(model_path, RunSettings(n_gpu_layers=0))
        return [_ask(engine, talk) for talk in talks]


def _ask(engine: Engine, questions: Sequence[str]) -> str:
    messages: tuple[Message, ...] = ()
    text = ""
    for question in questions:
        messages = (*messages, Message("user", question))
        events = engine.answer(Generate(messages, Sampling(temperature=0), LIMIT))
        text = "".join(event.text for event in events if isinstance(event, Chunk))
        messages = (*messages, Message("assistant", text))
    return text
