"""What a search found on a terminal: the best plan, what comes after it and by how much, what binds, why not others."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from textwrap import fill

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from windtunnel.report import units
from windtunnel.report.bars import Figures, bars
from windtunnel.report.plan_figures import Plan, axes, figures, goal, trade_offs, worse_by
from windtunnel.report.plan_serving import frontier_table, limits_table, serve_figures
from windtunnel.report.plan_words import BEST, advice, differences, effort, named, reasons, shortfall, stages
from windtunnel.report.sections import band, binding, notes, per_million, section
from windtunnel.scenario.options import Options
from windtunnel.scenario.plans import PlanResult
from windtunnel.scenario.results import Bottleneck

MOST_PARETO = 8
"""Rows of the Pareto table of services; JSON has all."""

REASON_WIDTH = 56
"""Columns after which a reason goes on in the next line."""

REASON_COLUMNS = 12
"""Of a bar beside a reason, which takes much room itself."""

CLOSE = 0.02
"""Predictions are off by more than this in the median (see the validation page): they do not decide it."""


def render_headline(result: PlanResult, options: Options) -> RenderableType:
    """The question and the best plan with what matters most of it, or the nearest where none is feasible."""
    words, _ = goal(result)
    title = Text.assemble((result.model, "bold"), " on ", (", ".join(result.on), "bold"), (f": {words}", "dim"))
    if result.best:
        best = result.best[0]
        first, more = train_figures(best) if result.question == "train" else serve_figures(best, options)
        return Group(
            title,
            Text(""),
            _named("Best", best, result, "bold green"),
            Figures([Text(f, style="bold cyan") for f in first]),
            Figures([Text(m) for m in more]),
        )
    lines: list[RenderableType] = [title, Text(""), Text("NO PLAN IS FEASIBLE", style="bold red")]
    if said := shortfall(result):
        lines.append(Text(said, style="red"))
    if result.nearest:
        lines += [Text(""), _named("Nearest", result.nearest, result, "bold yellow")]
        if result.question == "train":
            lines.append(Figures([Text(f) for f in train_figures(result.nearest)[0]]))
        elif "slo_percentile" in result.nearest:
            lines.append(Figures([Text(f) for f in serve_figures(result.nearest, options)[0]]))
    return Group(*lines)


def reproduce(plan: Plan | None) -> RenderableType:
    """The command that predicts a plan alone, on one line however long it is."""
    if plan is None:
        return Group()
    return Group(Text(""), Text(str(plan["command"]), no_wrap=True, overflow="ignore"))


def render_runnable(result: PlanResult) -> RenderableType:
    """The best plan that the framework can run, where the best takes a schedule that it does not have."""
    own = result.runnable
    if own is None:
        return Group()
    aim, worse = goal(result)[1], worse_by(result, own)
    by = "" if worse is None else f", {100 * worse:.1f} % worse"
    said = Text.assemble(("With the framework's own schedules: ", "bold green"), (named(own, result), "bold"))
    return Group(Text(""), said, Text(f"{aim.title} {aim.text(own)}{by}"))


def render_findings(result: PlanResult, options: Options) -> RenderableType:
    """Everything after the headline. ``options``: what was asked."""
    parts: list[RenderableType] = []
    if result.best:
        best = result.best[0]
        if result.question == "serve":
            parts += limits_table(best, options)
        parts += _runners_up(result, options)
        parts += _pareto(result, options)
        if result.question == "serve":
            parts += frontier_table(result, options)
        parts += _bound(result, best)
        parts += _obvious(result)
    else:
        asked = options.model_dump(exclude_unset=True, exclude_none=True)
        if tips := [Text(f"- {tip}") for tip in advice(result, asked)]:
            parts.append(section("What could be changed (none of it was tried)", Group(*tips)))
    parts += _tried(result)
    parts += _why_not(result)
    parts += [Text(""), Text(effort(result), style="dim")]
    if told := stages(result.search):
        parts.append(Figures([Text(s, style="dim") for s in told]))
    return Group(*parts, *notes(result.warnings))


def train_figures(plan: Plan) -> tuple[list[str], list[str]]:
    """What matters most of a training step, and what also matters."""
    held = plan.get("memory_bytes") or {}
    run = plan.get("run") or {}
    first = [
        *([f"{units.count(plan.get('gpus'))} GPUs, {units.duration(run['time_to_train_s'])} in all"] if run else []),
        f"{units.seconds(plan.get('step_time_s'))} a step",
        f"MFU {units.percent(plan.get('mfu'))}",
        f"{units.size(held.get('total'))} of {units.size(held.get('capacity'))}",
        per_million(plan.get("cost_usd_per_million_tokens")),
    ]
    step_usd = plan.get("cost_usd_per_step")
    more = [
        f"{units.number(plan.get('tokens_per_second'))} tokens/s",
        f"{units.number(plan.get('tokens_per_second_per_gpu'))} tokens/s/GPU",
        f"{units.number(plan.get('model_tflops_per_gpu'))} TFLOP/s/GPU",
        f"HFU {units.percent(plan.get('hfu'))}",
        *([] if run else [f"{units.count(plan.get('gpus'))} GPUs"]),
        *([] if step_usd is None else [f"{units.dollars(step_usd)} a step"]),
        *([f"{units.dollars(run['cost_usd'])} in all"] if run.get("cost_usd") is not None else []),
        f"{units.energy(plan.get('energy_j_per_token'))} a token",
        *band(plan.get("interval"), "step_time_s"),
    ]
    return first, more


def _named(what: str, plan: Plan, result: PlanResult, style: str) -> RenderableType:
    return Text.assemble((f"{what}: ", style), (named(plan, result), "bold"))


def _runners_up(result: PlanResult, options: Options) -> list[RenderableType]:
    best, *others = result.best
    if not others:
        return [
            section("Runners-up", Text("none: no other plan is feasible" if result.feasible == 1 else "none shown"))
        ]
    shown = figures(result, options)
    rows = [(plan, worse_by(result, plan)) for plan in result.best]
    table = _table([f.title for f in shown], "worse by", "what differs")
    for number, (plan, worse) in enumerate(rows, start=1):
        said = "" if number == 1 or worse is None else f"{100 * worse:.1f} %"
        differs = Text(BEST if number == 1 else " ".join(differences(plan, best)), style="yellow")
        if number == 1:
            differs.stylize("bold green")
        table.add_row(str(number), *(f.text(plan) for f in shown), said, differs)
    close = sum(worse is not None and worse < CLOSE for _, worse in rows[1:])
    lines: list[RenderableType] = [table]
    if close:
        several = "they are" if close > 1 else "it is"
        lines.append(
            Text(f"{close} of them within {CLOSE:.0%} of the best: {several} worth measuring, too", style="dim")
        )
    return [section("Runners-up", Group(*lines))]


def _pareto(result: PlanResult, options: Options) -> list[RenderableType]:
    if len(result.pareto) < 2:
        return []
    compared = axes(result, options)
    rows = trade_offs(result.pareto) if result.question == "train" else result.pareto[:MOST_PARETO]
    table = _table([f.title for f in compared], "", "what differs from the best")
    for plan in rows:
        differs = " ".join(differences(plan, result.best[0]))
        text = Text(differs, style="yellow") if differs else Text(BEST, style="bold green")
        table.add_row("", *(f.text(plan) for f in compared), "", text)
    lines: list[RenderableType] = [table]
    if len(rows) < len(result.pareto):
        lines.append(Text(f"{len(rows)} of {len(result.pareto)} shown; --json has all, --plot draws them", style="dim"))
    names = ", ".join(f.title for f in compared)
    return [section(f"No plan is better in all of {names} than these", Group(*lines))]


def _bound(result: PlanResult, best: Plan) -> list[RenderableType]:
    found = best.get("bottleneck")
    if not found:
        return []
    if isinstance(found, Mapping):
        found = Bottleneck(str(found["resource"]), float(found["share"]))
    what = "step" if result.question == "train" else "engine"
    return [section("What binds the best", binding(found, best.get("elasticity") or {}, what))]


def _obvious(result: PlanResult) -> list[RenderableType]:
    found = result.obvious
    if not found:
        return []
    lines = [Text(named(found, result), style="bold"), Text(str(found["why"]))]
    return [section("Why the obvious plan lost", Group(*lines))]


def _tried(result: PlanResult) -> list[RenderableType]:
    """What each combination of techniques gives, over none of them."""
    if not result.tried:
        return []
    without = next((t["objective"] for t in result.tried if not t["techniques"]), None)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("techniques", no_wrap=True)
    table.add_column("against none", justify="right", no_wrap=True)
    table.add_column("", overflow="fold", style="dim")
    for t in sorted(result.tried, key=lambda t: math.inf if t["objective"] is None else t["objective"]):
        own = t["objective"]
        gain = "" if not own or not without else f"x {without / own if own > 0 else own / without:.3f}"
        said = t["why"] or ("no plan is feasible" if own is None else "feasible" if without is None else "")
        table.add_row(" + ".join(t["techniques"]) or "none", gain, said)
    return [section("Techniques, by what the best plan with each gains", table)]


def _why_not(result: PlanResult) -> list[RenderableType]:
    found = reasons(result.why_not)
    whole = sum(result.why_not.values()) + result.feasible
    if not found:
        return []
    rows = ((fill(r, REASON_WIDTH), n / whole, "yellow", (f"{n:,}", units.percent(n / whole))) for r, n in found)
    table = bars(rows, columns=REASON_COLUMNS)
    return [section(f"Why not the others: {whole - result.feasible:,} of {whole:,} combinations", table)]


def _table(titles: Iterable[str], loss: str, last: str) -> Table:
    """A table of plans: a number, figures, by how much each is worse, and what differs (as wide as there is room)."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for title in ("", *titles, loss):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column(last, overflow="fold")
    return table
