"""What a name of Ollama's clients means among the models that are here; none is loaded for it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from llmrun.engine.protocol import ModelInfo
from llmrun.errors import NotFoundError, UsageError
from llmrun.reference import format_reference, parse_reference
from llmrun.server.fleet import Fleet
from llmrun.server.loaded import LoadedNow
from llmrun.server.ollama.describing import ModelOnDisk
from llmrun.server.ollama.disk import look_at, look_at_loaded

_LATEST = ":latest"
_SHOWN = 100  # characters of a name that is told back


@dataclass(frozen=True, slots=True)
class Found:
    """A model as it lies here, and what the engine says of it where it is loaded."""

    model: ModelOnDisk
    info: ModelInfo | None = None


async def find(name: str, fleet: Fleet) -> Found:
    """Return what a name means; raises NotFoundError where it means nothing that is here."""
    if (loaded := find_loaded(name, fleet)) is not None:
        return Found(await asyncio.to_thread(look_at_loaded, loaded), loaded.started.engine.info)
    key = _key(name)
    for offered in await fleet.offered():
        if key in map(_key, (offered.name, *offered.also)):
            return Found(await asyncio.to_thread(look_at, offered.name, offered.files, offered.quant))
    raise NotFoundError(f"model {name[:_SHOWN]!r} not found", "GET /api/tags lists those that are here")


def find_loaded(name: str, fleet: Fleet) -> LoadedNow | None:
    """Return the loaded model that a name means, None where none is."""
    key = _key(name)
    return next((one for one in fleet.loaded() if key in map(_key, (one.name, *one.names))), None)


async def is_here(name: str, fleet: Fleet) -> bool:
    """Tell whether a name means a model that may be asked."""
    key = _key(name)
    return any(key in map(_key, (offered.name, *offered.also)) for offered in await fleet.offered())


def _key(name: str) -> str:
    """Return the same for all spellings of a name."""
    plain = name.removesuffix(_LATEST)
    try:
        return format_reference(parse_reference(plain))
    except UsageError:
        return plain
