"""Rows of measured ratios, and the table people read."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

NOISY_SPREAD = 0.10


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison: figures of ours and theirs, measured in turns; each pair gives a ratio.

    bar: the ratio that must be reached (`at_least`) or not exceeded. unit: of the figures.
    """

    name: str
    unit: str
    ours: tuple[float, ...]
    theirs: tuple[float, ...]
    bar: float
    at_least: bool = True

    @property
    def ratio(self) -> float:
        """The median of the pairs' ratios."""
        return median(a / b for a, b in zip(self.ours, self.theirs, strict=True))

    @property
    def spread(self) -> float:
        """How far the middle half of the ratios reaches, as a part of the median."""
        ratios = sorted(a / b for a, b in zip(self.ours, self.theirs, strict=True))
        quarter = len(ratios) // 4
        if not self.ratio:
            return 0.0
        return (ratios[-1 - quarter] - ratios[quarter]) / self.ratio

    @property
    def reached(self) -> bool:
        """Whether the bar is reached."""
        return self.ratio >= self.bar if self.at_least else self.ratio <= self.bar

    def data(self) -> dict[str, object]:
        """The row for JSON."""
        return {
            "name": self.name,
            "unit": self.unit,
            "ours": self.ours,
            "theirs": self.theirs,
            "ratio": self.ratio,
            "spread": self.spread,
            "bar": self.bar,
            "reached": self.reached,
        }


def format_table(rows: list[Row]) -> str:
    """The rows as text, with what was noisy marked."""
    lines = [f"{'what':<44} {'llmrun':>9} {'other':>9} {'unit':<6} {'ratio':>6} {'spread':>7}  bar"]
    for row in rows:
        sign = "≥" if row.at_least else "≤"
        verdict = "reached" if row.reached else "NOT reached"
        noisy = "  noisy" if row.spread > NOISY_SPREAD else ""
        lines.append(
            f"{row.name:<44} {median(row.ours):>9.4g} {median(row.theirs):>9.4g} {row.unit:<6} {row.ratio:>6.3f} "
            f"{row.spread:>6.1%}  {sign} {row.bar:g} {verdict}{noisy}"
        )
    return "\n".join(lines)
