"""Plans of models seen before, kept in files, and taken again where planning now would give the same.

Knows what a plan rests on: the files and their headers, the wishes, the machine, the engine, what was measured here,
and how much is free. All but the last must be as it was; what is free must hold the plan and let nothing better become
possible. A file that is of another version, cut off or damaged is as good as none.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from llmrun.engine.build import engine_id
from llmrun.engine.protocol import DeviceInfo
from llmrun.engine.wire import pack, unpack
from llmrun.errors import LLMRunError
from llmrun.folders import plans_folder, speed_folder
from llmrun.gguf.summary import ModelSummary
from llmrun.hardware.fingerprint import read_fingerprint
from llmrun.hardware.threads import Threads
from llmrun.memory.footprint import Footprint
from llmrun.planning.lasting import Lasting
from llmrun.planning.plan import Plan, PlanWish
from llmrun.planning.pools import make_pools
from llmrun.planning.room import make_room
from llmrun.planning.work import ModelWork
from llmrun.settings import Constraints
from llmrun.site import Site, same_site
from llmrun.variant import ModelFile, Variant

# Raise when what a plan rests on, or how it is written, changes: old ones are then made anew.
FORMAT = 2
MAX_FILES = 64  # plans kept, of about 25 KiB each; the oldest go first
_READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class SeenFile:
    """A file as it was: bytes, and when it was changed, nanoseconds; and its first n_header bytes, by SHA-256."""

    size: int
    changed: int
    n_header: int
    header: str


@dataclass(frozen=True, slots=True)
class Kept:
    """A plan and what it rests on, besides what its file's name stands for.

    files: in the order of the model's. variant: what the plan is of, by the places of its files among them. found: the
    devices that the engine saw. speeds: what was measured.
    """

    files: tuple[SeenFile, ...]
    variant: tuple[int, ...]
    base: str
    found: tuple[str, ...]
    speeds: str
    lasting: Lasting
    plan: Plan
    summary: ModelSummary
    work: ModelWork | None
    n_layer: int


@dataclass(frozen=True, slots=True)
class Occasion:
    """What is to be run: the files that may be meant, and the wishes. threads: those that would be used now."""

    paths: tuple[Path, ...]
    constraints: Constraints
    wish: PlanWish
    threads: Threads

    def path(self, folder: Path | None = None) -> Path:
        """Return the file of its plan: all that is the same from run to run is in its name."""
        names = [os.fsencode(path.absolute()) for path in self.paths]
        rests_on = FORMAT, engine_id(), read_fingerprint().key(), _planner_stamp()
        text = repr((rests_on, names, self.constraints, self.wish, self.threads))
        return (folder or plans_folder()) / f"{hashlib.sha256(text.encode()).hexdigest()}.json"


@cache
def _planner_stamp() -> str:
    """Tell the planner from one that was changed since, as in a checkout that is worked on."""
    home = Path(__file__).parent
    files = (entry for name in (".", "planning", "memory", "memory/graph") for entry in os.scandir(home / name))
    stamps = sorted((entry.name, entry.stat().st_mtime_ns) for entry in files if entry.name.endswith(".py"))
    return hashlib.sha256(repr(stamps).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Recalled:
    """A plan with what is free now; what it is of, the machine it is for, and the devices that the engine saw there."""

    plan: Plan
    summary: ModelSummary
    variant: Variant
    work: ModelWork | None
    n_layer: int
    site: Site
    found: tuple[str, ...]


def recall(
    occasion: Occasion, found: Sequence[DeviceInfo], folder: Path | None = None, *, ours: int = 0
) -> Recalled | None:
    """Return the plan that planning now would give; None where it has to be planned.

    found: the engine's devices. ours: see site.taken_by.

    Of what else would be better, and of other contexts, nothing is said in it: a run needs none of that.
    """
    try:
        kept = unpack(occasion.path(folder).read_bytes(), Kept)
        if kept.found != seen_devices(found) or kept.speeds != _measured():
            return None
        if not all(_is_as_before(path, file) for path, file in zip(occasion.paths, kept.files, strict=True)):
            return None
        site = same_site(found, occasion.constraints, occasion.threads, ours)
    except (OSError, ValueError, LLMRunError):  # ValueError: no plan of this form
        return None
    reserve = site.reserve(occasion.wish.reserve_host, occasion.wish.reserve_device)
    if not kept.lasting.stays_in(make_room(site.memory.available, site.devices, reserve)):
        return None
    host = Footprint(kept.plan.forecast.pools[0].used)
    pools = make_pools(host, site.memory.total, site.memory.available, (), reserve)
    plan = replace(kept.plan, forecast=replace(kept.plan.forecast, pools=pools))
    paths = [occasion.paths[place] for place in kept.variant]
    parts = tuple(ModelFile(path.name, path.stat().st_size, path) for path in paths)
    variant = Variant(plan.quant, parts, kept.base)
    return Recalled(plan, kept.summary, variant, kept.work, kept.n_layer, site, kept.found)


def remember(
    occasion: Occasion, made: Recalled, lasting: Lasting, headers: Mapping[Path, int], folder: Path | None = None
) -> None:
    """Keep a plan that was just made; what cannot be written is no failure. headers: bytes of the files' headers.

    One for a machine with devices is not kept: what a driver takes may be another after its next update, and the engine
    is asked anew each time.
    """
    if made.site.devices or made.plan.forecast.source != "engine":
        return
    plan = replace(made.plan, better=(), runners_up=(), forecast=replace(made.plan.forecast, contexts=()))
    places = tuple(occasion.paths.index(Path(str(file.origin))) for file in made.variant.files)
    with contextlib.suppress(OSError):
        files = tuple(_as_now(path, headers.get(path, 0)) for path in occasion.paths)
        kept = Kept(
            files,
            places,
            made.variant.base,
            made.found,
            _measured(),
            lasting,
            plan,
            made.summary,
            made.work,
            made.n_layer,
        )
        _write(occasion.path(folder), pack(kept))


def _as_now(path: Path, n_header: int) -> SeenFile:
    status = path.stat()
    return SeenFile(status.st_size, status.st_mtime_ns, n_header, _hash_of(path, n_header))


def _is_as_before(path: Path, before: SeenFile) -> bool:
    status = path.stat()
    same = (status.st_size, status.st_mtime_ns) == (before.size, before.changed)
    return same and _hash_of(path, before.n_header) == before.header


def _hash_of(path: Path, n_bytes: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while n_bytes > 0 and (data := file.read(min(n_bytes, _READ_BYTES))):
            digest.update(data)
            n_bytes -= len(data)
    return digest.hexdigest()


def seen_devices(found: Sequence[DeviceInfo]) -> tuple[str, ...]:
    """Return the devices that the engine sees, without how much of them is free."""
    return tuple(f"{info.id} {info.backend} {info.kind} {info.description} {info.total}" for info in found)


def _measured() -> str:
    """Tell what was measured on this machine from what is measured later; what runs taught changes no choice."""
    stamps: list[tuple[str, int, int]] = []
    with contextlib.suppress(OSError):  # nothing was measured yet
        files = ((entry.name, entry.stat()) for entry in os.scandir(speed_folder()) if not entry.name.endswith(".runs"))
        stamps = sorted((name, status.st_size, status.st_mtime_ns) for name, status in files)
    return hashlib.sha256(repr(stamps).encode()).hexdigest()


def _write(path: Path, content: bytes) -> None:
    """Put a plan into a file, whole or not at all, for its owner alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
        file.write(content)
    Path(file.name).replace(path)
    files = sorted((entry.stat().st_mtime_ns, entry.path) for entry in os.scandir(path.parent) if entry.is_file())
    for _, old in files[: max(0, len(files) - MAX_FILES)]:
        Path(old).unlink(missing_ok=True)
