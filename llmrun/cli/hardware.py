"""`llmrun hardware`: this machine as llmrun sees it, as lines of 80 columns and as JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from llmrun.cli.lender_text import link_text
from llmrun.cli.machine_options import MachineOptions
from llmrun.console import Console
from llmrun.doctor.gpu_checks import match_devices
from llmrun.doctor.report import plain
from llmrun.engine.client import Engine
from llmrun.engine.layouts import read_layouts
from llmrun.engine.protocol import DeviceInfo, DeviceList
from llmrun.errors import EngineError, UsageError
from llmrun.hardware.detect import detect
from llmrun.hardware.device import Device
from llmrun.hardware.gpu import Gpu
from llmrun.hardware.hardware import Hardware
from llmrun.hardware.threads import Threads, usual_threads
from llmrun.lenders import address_of
from llmrun.planning.rates import Needs
from llmrun.settings import RunSettings
from llmrun.site import lent_devices
from llmrun.speeds import Speeds, Throughput, open_speeds
from llmrun.units import format_bytes

_WIDTH = 80
_NAME = 12  # columns of a row's name
_STEADY = 0.2  # half of the middle half of the times a step took, as a part: more is other work's
# What a host is measured with: the plainest type, and the one most files are in; and of the types that the processor
# may prefer in a layout of its own those that most files are in, either way.
_MEASURED = Needs(frozenset({"Q8_0", "Q4_K"}), frozenset(), frozenset({"f16"}))
_REPACKED = frozenset({"Q8_0", "Q6_K", "Q4_K", "Q4_0"})


@dataclass(frozen=True, slots=True)
class Survey:
    """The machine, and what the engine told; trouble is why it told nothing. throughput: None if not measured.

    lent: what was measured of devices of other machines, by name.
    """

    hardware: Hardware
    engine: DeviceList
    trouble: str | None
    throughput: Throughput | None = None
    lent: tuple[tuple[str, Throughput], ...] = ()


def run_hardware(wish: MachineOptions, *, as_json: bool, quiet: bool) -> None:
    """Show the machine; an engine that does not start is told of, and an error only where it was to be measured.

    Raises what asking lenders raises, where any are named; UsageError for the name of any other device.
    """
    names = _lent_names(wish.device or ())
    console = Console(quiet=quiet)
    with Engine() as engine:
        speeds = _open_speeds(engine, console)  # while the worker starts
        survey = look_at_machine(engine)
        now, usual = map(_settings, (survey.hardware.host.threads, usual_threads()))
        lent = lent_devices(engine, names, remeasure=wish.remeasure)
        throughput = None if wish.remeasure and not lent else speeds.throughput(usual) or speeds.throughput(now)
        for device in lent:
            _measure_lent(speeds, device, usual, wish)
        if not lent and (wish.remeasure or (wish.measure and throughput is None)):
            if now != usual:
                console.say("note: other work keeps processors busy: `--remeasure` when it is over")
            _measure(speeds, now, remeasure=wish.remeasure)
            throughput = speeds.throughput(now)
        console.clear_status()
    known = tuple((device.id, found) for device in lent if (found := speeds.throughput(usual, device)) is not None)
    hardware = replace(survey.hardware, devices=(*survey.hardware.devices, *lent))
    survey = replace(survey, hardware=hardware, throughput=throughput, lent=known)
    if as_json:
        console.data(hardware_figures(survey))
        return
    console.show(hardware_text(survey))
    for note in survey.hardware.notes:
        console.say(f"note: {note}")
    if survey.trouble is not None:
        console.say("hint: `llmrun doctor` says what is wrong with the engine")


def _lent_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return them; raises UsageError for one that is no device of another machine: this one's are shown anyway."""
    for name in names:
        if address_of(name) is None:
            raise UsageError(
                f"--device {name[:80]} is not of another machine", "write rpc:HOST:PORT, as in rpc:192.168.1.7:50052"
            )
    return tuple(names)


def look_at_machine(engine: Engine) -> Survey:
    """Ask the engine what it sees, and look at the rest."""
    try:
        told, trouble = engine.look(), None
    except EngineError as error:
        told, trouble = DeviceList(()), error.message
    return Survey(detect(told.devices), told, trouble)


