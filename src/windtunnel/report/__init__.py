"""What an answer looks like to people: text, tables, figures and timelines."""

from __future__ import annotations

from windtunnel.report.explanation import explain
from windtunnel.report.operators import operator_rows
from windtunnel.report.timeline import step_timeline

__all__ = ["explain", "operator_rows", "step_timeline"]
