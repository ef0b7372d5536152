"""Collectives: none beats physics, formulas meet their limits, arrays are scalars, and measured rows are met."""

from __future__ import annotations

import csv
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import windtunnel.cost
from windtunnel.cost.collectives import (
    CollectiveConstants,
    least_wire_bytes,
    load_collective_constants,
    parse_collective_constants,
    price_collective,
)
from windtunnel.cost.runtime import Runtime
from windtunnel.errors import ScenarioError
from windtunnel.hardware.machine import Accelerator, Cluster, Level, Memory
from windtunnel.ops.build import COLLECTIVES, collective, wire_bytes
from windtunnel.ops.op import Group, Op, Price
from windtunnel.ops.values import Value

NONE = Memory(1.0, 1.0)
CHIP = Accelerator("any", "", "any", {}, 1.0, NONE, NONE, 1, 0.0, 1.0, 1.0)
A100 = Level("nvlink", "scale_up", 8, 300e9, 0.6e-6)
H100 = Level("nvlink", "scale_up", 8, 450e9, 0.6e-6, "switch", True)
NDR = Level("rail", "scale_out", 256, 50e9, 2.7e-6, "fat-tree")
SPINE = replace(NDR, name="spine", domain=100_000, latency_s=3.3e-6)
HOPPER = load_collective_constants("h100-sxm", "hopper")
AMPERE = load_collective_constants("a100-80gb-sxm", "ampere")
PLAIN = Runtime(in_network=False)
NCCL = Runtime()
CUSTOM = Runtime(all_reduce="custom")


def cluster(*levels: Level) -> Cluster:
    return Cluster(CHIP, 100_000, levels[0].domain, levels, 1.0, NONE, NONE, 0.0, "")


def op(kind: str, size: Value, n: Value, stride: Value = 1) -> Op:
    return collective(kind, size, Group(n, stride), "tp_comm")


def price(
    kind: str, size: Value, n: Value, machine: Cluster, *, stride: Value = 1, runtime: Runtime = NCCL,
    constants: CollectiveConstants = HOPPER,
) -> Price:  # fmt: skip
    return price_collective(op(kind, size, n, stride), machine, constants, runtime)


kinds = st.sampled_from(COLLECTIVES)
constants = st.sampled_from([HOPPER, AMPERE, load_collective_constants("", "")])
runtimes = st.builds(
    Runtime, all_reduce=st.sampled_from(["nccl", "custom"]), in_network=st.booleans(), hierarchical=st.booleans()
)
sizes = st.sampled_from([1, 2, 3, 4, 6, 8, 12, 16, 24, 64, 72, 512, 4096])
strides = st.sampled_from([1, 2, 3, 4, 8, 16, 300])
messages = st.one_of(st.just(0.0), st.floats(1.0, 1e11))


@st.composite
def machines(draw: st.DrawFn) -> Cluster:
    """One to three levels, any topology inside, a network outside that is a little to much slower."""
    topology = draw(st.sampled_from(["switch", "mesh", "ring", "torus", "pcie"]))
    inside = Level(
        "inside", "scale_up", draw(st.sampled_from([1, 2, 4, 8, 72, 256, 4096])), draw(st.floats(1e10, 1e12)),
        draw(st.floats(1e-7, 2e-6)), topology, topology == "switch" and draw(st.booleans()),
    )  # fmt: skip
    bandwidth = inside.bandwidth_bytes_per_s * draw(st.floats(0.01, 1.0))
    sharp = draw(st.booleans())
    rail = Level(
        "rail", "scale_out", inside.domain * 32, bandwidth, draw(st.floats(2e-6, 5e-5)), "fat-tree", sharp
    )  # fmt: skip
    spine = replace(rail, name="spine", domain=inside.domain * 1024, bandwidth_bytes_per_s=bandwidth / 3)
    return cluster(*[inside, rail, spine][: draw(st.integers(2 if inside.domain == 1 else 1, 3))])


