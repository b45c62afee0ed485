"""What the user typed for MODEL: the grammar, and nothing of whether it exists.

A path iff it starts with `/`, `./`, `../`, `~` or a drive letter, or ends in `.gguf`; else a name. The one name so far
is `guide`, with an optional quantization: `guide:Q4_K_M`.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path

from llmrun.errors import UsageError

GUIDE = "guide"
GUIDE_QUANTS = ("Q8_0", "F16", "Q4_K_M")  # the first is the default: nothing lost, and the fastest to load

_PATH = re.compile(r"^(/|\./|\.\./|~|[A-Za-z]:[\\/]|\.\\|\\\\)|\.gguf$", re.IGNORECASE)

_HUB_ADDRESS = re.compile(r"^\w+://|^(www\.)?(hf\.co|huggingface\.co)/", re.IGNORECASE)
_DOWNLOAD = "download the .gguf file with your browser, and give its path: `llmrun chat ./FILE.gguf`"


@dataclass(frozen=True, slots=True)
class LocalRef:
    """A file on this machine."""

    path: Path


@dataclass(frozen=True, slots=True)
class GuideRef:
    """The embedded model, in one of its quantizations; None leaves it to the planner."""

    quant: str | None = None


ModelRef = LocalRef | GuideRef


def parse_reference(text: str) -> ModelRef:
    """Read what was typed for MODEL; raises UsageError for what is no reference."""
    if _HUB_ADDRESS.search(text):
        raise UsageError(f"{text!r} is an address, and models cannot be fetched yet", _DOWNLOAD)
    if _PATH.search(text):
        return LocalRef(Path(text))
    name, colon, quant = text.partition(":")
    if name.lower() != GUIDE:
        raise UsageError(_no_model(text), _what_to_type(text))
    if not colon:
        return GuideRef()
    if quant.upper() not in GUIDE_QUANTS:
        raise UsageError(
            f"{GUIDE} has no quantization {quant!r}; it has {', '.join(GUIDE_QUANTS)}", f"llmrun chat {GUIDE}"
        )
    return GuideRef(quant.upper())


def format_reference(ref: ModelRef) -> str:
    """Write a reference so that it parses back to itself."""
    if isinstance(ref, GuideRef):
        return GUIDE if ref.quant is None else f"{GUIDE}:{ref.quant}"
    text = str(ref.path)
    return text if _PATH.search(text) else f"./{text}"


def _no_model(text: str) -> str:
    if not text.strip():
        return "MODEL is empty"
    return f"{text!r} names no model: it is not {GUIDE}, and not a path (`./name`, `/name`, or ending in .gguf)"


def _what_to_type(text: str) -> str:
    if " " in text.strip():
        return f'the model comes first: `llmrun run {GUIDE} "{text}"`'
    if difflib.get_close_matches(text.lower(), [GUIDE], cutoff=0.7):
        return f"did you mean {GUIDE}?"
    if "/" in text and ":" not in text:
        return f"for a file on this machine `llmrun chat ./{text}`; models from the Hub cannot be fetched yet"
    return f"`llmrun chat {GUIDE}` for the embedded model, `llmrun chat ./FILE.gguf` for your own"
