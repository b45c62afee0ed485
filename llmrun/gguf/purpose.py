"""Whether a file is a model that writes text, by what its header says. Pure."""

from __future__ import annotations

from llmrun.errors import GGUFError
from llmrun.gguf.header import GGUFHeader

# general.type of files that are parts of something else (gguf.md), in the words people know them by
_PARTS = {
    "adapter": "a LoRA adapter, which changes a model and is none itself",
    "mmproj": "the part of a model that sees or hears, without the model",
    "imatrix": "an importance matrix, which helps to quantize a model and is none itself",
}
_LORA_HINT = "name the model it was made for, and this with --lora"
_HINT = "choose a chat or instruct model"


def check_writes_text(header: GGUFHeader) -> None:
    """Raise GGUFError, saying what the file is, unless it can be a model that writes text."""
    kind = _text_or_none(header, "general.type")
    if kind in _PARTS:
        raise GGUFError(f"this is {_PARTS[kind]}", _LORA_HINT if kind == "adapter" else _HINT)
    if header.architecture == "clip":
        raise GGUFError(f"this is {_PARTS['mmproj']}", _HINT)
    if not header.tensors:
        raise GGUFError("there are no weights in it, only a vocabulary", "fetch the model's own file")
    causal = header.metadata.get(header.arch("attention.causal"))
    pooling = header.metadata.get(header.arch("pooling_type"))
    if (causal is not None and causal.value is False) or (pooling is not None and pooling.value not in (0, None)):
        raise GGUFError(
            f"this is a model for embeddings ({header.architecture}): it turns text into numbers and writes none", _HINT
        )


def _text_or_none(header: GGUFHeader, key: str) -> str | None:
    entry = header.metadata.get(key)
    return entry.value if entry is not None and isinstance(entry.value, str) else None
