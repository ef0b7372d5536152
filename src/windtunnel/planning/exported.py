"""A search for a tool to export to: over what it can run, with the files of the best plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

from windtunnel.errors import ScenarioError
from windtunnel.planning.export import EXPORTS, export
from windtunnel.scenario.plan_options import PlanServeOptions, PlanTrainOptions
from windtunnel.scenario.plans import PlanResult

Asked = TypeVar("Asked", PlanTrainOptions, PlanServeOptions)


def for_tool(options: Asked) -> tuple[Asked, Mapping[str, tuple[Any, ...]]]:
    """The options with the tool's engine, and the values that others may take where the user lists none.

    Raises:
        ScenarioError: an engine that is asked for and is not the tool's.
    """
    if options.export is None:
        return options, {}
    tool = EXPORTS[options.export]
    if "engine" not in options.model_fields_set:
        options = options.model_copy(update={"engine": tool.engine})
    accepted = tool.searched.get("engine", (tool.engine,))
    for name in options.engine.split(","):
        if name.partition("@")[0] not in accepted:
            raise ScenarioError(f"engine={name} cannot be exported for {tool.tool}; accepted: {', '.join(accepted)}")
    for name in ("context_parallel", "optimizer", "finetune", "flash_attention"):
        can, value = tool.searched.get(name, ()), getattr(options, name, None)
        if not can or value is None or value in can:
            continue
        if name in options.model_fields_set:
            raise ScenarioError(
                f"{name}={value} cannot be exported for {tool.tool}; accepted: {', '.join(map(str, can))}"
            )
        options = options.model_copy(update={name: can[0]})
    return options, {k: v for k, v in tool.searched.items() if k != "engine"}


def with_files(result: PlanResult, options: PlanTrainOptions | PlanServeOptions) -> PlanResult:
    """The answer with the files of the best plan that the tool can run: some combinations are found out only here.

    Raises:
        ScenarioError: it can run none of the best.
    """
    if options.export is None or not result.best:
        return result
    asked = options.model_dump(exclude_unset=True, exclude_none=True)
    first: ScenarioError | None = None
    for place, entry in enumerate(result.best):
        try:
            found = export(options.export, entry["plan"], {**asked, "on": entry.get("on", result.on[0])})
        except ScenarioError as error:
            first = first or error
            continue
        notes = list(found.notes)
        if entry["plan"].get("with"):
            notes.append(f"the files do not switch on {', '.join(entry['plan']['with'])}: see the tool's documentation")
        if first is not None:
            notes.insert(0, f"exported is plan {place + 1} of the list: {first}")
        return replace(result, exported=found.files, warnings=[*result.warnings, *notes])
    assert first is not None
    raise ScenarioError(f"{first}; none of the {len(result.best)} best plans can be exported: fix that option")