class TestLaws:
    @given(kinds, messages, sizes, strides, machines(), runtimes, constants)
    def test_no_byte_travels_faster_than_its_level(self, kind, size, n, stride, machine, runtime, c):
        seconds = price(kind, size, n, machine, stride=stride, runtime=runtime, constants=c).seconds
        for level, least in least_wire_bytes(op(kind, size, n, stride), machine, runtime):
            assert seconds >= least / level.bandwidth_bytes_per_s * (1 - 1e-12)
        if not (runtime.in_network and kind == "all_reduce"):
            fastest = max(level.bandwidth_bytes_per_s for level in machine.levels)
            assert seconds >= wire_bytes(op(kind, size, n, stride)) / fastest * (1 - 1e-12)

    @given(kinds, messages, sizes, strides, machines(), runtimes, constants)
    def test_the_parts_of_a_price_fit_into_it(self, kind, size, n, stride, machine, runtime, c):
        p = price(kind, size, n, machine, stride=stride, runtime=runtime, constants=c)
        used = {
            level.resource for level, least in least_wire_bytes(op(kind, size, n, stride), machine, runtime) if least
        }
        assert 0 <= p.latency <= p.seconds
        assert all(0 <= busy <= p.seconds for busy in p.busy.values())
        assert used <= {resource for resource, busy in p.busy.items() if busy > 0}
        assert p.host == 0

    @given(kinds, messages, sizes, strides, machines(), runtimes, constants, st.integers(0, 2), st.floats(1.0, 10.0))
    def test_more_bandwidth_or_less_latency_is_never_slower(
        self, kind, size, n, stride, machine, runtime, c, which, factor
    ):
        before = price(kind, size, n, machine, stride=stride, runtime=runtime, constants=c).seconds
        i = min(which, len(machine.levels) - 1)
        level = machine.levels[i]
        for better in (
            replace(level, bandwidth_bytes_per_s=level.bandwidth_bytes_per_s * factor),
            replace(level, latency_s=level.latency_s / factor),
        ):
            faster = replace(machine, levels=(*machine.levels[:i], better, *machine.levels[i + 1 :]))
            after = price(kind, size, n, faster, stride=stride, runtime=runtime, constants=c).seconds
            assert after <= before * (1 + 1e-12)

    @given(kinds, messages, st.floats(1.0, 1e6), sizes, strides, machines(), runtimes, constants)
    def test_more_bytes_are_never_faster(self, kind, size, factor, n, stride, machine, runtime, c):
        less = price(kind, size, n, machine, stride=stride, runtime=runtime, constants=c).seconds
        more = price(kind, size * factor, n, machine, stride=stride, runtime=runtime, constants=c).seconds
        assert more >= less * (1 - 1e-12)

    @given(
        st.tuples(kinds, messages, st.sampled_from([2, 4, 8, 16, 64, 512]), st.sampled_from([1, 2, 8, 64])),
        st.sampled_from([2, 4, 8, 64]),
        runtimes,
        constants,
        st.booleans(),
        st.floats(0.02, 1.0),
    )
    def test_crossing_nodes_is_never_faster_than_staying_inside(self, call, members, runtime, c, nvls, slower):
        """Level by level apart: it has fewer hops than one ring over a huge node, where there is but one level."""
        runtime = replace(runtime, hierarchical=False)
        kind, size, n, stride = call
        inside = Level("nvlink", "scale_up", 1024, 450e9, 0.6e-6, "switch", nvls)
        network = replace(NDR, domain=100_000, bandwidth_bytes_per_s=slower * 450e9)
        node = replace(inside, domain=members)
        one = price(kind, size, n, cluster(inside), stride=stride, runtime=runtime, constants=c)
        two = price(kind, size, n, cluster(node, network), stride=stride, runtime=runtime, constants=c)
        assert two.seconds >= one.seconds * (1 - 1e-12)

    @given(kinds, messages, strides, machines(), runtimes)
    def test_a_group_of_one_is_free(self, kind, size, stride, machine, runtime):
        p = price(kind, size, 1, machine, stride=stride, runtime=runtime)
        assert (p.seconds, p.latency, dict(p.busy)) == (0.0, 0.0, {})


