"""A grammar's rules as a graph: do they end, and does any call itself before it has written something? Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping

from llmrun.errors import UsageError

Element = str | None  # the name of a rule; None is a character
Rules = dict[str, list[tuple[Element, ...]]]

# llama.cpp follows every way from a rule to the first characters it can begin with, keeps each and compares it with all
# others: 8,192 took 0.28 s
# (llama-cpp-python 0.3.36, one core of a server)
_MAX_WAYS = 10_000
# ... and it looks for left recursion along all of them from every rule, some ten nanoseconds a step
_MAX_STEPS = 20_000_000
_MAX_DEPTH = 20_000  # one call each on llama.cpp's stack, of less than 200 bytes


def check_rules(rules: Rules, root: str) -> None:
    """Raise UsageError for rules that never end, or that llama.cpp cannot follow; every rule named must be there."""
    ending = _closure(rules, characters=True)
    for name in _reachable(rules, root):
        if name not in ending:
            raise UsageError(
                f"the grammar's rule {_readable(name)!r} never ends: every way through it leads to itself again",
                "give it an alternative that does not",
            )
    _check_left_recursion(rules, _closure(rules, characters=False))


def _closure(rules: Rules, *, characters: bool) -> set[str]:
    """Return the rules with an alternative of nothing but such rules (and characters, if they count)."""
    waiting: dict[str, list[tuple[str, int]]] = {}
    missing: dict[tuple[str, int], int] = {}
    found: set[str] = set()
    ready: deque[str] = deque()
    for name, alternatives in rules.items():
        for number, sequence in enumerate(alternatives):
            needed = [element for element in sequence if element is not None]
            if not characters and len(needed) < len(sequence):
                continue
            missing[name, number] = len(needed)
            for other in needed:
                waiting.setdefault(other, []).append((name, number))
            if not needed and name not in found:
                found.add(name)
                ready.append(name)
    while ready:
        for name, number in waiting.get(ready.popleft(), ()):
            missing[name, number] -= 1
            if not missing[name, number] and name not in found:
                found.add(name)
                ready.append(name)
    return found


def _reachable(rules: Rules, root: str) -> list[str]:
    seen = {root: None}
    todo = [root]
    while todo:
        for sequence in rules[todo.pop()]:
            for element in sequence:
                if element is not None and element not in seen:
                    seen[element] = None
                    todo.append(element)
    return list(seen)


def _leftmost(sequences: Iterable[tuple[Element, ...]], empty: set[str]) -> list[Element]:
    """Return the rules that may be entered before a character is written, and None for each way to such a character."""
    found: list[Element] = []
    for sequence in sequences:
        for element in sequence:
            if element is None:
                found.append(None)
                break
            found.append(element)
            if element not in empty:
                break
    return found


def _check_left_recursion(rules: Rules, empty: set[str]) -> None:
    begins = {name: _leftmost(sequences, empty) for name, sequences in rules.items()}
    entered = {name: [other for other in others if other is not None] for name, others in begins.items()}
    ways: dict[str, int] = {}
    depths: dict[str, int] = {}
    for name in _callees_first(entered):
        ways[name] = min(_MAX_WAYS + 1, sum(1 if other is None else ways[other] for other in begins[name]))
        depths[name] = 1 + max((depths[other] for other in entered[name]), default=0)
        if ways[name] > _MAX_WAYS:
            raise UsageError(
                f"the grammar's rule {_readable(name)!r} can begin in more than {_MAX_WAYS:,} ways",
                "let alternatives share their beginnings",
            )
    if sum(ways.values()) > _MAX_STEPS or max(depths.values()) > _MAX_DEPTH:
        raise UsageError("the grammar has too many rules that begin with other rules", "begin them with characters")


def _callees_first(entered: Mapping[str, list[str]]) -> list[str]:
    """Return the rules so that each stands after those it enters; raises UsageError where there is no such order."""
    done: dict[str, bool] = {}  # False while it is being looked at
    order: list[str] = []
    for start in entered:
        stack = [(start, iter(entered[start]))] if start not in done else []
        done.setdefault(start, False)
        while stack:
            name, others = stack[-1]
            other = next(others, None)
            if other is None:
                done[name] = True
                order.append(name)
                stack.pop()
            elif other not in done:
                done[other] = False
                stack.append((other, iter(entered[other])))
            elif not done[other]:
                raise UsageError(
                    f"the grammar's rule {_readable(other)!r} can call itself before it has written anything",
                    "a list is written as: items ::= item (separator item)*",
                )
    return order


def _readable(name: str) -> str:
    """Return the rule that a group or a repetition stands in."""
    return name.split("_", 1)[0]
