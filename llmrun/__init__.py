"""llmrun: run language models on your own machine. The public names are loaded when they are first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmrun.engine.client import Answer, Engine
    from llmrun.engine.protocol import Chunk, Generate, Message, ModelInfo, PrefillProgress, Usage
    from llmrun.errors import LLMRunError
    from llmrun.pipeline import start
    from llmrun.reference import parse_reference
    from llmrun.sampling import Sampling
    from llmrun.settings import Constraints

__version__ = "0.1.0"

_HOMES = {
    "Answer": "engine.client",
    "Engine": "engine.client",
    "Chunk": "engine.protocol",
    "Generate": "engine.protocol",
    "Message": "engine.protocol",
    "ModelInfo": "engine.protocol",
    "PrefillProgress": "engine.protocol",
    "Usage": "engine.protocol",
    "LLMRunError": "errors",
    "start": "pipeline",
    "parse_reference": "reference",
    "Sampling": "sampling",
    "Constraints": "settings",
}

__all__ = [
    "Answer",
    "Chunk",
    "Constraints",
    "Engine",
    "Generate",
    "LLMRunError",
    "Message",
    "ModelInfo",
    "PrefillProgress",
    "Sampling",
    "Usage",
    "parse_reference",
    "start",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'llmrun' has no attribute {name!r}")
    return getattr(import_module(f"llmrun.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
