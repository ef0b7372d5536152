"""What a published technique is: one small class that rewrites a scenario in up to three places.

The model (network to network), the step (how it is laid out and run: the engine's profile, the plan, and the trees
built from them), the policy (what is asked of the deployment: schedulers, pools, checkpoints). Techniques are pure
functions of frozen data, so they compose; two that decide the same thing refuse each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from windtunnel.errors import ScenarioError
from windtunnel.hardware.machine import Cluster
from windtunnel.models.network import Network
from windtunnel.scenario.engines import ServeEngine, TrainEngine
from windtunnel.scenario.options import Options
from windtunnel.scenario.plan import ServePlan, TrainPlan
from windtunnel.scenario.provenance import Given

Rewrite = Literal["model", "step", "policy"]
Command = Literal["train", "infer", "simulate"]

O = TypeVar("O", bound=Options)  # noqa: E741
E = TypeVar("E", TrainEngine, ServeEngine)

NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class About:
    """What a technique says of itself.

    ``seed``: the paper's number in the list of published systems; ``source``: where it was published; ``summary``: what
    it does, in a sentence or two. ``rewrites``: which of the three places; ``commands``: what it can be switched on
    for. ``decides``: what it settles, in words that an error can use ("the pipeline schedule"); two techniques that
    decide the same cannot be combined. ``neutral``: parameters with which it changes nothing.
    """

    seed: str
    title: str
    source: str
    summary: str
    rewrites: tuple[Rewrite, ...]
    commands: tuple[Command, ...]
    decides: tuple[str, ...] = ()
    neutral: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TrainSetting:
    """What a training step is made of, as a technique sees it. ``network``, ``cluster`` and ``options`` are for
    reading here (networks are rewritten by :meth:`Technique.model`)."""

    options: Options
    network: Network
    cluster: Cluster
    engine: TrainEngine
    plan: TrainPlan


@dataclass(frozen=True, slots=True)
class ServeSetting:
    """What one serving engine is made of; see :class:`TrainSetting`."""

    options: Options
    network: Network
    cluster: Cluster
    engine: ServeEngine
    plan: ServePlan


class Technique(BaseModel):
    """A published technique; its fields are its parameters, with the paper's defaults (:func:`parameter`).

    Every method is one rewrite and returns what it was given unless a technique overrides it. They are called in this
    order: ``request``, ``model``, ``engine``, then ``train`` or ``serve``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ClassVar[str]
    about: ClassVar[About]

    def request(self, options: O) -> O:
        """Policy: what is asked for. Use :meth:`ask`, so that a user's own contrary wish is an error."""
        return options

    def model(self, network: Network) -> Network:
        """Model: another network."""
        return network

    def engine(self, engine: E) -> E:
        """Step or policy: how a framework or engine works, before the options' defaults are read from its profile."""
        return engine

    def train(self, setting: TrainSetting) -> TrainSetting:
        """Step: another plan (sharding, offloading, compression, tree rewrites) or engine of a training step."""
        return setting

    def serve(self, setting: ServeSetting) -> ServeSetting:
        """Step: another plan or engine of serving iterations."""
        return setting

    def ask(self, options: O, **wanted: Any) -> O:
        """``options`` with what this technique wants.

        Raises:
            ScenarioError: the user asked for something else.
        """
        for key, value in wanted.items():
            given = getattr(options, key)
            # What a search is given is text.
            if key in options.model_fields_set and given is not None and str(given) != str(value):
                shown = key.replace("_", "-")
                raise ScenarioError(f"{self.name} sets {shown}={value}; leave out {shown}={given} or the technique")
        return options.model_copy(update=wanted)

    def refuse(self, why: str) -> ScenarioError:
        """The error of a technique that cannot be used here, to be raised."""
        return ScenarioError(f"{self.name}: {why}")


def parameter(default: Given[Any], meaning: str, **limits: Any) -> Any:
    """A parameter of a technique: its default with provenance, what it means (unit included), and its limits (``ge``,
    ``gt``, ``le``, ``lt``)."""
    return Field(
        default.value,
        description=meaning,
        json_schema_extra={"provenance": default.provenance, "note": default.note},
        **limits,
    )