class TestArrays:
    @given(
        kinds, st.lists(st.tuples(messages, sizes, strides), min_size=1, max_size=6), machines(), runtimes, constants
    )
    def test_an_array_of_operators_is_its_scalars(self, kind, rows, machine, runtime, c):
        size, n, stride = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
        together = price(kind, size, n, machine, stride=stride, runtime=runtime, constants=c)
        least = least_wire_bytes(op(kind, size, n, stride), machine, runtime)
        for i, (s, k, d) in enumerate(rows):
            alone = price(kind, s, k, machine, stride=d, runtime=runtime, constants=c)
            assert _at(together.seconds, i) == pytest.approx(alone.seconds, rel=1e-12, abs=0)
            assert _at(together.latency, i) == pytest.approx(alone.latency, rel=1e-12, abs=0)
            for resource in ("scale_up", "scale_out"):
                busy = alone.busy.get(resource, 0.0)
                assert _at(together.busy.get(resource, 0.0), i) == pytest.approx(busy, rel=1e-12, abs=0)
            single = {level.name: b for level, b in least_wire_bytes(op(kind, s, k, d), machine, runtime)}
            for level, many in least:
                assert _at(many, i) == pytest.approx(single.get(level.name, 0.0), rel=1e-12, abs=0)

    @given(kinds, messages, sizes, strides, machines(), runtimes)
    def test_an_array_of_machines_is_its_scalars(self, kind, size, n, stride, machine, runtime):
        """All elasticities come from one call, in which each level's bandwidth is an array."""
        scales = np.array([[1.0, 1.1, 1.0, 0.3], [1.0, 1.0, 1.1, 2.0], [1.0, 1.0, 1.1, 0.5]])
        levels = [
            replace(level, bandwidth_bytes_per_s=level.bandwidth_bytes_per_s * scale)
            for level, scale in zip(machine.levels, scales, strict=False)
        ]
        together = price(kind, size, n, replace(machine, levels=tuple(levels)), stride=stride, runtime=runtime)
        for i in range(4):
            single = tuple(replace(v, bandwidth_bytes_per_s=float(v.bandwidth_bytes_per_s[i])) for v in levels)
            alone = price(kind, size, n, replace(machine, levels=single), stride=stride, runtime=runtime)
            assert _at(together.seconds, i) == pytest.approx(alone.seconds, rel=1e-12, abs=0)
            assert _at(together.latency, i) == pytest.approx(alone.latency, rel=1e-12, abs=0)
            assert {r for r, b in together.busy.items() if np.any(b)} >= {r for r, b in alone.busy.items() if b > 0}
            for resource, busy in alone.busy.items():
                assert _at(together.busy[resource], i) == pytest.approx(busy, rel=1e-12, abs=0)


def _at(value: Value, i: int) -> float:
    return float(value[i]) if isinstance(value, np.ndarray) and value.ndim else float(value)


