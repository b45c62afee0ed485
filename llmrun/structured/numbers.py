"""Ranges of numbers as expressions of GBNF: the digits that lie within. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

# Decimal digits that a double holds, whatever they are: numbers with no more of them stay in the order they are in
# after they are read (IEEE 754 binary64, DBL_DIG)
_DIGITS = 15
_UNBOUNDED = 10**_DIGITS - 1
_MAX_BOUND = 10**18

INTEGER = f'"0" | "-"? [1-9] [0-9]{{0,{_DIGITS - 1}}}'
NUMBER = f'"-"? ("0" | [1-9] [0-9]{{0,{_DIGITS - 1}}}) ("." [0-9]{{1,{_DIGITS}}})? ([eE] [-+]? [0-9]{{1,2}})?'


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a number lies between; None is unbounded. open: the bound itself is not within."""

    least: Decimal | None = None
    most: Decimal | None = None
    open_below: bool = False
    open_above: bool = False

    def contain(self, value: Decimal) -> bool:
        """Tell whether a number lies within."""
        if self.least is not None and (value < self.least or (self.open_below and value == self.least)):
            return False
        return self.most is None or not (value > self.most or (self.open_above and value == self.most))

    def without_end(self) -> bool:
        """Tell whether every number lies within."""
        return self.least is None and self.most is None


def integers(bounds: Bounds) -> str | None:
    """Return an expression for the integers within bounds, None where there is none.

    Those of more than 15 digits are left out, as far as there are others.
    """
    if bounds.without_end():
        return INTEGER
    least, most = _scaled(bounds, 0)
    parts = []
    if least < 0:
        parts += [f'"-" ({" | ".join(_digits(max(1, -most), -least))})']
    if most >= 0 and least <= most:
        parts += _digits(max(0, least), most)
    return " | ".join(parts) if parts and least <= most else None


def decimals(bounds: Bounds) -> str | None:
    """Return an expression for the numbers within bounds, None where there is none that 15 digits can write.

    Without an exponent, and with as many digits after the point as a double surely holds beside those before it.
    """
    if bounds.without_end():
        return NUMBER
    whole = max(len(str(int(abs(bound)))) for bound in (bounds.least, bounds.most) if bound is not None)
    places = max(0, _DIGITS - whole)
    least, most = _scaled(bounds, places)
    if least > most:
        return None
    parts = []
    if least < 0:
        parts += [f'"-" ({" | ".join(_fixed(max(1, -most), -least, places))})']
    if most >= 0:
        parts += _fixed(max(0, least), most, places)
    return " | ".join(parts)


def _scaled(bounds: Bounds, places: int) -> tuple[int, int]:
    """Return the least and the largest number within, in units of 10^-places."""
    unit = 10**places
    least, most = -_UNBOUNDED * unit, _UNBOUNDED * unit
    if bounds.least is not None:
        exact = bounds.least * unit
        least = int(exact.to_integral_value(ROUND_CEILING))
        least += bounds.open_below and least == exact
        most = max(most, least * 10)
    if bounds.most is not None:
        exact = bounds.most * unit
        most = int(exact.to_integral_value(ROUND_FLOOR))
        most -= bounds.open_above and most == exact
        least = least if bounds.least is not None else min(least, most * 10)
    return least, most


def _digits(least: int, most: int) -> list[str]:
    """Return expressions for whole numbers, 0 <= least <= most."""
    found = []
    for length in range(len(str(least)), len(str(most)) + 1):
        first = max(least, 10 ** (length - 1) if length > 1 else 0)
        found.append(_same_length(str(first), str(min(most, 10**length - 1))))
    return found


def _same_length(first: str, last: str) -> str:
    n = len(first)
    if not n:
        return '""'
    if first == "0" * n and last == "9" * n:
        return _any(n, n)
    if first[0] == last[0]:
        return f'"{first[0]}"' + ("" if n == 1 else " " + _same_length(first[1:], last[1:]))
    low, high, options = int(first[0]), int(last[0]), []
    if first[1:] != "0" * (n - 1):
        options.append(f'"{low}" {_same_length(first[1:], "9" * (n - 1))}')
        low += 1
    tail = []
    if last[1:] != "9" * (n - 1):
        tail.append(f'"{high}" {_same_length("0" * (n - 1), last[1:])}')
        high -= 1
    if low <= high:
        options.append(f"[{low}-{high}]" + (f" {_any(n - 1, n - 1)}" if n > 1 else ""))
    return f"({' | '.join(options + tail)})"


def _fixed(least: int, most: int, places: int) -> list[str]:
    """Return expressions for 0 <= least <= most in units of 10^-places, zeros at the end written or not."""
    unit = 10**places
    (whole_least, part_least), (whole_most, part_most) = divmod(least, unit), divmod(most, unit)
    if whole_least == whole_most:
        return [f'"{whole_least}" {_part(part_least, part_most, places)}']
    found = [f'"{whole_least}" {_part(part_least, unit - 1, places)}']
    if whole_least + 1 <= whole_most - 1:
        between = " | ".join(_digits(whole_least + 1, whole_most - 1))
        found.append(f"({between}) {_part(0, unit - 1, places)}")
    return [*found, f'"{whole_most}" {_part(0, part_most, places)}']


def _part(least: int, most: int, places: int) -> str:
    """Return an expression for what follows the whole number, the point included."""
    if not places:
        return '""'
    first, last = f"{least:0{places}d}", f"{most:0{places}d}"
    digits = " | ".join(_first_digits(first, last))
    return f'("." ({digits}))' + ("?" if not least else "")


def _first_digits(first: str, last: str) -> list[str]:
    """Return expressions for one digit and more, which lie within when zeros fill them up."""
    low, high, rest = int(first[0]), int(last[0]), len(first) - 1
    if low == high:
        return [f'"{low}"{_more_digits(first[1:], last[1:])}']
    return [
        f'"{low}"{_more_digits(first[1:], "9" * rest)}',
        *([f"[{low + 1}-{high - 1}]{_more_digits('0' * rest, '9' * rest)}"] if low + 1 <= high - 1 else []),
        f'"{high}"{_more_digits("0" * rest, last[1:])}',
    ]


def _more_digits(first: str, last: str) -> str:
    n = len(first)
    if not n:
        return ""
    if first == "0" * n and last == "9" * n:
        return f" {_any(0, n)}"
    return f" ({' | '.join(_first_digits(first, last))})" + ("?" if first == "0" * n else "")


def _any(least: int, most: int) -> str:
    return "[0-9]" if least == most == 1 else f"[0-9]{{{least},{most}}}"


def exact(value: object) -> Decimal | None:
    """Return a number of JSON as it is written, None for what is none, or far too large to be a bound."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    number = Decimal(str(value))
    return number if number.is_finite() and abs(number) <= _MAX_BOUND else None
