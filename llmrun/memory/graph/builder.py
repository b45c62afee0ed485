"""What every architecture's graph is put together from: weights, inputs, norms, rope, the loop over the layers.

Source: llama.cpp 0c1e57098, src/llama-graph.cpp. Knows no architecture.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from llmrun.memory.graph.shape import Batch, ComputeShape, LayerKind, PlacedLayer, Weight
from llmrun.memory.graph.tensor import (
    F32,
    I32,
    Graph,
    Op,
    Shape,
    Tensor,
    binary,
    get_rows,
    mul_mat,
    rope,
    same,
    shape,
    unary,
)

# Numbers a position is made of, where it is more than one (llama-hparams.cpp, n_pos_per_embd).
_POSITIONS = {"qwen35": 4, "qwen35moe": 4}
_EXPERTS = re.compile(r"ffn_(up|down|gate|gate_up)_(ch|)exps")


class Builder:
    """One graph being built. `kind`, `backend`, `experts`, `cache` and `is_last` are those of the layer at hand.

    used: the tensors a graph has asked for, by kind (None is outside the layers) and name. attentions: the fused ones,
    with the backend of their layer.
    """

    def __init__(
        self, model: ComputeShape, batch: Batch, layers: Sequence[PlacedLayer], output: int, host: int
    ) -> None:
        self.model = model
        self.batch = batch
        self.graph = Graph()
        self.expand = self.graph.expand
        self.host = host
        self.used: set[tuple[int | None, str]] = set()
        self.kind: LayerKind = model.kinds[0]
        self.backend = self.experts = self.cache = host
        self.is_last = False
        self.attentions: list[tuple[Tensor, int]] = []
        self._layers = layers
        self._output = output
        self._kind_index = 0
        self._inputs: dict[str, Tensor] = {}
        self._weights: dict[str, Tensor | None] = {}

    @property
    def first_backend(self) -> int:
        """The backend of the first layer."""
        return self._layers[0].backend

    @property
    def n_tokens(self) -> int:
        """Tokens of the batch, of all sequences."""
        return self.batch.n_tokens

    def layers(self, layer: Callable[[Builder, Tensor], Tensor], x: Tensor) -> Tensor:
        """Apply a layer as often as there are layers."""
        for index, placed in enumerate(self._layers):
            self._kind_index = placed.kind
            self.kind = self.model.kinds[placed.kind]
            self.backend, self.experts, self.cache = placed.backend, placed.experts, placed.cache
            self.is_last = index == len(self._layers) - 1
            self._weights = {}
            x = layer(self, x)
        return x

    def weight(self, name: str, suffix: str = ".weight") -> Tensor | None:
        """Return a tensor of the layer at hand, None where it has none of that name."""
        name += suffix
        if name not in self._weights:
            found = self.kind.weights.get(name)
            backend = self.experts if _EXPERTS.match(name) else self.backend
            self._weights[name] = None if found is None else self._weight(found, backend)
            self.used.add((self._kind_index, name))
        return self._weights[name]

    def need(self, name: str, suffix: str = ".weight") -> Tensor:
        """Return a tensor of the layer at hand; KeyError where it has none of that name."""
        found = self.weight(name, suffix)
        if found is None:
            raise KeyError(f"{name}{suffix}")
        return found

    def has(self, name: str, suffix: str = ".weight") -> bool:
        """Return whether the layer at hand has a tensor."""
        return name + suffix in self.kind.weights

    def outer(self, name: str, backend: int | None = None) -> Tensor | None:
        """Return a tensor outside the layers, where the output is unless told otherwise."""
        self.used.add((None, name))
        found = self.model.outer.get(name)
        return None if found is None else self._weight(found, self._output if backend is None else backend)

    def _weight(self, found: Weight, backend: int) -> Tensor:
        tensor = self.memory(found.ne, backend, size=found.size)
        tensor.loras = tuple((self._beside(a, backend), self._beside(b, backend)) for a, b in found.loras)
        return tensor

    def _beside(self, matrix: Weight, backend: int) -> Tensor:
        """Return an adapter's matrix, which llama.cpp does not mark as a weight: it pulls nothing to its backend."""
        return self.memory(matrix.ne, backend, weight=False, size=matrix.size)

    def memory(self, ne: Shape, backend: int, *, weight: bool = True, kind: int = F32, size: int = 0) -> Tensor:
        """Return a tensor that is there before the graph."""
        tensor = Tensor(Op.LEAF, kind, ne, size=size)
        tensor.backend, tensor.external, tensor.weight = backend, True, weight
        return tensor

    def input(self, name: str, *ne: int, kind: int = I32) -> Tensor:
        """Return what is filled in before a graph runs; the same one for the same name."""
        if name not in self._inputs:
            tensor = self._inputs[name] = Tensor(Op.LEAF, kind, shape(ne))
            tensor.input = True
        return self._inputs[name]

    def shared(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """Return what is made once and read by many layers."""
        if name not in self._inputs:
            self._inputs[name] = make()
        return self._inputs[name]

    def embeddings(self) -> Tensor:
        """Return the tokens' embeddings; those of a batch without tokens are an input too (build_inp_embd)."""
        table = self.outer("token_embd.weight", self.host)
        assert table is not None
        tokens = self.input("tokens", self.n_tokens)
        cur = get_rows(table, tokens)
        for a, b in table.loras:  # here a is a table of rows too
            cur = binary(cur, unary(mul_mat(b, get_rows(a, tokens))))
        self.expand(cur)
        self.expand(self.input("embd", table.ne[0], self.n_tokens, kind=F32))
        if self.model.numbers.get("embedding_scale"):
            cur = unary(cur)
            self.expand(cur)
        return cur

    def norm(self, x: Tensor, name: str, *, rms: bool = True, pinned: bool = True) -> Tensor:
        """Return `x` normalized, with the named weight of the layer at hand, which it may lack (build_norm)."""
        weight = self.weight(name) or self.weight(name, "")  # falcon-h1 has one without a suffix
        return self._norm(x, weight, self.weight(name, ".bias"), rms, pinned)

    def output_norm(self, x: Tensor, *, rms: bool = True) -> Tensor:
        """Return the last norm's result, which is kept to the end of the graph."""
        weight = self.outer("output_norm.weight") or self.outer("token_embd_norm.weight")  # the latter is lfm2's name
        x = self._norm(x, weight, self.outer("output_norm.bias"), rms, False)
        x.output = True
        return x

    def _norm(self, x: Tensor, weight: Tensor | None, bias: Tensor | None, rms: bool, pinned: bool) -> Tensor:
        x = unary(x) if rms else same(x)
        if weight is None and bias is None:
            return x
        if pinned and self.batch.pin_norms:
            x.backend = self.backend
        if weight is not None:
            x = binary(x, weight)
        return x if bias is None else binary(x, bias)

    def linear(self, x: Tensor, name: str) -> Tensor:
        """Return `x` times a matrix of the layer at hand, plus a bias if there is one."""
        x = mul_mat(self.need(name), x)
        bias = self.weight(name, ".bias")
        return x if bias is None else binary(x, bias)

    def rope(self, x: Tensor) -> Tensor:
        """Return `x` with rotated positions."""
        return rope(x, self.positions(), self.rope_factors())

    def positions(self) -> Tensor:
        """Return the tokens' positions."""
        return self.input("pos", self.n_tokens * _POSITIONS.get(self.model.architecture, 1))

    def rope_factors(self) -> Tensor | None:
        """Return the factors of a stretched context: of each length there is a tensor, and one is used."""
        names = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
        found = [self.outer(name, self.backend) for name in names]
        return next((tensor for tensor in found if tensor is not None), None)

    def select(self, *xs: Tensor) -> tuple[Tensor, ...]:
        """Return of each only the tokens whose logits are wanted, if the layer at hand is the last."""
        return tuple(map(self.rows, xs)) if self.is_last else xs

    def rows(self, x: Tensor) -> Tensor:
        """Return only the tokens whose logits are wanted."""
        return get_rows(x, self.input("out_ids", self.batch.n_outputs))

    def logits(self, x: Tensor, *finish: Callable[[Tensor], Tensor]) -> None:
        """Finish the graph."""
        matrix = self.outer("output.weight") or self.outer("token_embd.weight")
        assert matrix is not None
        x = mul_mat(matrix, x)
        bias = self.outer("output.bias")
        if bias is not None:
            x = binary(x, bias)
        for step in finish:
            x = step(x)
        x.output = True
        self.expand(x)
