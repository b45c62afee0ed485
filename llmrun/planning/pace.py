"""How fast one model writes wherever its layers are: llmrun.planning.speed, asked for hundreds of placements. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from itertools import accumulate, groupby
from types import MappingProxyType

from llmrun.hardware.device import Lender
from llmrun.memory.placement import place_layers
from llmrun.planning.link import one_token, roughly
from llmrun.planning.rates import Rates
from llmrun.planning.speed import add_up, decode_terms, layer_decode_terms
from llmrun.planning.work import LayerWork, ModelWork
from llmrun.settings import RunSettings

N_PAST = 512  # tokens in the context: a conversation that has begun
_UNKNOWN = float("inf")


class Pace:
    """A model's tokens a second by settings.

    n_layer: layers that can be placed, those for drafting included. host, devices by id: what computing costs there.
    lenders by the device's id: whose devices of other machines are, what crosses to them being taken roughly.
    """

    def __init__(
        self,
        work: ModelWork,
        n_layer: int,
        host: Rates,
        devices: Mapping[str, Rates],
        lenders: Mapping[str, Lender] = MappingProxyType({}),
    ) -> None:
        self._work = work
        self._n_layer = n_layer
        self._host = host
        self._devices = devices
        self._lenders = lenders
        self._layers: dict[tuple[int, str | None, bool, str], float] = {}
        self._sums: dict[tuple[str | None, str, int], tuple[float, ...]] = {}
        self._rest: dict[tuple[str | None, str], float] = {}

    def decode(self, settings: RunSettings) -> float | None:
        """Return the tokens a second of a conversation that has begun, None where something is not known."""
        names = settings.devices or ()
        split = settings.tensor_split or (1.0,) * len(names)
        output, runs = _runs(self._n_layer, settings.n_gpu_layers, split)
        seconds = self._without_layers(None if output is None else names[output], settings)
        for place, start, end in runs:
            sums = self._up_to(None if place is None else names[place], settings)
            seconds += sums[min(end, len(sums) - 1)] - sums[min(start, len(sums) - 1)]
        if self._lenders:
            used = {place for place, _, _ in runs} | {output}
            seconds += sum(self._on_link(names[place], ends=place == output) for place in used if place is not None)
        return 1 / seconds if 0 < seconds < _UNKNOWN else None

    def _up_to(self, name: str | None, settings: RunSettings) -> tuple[float, ...]:
        """Return the seconds that the first 0, 1, 2, … layers take if all are at one place."""
        key = (name, settings.type_k, settings.cpu_experts)
        if key not in self._sums:
            each = (
                self._layer(layer, name, settings, stays=index < settings.cpu_experts and bool(layer.experts))
                for index, layer in enumerate(self._work.layers)
            )
            self._sums[key] = (0.0, *accumulate(each))
        return self._sums[key]

    def _layer(self, layer: LayerWork, name: str | None, settings: RunSettings, *, stays: bool) -> float:
        key = (id(layer), name, stays, settings.type_k)
        if key not in self._layers:
            rates = self._rates(name)
            terms = layer_decode_terms(layer, settings, rates, self._host if stays else rates, N_PAST)
            self._layers[key] = _seconds(add_up(terms))
        return self._layers[key]

    def _on_link(self, name: str, *, ends: bool) -> float:
        if name not in self._lenders:
            return 0.0
        traffic = roughly(self._work, one_token(N_PAST), ends=ends)
        return self._lenders[name].link.seconds(traffic.sent, traffic.received, traffic.trips)

    def _without_layers(self, output: str | None, settings: RunSettings) -> float:
        key = (output, settings.type_k)
        if key not in self._rest:
            bare = ModelWork(self._work.architecture, self._work.n_vocab, (), self._work.output)
            rates = self._rates(output)
            terms = decode_terms(bare, settings, lambda _, on_host: self._host if on_host else rates, N_PAST)
            self._rest[key] = _seconds(add_up(terms))
        return self._rest[key]

    def _rates(self, name: str | None) -> Rates | None:
        return self._host if name is None else self._devices.get(name)


@lru_cache(maxsize=4096)
def _runs(
    n_layer: int, n_gpu_layers: int | None, split: tuple[float, ...]
) -> tuple[int | None, tuple[tuple[int | None, int, int], ...]]:
    """Return where the output is, and the layers in runs at one place: the place, the first layer, the one after."""
    placement = place_layers(n_layer, n_gpu_layers, split)
    runs, start = [], 0
    for place, members in groupby(placement.layers):
        end = start + len(list(members))
        runs.append((place, start, end))
        start = end
    return placement.output, tuple(runs)


def _seconds(term: tuple[float, float] | None) -> float:
    return _UNKNOWN if term is None else term[0]
