"""From text and files to clusters: counts, nodes, networks, cluster files and every way to get them wrong."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.errors import ScenarioError
from windtunnel.hardware import (
    Cluster,
    accelerator_names,
    cluster_data,
    fabric_names,
    node_names,
    parse_cluster,
    read_user_yaml,
    write_cluster,
)
from windtunnel.hardware.yaml_file import MAX_BYTES, MAX_DEPTH


def outcome(*arguments: Any) -> Cluster | str:
    """The cluster, or the message of the one error that may be raised, which is a single line."""
    try:
        return parse_cluster(*arguments)
    except ScenarioError as error:
        message = str(error)
    assert len(message.splitlines()) == 1
    assert message.isprintable()
    return message


def rates(cluster: Cluster) -> list[float]:
    return [float(level.bandwidth_bytes_per_s) / 1e9 for level in cluster.levels]


def domains(cluster: Cluster) -> list[int]:
    return [level.domain for level in cluster.levels]


def test_hgx_h100() -> None:
    cluster = parse_cluster("1024xh100-sxm")
    assert (cluster.count, cluster.node_size, cluster.nodes) == (1024, 8, 128)
    assert rates(cluster) == [450, 50, 50]
    assert domains(cluster) == [8, 256, 1024]
    assert [level.resource for level in cluster.levels] == ["scale_up", "scale_out", "scale_out"]
    assert cluster.levels[0].in_network_reduction
    assert not cluster.levels[1].in_network_reduction
    assert cluster.pcie_bytes_per_s == 64e9


@pytest.mark.parametrize(
    ("text", "count", "name"),
    [
        ("h100-sxm", 1, "h100-sxm"),
        ("72xgb200", 72, "gb200"),
        (" 8 x A100-80GB ", 8, "a100-80gb-sxm"),
        ("2x4090", 2, "rtx-4090"),
        ("4090", 1, "rtx-4090"),
        ("8×h100", 8, "h100-sxm"),
        ("8Xmi300x", 8, "mi300x"),
        ("0008xh100", 8, "h100-sxm"),
        ("1000000xh100", 1_000_000, "h100-sxm"),
    ],
)
def test_texts(text: str, count: int, name: str) -> None:
    cluster = parse_cluster(text)
    assert (cluster.count, cluster.accelerator.name) == (count, name)


@pytest.mark.parametrize(
    "text", ["0xh100", "-8xh100", "1.5xh100", "1e3xh100", "1,024xh100", "1000001xh100", "9" * 400 + "xh100"]
)
def test_bad_counts(text: str) -> None:
    with pytest.raises(ScenarioError, match=r"count is .*1 to 1,000,000") as error:
        parse_cluster(text)
    assert len(str(error.value)) < 200


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("8xh100-smx", "h100-sxm"),
        ("8xh101", "h100"),
        ("", "8xh100-sxm"),
        ("8x", "unknown accelerator"),
        ("xh100", "unknown accelerator"),
        ("8h100", "unknown accelerator"),
        ("8xh100\nxx", r"h100\\nxx"),
        ("missing.yaml", "no file"),
        ("folder/8xh100", "no file"),
        ("\0.yaml", "no file"),
        ("x" * 5000 + ".yaml", "x{20}"),
        (8, "8xh100-sxm"),
        (None, "8xh100-sxm"),
    ],
)
def test_bad_texts(text: Any, message: str) -> None:
    with pytest.raises(ScenarioError, match=message) as error:
        parse_cluster(text)
    assert "\n" not in str(error.value)


def test_a_partial_node_keeps_the_node() -> None:
    cluster = parse_cluster("12xh100-sxm")
    assert (cluster.node_size, cluster.nodes) == (8, 2)
    assert rates(cluster) == rates(parse_cluster("16xh100-sxm"))
    assert parse_cluster("4xh100-sxm").levels[0].domain == 8


def test_racks_and_pods_reach_beyond_a_node() -> None:
    rack = parse_cluster("144xgb200")
    assert (rack.node_size, domains(rack)) == (4, [72, 128, 144])
    pod = parse_cluster("8192xtpu-v4")
    assert (pod.node_size, domains(pod)) == (4, [4096, 8192])
    assert [level.topology for level in pod.levels] == ["torus", "switch"]
    assert domains(parse_cluster("384xascend-910c"))[0] == 384


def test_pairs_come_before_pcie() -> None:
    cluster = parse_cluster("16xa100-80gb-pcie")
    assert [(level.domain, level.topology) for level in cluster.levels[:2]] == [(2, "mesh"), (8, "pcie")]
    assert rates(cluster)[:2] == [300, 32]


def test_fabrics() -> None:
    spine = parse_cluster("1024xh100-sxm", {"fabric": "leaf-spine", "oversubscription": 4})
    assert rates(spine) == [450, 50, 12.5]
    assert domains(spine) == [8, 128, 1024]
    # Within one leaf nothing is divided.
    assert rates(parse_cluster("128xh100-sxm", {"fabric": "leaf-spine", "oversubscription": 4})) == [450, 50]
    wan = parse_cluster("16xh100-sxm", {"fabric": "wan"})
    assert rates(wan)[1] == pytest.approx(1 / 8 / 8)
    assert rates(parse_cluster("16xh100-sxm", {"fabric": "wan", "nic_gbit_per_s": 10}))[1] == pytest.approx(10 / 8 / 8)
    sharp = parse_cluster("1024xh100-sxm", {"fabric": "rail-fat-tree-sharp"})
    assert all(level.in_network_reduction for level in sharp.levels)


def test_another_node_of_the_catalogue() -> None:
    aws = parse_cluster("16xh100-sxm", {"node": "aws-p5"})
    assert aws.node == "aws-p5"
    assert aws.fabric == "efa"
    assert rates(aws) == [450, 50]
    assert rates(parse_cluster("16xa100-40gb-sxm", {"node": "aws-p4d"}))[1] == 6.25


@given(
    st.sampled_from(accelerator_names()),
    st.integers(1, 1_000_000),
    st.sampled_from([None, *node_names()]),
    st.sampled_from([None, *fabric_names()]),
)
def test_levels_widen_and_cover_every_cluster(name: str, count: int, node: str | None, fabric: str | None) -> None:
    overrides = {key: value for key, value in (("node", node), ("fabric", fabric)) if value}
    cluster = parse_cluster(f"{count}x{name}", overrides)
    reach = domains(cluster)
    assert reach[-1] >= count
    assert reach == sorted(reach)
    assert cluster.levels[-1].resource == "scale_out"
    resources = [level.resource for level in cluster.levels]
    assert resources == sorted(resources, reverse=True)  # scale_up before scale_out
    assert all(rate > 0 for rate in rates(cluster))
    network = [float(level.bandwidth_bytes_per_s) for level in cluster.levels if level.resource == "scale_out"]
    assert network == sorted(network, reverse=True)
    for level in cluster.levels:
        assert cluster.sources[f"{level.name}.gbyte_per_s"]
        assert cluster.sources[f"{level.name}.latency_us"]
    assert cluster.price_source


# ---------------------------------------------------------------------------------------------------- cluster files


def write(folder: Path, text: str, name: str = "cluster.yaml") -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


def test_a_cluster_file(tmp_path: Path) -> None:
    path = write(tmp_path, "accelerator: h100\ncount: 1024\nfabric: leaf-spine\nset:\n  oversubscription: 2\n")
    assert parse_cluster(path) == parse_cluster("1024xh100-sxm", {"fabric": "leaf-spine", "oversubscription": 2})
    assert parse_cluster(Path(path)) == parse_cluster(path)
    # The call's overrides win, in whatever unit, and a network rate beats the adapters that the file sets.
    assert rates(parse_cluster(path, {"oversubscription": 5}))[2] == 10
    nic = write(
        tmp_path, "accelerator: h100\ncount: 16\nset: {nic_gbit_per_s: 100, hbm_gbyte_per_s: 2000}\n", "nic.yaml"
    )
    assert rates(parse_cluster(nic))[1] == 12.5
    assert rates(parse_cluster(nic, {"scale_out_gbyte_per_s": 7}))[1] == 7
    assert parse_cluster(nic, {"hbm_tbyte_per_s": 4}).accelerator.hbm.bandwidth_bytes_per_s == 4e12


def test_a_cluster_file_with_levels(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
accelerator: xeon-8480
count: 6
levels:
  - {name: upi, resource: scale_up, domain: 2, gbyte_per_s: 60, latency_us: 0.5, topology: mesh}
  - {name: rack, resource: scale_out, domain: 6, gbyte_per_s: 12.5, latency_us: 4}
""",
    )
    cluster = parse_cluster(path)
    assert rates(cluster) == [60, 12.5]
    assert [level.latency_s for level in cluster.levels] == [0.5e-6, 4e-6]
    assert rates(parse_cluster(path, {"scale_up_gbyte_per_s": 80})) == [80, 12.5]
    for useless in ({"nic_gbit_per_s": 10}, {"oversubscription": 2}, {"scale_up_domain": 4}, {"fabric": "wan"}):
        with pytest.raises(ScenarioError, match="lists its levels"):
            parse_cluster(path, useless)


