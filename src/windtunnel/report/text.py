"""An answer on a terminal: the headline, where the time goes, memory, what holds it back and what would help."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from windtunnel.report import units
from windtunnel.report.bars import Figures, bar, bars, grid
from windtunnel.report.suggest import Suggestion
from windtunnel.report.words import COLOURS, bottleneck, plan_line, what_ifs
from windtunnel.scenario.results import Bottleneck, InferResult, TrainResult


def render(result: TrainResult | InferResult, suggestions: Sequence[Suggestion] | None = None) -> RenderableType:
    """Either kind of answer."""
    return render_train(result, suggestions) if isinstance(result, TrainResult) else render_infer(result, suggestions)


def render_train(result: TrainResult, suggestions: Sequence[Suggestion] | None = None) -> RenderableType:
    """A training step. ``suggestions``: what was found to fit, for a plan that does not (None: nothing was tried)."""
    figures = [
        f"{units.seconds(result.step_time_s)} a step",
        f"{units.number(result.tokens_per_second_per_gpu)} tokens/s/GPU",
        f"MFU {units.percent(result.mfu)}",
    ]
    also = [
        f"{units.number(result.tokens_per_second)} tokens/s",
        f"{units.number(result.model_tflops_per_gpu)} TFLOP/s/GPU",
        f"HFU {units.percent(result.hfu)}",
        f"{units.energy(result.energy_j)} a step",
        "price unknown" if result.cost_usd_per_step is None else f"{units.dollars(result.cost_usd_per_step)} a step",
        *_band(result.interval, "step_time_s"),
    ]
    return Group(
        _title(result.model, result.on, result.plan),
        _headline(figures, result.fits, also),
        *_not_fitting(result, suggestions),
        _section("Exposed time of a step", _times(result.time_s, result.step_time_s)),
        _section(_memory_title(result), _memory(result.memory_bytes)),
        _section("Bottleneck", _bottleneck(result.bottleneck, result.elasticity, "step")),
        *_run(result.run),
        *_warnings(result.warnings),
    )


def render_infer(result: InferResult, suggestions: Sequence[Suggestion] | None = None) -> RenderableType:
    """A batch served from prompt to last token; arguments as :func:`render_train`."""
    figures = [
        f"TTFT {units.seconds(result.ttft_s)}",
        f"TPOT {units.seconds(result.tpot_s)}",
        f"{units.number(result.output_tokens_per_second_per_gpu)} output tokens/s/GPU",
        _million(result.cost_usd_per_million_tokens),
    ]
    also = [
        f"E2E {units.seconds(result.e2e_s)}",
        f"{units.number(result.output_tokens_per_second)} output tokens/s",
        f"{units.number(result.total_tokens_per_second)} tokens/s in and out",
        f"{units.energy(result.energy_j_per_token)} an output token",
        f"memory holds {result.max_batch:,} such sequences",
        *_band(result.interval, "tpot_s"),
    ]
    phases: list[RenderableType] = []
    for name, phase in (("prefill", result.prefill), ("decode", result.decode)):
        total = sum(phase.time_s.values())
        title = f"{name.capitalize()} iteration, {units.seconds(total)} by kind of operator"
        phases.append(_section(title, _times(phase.time_s, total, by_kind=True)))
        phases.append(_indented(_bottleneck(phase.bottleneck, phase.elasticity, name)))
    return Group(
        _title(result.model, result.on, result.plan),
        _headline(figures, result.fits, also),
        *_not_fitting(result, suggestions),
        *phases,
        _section("Memory per GPU", _memory(result.memory_bytes)),
        *_warnings(result.warnings),
    )


def _million(usd: float | None) -> str:
    return "price unknown" if usd is None else f"{units.dollars(usd)}/Mtok"


def _title(model: str, on: str, plan: Mapping[str, object]) -> RenderableType:
    return Group(
        Text.assemble((model, "bold"), " on ", (on, "bold")),
        Text(plan_line(plan), style="dim"),
    )


def _headline(figures: Iterable[str], fits: bool, more: Iterable[str]) -> RenderableType:
    verdict = Text("fits", style="bold green") if fits else Text("DOES NOT FIT", style="bold red")
    first = Figures([*(Text(f, style="bold cyan") for f in figures), verdict])
    return Group(Text(""), first, Figures([Text(m) for m in more]))


def _band(interval: Mapping[str, object] | None, metric: str) -> list[str]:
    band = (interval or {}).get(metric)
    if not isinstance(band, Mapping):
        return []
    return [f"{metric.removesuffix('_s')} between {units.seconds(band['low'])} and {units.seconds(band['high'])}"]


def _indented(body: RenderableType) -> RenderableType:
    return Padding(body, (0, 0, 0, 2))


def _section(title: str, body: RenderableType) -> RenderableType:
    return Group(Text(""), Text(title, style="bold"), _indented(body))


def _times(time_s: Mapping[str, float], total: float, *, by_kind: bool = False) -> RenderableType:
    shown = sorted(((k, v) for k, v in time_s.items() if abs(v) > 1e-6 * total), key=lambda item: -item[1])
    whole = total if total > 0 else 1.0
    table = bars(
        (name, max(v, 0.0), _colour(name, by_kind), (units.percent(v / whole), units.seconds(v))) for name, v in shown
    )
    nothing = [k for k in time_s if all(k != name for name, _ in shown)]
    return Group(table, Text(f"none: {', '.join(nothing)}", style="dim")) if nothing else table


def _colour(name: str, by_kind: bool) -> str:
    if by_kind:
        return "blue" if name.startswith(("all_", "reduce_", "send_", "broadcast")) else COLOURS.get(name, "green")
    return COLOURS.get(name, "blue")


def _memory_title(result: TrainResult) -> str:
    stages = result.memory_by_stage
    if len(stages) < 2:
        return "Memory per GPU"
    worst = max(stages, key=lambda s: s.get("total", 0.0))
    return f"Memory per GPU, on the fullest pipeline stage ({worst.get('stage', 0):.0f})"


def _memory(memory: Mapping[str, float]) -> RenderableType:
    total, capacity = memory["total"], memory["capacity"]
    kinds = sorted(((k, v) for k, v in memory.items() if k not in ("total", "capacity") and v), key=lambda kv: -kv[1])
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
    return table


def _bottleneck(found: Bottleneck, elasticity: Mapping[str, float], what: str) -> RenderableType:
    lines = [Text(bottleneck(found.resource, found.share, what), style="bold yellow")]
    return Group(*lines, *(Text(line) for line in what_ifs(elasticity, what)))


def _not_fitting(result: TrainResult | InferResult, suggestions: Sequence[Suggestion] | None) -> list[RenderableType]:
    if result.fits:
        return []
    needed, capacity = result.memory_bytes["total"], result.memory_bytes["capacity"]
    short = f"short by {units.size(result.shortfall_bytes)} a GPU"
    lines = [Text(f"{short}: {units.size(needed)} needed of {units.size(capacity)}", style="red")]
    if suggestions is not None:
        lines += [Text(f"fits with {s.text}: {_outcome(s.result)}") for s in suggestions]
        if not suggestions:
            lines.append(Text("no change that was tried fits: more or larger accelerators are needed"))
    return [_section("What would make it fit" if suggestions else "Memory", Group(*lines))]


def _outcome(result: TrainResult | InferResult) -> str:
    if isinstance(result, TrainResult):
        return (
            f"{units.seconds(result.step_time_s)} a step, {units.number(result.tokens_per_second_per_gpu)} tokens/s/GPU"
        )
    return f"TTFT {units.seconds(result.ttft_s)}, TPOT {units.seconds(result.tpot_s)}"


def _run(run: Mapping[str, object] | None) -> list[RenderableType]:
    if not run:
        return []
    table = grid("left", "right")

    def row(label: str, key: str, shown: object) -> None:
        if run.get(key) is not None:
            table.add_row(label, str(shown))

    def figure(key: str) -> float | None:
        value = run.get(key)
        return float(value) if isinstance(value, int | float) else None

    if run.get("problem"):
        return [_section("The whole run", Text(str(run["problem"]), style="bold red"))]
    row("time to train", "time_to_train_s", units.duration(figure("time_to_train_s")))
    row("goodput", "goodput_fraction", units.percent(figure("goodput_fraction")))
    lost = run.get("lost_s")
    if isinstance(lost, Mapping):
        for name, value in lost.items():
            table.add_row(f"lost to {name}", units.duration(value))
    row("failures", "failures", f"{units.count(figure('failures'))}")
    row("spare nodes", "spare_nodes", f"{units.count(figure('spare_nodes'))}")
    row("checkpoint every", "checkpoint_every_s", units.duration(figure("checkpoint_every_s")))
    row("energy", "energy_j", units.energy(figure("energy_j")))
    row("GPU hours", "gpu_hours", units.count(figure("gpu_hours")))
    row("cost", "cost_usd", units.dollars(figure("cost_usd")))
    return [_section("The whole run", table)]


def _warnings(warnings: Sequence[str]) -> list[RenderableType]:
    if not warnings:
        return []
    return [Text(""), *(Text(f"note: {w}", style="dim") for w in warnings)]
