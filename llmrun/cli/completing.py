"""What a shell completes: models by name and quantization, and the values of options. Asks neither engine nor Hub.

Nothing here may fail loudly: what cannot be read is not offered.
"""

from __future__ import annotations

import contextlib
import io
import shlex
import sys
from collections.abc import Iterator, MutableMapping

from llmrun.errors import LLMRunError

# What most repositories have, and people ask for
_USUAL_QUANTS = ("Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0", "F16")
_BASH = "complete_bash"
VARIABLE = "_LLMRUN_COMPLETE"


def complete_model(incomplete: str) -> list[str]:
    """Return names of models that begin so: guide, those on this machine, the user's own names, the catalog's.

    A quantization is offered behind the whole name and a colon, the usual ones where the files are not here.
    """
    found = [*_here(incomplete), *_named()]
    if ":" in incomplete:
        name = incomplete.rpartition(":")[0]
        if name in _named():
            found += [f"{name}:{quant}" for quant in _USUAL_QUANTS]
    return list(dict.fromkeys(name for name in found if name.startswith(incomplete)))


def complete_kept(incomplete: str) -> list[str]:
    """Return names of models on this machine that begin so."""
    return list(dict.fromkeys(name for name in _here(incomplete) if name.startswith(incomplete)))


def _here(incomplete: str) -> list[str]:
    """Return the models on this machine, each quantization by itself once a colon is typed."""
    from llmrun.inventory import read_inventory

    with contextlib.suppress(OSError, LLMRunError):
        held = [held for held in read_inventory().holdings if held.kind == "model" and held.problem is None]
        exact = [item.reference for item in held if ":" in incomplete]
        return [*(item.model for item in held), *exact]
    return []


def _named() -> list[str]:
    from llmrun.catalog import entries, read_own_names

    own: list[str] = []
    with contextlib.suppress(LLMRunError):
        own = list(read_own_names())
    return [*own, *(name for entry in entries() for name in (*entry.aliases, entry.name))]


@contextlib.contextmanager
def bash_words(environment: MutableMapping[str, str]) -> Iterator[None]:
    """Let a completion of bash see words with colons whole, and bash only the part it will replace.

    To bash a colon is a word of its own (COMP_WORDBREAKS): `qwen3:8` comes as three, of which the last is completed.
    """
    if environment.get(VARIABLE) != _BASH:
        yield
        return
    cut = _mend(environment)
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out):
            yield
    finally:
        sys.stdout.write("".join(line.removeprefix(cut) for line in out.getvalue().splitlines(keepends=True)))
        sys.stdout.flush()


def _mend(environment: MutableMapping[str, str]) -> str:
    """Join what bash took apart; returns what stands before the part of the current word that bash will replace."""
    try:
        words = shlex.split(environment["COMP_WORDS"])
        current = int(environment["COMP_CWORD"])
    except (KeyError, ValueError):  # an open quote, or no completion at all
        return ""
    words += [""] * (current + 1 - len(words))
    joined: list[str] = []
    place, cut = 0, ""
    for number, word in enumerate(words):
        glued = bool(joined) and number > 1 and (word == ":" or words[number - 1] == ":")
        before = joined[-1] if glued else ""
        if glued:
            joined[-1] += word
        else:
            joined.append(word)
        if number == current:
            place, cut = len(joined) - 1, before + (":" if glued and word == ":" else "")
    environment["COMP_WORDS"] = "\n".join(map(shlex.quote, joined[: place + 1]))
    environment["COMP_CWORD"] = str(place)
    return cut
