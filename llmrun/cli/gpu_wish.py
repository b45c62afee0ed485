"""What the command line says of GPUs, held against what is there: --require-gpu, and --gpu-layers without effect."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llmrun.console import Console
from llmrun.engine.client import Engine
from llmrun.engine.protocol import DeviceInfo
from llmrun.errors import EngineError, UsageError
from llmrun.hardware.device import Device
from llmrun.settings import Constraints


def check_required_gpu(constraints: Constraints, look: Callable[[], Sequence[Device]] | None = None) -> None:
    """Raise unless layers can be given to a GPU: UsageError where the user forbids it, else EngineError that says why.

    look: lists the devices the engine would use; None starts an engine to ask.
    """
    if constraints.devices == ():
        raise UsageError("--require-gpu and --device none exclude each other")
    if constraints.n_gpu_layers == 0:
        raise UsageError("--require-gpu and --gpu-layers 0 exclude each other")
    from llmrun.doctor.gpu_required import require_gpu  # here: who requires none starts without the doctor
    from llmrun.doctor.reading import read_facts

    require_gpu(look() if look is not None else usable_devices(constraints.devices), read_facts)


def usable_devices(names: Sequence[str] | None) -> tuple[Device, ...]:
    """Return the devices the engine can give layers to, only those named if any are; none where it does not start.

    Raises EngineError for a lent device that cannot be reached.
    """
    from llmrun.hardware.detect import usable

    lent = [name for name in names or () if name.startswith("rpc:")]
    with Engine() as engine:
        try:
            engine.look()
        except EngineError:  # the doctor, who is asked next, says why
            return ()
        found = usable(engine.devices(lent))
    return found if names is None else tuple(device for device in found if device.id in names)


def tell_unused_gpu_layers(
    constraints: Constraints, look: Callable[[], Sequence[DeviceInfo]], console: Console
) -> None:
    """Say that --gpu-layers has no effect, where the engine has no device to put layers on.

    look: `Engine.devices` of the loaded engine; asked only where it matters.
    """
    wanted = constraints.n_gpu_layers
    if not wanted or constraints.devices is not None:
        return
    if all(device.kind not in ("GPU", "IGPU") for device in look()):
        console.say(f"note: --gpu-layers {wanted} has no effect: the engine sees no GPU")
