"""An answer on a terminal: the headline, where the time goes, memory, what holds it back and what would help."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from windtunnel.report import units
from windtunnel.report.bars import bars, grid
from windtunnel.report.sections import (
    band,
    binding,
    confidence,
    heading,
    headline,
    indented,
    memory,
    notes,
    per_million,
    section,
    shortage,
)
from windtunnel.report.simulation import render_simulation
from windtunnel.report.suggest import Result, Suggestion
from windtunnel.report.words import COLOURS
from windtunnel.scenario.results import InferResult, TrainResult
from windtunnel.scenario.simulation import SimulateResult


def render(result: Result, suggestions: Sequence[Suggestion] | None = None) -> RenderableType:
    """Any kind of answer."""
    if isinstance(result, SimulateResult):
        return render_simulation(result, suggestions)
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
        *band(result.interval, "step_time_s"),
    ]
    return Group(
        heading(result.model, result.on, result.plan),
        headline(figures, result.fits, also),
        *shortage(result, suggestions),
        section("Exposed time of a step", _times(result.time_s, result.step_time_s)),
        section(_memory_title(result), memory(result.memory_bytes)),
        section("Bottleneck", binding(result.bottleneck, result.elasticity, "step")),
        *_run(result.run),
        *confidence(result.confidence),
        *notes(result.warnings),
    )


def render_infer(result: InferResult, suggestions: Sequence[Suggestion] | None = None) -> RenderableType:
    """A batch served from prompt to last token; arguments as :func:`render_train`."""
    figures = [
        f"TTFT {units.seconds(result.ttft_s)}",
        f"TPOT {units.seconds(result.tpot_s)}",
        f"{units.number(result.output_tokens_per_second_per_gpu)} output tokens/s/GPU",
        per_million(result.cost_usd_per_million_tokens),
    ]
    also = [
        f"E2E {units.seconds(result.e2e_s)}",
        f"{units.number(result.output_tokens_per_second)} output tokens/s",
        f"{units.number(result.total_tokens_per_second)} tokens/s in and out",
        f"{units.energy(result.energy_j_per_token)} an output token",
        f"memory holds {result.max_batch:,} such sequences",
        *band(result.interval, "ttft_s"),
        *band(result.interval, "tpot_s"),
    ]
    phases: list[RenderableType] = []
    for name, phase in (("prefill", result.prefill), ("decode", result.decode)):
        total = sum(phase.time_s.values())
        title = f"{name.capitalize()} iteration, {units.seconds(total)} by kind of operator"
        phases.append(section(title, _times(phase.time_s, total, by_kind=True)))
        phases.append(indented(binding(phase.bottleneck, phase.elasticity, name)))
    return Group(
        heading(result.model, result.on, result.plan),
        headline(figures, result.fits, also),
        *shortage(result, suggestions),
        *phases,
        section("Memory per GPU", memory(result.memory_bytes)),
        *_long_context(result),
        *confidence(result.confidence),
        *notes(result.warnings),
    )


def _long_context(result: InferResult) -> list[RenderableType]:
    if result.long_context is None:
        return []
    from windtunnel.report.long_context import render_long_context  # with the pictures' helpers

    return [render_long_context(result.long_context)]


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
        return [section("The whole run", Text(str(run["problem"]), style="bold red"))]
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
    return [section("The whole run", table)]