class TestHugeMessages:
    """In the limit only bytes and sustained rates count."""

    SIZE = 1e15

    def rate(self, kind: str, n: int, machine: Cluster, **options: Any) -> float:
        """Bytes of the collective a second, latencies and ramps gone."""
        return self.SIZE / price(kind, self.SIZE, n, machine, **options).seconds

    @pytest.mark.parametrize(("kind", "passes"), [("all_reduce", 2), ("all_gather", 1), ("reduce_scatter", 1)])
    @pytest.mark.parametrize("n", [2, 4, 8])
    def test_a_ring_in_a_node(self, kind, passes, n):
        expected = A100.bandwidth_bytes_per_s * AMPERE.scale_up.ring * n / (passes * (n - 1) + AMPERE.own_share)
        assert self.rate(kind, n, cluster(A100), constants=AMPERE) == pytest.approx(expected, rel=1e-4)

    def test_switches_that_reduce_win_from_five_ranks_on(self):
        nvls = H100.bandwidth_bytes_per_s * HOPPER.scale_up.in_network / (1 + 1 / 8)
        assert self.rate("all_reduce", 8, cluster(H100)) == pytest.approx(nvls, rel=1e-4)
        assert self.rate("all_reduce", 8, cluster(H100), runtime=PLAIN) < nvls
        assert self.rate("all_reduce", 2, cluster(H100)) == self.rate("all_reduce", 2, cluster(H100), runtime=PLAIN)

    def test_a_ring_over_nodes_uses_every_members_port(self):
        """4 nodes of 8: 8 NICs a node carry the ring; of a group with one rank a node, only its own does."""
        nic = NDR.bandwidth_bytes_per_s * HOPPER.scale_out.ring
        machine = cluster(H100, NDR, SPINE)
        whole = 32 / (2 * 31) * min(8 * nic, 450e9 * HOPPER.scale_up.ring)
        assert self.rate("all_reduce", 32, machine, runtime=PLAIN) == pytest.approx(whole, rel=1e-2)
        assert self.rate("all_gather", 4, machine, stride=8) == pytest.approx(4 / 3 * nic, rel=1e-4)

    def test_level_by_level_adds_the_levels_up(self):
        """4 nodes of 8: scatter and gather inside, then an eighth of the bytes over each NIC."""
        machine = cluster(H100, NDR, SPINE)
        inside = 2 * 7 / 8 / (H100.bandwidth_bytes_per_s * HOPPER.scale_up.ring)
        across = 2 * 3 / 4 / 8 / (NDR.bandwidth_bytes_per_s * HOPPER.scale_out.ring)
        by_level = Runtime(in_network=False, hierarchical=True)
        pricer_rate = self.rate("all_reduce", 32, machine, runtime=by_level)
        assert pricer_rate == pytest.approx(
            max(1 / (inside + across), self.rate("all_reduce", 32, machine, runtime=PLAIN))
        )

    def test_level_by_level_has_fewer_hops(self):
        machine, by_level = cluster(H100, NDR, SPINE), Runtime(in_network=False, hierarchical=True)
        gathered = [price("all_gather", 512.0, 512, machine, runtime=r).seconds for r in (PLAIN, by_level)]
        assert gathered[1] < gathered[0] / 4
        alone = [price("all_gather", 512.0, 8, machine, runtime=r).seconds for r in (PLAIN, by_level)]
        assert alone[0] == alone[1]

    def test_sharp_sends_each_byte_once(self):
        sharp = replace(NDR, in_network_reduction=True)
        expected = NDR.bandwidth_bytes_per_s * HOPPER.scale_out.in_network
        assert self.rate("all_reduce", 32, cluster(H100, sharp), stride=8) == pytest.approx(expected, rel=1e-4)
        [(level, least)] = least_wire_bytes(op("all_reduce", 8.0, 32, 8), cluster(H100, sharp), NCCL)
        assert (level.name, least) == ("rail", 8.0)

    def test_an_exchange_sends_each_part_over_its_own_level(self):
        """64 ranks: 56 parts of 64 leave the node, whether they stay in the rail's leaf or pass the spine."""
        nic = NDR.bandwidth_bytes_per_s * HOPPER.scale_out.pairwise
        small_leaf = cluster(H100, replace(NDR, domain=32), SPINE)
        for machine in (cluster(H100, NDR, SPINE), small_leaf):
            assert self.rate("all_to_all", 64, machine) == pytest.approx(64 / 56 * nic, rel=1e-4)
        inside = 450e9 * HOPPER.scale_up.pairwise * 8 / (7 + HOPPER.pairwise_own_share)
        assert self.rate("all_to_all", 8, cluster(H100)) == pytest.approx(inside, rel=1e-4)

    def test_messages_are_paced_by_the_outermost_level(self):
        machine = cluster(H100, NDR)
        assert self.rate("send_recv", 2, machine) == pytest.approx(450e9 * HOPPER.scale_up.message, rel=1e-4)
        assert self.rate("send_recv", 2, machine, stride=8) == pytest.approx(50e9 * HOPPER.scale_out.message, rel=1e-4)

    def test_an_oversubscribed_spine_is_the_bottleneck_of_an_exchange(self):
        """512 ranks in two leaves of 256: half of a rank's bytes pass the spine, at a seventh of the rate."""
        thin = replace(SPINE, bandwidth_bytes_per_s=NDR.bandwidth_bytes_per_s / 7)
        expected = 2 * thin.bandwidth_bytes_per_s * HOPPER.scale_out.pairwise
        assert self.rate("all_to_all", 512, cluster(H100, NDR, thin)) == pytest.approx(expected, rel=1e-4)

    def test_broadcast_sends_its_whole_buffer(self):
        assert self.rate("broadcast", 8, cluster(H100)) == pytest.approx(450e9 * HOPPER.scale_up.ring, rel=1e-4)


