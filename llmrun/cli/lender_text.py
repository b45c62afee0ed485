"""Machines that lend devices, in words: what each gets, how far it is, and how long its weights are under way."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from llmrun.console import one_line
from llmrun.hardware.device import Lender
from llmrun.hardware.link import Link
from llmrun.planning.forecast import Forecast
from llmrun.planning.lent import LentPart, lent_parts
from llmrun.units import format_decimal_bytes, format_seconds

_WIDTH = 80
_WORTH_TELLING = 1.0  # seconds


def lender_lines(forecast: Forecast, device: str) -> list[str]:
    """Return what is to be known of the lender of a plan's device beside its memory; nothing of this machine's own."""
    pool = next(pool for pool in forecast.pools if pool.id == device)
    if pool.lender is None:
        return []
    part = next((part for part in lent_parts(forecast) if part.device == device), None)
    lines = [f"lent by {_name(pool.lender)}; gets {'nothing' if part is None else _layers(part)}"]
    lines.append(link_text(pool.lender.link))
    if part is not None:
        lines.append(f"{_sending(part)}; {_keeping(pool.lender)}")
    if pool.lender.host is None:
        lines.append(f"nobody told what is free there: all of it, says ggml; {device}=6GiB is a limit")
    return [row for line in lines for row in _wrapped(line)]


def sending_lines(forecast: Forecast) -> Iterator[str]:
    """Yield what is told before weights go to lenders, where that takes a while."""
    for part in lent_parts(forecast):
        if part.seconds >= _WORTH_TELLING:
            told = _sending(part)
            if part.lender.keeps:
                told += " the first time"
            yield f"{told}; {_keeping(part.lender)}"


def link_text(link: Link) -> str:
    """Return how far away a machine is, in words."""
    if not link.measured:
        return f"link {_latency(link)}, taken to have 1 Gbit/s: it could not be measured"
    return f"link {_latency(link)}, {_rate(link.upload)} there and {_rate(link.download)} back"


def _name(lender: Lender) -> str:
    return lender.address if lender.host is None else f"{one_line(lender.host)} ({lender.address})"


def _layers(part: LentPart) -> str:
    output = "the output" if part.output else ""
    if not part.layers:
        return output
    first, last = part.layers[0] + 1, part.layers[-1] + 1
    layers = f"layer {first}" if first == last else f"layers {first} to {last}"
    return f"{layers}, and {output}" if output else layers


def _sending(part: LentPart) -> str:
    host = part.lender.address.rpartition(":")[0]
    link = part.lender.link
    duration = f"about {format_seconds(part.seconds)}" if part.seconds >= _WORTH_TELLING else "less than a second"
    return f"sending {format_decimal_bytes(part.weights)} to {host}: {duration} at {_rate(link.upload)}"


def _keeping(lender: Lender) -> str:
    if lender.keeps is None:
        return "whether it keeps them is not known"
    return "it keeps tensors above 10 MiB" if lender.keeps else "it keeps none of them"


def _latency(link: Link) -> str:
    return f"{link.latency * 1e3:.2f} ms" if link.latency < 1e-3 else f"{link.latency * 1e3:.3g} ms"


def _rate(rate: float) -> str:
    """Bits a second, as networks are sold."""
    bits = 8 * rate
    if bits >= 0.95e9:
        return f"{bits / 1e9:.1f} Gbit/s"
    return f"{bits / 1e6:.0f} Mbit/s" if bits >= 1e6 else f"{bits / 1e6:.1f} Mbit/s"


def _wrapped(line: str) -> list[str]:
    return textwrap.wrap(line, _WIDTH, initial_indent="  ", subsequent_indent="    ", break_long_words=False)
