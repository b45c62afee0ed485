"""Grammars in GBNF, llama.cpp's notation: read as llama.cpp reads them, and refused where it would hang, die or guess.

llama.cpp (src/llama-grammar.cpp) says what is wrong only to its log, recurses as deep as groups are nested, follows
every way through leftmost rules, and takes a repetition of more than 2,000 for one without end. So a grammar is
understood here first. Pure: no engine is touched.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from llmrun.errors import UsageError
from llmrun.structured.rules import Element, Rules, check_rules

ROOT = "root"

_MAX_TEXT = 1 << 20  # characters; llama.cpp's own grammars have a few thousand
_MAX_NESTING = 100  # groups in groups: llama.cpp's parser is on its stack for each
_MAX_ELEMENTS = 500_000  # 8 bytes each in llama.cpp, with repetitions written out
# MAX_REPETITION_THRESHOLD of src/llama-grammar.cpp
MAX_REPETITIONS = 2000

_SPACE = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
_SPACE_AND_LINES = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_NAME = re.compile(r"[A-Za-z0-9-]+")
_INTEGER = re.compile(r"[0-9]+")
_CHAR = re.compile(r"""\\(?:x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|[trn\\"\[\]-])|[^\\]""", re.DOTALL)
_TOKEN = re.compile(r"!?<(?:\[[0-9]{1,9}\]|[^\[>][^>]*)>")


@dataclass(frozen=True, slots=True)
class GrammarFacts:
    """What the engine must know of a grammar; names_tokens: it has tokens (<think>) among its characters."""

    names_tokens: bool


def check_grammar(text: str) -> GrammarFacts:
    """Read a grammar and return what there is to know of it; raises UsageError with the line, and what is wrong there.

    What passes is parsed by llama.cpp too, in bounded time and memory, and its root can be written to an end.
    """
    if len(text) > _MAX_TEXT:
        raise UsageError(f"the grammar has {len(text):,} characters: at most {_MAX_TEXT:,} are taken")
    if "\0" in text:
        raise UsageError("the grammar holds a NUL character", r"write it as \x00")
    parser = _Parser(text)
    rules = parser.read()
    if ROOT not in rules:
        raise UsageError("the grammar has no rule `root`, which is where answers begin", "root ::= ...")
    check_rules(rules, ROOT)
    return GrammarFacts(parser.names_tokens)


@dataclass(slots=True)
class _Sequence:
    """A sequence while it is read: where its last item begins, and of how many rules that is made."""

    elements: list[Element] = field(default_factory=list)
    last: int = 0
    n_rules: int = 1

    def begin(self, n_rules: int = 1) -> None:
        self.last, self.n_rules = len(self.elements), n_rules


class _Parser:
    """Reads a grammar character by character. Groups and repetitions become rules, as they do in llama.cpp."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._symbols: dict[str, int] = {}
        self._rules: Rules = {}
        self._n_elements = 0
        self._depth = 0
        self.names_tokens = False

    def read(self) -> Rules:
        """Return the rules by name; raises UsageError."""
        self._skip(lines=True)
        while self._at < len(self._text):
            self._read_rule()
        for name, at in self._symbols.items():
            if name not in self._rules:
                raise self._error(f"the rule {name!r} is used and not there", at)
        return self._rules

    def _read_rule(self) -> None:
        name = self._take(_NAME, "the name of a rule (letters, digits and -)")
        self._skip(lines=False)
        if not self._text.startswith("::=", self._at):
            raise self._error(f"::= must follow the name {name!r}")
        self._at += 3
        self._skip(lines=True)
        self._symbols.setdefault(name, self._at)
        self._add(name, self._read_alternatives(name, nested=False))
        if self._at < len(self._text) and self._text[self._at] not in "\r\n":
            raise self._error(f"{self._text[self._at]!r} is not understood here")
        self._skip(lines=True)

    def _read_alternatives(self, name: str, *, nested: bool) -> list[tuple[Element, ...]]:
        alternatives = [tuple(self._read_sequence(name, nested=nested))]
        while self._next() == "|":
            self._at += 1
            self._skip(lines=True)
            alternatives.append(tuple(self._read_sequence(name, nested=nested)))
        return alternatives

    def _read_sequence(self, name: str, *, nested: bool) -> list[Element]:
        sequence = _Sequence()
        while self._at < len(self._text):
            char = self._next()
            if char == '"':
                sequence.begin()
                sequence.elements += [None] * self._read_literal()
            elif char == "[":
                sequence.begin()
                sequence.elements += [None] * self._read_class()
            elif char and char in "<!":
                self._take(_TOKEN, "a token: <think> or <[1000]>")
                self.names_tokens = True
                sequence.begin()
                sequence.elements.append(None)
            elif char == ".":
                self._at += 1
                sequence.begin()
                sequence.elements.append(None)
            elif char == "(":
                self._read_group(name, sequence)
            elif char and char in "*+?{":
                self._read_repetition(name, sequence, nested=nested)
            elif (found := _NAME.match(self._text, self._at)) is not None:
                self._symbols.setdefault(found[0], self._at)
                self._at = found.end()
                sequence.begin()
                sequence.elements.append(found[0])
            else:
                break
            self._skip(lines=nested)
        return sequence.elements

    def _read_literal(self) -> int:
        """Read a text in quotes and return its length."""
        length, self._at = 0, self._at + 1
        while self._next() != '"':
            self._read_char('a text must end with "')
            length += 1
        self._at += 1
        return length

    def _read_class(self) -> int:
        """Read [a-z] and return how many elements it is to llama.cpp; one without characters is none."""
        length, self._at = 0, self._at + 1
        if self._next() == "^":
            self._at += 1
        while self._next() != "]":
            self._read_char("a class of characters must end with ]")
            length += 1
            if self._next() == "-" and not self._text.startswith("-]", self._at):
                self._at += 1
                self._read_char("a range of characters must have an end")
                length += 1
        self._at += 1
        if not length:
            raise self._error("a class of characters is empty")
        return length

    def _read_char(self, wanted: str) -> None:
        if self._at >= len(self._text):
            raise self._error(wanted)
        found = _CHAR.match(self._text, self._at)
        if found is None:
            raise self._error(
                f"the escape {self._text[self._at : self._at + 2]} is unknown",
                hint=r"\n \r \t \\ \" \[ \] \- \x41 \u0041",
            )
        self._at = found.end()

    def _read_group(self, name: str, sequence: _Sequence) -> None:
        self._depth += 1
        if self._depth > _MAX_NESTING:
            raise self._error(f"groups are nested more than {_MAX_NESTING} deep")
        opened, n_before = self._at, len(self._symbols)
        self._at += 1
        self._skip(lines=True)
        made = self._make_symbol(name)
        self._add(made, self._read_alternatives(name, nested=True))
        if self._next() != ")":
            raise self._error("this ( has no )", opened)
        self._at += 1
        self._depth -= 1
        sequence.begin(max(1, len(self._symbols) - n_before))
        sequence.elements.append(made)

    def _read_repetition(self, name: str, sequence: _Sequence, *, nested: bool) -> None:
        at = self._at
        least, most = self._read_bounds(nested=nested)
        repeated = tuple(sequence.elements[sequence.last :])
        if not repeated:
            raise self._error("there is nothing to repeat before this", at)
        n_total = most or least or 1
        if max(least, most or 0, sequence.n_rules * n_total) > MAX_REPETITIONS:
            raise self._error(f"llama.cpp repeats at most {MAX_REPETITIONS:,} times, parts of groups counted", at)
        n_optional = 1 if most is None else most - least
        self._count(len(repeated) * (least + n_optional) + 3 * n_optional)
        if least == 0:
            del sequence.elements[sequence.last :]
        sequence.elements += repeated * (least - 1)
        last: str | None = None
        for _ in range(n_optional):
            made = self._make_symbol(name)
            follower = made if most is None else last
            self._add(made, [repeated if follower is None else (*repeated, follower), ()])
            last = made
        if last is not None:
            sequence.elements.append(last)
        sequence.n_rules *= n_total

    def _read_bounds(self, *, nested: bool) -> tuple[int, int | None]:
        """Read * + ? {n} {n,} {n,m}; None is without end."""
        char = self._next()
        self._at += 1
        if char != "{":
            return {"*": (0, None), "+": (1, None), "?": (0, 1)}[char]
        self._skip(lines=nested)
        least = most = self._read_integer()
        bounds: tuple[int, int | None] = least, most
        if self._next() == ",":
            self._at += 1
            self._skip(lines=nested)
            bounds = least, self._read_integer() if self._next().isdigit() else None
        if self._next() != "}":
            raise self._error("{ must end with }")
        self._at += 1
        if bounds[1] is not None and bounds[1] < least:
            raise self._error(f"{{{least},{bounds[1]}}} ends before it begins")
        return bounds

    def _read_integer(self) -> int:
        text = self._take(_INTEGER, "a number")
        if len(text) > len(str(MAX_REPETITIONS)):
            raise self._error(f"llama.cpp repeats at most {MAX_REPETITIONS:,} times")
        self._skip(lines=True)
        return int(text)

    def _make_symbol(self, name: str) -> str:
        made = f"{name}_{len(self._symbols)}"  # no name that can be written: they have no _
        self._symbols[made] = self._at
        return made

    def _add(self, name: str, alternatives: list[tuple[Element, ...]]) -> None:
        self._count(sum(len(sequence) + 1 for sequence in alternatives))
        self._rules[name] = alternatives

    def _count(self, n_elements: int) -> None:
        self._n_elements += n_elements
        if self._n_elements > _MAX_ELEMENTS:
            raise UsageError(f"the grammar has more than {_MAX_ELEMENTS:,} parts, repetitions written out")

    def _next(self) -> str:
        return self._text[self._at : self._at + 1]

    def _skip(self, *, lines: bool) -> None:
        found = (_SPACE_AND_LINES if lines else _SPACE).match(self._text, self._at)
        self._at = found.end() if found else self._at

    def _take(self, pattern: re.Pattern[str], what: str) -> str:
        found = pattern.match(self._text, self._at)
        if found is None:
            raise self._error(f"{what} is expected")
        self._at = found.end()
        return found[0]

    def _error(self, what: str, at: int | None = None, hint: str | None = None) -> UsageError:
        line = self._text.count("\n", 0, self._at if at is None else at) + 1
        return UsageError(f"the grammar, line {line}: {what}", hint)
