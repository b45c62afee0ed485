"""llmrun: run language models on your own machine. The public names are loaded when they are first used.

    import llmrun

    with llmrun.load("qwen3:4b") as chat:
        for chunk in chat.stream("hi"):
            print(chunk.text, end="", flush=True)

`load` gives a Chat; `plan` tells how a model would be run, before anything of it is fetched; `hardware` describes this
machine. What goes wrong is an LLMRunError: `llmrun.errors` has the tree.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmrun.engine.client import Answer, Engine
    from llmrun.engine.protocol import Chunk, Generate, ModelInfo, PrefillProgress, Usage
    from llmrun.errors import (
        ContextOverflowError,
        EngineError,
        GGUFError,
        HubError,
        InsufficientMemoryError,
        LenderLostError,
        LLMRunError,
        NotFoundError,
        UsageError,
        WorkerDiedError,
    )
    from llmrun.hardware.hardware import Hardware
    from llmrun.library.chat import Chat, Reply
    from llmrun.library.entry import Progress, hardware, load, plan
    from llmrun.library.model_plan import ModelPlan
    from llmrun.library.options import AnswerOptions, LoadOptions, RunOptions
    from llmrun.message import Message
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
    "ContextOverflowError": "errors",
    "EngineError": "errors",
    "GGUFError": "errors",
    "HubError": "errors",
    "InsufficientMemoryError": "errors",
    "LLMRunError": "errors",
    "LenderLostError": "errors",
    "NotFoundError": "errors",
    "UsageError": "errors",
    "WorkerDiedError": "errors",
    "Hardware": "hardware.hardware",
    "Chat": "library.chat",
    "Reply": "library.chat",
    "Progress": "library.entry",
    "load": "library.entry",
    "plan": "library.entry",
    "ModelPlan": "library.model_plan",
    "AnswerOptions": "library.options",
    "LoadOptions": "library.options",
    "RunOptions": "library.options",
    "start": "pipeline",
    "parse_reference": "reference",
    "Sampling": "sampling",
    "Constraints": "settings",
}

__all__ = [
    "Answer",
    "AnswerOptions",
    "Chat",
    "Chunk",
    "Constraints",
    "ContextOverflowError",
    "Engine",
    "EngineError",
    "GGUFError",
    "Generate",
    "Hardware",
    "HubError",
    "InsufficientMemoryError",
    "LLMRunError",
    "LenderLostError",
    "LoadOptions",
    "Message",
    "ModelInfo",
    "ModelPlan",
    "NotFoundError",
    "PrefillProgress",
    "Progress",
    "Reply",
    "RunOptions",
    "Sampling",
    "Usage",
    "UsageError",
    "WorkerDiedError",
    "hardware",
    "load",
    "parse_reference",
    "plan",
    "start",
]


class _HardwareRoom(ModuleType):
    """The room `llmrun.hardware`, which can be called too: a function of the same name would hide it."""

    def __call__(self) -> Hardware:
        """Return this machine; see `llmrun.library.entry.hardware`."""
        from llmrun.library.entry import hardware

        return hardware()


class _Package(ModuleType):
    def __setattr__(self, name: str, value: object) -> None:
        if name == "hardware" and isinstance(value, ModuleType):  # the import system has just loaded it
            value.__class__ = _HardwareRoom
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name == "hardware":
        return import_module("llmrun.hardware")
    if name not in _HOMES:
        raise AttributeError(f"module 'llmrun' has no attribute {name!r}")
    value = getattr(import_module(f"llmrun.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
