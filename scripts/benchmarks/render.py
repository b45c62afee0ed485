"""What it costs to show an answer as Markdown: bytes, redraws, processor time; on answers of the sort models write.

"other" is the same answer as plain text.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from time import process_time

from llmrun.chat.view.markdown import MarkdownView
from scripts.benchmarks.table import Row

_ANSWERS = Path(__file__).parents[2] / "tests" / "golden" / "answers"
_TOKEN = 4  # characters, as English has them
_RATES = (15, 150)  # tokens a second: of a model on a laptop's CPU, of one on a GPU


@dataclass(slots=True)
class _Terminal:
    """Counts what is painted, in a time that passes as tokens come."""

    interruptions: int = 0
    now: float = 0.0
    written: int = 0
    redraws: int = 0

    def paint(self, text: str) -> None:
        self.written += len(text.encode())
        self.redraws += 1

    def size(self) -> tuple[int, int]:
        return 80, 24


def _show(text: str, rate: int) -> tuple[_Terminal, float]:
    """The terminal afterwards, and the seconds of a processor that it took."""
    terminal = _Terminal()
    view = MarkdownView(terminal, clock=lambda: terminal.now)
    began = process_time()
    for begin in range(0, len(text), _TOKEN):
        terminal.now += 1 / rate
        view.answer(text[begin : begin + _TOKEN])
    view.end()
    return terminal, process_time() - began


def measure_render(_: Path) -> list[Row]:
    """Bytes for each byte of text; redraws a second against 20; processor seconds a thousand tokens against one."""
    rows = []
    texts = {path.stem: path.read_text("utf-8") for path in sorted(_ANSWERS.glob("*.md"))}
    for text in texts.values():
        _show(text, _RATES[0])  # parser and lexers are loaded once
    for rate in _RATES:
        runs = {name: _show(text, rate) for name, text in texts.items()}
        for name, (terminal, _seconds) in runs.items():
            size = len(texts[name].encode())
            rows.append(_row(f"bytes, {name}, {rate} tokens/s", "B", terminal.written, size, 6))
        seconds = [len(text) / _TOKEN / rate for text in texts.values()]
        redraws = [terminal.redraws / took for (terminal, _), took in zip(runs.values(), seconds, strict=True)]
        rows.append(_row(f"most redraws, {rate} tokens/s", "1/s", max(redraws), 20, 1.01))
        tokens = sum(len(text) / _TOKEN for text in texts.values())
        spent = sum(cost for _, cost in runs.values()) * 1000 / tokens
        rows.append(_row(f"processor, 1,000 tokens, {rate} tokens/s", "s", spent, 1, 1))
    return rows


def _row(name: str, unit: str, ours: float, other: float, bar: float) -> Row:
    return Row(name, unit, (ours,), (other,), bar, at_least=False)
