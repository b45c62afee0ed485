"""Greedy answers of a GGUF file, each in a fresh conversation, given by llmrun's own engine."""

from collections.abc import Iterable
from pathlib import Path

from llmrun.engine.client import Engine
from llmrun.engine.protocol import Chunk, Generate
from llmrun.message import Message
from llmrun.sampling import Sampling
from llmrun.settings import RunSettings

LIMIT = 120  # tokens of an answer


def answer(model_path: Path, questions: Iterable[str]) -> list[str]:
    """What the model at `model_path` answers to each question, decoded greedily on the CPU."""
    with Engine() as engine:
        engine.load(model_path, RunSettings(n_gpu_layers=0))
        return [_ask(engine, question) for question in questions]


def _ask(engine: Engine, question: str) -> str:
    request = Generate((Message("user", question),), Sampling(temperature=0), LIMIT)
    return "".join(event.text for event in engine.answer(request) if isinstance(event, Chunk))
