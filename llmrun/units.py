"""The border between numbers and the text people read and type: bytes, counts. Knows nothing of what is counted."""

from __future__ import annotations

import re
from fractions import Fraction

from llmrun.errors import UsageError

_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_DECIMAL_BYTES = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
_DECIMAL = ("", "K", "M", "B", "T")

# A number in plain digits or in groups of three, and a unit. Python refuses to read thousands of digits; 24 are enough.
_AMOUNT = re.compile(r"([0-9]{1,24}|[0-9]{1,3}(?:[,_][0-9]{3}){1,7})(\.[0-9]{1,24})? ?([a-zA-Z]{0,8})")
_COUNT_UNITS = {unit.lower(): 1000**power for power, unit in enumerate(_DECIMAL)}
_BYTE_UNITS = (
    {unit.lower(): 1024**power for power, unit in enumerate(_BINARY)}
    | {unit.lower(): 1000**power for power, unit in enumerate(_DECIMAL_BYTES)}
    | {"": 1}
)


def parse_count(text: str) -> int:
    """Read a count as people name models: "7b" is 7_000_000_000, "1.5B", "350m", "7,000,000"; raises UsageError.

    The inverse of format_count for every count that has no more digits than it prints.
    """
    number, unit = _amount(text, "a count", "write it as 7b, 1.5B, 350m or 7000000000")
    if unit not in _COUNT_UNITS:
        raise UsageError(
            f"{text!r} is not a count: K, M, B and T are known, not {unit!r}", "write it as 7b, 1.5B or 350m"
        )
    count: Fraction = number * _COUNT_UNITS[unit]
    if count.denominator != 1:
        raise UsageError(f"{text!r} is not a whole number", "write it as 7b, 1.5B or 350m")
    return count.numerator


def parse_bytes(text: str) -> int:
    """Read a size: "16GiB" is 16 x 2^30 bytes, "8 GB" is 8 x 10^9, "4096" is bytes; raises UsageError.

    Rounded down to a byte: what people type is a budget. A bare K, M or G is refused, since half the world's programs
    mean 1000 by it, and the other half 1024.
    """
    number, unit = _amount(text, "a size", "write it as 16GiB, 8GB or 512MiB")
    if unit in ("k", "m", "g", "t"):
        big = unit.upper()
        raise UsageError(f"{text!r} can mean two sizes", f"{big}iB counts in 1024, {big}B in 1000: 16GiB, 8GB")
    if unit not in _BYTE_UNITS:
        raise UsageError(f"{text!r} is not a size: {unit!r} is no unit of it", "write it as 16GiB, 8GB or 512MiB")
    if _BYTE_UNITS[unit] == 1 and number.denominator != 1:
        raise UsageError(f"{text!r} is not a whole number of bytes", "write it as 16GiB, 8GB or 512MiB")
    return int(number * _BYTE_UNITS[unit])


def _amount(text: str, what: str, examples: str) -> tuple[Fraction, str]:
    """Split a text into its number, exactly, and its unit in small letters."""
    match = _AMOUNT.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{text[:40]!r} is not {what}", examples)
    whole, decimals, unit = match.groups()
    return Fraction(re.sub("[,_]", "", whole) + (decimals or "")), unit.lower()


def format_bytes(size: int) -> str:
    """Format a number of bytes in binary units with one decimal: 1536 is '1.5 KiB', 12 is '12 B'."""
    return _format_size(size, 1024, _BINARY)


def format_decimal_bytes(size: int) -> str:
    """Format a number of bytes in decimal units with one decimal: 14_000_000_000 is '14.0 GB', 999 is '999 B'."""
    return _format_size(size, 1000, _DECIMAL_BYTES)


def _format_size(size: int, base: int, units: tuple[str, ...]) -> str:
    if size < 0:
        return "-" + _format_size(-size, base, units)
    value, unit = float(size), 0
    # 1023.95 would print as "1024.0": move on before rounding gets there
    while value >= base - 0.05 and unit < len(units) - 1:
        value, unit = value / base, unit + 1
    return f"{size} B" if unit == 0 else f"{value:,.1f} {units[unit]}"


def format_count(count: int) -> str:
    """Format a count as people name models: 5_580_000 is '5.6M', 70_000_000_000 is '70B', 999 is '999'."""
    value, unit = float(count), 0
    while value >= 999.5 and unit < len(_DECIMAL) - 1:
        value, unit = value / 1000, unit + 1
    text = f"{value:.1f}" if value < 99.95 and unit else f"{value:.0f}"
    return text.removesuffix(".0") + _DECIMAL[unit]


def format_seconds(seconds: float) -> str:
    """Format a duration: '0.04 s' under ten seconds, '42 s', '3 min 5 s', '1 h 2 min'."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
