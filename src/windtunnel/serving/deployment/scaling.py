"""How many replicas there should be."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from windtunnel.errors import ScenarioError
from windtunnel.scenario.fleet import Autoscale, Metric
from windtunnel.scenario.text import shown
from windtunnel.serving.deployment.policies import load_policy
from windtunnel.serving.replica import Load


@dataclass(frozen=True, slots=True)
class PoolState:
    """A pool when its size is decided. ``loads``: of each replica that takes requests; ``provisioned``: these and those
    that are starting; ``waiting``: requests that no replica was there for; ``max_batch``: of one replica."""

    time_s: float
    loads: Sequence[Load]
    provisioned: int
    waiting: int
    max_batch: int


class ScalingPolicy(Protocol):
    """Asked at every interval."""

    def desired(self, state: PoolState) -> int:
        """Replicas that there should be; the service keeps to its least and most."""


SCALING_METHODS = ("desired",)


@dataclass(frozen=True, slots=True)
class TargetTracking:
    """ceil(replicas x mean metric / target), as Kubernetes' HorizontalPodAutoscaler computes it from the replicas that
    are ready (without its tolerance and its pause before scaling down)."""

    metric: Metric
    target: float

    def desired(self, state: PoolState) -> int:
        if not state.loads:
            return state.provisioned
        total = sum(map(_METRICS[self.metric], state.loads, [state.max_batch] * len(state.loads)))
        return math.ceil(total / self.target - 1e-9)


_METRICS: dict[Metric, Callable[[Load, int], float]] = {
    "load": lambda load, max_batch: (load.queued + load.running) / max_batch,
    "kv": lambda load, max_batch: load.kv_used,
    "queue": lambda load, max_batch: load.queued,
}


def scaling_policy(asked: Autoscale) -> ScalingPolicy:
    """The target that was asked for, or a user's ``module:Class``.

    Raises:
        ScenarioError: a class that cannot be used (:func:`~.policies.load_policy`).
    """
    if asked.policy is None:
        return TargetTracking(asked.metric, asked.target)
    policy: ScalingPolicy = load_policy(asked.policy, "autoscaling policy", SCALING_METHODS)
    return policy


@dataclass(frozen=True, slots=True, eq=False)
class Scaling:
    """A pool whose size follows ``policy``, between ``minimum`` and ``maximum``, ``initial`` at the start.

    ``interval``: ps between decisions. A new replica reads ``weights_bytes`` at ``bytes_per_s``, which those that read
    at the same time share (None: nothing is read), then needs ``boot`` ps. One that is no longer wanted takes no new
    requests and goes when it is empty.
    """

    policy: ScalingPolicy
    minimum: int
    maximum: int
    initial: int
    interval: int
    boot: int = 0
    weights_bytes: int = 0
    bytes_per_s: float | None = None
    max_batch: int = 1

    def wanted(self, state: PoolState) -> int:
        """What the policy wants, within the limits.

        Raises:
            ScenarioError: what it said is no whole number.
        """
        said = self.policy.desired(state)
        try:
            return min(max(operator.index(said), self.minimum), self.maximum)
        except TypeError:
            raise ScenarioError(
                f"the autoscaling policy wants {shown(said)} replicas; a whole number is accepted"
            ) from None