def survey_machine() -> Survey:
    """Look at the machine, and remember what was measured of it; starts an engine for that, about a second."""
    with Engine() as engine:
        speeds = open_speeds(usual_threads().decode)
        survey = look_at_machine(engine)
    now, usual = map(_settings, (survey.hardware.host.threads, usual_threads()))
    return replace(survey, throughput=speeds.throughput(usual) or speeds.throughput(now))


def _open_speeds(engine: Engine, console: Console) -> Speeds:
    def show(fraction: float) -> bool:
        console.status(f"measuring: {fraction:.0%}")
        return True

    return open_speeds(usual_threads().decode, lambda question: engine.measure(question, show))


def _measure(speeds: Speeds, settings: RunSettings, *, remeasure: bool) -> None:
    layouts = read_layouts()
    both = _REPACKED & set(layouts)
    wanted = replace(_MEASURED, matrices=_MEASURED.matrices | both)
    if speeds.measure_needs(wanted, settings, remeasure=remeasure) and both:
        speeds.measure_needs(Needs(both), replace(settings, repack=True), remeasure=remeasure)


def _measure_lent(speeds: Speeds, device: Device, settings: RunSettings, wish: MachineOptions) -> None:
    if wish.remeasure or (wish.measure and speeds.throughput(settings, device) is None):
        speeds.measure_device(device, _MEASURED, settings, remeasure=wish.remeasure)


def _settings(threads: Threads) -> RunSettings:
    return RunSettings(n_threads=threads.decode, n_threads_batch=threads.batch)


def hardware_figures(survey: Survey) -> dict[str, object]:
    """Return everything as plain values; sizes are bytes."""
    found = survey.hardware
    return {
        "host": plain(found.host),
        "devices": plain(found.devices),
        "gpus": plain(found.gpus),
        "nvidia": plain(found.nvidia),
        "engine": plain(survey.engine.engine),
        "engine_trouble": survey.trouble,
        "bandwidth": survey.throughput and survey.throughput.bandwidth,  # bytes a second
        "bandwidth_spread": survey.throughput and survey.throughput.bandwidth_spread,
        "multiply_adds": survey.throughput and survey.throughput.multiply_adds,  # a second
        "lent": {name: asdict(throughput) for name, throughput in survey.lent},
        "notes": list(found.notes),
    }


def hardware_text(survey: Survey) -> str:
    """Return the machine as rows of a name and lines."""
    found = survey.hardware
    rows = [
        ("memory", _memory_lines(found)),
        ("processor", _processor_lines(found)),
        ("threads", [found.host.threads.reason]),
        ("bandwidth", _bandwidth_lines(survey.throughput)),
        ("computing", _computing_lines(survey.throughput)),
        ("devices", _device_lines(survey)),
        ("other GPUs", _idle_lines(found.gpus, survey.engine.devices)),
        ("engine", _engine_lines(survey)),
        ("driver", _driver_lines(found)),
        ("power", _power_lines(found)),
    ]
    return "\n".join(line for name, lines in rows for line in _row(name, lines))


def _row(name: str, lines: list[str]) -> list[str]:
    indent = " " * (_NAME + 2)
    wrapped = [piece for line in lines for piece in textwrap.wrap(line, _WIDTH - len(indent))]
    heads = [f"{name:<{_NAME}}  ", *[indent] * max(0, len(wrapped) - 1)]
    return [head + piece for head, piece in zip(heads, wrapped, strict=False)]


def _memory_lines(found: Hardware) -> list[str]:
    memory = found.host.memory
    lines = [f"{format_bytes(memory.total)}, of it {format_bytes(memory.available)} available"]
    if memory.limit is not None:
        machine = "" if memory.machine_total is None else f" of the machine's {format_bytes(memory.machine_total)}"
        lines.append(f"that is what {memory.limited_by or 'a limit'} allows{machine}")
    if memory.swap_total is not None:
        swap = f"swap: {format_bytes(memory.swap_total)}, never counted on" if memory.swap_total else "no swap"
        lines.append(swap)
    return lines


