"""Why two answers differ: their operators side by side, by how much they add to the difference."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from windtunnel.errors import ScenarioError
from windtunnel.ops.fold import Evaluation
from windtunnel.report import units
from windtunnel.report.bars import grid
from windtunnel.report.operators import PASSES, Row, operator_rows
from windtunnel.report.plain import plain
from windtunnel.report.words import RESOURCES
from windtunnel.scenario.results import InferResult, TrainResult

Result = TrainResult | InferResult

MOST = 24
"""Operators told one by one; the rest are told together."""

_METRICS = {
    TrainResult: ("step_time_s", "tokens_per_second_per_gpu", "mfu", "energy_j", "cost_usd_per_step"),
    InferResult: (
        "ttft_s", "tpot_s", "e2e_s", "output_tokens_per_second_per_gpu", "energy_j_per_token",
        "cost_usd_per_million_tokens",
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Difference:
    """Seconds that an operator adds to each side (0 where a side has none), and its share of the whole difference."""

    name: str
    a_s: float
    b_s: float
    share: float | None

    @property
    def delta_s(self) -> float:
        return self.b_s - self.a_s

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "a_s": self.a_s, "b_s": self.b_s, "delta_s": self.delta_s, "share": self.share}


@dataclass(frozen=True, slots=True)
class Part:
    """One tree (the step; prefill or decode) on both sides, by operator and by line of exposed time (compute …).

    Either kind of difference adds up to ``b_s - a_s``.
    """

    name: str
    a_s: float
    b_s: float
    operators: tuple[Difference, ...]
    lines: tuple[Difference, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """``options``: name to both values, of the plan's options that differ. ``metrics``: name to both values."""

    a: Result
    b: Result
    options: Mapping[str, tuple[Any, Any]]
    metrics: Mapping[str, tuple[float | None, float | None]]
    parts: tuple[Part, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON: both sides' metrics, differing options, and for each part its operators, greatest difference first."""
        parts = {
            part.name: {
                "a_s": part.a_s,
                "b_s": part.b_s,
                "delta_s": part.b_s - part.a_s,
                "time_s": [d.to_dict() for d in part.lines],
                "operators": [d.to_dict() for d in part.operators],
            }
            for part in self.parts
        }
        result: dict[str, Any] = plain(
            {
                "a": _side(self.a),
                "b": _side(self.b),
                "options": {k: {"a": a, "b": b} for k, (a, b) in self.options.items()},
                "metrics": {k: {"a": a, "b": b} for k, (a, b) in self.metrics.items()},
                "parts": parts,
                "warnings": list(dict.fromkeys([*self.a.warnings, *self.b.warnings])),
            }
        )
        return result


def compare(a: Result, b: Result, asked: tuple[Mapping[str, Any], Mapping[str, Any]] = ({}, {})) -> Comparison:
    """Two answers of one command, operator by operator.

    Operators are matched by pass and name; what overlap hides counts nothing, so differences add up to the whole.
    ``asked``: options of both sides that their plans do not hold (changed hardware figures).

    Raises:
        ScenarioError: answers of different commands.
    """
    if type(a) is not type(b):
        raise ScenarioError(
            "a training step and a served batch cannot be compared; two files of one command are needed"
        )
    everything: dict[str, tuple[Any, Any]] = {"model": (a.model, b.model), "on": (a.on, b.on)}
    everything |= {k: (asked[0].get(k), asked[1].get(k)) for k in dict.fromkeys([*asked[0], *asked[1]])}
    everything |= {k: (a.plan.get(k), b.plan.get(k)) for k in dict.fromkeys([*a.plan, *b.plan])}
    return Comparison(
        a,
        b,
        {k: v for k, v in everything.items() if v[0] != v[1]},
        {k: (getattr(a, k), getattr(b, k)) for k in _METRICS[type(a)]},
        tuple(_part(name, one, other) for name, one, other in _trees(a, b)),
    )


def _trees(a: Result, b: Result) -> list[tuple[str, Evaluation, Evaluation]]:
    if isinstance(a.tree, Mapping):
        return [(name, a.tree[name], b.tree[name]) for name in a.tree]
    return [("step", a.tree, b.tree)]


def _part(name: str, a: Evaluation, b: Evaluation) -> Part:
    x, y = float(a.seconds()), float(b.seconds())
    lines = [{k: float(v) for k, v in tree.exposed().items()} for tree in (a, b)]
    return Part(name, x, y, _matched(_by_name(a), _by_name(b), y - x), _matched(lines[0], lines[1], y - x))


def _matched(a: Mapping[str, float], b: Mapping[str, float], whole: float) -> tuple[Difference, ...]:
    """What either side has, the greatest difference first."""
    found = []
    for key in dict.fromkeys([*a, *b]):
        x, y = a.get(key, 0.0), b.get(key, 0.0)
        if x or y:
            found.append(Difference(key, x, y, (y - x) / whole if whole else None))
    return tuple(sorted(found, key=lambda d: -abs(d.delta_s)))


def _by_name(evaluation: Evaluation) -> dict[str, float]:
    """Exposed seconds by operator; they add up to the tree's time."""
    result: dict[str, float] = {}
    for row in operator_rows(evaluation):
        if row.leaf:
            key = _key(row)
            result[key] = result.get(key, 0.0) + row.exposed_s
    return result


def _key(row: Row) -> str:
    found = next((p for p in row.path[:-1] if p in PASSES), "")
    # Recomputed operators have the names of the forward pass.
    again = next((p.split(":")[0] for p in row.path[:-1] if p.startswith("recompute")), "")
    return f"{again or found} {row.name}".strip()


def _side(result: Result) -> dict[str, Any]:
    bound = (
        {"bottleneck": result.bottleneck.resource}
        if isinstance(result, TrainResult)
        else {
            "prefill_bottleneck": result.prefill.bottleneck.resource,
            "decode_bottleneck": result.decode.bottleneck.resource,
        }
    )
    return {"model": result.model, "on": result.on, "plan": dict(result.plan), "fits": result.fits, **bound}


def render_comparison(found: Comparison, names: tuple[str, str] = ("A", "B")) -> RenderableType:
    """The comparison as text; ``names``: what to call the two sides."""
    a, b = names
    blocks: list[RenderableType] = [Text(f"A = {a}\nB = {b}", style="dim")]
    blocks.append(_table("Answer", ("", "A", "B", "B / A"), [_metric(k, *v) for k, v in found.metrics.items()]))
    different = [(k, units.option(x), units.option(y)) for k, (x, y) in found.options.items()]
    blocks.append(_table("Options that differ", ("", "A", "B"), different or [("none", "", "")]))
    for part in found.parts:
        blocks.append(_operators(part))
    for side, result in (("A", found.a), ("B", found.b)):
        if not result.fits:
            text = f"{side} does not fit in memory: short by {units.size(result.shortfall_bytes)} a GPU"
            blocks.append(Padding(Text(text, style="red"), (1, 0, 0, 0)))
    return Group(*blocks, Text(""), Text(_verdict(found)))


def _operators(part: Part) -> RenderableType:
    rows = [_row(d) for d in part.operators[:MOST]]
    rest = part.operators[MOST:]
    if rest:
        x, y = sum(d.a_s for d in rest), sum(d.b_s for d in rest)
        share = units.percent(sum(d.share for d in rest if d.share is not None))
        rows.append((f"{len(rest)} others", units.seconds(x), units.seconds(y), _signed(y - x), share))
    rows.append(("all", units.seconds(part.a_s), units.seconds(part.b_s), _signed(part.b_s - part.a_s), ""))
    head = ("", "A", "B", "B - A", "of difference")
    what = "a step" if part.name == "step" else f"an iteration of {part.name}"
    return Group(
        _table(f"Exposed time of {what}", head, [_row(d) for d in part.lines]), _table("by operator", head, rows)
    )


def _row(d: Difference) -> tuple[str, ...]:
    return d.name, units.seconds(d.a_s), units.seconds(d.b_s), _signed(d.delta_s), units.percent(d.share)


def _table(title: str, head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> RenderableType:
    table = grid("left", *("right",) * (len(head) - 1))
    table.add_row(*(Text(h, style="dim") for h in head))
    for row in rows:
        table.add_row(*row)
    return Padding(Group(Text(title, style="bold"), Padding(table, (0, 0, 0, 2))), (1, 0, 0, 0))


def _metric(name: str, a: float | None, b: float | None) -> tuple[str, ...]:
    def shown(value: float | None) -> str:
        if name.endswith("_s"):
            return units.seconds(value)
        if name == "mfu":
            return units.percent(value)
        return (
            units.dollars(value) if "usd" in name else units.energy(value) if "energy" in name else units.number(value)
        )

    ratio = units.number(b / a) if a and b is not None else units.MISSING
    return name, shown(a), shown(b), ratio


def _signed(value: float) -> str:
    return f"+{units.seconds(value)}" if value > 0 else units.seconds(value)


def _verdict(found: Comparison) -> str:
    """One sentence for each part."""
    said = []
    for part in found.parts:
        if part.a_s <= 0 or part.b_s <= 0:
            continue
        if abs(part.b_s - part.a_s) < 1e-9 * part.a_s:
            said.append(f"The {part.name} takes the same time on both sides.")
            continue
        faster, by = ("B", part.a_s / part.b_s) if part.b_s < part.a_s else ("A", part.b_s / part.a_s)
        most = ", ".join(f"{d.name} {_signed(d.delta_s)}" for d in part.lines[:3] if d.delta_s)
        said.append(f"{part.name.capitalize()}: {faster} is {by:.2f} times as fast. From A to B: {most}.")
    bounds = [_side(r) for r in (found.a, found.b)]
    for key in (k for k in bounds[0] if k.endswith("bottleneck")):
        x, y = (RESOURCES.get(side[key], side[key]) for side in bounds)
        what = key.removesuffix("_bottleneck").replace("bottleneck", "step")
        said.append(
            f"Bottleneck of the {what}: {x}, against {y}." if x != y else f"Bottleneck of the {what} in both: {x}."
        )
    return "\n".join(said)
