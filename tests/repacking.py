"""Whether this machine's llama.cpp survives a model whose weights it repacks."""

from __future__ import annotations

from llmrun.engine.layouts import read_layouts
from llmrun.hardware.layout import may_repack

can_repack = may_repack(read_layouts())