def _processor_lines(found: Hardware) -> list[str]:
    cpu = found.host.cpu
    counts = [
        f"{count} {kind}"
        for count, kind in (
            (cpu.physical_cores, "physical"),
            (cpu.logical_cores, "logical"),
            (cpu.performance_cores, "performance"),
        )
        if count is not None
    ]
    cores = f"cores: {', '.join(counts)}" if counts else ""
    return [line for line in (cpu.name or "unknown", cores, ", ".join(sorted(cpu.features))) if line]


def _bandwidth_lines(throughput: Throughput | None) -> list[str]:
    if throughput is None:
        return ["not measured yet: `llmrun hardware --measure` does it"]
    size, reach = format_bytes(int(throughput.bandwidth)), throughput.bandwidth_spread / 2
    of = f"{_count(throughput.n_threads)} and {throughput.bandwidth_type}"
    lines = [f"{size} of weights a second ± {reach:.0%}, with {of}"]
    if reach > _STEADY:
        lines.append("unsteady: `llmrun hardware --remeasure` when nothing else runs")
    return lines


def _computing_lines(throughput: Throughput | None) -> list[str]:
    if throughput is None:
        return []
    of = f"{_count(throughput.n_threads_batch)} and {throughput.multiply_type}"
    return [f"{throughput.multiply_adds / 1e9:.1f} billion multiply-adds a second, with {of}"]


def _count(n_threads: int) -> str:
    return f"{n_threads} thread{'s' * (n_threads > 1)}"


def _device_lines(survey: Survey) -> list[str]:
    if survey.trouble is not None:
        return [f"unknown: {survey.trouble}"]
    own = [_device_line(device) for device in survey.hardware.devices if device.lender is None]
    known = dict(survey.lent)
    lent = [
        line
        for device in survey.hardware.devices
        if device.lender is not None
        for line in (_device_line(device), link_text(device.lender.link), *_lent_lines(known.get(device.id)))
    ]
    none = "none of its own" if lent else "none: models run on the CPU"
    return [*(own or [none]), *lent]


def _lent_lines(throughput: Throughput | None) -> list[str]:
    if throughput is None:
        return ["how fast it computes was not measured: `--measure` does it"]
    size = format_bytes(int(throughput.bandwidth))
    return [
        f"{size} of weights a second with {throughput.bandwidth_type}, "
        f"{throughput.multiply_adds / 1e9:.1f} billion multiply-adds with {throughput.multiply_type}"
    ]


def _device_line(device: Device) -> str:
    if device.unified:
        return f"{device.id}: {device.name}, shares the host's memory"
    if device.total is None:
        return f"{device.id}: {device.name}, memory unknown"
    free = "" if device.free is None else f", of it {format_bytes(device.free)} free"
    return f"{device.id}: {device.name}, {format_bytes(device.total)}{free}"


def _idle_lines(gpus: tuple[Gpu, ...], devices: tuple[DeviceInfo, ...]) -> list[str]:
    usable = [device for device in devices if device.kind in ("GPU", "IGPU")]
    _, idle = match_devices((gpu for gpu in gpus if gpu.vendor != "other"), usable)
    lines = []
    for gpu in idle:
        memory = ", shares the host's memory" if gpu.unified else f", {format_bytes(gpu.total)}" if gpu.total else ""
        lines.append(f"{gpu.name}{memory}: the engine does not use it (`llmrun doctor`)")
    return lines


def _engine_lines(survey: Survey) -> list[str]:
    info = survey.engine.engine
    return [] if info is None else [f"llama-cpp-python {info.version}: {', '.join(info.backends)}"]


def _driver_lines(found: Hardware) -> list[str]:
    nvidia = found.nvidia
    if nvidia is None:
        return []
    if nvidia.trouble is not None:
        return [f"NVIDIA's says: {nvidia.trouble}"]
    cuda = f", CUDA up to {nvidia.cuda}" if nvidia.cuda else ""
    return [f"NVIDIA {nvidia.version}{cuda}"]


def _power_lines(found: Hardware) -> list[str]:
    on_battery = found.host.on_battery
    return [] if on_battery is None else ["on battery: answers are slower" if on_battery else "mains"]
