"""Sets of characters, as text of GBNF that matches them where they stand in a string of JSON. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_LAST = 0x10FFFF

# A character of a JSON string: written as itself, or escaped; never half a surrogate pair, no control characters (DEL
# and C1 too), which no reader wants
CHAR = (
    r"[\x20-\x21\x23-\x5B\x5D-\x7E\u00A0-\uD7FF\uE000-\U0010FFFF]"
    r' | "\\" (["\\/bfnrt] | "u" ([0-9A-CEFa-cef] [0-9A-Fa-f]{3} | [Dd] [0-7] [0-9A-Fa-f]{2}))'
)
# ... and one that is written as itself: text without escapes can be compared
PLAIN_CHAR = r"[\x20-\x21\x23-\x5B\x5D-\x7E\u00A0-\uD7FF\uE000-\U0010FFFF]"

_ESCAPES = {0x08: "b", 0x09: "t", 0x0A: "n", 0x0C: "f", 0x0D: "r", 0x22: '\\"', 0x5C: "\\\\"}


@dataclass(frozen=True, slots=True)
class CharSet:
    """A set of code points; ranges: first and last of each, in order, not touching."""

    ranges: tuple[tuple[int, int], ...]

    @staticmethod
    def of(*parts: int | tuple[int, int]) -> CharSet:
        """Return the set of code points and ranges of them."""
        return _joined((part, part) if isinstance(part, int) else part for part in parts)

    def __or__(self, other: CharSet) -> CharSet:
        return _joined((*self.ranges, *other.ranges))

    def __and__(self, other: CharSet) -> CharSet:
        return ~(~self | ~other)

    def __invert__(self) -> CharSet:
        found, at = [], 0
        for first, last in self.ranges:
            if first > at:
                found.append((at, first - 1))
            at = last + 1
        return CharSet((*found, (at, _LAST)) if at <= _LAST else tuple(found))

    def __contains__(self, code: int) -> bool:
        return any(first <= code <= last for first, last in self.ranges)


def _joined(parts: Iterable[tuple[int, int]]) -> CharSet:
    found: list[tuple[int, int]] = []
    for first, last in sorted(parts):
        if found and first <= found[-1][1] + 1:
            found[-1] = found[-1][0], max(last, found[-1][1])
        else:
            found.append((first, last))
    return CharSet(tuple(found))


_PLAIN = CharSet.of((0x20, 0x21), (0x23, 0x5B), (0x5D, 0x7E), (0xA0, 0xD7FF), (0xE000, _LAST))
_CONTROL = CharSet.of((0, 0x1F), (0x7F, 0x9F))


def in_string(chars: CharSet) -> str | None:
    """Return an expression for one of these characters within a JSON string, None where there is none to write.

    A set with other characters too is written without its control characters but for line ends and tabs.
    """
    options = []
    plain = chars & _PLAIN
    if plain.ranges:
        options.append("[" + "".join(map(_range, plain.ranges)) + "]")
    escaped = [code for code in _ESCAPES if code in chars]
    options += [literal(f"\\{_ESCAPES[code][-1]}") for code in escaped]
    if not options:
        rest = chars & _CONTROL
        options = [literal(f"\\u{code:04X}") for first, last in rest.ranges for code in range(first, last + 1)]
    if not options:
        return None
    return options[0] if len(options) == 1 else f"({' | '.join(options)})"


def class_of(chars: Iterable[str], *, negated: bool = False) -> str:
    """Return a class of characters written as themselves: [ab], or [^ab]."""
    return "[" + ("^" if negated else "") + "".join(_code(ord(char)) for char in chars) + "]"


def _range(bounds: tuple[int, int]) -> str:
    first, last = bounds
    return _code(first) if first == last else f"{_code(first)}-{_code(last)}"


def _code(code: int) -> str:
    if code < 0x80:
        return chr(code) if chr(code).isalnum() else f"\\x{code:02X}"
    return f"\\u{code:04X}" if code < 0x10000 else f"\\U{code:08X}"


def literal(text: str) -> str:
    """Return text as GBNF writes it: "a\\nb" in quotes."""
    return '"' + "".join(_literal_char(char) for char in text) + '"'


def _literal_char(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    return char if char.isprintable() else _code(ord(char))


def one_of(texts: Sequence[str]) -> str:
    """Return an expression for one of some texts, all different; what they begin with alike is written once.

    llama.cpp reads alternatives side by side: a list of words costs it as many readings as words begin alike.
    """
    heads: dict[str, list[str]] = {}
    for text in texts:
        heads.setdefault(text[:1], []).append(text)
    options = []
    for words in heads.values():
        shared = _common_beginning(words)
        rest = [word[len(shared) :] for word in words]
        options.append(literal(shared) + (f" {one_of(rest)}" if len(words) > 1 else ""))
    return options[0] if len(options) == 1 else f"({' | '.join(options)})"


def _common_beginning(words: Sequence[str]) -> str:
    first, last = min(words), max(words)  # what these two share, all between them do
    length = next(
        (at for at, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last))
    )
    return first[:length]
