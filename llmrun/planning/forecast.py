"""What running a model with given settings would take of this machine, and at other contexts and KV types. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from llmrun.memory.footprint import Footprint
from llmrun.planning.pools import Pool
from llmrun.settings import MAX_N_CTX, RunSettings, choose_n_ctx

Source = Literal["engine", "arithmetic"]
_TABLE_KV_TYPES = ("f16", "q8_0", "q4_0")
_FIRST_CONTEXT = 4096


@dataclass(frozen=True, slots=True)
class Cell:
    """What one context with one KV type takes of all pools together, bytes, and whether each has room for its part.

    source: who was asked: not always the engine, also where the plan is its. needed: bytes of each pool, in the order
    of the forecast's.
    """

    total: int
    fits: bool
    source: Source = "engine"
    needed: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ContextRow:
    """One context length of each conversation, by KV type; None where it is refused, or nobody knows."""

    n_ctx: int
    cells: Mapping[str, Cell | None]


@dataclass(frozen=True, slots=True)
class Forecast:
    """A model, settings, and what they take of each pool, the host first.

    source: who was asked; engine_trouble: why it was not the engine. arithmetic: bytes in all by our own formulas, None
    where they do not know the architecture. n_layer: layers that can be placed, the output not counted.
    """

    settings: RunSettings
    pools: tuple[Pool, ...]
    source: Source
    arithmetic: int | None
    engine_trouble: str | None
    n_ctx: int
    n_layer: int
    n_ctx_train: int
    contexts: tuple[ContextRow, ...]

    @property
    def n_ctx_each(self) -> int:
        """Tokens each conversation may have, as wished."""
        return (self.settings.n_ctx or self.n_ctx) // self.settings.n_seq_max

    @property
    def n_offloaded(self) -> int:
        """Layers on devices, as n_gpu_layers counts them: the output is one."""
        if len(self.pools) == 1:
            return 0
        wanted = self.settings.n_gpu_layers
        return self.n_layer + 1 if wanted is None else min(wanted, self.n_layer + 1)

    @property
    def fits(self) -> bool:
        """Whether every pool has room."""
        return all(pool.fits for pool in self.pools)

    @property
    def total(self) -> int:
        """Bytes everything takes."""
        return sum(pool.used.total for pool in self.pools)


def table_contexts(n_ctx_train: int, wished: int) -> tuple[int, ...]:
    """Return the contexts to show: 4k, 8k, ..., the trained one, and the wished one."""
    longest = min(n_ctx_train or wished, MAX_N_CTX)
    contexts = {longest, wished}
    n_ctx = _FIRST_CONTEXT
    while n_ctx < longest:
        contexts.add(n_ctx)
        n_ctx *= 2
    return tuple(sorted(contexts))


def context_table(
    settings: RunSettings,
    n_ctx_train: int,
    pools_of: Callable[[Footprint], Sequence[Pool]],
    footprint: Callable[[RunSettings], tuple[Footprint, Source] | None],
) -> tuple[ContextRow, ...]:
    """Return what each context takes with each KV type; `footprint` answers None for settings that cannot be."""

    def cell(n_ctx: int, kv_type: str) -> Cell | None:
        found = footprint(replace(settings, n_ctx=n_ctx * settings.n_seq_max, type_k=kv_type, type_v=kv_type))
        if found is None:
            return None
        taken, source = found
        pools = pools_of(taken)
        fits, needed = all(pool.fits for pool in pools), tuple(pool.needed for pool in pools)
        return Cell(taken.total, fits, source, needed)

    kv_types = dict.fromkeys((*_TABLE_KV_TYPES, settings.type_k))
    wished = choose_n_ctx(settings.n_ctx, n_ctx_train) // settings.n_seq_max
    return tuple(
        ContextRow(n_ctx, {kv_type: cell(n_ctx, kv_type) for kv_type in kv_types})
        for n_ctx in table_contexts(n_ctx_train, wished)
    )
