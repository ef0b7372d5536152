"""Engine constants of a user's own: the section ``engine`` of a calibration file, laid over a profile.

engine:
  vllm: {host_s_per_step: 0.0004, first_token_s: 0.005}
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from windtunnel.errors import ScenarioError, unknown
from windtunnel.hardware.yaml_file import read_user_yaml
from windtunnel.scenario.engines import ServeEngine, TrainEngine, engine_names
from windtunnel.scenario.text import shown

SECTION = "engine"
FIXED = ("name", "kind", "description", "sources")
"""Of a profile, what says which it is."""

E = TypeVar("E", TrainEngine, ServeEngine)


def with_own_constants(engine: E, path: str | None, warnings: list[str]) -> E:
    """``engine`` with the constants that the calibration file ``path`` has for it; a warning where it has those of
    other engines alone.

    Raises:
        ScenarioError: the file cannot be read, or its section holds what is no profile, no field or out of range.
    """
    if path is None:
        return engine
    try:
        stamp = str(Path(path).stat())
    except (OSError, ValueError):
        stamp = ""  # reading it says what is wrong
    sections = _sections(path, stamp)
    if not sections:
        return engine
    fields = sections.get(engine.name)
    if fields is None:
        held = ", ".join(sections)
        warnings.append(
            f"the engine constants of calibration file {shown(path)} are for {held}: {engine.name} has its shipped ones"
        )
        return engine
    accepted = [name for name in type(engine).model_fields if name not in FIXED]
    for name in fields:
        if name not in accepted:
            raise unknown(f"field of {engine.name} in calibration file {shown(path)}:", name, accepted)
    sources = {**engine.sources, **{name: f"calibration file {Path(path).name}" for name in fields}}
    try:
        return type(engine).model_validate({**engine.model_dump(), **fields, "sources": sources})
    except ValidationError as error:
        first = error.errors()[0]
        where = f"{first['loc'][0]}={shown(first.get('input'))}" if first["loc"] else ""
        raise ScenarioError(f"calibration file {path}: {engine.name}: {where}: {first['msg']}") from None


@cache
def _sections(path: str, stamp: str) -> dict[str, dict[str, Any]]:
    """Fields by profile. ``stamp`` changes when the file does."""
    data = read_user_yaml(path)
    section = data.get(SECTION) if isinstance(data, dict) else None
    if section is None:
        return {}
    wrong = f"calibration file {path}: engine is not a mapping of profiles, such as vllm: {{host_s_per_step: 0.0004}}"
    if not isinstance(section, dict):
        raise ScenarioError(wrong)
    for name, fields in section.items():
        if name not in engine_names():
            raise unknown(f"engine in calibration file {shown(path)}:", name, engine_names())
        if not isinstance(fields, dict):
            raise ScenarioError(wrong)
    return section
