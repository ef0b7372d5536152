"""What every writer of ``--export`` is made of, and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from windtunnel.errors import ScenarioError
from windtunnel.models.network import Network
from windtunnel.scenario.text import shown


@dataclass(frozen=True, slots=True)
class Exported:
    """``files``: name to text, ``launch.sh`` among them. ``notes``: what the tool cannot be told, a line each."""

    tool: str
    files: Mapping[str, str]
    notes: tuple[str, ...] = ()


UNSAID: Mapping[str, Any] = {
    "tp": 1, "pp": 1, "dp": 1, "cp": 1, "ep": 1, "etp": 1, "virtual_stages": 1, "schedule": "1f1b", "zero": 0,
    "hsdp": 0, "sequence_parallel": False, "recompute": "none", "optimizer": "adamw", "offload": "",
}  # fmt: skip
"""Fields that a plan leaves out, as rules see them."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A combination of plan fields that a tool needs, for one plan or for arrays of plans.

    ``holds`` takes the fields by name (numbers, truth values and text; ``hsdp`` 0 for none) and the network, and gives
    a truth value or an array of them. ``fields``: those it looks at. ``reason``: what is needed.
    """

    reason: str
    fields: tuple[str, ...]
    holds: Callable[[Mapping[str, Any], Network], Any]


def offloads(plan: Mapping[str, Any], what: str) -> Any:
    """Whether ``what`` (such as ``params:cpu``, or ``params``) is among what a plan, or each of several, offloads."""
    return np.char.find(np.asarray(plan["offload"], str), what) >= 0


@dataclass(frozen=True, slots=True)
class Export:
    """A writer. ``engine``: the profile that predicts the tool.

    ``searched``: the values of plan fields that the tool can run, and ``rules`` the combinations; a search for it goes
    over these alone. A field that neither names has no bound. What only some models or clusters allow, ``write``
    refuses.
    """

    tool: str
    kind: Literal["train", "serve"]
    engine: str
    write: Callable[[Mapping[str, Any], Mapping[str, Any]], Exported]
    searched: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    rules: tuple[Rule, ...] = ()

    def check(self, plan: Mapping[str, Any], network: Network) -> None:
        """Refuse a plan that the tool cannot run.

        Raises:
            ScenarioError: the first field whose value is not in ``searched``, or the first rule that does not hold,
                and what is accepted.
        """
        kind = "train" if "micro_batch" in plan else "serve"
        if kind != self.kind:
            does = {"train": "trains", "serve": "serves"}
            raise ScenarioError(f"--export {self.tool}: it {does[self.kind]} models; the plan {does[kind]} one")
        for name, accepted in self.searched.items():
            value = plan.get(name)
            if name == "engine":
                value = str(value).partition("@")[0]
            if name == "offload" and value is not None:
                value = ",".join(sorted(part.strip() for part in str(value).split(",")))
            if value is not None and value not in accepted:
                raise refused(self.tool, name, value, ", ".join(str(a) for a in accepted))
        check_rules(self.tool, self.rules, plan, network)


def check_rules(tool: str, rules: Sequence[Rule], plan: Mapping[str, Any], network: Network) -> None:
    """Refuse a combination that a tool cannot run.

    Raises:
        ScenarioError: the first rule that does not hold.
    """
    told = {**UNSAID, **{k: v for k, v in plan.items() if v is not None}}
    for rule in rules:
        if not rule.holds(told, network):
            said = ", ".join(f"{name}={told[name]}" for name in rule.fields)
            raise ScenarioError(f"--export {tool}: {rule.reason}; the plan has {said}")


def refused(tool: str, name: str, value: object, accepted: str) -> ScenarioError:
    """The error for a value that a tool cannot run."""
    text = value if isinstance(value, str) and value.isprintable() and len(value) <= 80 else shown(value)
    return ScenarioError(f"--export {tool}: {name}={text} is nothing that it can run; accepted: {accepted}")
