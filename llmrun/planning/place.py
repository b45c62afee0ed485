"""Layers onto devices: the ways to spread so many of them, and the first of these that fits. Pure.

The last layers go to devices, in the devices' order, contiguous, as llama.cpp places them. A split is how many each
device gets, the output counted as a layer; written as llama.cpp's tensor_split it is met exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations

from llmrun.memory.footprint import Footprint
from llmrun.planning.room import Room
from llmrun.planning.sizes import Reach
from llmrun.settings import RunSettings

_MOST_TO_COMBINE = 4  # devices; of more only single ones are tried, and the first so many together

Split = tuple[int, ...]
Asked = Callable[[RunSettings], Footprint | None]


def device_sets(n_devices: int) -> Iterator[tuple[int, ...]]:
    """Yield which devices to use together: the fewest first, and of as many the earlier ones."""
    for count in range(1, n_devices + 1):
        if n_devices <= _MOST_TO_COMBINE or count == 1:
            yield from combinations(range(n_devices), count)
        else:
            yield tuple(range(count))


def spread(settings: RunSettings, names: Sequence[str], reach: Reach, room: Room, ask: Asked) -> RunSettings | None:
    """Return the settings with the first devices and split with which everything fits; None where none does.

    settings: with n_gpu_layers, at least 1. names: of all devices there are, in the order of the room's. reach: what
    settings like these take at the least.
    """
    assert settings.n_gpu_layers
    for chosen in device_sets(len(names)):
        if len(chosen) > settings.n_gpu_layers:
            continue
        own = room.only(chosen)
        tried = replace(settings, devices=tuple(names[index] for index in chosen))
        found = _split_that_fits(tried, reach, own, ask)
        if found is not None:
            return found
    return None


def _split_that_fits(settings: RunSettings, reach: Reach, room: Room, ask: Asked) -> RunSettings | None:
    assert settings.n_gpu_layers
    rooms = room.for_layers
    split = _fullest((), settings.n_gpu_layers, reach, rooms)
    while split is not None:
        tried = replace(settings, tensor_split=tuple(map(float, split)) if len(split) > 1 else None)
        footprint = ask(tried)
        if footprint is None:
            return None
        host, *devices = room.lacking(footprint)
        if not host and not any(devices):
            return tried
        if not any(devices):
            return None  # what the host needs is not changed by moving layers from one device to another
        split = _less(split, next(index for index, lack in enumerate(devices) if lack), reach, rooms)
    return None


def _fullest(start: Split, n_gpu_layers: int, reach: Reach, rooms: Sequence[int | None]) -> Split | None:
    """Return the split beginning so whose devices are the fuller the earlier they are, as far as that is known."""
    split = list(start)
    for index in range(len(start), len(rooms)):
        placed, behind = sum(split), len(rooms) - index - 1
        most = _most(placed, n_gpu_layers - placed - behind, n_gpu_layers, reach, rooms[index])
        if most < 1:
            return None
        split.append(most)
    return tuple(split) if sum(split) == n_gpu_layers else None


def _most(first: int, limit: int, n_gpu_layers: int, reach: Reach, room: int | None) -> int:
    """Return how many layers a device may hold from the first on, at most limit."""
    if room is None:
        return limit
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        fits = reach.between(first, middle, n_gpu_layers) <= room
        low, high = (middle, high) if fits else (low, middle - 1)
    return low


def _less(split: Split, index: int, reach: Reach, rooms: Sequence[int | None]) -> Split | None:
    """Return the next split in which the device of this index, or an earlier one, has less."""
    n_gpu_layers = sum(split)
    for place in range(min(index, len(split) - 2), -1, -1):
        for count in range(split[place] - 1, 0, -1):
            found = _fullest((*split[:place], count), n_gpu_layers, reach, rooms)
            if found is not None:
                return found
            if reach.between(0, sum(split[:place]) + count, n_gpu_layers) == 0:
                break
    return None
