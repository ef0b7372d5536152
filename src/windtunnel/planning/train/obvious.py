"""The plan that one would try first, and why it is not the best."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from windtunnel.engine.train import train
from windtunnel.errors import ScenarioError
from windtunnel.planning.train.axes import Axes
from windtunnel.scenario.options import TrainOptions, read_options
from windtunnel.scenario.results import TrainResult

KINDS = {
    "compute": "computing", "tp_comm": "tensor-parallel communication", "pp_comm": "sends between stages",
    "pp_bubble": "the pipeline's bubble", "dp_comm": "data-parallel communication", "ep_comm": "exchange of tokens",
    "cp_comm": "context-parallel communication", "optimizer": "the update", "host": "waiting for the host",
    "offload": "copies to and from the host",
}  # fmt: skip


def first_thought(axes: Axes) -> TrainResult | None:
    """Tensor parallelism over a node (or the most that heads allow), as few pipeline stages as memory takes, 1F1B, one
    sequence a micro-batch, the framework's own sharding; recomputation where nothing else makes it fit. Among the
    values that are searched; None where there is no such plan."""
    widths = sorted((n for n in axes.tp if n <= axes.cluster.node_size), reverse=True)
    ways = [(r, tp) for r in ("none", "selective", "full") if r in axes.recompute for tp in widths[:1]]
    first = {
        "micro_batch": axes.micro_batch[0], "cp": axes.cp[0], "ep": axes.ep[0], "precision": axes.precision[0],
        "offload": axes.offload[0], "etp": None if axes.etp is None else axes.etp[0],
    }  # fmt: skip
    if axes.engine.zero not in axes.zero:
        first["zero"] = axes.zero[0]
    for recompute, tp in ways:
        for pp in sorted(axes.pp):
            asked = {**axes.fixed(), **first, "tp": tp, "pp": pp, "recompute": recompute}
            if axes.gpus is not None and axes.gpus[0] != axes.cluster.count and axes.gpus[0] % (tp * pp) == 0:
                asked["dp"] = axes.gpus[0] // (tp * pp)
            try:
                answer = train(read_options(TrainOptions, {k: v for k, v in asked.items() if v is not None}))
            except ScenarioError:
                continue
            if answer.feasible:
                return answer
    return None


def why_it_lost(first: TrainResult, best: TrainResult) -> str:
    """In words: how much longer it takes, and where most of that goes."""
    ratio = first.step_time_s / best.step_time_s
    if ratio <= 1.0 + 1e-9:
        return "it is no slower: it loses on the objective, or is the best"
    more = {k: first.time_s.get(k, 0.0) - best.time_s.get(k, 0.0) for k in {*first.time_s, *best.time_s}}
    where = max(more, key=lambda k: more[k])
    return (
        f"it takes {ratio:.2f} times as long, most of it {KINDS.get(where, where)}: "
        f"{_seconds(first.time_s, where)} a step, where the best has {_seconds(best.time_s, where)}"
    )


def _seconds(times: Mapping[str, Any], kind: str) -> str:
    seconds = float(times.get(kind, 0.0))
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"
