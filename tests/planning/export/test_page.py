"""The page on exporting says what the schemas and writers say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from windtunnel.planning.export import EXPORTS

PAGE = Path(__file__).parents[3] / "docs" / "exporting.md"


def rows(name: str, checks: Any) -> list[str]:
    """The rows of one of the page's tables."""
    if name == "schemas":
        schemas = [checks.schema(tool) for tool in EXPORTS]
        return [f"| {s['tool']} | {s['version']} | {s['how']} | {s.get('parsed', 'none')} |" for s in schemas]
    if name == "searched":
        return [
            f"| {tool} | `{field}` | {', '.join(f'`{value}`' for value in values)} |"
            for tool, writer in EXPORTS.items()
            for field, values in writer.searched.items()
        ]
    return [f"| {tool} | {rule.reason} |" for tool, writer in EXPORTS.items() for rule in writer.rules]


def test_the_tables_are_those_of_the_code(checks: Any) -> None:
    tables = [part.splitlines() for part in PAGE.read_text(encoding="utf-8").split("\n\n") if part.startswith("|")]
    _, schemas, searched, rules = tables
    assert schemas[2:] == rows("schemas", checks)
    assert searched[2:] == rows("searched", checks)
    assert rules[2:] == rows("rules", checks)


def test_every_tool_is_named() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for tool, writer in EXPORTS.items():
        assert f"| `{tool}` |" in text
        assert f"`--engine {writer.engine}` |" in text
