"""The options of the commands that run a model, in groups: how it runs, and what is printed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmrun.cli import options as o

if TYPE_CHECKING:
    from llmrun.console import AnswerStyle
    from llmrun.planning.plan import PlanWish
    from llmrun.settings import Constraints


@dataclass(frozen=True, slots=True)
class Running:
    """What the command line said about how the model runs."""

    ctx: o.Ctx = None
    gpu_layers: o.GpuLayers = None
    kv_type: o.KVType = None
    threads: o.Threads = None
    device: o.Devices = None
    prefer: o.Prefer = None
    plan: o.PlanFile = None
    allow_disk: o.AllowDisk = False
    reserve: o.Reserve = None
    device_reserve: o.DeviceReserve = None
    require_gpu: o.RequireGpu = False
    offline: o.Offline = False

    def constraints(self) -> Constraints:
        """Return what the user fixed; raises UsageError for devices that cannot be meant."""
        from llmrun.cli.wishes import constraints_of

        return constraints_of(self.ctx, self.gpu_layers, self.kv_type, self.threads, None, self.device)

    def plan_wish(self) -> PlanWish:
        """Return what is wished of the plan; raises UsageError for a preference there is not, or no size."""
        from llmrun.cli.wishes import plan_wish

        return plan_wish(
            self.prefer,
            allow_disk=self.allow_disk,
            reserve=self.reserve,
            device_reserve=self.device_reserve,
            require_gpu=self.require_gpu,
        )


@dataclass(frozen=True, slots=True)
class Output:
    """What the command line said about what is printed."""

    json: o.Json = False
    quiet: o.Quiet = False
    verbose: o.Verbose = False
    plain: o.Plain = False
    show_thinking: o.ShowThinking = "fold"

    def style(self) -> AnswerStyle:
        """Return how answers are to be shown."""
        from llmrun.console import AnswerStyle

        return AnswerStyle(not self.plain, self.show_thinking)
