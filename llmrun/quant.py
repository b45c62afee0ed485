"""Labels of quantizations as people write them: `Q4_K_M`, `ud-q4_k_xl`, `fp16`, `3.7bpw`. Pure.

Knows the labels and their one way of being written here; must not know of files or of what a label costs. Sources:
llama.cpp's llama-quantize for the plain ones, the repositories of those who publish for the rest (`UD-` and `_XL` are
unsloth's, `_L` bartowski's, `APEX-` mudler's, `_KS`, `_KT` and `_R4` of ik_llama.cpp).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# `_` bounds a label as `-` and `.` do: "gemma-4-26B_q4_0-it". What one label could begin of another stands after it.
_LABEL = re.compile(
    r"""(?<![A-Za-z0-9])
    (?P<label>(?:UD-)?(?:
        IQ[1-6]_(?:XXS|XS|S|M|NL|KSS|KS|KT|KL|K)(?:_(?:XL|L|M|S))?(?:_R[48])?
      | Q[1-8][-_]?K(?:[-_]?(?:XXL|XL|XS|L|M|S|P))?(?:_R[48])?
      | Q[1-8]_[0-3](?:_[48]_[48]|_(?:XXL|XL|L))?(?:_R[48])?
      | TQ[1-4]_[0-9]
      | MXFP[468](?:_MOE)?(?:_(?:BF16|F16|Q[2-8]_[0K]))? | NVFP4
      | BF16 | FP?16 | FP?32
      | APEX-(?:I-)?(?:Quality|Balanced|Compact|Mini|Nano)
      | Q[2-8](?=[-._]|$)
    ))(?![A-Za-z0-9])""",
    re.IGNORECASE | re.VERBOSE,
)
_BITS = re.compile(r"(?<![A-Za-z0-9.])(?P<label>[1-9][0-9]?(?:\.[0-9]{1,2})?bpw)(?![A-Za-z0-9])", re.IGNORECASE)
_BARE_K = re.compile(r"^(UD-)?(Q[1-8])[-_]?K[-_]?")
# Where one type alone has so many bits, the number says it; of four or five bits there are several types.
_SHORT = {"Q8": "Q8_0", "Q6": "Q6_K", "FP16": "F16", "FP32": "F32"}


@dataclass(frozen=True, slots=True)
class FoundLabel:
    """A label in a text: as it is written here, and where in the text it stands."""

    label: str
    start: int
    end: int


def find_label(text: str) -> FoundLabel | None:
    """Return the quantization a text tells, the last where it tells several; None where it tells none."""
    found = list(_LABEL.finditer(text)) or list(_BITS.finditer(text))
    if not found:
        return None
    start, end = found[-1].span("label")
    return FoundLabel(_canonical(found[-1]["label"]), start, end)


def parse_label(text: str) -> str | None:
    """Return a text that is a label and nothing else as it is written here; None for any other text."""
    match = _LABEL.fullmatch(text) or _BITS.fullmatch(text)
    return _canonical(match["label"]) if match else None


def _canonical(text: str) -> str:
    if text.lower().endswith("bpw"):
        return text.lower()
    upper = text.upper()
    if upper.startswith("APEX-"):
        return "APEX-" + text[5:].title()
    if match := _BARE_K.match(upper):
        rest = upper[match.end() :]
        return f"{match[1] or ''}{match[2]}_K{'_' if rest else ''}{rest}"
    flavour = "UD-" if upper.startswith("UD-") else ""
    plain = upper.removeprefix("UD-")
    return flavour + _SHORT.get(plain, plain)
