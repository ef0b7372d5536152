"""How resources and their what-ifs are put in words."""

from __future__ import annotations

from collections.abc import Mapping

from windtunnel.report import units

RESOURCES: Mapping[str, str] = {
    "tensor": "matrix units",
    "vector": "vector units",
    "hbm": "memory bandwidth",
    "l2": "cache bandwidth",
    "scale_up": "scale-up links",
    "scale_out": "scale-out network",
    "pcie": "PCIe",
    "nvme": "NVMe",
    "host": "host CPU",
    "latency": "fixed latency",
}

COLOURS: Mapping[str, str] = {
    "compute": "green",
    "optimizer": "green",
    "pp_bubble": "yellow",
    "host": "red",
    "offload": "magenta",
}
"""Of the lines of ``time_s``; communication is blue."""

NOTICED = 0.005
"""The smallest elasticity worth telling: 10 % more of a resource gives at least 0.05 %."""


def bottleneck(resource: str, share: float, what: str) -> str:
    """One sentence on what holds ``what`` (the step, prefill, decode) back."""
    part = f"{100 * share:.0f} % of the {what}'s critical path"
    if resource == "latency":
        return f"fixed latency (launches, network hops) is {part}: no faster resource shortens it"
    return f"{RESOURCES.get(resource, resource)} ({resource}): {part}"


def what_ifs(elasticity: Mapping[str, float], what: str, most: int = 3) -> list[str]:
    """What a 10 % faster resource would give, the best first, and what would give nothing.

    First order: 10 % more rate shortens the time by 10 % of the elasticity (−d ln time / d ln rate).
    """
    ranked = sorted(elasticity.items(), key=lambda item: -item[1])
    helps = [(r, e) for r, e in ranked if e >= NOTICED]
    lines = [
        f"{RESOURCES.get(r, r)} ({r}) 10 % faster → {what} {10 * e:.1f} % faster" for r, e in helps[:most]
    ]  # fmt: skip
    little = [f"{r} {10 * e:.1f} %" for r, e in helps[most:]]
    nothing = [r for r, e in ranked if e < NOTICED]
    if little:
        lines.append(f"less: {', '.join(little)}")
    if nothing:
        lines.append(f"no effect: {', '.join(nothing)}")
    return lines


METRICS: Mapping[str, str] = {
    "step_time_s": "step time",
    "ttft_s": "TTFT",
    "tpot_s": "TPOT",
    "itl_s": "ITL",
    "e2e_s": "E2E",
    "memory_bytes.total": "peak memory",
    "output_tokens_per_second": "output tokens/s",
    "total_tokens_per_second": "tokens/s",
    "output_tokens_per_second_per_gpu": "output tokens/s/GPU",
    "requests_per_second": "requests/s",
    "seconds": "time",
}


def metric_name(path: str) -> str:
    """A figure's path in the JSON, as a reader would call it: ``ttft_s.p90`` is "TTFT p90"."""
    if path in METRICS:
        return METRICS[path]
    head, _, statistic = path.rpartition(".")
    return f"{METRICS[head]} {statistic}" if head in METRICS else path


def plan_line(plan: Mapping[str, object]) -> str:
    """The plan as its options, those that are switched off left out."""
    return " ".join(f"{k}={units.option(v)}" for k, v in plan.items() if v not in (None, False, "") and not _idle(k, v))


def _idle(key: str, value: object) -> bool:
    if value == "none" or (key == "finetune" and value == "full"):
        return True
    return value == 1 and key in ("tp", "pp", "dp", "cp", "ep", "etp", "virtual_stages", "replicas")
