"""The recipes for an operator and a collective work as they are written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import find

Follow = Callable[[str], Any]

# Rows sorted by their expert, a pass over the keys for each of their bytes.
SORT = '''

def sort(name: str, rows: Value, **extra: Any) -> Op:
    """A radix sort of ``rows`` pairs of a key and an index, four bytes each."""
    passes = 2.0
    shape = {"rows": rows}
    return Op(name, "sort", cached_bytes=16.0 * rows * passes, kernels=passes, shape=shape, **{"adjoint": (), **extra})
'''
SORT_KERNEL = '''"""Sorting kernels."""

from __future__ import annotations

from collections.abc import Mapping

from windtunnel.cost.calibration import Sort
from windtunnel.cost.kernels import Kernel, Rates, smooth_max
from windtunnel.ops.op import Op, Price


def sort_kernel(rates: Rates, table: Mapping[str, Sort]) -> Kernel:
    """Prices ``sort`` operators, whose scattered writes reach a part of each memory's rate."""
    c = table["default"]
    hbm_s, l2_s = 1.0 / (c.scatter * rates.hbm), 1.0 / (c.scatter * rates.l2)

    def price(op: Op) -> Price:
        hbm = rates.from_memory(op.hbm_bytes, op.cached_bytes) * hbm_s
        l2 = (op.hbm_bytes + op.cached_bytes) * l2_s
        latency = rates.launch(op, c.fixed_s)
        return Price(latency + smooth_max(2, hbm, l2), {"hbm": hbm, "l2": l2}, latency, rates.issue(op))

    return price
'''
SORTED_LAYER = '''

_unsorted = moe_layer


def moe_layer(moe: MoE, tokens: Value, style: Style) -> Node:  # noqa: F811
    """The same with rows counted and sorted by expert first."""
    rows = tokens * moe.top_k
    count = pointwise("moe.count", "histogram", reads=rows, writes=0.0, act=4.0, adjoint=())
    return seq(count, build.sort("moe.sort", rows), _unsorted(moe, tokens, style))


from windtunnel.ops import build  # noqa: E402
'''
SORT_CONSTANTS = '''class Sort(_Entry):
    """Sorting by key: ``scatter``, the fraction of a memory's bandwidth that scattered writes reach."""

    fixed_s: Seconds
    scatter: Fraction


class Copy(_Entry):
'''


def test_an_operator(follow: Follow, tmp_path: Path) -> None:
    shop = follow("An operator")
    cost = "src/windtunnel/cost"
    shop.append("src/windtunnel/ops/build.py", SORT)
    shop.create(f"{cost}/sort.py", SORT_KERNEL)
    shop.change(f"{cost}/pricing.py", '        "host": host_kernel(rates),\n',
                '        "host": host_kernel(rates),\n        "sort": sort_kernel(rates, c.sort),\n')  # fmt: skip
    shop.change(f"{cost}/pricing.py", "from windtunnel.cost.stream import",
                "from windtunnel.cost.sort import sort_kernel\nfrom windtunnel.cost.stream import")  # fmt: skip
    shop.change(f"{cost}/calibration.py", "class Copy(_Entry):\n", SORT_CONSTANTS)
    shop.change(f"{cost}/calibration.py", "    scan: dict[str, Scan]\n",
                "    scan: dict[str, Scan]\n    sort: dict[str, Sort]\n")  # fmt: skip
    shop.change(f"{cost}/calibrations/generic.yaml", "kernels:\n",
                'kernels:\n  sort:\n    default: {fixed_s: 4.0e-6, scatter: 0.3, source: "a test"}\n')  # fmt: skip
    # A second one, bound by bandwidth alone.
    shop.change(f"{cost}/stream.py", '"quantize", "none",', '"quantize", "none", "histogram",')
    shop.change(f"{cost}/calibrations/generic.yaml", "  pointwise:\n",
                '  pointwise:\n    histogram: {fixed_s: 9.0e-6, bandwidth: 0.5, source: "a test"}\n')  # fmt: skip
    shop.append("src/windtunnel/parallel/feedforward.py", SORTED_LAYER)
    laws = "tests/cost/test_pricing.py"
    shop.change(laws, '"pointwise", "scan", "copy")', '"pointwise", "scan", "copy", "sort")')
    shop.change(laws, '    if kind == "gemm":\n',
                '    if kind == "sort":\n        op = build.sort("x", m)\n    elif kind == "gemm":\n')  # fmt: skip
    slow = tmp_path / "slow.yaml"
    slow.write_text("kernels: {sort: {default: {fixed_s: 1.0e-4}}}\n")
    with shop.opened() as wt:
        tests = shop.load(laws)
        op = find(tests.ops(), lambda op: op.kind == "sort")
        for device in ("h100-sxm", "rtx-4090", "xeon-8480"):
            runtime = tests.Runtime()
            shop.law(tests.test_no_price_beats_physics, op, device, runtime)
            shop.law(tests.test_more_of_any_rate_is_never_slower, op, device, runtime, 3.0)
            shop.law(tests.test_arrays_of_rates_price_as_scalars_do, op, device, runtime)

        request: dict[str, Any] = {"on": "8xh100-sxm", "ep": 4, "seq": 4096, "micro_batch": 2, "zero": 1}
        step = wt.train("qwen1.5-moe-a2.7b", **request)
        by_kind = step.tree.by_kind()
        assert by_kind["sort"] > 0
        assert by_kind["histogram"] > 0
        assert sum(by_kind.values()) == pytest.approx(step.step_time_s)
        assert sum(step.time_s.values()) == pytest.approx(step.step_time_s)
        slower = wt.train("qwen1.5-moe-a2.7b", **request, calibration=str(slow))
        assert slower.tree.by_kind()["sort"] > 5 * by_kind["sort"]
        batch = wt.infer("qwen1.5-moe-a2.7b", on="1xh100-sxm", batch=8)
        assert batch.decode.time_s["sort"] > 24 * 2 * 4e-6  # two launches in each of 24 layers


GATHER = '''    def direct(self) -> Price:
        """Everyone sends its part to one, whose port takes them all in."""
        part = self.sent / self.size
        fixed: Value = self.constants.pairwise_launch_s
        amounts = []
        for span, link in zip(self.path, self.links, strict=True):
            amounts.append(part * (span.outer - span.inner) * dilation(span))
            fixed = fixed + outermost(span, self.size) * link.message_hop * span.level.latency_s
        passing = through_ports(self.path, amounts, total)
        wires = [b / k.pairwise * unit for b, k, unit in zip(passing, self.links, self.units, strict=True)]
        return self._price(fixed, wires, part * (self.size - 1) / self.port_link.pairwise, True)

    def send_recv(self) -> Price:
