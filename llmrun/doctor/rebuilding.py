"""What is said where the engine is missing or does not start: one command to type, and first a compiler.

Said by whoever meets it, who knows nothing else of the doctor; he alone knows which program replaces packages here.
"""

from __future__ import annotations

import shutil
import sys

from llmrun.doctor.builds import how_to_install
from llmrun.doctor.toolchain import COMPILERS, read_distribution
from llmrun.errors import EngineError


def not_started(error: Exception) -> EngineError:
    """Return why llama.cpp could not be started, and what to type."""
    if isinstance(error, ModuleNotFoundError) and error.name == "llama_cpp":
        message = "the engine is missing: llama-cpp-python is not installed here"
        return EngineError(message, rebuild_hint("builds it"))
    return EngineError(f"llama.cpp could not be started: {error}", rebuild_hint("builds it anew"))


def rebuild_hint(does: str = "builds it anew") -> str:
    """Return what to type for another engine; what it needs first comes first."""
    # Visual Studio's compiler is found by CMake without being on PATH
    if sys.platform == "win32" or any(shutil.which(name) for name in COMPILERS):
        return f"`llmrun doctor --fix` {does}, `llmrun doctor` says with which command"
    how = how_to_install("c++", sys.platform, read_distribution())
    return f"a C++ compiler first ({how}), then `llmrun doctor --fix` {does}"
