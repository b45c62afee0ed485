"""What stands in a line of Markdown as styled text: emphasis, code, links. Blocks are not its business.

CommonMark as markdown-it parses it, with strikethrough; HTML and entities are text, mathematics is left as it is.
Nothing a model wrote is lost: a link shows its address, and what cannot be shown without loss is shown as written.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from llmrun.chat.view.text import BOLD, DIM, ITALIC, PLAIN, STRUCK, UNDERLINED, Row, Span, Style, joined

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.rules_inline import StateInline
    from markdown_it.token import Token

CODE: Style = (36,)  # cyan, whatever the terminal's colours are

_STYLES = {"strong": BOLD, "em": ITALIC, "s": STRUCK, "link": UNDERLINED}
# \( \), \[ \] and $$ as TeX has them; a single $ as Pandoc reads it, so that prices are none
_MATHS = re.compile(r"\\\(.+?\\\)|\\\[.+?\\\]|\$\$.+?\$\$|\$(?=\S)[^$\n]*?[^$\s]\$(?!\d)", re.DOTALL)
_MARK = re.compile(r"\\.|`+|\*\*|\*|__|_|~~", re.DOTALL)
_SPECIAL = re.compile(r"[*_`~\[\]<$\\]")


def spans_of(text: str, style: Style = PLAIN, *, colour: bool = True) -> Row:
    """Return a text with its inline Markdown applied over a style; newlines are kept.

    Without colour, code keeps its backticks: nothing else would tell it from text.
    """
    if not _SPECIAL.search(text) and "\n" not in text:
        return ((text, style),) if text else ()
    try:
        tokens = _parser().parseInline(text)[0].children or []
    except RecursionError:
        return ((text, style),)
    spans = joined(_rendered(tokens, style, colour=colour))
    return spans if _letters("".join(text for text, _ in spans)) == _letters(text) else ((text, style),)


def is_closed(text: str) -> bool:
    """Whether a text can be shown apart from what follows: no mark in it is still waiting for another."""
    left = "".join(text for text, style in spans_of(text) if style != CODE)
    return not _SPECIAL.search(left)


def closed(text: str) -> str:
    """Return the begin of a text with what is open in it closed: a guess at what will come.

    Marks that end it are left out: whether they open, close or are text is not clear before more has come.
    """
    body = text.rstrip(" *_`~")
    body = text if body.endswith("\\") else body
    marks: list[str] = []
    for match in _MARK.finditer(body):
        mark = match[0]
        before, after = body[match.start() - 1 : match.start()], body[match.end() : match.end() + 1]
        if marks and marks[-1][0] == "`":
            if mark == marks[-1]:
                marks.pop()
        elif mark in marks and before.strip():
            del marks[marks.index(mark) :]
        elif mark[0] == "`" or (mark[0] != "\\" and after.strip() and not (mark[0] == "_" and before.isalnum())):
            marks.append(mark)
    return body + "".join(reversed(marks))


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, text))


def _rendered(tokens: Sequence[Token], style: Style, *, colour: bool) -> list[Span]:
    spans: list[Span] = []
    styles = [style]
    link: tuple[str, int] | None = None  # what follows the link's text, and where that began
    for token in tokens:
        kind, _, edge = token.type.rpartition("_")
        if edge == "open":
            styles.append(_over(styles[-1], _STYLES[kind]))
            link = (_address(token), len(spans)) if kind == "link" else link
        elif edge == "close":
            styles.pop()
            if kind == "link" and link is not None:
                address, begin = link
                if address and address != "".join(text for text, _ in spans[begin:]):
                    spans.append((f" ({address})", _over(styles[-1], DIM)))
        elif token.type == "code_inline":
            quotes = "" if colour else token.markup
            spans.append((f"{quotes}{token.content}{quotes}", _over(styles[-1], CODE)))
        elif token.type in ("softbreak", "hardbreak"):
            spans.append(("\n", styles[-1]))
        elif token.type == "image":
            spans.append((f"{token.content} ({_address(token)})", styles[-1]))
        else:
            spans.append((token.content, styles[-1]))
    return spans


def _over(style: Style, other: Style) -> Style:
    return style if set(other) <= set(style) else style + other


def _address(token: Token) -> str:
    """A link's address and title, as far as its text does not say it."""
    address = str(token.attrGet("href") or token.attrGet("src") or "")
    title = token.attrGet("title")
    if token.markup == "autolink":
        return ""
    return f'{address} "{title}"' if title else address


@cache
def _parser() -> MarkdownIt:
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False}).enable("strikethrough").disable(["entity", "html_inline"])
    parser.inline.ruler.before("escape", "mathematics", _mathematics)
    vars(parser).update(normalizeLink=str, normalizeLinkText=str)  # addresses stay as they are written
    return parser


def _mathematics(state: StateInline, silent: bool) -> bool:
    """A rule of the parser: what TeX would read is text, whatever stars and backslashes are in it."""
    match = _MATHS.match(state.src, state.pos, state.posMax)
    if match is None:
        return False
    if not silent:
        state.pending += match[0]
    state.pos = match.end()
    return True
