"""One machine's speeds, asked of whoever knows best: what was measured and what real runs taught, else tables.

Knows nothing of what is chosen from the answers. Measures nothing unless it is told to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from llmrun.engine.layouts import read_layouts
from llmrun.engine.protocol import Usage
from llmrun.folders import speed_folder
from llmrun.hardware.device import Device
from llmrun.hardware.fingerprint import read_fingerprint
from llmrun.hardware.layout import Layouts, in_amx
from llmrun.measurements import Measurements, Measurer
from llmrun.memory.placement import Placement
from llmrun.planning.calibration import Calibration, Run, calibrate
from llmrun.planning.device_speeds import default_device_rates, device_rates
from llmrun.planning.host_speeds import completed, default_host_rates
from llmrun.planning.link import Lines
from llmrun.planning.rates import Needs, Rates
from llmrun.planning.speed import Speed, needs, predict
from llmrun.planning.tuning import Tuning
from llmrun.planning.work import ModelWork
from llmrun.settings import RunSettings
from llmrun.tunings import Tunings

# A cost whose measurements vary by more than itself was measured beside other work, where llama.cpp's threads wait for
# each other (0.2 tokens a second were predicted so on a machine that does 4): what is usual is nearer then.
_WILD = 1.0
# Tokens of an answer, and of a prompt, below which the first step's own costs and the clock tell more than the model:
# the last token of an answer is drawn and not read, and a prompt is read in steps that begin small.
_FEWEST_WRITTEN, _FEWEST_READ = 32, 128
_LENT_THREADS = 4  # of a processor that is lent, which tells nobody how many it has; the band around it is wide
_MOST_GUESSED = 0.02  # of an answer's tokens: where more were guessed right, it tells nothing of a token's own time


@dataclass(frozen=True, slots=True)
class Throughput:
    """How fast a host was measured to be with the type it is fastest with.

    bandwidth: bytes of weights a second that one token alone is made with; spread as in Cost. multiply_adds: a second,
    of a batch.
    """

    bandwidth: float
    bandwidth_spread: float
    bandwidth_type: str
    multiply_adds: float
    multiply_type: str
    n_threads: int
    n_threads_batch: int


_Way = tuple[int, int, int, bool, bool | None, str, tuple[str, ...]]


class Speeds:
    """Predicts tokens a second for any model on this machine.

    measurements: what is remembered of it, None is nothing. n_threads: of the host, where a device is asked for without
    settings. tunings: what is fastest on it. layouts: those that its processor keeps weights in.
    """

    def __init__(
        self,
        measurements: Measurements | None,
        n_threads: int,
        tunings: Tunings | None = None,
        layouts: Layouts = MappingProxyType({}),
    ) -> None:
        self._measurements = measurements
        self._tunings = tunings
        self._in_amx = in_amx(layouts)
        self._usual = RunSettings(n_threads=n_threads, n_threads_batch=n_threads)
        self._rates: dict[_Way, Rates] = {}
        self._calibrations: dict[tuple[_Way, bool], Calibration] = {}

    def host_rates(self, settings: RunSettings) -> Rates:
        """Return the host's costs with these threads, batch size and layout: as measured, else as hosts usually are."""
        way = _way(settings, ())
        if way not in self._rates:
            threads = settings.n_threads, settings.n_threads_batch
            usual = default_host_rates(*threads, repack=settings.repack, in_amx=self._in_amx)
            self._rates[way] = completed(self._known(settings, ()), usual)
        return self._rates[way]

    def device_rates(self, device: Device, settings: RunSettings | None = None) -> Rates:
        """Return a device's costs: as measured, else by its name, else as its backend's devices usually are."""
        wanted = settings or self._usual
        way = _way(wanted, (device.known_as,))
        if way not in self._rates:
            self._rates[way] = completed(self._known(wanted, (device.known_as,)), _usual(device))
        return self._rates[way]

    def tunings(self, work: ModelWork, devices: Sequence[Device]) -> tuple[Tuning, ...]:
        """Return what was found to be fastest for models like this, on the host and on all of the devices."""
        return () if self._tunings is None else self._tunings.of(work, [device.id for device in devices])

    def predict(
        self, work: ModelWork, settings: RunSettings, placement: Placement, devices: Sequence[Device]
    ) -> Speed | None:
        """Return how fast it will be, by all that is known; None where even tables know nothing."""
        speed = self._uncalibrated(work, settings, placement, devices)
        return None if speed is None else self._calibration(work, settings, placement, devices).apply(speed)

    def known(self, settings: RunSettings) -> Rates:
        """Return the host's costs that were measured here with these threads, batch size and layout, and no others."""
        return self._known(settings, ())

    def is_measured(self, work: ModelWork, settings: RunSettings) -> bool:
        """Whether all of the host's costs that a model depends on were measured here."""
        return not needs(work, settings).beyond(self._known(settings, ()))

    def measure(self, work: ModelWork, settings: RunSettings, *, remeasure: bool = False) -> bool:
        """Measure what is needed of the host and not known; False where that was given up, or there is no engine.

        remeasure: forget what is known first, and what runs taught about it. Raises what measuring raises.
        """
        return self.measure_needs(needs(work, settings), settings, remeasure=remeasure)

    def measure_needs(self, wanted: Needs, settings: RunSettings, *, remeasure: bool = False) -> bool:
        """Measure as `measure` does, what is named."""
        if self._measurements is None:
            return False
        found = self._measurements.rates(wanted, replace(settings, devices=()), remeasure=remeasure)
        if remeasure and found is not None:
            self._measurements.forget_runs()
        self._rates.clear()
        self._calibrations.clear()
        return found is not None

    def measure_device(self, device: Device, wanted: Needs, settings: RunSettings, *, remeasure: bool = False) -> bool:
        """Measure as `measure` does, what is named of a device; the way to one of another machine does not count."""
        if self._measurements is None:
            return False
        found = self._measurements.rates(wanted, settings, remeasure=remeasure, device=device)
        self._rates.clear()
        self._calibrations.clear()
        return found is not None

    def throughput(self, settings: RunSettings, device: Device | None = None) -> Throughput | None:
        """Return how fast the host was measured to be, or a device; None where it was not."""
        known = self._known(settings, () if device is None else (device.known_as,)).matrices
        if not known:
            return None
        alone = min(known, key=lambda name: known[name].read.seconds)
        batch = min(known, key=lambda name: known[name].multiply.seconds)
        read, multiply = known[alone].read, known[batch].multiply
        return Throughput(
            *(1 / read.seconds, read.spread, alone, 1 / multiply.seconds, batch),
            *(settings.n_threads, settings.n_threads_batch),
        )

    def record(
        self, work: ModelWork, settings: RunSettings, placement: Placement, devices: Sequence[Device], usage: Usage
    ) -> None:
        """Remember how fast a real answer was beside what was predicted; one too short to tell anything is left out."""
        run = self._run_of(work, settings, placement, devices, usage)
        if run is None or self._measurements is None:
            return
        self._measurements.remember(run, replace(settings, devices=_used(placement, devices)))
        self._calibrations.clear()

    def _run_of(
        self, work: ModelWork, settings: RunSettings, placement: Placement, devices: Sequence[Device], usage: Usage
    ) -> Run | None:
        read = usage.read_tokens >= _FEWEST_READ and usage.cached_tokens < usage.read_tokens
        wrote = usage.completion_tokens >= _FEWEST_WRITTEN and usage.completion_seconds > 0
        wrote = wrote and usage.accepted_tokens <= _MOST_GUESSED * usage.completion_tokens
        if not (read or wrote):
            return None
        n_past = usage.prompt_tokens + usage.completion_tokens // 2
        n_prompt = usage.read_tokens if read else 1
        speed = self._uncalibrated(work, settings, placement, devices, n_past, n_prompt)
        if speed is None:
            return None
        return Run(
            speed.main_type,
            speed.decode if wrote else None,
            usage.completion_tokens / usage.completion_seconds if wrote else None,
            speed.prefill if read else None,
            usage.read_tokens / usage.prompt_seconds if read else None,
            measured=self._is_all_measured(work, settings, placement, devices),
        )

    def _uncalibrated(
        self,
        work: ModelWork,
        settings: RunSettings,
        placement: Placement,
        devices: Sequence[Device],
        n_past: int = 512,
        n_prompt: int = 512,
    ) -> Speed | None:
        rates = [self.device_rates(device, settings) for device in devices]
        lines = Lines(work, settings, placement, devices)
        host = self.host_rates(settings)
        return predict(work, settings, placement, host, rates, n_past=n_past, n_prompt=n_prompt, lines=lines)

    def _calibration(
        self, work: ModelWork, settings: RunSettings, placement: Placement, devices: Sequence[Device]
    ) -> Calibration:
        if self._measurements is None:
            return Calibration()
        measured = self._is_all_measured(work, settings, placement, devices)
        used = _used(placement, devices)
        key = _way(settings, used), measured
        if key not in self._calibrations:
            runs = self._measurements.runs(replace(settings, devices=used))
            # what tables say misses by another factor than what was measured
            self._calibrations[key] = calibrate(run for run in runs if run.measured == measured)
        return self._calibrations[key]

    def _is_all_measured(
        self, work: ModelWork, settings: RunSettings, placement: Placement, devices: Sequence[Device]
    ) -> bool:
        wanted = needs(work, settings)
        here = placement.devices()
        on_devices = all(not wanted.beyond(self._known(settings, (devices[index].known_as,))) for index in here)
        return on_devices and self.is_measured(work, settings)

    def _known(self, settings: RunSettings, devices: tuple[str, ...]) -> Rates:
        if self._measurements is None:
            return Rates()
        return self._measurements.known(replace(settings, devices=devices)).steady(_WILD)


