"""Records what the planner chooses in scripts/golden/plan_cases.py, as text to be read: tests/golden/plans/."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

from llmrun.gguf.header import GGUFHeader
from llmrun.hardware.device import Device
from llmrun.memory.estimate import Estimator
from llmrun.memory.estimate import Machine as Devices
from llmrun.memory.footprint import Footprint, MemoryBreakdown
from llmrun.planning.choose import Choice, Ground, choose
from llmrun.planning.device_speeds import device_rates
from llmrun.planning.offer import Offer
from llmrun.planning.pace import Pace
from llmrun.planning.policy import POLICIES
from llmrun.planning.pools import Reserve, host_reserve
from llmrun.planning.quality import loss_class, loss_of
from llmrun.planning.rates import ANY_TYPE, AttentionCost, BaseCosts, Cost, MatrixCost, Rates
from llmrun.planning.room import Room, make_room
from llmrun.planning.sizes import layer_sizes
from llmrun.planning.work import model_work
from llmrun.settings import RunSettings
from llmrun.units import format_bytes
from scripts.architectures.quants import QUANTS, bits_per_weight, quantized
from scripts.architectures.shapes import MODELS
from scripts.golden.plan_cases import CASES, Machine, PlanCase

GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "golden" / "plans"
_GIB = 1 << 30


def offers_on(model: str, machine: Machine) -> list[Offer]:
    """Return a model's quantizations as they are on a machine."""
    return [_offer(quant, *_header(model, quant), machine) for quant in QUANTS]


@cache
def _header(model: str, quant: str) -> tuple[GGUFHeader, Estimator]:
    header = quantized(MODELS[model], quant)
    return header, Estimator(header)


def _offer(quant: str, header: GGUFHeader, estimator: Estimator, machine: Machine) -> Offer:
    known = {device.id: device for device in machine.devices}
    rates = {device.id: found for device in machine.devices if (found := device_rates(device.name))}
    pace = Pace(model_work(header), estimator.shape.n_layer, _host_rates(machine.speed), rates)

    def footprint(settings: RunSettings) -> Footprint:
        devices = tuple(known[name] for name in settings.devices or ())
        return estimator.estimate(settings, Devices(devices)).footprint

    bpw = bits_per_weight(header)
    loss = loss_of(quant, bpw, header.architecture)
    return Offer(quant, loss, bpw, estimator.shape.n_ctx_train, layer_sizes(estimator.shape), footprint, pace.decode)


def _host_rates(speed: float) -> Rates:
    """All in the weights, so many GB a second of them."""
    read, free = Cost(1 / (speed * 1e9)), Cost(0.0)
    matrix = {ANY_TYPE: MatrixCost(read, free, free, free, free)}
    return Rates(BaseCosts(free, free, free), matrix, matrix, {ANY_TYPE: AttentionCost(free, read, free)})


def room_on(machine: Machine) -> Room:
    """Return what may be taken of a machine."""
    limit = None if machine.limit is None else int(machine.limit * _GIB)
    outside = 0 if limit is None else int(machine.ram * _GIB) // 2
    reserve = Reserve(host_reserve(int(machine.ram * _GIB), limit, outside))
    return make_room(int(machine.available * _GIB), machine.devices, reserve)


def planned(case: PlanCase) -> Choice | None:
    """Return what the planner chooses in a case."""
    names = tuple(device.id for device in case.machine.devices)
    ground = Ground(names, room_on(case.machine), case.fixed)
    return choose(offers_on(case.model, case.machine), ground, POLICIES[case.prefer])


def described(case: PlanCase) -> str:
    """Return the case and its plan as text."""
    return "\n".join([*_question(case), *_answer(case, planned(case))]) + "\n"


def _question(case: PlanCase) -> Iterator[str]:
    wishes = {"--ctx": case.fixed.n_ctx, "--parallel": case.fixed.parallel}
    wish = " ".join(f"{flag} {value}" for flag, value in wishes.items() if value is not None)
    yield f"machine   {case.machine.words}"
    yield f"wish      {case.model} --prefer {case.prefer} {wish}".rstrip()
    yield f"expect    {case.expect}"
    yield ""


def _answer(case: PlanCase, choice: Choice | None) -> Iterator[str]:
    if choice is None:
        yield "refused"
        return
    settings, offer = choice.settings, choice.offer
    speed = offer.decode(settings)
    yield f"step      {choice.step.why}"
    yield f"quant     {offer.quant}, {offer.bpw:.2f} bits, {loss_class(offer.loss).name}"
    yield f"speed     {'unknown' if speed is None else f'{speed:.1f} tok/s'}"
    yield f"layers    {_layers(choice)}"
    yield f"context   {settings.n_ctx} in {settings.type_k}, batches of {settings.n_ubatch}"
    room = room_on(case.machine)
    shared = sum(used.total for used, device in _used(case, choice) if device.unified)
    yield _pool("host", choice.footprint.host, room.host, shared)
    names = [device.id for device in case.machine.devices]
    for used, device in _used(case, choice):
        yield _pool(device.id, used, room.devices[names.index(device.id)])


def _layers(choice: Choice) -> str:
    settings = choice.settings
    text = f"{settings.n_gpu_layers} of {choice.offer.sizes.n_layer + 1} on devices"
    if settings.tensor_split:
        text += f", split {' + '.join(f'{count:g}' for count in settings.tensor_split)}"
    return text + (f", experts of {settings.cpu_experts} on the host" if settings.cpu_experts else "")


def _used(case: PlanCase, choice: Choice) -> list[tuple[MemoryBreakdown, Device]]:
    known = {device.id: device for device in case.machine.devices}
    return [
        (used, known[name]) for name, used in zip(choice.settings.devices or (), choice.footprint.devices, strict=True)
    ]


def _pool(name: str, used: MemoryBreakdown, room: int | None, shared: int = 0) -> str:
    parts = {"weights": used.weights, "cache": used.kv_cache, "compute": used.compute, "overhead": used.overhead}
    parts |= {"devices": shared} if shared else {}
    listed = ", ".join(f"{what} {format_bytes(size)}" for what, size in parts.items())
    room_there = "unknown" if room is None else format_bytes(room)
    return f"{name:<9} {format_bytes(used.total + shared)} of {room_there}: {listed}"


def main() -> None:
    """Write all plans anew."""
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for path in GOLDEN.glob("*.txt"):
        path.unlink()
    for case in CASES:
        (GOLDEN / f"{case.name}.txt").write_text(described(case), "utf-8")


if __name__ == "__main__":
    main()
