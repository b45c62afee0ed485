"""How fast a model will read and write with given settings on a measured machine: a sum of what each part costs. Pure.

A token alone is bound by the bytes of the weights it needs, a batch by its multiplications; both look back on the
context, and every layer costs a little by itself. The terms were chosen by measuring where the time goes, see
`scripts/bench speed`; the costs come from llmrun.worker.measure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

from llmrun.gguf.header import align
from llmrun.memory.placement import Placement
from llmrun.planning.link import CELL_STEP, Lines, batch, one_token
from llmrun.planning.rates import AttentionCost, BaseCosts, Cost, Needs, Rates
from llmrun.planning.work import Heads, LayerWork, ModelWork, Product
from llmrun.settings import RunSettings

# Relative error that remains where all was measured a moment ago: `scripts/bench speed`, without calibration.
_MODEL_ERROR = 0.15

_FEW_STEPS = 16  # of a prompt, that are predicted one by one

Term = tuple[float, float]  # seconds, and their uncertainty in seconds


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens a second, and by how much either may be off, as a part of itself.

    decode: with the context filled as asked. prefill: of a whole prompt. main_type: of most weights, by which runs are
    told apart in `calibrate`.
    """

    decode: float
    prefill: float
    decode_error: float
    prefill_error: float
    main_type: str


def needs(work: ModelWork, settings: RunSettings) -> Needs:
    """Return what must have been measured to predict a model."""
    experts = {p.type for layer in work.layers for p in layer.experts}
    return Needs(
        frozenset(p.type for p in work.products()),
        frozenset(experts),
        frozenset({settings.type_k}) if any(layer.heads for layer in work.layers) else frozenset(),
    )


def predict(
    work: ModelWork,
    settings: RunSettings,
    placement: Placement,
    host: Rates,
    devices: Sequence[Rates | None] = (),
    *,
    n_past: int = 512,
    n_prompt: int = 512,
    lines: Lines | None = None,
) -> Speed | None:
    """Return the speed; None where something it depends on was not measured, or a device is not known at all.

    n_past: tokens the context holds while it writes. n_prompt: tokens of the prompt that is read. lines: the ways to
    devices of other machines.
    """
    pools = _Pools(placement, (host, *devices))
    on_lines = () if lines is None else lines.terms(one_token(n_past))
    decode = add_up(chain(decode_terms(work, settings, pools.rates_of, n_past), on_lines))
    prefill = add_up(_prompt_terms(work, settings, pools.rates_of, n_prompt, lines))
    if decode is None or prefill is None:
        return None
    return Speed(
        1 / decode[0],
        n_prompt / prefill[0],
        _MODEL_ERROR + decode[1] / decode[0],
        _MODEL_ERROR + prefill[1] / prefill[0],
        work.main_type(),
    )


