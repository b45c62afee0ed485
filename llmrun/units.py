"""The border between numbers and the text people read: bytes, counts. Knows nothing of what is being counted."""

from __future__ import annotations

_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_DECIMAL = ("", "K", "M", "B", "T")


def format_bytes(size: int) -> str:
    """Format a number of bytes in binary units with one decimal: 1536 is '1.5 KiB', 12 is '12 B'."""
    if size < 0:
        return "-" + format_bytes(-size)
    value, unit = float(size), 0
    # 1023.95 would print as "1024.0": move on before rounding gets there
    while value >= 1023.95 and unit < len(_BINARY) - 1:
        value, unit = value / 1024, unit + 1
    return f"{size} B" if unit == 0 else f"{value:,.1f} {_BINARY[unit]}"


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
