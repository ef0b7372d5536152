"""The parts that reports are put together from: title, headline, sections, memory, bottleneck, notes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from windtunnel.report import units
from windtunnel.report.bars import Figures, bar, grid
from windtunnel.report.suggest import Result, Suggestion
from windtunnel.report.words import bottleneck, metric_name, plan_line, what_ifs
from windtunnel.scenario.results import Bottleneck, InferResult, TrainResult


def per_million(usd: float | None) -> str:
    """Dollars for a million tokens."""
    return "price unknown" if usd is None else f"{units.dollars(usd)}/Mtok"


def heading(model: str, on: str, plan: Mapping[str, object]) -> RenderableType:
    """What is asked: model, cluster and plan."""
    return Group(
        Text.assemble((model, "bold"), " on ", (on, "bold")),
        Text(plan_line(plan), style="dim"),
    )


def headline(figures: Iterable[str], fits: bool, more: Iterable[str]) -> RenderableType:
    """What matters most with the verdict, and ``more`` in small below."""
    verdict = Text("fits", style="bold green") if fits else Text("DOES NOT FIT", style="bold red")
    first = Figures([*(Text(f, style="bold cyan") for f in figures), verdict])
    return Group(Text(""), first, Figures([Text(m) for m in more]))


def band(interval: Mapping[str, object] | None, metric: str) -> list[str]:
    """The interval of a metric, if there is one."""
    ends = (interval or {}).get(metric)
    if not isinstance(ends, Mapping):
        return []
    return [f"80 %: {metric_name(metric)} {units.seconds(ends['low'])} to {units.seconds(ends['high'])}"]


def confidence(said: str | None) -> list[RenderableType]:
    """How sure an answer is and why."""
    return [section("How sure", Text(said))] if said else []


def indented(body: RenderableType) -> RenderableType:
    """What belongs to the title above it."""
    return Padding(body, (0, 0, 0, 2))


def section(title: str, body: RenderableType) -> RenderableType:
    """A part with its title."""
    return Group(Text(""), Text(title, style="bold"), indented(body))


def memory(held: Mapping[str, float]) -> RenderableType:
    """Bytes by kind over the capacity."""
    total, capacity = held["total"], held["capacity"]
    below = {k: v for k, v in held.items() if k.startswith(("host_", "nvme_"))}
    held = {k: v for k, v in held.items() if k not in below}
    kinds = sorted(((k, v) for k, v in held.items() if k not in ("total", "capacity") and v), key=lambda kv: -kv[1])
    # The bars share one scale, on which the capacity is a full bar unless more is asked for.
    most = max(total, capacity) or 1.0
    table = grid("left", "right", "right", "left")
    for name, v in kinds:
        table.add_row(name, units.percent(v / capacity), units.size(v), bar(v / most, "blue"))
    style = "green" if total <= capacity else "red"
    table.add_row(
        Text("total", style="bold"), units.percent(total / capacity), units.size(total), bar(total / most, style)
    )
    table.add_row(Text("capacity", style="dim"), "", units.size(capacity), bar(capacity / most, "dim"))
    for name, v in below.items():
        table.add_row(Text(name.replace("_", " "), style="dim"), "", units.size(v), "")
    return table


def binding(found: Bottleneck, elasticity: Mapping[str, float], what: str) -> RenderableType:
    """What holds ``what`` back, and what faster resources would give."""
    lines = [Text(bottleneck(found.resource, found.share, what), style="bold yellow")]
    return Group(*lines, *(Text(line) for line in what_ifs(elasticity, what)))


def notes(warnings: Sequence[str]) -> list[RenderableType]:
    """Notes, in small at the end."""
    if not warnings:
        return []
    return [Text(""), *(Text(f"note: {w}", style="dim") for w in warnings)]


def shortage(result: Result, suggestions: Sequence[Suggestion] | None) -> list[RenderableType]:
    """By how much memory falls short, and what was found to fit (None: nothing was tried); nothing if it does fit."""
    if result.fits:
        return []
    needed, capacity = result.memory_bytes["total"], result.memory_bytes["capacity"]
    short = f"short by {units.size(result.shortfall_bytes)} a GPU"
    lines = [Text(f"{short}: {units.size(needed)} needed of {units.size(capacity)}", style="red")]
    if suggestions is not None:
        lines += [Text(f"fits with {s.text}: {_outcome(s.result)}") for s in suggestions]
        if not suggestions:
            lines.append(Text("no change that was tried fits: more or larger accelerators are needed"))
    return [section("What would make it fit" if suggestions else "Memory", Group(*lines))]


def _outcome(result: Result) -> str:
    if isinstance(result, TrainResult):
        return (
            f"{units.seconds(result.step_time_s)} a step, {units.number(result.tokens_per_second_per_gpu)} tokens/s/GPU"
        )
    if isinstance(result, InferResult):
        return f"TTFT {units.seconds(result.ttft_s)}, TPOT {units.seconds(result.tpot_s)}"
    held = result.memory_bytes
    return f"{units.size(held['total'])} of {units.size(held['capacity'])} a GPU"
