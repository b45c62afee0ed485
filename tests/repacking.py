"""Whether this machine's llama.cpp survives a model whose weights it repacks."""

from __future__ import annotations

from pathlib import Path

from llmrun.engine.layouts import read_layouts
from llmrun.gguf.source import read_header
from llmrun.memory.weights import may_repack


def can_repack(path: Path) -> bool:
    """Tell it of a model's file."""
    return may_repack(read_header(path), read_layouts())
