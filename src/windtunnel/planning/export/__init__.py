"""``--export``: a plan as the launch commands and configuration files of the tool that runs it.

Each writer names options that its tool's own parser accepts (``tests/planning/export/schemas``), says which values of
a plan the tool can run (:attr:`Export.searched`), and refuses the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from windtunnel.errors import unknown
from windtunnel.models import load_network
from windtunnel.planning.export.deepspeed import DEEPSPEED
from windtunnel.planning.export.megatron import MEGATRON
from windtunnel.planning.export.sglang import SGLANG
from windtunnel.planning.export.tensorrt_llm import TENSORRT_LLM
from windtunnel.planning.export.torchtitan import TORCHTITAN
from windtunnel.planning.export.vllm import VLLM
from windtunnel.planning.export.writer import Export, Exported, Rule

__all__ = ["EXPORTS", "Export", "Exported", "Rule", "export", "find_export"]

EXPORTS: Mapping[str, Export] = {
    each.tool: each for each in (VLLM, SGLANG, TENSORRT_LLM, MEGATRON, TORCHTITAN, DEEPSPEED)
}
"""Writers by the name of ``--export``."""


def find_export(tool: str) -> Export:
    """The writer of that name.

    Raises:
        ScenarioError: there is none.
    """
    if tool not in EXPORTS:
        raise unknown("export", tool, EXPORTS)
    return EXPORTS[tool]


def export(tool: str, plan: Mapping[str, Any], asked: Mapping[str, Any]) -> Exported:
    """What ``tool`` needs to run a plan.

    ``plan``: the ``plan`` of an answer of ``train``, ``infer`` or ``simulate``. ``asked``: the options of that
    request: ``model``, ``on``, ``set`` and whatever else was given.

    Raises:
        ScenarioError: no such tool, or one that cannot run the plan: the value, and what is accepted.
    """
    writer = find_export(tool)
    writer.check(plan, load_network(str(asked["model"])))
    return writer.write(plan, asked)
