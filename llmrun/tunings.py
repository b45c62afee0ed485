"""What `llmrun tune` found to be fastest, remembered in files: for one machine, one engine and models of one kind.

Knows where and for what it holds; must not know how it was found, or what is done with it. On another machine, or with
another engine, or on battery, it is not found: then the defaults hold. A damaged file is as good as none.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from llmrun.hardware.fingerprint import Fingerprint
from llmrun.planning.tuning import Tuned, Tuning, is_tunable
from llmrun.planning.work import ModelWork
from llmrun.private import read_private, write_private

_MOST_BYTES = 1 << 16
_MEASURES = ("write", "read", "answer")


class Tunings:
    """What is known of one machine. folder: None is nowhere, so that nothing is known and nothing kept."""

    def __init__(self, machine: Fingerprint, folder: Path | None = None) -> None:
        self._machine = machine
        self._folder = folder

    def of(self, work: ModelWork, devices: Sequence[str] = ()) -> tuple[Tuning, ...]:
        """Return what was found for models like this: on the host, and on these devices."""
        places: tuple[Sequence[str], ...] = ((), devices) if devices else ((),)
        found = (self._read(self._path(work, place), bool(place)) for place in places)
        return tuple(tuning for tuning in found if tuning is not None)

    def keep(self, work: ModelWork, devices: Sequence[str], tuning: Tuning) -> None:
        """Remember what was found, in the place of what was known; raises OSError where it cannot be written."""
        path = self._path(work, devices)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_private(path, json.dumps(asdict(tuning)).encode())

    def forget(self, work: ModelWork) -> int:
        """Forget what was found for models like this, wherever their layers were; return how many findings it was."""
        n = 0
        for path in () if self._folder is None else self._folder.glob(f"{self._kind(work)}-*.tuned"):
            with contextlib.suppress(OSError):
                path.unlink()
                n += 1
        return n

    def _path(self, work: ModelWork, devices: Sequence[str]) -> Path | None:
        place = "-".join(devices) or "host"
        return None if self._folder is None else self._folder / f"{self._kind(work)}-{_digest(place)}.tuned"

    def _kind(self, work: ModelWork) -> str:
        """Name the machine and models of one kind: an architecture, a main type, and a size within half a doubling."""
        size = sum(product.size for product in work.products())
        kind = (work.architecture, work.main_type(), round(2 * math.log2(max(size, 1))))
        return f"{self._machine.key()}-{_digest(repr(kind))}"

    def _read(self, path: Path | None, on_devices: bool) -> Tuning | None:
        data = None if path is None else read_private(path, _MOST_BYTES)
        try:
            found = None if data is None else json.loads(data)
        except ValueError:
            return None
        choices = found.get("choices") if isinstance(found, dict) else None
        if not isinstance(choices, list):
            return None
        return Tuning(tuple(one for one in map(_parse, choices) if one is not None), on_devices)


def _parse(choice: object) -> Tuned | None:
    if not isinstance(choice, dict) or set(choice) != {"setting", "value", "ratio", "measure"}:
        return None
    ratio = choice["ratio"]
    is_ratio = isinstance(ratio, float | int) and math.isfinite(ratio)
    if not is_ratio or choice["measure"] not in _MEASURES or not is_tunable(choice["setting"], choice["value"]):
        return None
    return Tuned(**choice)


def _digest(text: str) -> str:
    """Return a name for what a file or a server may have named."""
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:16]
