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
      | MXFP[468](?:[-_]MOE)?(?:_(?:BF16|F16|Q[2-8]_[0K]))? | NVFP4 | I2_S
      | BF16 | FP?16 | FP?32
      | APEX-(?:(?:MTP|TQ)-)?(?:I-)?(?:Quality|Balanced|Compact|Mini|Nano)
      | Q[2-8](?=[-._]|$)
    ))(?![A-Za-z0-9])""",
    re.IGNORECASE | re.VERBOSE,
)
_BITS = re.compile(r"(?<![A-Za-z0-9.])(?P<label>[1-9][0-9]?(?:\.[0-9]{1,2})?bpw)(?![A-Za-z0-9])", re.IGNORECASE)
_BARE_K = re.compile(r"^(UD-)?(Q[1-8])[-_]?K[-_]?")
# Where one type alone has so many bits, the number says it; of four or five bits there are several types.
_SHORT = {"Q8": "Q8_0", "Q6": "Q6_K", "FP16": "F16", "FP32": "F32"}
_FLOATS = frozenset({"F32", "F16", "BF16"})
_REMOVED = re.compile(r"Q4_0_[48]_[48]|Q4_[23]|Q5_[23]")
_OF_IK = re.compile(r"IQ[1-6]_K(?:SS|S|T|L)?(?:_.*)?|.*_R[48]")


@dataclass(frozen=True, slots=True)
class FoundLabel:
    """A label in a text: as it is written here, and where in the text it stands."""

    label: str
    start: int
    end: int


def find_label(text: str) -> FoundLabel | None:
    """Return the quantization a text tells, the last where it tells several; None where it tells none.

    A float type behind a quantization ("Q5_K_M-F16") is that of a few tensors, and no label.
    """
    found = [FoundLabel(_canonical(match["label"]), *match.span("label")) for match in _LABEL.finditer(text)]
    found = [one for one in found if one.label not in _FLOATS] or found
    if not found:
        found = [FoundLabel(_canonical(match["label"]), *match.span("label")) for match in _BITS.finditer(text)]
    return found[-1] if found else None


def parse_label(text: str) -> str | None:
    """Return a text that is a label and nothing else as it is written here; None for any other text."""
    match = _LABEL.fullmatch(text) or _BITS.fullmatch(text)
    return _canonical(match["label"]) if match else None


def _canonical(text: str) -> str:
    if text.lower().endswith("bpw"):
        return text.lower()
    upper = text.upper().replace("MXFP4-", "MXFP4_")
    if upper.startswith("APEX-"):
        mix = text[5:].title().removeprefix("Mtp-")  # that it has layers for drafting is the model's, not the mix's
        return f"APEX-{mix.replace('Tq-', 'TQ-')}"
    if match := _BARE_K.match(upper):
        rest = upper[match.end() :]
        return f"{match[1] or ''}{match[2]}_K{'_' if rest else ''}{rest}"
    flavour = "UD-" if upper.startswith("UD-") else ""
    plain = upper.removeprefix("UD-")
    return flavour + _SHORT.get(plain, plain)


def why_not_loadable(label: str) -> str | None:
    """Return why llama.cpp loads no file with this label, None where it may; the file's header has the last word."""
    if _REMOVED.fullmatch(label):
        return f"llama.cpp no longer knows {label}: it lays out Q4_0 anew while loading it"
    if label == "I2_S":
        return "only bitnet.cpp knows I2_S"
    if _OF_IK.fullmatch(label):
        return f"only ik_llama.cpp knows {label}"
    return None