class TestTinyMessages:
    def test_rings_grow_by_a_hop_a_rank_and_trees_by_doublings(self):
        c = AMPERE
        hop = c.scale_up.hop * A100.latency_s
        for n, hops in ((2, 2), (4, 6), (8, 12), (64, 24)):  # min(2(n-1), 2 * tree_hop * log2 n), tree_hop 2
            node = cluster(replace(A100, domain=64))
            p = price("all_reduce", 0.0, n, node, constants=c)
            assert p.seconds == p.latency == pytest.approx(c.launch_s + hops * hop, rel=1e-12)
        assert price("all_gather", 0.0, 8, cluster(A100), constants=c).seconds == pytest.approx(c.launch_s + 7 * hop)

    def test_a_ring_over_nodes_hops_mostly_inside_them(self):
        p = price("all_gather", 0.0, 32, cluster(H100, NDR))
        inside, across = HOPPER.scale_up.hop * 0.6e-6, HOPPER.scale_out.hop * 2.7e-6
        assert p.seconds == pytest.approx(HOPPER.launch_s + 28 * inside + 3 * across, rel=1e-12)

    def test_custom_kernels_serve_small_messages_and_leave_large_ones_to_nccl(self):
        node = cluster(H100)
        small = price("all_reduce", 8192.0, 8, node, runtime=CUSTOM).seconds
        assert small < 0.6 * price("all_reduce", 8192.0, 8, node).seconds
        assert price("all_reduce", 1e9, 8, node, runtime=CUSTOM).seconds == price("all_reduce", 1e9, 8, node).seconds

    def test_custom_kernels_change_from_one_shot_to_two_shot(self):
        node, c = cluster(H100), HOPPER
        hop, rate = c.scale_up.hop * 0.6e-6, 450e9 * c.scale_up.custom
        one = price("all_reduce", 4096.0, 8, node, runtime=CUSTOM).seconds
        two = price("all_reduce", 1e6, 8, node, runtime=CUSTOM).seconds
        assert one == pytest.approx(c.one_shot_s + hop + 7 * 4096 / rate, rel=1e-12)
        assert two == pytest.approx(c.two_shot_s + 7 * hop + 1.75e6 / rate, rel=1e-12)

    def test_custom_kernels_stay_inside_one_well_linked_node(self):
        across = cluster(H100, NDR)
        pcie = cluster(Level("pcie", "scale_up", 8, 32e9, 1e-6, "pcie"))
        for machine, n in ((across, 16), (pcie, 4)):
            assert price("all_reduce", 4096.0, n, machine, runtime=CUSTOM).seconds == pytest.approx(
                price("all_reduce", 4096.0, n, machine).seconds, rel=1e-12
            )
        assert (
            price("all_reduce", 4096.0, 2, pcie, runtime=CUSTOM).seconds < price("all_reduce", 4096.0, 2, pcie).seconds
        )


