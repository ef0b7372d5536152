"""What every writer of ``--export`` is made of, and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from windtunnel.errors import ScenarioError
from windtunnel.scenario.text import shown


@dataclass(frozen=True, slots=True)
class Exported:
    """``files``: name to text, ``launch.sh`` among them. ``notes``: what the tool cannot be told, a line each."""

    tool: str
    files: Mapping[str, str]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Export:
    """A writer. ``engine``: the profile that predicts the tool.

    ``searched``: the values of plan fields that the tool can run; a search for it goes over these alone. A field that
    is not named has no bound of its own, though ``write`` may refuse a combination.
    """

    tool: str
    kind: Literal["train", "serve"]
    engine: str
    write: Callable[[Mapping[str, Any], Mapping[str, Any]], Exported]
    searched: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def check(self, plan: Mapping[str, Any]) -> None:
        """Refuse a plan that the tool cannot run.

        Raises:
            ScenarioError: the first field whose value is not in ``searched``, and what is accepted.
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


def refused(tool: str, name: str, value: object, accepted: str) -> ScenarioError:
    """The error for a value that a tool cannot run."""
    text = value if isinstance(value, str) and value.isprintable() and len(value) <= 80 else shown(value)
    return ScenarioError(f"--export {tool}: {name}={text} is nothing that it can run; accepted: {accepted}")
