"""Regular expressions of JSON schemas as expressions of GBNF. Pure.

The dialect is what ECMA-262 and Python read alike; what looks around or back has no grammar and is refused. Classes
such as \\w are ASCII's, and their opposites too, so that what is written matches whoever reads it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from llmrun.structured.characters import CharSet, in_string

_MAX_NESTING = 50
_LAST = 0x10FFFF
_DIGIT = CharSet.of((0x30, 0x39))
_WORD = CharSet.of((0x30, 0x39), (0x41, 0x5A), 0x5F, (0x61, 0x7A))
_SPACE = CharSet.of((0x09, 0x0D), 0x20)
_BEYOND_ASCII = CharSet.of((0x80, _LAST))
_LINE_ENDS = CharSet.of(0x0A, 0x0D, 0x2028, 0x2029)
_CLASSES = {"d": _DIGIT, "w": _WORD, "s": _SPACE}
_CONTROLS = {"t": 0x09, "n": 0x0A, "v": 0x0B, "f": 0x0C, "r": 0x0D}
_QUANTIFIER = re.compile(r"([*+?])|\{(\d{1,4})(?:(,)(\d{1,4})?)?\}")
_HEX = re.compile(r"x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})")


class UnsupportedPatternError(ValueError):
    """A part of a regular expression that has no grammar; the text says which."""


@dataclass(frozen=True, slots=True)
class Expression:
    """A part of a grammar, how many characters it can be (most None: no end), and whether it is one item."""

    text: str
    least: int
    most: int | None


@dataclass(frozen=True, slots=True)
class _Item:
    """What a quantifier can stand behind."""

    expression: Expression
    counts: tuple[int, int | None] = (1, 1)

    def repeated(self) -> Expression:
        least, most = self.counts
        one = self.expression
        suffix = {(1, 1): "", (0, None): "*", (1, None): "+", (0, 1): "?"}.get(self.counts)
        if suffix is None:
            suffix = f"{{{least}}}" if least == most else f"{{{least},{'' if most is None else most}}}"
        longest = None if most is None or one.most is None else most * one.most
        return Expression(one.text + suffix, least * one.least, 0 if one.most == 0 else longest)


def pattern_rule(pattern: str, least: int, most: int | None, any_char: str) -> str:
    """Return an expression for strings of least to most characters in which a pattern is found.

    any_char: the name of a rule for any character, for the ends of what is not anchored. Raises
    UnsupportedPatternError.
    """
    parser = _PatternParser(pattern)
    options = parser.read()
    bounded = (least, most) != (0, None)
    if bounded and len(options) == 1 and (single := _cut_to_length(options[0], least, most)) is not None:
        return single
    found = []
    for items, starts, ends in options:
        parts = [item.repeated() for item in items]
        text = " ".join(part.text for part in parts)
        shortest = sum(part.least for part in parts)
        longest = _sum(part.most for part in parts) if starts and ends else None
        if shortest < least or (most is not None and (longest is None or longest > most)):
            raise UnsupportedPatternError("minLength or maxLength beside it: say it in the pattern, as {1,20}")
        found.append(" ".join([*([] if starts else [f"{any_char}*"]), text, *([] if ends else [f"{any_char}*"])]))
    return f"({' | '.join(found)})"


def _sum(numbers: Iterable[int | None]) -> int | None:
    total = 0
    for number in numbers:
        if number is None:
            return None
        total += number
    return total


def _cut_to_length(option: tuple[list[_Item], bool, bool], least: int, most: int | None) -> str | None:
    """Return ^[a-z]+$ with other counts: one character and its quantifier are cut to a length."""
    items, starts, ends = option
    if len(items) != 1 or not (starts and ends) or items[0].expression.least != 1 or items[0].expression.most != 1:
        return None
    low, high = items[0].counts
    counts = max(low, least), high if most is None else most if high is None else min(high, most)
    if counts[1] is not None and counts[1] < counts[0]:
        raise UnsupportedPatternError("minLength and maxLength leave nothing of it")
    return _Item(items[0].expression, counts).repeated().text


class _PatternParser:
    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0
        self._depth = 0

    def read(self) -> list[tuple[list[_Item], bool, bool]]:
        """Return the alternatives: items, and whether they are anchored at start and end."""
        options = []
        while True:
            starts = self._take("^")
            items = self._read_items()
            ends = self._take("$")
            options.append((items, starts, ends))
            if not self._take("|"):
                break
        if self._at < len(self._pattern):
            raise self._unsupported(f"{self._pattern[self._at]!r} in this place")
        return options

    def _read_items(self) -> list[_Item]:
        items: list[_Item] = []
        while self._at < len(self._pattern) and self._pattern[self._at] not in "|)$^":
            items.append(self._quantified(self._read_atom()))
        return items

    def _quantified(self, atom: Expression) -> _Item:
        found = _QUANTIFIER.match(self._pattern, self._at)
        if found is None:
            return _Item(atom)
        self._at = found.end()
        if not self._take("?") and self._pattern[self._at : self._at + 1] == "+":  # lazy or not, the same is found
            raise self._unsupported("a possessive quantifier")
        if found[1]:
            counts: tuple[int, int | None] = {"*": (0, None), "+": (1, None), "?": (0, 1)}[found[1]]
        else:
            low = int(found[2])
            counts = low, (int(found[4]) if found[4] else None) if found[3] else low
        if counts[1] is not None and counts[1] < counts[0]:
            raise self._unsupported("a quantifier that ends before it begins")
        if atom.least == 0 and counts != (1, 1):
            raise self._unsupported("a quantifier behind what may be empty")
        return _Item(atom, counts)

    def _read_atom(self) -> Expression:
        char = self._pattern[self._at]
        self._at += 1
        if char == "(":
            return self._read_group()
        if char == "[":
            return self._one(self._read_class())
        if char == ".":
            return self._one(~_LINE_ENDS)
        if char == "\\":
            return self._one(self._read_escape(in_class=False, negated=False))
        if char in "*+?{":
            raise self._unsupported(f"{char!r} in this place")
        return self._one(CharSet.of(ord(char)))

    def _read_group(self) -> Expression:
        self._depth += 1
        if self._depth > _MAX_NESTING:
            raise self._unsupported(f"groups more than {_MAX_NESTING} deep")
        if self._take("?") and not self._take(":"):
            raise self._unsupported("(?…): lookaround, names and flags")
        options = []
        while True:
            parts = [item.repeated() for item in self._read_items()]
            options.append(
                Expression(
                    " ".join(part.text for part in parts) or '""',
                    sum(part.least for part in parts),
                    _sum(part.most for part in parts),
                )
            )
            if not self._take("|"):
                break
        if not self._take(")"):
            raise self._unsupported("an anchor within a group, or a ( without )")
        self._depth -= 1
        mosts = [option.most for option in options]
        most = None if None in mosts else max(m for m in mosts if m is not None)
        text = " | ".join(option.text for option in options)
        return Expression(f"({text})", min(option.least for option in options), most)

    def _read_class(self) -> CharSet:
        negated = self._take("^")
        found = CharSet(())
        while not self._take("]"):
            if self._at >= len(self._pattern):
                raise self._unsupported("a [ without ]")
            first = self._read_class_char(negated=negated)
            if self._pattern.startswith("-", self._at) and not self._pattern.startswith("-]", self._at):
                self._at += 1
                if self._at >= len(self._pattern):
                    raise self._unsupported("a [ without ]")
                last = self._read_class_char(negated=negated)
                first = self._range(first, last)
            found |= first
        return ~found if negated else found

    def _range(self, first: CharSet, last: CharSet) -> CharSet:
        (low, low_end), (high, high_end) = first.ranges[0], last.ranges[-1]
        if low != low_end or high != high_end or high < low or len(first.ranges) + len(last.ranges) > 2:
            raise self._unsupported("a range in [] that is none")
        return CharSet.of((low, high))

    def _read_class_char(self, *, negated: bool) -> CharSet:
        char = self._pattern[self._at]
        self._at += 1
        return self._read_escape(in_class=True, negated=negated) if char == "\\" else CharSet.of(ord(char))

    def _read_escape(self, *, in_class: bool, negated: bool) -> CharSet:
        char = self._pattern[self._at : self._at + 1]
        if (found := _HEX.match(self._pattern, self._at)) is not None:
            self._at = found.end()
            return CharSet.of(int(found[1] or found[2], 16))
        self._at += 1
        if char.lower() in _CLASSES:
            # beyond ASCII the dialects differ: what a class may hold there is left out, or ruled out where negated
            inside = _CLASSES[char.lower()]
            chosen = inside if char.islower() else ~inside & ~_BEYOND_ASCII
            return chosen | _BEYOND_ASCII if negated else chosen
        if char in _CONTROLS:
            return CharSet.of(_CONTROLS[char])
        if char and not char.isalnum() and char.isascii():
            return CharSet.of(ord(char))
        raise self._unsupported(f"\\{char}" + (" in []" if in_class else ""))

    def _one(self, chars: CharSet) -> Expression:
        text = in_string(chars)
        if text is None:
            raise self._unsupported("a class without characters that can be written")
        return Expression(text, 1, 1)

    def _take(self, text: str) -> bool:
        if self._pattern.startswith(text, self._at):
            self._at += len(text)
            return True
        return False

    def _unsupported(self, what: str) -> UnsupportedPatternError:
        return UnsupportedPatternError(f"{what} (character {self._at})")
