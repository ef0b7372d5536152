"""What a long context costs, on a terminal and as a picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from windtunnel.report import units
from windtunnel.report.bars import grid
from windtunnel.report.figure import Table, check_plot, save_figure
from windtunnel.report.sections import section
from windtunnel.scenario.results import InferResult

_COLUMNS: Sequence[tuple[str, Callable[[Mapping[str, Any]], str]]] = (
    ("context", lambda at: f"{at['context']:,}"),
    ("KV/user", lambda at: units.size(at["kv_bytes"])),
    ("prefill", lambda at: units.seconds(at["prefill_s"])),
    ("users", lambda at: f"{at['users']:,}"),
    ("decode", lambda at: units.seconds(at["decode_s_per_token"])),
    ("switch", lambda at: units.seconds(at["switch_s"])),
    ("sessions/h", lambda at: units.number(at["sessions_per_hour"])),
    ("switching", lambda at: units.number(at["sessions_per_hour_switching"])),
)


def render_long_context(found: Mapping[str, Any]) -> RenderableType:
    """The four costs over the contexts, and what they come to beside the short one."""
    table = grid(*("right",) * len(_COLUMNS))
    table.add_row(*(Text(name, style="dim") for name, _ in _COLUMNS))
    for at in found["sweep"]:
        table.add_row(*(text(at) for _, text in _COLUMNS))
    return section("Long context", Group(table, Text(""), *(Text(line) for line in _traced(found))))


def _traced(found: Mapping[str, Any]) -> list[str]:
    short, asked, over = found["short"], found["asked"], found["ratio"]
    times = {k: units.MISSING if v is None else f"{units.number(v)}x" for k, v in over.items()}
    attention, kv = units.percent(asked["attention_of_prefill"]), units.percent(asked["kv_of_decode"])
    return [
        f"{asked['context']:,} tokens take {times['kv_bytes']} the KV cache of {short['context']:,}; where it goes:",
        f"prefill: {times['prefill_s']} the time, {attention} of it attention; {times['prefill_bytes']} the memory "
        "beside the weights",
        f"concurrency: {asked['users']:,} instead of {short['users']:,} users fit at once",
        f"decode: {times['decode_alone_s_per_token']} the time a token for one user, {times['decode_s_per_token']} "
        f"with as many as fit; {kv} of that is the context's",
        f"context switch: {times['switch_s']} the time to move a user's cache to the host and another's back",
        f"sessions: a context read and {found['rounds']} answers, all caches staying or each answer with a switch",
    ]


_PANELS = (
    ("prefill_s", "prefill (s)", 1.0),
    ("users", "users at once", 1.0),
    ("decode_s_per_token", "decode a token (ms)", 1e3),
    ("switch_s", "context switch (s)", 1.0),
)


def plot_long_context(result: InferResult, path: str | Path) -> None:
    """Draw the four costs over the context.

    Raises:
        ScenarioError: matplotlib is missing, the suffix is unknown, or the file cannot be written.
    """
    check_plot(path)
    from matplotlib.figure import Figure  # type: ignore[import-not-found,unused-ignore]

    assert result.long_context is not None
    sweep: Sequence[Mapping[str, Any]] = result.long_context["sweep"]
    contexts = [at["context"] for at in sweep]
    figure = Figure(figsize=(9.0, 6.0), layout="constrained")
    for axis, (key, label, factor) in zip(figure.subplots(2, 2).flat, _PANELS, strict=True):
        axis.plot(contexts, [factor * at[key] for at in sweep], marker="o")
        axis.set_xscale("log", base=2)
        axis.set_xticks(contexts, [f"{c:,}" for c in contexts], minor=False, fontsize="small")
        axis.set_xlabel("context (tokens)")
        axis.set_ylabel(label)
        axis.set_ylim(0, 1.08 * max(factor * at[key] for at in sweep) or 1)
        axis.grid(alpha=0.3)
    title = f"{result.model} on {result.on}"
    figure.suptitle(title, fontsize="medium")
    rows = [tuple(text(at) for _, text in _COLUMNS) for at in sweep]
    save_figure(figure, path, Table(title, [name for name, _ in _COLUMNS], rows))