def _prompt_terms(
    work: ModelWork, settings: RunSettings, rates_of: RatesOf, n_prompt: int, lines: Lines | None
) -> Iterable[Term | None]:
    """Yield the costs of a prompt, step by step; of a long one Simpson's rule stands for the steps between its ends."""

    def step(done: int) -> Term | None:
        n_tokens = min(settings.n_ubatch, n_prompt - done)
        on_lines = () if lines is None else lines.terms(batch(done, n_tokens, int(done + n_tokens == n_prompt)))
        return add_up(chain(batch_terms(work, settings, rates_of, done, n_tokens, n_prompt), on_lines))

    starts = range(0, n_prompt, settings.n_ubatch)
    if len(starts) <= _FEW_STEPS:
        yield from map(step, starts)
        return
    weight = (len(starts) - 1) / 6  # of all but the last, which may be shorter and alone has logits
    for count, done in ((1, starts[0]), (4, starts[(len(starts) - 2) // 2]), (1, starts[-2])):
        yield from _times(count * weight, [step(done)])
    yield step(starts[-1])


RatesOf = Callable[[int | None, bool], Rates | None]


@dataclass(frozen=True, slots=True)
class _Pools:
    """Whose costs count for a layer: rates are those of the host, then of each device."""

    placement: Placement
    rates: Sequence[Rates | None]

    def rates_of(self, layer: int | None, on_host: bool = False) -> Rates | None:
        """Return the rates for a layer, None being the output; on_host for what stays there whatever the layer does."""
        place = self.placement.output if layer is None else self.placement.layers[layer]
        return self.rates[0 if place is None or on_host else place + 1]


def decode_terms(work: ModelWork, settings: RunSettings, rates_of: RatesOf, n_past: int) -> Iterable[Term | None]:
    """Yield the costs of one token by itself; None for what is not known."""
    for count, layer, rates, with_experts, _ in _alike(work, settings, rates_of):
        yield from _times(count, layer_decode_terms(layer, settings, rates, with_experts, n_past))
    for product in work.output:
        yield from _read(product, rates_of(None, False))
    yield from _base(rates_of(None, False), lambda base: base.call)
    yield from _base(rates_of(None, True), lambda base: base.logit, work.n_vocab)


def layer_decode_terms(
    layer: LayerWork, settings: RunSettings, rates: Rates | None, with_experts: Rates | None, n_past: int
) -> Iterable[Term | None]:
    """Yield what one layer costs a token by itself, where it lies and where its experts do."""
    yield from _base(rates, lambda base: base.layer)
    for product in (*layer.attention, *layer.feed_forward):
        yield from _read(product, rates)
    for product in layer.experts:
        yield from _read(product, with_experts)
    if layer.heads is not None:
        seen = _seen(layer.heads, n_past, 1)
        size = layer.heads.cell_size(settings.type_k, settings.type_v) * seen
        yield _attend(rates, settings.type_k, lambda cost: cost.decode, layer.heads.multiplications(seen))
        yield _attend(rates, settings.type_k, lambda cost: cost.read, size)


def batch_terms(
    work: ModelWork, settings: RunSettings, rates_of: RatesOf, n_past: int, n_tokens: int, n_prompt: int
) -> Iterable[Term | None]:
    """Yield the costs of reading n_tokens at once after n_past others, of a prompt of n_prompt."""
    n_last = 1 if n_past + n_tokens == n_prompt else 0  # tokens whose logits are wanted
    for count, layer, rates, with_experts, is_last in _alike(work, settings, rates_of):
        # the last layer goes on only with the tokens whose logits are wanted (models/*.cpp: inp_out_ids)
        n_on = n_last if is_last else n_tokens
        terms = _layer_batch_terms(layer, settings, rates, with_experts, n_past, n_tokens, n_on)
        yield from _times(count, terms)
    for product in work.output:
        yield from _multiply(product, rates_of(None, False), n_last)
    yield from _base(rates_of(None, False), lambda base: base.call)


def _layer_batch_terms(
    layer: LayerWork,
    settings: RunSettings,
    rates: Rates | None,
    with_experts: Rates | None,
    n_past: int,
    n_tokens: int,
    n_on: int,
) -> Iterable[Term | None]:
    """Yield what one layer costs a batch, of which n_on tokens go on after its attention."""
    yield from _base(rates, lambda base: base.layer)
    yield from chain.from_iterable(_multiply(product, rates, n_tokens) for product in layer.attention)
    yield from chain.from_iterable(_multiply(product, rates, n_on) for product in layer.feed_forward)
    yield from chain.from_iterable(_multiply(product, with_experts, n_on) for product in layer.experts)
    if layer.heads is not None:
        # a batch looks at whole steps of cells, and leaves out no single one
        cells = align(_seen(layer.heads, n_past, n_tokens), CELL_STEP)
        units = layer.heads.multiplications(cells) * n_tokens
        yield _attend(rates, settings.type_k, lambda cost: cost.prefill, units)


_Group = tuple[int, LayerWork, Rates | None, Rates | None, bool]


def _alike(work: ModelWork, settings: RunSettings, rates_of: RatesOf) -> Iterable[_Group]:
    """Yield layers that cost the same once: how many, one, its costs and its experts', and whether it is the last."""
    found: dict[tuple[int, int, int, bool], _Group] = {}
    for index, layer in enumerate(work.layers):
        rates, with_experts = rates_of(index, False), rates_of(index, index < settings.cpu_experts)
        is_last = index == len(work.layers) - 1
        key = id(layer), id(rates), id(with_experts), is_last
        count = found[key][0] if key in found else 0
        found[key] = (count + 1, layer, rates, with_experts, is_last)
    return found.values()


def _times(count: float, terms: Iterable[Term | None]) -> Iterable[Term | None]:
    return (None if term is None else (count * term[0], count * term[1]) for term in terms)


def add_up(terms: Iterable[Term | None]) -> Term | None:
    """Return the sum, None where a term is unknown; uncertainties add up too: what disturbs one disturbs all."""
    seconds = uncertainty = 0.0
    for term in terms:
        if term is None:
            return None
        seconds, uncertainty = seconds + term[0], uncertainty + term[1]
    return seconds, uncertainty


def _term(cost: Cost, units: float) -> Term:
    return cost.seconds * units, cost.seconds * cost.spread / 2 * units


def _base(rates: Rates | None, choose: Callable[[BaseCosts], Cost], units: float = 1) -> Iterable[Term | None]:
    yield None if rates is None or rates.base is None else _term(choose(rates.base), units)


def _attend(rates: Rates | None, kv_type: str, choose: Callable[[AttentionCost], Cost], units: float) -> Term | None:
    cost = None if rates is None else rates.looking_back(kv_type)
    return None if cost is None else _term(choose(cost), units)


def _read(product: Product, rates: Rates | None) -> Iterable[Term | None]:
    """One token alone: the bytes it needs, and the numbers that go in and out."""
    # the same code for experts, and measured better without: they are spread over memory either way
    cost = None if rates is None else rates.matrix(product.type)
    if cost is None:
        yield None
        return
    yield _term(cost.read, product.size * product.share)
    yield _term(cost.row, product.rows * product.share * product.n_expert)


def _multiply(product: Product, rates: Rates | None, n_tokens: int) -> Iterable[Term | None]:
    if n_tokens == 1:
        yield from _read(product, rates)
    if n_tokens <= 1:
        return
    cost = None if rates is None else rates.matrix(product.type, of_experts=product.n_expert > 1)
    if cost is None:
        yield None
        return
    yield _term(cost.unpack, product.n_weights * touched(product, n_tokens))
    yield _term(cost.multiply, product.n_weights * product.share * n_tokens)
    yield _term(cost.convey, product.n_conveyed * n_tokens)


def touched(product: Product, n_tokens: int) -> float:
    """Return the part of a product that n_tokens need together, if each chooses its experts evenly."""
    return float(1 - (1 - product.share) ** n_tokens)


def _seen(heads: Heads, n_past: int, n_tokens: int) -> int:
    """Return how many tokens a layer looks back on, itself included; with a window there are no more than that."""
    seen = n_past + n_tokens
    return seen if heads.window is None else min(seen, heads.window + n_tokens)