def same_machine(a: Cluster, b: Cluster) -> None:
    """Equal figure by figure (to rounding), names and sources of figures apart."""

    def check(x: Any, y: Any, path: str) -> None:
        if dataclasses.is_dataclass(x):
            for field in dataclasses.fields(x):
                if field.name not in ("sources", "price_source", "fabric"):
                    check(getattr(x, field.name), getattr(y, field.name), f"{path}.{field.name}")
        elif isinstance(x, tuple):
            assert len(x) == len(y), path
            for i, (left, right) in enumerate(zip(x, y, strict=True)):
                check(left, right, f"{path}[{i}]")
        elif isinstance(x, dict):
            assert set(x) == set(y), path
            for key in x:
                check(x[key], y[key], f"{path}.{key}")
        elif isinstance(x, float) and not math.isnan(x):
            assert y == pytest.approx(x, rel=1e-12), path
        else:
            assert x == y or (x != x and y != y), path

    check(a, b, "cluster")


@pytest.mark.parametrize("name", accelerator_names())
def test_round_trip(name: str, tmp_path: Path) -> None:
    for count, overrides in ((1, {}), (24, {"gpus_per_node": 4}), (3000, {"hbm_gbyte_per_s": 1234.5, "fabric": "wan"})):
        cluster = parse_cluster(f"{count}x{name}", overrides)
        path = tmp_path / f"{count}.yaml"
        write_cluster(cluster, path)
        same_machine(cluster, parse_cluster(path))


