"""Sets a measured step beside the predicted one: by kind, by GEMM shape, and as a whole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from windtunnel.hardware.machine import Cluster
from windtunnel.ops.fold import Evaluation
from windtunnel.validation.profile.classify import GROUPS
from windtunnel.validation.profile.measured import Measured, Shape, Total, measure
from windtunnel.validation.profile.predicted import Predicted, predicted_step
from windtunnel.validation.profile.trace import Trace

NOTICED = 0.1
"""Share of the measured time of no known kind from which a reader is warned."""


def against(
    trace: Trace, evaluation: Evaluation, cluster: Cluster, *, steps: int | None = None, world: int | None = None
) -> dict[str, Any]:
    """The JSON object of ``explain --against``; all times in seconds of one rank's step.

    ``evaluation``: the priced tree; ``cluster``: its machine; ``steps``: how many steps the trace holds where it does
    not say so (see :func:`~windtunnel.validation.profile.measured.measure`); ``world``: ranks of the predicted plan.

    Raises:
        ScenarioError: the trace's steps hold no work.
    """
    measured, predicted = measure(trace, steps), predicted_step(evaluation)
    measured_kinds = _one_attention(measured.kinds, predicted.kinds)
    kinds = _kinds(measured_kinds, predicted.kinds)
    gemms = _gemms(measured, predicted)
    other = [
        {"name": name, "seconds": t.seconds, "kernels": t.kernels}
        for name, t in sorted(measured.other.items(), key=lambda item: -item[1].seconds)
    ]
    return {
        "step": _step(trace, measured, predicted),
        "groups": _groups(kinds),
        "kinds": kinds,
        "gemms": gemms,
        "other": other,
        "warnings": [*trace.warnings, *_doubts(trace, measured, cluster, gemms, world)],
    }


def _pair(measured: float, predicted: float) -> dict[str, float | None]:
    """Predicted over measured, and how many seconds more are predicted."""
    both = measured > 0 and predicted > 0
    return {"ratio": predicted / measured if both else None, "difference_s": predicted - measured}


def _step(trace: Trace, measured: Measured, predicted: Predicted) -> dict[str, Any]:
    figures = ("step_s", "busy_s", "idle_s", "exposed_comm_s")
    return {
        "steps": measured.steps,
        "dropped_steps": measured.dropped,
        "trace_of": trace.on,
        "device": trace.device,
        "rank": trace.rank,
        "measured": {name: getattr(measured, name) for name in figures},
        "predicted": {
            **{name: getattr(predicted, name) for name in figures},
            "host_s": predicted.host_s,
            "bubble_s": predicted.bubble_s,
        },
        **_pair(measured.step_s, predicted.step_s),
    }


def _one_attention(measured: Mapping[str, Total], predicted: Mapping[str, Total]) -> dict[str, Total]:
    """Engines run prompts and decoding through the same kernels: where only one of them is predicted, that it was."""
    found = dict(measured)
    two = ("attention", "attention_decode")
    expected = [kind for kind in two if kind in predicted]
    if len(expected) == 1:
        both = [found.pop(kind) for kind in two if kind in found]
        if both:
            found[expected[0]] = Total(sum(t.seconds for t in both), sum(t.kernels for t in both))
    return found


def _kinds(measured: Mapping[str, Total], predicted: Mapping[str, Total]) -> list[dict[str, Any]]:
    none = Total()
    group = {kind: name for name, kinds in GROUPS.items() for kind in kinds}
    rows = []
    for kind in {**measured, **predicted}:
        m, p = measured.get(kind, none), predicted.get(kind, none)
        rows.append(
            {
                "kind": kind, "group": group.get(kind, "other"),
                "measured_s": m.seconds, "measured_kernels": m.kernels,
                "predicted_s": p.seconds, "predicted_kernels": p.kernels, **_pair(m.seconds, p.seconds),
            }
        )  # fmt: skip
    return _by_difference(rows)


def _groups(kinds: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The kinds' sums by group."""
    sums: dict[str, dict[str, float]] = {}
    for row in kinds:
        into = sums.setdefault(row["group"], {"measured_s": 0.0, "predicted_s": 0.0})
        for key in into:
            into[key] += row[key]
    return _by_difference(
        [{"group": name, **s, **_pair(s["measured_s"], s["predicted_s"])} for name, s in sums.items()]
    )


def _by_difference(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: -abs(row["difference_s"]))


def _gemms(measured: Measured, predicted: Predicted) -> list[dict[str, Any]]:
    """A row a shape, m and n taken as one pair: a weight's gradient may be computed as its transpose.

    A shape that only the trace has is priced all the same, so that every measured product has its prediction.
    """
    if not measured.gemms:
        return []
    m_side = _unordered(measured.gemms)
    p_side = _unordered(predicted.gemms)
    rows = []
    for key in {**m_side, **p_side}:
        shape, p = p_side.get(key, (None, Total()))
        seen, m = m_side.get(key, (None, Total()))
        m_each = m.seconds / m.kernels if m.kernels else None
        p_each = p.seconds / p.kernels if p.kernels else predicted.gemm_seconds(seen or key)
        shown = shape or seen or key
        rows.append(
            {
                "m": shown[0], "n": shown[1], "k": shown[2],
                "operators": sorted({n for s, names in predicted.names.items() if _key(s) == key for n in names}),
                "measured_runs": m.kernels, "measured_each_s": m_each, "measured_s": m.seconds,
                "predicted_runs": p.kernels, "predicted_each_s": p_each, "predicted_s": p.seconds,
                "ratio": p_each / m_each if p_each and m_each else None,
            }
        )  # fmt: skip
    return sorted(rows, key=lambda row: -max(row["measured_s"], row["predicted_s"]))


def _key(shape: Shape) -> Shape:
    m, n, k = shape
    return min(m, n), max(m, n), k


def _unordered(gemms: Mapping[Shape, Total]) -> dict[Shape, tuple[Shape, Total]]:
    """By unordered shape: (one of its orders, the sum of both)."""
    found: dict[Shape, tuple[Shape, Total]] = {}
    for shape, total in gemms.items():
        _, sum_ = found.setdefault(_key(shape), (shape, Total()))
        sum_.add(total.seconds, total.kernels)
    return found


def _doubts(
    trace: Trace, measured: Measured, cluster: Cluster, gemms: list[dict[str, Any]], world: int | None
) -> list[str]:
    found = []
    cpu = cluster.accelerator.family == "cpu"
    if (trace.on == "cpu") != cpu:
        what = "no kernels of a GPU" if trace.on == "cpu" else "kernels of a GPU"
        found.append(f"the trace has {what}, and the prediction is for {cluster.accelerator.name}")
    if trace.world is not None and world is not None and trace.world != world:
        found.append(f"the trace is one of {trace.world} ranks, and the plan has {world}")
    if not trace.steps and measured.steps == 1:
        found.append("the trace has no ProfilerStep spans: all of it is taken for one step (--steps N: for N)")
    total = sum(t.seconds for t in measured.kinds.values())
    unknown = sum(t.seconds for t in measured.other.values())
    if unknown > NOTICED * total:
        found.append(f"{100 * unknown / total:.0f} % of the measured time is of no known kind (other)")
    products = [row for row in gemms if row["measured_runs"]]
    if not products and "gemm" in measured.kinds:
        found.append("no shapes of matrix products in the trace: record it with record_shapes=True to compare them")
    elif products and not any(row["predicted_runs"] for row in products):
        found.append("no measured matrix product is in the plan: other model, batch, sequence length or layout?")
    return found
