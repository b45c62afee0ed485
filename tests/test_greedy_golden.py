"""The engine is driven rightly: guide's first greedy tokens are those that llama.cpp's own program writes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable

import pytest

from llmrun.embedded import embedded_file
from llmrun.engine.client import Engine
from llmrun.reference import GUIDE_QUANTS
from scripts.golden.greedy import GOLDEN, N_TOKENS
from tests.conftest import ask


@pytest.mark.parametrize("quant", GUIDE_QUANTS)
def test_the_first_greedy_tokens_are_those_of_llama_completion(quant: str, start_engine: Callable[..., Engine]) -> None:
    """Recorded by scripts/record_greedy; a new model needs a new record."""
    path = embedded_file(quant)
    golden = json.loads(GOLDEN.read_text("utf-8"))[quant]
    assert golden["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest(), "run scripts/record_greedy"
    engine = start_engine(path)
    ours = {question: ask(engine, question, max_tokens=N_TOKENS) for question in golden["answers"]}
    assert ours == golden["answers"]