class TestTopologies:
    def test_a_mesh_gives_a_group_only_the_links_to_its_members(self):
        mesh = cluster(Level("fabric", "scale_up", 8, 448e9, 1e-6, "mesh"))
        switch = cluster(Level("fabric", "scale_up", 8, 448e9, 1e-6))
        size = 1e15
        for kind, n, share in (
            ("all_reduce", 8, 1),
            ("all_gather", 4, 3 / 7),
            ("all_to_all", 2, 1 / 7),
            ("send_recv", 2, 1 / 7),
        ):
            slower = price(kind, size, n, switch).seconds / price(kind, size, n, mesh).seconds
            assert slower == pytest.approx(share, rel=1e-4)

    def test_a_torus_gives_a_group_the_dimensions_it_spans(self):
        torus = cluster(Level("ici", "scale_up", 256, 200e9, 1e-6, "torus"))
        switch = cluster(Level("ici", "scale_up", 256, 200e9, 1e-6))
        size = 1e15
        for n, share in ((16, 0.5), (256, 1.0)):
            ratio = price("all_gather", size, n, switch).seconds / price("all_gather", size, n, torus).seconds
            assert ratio == pytest.approx(share, rel=1e-4)
        # 16 x 16: a random message crosses 4 + 4 links; the whole pod's links share the work.
        ratio = price("all_to_all", size, 256, torus).seconds / price("all_to_all", size, 256, switch).seconds
        assert ratio == pytest.approx(8, rel=1e-2)
        assert price("send_recv", size, 2, torus).seconds == pytest.approx(
            4 * price("send_recv", size, 2, switch).seconds, rel=1e-4
        )

    def test_a_group_that_fills_no_whole_blocks_counts_the_mean(self):
        """6 ranks of 4 a node are 3 + 3 on average."""
        machine = cluster(replace(A100, domain=4), NDR)
        [(_, inside), (_, across)] = least_wire_bytes(op("all_gather", 1.0, 6), machine, PLAIN)
        assert (inside, across) == pytest.approx((2 / 3, 1 / 2 / 3))

    def test_nodes_of_one_have_only_the_network(self):
        p = price("all_reduce", 1e9, 4, cluster(replace(A100, domain=1), NDR))
        assert set(p.busy) == {"scale_out"}


def measured_on(machine: str) -> tuple[Cluster, CollectiveConstants]:
    """The machine of a row of the data file."""
    if machine.startswith("10gbe"):
        # V100s on PCIe; one 10 Gbit/s NIC a node, shared by the GPUs in use.
        members = int(machine[-1])
        box = Level("pcie", "scale_up", members, 16e9, 1e-6, "pcie")
        ethernet = Level("ethernet", "scale_out", 4096, 1.25e9 / members, 25e-6)
        return cluster(box, ethernet), load_collective_constants("v100-pcie", "volta")
    levels = {"a100": (A100,), "h100": (H100,), "h100-ndr": (H100, NDR), "ndr-pair": (replace(H100, domain=1), NDR)}
    return cluster(*levels[machine]), AMPERE if machine == "a100" else HOPPER


