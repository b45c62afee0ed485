"""How often something stands, within what llama.cpp can count. Pure."""

from __future__ import annotations

from llmrun.structured.gbnf import MAX_REPETITIONS

# Two counts of a number each are one of their product; more characters than contexts have tokens are not asked for
_BLOCK = 1000
MOST = _BLOCK * (MAX_REPETITIONS // 2)


def times(rule: str, least: int, most: int | None) -> str:
    """Return an expression for a rule least to most times, which are at most MOST; most None: without end."""
    if (least, most) in ((0, None), (1, None), (0, 1), (1, 1)):
        return rule + {(0, None): "*", (1, None): "+", (0, 1): "?", (1, 1): ""}[least, most]
    if most == 0:
        return '""'
    if max(least, most or 0) < MAX_REPETITIONS:
        return f"{rule}{{{least}}}" if least == most else f"{rule}{{{least},{'' if most is None else most}}}"
    blocks, left = divmod(least, _BLOCK)
    parts = [f"({rule}{{{_BLOCK}}}){{{blocks}}}"] if blocks else []
    parts += [f"{rule}{{{left}}}"] if left else []
    if most is None:
        return " ".join([*parts, f"{rule}*"])
    blocks, left = divmod(most - least, _BLOCK)
    if blocks:  # one block is left to be counted singly, so that every number can be had
        blocks, left = blocks - 1, left + _BLOCK
    parts += [f"({rule}{{{_BLOCK}}}){{0,{blocks}}}"] if blocks else []
    parts += [f"{rule}{{0,{left}}}"] if left else []
    return " ".join(parts)


def list_of(first: list[str], item: str, counts: tuple[int, int | None], comma: str) -> str:
    """Return an expression for a list: what stands first, then so many items, commas between them."""
    least, most = counts
    if first:
        return f" {comma} ".join(first) + f" {times(f'({comma} {item})', least, most)}"
    fewer = max(0, least - 1), None if most is None else most - 1
    whole = f"{item} {times(f'({comma} {item})', *fewer)}" if fewer != (0, 0) else item
    return whole if least else f"({whole})?"
