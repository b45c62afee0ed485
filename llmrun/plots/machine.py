"""What is free on a machine in all, as one line of a picture."""

from __future__ import annotations

from llmrun.planning.plan import PlanWish
from llmrun.plots.chart import Free, free_together
from llmrun.site import Site


def free_on(site: Site, wish: PlanWish) -> Free | None:
    """Return what a model can be given of all memory; a device without memory of its own adds none."""
    own = [device for device in site.devices if not device.unified]
    reserve = site.reserve(wish.reserve_host, wish.reserve_device)
    kept = reserve.host + sum(reserve.of_device(device.id) for device in own)
    return free_together([("RAM", site.memory.available), *((device.id, device.free) for device in own)], kept)