class TestMeasured:
    """Rows of measured data sets, in tests/cost/data/collectives.csv with the source of each."""

    @pytest.mark.parametrize(
        ("machine", "kinds", "bound"),
        [
            ("a100", ["all_reduce"], 0.10),
            ("a100", ["all_gather", "reduce_scatter"], 0.10),
            ("a100", ["all_to_all"], 0.12),
            ("h100", ["all_reduce"], 0.10),
            ("h100", ["all_gather", "reduce_scatter"], 0.10),
            ("h100", ["all_to_all"], 0.20),
            ("h100-ndr", ["all_to_all"], 0.08),
            ("ndr-pair", ["send_recv"], 0.10),
            ("10gbe", ["all_reduce", "all_gather", "reduce_scatter"], 0.15),
        ],
    )
    def test_median_error(self, machine, kinds, bound):
        errors = []
        with (Path(__file__).parent / "data/collectives.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                if row["machine"] not in (machine, f"{machine}-1", f"{machine}-2", f"{machine}-4"):
                    continue
                if row["kind"] in kinds:
                    where, c = measured_on(row["machine"])
                    runtime = Runtime(all_reduce=row["all_reduce"])
                    p = price(row["kind"], float(row["bytes"]), int(row["n"]), where, constants=c, runtime=runtime)
                    errors.append(abs(p.seconds / (float(row["microseconds"]) * 1e-6) - 1))
        assert len(errors) >= 10
        assert median(errors) < bound


class TestConstants:
    FILE = Path(windtunnel.cost.__path__[0]) / "calibrations/collectives.yaml"

    def section(self) -> dict[str, Any]:
        return deepcopy(yaml.safe_load(self.FILE.read_text())["collectives"])

    def test_a_device_falls_back_on_its_family_and_then_on_the_generic_entry(self):
        section = self.section()
        section["same_as"]["h100-pcie"] = "generic"
        assert load_collective_constants("h100-pcie", "hopper").name == "hopper"
        assert load_collective_constants("h100-pcie", "hopper", section).name == "generic"
        assert load_collective_constants("gb200", "blackwell").name == "hopper"
        assert load_collective_constants("unheard-of", "unheard-of").name == "generic"

    def test_every_entry_says_where_it_comes_from(self):
        for entry in parse_collective_constants(self.section()).values():
            assert entry.source
            assert entry.points > 50
            assert 0 < entry.median_error < entry.p90_error
            assert all(link.source for link in (entry.scale_up, entry.pcie, entry.scale_out))

    @pytest.mark.parametrize(
        ("path", "value", "message"),
        [
            (("entries", "hopper", "scale_up", "ring"), 1.2, "'hopper'.*at most 1"),
            (("entries", "hopper", "scale_up", "ring"), "fast", "figure"),
            (("entries", "ampere", "launch_s"), -1e-6, "'ampere'.*at least 0"),
            (("entries", "ampere", "lunch_s"), 1e-6, "lunch_s"),
            (("links", "pcie"), None, "figure"),
            (("links", "scale_out", "hop"), float("nan"), "at least 0"),
            (("same_as", "blackwell"), "hoper", "hoper"),
        ],
    )
    def test_impossible_figures_are_refused_in_one_line(self, path, value, message):
        section = self.section()
        inner = section
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value
        with pytest.raises(ScenarioError, match=message) as error:
            parse_collective_constants(section)
        assert "\n" not in str(error.value)

    def test_the_generic_entry_is_needed(self):
        section = self.section()
        del section["entries"]["generic"]
        with pytest.raises(ScenarioError, match="'generic' is needed"):
            parse_collective_constants(section)


class TestErrors:
    def test_an_unknown_kind_is_named_with_the_known_ones(self):
        with pytest.raises(ScenarioError, match=r"all_redduce.*all_reduce"):
            price_collective(Op("x", "all_redduce", group=Group(2)), cluster(H100), HOPPER, NCCL)

    def test_a_collective_needs_a_group(self):
        with pytest.raises(ScenarioError, match="'x' names no group"):
            price_collective(Op("x", "all_reduce"), cluster(H100), HOPPER, NCCL)

    @pytest.mark.parametrize("group", [Group(8, 0), Group(np.array([0.0, 2.0]), 1)])
    def test_sizes_and_strides_start_at_one(self, group):
        with pytest.raises(ScenarioError, match="at least 1"):
            price_collective(Op("x", "all_reduce", message_bytes=1.0, group=group), cluster(H100), HOPPER, NCCL)

    def test_several_ranks_need_a_level(self):
        with pytest.raises(ScenarioError, match="needs an interconnect"):
            price("all_reduce", 1.0, 2, replace(cluster(H100), levels=()))
