"""What a machine's computing costs, as values: seconds for each kind of work that goes into a token.

Knows nothing of models, of how a cost was measured, or of where it is kept. The kinds follow llmrun.planning.speed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

ANY_TYPE = "*"  # stands for every type, where a device was not measured type by type


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds that one unit of work takes.

    spread: how far the middle half of the measurements reaches, as a part of their median.
    """

    seconds: float
    spread: float = 0.0


@dataclass(frozen=True, slots=True)
class MatrixCost:
    """What matrices of one GGML type cost.

    read, row: of one token alone, each byte and each row. Of a batch: unpack each weight, however many tokens there
    are; multiply each weight and token; convey each token's number that goes in or comes out, with what is done with it
    between two matrices.
    """

    read: Cost
    row: Cost
    unpack: Cost
    multiply: Cost
    convey: Cost


@dataclass(frozen=True, slots=True)
class AttentionCost:
    """What looking back costs with one type of KV cache.

    decode: each multiply-add of one token alone, and read each byte of the cache it needs. prefill: each multiply-add
    of a batch.
    """

    decode: Cost
    read: Cost
    prefill: Cost


@dataclass(frozen=True, slots=True)
class BaseCosts:
    """What every model pays.

    call: each step, whatever is in it. layer: each layer of a step. logit: each token of the vocabulary, where one is
    drawn.
    """

    call: Cost
    layer: Cost
    logit: Cost


@dataclass(frozen=True, slots=True)
class Rates:
    """Costs on one device, or on the host with a number of threads; what has not been measured is missing.

    matrices, experts: by GGML type; in a batch, experts are multiplied by other code. attention: by type of the KV
    cache.
    """

    base: BaseCosts | None = None
    matrices: Mapping[str, MatrixCost] = field(default_factory=dict)
    experts: Mapping[str, MatrixCost] = field(default_factory=dict)
    attention: Mapping[str, AttentionCost] = field(default_factory=dict)

    def matrix(self, type_name: str, *, of_experts: bool = False) -> MatrixCost | None:
        """Return what matrices of a type cost, None where that is unknown."""
        known = self.experts if of_experts else self.matrices
        return known.get(type_name) or known.get(ANY_TYPE)

    def looking_back(self, type_name: str) -> AttentionCost | None:
        """Return what attention costs with a type of KV cache, None where that is unknown."""
        return self.attention.get(type_name) or self.attention.get(ANY_TYPE)

    def steady(self, most: float) -> Rates:
        """Return what was measured calmly: types whose main costs vary by no more than this, as Cost.spread has it."""
        return Rates(
            self.base,
            {name: cost for name, cost in self.matrices.items() if max(cost.read.spread, cost.multiply.spread) <= most},
            {name: cost for name, cost in self.experts.items() if cost.multiply.spread <= most},
            {name: cost for name, cost in self.attention.items() if cost.prefill.spread <= most},
        )

    def merged(self, other: Rates) -> Rates:
        """Return what either knows; of what both know, the other's."""
        return replace(
            self,
            base=other.base or self.base,
            matrices={**self.matrices, **other.matrices},
            experts={**self.experts, **other.experts},
            attention={**self.attention, **other.attention},
        )


@dataclass(frozen=True, slots=True)
class Needs:
    """What must have been measured for a prediction: types of matrices, of experts, and of the KV cache."""

    matrices: frozenset[str] = frozenset()
    experts: frozenset[str] = frozenset()
    attention: frozenset[str] = frozenset()
    base: bool = True

    def beyond(self, rates: Rates) -> Needs:
        """Return what of it the rates do not know."""
        return Needs(
            frozenset(name for name in self.matrices if rates.matrix(name) is None),
            frozenset(name for name in self.experts if rates.matrix(name, of_experts=True) is None),
            frozenset(name for name in self.attention if rates.looking_back(name) is None),
            self.base and rates.base is None,
        )

    def __bool__(self) -> bool:
        return bool(self.matrices or self.experts or self.attention or self.base)
