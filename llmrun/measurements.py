"""What was measured on this machine and what runs taught, remembered in files; measured again where it no longer holds.

Knows where and for how long; must not know how anything is measured, or what is predicted from it. Files of another
version, cut off or damaged, are as good as none: everything in them can be had again.
"""

from __future__ import annotations

import contextlib
import json
import math
import tempfile
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path

from llmrun.engine.protocol import Measure, Measured
from llmrun.engine.wire import FrameDecoder, encode
from llmrun.errors import EngineError
from llmrun.hardware.device import Device
from llmrun.hardware.fingerprint import Fingerprint
from llmrun.planning.calibration import Run
from llmrun.planning.rates import Needs, Rates
from llmrun.settings import RunSettings

MAX_RUNS = 200  # remembered for each way to run on each machine; the oldest go first
_MAX_RUN_BYTES = 2 * MAX_RUNS * 200  # of a file of them, whose lines have 150 to 200; the oldest go at once

Measurer = Callable[[Measure], Rates | None]


class Measurements:
    """Costs on one machine, for any threads, batch size, devices and repacking.

    measure: `Engine.measure`, or whatever answers like it. folder: where they outlive the process, None is nowhere.
    """

    def __init__(self, measure: Measurer, machine: Fingerprint, folder: Path | None = None) -> None:
        self._measure = measure
        self._machine = machine
        self._folder = folder
        self._known: dict[str, Rates] = {}

    def rates(
        self, needs: Needs, settings: RunSettings, *, remeasure: bool = False, device: Device | None = None
    ) -> Rates | None:
        """Return the costs, measuring what is needed and not known; None where that was given up.

        remeasure: forget what is known first. device: whose costs they are, in place of the settings' devices. Raises
        what measuring raises.
        """
        wanted, link = settings, None  # with the name that the engine knows
        if device is not None:
            wanted, settings = (replace(settings, devices=(name,)) for name in (device.id, device.known_as))
            link = None if device.lender is None else device.lender.link
        key = self._key(settings)
        known = Rates() if remeasure else self.known(settings)
        if needs.beyond(known):
            found = self._measure(Measure(needs, known, wanted, link=link))
            if found is None:
                return None
            known = known.merged(found)
            if self._folder is not None:
                _write(self._folder / f"{key}.rates", encode(Measured(known)))
        self._known[key] = known
        return known

    def known(self, settings: RunSettings) -> Rates:
        """Return the costs that are known already; nothing is measured."""
        key = self._key(settings)
        if key not in self._known:
            self._known[key] = (self._folder and _read_rates(self._folder / f"{key}.rates")) or Rates()
        return self._known[key]

    def remember(self, run: Run, settings: RunSettings) -> None:
        """Keep what was predicted for a run and what came; costs a line in a file, and seldom more."""
        if self._folder is None:
            return
        path = self._folder / f"{self._key(settings)}.runs"
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                file.write(_line(run))
                is_long = file.tell() > _MAX_RUN_BYTES
            if is_long:
                _write(path, b"".join(map(_line, self.runs(settings))))

    def runs(self, settings: RunSettings) -> tuple[Run, ...]:
        """Return the last runs remembered, the oldest first; lines that are none are left out."""
        if self._folder is None:
            return ()
        try:
            lines = (self._folder / f"{self._key(settings)}.runs").read_bytes().splitlines()
        except OSError:
            return ()
        return tuple(filter(None, map(_parse_run, lines)))[-MAX_RUNS:]

    def forget_runs(self) -> None:
        """Forget all runs on this machine: what they teach holds for the costs they were predicted from."""
        if self._folder is not None:
            for path in self._folder.glob(f"{self._machine.key()}-*.runs"):
                with contextlib.suppress(OSError):
                    path.unlink()

    def _key(self, settings: RunSettings) -> str:
        """Name what the costs hold for; on a device the placement is the device's, whatever the model's is."""
        devices = "-".join(settings.devices) if settings.devices else "host"
        way = (settings.n_threads, settings.n_threads_batch, settings.n_ubatch, settings.repack, settings.flash_attn)
        bound = () if settings.affinity == "free" else (settings.affinity,)  # files are older than this setting
        safe = "".join(letter if letter.isalnum() or letter in "-." else "_" for letter in devices)
        return f"{self._machine.key()}-{'-'.join(map(str, (*way, *bound)))}-{safe}"


def _line(run: Run) -> bytes:
    return json.dumps(asdict(run)).encode() + b"\n"


def _parse_run(line: bytes) -> Run | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    names = {field.name for field in fields(Run)}
    if not isinstance(found, dict) or set(found) != names:
        return None
    if not isinstance(found["main_type"], str) or not isinstance(found["measured"], bool):
        return None
    speeds = [value for name, value in found.items() if name not in ("main_type", "measured") and value is not None]
    if not all(isinstance(value, float | int) and math.isfinite(value) and value > 0 for value in speeds):
        return None
    return Run(**found)


def _read_rates(path: Path) -> Rates | None:
    try:
        (message,) = FrameDecoder().feed(path.read_bytes())
    except (OSError, EngineError, ValueError):
        return None
    return message.rates if isinstance(message, Measured) else None


def _write(path: Path, content: bytes) -> None:
    """Put content into a file, whole or not at all; a cache that cannot be written is no failure."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
            file.write(content)
        Path(file.name).replace(path)
