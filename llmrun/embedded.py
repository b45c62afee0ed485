"""Where the embedded model's files lie."""

from __future__ import annotations

from pathlib import Path

from llmrun.errors import NotFoundError

_PACKAGE = Path(__file__).parent


def embedded_file(quant: str) -> Path:
    """Return the path of guide in a quantization; raises NotFoundError where the installation has lost it.

    In a wheel the models lie inside the package, in a checkout beside it.
    """
    for folder in (_PACKAGE / "models", _PACKAGE.parent / "models"):
        path = folder / f"guide-{quant}.gguf"
        if path.is_file():
            return path
    raise NotFoundError(f"the embedded model guide-{quant}.gguf is missing from this installation", "reinstall llmrun")
