from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from windtunnel.errors import ScenarioError
from windtunnel.report.compare import compare, render_comparison

Make = Callable[..., Any]


def test_differences_add_up(make_train: Make, make_infer: Make) -> None:
    """INV: the operators' differences are the whole difference, on every part."""
    for a, b in ((make_train(), make_train(1.5)), (make_infer(), make_infer(0.7))):
        found = compare(a, b)
        for part in found.parts:
            assert sum(d.delta_s for d in part.operators) == pytest.approx(part.b_s - part.a_s)
            assert sum(d.delta_s for d in part.lines) == pytest.approx(part.b_s - part.a_s)
            assert sum(d.share or 0 for d in part.operators) == pytest.approx(1.0)
            deltas = [abs(d.delta_s) for d in part.operators]
            assert deltas == sorted(deltas, reverse=True)


def test_operators_are_matched_by_pass_and_name(make_train: Make) -> None:
    part = compare(make_train(), make_train(2.0)).parts[0]
    by_name = {d.name: d for d in part.operators}
    up = by_name["forward mlp.up"]
    assert up.b_s == pytest.approx(2 * up.a_s)
    assert by_name["epilogue optimizer"].delta_s == pytest.approx(0.0)


def test_options_that_differ_are_told(make_train: Make, shown: Callable[..., str]) -> None:
    a, b = make_train(), make_train(1.2, plan={"tp": 4, "pp": 3, "recompute": "full"}, on="12xh100-sxm")
    found = compare(a, b)
    assert found.options["tp"] == (2, 4)
    assert found.options["recompute"] == (None, "full")
    assert found.options["on"] == ("6xh100-sxm", "12xh100-sxm")
    assert "pp" not in found.options
    text = shown(render_comparison(found, ("a.yaml", "b.yaml")), 80)
    assert "A is" in text
    assert "times as fast" in text
    assert max(map(len, text.splitlines())) <= 80


def test_the_same_answer_twice(make_train: Make, shown: Callable[..., str]) -> None:
    found = compare(make_train(), make_train())
    assert found.options == {}
    text = shown(render_comparison(found))
    assert "the same time on both sides" in text
    fields = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert fields["parts"]["step"]["delta_s"] == 0


def test_a_side_that_does_not_fit_is_marked(make_train: Make, shown: Callable[..., str]) -> None:
    found = compare(make_train(), make_train(fits=False, shortfall_bytes=2.0**31))
    assert "B does not fit in memory: short by 2.00 GiB a GPU" in shown(render_comparison(found))


def test_a_step_is_not_a_batch(make_train: Make, make_infer: Make) -> None:
    with pytest.raises(ScenarioError, match="cannot be compared"):
        compare(make_train(), make_infer())