def test_writing_what_cannot_be_written(tmp_path: Path) -> None:
    from windtunnel.hardware import spread

    with pytest.raises(ScenarioError, match="arrays"):
        cluster_data(spread(parse_cluster("8xh100"), 0.1))
    with pytest.raises(ScenarioError, match="cannot write"):
        write_cluster(parse_cluster("8xh100"), tmp_path / "no" / "such" / "folder.yaml")


BOMB = "a: &a [x, x]\n" + "\n".join(f"{c}: &{c} [*{p}, *{p}]" for p, c in zip("abcdefgh", "bcdefghi", strict=True))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "describes no cluster"),
        ("- 1\n- 2\n", "describes no cluster"),
        ("just text", "describes no cluster"),
        ("accelerator: [unclosed", "not valid YAML"),
        ("accelerator: h100\ncount: !!python/object/apply:os.system ['true']", "not valid YAML"),
        ("a: b: c", "not valid YAML"),
        ("\t- x", "not valid YAML"),
        ("a: 2024-99-99", "not valid YAML"),
        ("a: " + "9" * 5000, "not valid YAML|unknown key"),
        ("? [a, b]\n: c", "not valid YAML"),
        (BOMB, "alias"),
        ("[" * 1000, "nested"),
        ("accelerator: h100", "count"),
        ("count: 8", "accelerator"),
        ("accelerator: h100\ncount: 8\nfabrik: wan", "did you mean fabric"),
        ("accelerator: h100\ncount: many", "count"),
        ("accelerator: h100\ncount: 8.5", "count"),
        ("accelerator: h100\ncount: true", "count"),
        ("accelerator: h100\ncount: 0", "1 to 1,000,000"),
        ("accelerator: h100\ncount: " + "9" * 60, "1 to 1,000,000|count"),
        ("accelerator: h101\ncount: 8", "h100"),
        ("accelerator: 7\ncount: 8", "accelerator"),
        ("accelerator: ''\ncount: 8", "accelerator"),
        ("accelerator: h100\ncount: 8\nnode: hgx-h10", "hgx-h100"),
        ("accelerator: h100\ncount: 8\nset: {hbm_gbps: 3}", "two ways"),
        ("accelerator: h100\ncount: 8\nset: {hbm_gbyte_per_s: .nan}", "finite"),
        ("accelerator: h100\ncount: 8\nset: {hbm_gbyte_per_s: [3]}", "set"),
        ("accelerator: h100\ncount: 8\nset: {fabric: wan}", "keys of their own"),
        ("accelerator: h100\ncount: 8\nset: 3", "set"),
        ("accelerator: h100\ncount: 8\nlevels: [{name: a}]", "levels.0"),
        ("accelerator: h100\ncount: 8\nlevels: []", "joins 1 accelerators"),
        (
            "accelerator: h100\ncount: 8\nlevels:\n"
            "- {name: a, resource: scale_up, domain: 4, gbyte_per_s: 1, latency_us: 1}",
            "joins 4 accelerators",
        ),
        (
            "accelerator: h100\ncount: 2\nlevels:\n"
            "- {name: a, resource: scale_up, domain: 4, gbyte_per_s: 1, latency_us: 1}\n"
            "- {name: b, resource: scale_out, domain: 2, gbyte_per_s: 1, latency_us: 1}",
            "innermost outward",
        ),
        (
            "accelerator: h100\ncount: 2\nlevels:\n"
            "- {name: a, resource: scale_up, domain: 4, gbyte_per_s: 0, latency_us: 1}",
            "levels.0.gbyte_per_s",
        ),
    ],
)
def test_bad_cluster_files(text: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ScenarioError, match=message) as error:
        parse_cluster(path)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


