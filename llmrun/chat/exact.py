"""The command that answers exactly what guide, a small model, can only answer by rule of thumb. Pure.

Whether a model fits, and how fast it will be, depends on its header and on this machine: nobody should trust a model
of a few million parameters with that.
"""

from __future__ import annotations

import re

from llmrun.catalog import entries

# A question about memory, fit or speed; without one of these words a name or a size is only being talked about.
_ABOUT = re.compile(
    r"\b(?:fits?|runs?|running|memory|v?ram|gi?b|needs?|enough|load|large|big|heavy|how much|fast|speed|slow|layers?)\b"
)
_PARAMETERS = re.compile(r"\b(\d+(?:\.\d+)?) ?(?:b|bn|billion)\b")
_BITS = re.compile(r"\b(?:(2|3|4|5|6|8|16|32)[ -]?bits?|q([2-8])\b|fp?(16|32)\b|bf(16)\b)")
_HERE = re.compile(r"\b(?:here|my|mine|i have|this (?:machine|computer|laptop|pc|card|gpu))\b")


def exact_command(question: str) -> str | None:
    """Return what to type for the exact answer to a question, None where there is nothing more exact than words."""
    text = question.lower()
    if not _ABOUT.search(text):
        return None
    if name := _named_model(text):
        return f"llmrun plan {name}"
    if parameters := _PARAMETERS.search(text):
        bits = _BITS.search(text)
        width = next(group for group in bits.groups() if group) if bits else "4"
        return f"llmrun estimate --params {parameters[1]}b --bits {width}"
    return "llmrun chat" if "model" in text and "which" in text and _HERE.search(text) else None


def _named_model(text: str) -> str | None:
    """The longest short name that the text contains, however its parts are set apart: "qwen 3 8b" is qwen3:8b."""
    plain = _plain(text)
    names = {name for entry in entries() for name in (entry.name, *entry.aliases) if re.search(r"\d", name)}
    return max((name for name in names if f" {_plain(name)} " in f" {plain} "), key=len, default=None)


def _plain(text: str) -> str:
    return " ".join(re.findall(r"[a-z]+|\d+(?:\.\d+)?", text))
