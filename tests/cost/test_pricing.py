"""Laws of every price: physics, monotony in the machine's rates, arrays as many scalars, nothing for nothing."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel.cost import Runtime, effective_dtype, make_pricer
from windtunnel.cost.calibration import load_calibration
from windtunnel.errors import ScenarioError
from windtunnel.hardware import RESOURCES, load_accelerator, parse_cluster, scale_resource, spread
from windtunnel.ops import build
from windtunnel.ops.gradient import gradient
from windtunnel.ops.op import Op
from windtunnel.ops.tree import Node

DEVICES = (
    "v100-sxm", "a100-80gb-sxm", "h100-sxm", "h200-sxm", "b200-sxm", "l40s", "rtx-4090", "rtx-pro-6000", "mi210",
    "mi300x", "tpu-v5p", "gaudi2", "ascend-910b", "xeon-8480", "t4", "jetson-nano",
)  # fmt: skip
GENERATIONS = ("flash1", "flash2", "flash3", "eager", "trtllm")
DTYPES = ("bf16", "fp16", "fp8", "int8", "fp4", "fp32", "tf32")
CLUSTERS = {name: parse_cluster(f"8x{name}") for name in DEVICES}

sizes = st.floats(1.0, 3e4)
runtimes = st.builds(Runtime, attention=st.sampled_from(GENERATIONS), graphs=st.booleans(), sustained=st.booleans())


@st.composite
def ops(draw: st.DrawFn) -> Op:
    """One operator of any kind that kernels price, forward or backward."""
    kind = draw(st.sampled_from(("gemm", "grouped_gemm", "attention", "attention_decode", "pointwise", "scan", "copy")))
    dtype = draw(st.sampled_from(DTYPES))
    m, n, k = draw(sizes), draw(st.integers(1, 30000)), draw(st.integers(1, 30000))
    weight, act = draw(st.sampled_from((0.5, 1.0, 2.0, 4.0))), draw(st.sampled_from((1.0, 2.0, 4.0)))
    heads, size = draw(st.integers(1, 128)), draw(st.sampled_from((64, 128, 192, 576)))
    if kind == "gemm":
        op = build.gemm("x", m, n, k, dtype=dtype, weight=weight, act=act)
    elif kind == "grouped_gemm":
        experts = draw(st.integers(1, 256))
        active = experts * (1.0 - np.exp(-m / experts))
        op = build.grouped_gemm(
            "x", m, n, k, experts=experts, active=float(active), imbalance=draw(st.floats(1.0, 3.0)), dtype=dtype,
            weight=weight, act=act,
        )  # fmt: skip
    elif kind == "attention":
        op = build.attention(
            "x", tokens=m, pairs=m * draw(sizes), context=m, heads=heads, kv_heads=draw(st.integers(1, heads)),
            head_dim=size, v_head_dim=size, dtype=dtype, act=act,
        )  # fmt: skip
    elif kind == "attention_decode":
        op = build.attention_decode(
            "x", sequences=draw(st.integers(0, 512)), context=m * 10, heads=heads, kv_heads=1, head_dim=size,
            v_head_dim=size, dtype=dtype, act=act, kv_bytes_per_token=act * 2 * size,
        )  # fmt: skip
    elif kind == "pointwise":
        name = draw(st.sampled_from(("norm", "activation", "elementwise", "rope", "embedding", "softmax", "optimizer")))
        cold = draw(sizes) * n
        op = build.pointwise("x", name, reads=m * n, writes=m * n, act=act, flops=5.0 * m * n, cold_bytes=cold)
    elif kind == "scan":
        work = {"flops": m * n * 10.0, "vector_flops": m * k, "hbm_bytes": m * 64, "cached_bytes": act * m * n}
        op = Op("x", "scan", dtype=dtype, **work)
    else:
        op = build.transfer("x", "offload", pcie=m * n, nvme=m * k)
    op = op.but(host_s=draw(st.floats(0, 1e-3)), kernels=float(draw(st.integers(1, 4))))
    if kind in ("gemm", "grouped_gemm", "attention") and draw(st.booleans()):
        found = list(_leaves(gradient(op)[draw(st.integers(0, 1))]))
        op = found[0] if found else op
    return op


def _leaves(node: Node):
    if isinstance(node, Op):
        yield node
    else:
        for child in node.children:
            yield from _leaves(child)


@settings(max_examples=250, deadline=None)
@given(ops(), st.sampled_from(DEVICES), runtimes)
def test_no_price_beats_physics(op, device, runtime):
    cluster = CLUSTERS[device]
    a = cluster.accelerator
    p = make_pricer(cluster, runtime)(op)
    most = p.seconds * (1 + 1e-12)
    peak = a.peak_flops.get(effective_dtype(a, op.dtype), a.vector_flops)
    assert most >= op.flops / peak
    assert most >= op.vector_flops / a.vector_flops
    assert most >= op.hbm_bytes / a.hbm.bandwidth_bytes_per_s
    assert most >= (op.hbm_bytes + op.cached_bytes) / a.l2.bandwidth_bytes_per_s
    assert most >= op.pcie_bytes / cluster.pcie_bytes_per_s
    assert most >= op.nvme_bytes / (cluster.nvme.bandwidth_bytes_per_s / cluster.node_size)
    assert all(most >= busy >= 0 for busy in p.busy.values())
    assert most >= p.latency >= 0
    assert p.host == pytest.approx(op.host_s / cluster.host_relative_speed)


@settings(max_examples=150, deadline=None)
@given(ops(), st.sampled_from(DEVICES), runtimes, st.floats(1.0, 100.0))
def test_more_of_any_rate_is_never_slower(op, device, runtime, factor):
    cluster = CLUSTERS[device]
    before = make_pricer(cluster, runtime)(op)
    for resource in RESOURCES:
        after = make_pricer(scale_resource(cluster, resource, factor), runtime)(op)
        assert after.seconds <= before.seconds * (1 + 1e-12), resource
        assert after.host <= before.host * (1 + 1e-12)


@settings(max_examples=60, deadline=None)
@given(ops(), st.sampled_from(DEVICES), runtimes)
def test_arrays_of_rates_price_as_scalars_do(op, device, runtime):
    many = make_pricer(spread(CLUSTERS[device], 0.25), runtime)(op)
    one = make_pricer(CLUSTERS[device], runtime)(op)
    assert np.broadcast_to(many.seconds, 10)[0] == pytest.approx(one.seconds, rel=1e-12)
    for i, resource in enumerate(RESOURCES):
        single = make_pricer(scale_resource(CLUSTERS[device], resource, 1.25), runtime)(op)
        assert np.broadcast_to(many.seconds, 10)[1 + i] == pytest.approx(single.seconds, rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.lists(ops(), min_size=2, max_size=5), st.sampled_from(DEVICES), runtimes)
def test_arrays_of_shapes_price_as_scalars_do(several, device, runtime):
    """Operators of one kind and format, their quantities stacked into arrays."""
    first = several[0]
    alike = [o for o in several if (o.kind, o.dtype, set(o.shape)) == (first.kind, first.dtype, set(first.shape))]
    same = {x: first.shape[x] for x in ("weight", "act") if x in first.shape}
    alike = [o.but(shape={**o.shape, **same}) for o in alike]
    fields = ("flops", "vector_flops", "hbm_bytes", "cached_bytes", "pcie_bytes", "nvme_bytes", "kernels", "host_s")
    stacked = first.but(
        **{f: np.array([getattr(o, f) for o in alike], float) for f in fields},
        shape={
            s: first.shape[s] if s in ("weight", "act") else np.array([o.shape[s] for o in alike], float)
            for s in first.shape
        },
    )
    price = make_pricer(CLUSTERS[device], runtime)
    together, apart = price(stacked), [price(o) for o in alike]
    np.testing.assert_allclose(np.broadcast_to(together.seconds, len(alike)), [p.seconds for p in apart], rtol=1e-12)
    for resource in together.busy:
        np.testing.assert_allclose(together.busy[resource], [p.busy[resource] for p in apart], rtol=1e-12)


@given(ops(), st.sampled_from(DEVICES))
def test_no_work_costs_nothing(op, device):
    nothing = op.but(
        flops=0.0, vector_flops=0.0, hbm_bytes=0.0, cached_bytes=0.0, pcie_bytes=0.0, nvme_bytes=0.0, kernels=0.0,
        host_s=0.0,
        shape={k: v if k in ("weight", "act", "kv_heads", "imbalance") else 0.0 for k, v in op.shape.items()},
    )  # fmt: skip
    p = make_pricer(CLUSTERS[device])(nothing)
    assert p.seconds == 0
    assert p.host == 0


def test_a_graph_saves_the_gap_of_each_kernel():
    cluster = CLUSTERS["h100-sxm"]
    op = build.pointwise("x", "norm", reads=1e6, writes=1e6, act=2.0, kernels=3.0)
    gap = make_pricer(cluster)(op).seconds - make_pricer(cluster, Runtime(graphs=True))(op).seconds
    assert gap == pytest.approx(3 * cluster.accelerator.kernel_gap_s)


def test_long_runs_settle_at_lower_clocks():
    op = build.gemm("x", 8192, 8192, 8192, dtype="bf16", weight=2.0, act=2.0)
    cluster = CLUSTERS["h100-sxm"]
    burst, hours = make_pricer(cluster)(op), make_pricer(cluster, Runtime(sustained=True))(op)
    assert hours.busy["tensor"] == pytest.approx(burst.busy["tensor"] / 0.84)


def test_narrow_weights_read_less_and_compute_as_the_activations_do():
    cluster = CLUSTERS["a100-80gb-sxm"]
    price = make_pricer(cluster)
    full = price(build.gemm("x", 1, 28672, 8192, dtype="bf16", weight=2.0, act=2.0))
    int4 = price(build.gemm("x", 1, 28672, 8192, dtype="bf16", weight=0.52, act=2.0))
    assert int4.seconds < 0.4 * full.seconds
    # fp8 weights on a device without fp8 products: half the bytes, the same products as bf16.
    bf16, fp8 = (
        price(build.gemm("x", 8192, 8192, 8192, dtype=d, weight=w, act=2.0)) for d, w in (("bf16", 2.0), ("fp8", 1.0))
    )
    assert fp8.seconds == pytest.approx(bf16.seconds, rel=0.15)


def test_imbalance_slows_experts_but_adds_no_weights():
    price = make_pricer(CLUSTERS["h100-sxm"])

    def experts(imbalance: float) -> Op:
        return build.grouped_gemm(
            "x", 65536.0, 4096, 4096, experts=8, active=8.0, imbalance=imbalance, dtype="bf16", weight=2.0, act=2.0
        )

    even, skewed = price(experts(1.0)), price(experts(2.0))
    assert skewed.busy["tensor"] == pytest.approx(2 * even.busy["tensor"], rel=0.02)
    assert experts(2.0).hbm_bytes == experts(1.0).hbm_bytes


def test_tensors_that_fit_are_served_by_the_cache():
    """A chain of kernels over a few megabytes runs faster than HBM could feed it; one over gigabytes does not."""
    cluster = CLUSTERS["rtx-pro-6000"]
    price = make_pricer(cluster, Runtime(graphs=True))
    hbm = cluster.accelerator.hbm.bandwidth_bytes_per_s
    small = price(build.pointwise("x", "activation", reads=8e6, writes=8e6, act=2.0))
    large = price(build.pointwise("x", "activation", reads=8e8, writes=8e8, act=2.0))
    assert (small.seconds - small.latency) < 0.5 * 32e6 / hbm
    assert (large.seconds - large.latency) > 3.2e9 / hbm


@pytest.mark.parametrize(
    ("device", "asked", "used"),
    [
        ("a100-80gb-sxm", "fp8", "bf16"),
        ("h100-sxm", "fp4", "fp8"),
        ("h100-sxm", "mxfp4", "fp8"),
        ("b200-sxm", "nvfp4", "fp4"),
        ("v100-sxm", "bf16", "fp16"),
        ("h100-sxm", "fp8_block", "fp8"),
        ("jetson-nano", "fp32", "fp32"),
        ("p100", "tf32", "fp32"),
    ],
)
def test_formats_a_device_lacks_are_widened(device, asked, used):
    assert effective_dtype(load_accelerator(device), asked) == used


def test_unknown_names_are_refused_by_name():
    cluster = CLUSTERS["h100-sxm"]
    price = make_pricer(cluster)
    with pytest.raises(ScenarioError, match=r"operator kind 'gem'.*gemm"):
        price(Op("x", "gem"))
    with pytest.raises(ScenarioError, match="number format 'fp7'"):
        price(build.gemm("x", 8, 8, 8, dtype="fp7", weight=2.0, act=2.0))
    with pytest.raises(ScenarioError, match="attention kernel generation 'flash9'"):
        make_pricer(cluster, Runtime(attention="flash9"))


def test_a_device_without_a_cache_streams_everything():
    cluster = CLUSTERS["h100-sxm"]
    none = replace(cluster.accelerator, l2=replace(cluster.accelerator.l2, capacity_bytes=0.0))
    op = build.pointwise("x", "norm", reads=1e6, writes=1e6, act=2.0)
    p = make_pricer(replace(cluster, accelerator=none))(op)
    assert p.busy["hbm"] >= op.cached_bytes / none.hbm.bandwidth_bytes_per_s * (1 - 1e-9)


def test_a_format_with_constants_of_its_own_is_priced_with_them():
    """fp8 in blocks runs at fp8's rate, but by another kernel, and not by bf16's constants."""
    calibration = load_calibration(load_accelerator("h100-sxm"))
    slow = calibration.gemm["fp8_block"].model_copy(update={"compute": 0.01})
    changed = calibration.model_copy(update={"gemm": {**calibration.gemm, "fp8_block": slow}})
    price = make_pricer(CLUSTERS["h100-sxm"], calibration=changed)
    blocks, plain = (
        price(build.gemm("x", 8192, 8192, 8192, dtype=d, weight=1.0, act=1.0)).seconds for d in ("fp8_block", "fp8")
    )
    assert blocks > 20 * plain