def test_files_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00\x81")
    (tmp_path / "huge.yaml").write_bytes(b"# " + b"x" * MAX_BYTES)
    for name, message in (("bytes.yaml", "not valid YAML"), ("huge.yaml", "larger than"), (".", "no file")):
        with pytest.raises(ScenarioError, match=message):
            read_user_yaml(tmp_path / name)


def test_reading_accepts_what_is_within_bounds(tmp_path: Path) -> None:
    deep = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert read_user_yaml(write(tmp_path, deep)) == yaml.safe_load(deep)
    with pytest.raises(ScenarioError, match="nested"):
        read_user_yaml(write(tmp_path, f"[{deep}]"))


@given(st.text(max_size=40) | st.from_regex(r"[0-9]{0,7}[xX][a-z0-9-]{1,12}", fullmatch=True))
def test_any_text_is_a_cluster_or_a_scenario_error(text: str) -> None:
    cluster = outcome(text)
    if isinstance(cluster, Cluster):
        assert cluster.levels[-1].domain >= cluster.count >= 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(["accelerator", "count", "node", "fabric", "set", "levels"]) | st.text(max_size=6)


@given(
    st.dictionaries(KEYS, JSON, max_size=4),
    st.booleans(),
)
def test_any_file_is_a_cluster_or_a_scenario_error(tmp_path_factory: Any, data: dict[str, Any], valid: bool) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "cluster.yaml"
    path.write_text(yaml.safe_dump({"accelerator": "h100", "count": 8, **data} if valid else data))
    assert isinstance(outcome(path), Cluster | str)
