"""Prices against a few measured kernels of each family (sources in the table); larger tables are for ``validate``."""

import csv
from collections import defaultdict
from pathlib import Path
from statistics import median

import pytest

from windtunnel.cost import Runtime, make_pricer
from windtunnel.hardware import parse_cluster
from windtunnel.ops import build
from windtunnel.ops.op import Op

ROWS = list(csv.DictReader((Path(__file__).parent / "data" / "measured_kernels.csv").open()))
SERVING = Runtime(attention="flash3", graphs=True)
PRICERS = {device: make_pricer(parse_cluster(f"1x{device}"), SERVING) for device in {r["device"] for r in ROWS}}


def _op(row: dict[str, str]) -> Op:
    f = {k: float(v) for k, v in row.items() if v and k not in ("device", "kernel", "dtype", "source")}
    kernel, dtype = row["kernel"], row["dtype"]
    if kernel == "gemm":
        return build.gemm("x", f["m"], f["n"], f["k"], dtype=dtype, weight=f["weight"], act=2.0)
    if kernel == "grouped_gemm":
        g = f["groups"]
        return build.grouped_gemm(
            "x", f["m"], f["n"], f["k"], experts=g, active=g, imbalance=1.0, dtype=dtype, weight=f["weight"], act=2.0
        )
    common = {k: f[k] for k in ("context", "heads", "kv_heads", "head_dim") if k in f} | {"dtype": dtype, "act": 2.0}
    if kernel == "attention":
        return build.attention("x", tokens=f["tokens"], pairs=f["pairs"], v_head_dim=f["head_dim"], **common)
    if kernel == "attention_decode":
        size = 4.0 * f["kv_heads"] * f["head_dim"]
        return build.attention_decode(
            "x", sequences=f["sequences"], v_head_dim=f["head_dim"], kv_bytes_per_token=size, **common
        )
    return Op("x", kernel, cached_bytes=f["bytes"])


@pytest.mark.parametrize(
    ("kernel", "at_most"),
    [
        ("gemm", 0.12),
        ("attention", 0.15),
        ("attention_decode", 0.15),
        ("grouped_gemm", 0.15),
        ("activation", 0.08),
        ("elementwise", 0.08),
    ],
)
def test_median_error_of_a_kernel_family(kernel, at_most):
    errors = defaultdict(list)
    for row in ROWS:
        if row["kernel"] == kernel:
            errors[row["device"]].append(abs(PRICERS[row["device"]](_op(row)).seconds / float(row["seconds"]) - 1))
    pooled = [e for each in errors.values() for e in each]
    assert median(pooled) <= at_most
    assert max(median(each) for each in errors.values()) <= 2.5 * at_most


def test_every_row_names_its_source():
    assert all(row["source"] for row in ROWS)
    assert len(ROWS) > 50