def open_speeds(n_threads: int, measure: Measurer = lambda _: None, folder: Path | None = None) -> Speeds:
    """Return what is known of this machine's speeds; some 20 ms to tell which machine it is.

    measure: `Engine.measure`, for whoever wants to measure. folder: None is the user's.
    """
    machine, folder = read_fingerprint(), folder or speed_folder()
    return Speeds(Measurements(measure, machine, folder), n_threads, Tunings(machine, folder), read_layouts())


def _usual(device: Device) -> Rates:
    """Return what a device of this name costs, or one of its backend; a processor that is lent is as hosts are."""
    backend = device.backend if device.lender is None else device.lender.backend or device.backend
    if device.lender is not None and backend == "CPU":
        return default_host_rates(_LENT_THREADS, _LENT_THREADS, repack=False)
    return device_rates(device.name) or default_device_rates(backend)


def _way(settings: RunSettings, devices: tuple[str, ...]) -> _Way:
    """Return what costs hold for."""
    threads = settings.n_threads, settings.n_threads_batch
    return (*threads, settings.n_ubatch, settings.repack, settings.flash_attn, settings.affinity, devices)


def _used(placement: Placement, devices: Sequence[Device]) -> tuple[str, ...]:
    """Return what a placement uses: devices, and the host where a layer is there; nothing is the host alone."""
    used = tuple(devices[index].known_as for index in placement.devices())
    return ("host", *used) if used and None in placement.layers else used