'''


def test_a_collective(follow: Follow) -> None:
    shop = follow("A collective")
    build, cost = "src/windtunnel/ops/build.py", "src/windtunnel/cost"
    shop.change(build, '"broadcast", "send_recv")', '"broadcast", "send_recv", "gather")')
    shop.change(build, '"reduce_scatter", "all_to_all"):', '"reduce_scatter", "all_to_all", "gather"):')
    shop.change(f"{cost}/collectives.py", "    def send_recv(self) -> Price:\n", GATHER)
    shop.change(f"{cost}/collectives.py", '    elif op.kind == "send_recv":\n',
                '    elif op.kind == "gather":\n        ways = [pricer.direct()]\n'
                '    elif op.kind == "send_recv":\n')  # fmt: skip
    shop.change(f"{cost}/topology.py", '    if kind == "all_to_all":\n', '    if kind in ("all_to_all", "gather"):\n')
    # Logits are wanted by the rank that samples.
    shop.change("src/windtunnel/parallel/block.py", 'whole = collective("all_gather"', 'whole = collective("gather"')
    with shop.opened() as wt:
        tests = shop.load("tests/cost/test_collectives.py")
        laws, inside, network = tests.TestLaws(), tests.cluster(tests.H100), tests.cluster(tests.H100, tests.NDR)
        assert "gather" in tests.COLLECTIVES
        for machine, ranks, stride in ((inside, 8, 1), (network, 64, 1), (network, 16, 8), (network, 1, 1)):
            for size in (0.0, 1e3, 1e9):
                call = (laws, "gather", size, ranks, stride, machine, tests.NCCL, tests.HOPPER)
                shop.law(tests.TestLaws.test_no_byte_travels_faster_than_its_level, *call)
                shop.law(tests.TestLaws.test_the_parts_of_a_price_fit_into_it, *call)
                shop.law(tests.TestLaws.test_more_bandwidth_or_less_latency_is_never_slower, *call, 0, 2.0)
        # One rank takes in what in an all-to-all every rank does.
        assert tests.price("gather", 1e10, 8, inside).seconds == pytest.approx(
            tests.price("all_to_all", 1e10, 8, inside).seconds, rel=0.1
        )

        from windtunnel.hardware import parse_cluster
        from windtunnel.ops.build import wire_bytes
        from windtunnel.ops.rewrite import operators

        batch = wt.infer("llama-3.1-8b", on="8xh100-sxm", tp=8, batch=64)
        assert batch.decode.time_s["gather"] > 0
        assert "all_gather" not in batch.decode.time_s
        evaluation = batch.tree["decode"]
        sent = [op for op in operators(evaluation.tree) if op.kind == "gather"]
        assert [op.name for op in sent] == ["logits.gather"]
        rate = parse_cluster("8xh100-sxm").levels[0].bandwidth_bytes_per_s
        assert evaluation.op_price(sent[0]).seconds > wire_bytes(sent[0]) / rate > 0
