"""A fit finds the constants that made a table, keeps those that the table cannot tell, and its file changes prices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel.calibration.fit import fit_table
from windtunnel.calibration.forms import CHOICES, FREE, families, inherited, predict, rates_of
from windtunnel.calibration.layout import Table, table_of
from windtunnel.calibration.result import FamilyFit, write_calibration
from windtunnel.cost.calibration import load_calibration
from windtunnel.cost.pricing import make_pricer
from windtunnel.cost.runtime import Runtime
from windtunnel.hardware import parse_cluster
from windtunnel.ops import build

CLUSTER = parse_cluster("1xa6000")


def only(table: Table) -> FamilyFit:
    (found,) = fit_table(table, CLUSTER, "a test").families
    return found


@settings(max_examples=8)
@given(
    compute=st.floats(0.4, 0.95), bandwidth=st.floats(0.4, 0.95), fixed_s=st.floats(5e-6, 20e-6),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_products(synthetic: Any, compute: float, bandwidth: float, fixed_s: float, seed: int) -> None:
    constants = {"compute": compute, "bandwidth": bandwidth, "fixed_s": fixed_s}
    found = only(synthetic.priced(synthetic.shapes("gemm"), constants, noise=0.02, seed=seed))
    assert found.values["compute"] == pytest.approx(compute, rel=0.1)
    assert found.values["bandwidth"] == pytest.approx(bandwidth, rel=0.1)
    assert found.values["fixed_s"] == pytest.approx(fixed_s, rel=0.2)
    assert found.median < 0.04


@pytest.mark.parametrize(
    ("kernel", "constants"),
    [
        ("attention", {"compute": 0.5, "fixed_s": 2e-5}),
        ("attention_backward", {"compute": 0.4, "fixed_s": 3e-5}),
        ("attention_decode", {"bandwidth": 0.5, "fixed_s": 1.5e-5}),
        ("norm", {"bandwidth": 0.6, "fixed_s": 6e-6}),
        ("copy", {"pcie": 0.6, "fixed_s": 1.2e-5}),
    ],
)
def test_other_families(synthetic: Any, kernel: str, constants: dict[str, float]) -> None:
    found = only(synthetic.priced(synthetic.shapes(kernel), constants, noise=0.02))
    for name, value in constants.items():
        assert found.values[name] == pytest.approx(value, rel=0.15), name
    assert found.median < 0.05
    assert found.median_before > 2 * found.median


def test_a_known_error_lies_within_a_few_standard_errors(synthetic: Any) -> None:
    constants = {"compute": 0.6, "bandwidth": 0.7, "fixed_s": 8e-6}
    found = only(synthetic.priced(synthetic.shapes("gemm"), constants, noise=0.05, seed=3))
    for name, value in constants.items():
        assert abs(found.values[name] - value) < 5 * found.error[name]


def test_rows_that_cannot_tell_leave_constants_alone(synthetic: Any) -> None:
    large = [row for row in synthetic.shapes("gemm") if row["m"] >= 1024]
    found = only(synthetic.priced(large, {"compute": 0.5}, noise=0.02))
    base = inherited(load_calibration(CLUSTER.accelerator), "gemm", "bf16")
    assert "compute" in found.values
    assert "bandwidth" in found.kept
    assert found.entry.bandwidth == base.bandwidth


@pytest.mark.parametrize("count", [1, 2, 4])
def test_few_rows_fit_few_parameters(synthetic: Any, count: int) -> None:
    rows = [row for row in synthetic.shapes("gemm") if row["m"] == 4096][:count]
    found = only(synthetic.priced(rows, {"compute": 0.5}))
    free = [name for name in found.values if name in FREE["gemm"]]
    assert free == ["compute"]
    assert found.values["compute"] == pytest.approx(0.5, rel=0.02)
    assert found.held_out == 0
    assert not set(CHOICES["gemm"]) & set(found.values)


def test_outliers_do_not_lead_the_fit(synthetic: Any) -> None:
    table = synthetic.priced(synthetic.shapes("gemm"), {"compute": 0.6, "bandwidth": 0.7}, noise=0.01)
    clean = table.samples[0].seconds.copy()
    table.samples[0].seconds[::9] *= 20  # some other work ran beside them
    calibration = load_calibration(CLUSTER.accelerator)
    (family,) = families(table.samples, calibration, CLUSTER.accelerator)
    prices = predict(family, only(table).entry, rates_of(CLUSTER, calibration), CLUSTER)
    assert np.median(np.abs(prices / clean - 1)) < 0.05
    assert np.quantile(np.abs(prices / clean - 1), 0.9) < 0.15


def test_nothing_beats_physics(synthetic: Any) -> None:
    """Times that no such device could reach end at the bound, and this is said."""
    table = synthetic.priced(synthetic.shapes("gemm"), {"compute": 1.0, "bandwidth": 1.0})
    table.samples[0].seconds[:] /= 3
    result = fit_table(table, CLUSTER, "a test")
    (found,) = result.families
    assert found.entry.compute <= 1
    assert found.entry.bandwidth <= 1
    assert "compute" in found.at_bound
    assert any("compute" in warning and "edge" in warning for warning in result.warnings)


@pytest.mark.parametrize(
    ("row", "key"),
    [
        ({"dtype": "bf16"}, ("gemm", "bf16")),
        ({"dtype": "fp8"}, ("gemm", "bf16")),  # an A6000 has no fp8: they run as bf16
        ({"dtype": "bf16", "weight_dtype": "int4"}, ("gemm", "weight_only")),
        ({"dtype": "int8"}, ("gemm", "int8")),
    ],
)
def test_rows_go_to_the_entry_that_prices_them(row: dict[str, str], key: tuple[str, str]) -> None:
    calibration = load_calibration(CLUSTER.accelerator)
    table = table_of([{"kernel": "gemm", "m": 8, "n": 64, "k": 64, "seconds": 1.0, **row}])
    (family,) = families(table.samples, calibration, CLUSTER.accelerator)
    if row["dtype"] == "fp8":  # an fp8 weight is narrower than the bf16 that is computed in
        key = ("gemm", "weight_only")
    assert (family.section, family.key) == key


def test_the_file_prices_as_it_was_fitted(synthetic: Any, tmp_path: Path) -> None:
    constants = {"compute": 0.37, "bandwidth": 0.41, "fixed_s": 3.3e-5}
    result = fit_table(synthetic.priced(synthetic.shapes("gemm"), constants), CLUSTER, "a test")
    path = tmp_path / "mine.yaml"
    write_calibration(result, str(path))
    assert [f.name for f in tmp_path.iterdir()] == ["mine.yaml"]
    loaded = load_calibration(CLUSTER.accelerator, str(path))
    (found,) = result.families
    assert loaded.gemm["bf16"].model_dump(exclude={"source", "fit"}) == found.entry.model_dump(
        exclude={"source", "fit"}
    )
    assert loaded.calibrated["gemm"]
    assert loaded.gemm["bf16"].fit is not None
    assert loaded.gemm["bf16"].fit.points == found.points
    runtime = Runtime(graphs=True)
    op = build.gemm("", 512, 5120, 5120, dtype="bf16", weight=2.0, act=2.0)
    seconds = [float(make_pricer(CLUSTER, runtime, c)(op).seconds) for c in (loaded, None)]
    least = 2 * 512 * 5120**2 / (0.37 * float(CLUSTER.accelerator.peak_flops["bf16"]))
    assert least < seconds[0] < 1.3 * least
    assert seconds[0] > 1.4 * seconds[1]
    # Other devices keep their constants.
    other = parse_cluster("1xh100-sxm").accelerator
    assert load_calibration(other, str(path)).gemm == load_calibration(other).gemm
    assert set(yaml.safe_load(path.read_text())) == {"devices"}


def test_a_large_table_is_fitted_to_some_of_its_rows(synthetic: Any) -> None:
    """Repeats of a shape are held out together, and the fit takes no longer for more of them."""
    table = synthetic.priced(synthetic.shapes("gemm") * 400, {"compute": 0.6, "bandwidth": 0.7}, noise=0.05)
    found = only(table)
    assert (found.points, found.shapes, found.held_out) == (14_000, 35, 7)
    assert found.values["compute"] == pytest.approx(0.6, rel=0.02)
    assert found.values["bandwidth"] == pytest.approx(0.7, rel=0.02)
