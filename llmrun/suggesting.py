"""Which models of the catalog would run well on a machine, before anything of them is fetched: a few, the best first.

Knows the catalog's figures and what the machine is; must not ask anybody. What it says is about: the plan of the model
that is chosen rests on its header.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from math import floor, log2, sqrt

from llmrun.catalog import Entry
from llmrun.hardware.device import Device
from llmrun.memory.placement import place_layers
from llmrun.planning.policy import USABLE
from llmrun.planning.typical import Typical
from llmrun.settings import DEFAULT_N_CTX, RunSettings
from llmrun.site import Site
from llmrun.speeds import Speeds

MOST = 6  # as many as one looks at
# Bytes to fetch, an hour at 60 Mbit/s: who has named no model wants to try one, and may name a larger one later
_MOST_FETCHED = 24 << 30
_MOST_OF_A_CLASS = 2  # of those within a doubling of size: smaller ones are quicker, and not all want the largest


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A model that would run well. size: bytes of its files; memory: bytes it takes; decode: tokens a second.

    on_gpu: whether all of it is there, None where a part is. here: whether it need not be fetched.
    """

    name: str
    size: int
    memory: int
    decode: float
    on_gpu: bool | None
    here: bool = False


def suggest(
    entries: Iterable[Entry], site: Site, speeds: Speeds, here: Collection[str] = (), *, fetch: bool = True
) -> tuple[Suggestion, ...]:
    """Return up to MOST models, the best first. here: repositories with a model on this machine.

    Of those that are to be fetched only what the catalog suggests; fetch: whether they may be at all.
    """
    wanted = (entry for entry in entries if entry.repo_id in here or (fetch and entry.suggested))
    chosen: list[Suggestion] = []
    of_class: Counter[int] = Counter()
    families: set[tuple[int, str]] = set()
    for entry in sorted(wanted, key=lambda entry: (-capability(entry), entry.name)):
        size_class = floor(log2(capability(entry)))
        is_here = entry.repo_id in here
        if len(chosen) == MOST or of_class[size_class] == _MOST_OF_A_CLASS:
            continue
        if (size_class, entry.family) in families:
            continue
        found = predicted(entry, site, speeds, here=is_here)
        if found is not None and found.decode >= USABLE and (is_here or found.size <= _MOST_FETCHED):
            chosen.append(found)
            of_class[size_class] += 1
            families.add((size_class, entry.family))
    return tuple(chosen)


def capability(entry: Entry) -> float:
    """Return the parameters of a model without experts that answers about as well.

    The geometric mean of all and active ones: a rule of thumb that goes around for models with experts, and no more.
    """
    return sqrt(entry.parameters * (entry.active_parameters or entry.parameters))


def predicted(entry: Entry, site: Site, speeds: Speeds, *, here: bool = False) -> Suggestion | None:
    """Return a model as it would run with the usual quantization and context, None where it does not fit."""
    typical = Typical(entry.parameters, entry.active_parameters or entry.parameters)
    n_ctx = min(DEFAULT_N_CTX, entry.context)
    own = [device for device in site.devices if not device.unified]
    shared = [device for device in site.devices if device.unified]
    fit = typical.fit(n_ctx, site.memory.available, tuple((device.id, device.free or 0) for device in own))
    if not fit.anywhere:
        return None
    devices, n_gpu_layers = (own, fit.n_gpu_layers) if fit.on_gpu or fit.mixed else ([], 0)
    if not devices and shared:
        devices, n_gpu_layers = shared[:1], typical.shape.n_layer + 1
    decode = _decode(typical, site, speeds, devices, n_gpu_layers)
    if decode is None:
        return None
    on_gpu = None if 0 < n_gpu_layers <= typical.shape.n_layer else bool(n_gpu_layers)
    return Suggestion(entry.name, typical.size, typical.memory(n_ctx).size, decode, on_gpu, here)


def _decode(typical: Typical, site: Site, speeds: Speeds, devices: list[Device], n_gpu_layers: int) -> float | None:
    settings = RunSettings(n_threads=site.threads.decode, n_threads_batch=site.threads.batch)
    split = tuple(float(device.free or 1) for device in devices)
    placement = place_layers(typical.shape.n_layer, n_gpu_layers, split)
    speed = speeds.predict(typical.work(), settings, placement, devices)
    return None if speed is None else speed.decode
