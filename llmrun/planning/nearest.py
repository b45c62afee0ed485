"""Where nothing fits: what comes nearest, and which of the user's wishes stands in the way. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from llmrun.errors import InsufficientMemoryError
from llmrun.memory.footprint import Footprint
from llmrun.planning.candidates import Row, considered, least_settings, rows_of
from llmrun.planning.choose import Choice, Ground, choose
from llmrun.planning.forecast import Forecast
from llmrun.planning.offer import Offer
from llmrun.planning.policy import Policy, Step
from llmrun.planning.room import Room
from llmrun.settings import Constraints, RunSettings
from llmrun.units import format_bytes

_SMALLEST = Step("the least there is", contexts=(512,), kv_types=("q4_0",))


def refusal_of(
    offers: Sequence[Offer], ground: Ground, policy: Policy, roomier: Mapping[str, Room] | None = None
) -> InsufficientMemoryError:
    """Return the error that says what is lacking, and with which flags it would fit.

    roomier: the room there would be without a wish, by what to say where that is enough.
    """
    hint = _relaxed(offers, ground, policy)
    for said, room in (roomier or {}).items():
        hint = hint or (said if choose(offers, replace(ground, room=room), policy) is not None else None)
    nearest = min(_attempts(offers, ground, policy), key=lambda attempt: sum(attempt[2]), default=None)
    if nearest is None:
        return InsufficientMemoryError("the engine refuses these settings for every quantization there is", hint)
    row, settings, lacking, footprint = nearest
    message = _message(row, settings, lacking, footprint, ground, len(offers))
    return InsufficientMemoryError(
        message, hint or (_LAST if ground.allow_disk else _from_disk(offers, ground, policy))
    )


def _from_disk(offers: Sequence[Offer], ground: Ground, policy: Policy) -> str:
    found = choose(offers, replace(ground, allow_disk=True), policy)
    return _LAST if found is None else f"{_LAST}; --allow-disk reads it from disk again and again, which is slow"


def does_not_fit(forecast: Forecast) -> InsufficientMemoryError:
    """Return the error for settings that were fixed and do not fit."""
    pool = min(forecast.pools, key=lambda pool: pool.headroom or 0)
    where = "RAM" if pool.id == "host" else pool.id
    return InsufficientMemoryError(
        f"it does not fit: needs {format_bytes(pool.needed + pool.reserve)} of {where} with "
        f"{format_bytes(pool.reserve)} left in reserve, {format_bytes(pool.available or 0)} is free",
        _LAST,
    )


_ABOUT = 2  # layers fewer than weights and caches have room for: what is computed in needs some
_LAST = "close other programs, or choose a smaller model or quantization: `llmrun chat` names some"
_Attempt = tuple[Row, RunSettings, tuple[int, ...], Footprint]


def _attempts(offers: Sequence[Offer], ground: Ground, policy: Policy) -> Iterator[_Attempt]:
    """Yield each variant's placements that come nearest, with the least of all else.

    All on devices, none, and in between about as many layers as devices have room for, by that room.
    """
    for offer in considered(offers, policy):
        rows = rows_of(offer, ground.constraints, len(ground.names), each_batch=False)
        least = least_settings(rows[0], _SMALLEST, ground.constraints, ground.names, ground.base)
        most = offer.sizes.at_least(least, rows[0].cpu_experts).most_layers(ground.room.together)
        between = [row for row in rows if most - _ABOUT <= row.n_gpu_layers <= most and row.where == "split"]
        for row in dict.fromkeys((rows[0], *between, rows[-1])):
            settings = least_settings(row, _SMALLEST, ground.constraints, ground.names, ground.base)
            settings = replace(settings, tensor_split=_by_room(ground) if len(settings.devices or ()) > 1 else None)
            footprint = offer.footprint(settings)
            if footprint is not None:
                room = ground.room if row.n_gpu_layers else ground.room.only(())
                yield row, settings, room.lacking(footprint), footprint


def _by_room(ground: Ground) -> tuple[float, ...] | None:
    parts = tuple(float(size or 0) for size in ground.room.for_layers)
    return parts if any(parts) else None


def _message(
    row: Row, settings: RunSettings, lacking: Sequence[int], footprint: Footprint, ground: Ground, n_offers: int
) -> str:
    names = ("RAM", *(settings.devices or ()))
    place = max(range(len(lacking)), key=lambda index: lacking[index])
    shared = sum(used.total for used, unified in zip(footprint.devices, ground.room.unified, strict=False) if unified)
    needed = footprint.host.total + shared if place == 0 else footprint.devices[place - 1].total
    free = ground.room.host if place == 0 else ground.room.devices[place - 1] or 0
    which = f"the smallest quantization, {row.offer.quant}," if n_offers > 1 else row.offer.quant
    n_ctx = (settings.n_ctx or 0) // settings.n_seq_max
    on_devices = f" with {row.n_gpu_layers} of {row.offer.sizes.n_layer + 1} layers on {', '.join(names[1:])}"
    return (
        f"it does not fit: {which} needs {format_bytes(needed)} of {names[place]}{on_devices if names[1:] else ''} at "
        f"{n_ctx:,} tokens with a KV cache of {settings.type_k}, and {format_bytes(free)} is free beside the reserve"
    )


def _relaxed(offers: Sequence[Offer], ground: Ground, policy: Policy) -> str | None:
    """Return what to type in the place of a wish that nothing fits with; None where it is not the wishes."""
    for changed in _without_one(ground.constraints):
        found = choose(offers, replace(ground, constraints=changed), policy)
        if found is not None:
            return f"`{_flags(ground.constraints, changed, found)}` fits"
    bare = Constraints(n_threads=ground.constraints.n_threads, devices=ground.constraints.devices)
    found = None if bare == ground.constraints else choose(offers, replace(ground, constraints=bare), policy)
    return None if found is None else f"`{_flags(ground.constraints, bare, found)}` fits"


def _without_one(constraints: Constraints) -> Iterator[Constraints]:
    others = (
        replace(constraints, n_ctx=None),
        replace(constraints, n_gpu_layers=None),
        replace(constraints, type_kv=None),
        replace(constraints, parallel=None),
    )
    return (other for other in others if other != constraints)


def _flags(asked: Constraints, changed: Constraints, found: Choice) -> str:
    settings = found.settings
    values = {
        "n_ctx": ("--ctx", (settings.n_ctx or 0) // settings.n_seq_max),
        "n_gpu_layers": ("--gpu-layers", settings.n_gpu_layers),
        "type_kv": ("--kv-type", settings.type_k),
        "parallel": ("--parallel", settings.n_seq_max),
    }
    return " ".join(
        f"{flag} {value}" for name, (flag, value) in values.items() if getattr(asked, name) != getattr(changed, name)
    )
