"""What `plan` and `show` print, as charts: which model, on which machine, in the words of the text."""

from __future__ import annotations

from llmrun.cli.machine_text import machine_line
from llmrun.cli.plan_text import head_lines, verdict
from llmrun.cli.show_text import model_line
from llmrun.pipeline import Planned, Shown
from llmrun.planning.plan import PlanWish
from llmrun.plots.chart import head_of
from llmrun.plots.machine import free_on
from llmrun.plots.plan_chart import PlanChart, plan_chart
from llmrun.plots.show_chart import ShowChart, show_chart


def chart_of_plan(model: str, planned: Planned) -> PlanChart:
    """Return a plan as a chart; model: what it was asked for by."""
    plan = planned.plan
    title, where, context, speed = head_lines(model, planned.summary, plan)
    head = head_of(title, f"on {machine_line(planned.site)}", f"{where}, {context}", f"{verdict(plan)}; {speed}")
    return plan_chart(head, plan)


def chart_of_show(model: str, shown: Shown, wish: PlanWish) -> ShowChart:
    """Return all quantizations of a model as a chart; model: what it was asked for by, wish: whose reserve is left."""
    survey, site = shown.survey, shown.site
    taken = "none of them fits here" if survey.chosen is None else f"> {survey.chosen} is what llmrun would take"
    head = head_of(
        model_line(model, shown), f"on {machine_line(site)}", f"with a context of {survey.n_ctx:,} tokens; {taken}"
    )
    return show_chart(head, survey, free_on(site, wish))
