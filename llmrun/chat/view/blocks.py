"""The blocks of Markdown, line by line as they come: containers (quotes, items of lists) and the leaf that is open.

CommonMark's block structure as far as a line decides it: no line changes what lines before it are, but for the header
of a table. So headings by underlining, definitions of links and HTML blocks are text, and show as such.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from llmrun.chat.view.code import Code
from llmrun.chat.view.leaf import Container, Edge, Item, Leaf, Paragraph, Quote
from llmrun.chat.view.table import Table, parse_aligns, parse_cells
from llmrun.chat.view.text import BOLD, DIM, ITALIC, UNDERLINED

_DEEPEST = 32  # containers within each other; what is deeper is text
_QUOTE = re.compile(r" {0,3}> ?")
_ITEM = re.compile(r"( {0,3})([-*+]|\d{1,9}[.)])( +|$)")
_HEADING = re.compile(r" {0,3}(#{1,6})(?= |$)")
_FENCE = re.compile(r"( {0,3})(`{3,}|~{3,})(.*)")
_RULE = re.compile(r" {0,3}([-*_]) *(?:\1 *){2,}")
# What a line may begin with before it is clear what it will be
_UNCLEAR = re.compile(r"[-*+#>`~|=_:.)\s]*|\s*\d{1,9}[.)]?\s*")
_ACROSS = "─" * 8  # a rule; a whole one would be more bytes than many a paragraph
_HEADINGS = (BOLD + UNDERLINED, BOLD, BOLD + ITALIC, BOLD + ITALIC, ITALIC, ITALIC)


@dataclass(slots=True)
class Blocks:
    """The blocks that are open; changes with every line. leaf: the one that takes text."""

    leaf: Leaf | None = None
    midline: bool = False  # whether the leaf has taken in the begin of a line
    _containers: tuple[Container, ...] = ()
    _gap: bool = False
    _begun: bool = False

    @staticmethod
    def after_rows() -> Blocks:
        """Return the state below something else, with a blank row between."""
        return Blocks(_gap=True, _begun=True)

    def copy(self) -> Blocks:
        """Return the same state, to try a line on."""
        return replace(self, leaf=self.leaf and self.leaf.copy())

    def is_unclear(self, text: str) -> bool:
        """Whether more of a line must come before it can be shown, so that nothing is shown as what it is not."""
        if isinstance(self.leaf, Code):
            return bool(self.leaf.fence) and text.strip() in (self.leaf.fence[: len(text.strip())], self.leaf.fence)
        return _UNCLEAR.fullmatch(text[:200]) is not None

    def begin_line(self, text: str) -> list[Leaf]:
        """Take in the begin of a line for good, as what it looks like; returns the leaves that this ended."""
        if not isinstance(self.leaf, Table) or "|" not in text:
            ended = self.line(text)
        else:
            ended = self._end_leaf()
            self._open(Paragraph(self._edge(0), text))
        if not isinstance(self.leaf, Paragraph | Code):
            ended += self._end_leaf()
            self._open(Paragraph(self._edge(0)))
        self.midline = True
        return ended

    def more(self, text: str) -> None:
        """Take in more of a line that was begun."""
        assert self.leaf is not None
        self.leaf.add(text)

    def line(self, text: str) -> list[Leaf]:
        """Take in a line, or the end of one that was begun; returns the leaves that this ended."""
        if self.midline and self.leaf is not None:
            self.midline = False
            self.leaf.add(text)
            if isinstance(self.leaf, Code):
                self.leaf.end_line()
            return []
        body = text.lstrip(" \t")
        rest, matched = self._matched(text[: len(text) - len(body)].expandtabs(4) + body)
        lazy = matched < len(self._containers)
        if isinstance(self.leaf, Code) and not lazy and (taken := self._take_code(self.leaf, rest)) is not None:
            return taken
        if not rest.strip():
            self._containers = self._containers[:matched]
            self._gap = self._begun
            return self._end_leaf()
        if isinstance(self.leaf, Paragraph) or not lazy:
            return self._take(rest, matched, lazy=lazy)
        ended = self._end_leaf()
        self._containers = self._containers[:matched]
        return ended + self._take(rest, matched, lazy=False)

    def end(self) -> list[Leaf]:
        """There will be no more lines; returns what this ended."""
        return self._end_leaf()

    def _matched(self, rest: str) -> tuple[str, int]:
        """What of a line is within the containers it goes on, and how many those are."""
        for index, container in enumerate(self._containers):
            if isinstance(container, Quote):
                mark = _QUOTE.match(rest)
                if mark is None:
                    return rest, index
                rest = rest[mark.end() :]
            elif not rest.strip():
                rest = ""
            elif _indent(rest) >= container.offset:
                rest = rest[container.offset :]
            else:
                return rest, index
        return rest, len(self._containers)

    def _take_code(self, code: Code, rest: str) -> list[Leaf] | None:
        """Take in a line of the code that is open; None where it is none."""
        if not code.fence:
            if _indent(rest) < 4 or not rest.strip():
                return None
            code.add_line(rest[4:])
            return []
        if _indent(rest) < 4 and len(end := rest.strip()) >= len(code.fence) and not end.strip(code.fence[0]):
            code.close()
            return self._end_leaf()
        code.add_line(rest[min(code.indent, _indent(rest)) :])
        return []

    def _take(self, rest: str, matched: int, *, lazy: bool) -> list[Leaf]:
        """Take in what is not blank: containers that begin, then a leaf."""
        opened: list[Container] = []
        paragraph = self.leaf if isinstance(self.leaf, Paragraph) and not self.leaf.single else None
        while matched + len(opened) < _DEEPEST and (found := _container(rest)) is not None:
            container, begin = found
            first = not opened and not lazy and paragraph is not None
            if first and isinstance(container, Item) and not _interrupts(container, rest[begin:]):
                break
            opened.append(container)
            rest = rest[begin:]
        if opened or (lazy and (paragraph is None or _begins_block(rest))):
            ended = self._end_leaf()
            self._containers = (*self._containers[:matched], *opened)
            return ended + self._take_leaf(rest, None, len(opened))
        return self._take_leaf(rest, paragraph, 0)

    def _take_leaf(self, rest: str, paragraph: Paragraph | None, fresh: int) -> list[Leaf]:
        if heading := _HEADING.match(rest):
            return self._replace(
                Paragraph(self._edge(fresh), _title(rest), _HEADINGS[len(heading[1]) - 1], single=True)
            )
        if (fence := _FENCE.match(rest)) and not (fence[2][0] == "`" and "`" in fence[3]):
            return self._replace(Code(self._edge(fresh), fence[2], fence[3].strip(), len(fence[1])))
        if _RULE.fullmatch(rest):
            return self._replace(Paragraph(self._edge(fresh), _ACROSS, DIM, literal=True, single=True))
        if isinstance(self.leaf, Table) and "|" in rest and not fresh:
            self.leaf.add_line(rest)
            return []
        if paragraph is not None:
            return self._go_on(paragraph, rest)
        if _indent(rest) >= 4:
            code = Code(self._edge(fresh))
            code.add_line(rest[4:])
            return self._replace(code)
        return self._replace(Paragraph(self._edge(fresh), rest.strip()))

    def _go_on(self, paragraph: Paragraph, rest: str) -> list[Leaf]:
        """Another line of a paragraph; the one that makes the line before it the header of a table."""
        aligns = parse_aligns(rest)
        before, newline, header = paragraph.text.rpartition("\n")
        if not aligns or "|" not in header or len(aligns) != len(cells := parse_cells(header)):
            paragraph.add_line(rest.strip())
            return []
        if newline:
            paragraph.text = before
            return self._replace(Table(paragraph.edge.used(), cells, aligns))
        if not paragraph.is_whole:
            paragraph.add_line(rest.strip())
            return []
        self.leaf = Table(paragraph.edge, cells, aligns)
        return []

    def _replace(self, leaf: Leaf) -> list[Leaf]:
        ended = self._end_leaf()
        self._open(leaf)
        return ended

    def _open(self, leaf: Leaf) -> None:
        self.leaf, self._gap, self._begun = leaf, False, True

    def _end_leaf(self) -> list[Leaf]:
        ended, self.leaf, self.midline = self.leaf, None, False
        if isinstance(ended, Table):
            ended.end()
        return [ended] if ended is not None else []

    def _edge(self, fresh: int) -> Edge:
        return Edge(self._containers, fresh, self._gap)


def _container(rest: str) -> tuple[Container, int] | None:
    """The container that begins here, and where its content does."""
    if mark := _QUOTE.match(rest):
        return Quote(), mark.end()
    item = _ITEM.match(rest)
    if item is None or _RULE.fullmatch(rest):
        return None
    spaces = len(item[3]) if 1 <= len(item[3]) <= 4 and item.end() < len(rest) else 1
    begin = len(item[1]) + len(item[2]) + spaces
    return Item("•" if item[2] in "-*+" else item[2], begin), begin


def _interrupts(item: Item, content: str) -> bool:
    """Whether an item of a list may end a paragraph that has no blank line behind it."""
    return bool(content.strip()) and item.marker in ("•", "1.", "1)")


def _begins_block(rest: str) -> bool:
    return bool(_HEADING.match(rest) or _FENCE.match(rest) or _RULE.fullmatch(rest))


def _title(rest: str) -> str:
    """A heading's text, without the marks before and behind it."""
    title = rest.strip().lstrip("#").strip()
    bare = title.rstrip("#")
    return bare.rstrip() if bare != title and (not bare or bare[-1] == " ") else title


def _indent(text: str) -> int:
    return len(text) - len(text.lstrip(" "))
