"""The options of the commands that run a model, in groups: how it runs, and what is printed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llmrun.cli import options as o
from llmrun.errors import UsageError

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
    speculate: o.Speculate = None
    draft: o.Draft = None
    device: o.Devices = None
    lora: o.Loras = None
    projector: o.Projector = None
    image: o.Images = None
    prefer: o.Prefer = None
    plan: o.PlanFile = None
    allow_disk: o.AllowDisk = False
    reserve: o.Reserve = None
    device_reserve: o.DeviceReserve = None
    require_gpu: o.RequireGpu = False
    offline: o.Offline = False
    no_server: o.NoServer = False

    def constraints(self) -> Constraints:
        """Return what the user fixed; raises UsageError for what cannot be meant."""
        from llmrun.cli.wishes import constraints_of, drafted

        found = constraints_of(
            self.ctx, self.gpu_layers, self.kv_type, self.threads, None, self.device, self.lora, self.speculate
        )
        return drafted(replace(found, projector=self.projector or ("auto" if self.image else None)), self.draft)

    def images(self) -> tuple[str, ...]:
        """Return the paths of the images to show; raises NotFoundError or UsageError for what is none."""
        from llmrun.images import read_images

        return tuple(image.path for image in read_images(self.image))

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


def check_behind(group: str, command: str, given: Mapping[str, bool]) -> None:
    """Raise UsageError for an option of a group of commands that was given before the command it is meant for."""
    for name, is_given in given.items():
        if is_given:
            raise UsageError(f"{name} stands before `{command}`", f"llmrun {group} {command} … {name}")
