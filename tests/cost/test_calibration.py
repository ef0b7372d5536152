"""Calibration files: the family chain, users' files, what is refused, and that shipped constants are sourced."""

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from windtunnel.cost import load_calibration, make_pricer
from windtunnel.cost.calibration import FOLDER
from windtunnel.errors import ScenarioError
from windtunnel.hardware import accelerator_names, load_accelerator, parse_cluster
from windtunnel.ops import build


@pytest.mark.parametrize("name", accelerator_names())
def test_every_device_has_constants_and_each_its_source(name):
    calibration = load_calibration(load_accelerator(name))
    for section, key, entry in calibration.records():
        assert entry.source, (section, key)
        if entry.fit is not None:
            assert "fit" in entry.source


def test_calibrated_means_measured_on_this_very_device():
    def families(name: str) -> set[str]:
        return {k for k, v in load_calibration(load_accelerator(name)).calibrated.items() if v}

    assert {"gemm", "attention", "attention_decode", "grouped_gemm", "pointwise"} <= families("h100-sxm")
    assert families("h100-pcie") == set()
    assert families("tpu-v5p") == set()


def test_a_family_without_data_uses_its_parents():
    b200, h100 = (load_calibration(load_accelerator(n)) for n in ("b200-sxm", "h100-sxm"))
    assert b200.attention["flash3"] == h100.attention["flash3"]
    assert b200.gemm["bf16"].bandwidth == h100.gemm["bf16"].bandwidth
    assert b200.gemm["bf16"].compute != h100.gemm["bf16"].compute  # from B200's own, so no fit is claimed
    assert b200.gemm["bf16"].fit is None


def test_shipped_chains_end_in_generic():
    for path in FOLDER.glob("*.yaml"):
        data = yaml.safe_load(path.read_text())
        if "family" in data and data["family"] != "generic":
            assert (FOLDER / f"{data['parent']}.yaml").is_file()


def test_a_users_file_goes_over_the_shipped_constants(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("kernels: {gemm: {bf16: {compute: 0.4}}}\ndevices: {h100-sxm: {copies: {pcie: 0.5}}}\n")
    shipped = load_calibration(load_accelerator("h100-sxm"))
    mine = load_calibration(load_accelerator("h100-sxm"), str(file))
    assert mine.gemm["bf16"].compute == 0.4
    assert mine.gemm["bf16"].bandwidth == shipped.gemm["bf16"].bandwidth
    assert mine.gemm["bf16"].fit is None
    assert mine.gemm["fp8"] == shipped.gemm["fp8"]
    assert mine.copies.pcie == 0.5
    assert load_calibration(load_accelerator("h200-sxm"), str(file)).copies == shipped.copies
    cluster = parse_cluster("1xh100-sxm")
    op = build.gemm("x", 8192, 8192, 8192, dtype="bf16", weight=2.0, act=2.0)
    slower = make_pricer(cluster, calibration=mine)(op).seconds / make_pricer(cluster)(op).seconds
    assert slower == pytest.approx(shipped.gemm["bf16"].compute / 0.4, rel=0.05)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("kernels: {gemm: {bf16: {compute: 1.4}}}", r"gemm\.bf16\.compute"),
        ("kernels: {gemm: {bf16: {speed: 1}}}", r"gemm\.bf16\.speed"),
        ("kernels: {gemms: {}}", "'gemms'.*grouped_gemm"),
        ("kernels: {gemm: {bf16: 3}}", "gemm"),
        ("kernels: 3", "kernels"),
        ("devices: 3", "devices"),
        ("collectives: 3", "collectives"),
        ("kernel: {}", "'kernel'"),
        ("- 1", "mapping"),
        ("a: [", "line"),
        ("kernels: {gemm: {fp8x: {compute: 0.5}}}", r"fp8x\.fixed_s"),
    ],
)
def test_malformed_files_are_refused(tmp_path, text, named):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(ScenarioError, match=named) as caught:
        load_calibration(load_accelerator("h100-sxm"), str(file))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ScenarioError, match="no file"):
        load_calibration(load_accelerator("h100-sxm"), str(tmp_path / "no.yaml"))


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
ANYTHING = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(LEAVES, inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(
    ["kernels", "devices", "collectives", "gemm", "copies", "bf16", "h100-sxm", "compute", "all_reduce"]
)
FILES = st.recursive(
    ANYTHING, lambda inner: st.dictionaries(NAMES | LEAVES, inner, max_size=4), max_leaves=12
)  # fmt: skip


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(FILES)
def test_any_file_is_a_calibration_or_one_clear_line(tmp_path, content):
    """INV-8."""
    file = tmp_path / "any.yaml"
    file.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    said = ""
    try:
        calibration = load_calibration(load_accelerator("h100-sxm"), str(file))
        make_pricer(parse_cluster("8xh100-sxm"), calibration=calibration)
    except ScenarioError as error:
        said = str(error)
    assert "\n" not in said


def test_a_changed_file_is_read_anew(tmp_path):
    file = tmp_path / "mine.yaml"
    for compute in (0.5, 0.25):
        file.write_text(f"kernels: {{gemm: {{bf16: {{compute: {compute}, source: {'x' * int(10 * compute)}}}}}}}")
        assert load_calibration(load_accelerator("h100-sxm"), str(file)).gemm["bf16"].compute == compute
