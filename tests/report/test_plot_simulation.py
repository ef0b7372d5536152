from __future__ import annotations

import importlib.util
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from windtunnel.errors import ScenarioError
from windtunnel.report.plot_simulation import plot_rates, plot_run, plot_variants
from windtunnel.report.table import Point, point
from windtunnel.scenario.simulation import SimulateResult
from windtunnel.scenario.workload import Slo

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="the plot extra is not installed"
)


@pytest.fixture(autouse=True)
def _no_warning() -> Any:
    """A layout that matplotlib gives up is a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


@pytest.mark.parametrize(("name", "start"), [("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("a.pdf", b"%PDF")])
def test_one_run_is_drawn(served: SimulateResult, tmp_path: Path, name: str, start: bytes) -> None:
    plot_run(served, tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(start)


def test_a_page_stands_alone(served: SimulateResult, tmp_path: Path) -> None:
    file = tmp_path / "a.html"
    plot_run(replace(served, model="<b>&"), file)
    text = file.read_text()
    assert text.count("<svg") == 1
    assert "<title>&lt;b&gt;&amp; on" in text
    assert "<td>TTFT</td>" in text
    assert "<?xml" not in text
    assert 'src="http' not in text
    assert "<!-- limit 30.0 ms -->" in text
    again = tmp_path / "b.html"
    plot_run(replace(served, model="<b>&"), again)
    assert again.read_bytes() == file.read_bytes()


@pytest.mark.parametrize("slo", [None, Slo(ttft_s=1e-9, tpot_s=1e6, e2e_s=1.0)])
def test_any_limit_can_be_drawn(service: Any, tmp_path: Path, slo: Slo | None) -> None:
    workload = service.workload(30)
    result = service.result(service.outcome(workload), workload, slo=slo)
    plot_run(result, tmp_path / "a.svg")
    plot_variants("rate", [(1.0, result), (2.0, result)], tmp_path / "b.svg")
    plot_rates([point({"rate": 1.0}, result)], tmp_path / "c.svg")
    if slo is not None:
        assert "limit 1,000,000 s" in (tmp_path / "a.svg").read_text()


def test_one_request_of_one_token(service: Any, tmp_path: Path) -> None:
    workload = replace(service.workload(1), output_tokens=service.workload(1).output_tokens * 0 + 1)
    result = service.result(service.outcome(workload), workload, slo=Slo(tpot_s=1.0))
    plot_run(result, tmp_path / "a.svg")
    assert "no TPOT" in (tmp_path / "a.svg").read_text()
    plot_variants("tp", [(1, result)], tmp_path / "b.svg")
    plot_rates([point({"tp": 1}, result)], tmp_path / "c.svg")


def test_rates_are_drawn(service: Any, tmp_path: Path) -> None:
    points = []
    for batch in (8, 32):
        for rate in (5.0, 20.0):
            workload = service.workload(40, rate)
            result = service.result(service.outcome(workload, slots=batch), workload, slo=Slo(ttft_s=0.2))
            points.append(point({"rate": rate, "max_batch": batch}, result))
    points.append(Point({"rate": 30.0, "max_batch": 8}, None, "wrong", 2))
    file = tmp_path / "a.svg"
    plot_rates(points, file)
    text = file.read_text()
    assert "<!-- max_batch=8 p50 -->" in text
    assert "<!-- request rate (requests/s) -->" in text
    assert "<!-- SLO attainment (%) -->" in text
    words = [replace(p, values={"rate": r}) for p, r in zip(points[:3], (5.0, "inf", True), strict=True)]
    plot_rates(words, file)
    assert "<!-- inf -->" in file.read_text()


def test_variants_are_drawn(service: Any, served: SimulateResult, tmp_path: Path) -> None:
    runs = [(f"s{i}", served) for i in range(8)]
    plot_variants("scheduler", [*runs, ("none", service.result(None, service.workload()))], tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text()
    assert "<!-- scheduler=s7 -->" in text
    assert "scheduler=none" not in text


def test_nothing_to_draw(service: Any, tmp_path: Path) -> None:
    unfit = service.result(None, service.workload())
    for draw in (
        lambda path: plot_run(unfit, path),
        lambda path: plot_variants("tp", [(1, unfit)], path),
        lambda path: plot_rates([point({"rate": 1.0}, unfit)], path),
    ):
        with pytest.raises(ScenarioError, match="nothing to draw"):
            draw(tmp_path / "a.png")
        with pytest.raises(ScenarioError, match=r"\.html"):
            draw(tmp_path / "a.bmp")
