"""How often a job is interrupted, how slow its slowest rank is, and how many spare nodes cover repairs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from statistics import NormalDist
from typing import Any

import yaml

from windtunnel.errors import ScenarioError

HOUR = 3600.0


@cache
def reliability() -> dict[str, Any]:
    """The defaults in ``reliability.yaml``: each entry a ``value`` and its ``source``, and the storage ``tiers``."""
    loaded: dict[str, Any] = yaml.safe_load(files(__package__).joinpath("reliability.yaml").read_text("utf-8"))
    return loaded


def default(name: str) -> float:
    """A default of ``reliability.yaml``, in the unit of its name."""
    return float(reliability()[name]["value"])


@dataclass(frozen=True, slots=True)
class FailureRates:
    """Mean hours between the failures of one accelerator and of one node (its own parts, network and software).

    ``inf``: never. Only failures that interrupt the job count. Failures are taken as independent and exponential, so
    that the rates of all parts add up; measured gaps vary more (see the tests' ``failures.yaml``).
    """

    accelerator_mtbf_hours: float = math.inf
    node_mtbf_hours: float = math.inf

    def __post_init__(self) -> None:
        for name in ("accelerator_mtbf_hours", "node_mtbf_hours"):
            if not getattr(self, name) > 0:
                raise ScenarioError(f"{name} = {getattr(self, name)}; hours above 0 are accepted")

    @classmethod
    def published(cls) -> FailureRates:
        """The rates of Llama 3's training (``reliability.yaml``)."""
        return cls(default("accelerator_mtbf_hours"), default("node_mtbf_hours"))

    def job_mtbf_hours(self, accelerators: int, nodes: int) -> float:
        """Mean hours between interruptions of a job: 1/(accelerators/MTBF + nodes/MTBF).

        A job stops when any part of it does (the 1/N law of arXiv 2410.21680).
        """
        per_hour = accelerators / self.accelerator_mtbf_hours + nodes / self.node_mtbf_hours
        return math.inf if per_hour == 0 else 1 / per_hour


def expected_largest(ranks: int) -> float:
    """Mean of the largest of ``ranks`` standard normal values.

    Φ⁻¹((n − α)/(n − 2α + 1)) with α = 0.375 (Blom, Statistical Estimates and Transformed Beta-Variables, 1958):
    within 0.02 of the exact mean.

    Raises:
        ScenarioError: fewer than one rank.
    """
    if ranks < 1:
        raise ScenarioError(f"{ranks} ranks; at least 1 is needed")
    return NormalDist().inv_cdf((ranks - 0.375) / (ranks + 0.25)) if ranks > 1 else 0.0


def straggler_slowdown(ranks: int, step_time_cv: float, share: float = 0.0) -> float:
    """Extra share of a step's time when it waits for its slowest rank.

    ``step_time_cv``: standard deviation over mean of one rank's time for a step, ranks and steps independent and
    normal, so that the slowest of N takes 1 + cv·E[max of N] times the mean. ``share``: what slows every step besides
    (one lastingly slow machine, say); the two multiply.

    Raises:
        ScenarioError: a negative share or cv, or fewer than one rank.
    """
    if not (step_time_cv >= 0 and share >= 0):
        raise ScenarioError(f"straggler share {share} and step time cv {step_time_cv}; both must be at least 0")
    return (1 + share) * (1 + step_time_cv * expected_largest(ranks)) - 1


def spare_nodes(nodes: int, node_mtbf_hours: float, repair_hours: float, shortage: float = 0.01) -> int:
    """Spare nodes with which, at any time, more are in repair than there are spares with chance ``shortage`` at most.

    The number in repair is Poisson with mean nodes·repair/MTBF, whatever the repair times' distribution (M/G/∞;
    Takács, Introduction to the Theory of Queues, 1962, chapter 3).

    Raises:
        ScenarioError: a figure that is not above 0, or a chance outside (0, 1).
    """
    if not (nodes > 0 and node_mtbf_hours > 0 and repair_hours >= 0 and 0 < shortage < 1):
        raise ScenarioError(
            f"{nodes} nodes, MTBF {node_mtbf_hours} h, repair {repair_hours} h, shortage {shortage}; "
            "positive figures and a chance between 0 and 1 are accepted"
        )
    mean = nodes * repair_hours / node_mtbf_hours
    if mean > 500:  # the Poisson law is normal to well under a node here, and e^-mean leaves the floats' range
        return math.ceil(mean + NormalDist().inv_cdf(1 - shortage) * math.sqrt(mean))
    spares, chance = 0, math.exp(-mean)
    covered = chance
    while covered < 1 - shortage and spares < 10 * mean + 100:
        spares += 1
        chance *= mean / spares
        covered += chance
    return spares
