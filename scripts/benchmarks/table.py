"""Rows of measured ratios, and the table people read."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

NOISY_SPREAD = 0.10


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison: figures of ours and theirs, measured in turns; each pair gives a ratio.

    bar: the ratio that must be reached (`at_least`) or not exceeded. unit: of the figures. command: what made theirs,
    as it is typed, "" where that is no program. limit: what the machine allows at the most, in the same unit.
    """

    name: str
    unit: str
    ours: tuple[float, ...]
    theirs: tuple[float, ...]
    bar: float
    at_least: bool = True
    command: str = ""
    limit: float | None = None

    @property
    def of_limit(self) -> float | None:
        """Which part of the limit is reached."""
        return median(self.ours) / self.limit if self.limit else None

    @property
    def noisy(self) -> bool:
        """Whether the ratios reach too far for a bar."""
        return self.spread > NOISY_SPREAD

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
            "noisy": self.noisy,
            "command": self.command,
            "limit": self.limit,
            "of_limit": self.of_limit,
        }


def format_table(rows: list[Row]) -> str:
    """The rows as text, with what was noisy marked; below a row the command that it is compared with."""
    limits = any(row.limit is not None for row in rows)
    head = f"{'what':<44} {'llmrun':>9} {'other':>9} {'unit':<6} {'ratio':>6} {'spread':>7}"
    limit = f" {'limit':>9} {'of it':>6}" if limits else ""
    lines = [f"{head}{limit}  bar"]
    for row in rows:
        sign = "≥" if row.at_least else "≤"
        verdict = "reached" if row.reached else "NOT reached"
        noisy = "  noisy" if row.noisy else ""
        lines.append(
            f"{row.name:<44} {median(row.ours):>9.4g} {median(row.theirs):>9.4g} {row.unit:<6} {row.ratio:>6.3f} "
            f"{row.spread:>6.1%} {_limit(row) if limits else ''}  {sign} {row.bar:g} {verdict}{noisy}"
        )
        if row.command:
            lines.append(f"    {row.command}")
    return "\n".join(lines)


def _limit(row: Row) -> str:
    if row.limit is None or row.of_limit is None:
        return f"{'-':>9} {'-':>6}"
    return f"{row.limit:>9.4g} {row.of_limit:>6.0%}"
