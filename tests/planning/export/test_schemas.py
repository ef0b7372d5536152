"""The schemas that writers are checked against."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from windtunnel.planning.export import EXPORTS
from windtunnel.planning.export.torchtitan import CONFIGURATIONS, SCHEDULES

ROOT = Path(__file__).parents[3]
FOLDER = Path(__file__).parent / "schemas"
HOW = {"its own parser, imported", "its own parser, read from source", "documentation"}


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_a_schema_is_facts_alone(path: Path, checks: Any) -> None:
    schema = checks.schema(path.stem)
    assert schema["tool"] == path.stem
    assert schema["version"]
    assert schema["how"] in HOW
    assert path.stat().st_size < 60_000
    kinds = {"int", "float", "str", "bool", "flag", "json", "dict", "list", "any"}
    for name, entry in schema["accepted"].items():
        assert entry["type"] in kinds, name
        assert set(entry) <= {"type", "choices", "many"}, name


def test_every_writer_has_a_schema() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == {*EXPORTS, "torchrun"}


def test_only_tensorrt_llm_is_checked_against_documentation(checks: Any) -> None:
    by_documentation = {tool for tool in EXPORTS if checks.schema(tool)["how"] == "documentation"}
    assert by_documentation == {"tensorrt-llm"}


def test_the_script_asks_for_the_versions_of_the_schemas(checks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "importlib.metadata", _Metadata())
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    spec = importlib.util.spec_from_file_location("export_schemas", ROOT / "scripts" / "export_schemas.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "export_schemas", script)
    spec.loader.exec_module(script)
    pinned = {name: tool.version for name, tool in script.TOOLS.items() if name != "torchrun"}
    assert pinned == {name: checks.schema(name)["version"] for name in pinned}
    assert {*pinned, "tensorrt-llm"} == set(EXPORTS)


class _Metadata:
    """PyTorch need not be installed."""

    @staticmethod
    def version(package: str) -> str:
        return f"any {package}"


@pytest.mark.parametrize("tool", sorted(set(EXPORTS) - {"tensorrt-llm"}))
def test_the_tools_own_parser_took_what_was_written(tool: str, checks: Any) -> None:
    assert checks.schema(tool)["parsed"] >= 200


def test_torchtitan_has_the_configurations_of_these_sizes(checks: Any) -> None:
    found = checks.schema("torchtitan")["models"]
    quantized = {"bf16": "", "fp8": "Float8"}
    for sizes, by_precision in CONFIGURATIONS.items():
        for precision, (module, name) in by_precision.items():
            known = found[f"{module}/{name}"]
            assert sizes == tuple(known[k] for k in ("hidden", "layers", "heads", "vocab", "experts")), name
            assert known["quantized"] == quantized[precision], name


def test_torchtitan_has_the_schedules(checks: Any) -> None:
    known = checks.schema("torchtitan")["accepted"]["--parallelism.pipeline-parallel-schedule"]["choices"]
    assert set(SCHEDULES.values()) <= set(known)


@pytest.mark.parametrize(
    ("entry", "value", "taken"),
    [
        ({"type": "int"}, "8", True), ({"type": "int"}, "8.5", False), ({"type": "int"}, True, False),
        ({"type": "float"}, "1e-05", True), ({"type": "float"}, "much", False), ({"type": "bool"}, "true", False),
        ({"type": "bool"}, True, True), ({"type": "str", "choices": ["a"]}, "b", False), ({"type": "dict"}, 1, False),
    ],
)  # fmt: skip
def test_a_value_of_another_type_is_refused(entry: dict[str, Any], value: Any, taken: bool, checks: Any) -> None:
    assert (not checks.refusal(entry, value)) == taken
