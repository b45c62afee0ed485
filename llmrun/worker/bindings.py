"""llama-cpp-python's low-level bindings without the rest of the package, which would be imported with them."""

from __future__ import annotations

import re
import sys
from importlib.util import find_spec, module_from_spec
from pathlib import Path


def skip_high_level() -> None:
    """Let modules of the package be imported without what its `__init__` imports: the `Llama` class, never used here.

    That one imports a disk cache, multiprocessing and more: a third of the processor time that importing the package
    takes (169 ms against 18, and 92 for numpy, which is imported here later; 2026-11, on a busy machine).
    Call before anything of it is imported. Where the package is missing the import that follows says so.
    """
    spec = find_spec("llama_cpp")
    if spec is not None and "llama_cpp" not in sys.modules:
        sys.modules["llama_cpp"] = module_from_spec(spec)  # has its path, and has not been executed


def read_version() -> str:
    """Return the version that the package says it has; "unknown" where it does not say."""
    spec = find_spec("llama_cpp")
    text = "" if spec is None or spec.origin is None else Path(spec.origin).read_text("utf-8", "replace")
    found = re.search(r"""^__version__ = ["'](.+)["']$""", text, re.MULTILINE)
    return found[1] if found else "unknown"
