"""Fits src/windtunnel/cost/calibrations/collectives.yaml to measured collectives and prints the errors.

    python scripts/fit_collectives.py --data DIR [--write]

DIR holds the measured data: folders k1_aiconfigurator, k2_vidur, t5_vtrain, s3_apex_plus, h1_hardware and
s9_amd_sglang_deepep. The model fitted is the package's own price_collective. A fifth of each data set, in blocks of
sizes, is held out of the fits and its errors are printed. Residuals are ln(predicted/measured) under a soft L1 loss;
each (data set, device, kind, group size) weighs the same, however many rows it has. Needs scipy and pandas, a minute
and one core.
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import least_squares

from windtunnel.cost.collectives import CollectiveConstants, LinkConstants, price_collective
from windtunnel.cost.runtime import Runtime
from windtunnel.hardware.machine import Accelerator, Cluster, Level, Memory
from windtunnel.ops.build import collective
from windtunnel.ops.op import Group

TARGET = Path(__file__).parents[1] / "src/windtunnel/cost/calibrations/collectives.yaml"
KINDS = {"alltoall": "all_to_all", "sendrecv": "send_recv"}
RINGS = ("all_reduce", "all_gather", "reduce_scatter")
UNUSED = Memory(1.0, 1.0)
NCCL = Runtime()
ANY = Accelerator("any", "", "any", {}, 1.0, UNUSED, UNUSED, 1, 0.0, 1.0, 1.0)

# Nominal bandwidths and latencies as in the hardware catalogue: NVLink 3 and 4 per direction, PCIe x16, a 400 Gbit/s
# NIC a GPU; hop latencies of the LL protocol from NCCL's src/graph/tuning.cc (0.6 NVLink, 1.0 PCIe, 2.7 us network).
A100 = (Level("nvlink", "scale_up", 8, 300e9, 0.6e-6),)
H100 = (Level("nvlink", "scale_up", 8, 450e9, 0.6e-6, "switch", True),)
V100 = (Level("nvlink", "scale_up", 8, 150e9, 0.6e-6, "mesh"),)
L40S = (Level("pcie", "scale_up", 8, 32e9, 1e-6, "pcie"),)
PCIE3 = (Level("pcie", "scale_up", 4, 16e9, 1e-6, "pcie"),)
NDR = Level("rail", "scale_out", 4096, 50e9, 2.7e-6, "fat-tree")


def machine(levels: Sequence[Level]) -> Cluster:
    return Cluster(ANY, 8, 8, tuple(levels), 1.0, UNUSED, UNUSED, 0.0, "")


@dataclass(frozen=True)
class DataSet:
    """Rows (kind, n, stride, bytes, seconds) measured on one machine under one runtime; ``fit`` names the fits."""

    name: str
    device: str
    rows: pd.DataFrame
    levels: tuple[Level, ...]
    runtime: Runtime = NCCL
    fit: tuple[str, ...] = ()


def table(rows: Sequence[tuple[str, float, float, float, float]]) -> pd.DataFrame:
    columns = {"kind": str, "n": float, "stride": float, "bytes": float, "seconds": float}
    return pd.DataFrame(rows, columns=list(columns)).astype(columns)


def spread(frame: pd.DataFrame, by: Sequence[str], column: str, count: int = 40) -> pd.DataFrame:
    """About ``count`` rows of each group, evenly spread over the logarithm of ``column``."""

    def pick(g: pd.DataFrame) -> pd.DataFrame:
        wanted = np.geomspace(g[column].min(), g[column].max(), count)
        return g.iloc[sorted({int(np.abs(g[column].to_numpy() - w).argmin()) for w in wanted})]

    return pd.concat([pick(g) for _, g in frame.groupby(list(by))])


def aiconfigurator(folder: Path) -> Iterator[DataSet]:
    levels = {"a100_sxm": A100, "h100_sxm": H100, "h200_sxm": H100, "l40s": L40S}
    fits = {"a100_sxm": ("ampere", "generic"), "h100_sxm": ("hopper", "generic"), "h200_sxm": ("hopper", "generic")}
    nccl = pd.read_csv(folder / "nccl_half.csv")
    for system, g in nccl.groupby("system"):
        two = g[g.num_gpus == 2]
        bad_host = {" 2 GPUs": two, " 4-8 GPUs (bad host)": g.drop(two.index)}
        for label, part in bad_host.items() if system == "l40s" else [("", g)]:
            rows = [(KINDS.get(r.op_name, r.op_name), r.num_gpus, 1, r.message_bytes, r.latency_ms / 1e3)
                    for r in part.itertuples()]  # fmt: skip
            fit = ("l40s",) if label == " 2 GPUs" else fits.get(system, ())
            yield DataSet("k1 NCCL" + label, system, table(rows), levels[system], fit=fit)
    custom = pd.read_csv(folder / "custom_allreduce_bf16.csv")
    for (system, source), g in custom.groupby(["system", "kernel_source"]):
        if source.endswith("eager"):
            continue  # launched from Python one by one: the host's time, which the tunnel prices by itself
        if system == "l40s":
            g = g[g.num_gpus == 2]
        rows = [("all_reduce", r.num_gpus, 1, r.message_bytes, r.latency_ms / 1e3) for r in g.itertuples()]
        fit = fits.get(system, ()) if source.endswith("graph") else ("l40s",) if system == "l40s" else ()
        yield DataSet(f"k1 {source}", system, table(rows), levels[system], Runtime(all_reduce="custom"), fit)
    deepep = pd.read_csv(folder / "deepep_dispatch_combine.csv")
    deepep = deepep[(deepep["mode"] == "ll") & (deepep.node_num > 1) & (deepep.system == "h100_sxm")]
    rows = []
    for r in deepep.itertuples():
        # Low-latency mode sends every token to each of its experts by itself: fp8 with a scale per 128, back in bf16.
        sent = r.num_token * r.num_topk * r.hidden_size
        rows.append(("all_to_all", 8 * r.node_num, 1, sent * (1 + 4 / 128), r.dispatch_us / 1e6))
        rows.append(("all_to_all", 8 * r.node_num, 1, sent * 2, r.combine_us / 1e6))
    yield DataSet("k1 DeepEP low latency", "h100_sxm", table(rows), (*H100, NDR), fit=("scale_out",))


def vidur(folder: Path) -> Iterator[DataSet]:
    for device, levels, nic in (("a100", A100, 25e9), ("h100", H100, 50e9)):
        for kind, name in (("send_recv", "send_recv"), ("all_reduce", "all_reduce")):
            d = pd.read_csv(folder / f"{name}_{device}_dgx.csv")
            d = spread(d, ["num_workers", "devices_per_node"], "size_bytes")
            inside = d.num_workers == d.devices_per_node
            family = "ampere" if device == "a100" else "hopper"
            local = d[inside]
            if kind == "all_reduce":
                local = local[local.size_bytes >= 16e6]  # smaller ones show the host's launches
            rows = [(kind, r.num_workers, 1, r.size_bytes, r.latency_ms / 1e3) for r in local.itertuples()]
            fit = (family, "generic") if kind == "send_recv" else ()
            yield DataSet(f"k2 {kind}" + (" >= 16 MB" if kind == "all_reduce" else ""), device, table(rows), levels,
                          fit=fit)  # fmt: skip
            for members, g in d[~inside].groupby("devices_per_node"):
                rows = [(kind, r.num_workers, 1, r.size_bytes, r.latency_ms / 1e3) for r in g.itertuples()]
                node = (replace(levels[0], domain=int(members)), replace(NDR, bandwidth_bytes_per_s=nic))
                fit = ("scale_out",) if (device, kind) == ("h100", "send_recv") else ()
                yield DataSet(f"k2 {kind} between nodes of {members}", device, table(rows), node, fit=fit)


def apex(folder: Path) -> Iterator[DataSet]:
    d = pd.read_csv(folder / "collectives.csv")
    d = d[(d.dtype == "half") & (d.size_kb > 0)]
    for gpu, name, fits in (("H100-SXM-80GB", "h100", ("hopper", "generic")), ("H200", "h200", ("hopper", "generic"))):
        g = d[d.gpu == gpu]
        rows = [(KINDS.get(r.op, r.op), r.num_gpus_per_node, 1, r.size_kb * 1024, r.time_us / 1e6)
                for r in g.itertuples()]  # fmt: skip
        yield DataSet("s3 NCCL", name, table(rows), H100, fit=fits)
    old = d[d.gpu == "V100-PCIE-16GB"]
    for (nodes, members), g in old.groupby(["num_nodes", "num_gpus_per_node"]):
        # The NIC is taken as one of 10 Gbit/s a node (a message reaches 1.19 GB/s), shared by the GPUs in use.
        ethernet = Level("ethernet", "scale_out", 4096, 1.25e9 / members, 25e-6)
        local = replace(PCIE3[0], domain=int(members))
        rows = [(KINDS.get(r.op, r.op), r.num_gpus_per_node * r.num_nodes, 1, r.size_kb * 1024, r.time_us / 1e6)
                for r in g.itertuples()]  # fmt: skip
        if nodes == 1:
            yield DataSet(f"s3 NCCL, {members} GPUs in a PCIe box", "v100-pcie", table(rows), (local,), fit=("pcie",))
        else:
            rings = table([r for r in rows if r[3] >= 32e6 and r[0] in RINGS])
            yield DataSet(f"s3 NCCL {nodes}x{members} over 10 GbE, >= 32 MB", "v100-pcie", rings, (local, ethernet),
                          fit=("ethernet",))  # fmt: skip


def others(folder: Path) -> Iterator[DataSet]:
    d = pd.read_csv(folder / "t5_vtrain/nccl_allreduce_lut.csv")
    for gpu, levels in (("a100", A100), ("v100", V100)):
        g = spread(d[d.gpu == gpu], ["n_gpus"], "size_bytes")
        rows = [("all_reduce", r.n_gpus, 1, r.size_bytes, r.time_ns / 1e9) for r in g.itertuples()]
        yield DataSet("t5 NCCL", gpu, table(rows), levels, fit=("ampere", "generic") if gpu == "a100" else ())
    h = pd.read_csv(folder / "h1_hardware/nccl_busbw_vs_size_ml_engineering.csv")
    h = h[h.section == "Real network throughput"]
    units = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
    rows = []
    for r in h.itertuples():
        size = float(r.payload[:-3]) * units[r.payload[-3:]]
        rows.append(("all_reduce", 8, 1, size, size * 1.75 / (r.busbw_gbps * 1e9)))
    yield DataSet("h1 ml-engineering", "h200", table(rows), H100)
    s = pd.read_csv(folder / "s9_amd_sglang_deepep/deepep_bandwidth_latency.csv")
    s = s[(s["mode"] == "low_latency") & (s.ep_size > 8)]
    rows = []
    for r in s.itertuples():
        sent = 128 * 8 * 7168 * ((1 + 4 / 128) if r.op == "dispatch" else 2)
        rows.append(("all_to_all", r.ep_size, 1, sent, r.latency_us / 1e6))
    h800 = replace(H100[0], bandwidth_bytes_per_s=200e9)
    yield DataSet("s9 DeepEP low latency", "h800", table(rows), (h800, NDR))


START_LINK = LinkConstants(0.8, 0.8, 0.8, 0.6, 0.6, 1.4, 1.4, 0.5, 1e-5, 1e-5)
START = CollectiveConstants(
    "", START_LINK, START_LINK, START_LINK, 5e-6, 5e-6, 1e-5, 4e-6, 5e-6, 0.4, 0.2, 2.0, 0.92, "", 0, 0.0, 0.0
)
BOUNDS = {
    **dict.fromkeys(("ring", "pairwise", "message", "in_network", "custom"), (0.05, 1.0)),
    **dict.fromkeys(("hop", "message_hop", "doubling"), (0.1, 10.0)),
    **dict.fromkeys(("ramp_s", "pairwise_ramp_s"), (1e-8, 1e-3)),
    **dict.fromkeys(("launch_s", "pairwise_launch_s", "in_network_launch_s", "one_shot_s", "two_shot_s"), (1e-6, 1e-4)),
    **dict.fromkeys(("own_share", "pairwise_own_share"), (0.01, 1.0)),
    "gap_s": (1e-6, 1e-4),
}


def predict(c: CollectiveConstants, data: DataSet, rows: pd.DataFrame) -> np.ndarray:
    result = np.empty(len(rows))
    for kind in rows.kind.unique():
        at = (rows.kind == kind).to_numpy()
        g = rows[at]
        group = Group(g.n.to_numpy(float), g.stride.to_numpy(float))
        op = collective(kind, g.bytes.to_numpy(float), group, "any")
        result[at] = price_collective(op, machine(data.levels), c, data.runtime).seconds
    return result


def held_out(data: DataSet) -> np.ndarray:
    """A fifth of a data set's blocks, the same in every run: all sizes within a factor of four, by kind and ranks."""
    rows = data.rows
    blocks = zip(rows.kind, rows.n, np.floor(np.log2(rows.bytes) / 2), strict=True)
    return np.array([zlib.crc32(f"{data.name} {data.device} {block}".encode()) % 5 == 0 for block in blocks], bool)


def fit(
    name: str,
    data: Sequence[DataSet],
    start: CollectiveConstants,
    link: str,
    free: Sequence[str],
    tied: Callable[[CollectiveConstants], CollectiveConstants] = lambda c: c,
) -> CollectiveConstants:
    """``start`` with the constants ``free`` (of its link ``link``, or its own) fitted to the data sets of ``name``.

    ``gap_s``, where free, is what t5's figures hold on top: the host's launch of each call.
    """
    chosen = [(d, d.rows[~held_out(d)].reset_index(drop=True)) for d in data if name in d.fit]
    of_link = set(asdict(START_LINK))

    def build(x: np.ndarray) -> tuple[CollectiveConstants, float]:
        values = dict(zip(free, np.exp(x).tolist(), strict=True))
        gap = values.pop("gap_s", 0.0)
        own = {k: v for k, v in values.items() if k not in of_link}
        linked = {k: v for k, v in values.items() if k in of_link}
        return tied(replace(start, **own, **{link: replace(getattr(start, link), **linked)})), gap

    def residuals(x: np.ndarray) -> np.ndarray:
        c, gap = build(x)
        parts = []
        for d, rows in chosen:
            weight = 1 / np.sqrt(rows.groupby(["kind", "n"]).bytes.transform("size").to_numpy())
            seconds = predict(c, d, rows) + (gap if d.name.startswith("t5") else 0.0)
            parts.append(np.log(seconds / rows.seconds.to_numpy()) * weight)
        return np.concatenate(parts)

    begin = {**asdict(start), **asdict(getattr(start, link)), "gap_s": 2e-5}
    low, high = (np.log([BOUNDS[k][i] for k in free]) for i in (0, 1))
    x0 = np.clip(np.log([begin[k] for k in free]), low + 1e-6, high - 1e-6)
    found = least_squares(residuals, x0, bounds=(low, high), loss="soft_l1", f_scale=0.03)
    result, gap = build(found.x)
    errors = np.concatenate([np.abs(predict(result, d, d.rows[held_out(d)]) / d.rows[held_out(d)].seconds - 1)
                             for d, _ in chosen if not d.name.startswith("t5")])  # fmt: skip
    if gap:
        print(f"{name}: t5 has {gap * 1e6:.0f} us of host time a call")
    points = sum(len(rows) for _, rows in chosen)
    return replace(
        result, points=points, median_error=float(np.median(errors)), p90_error=float(np.quantile(errors, 0.9))
    )


def fit_all(data: Sequence[DataSet]) -> dict[str, CollectiveConstants]:
    nvlink = ["launch_s", "pairwise_launch_s", "one_shot_s", "two_shot_s", "own_share", "pairwise_own_share", "ring",
              "pairwise", "message", "custom", "hop", "doubling", "ramp_s", "pairwise_ramp_s"]  # fmt: skip
    switch = ["in_network_launch_s", "in_network"]

    def one_hop(c: CollectiveConstants) -> CollectiveConstants:
        """Inside a node a message's hop cannot be told from its launch."""
        return replace(c, scale_up=replace(c.scale_up, message_hop=c.scale_up.hop))

    hopper = fit("hopper", data, START, "scale_up", nvlink + switch, one_hop)
    ampere = fit("ampere", data, hopper, "scale_up", [*nvlink, "gap_s"], one_hop)
    generic = fit("generic", data, hopper, "scale_up", [*nvlink, *switch, "gap_s"], one_hop)

    def two_rates(c: CollectiveConstants) -> CollectiveConstants:
        link = replace(c.pcie, message_hop=c.pcie.hop, message=c.pcie.pairwise, in_network=c.pcie.ring)
        return replace(c, pcie=link if c.name == "l40s" else replace(link, custom=link.ring))

    of_pcie = ["ring", "pairwise", "hop", "doubling", "ramp_s", "pairwise_ramp_s"]
    pcie = fit("pcie", data, generic, "pcie", of_pcie, two_rates)
    l40s = fit("l40s", data, replace(pcie, name="l40s"), "pcie", [*of_pcie, "custom"], two_rates)
    hop = max(hopper.scale_up.hop, ampere.scale_up.hop)
    start = replace(generic.scale_up, hop=hop, message_hop=4.0, doubling=1.0)
    out = replace(hopper, pcie=pcie.pcie, scale_out=start)
    out = fit(
        "scale_out", data, out, "scale_out", ["pairwise", "message", "message_hop", "doubling", "pairwise_ramp_s"]
    )

    def same(c: CollectiveConstants) -> CollectiveConstants:
        ring = c.scale_out.ring
        return replace(c, scale_out=replace(c.scale_out, in_network=ring, custom=ring))

    ether = fit("ethernet", data, replace(out, scale_up=generic.scale_up, launch_s=generic.launch_s), "scale_out",
                ["ring"], same)  # fmt: skip
    result = {}
    for name, c in (("generic", generic), ("ampere", ampere), ("hopper", hopper)):
        result[name] = replace(c, name=name, pcie=pcie.pcie, scale_out=ether.scale_out)
    result["l40s"] = replace(result["generic"], name="l40s", pcie=l40s.pcie, points=l40s.points,
                             median_error=l40s.median_error, p90_error=l40s.p90_error)  # fmt: skip
    for label, c in (("pcie", pcie), ("scale_out (pairwise, message)", out), ("scale_out (ring)", ether)):
        print(f"{label}: {c.points} points, held out {100 * c.median_error:.1f} / {100 * c.p90_error:.1f} %")
    return result


@dataclass(frozen=True)
class Judged:
    """A data set's collectives of one kind: predicted over measured seconds of its rows, and which were held out."""

    data: DataSet
    kind: str
    measured: np.ndarray
    ratio: np.ndarray
    out: np.ndarray


def judged(data: Sequence[DataSet], found: dict[str, CollectiveConstants]) -> list[Judged]:
    """Every data set against the constants that its device has."""
    result = []
    for d in data:
        family = "hopper" if d.levels[0].name == "nvlink" and d.device[0] == "h" else "generic"
        c = found["ampere" if d.device.startswith("a100") else "l40s" if d.device == "l40s" else family]
        out, seconds = held_out(d), d.rows.seconds.to_numpy()
        ratio = predict(c, d, d.rows) / seconds
        for kind in d.rows.kind.unique():
            at = (d.rows.kind == kind).to_numpy()
            result.append(Judged(d, kind, seconds[at], ratio[at], out[at]))
    return result


def report(each: Sequence[Judged]) -> None:
    heads = f"{'rows':>5}{'median':>8}{'p90':>7}{'held out':>10}{'median':>8}{'p90':>7}{'bias':>7}"
    print(f"\n{'data set':44}{'device':11}{'kind':16}" + heads)
    for j in each:
        d, error = j.data, np.abs(j.ratio - 1)
        line = f"{d.name:44}{d.device:11}{j.kind:16}{len(error):5}{_percent(error)}"
        held = f"{j.out.sum():10}{_percent(error[j.out])}" if d.fit else f"{'not fitted':>12}{'':13}"
        print(line + held + f"{100 * (np.median(j.ratio) - 1):+7.1f}")


def _percent(e: np.ndarray) -> str:
    return f"{100 * np.median(e):8.1f}{100 * np.quantile(e, 0.9):7.1f}" if len(e) else f"{'':15}"


HEAD = """# Constants of collectives, fitted by scripts/fit_collectives.py; see cost/collectives.py for their meaning.
# Errors: |predicted/measured - 1| on held-out sizes. Seconds, and shares of a level's nominal bandwidth.
# Looked up by device name, then by family, then "generic". Families' data do not tell NVLink devices of one family
# apart (H100 and H200 differ by less than repeated runs do).
collectives:
  common:
    # Hop latency of a tree over that of a ring: 5.0/2.7, 8.5/4.0 and 28/14 us over the network in NCCL's tuning table
    # (NVIDIA/nccl, src/graph/tuning.cc).
    tree_hop: 2.0
    # NCCL's tuning derates a tree's bus bandwidth to 0.92 of a ring's (src/graph/tuning.cc).
    tree_efficiency: 0.92
"""


def number(value: float) -> str:
    return f"{value:.3g}" if abs(value) >= 1e-3 else f"{value:.2e}"


def write(found: dict[str, CollectiveConstants]) -> None:
    def block(link: LinkConstants, indent: str, source: str) -> list[str]:
        lines = [f"{indent}{k}: {number(v)}" for k, v in asdict(link).items() if k != "source"]
        return [*lines, f'{indent}source: "{source}"']

    generic = found["generic"]
    text = [HEAD.rstrip(), "  links:", "    pcie:"]
    text += block(generic.pcie, " " * 6, SOURCES["pcie"])
    text += ["    scale_out:", *block(generic.scale_out, " " * 6, SOURCES["scale_out"]), "  entries:"]
    for name, c in found.items():
        text.append(f"    {name}:")
        for key, value in asdict(c).items():
            if key in ("name", "tree_hop", "tree_efficiency", "source", "pcie", "scale_out", "scale_up"):
                continue
            text.append(f"      {key}: {value if isinstance(value, int) else number(value)}")
        text += [f'      source: "{SOURCES[name]}"', "      scale_up:"]
        text += block(c.scale_up, " " * 8, "fitted with the entry")
        if c.pcie != generic.pcie:
            text += ["      pcie:", *block(c.pcie, " " * 8, "fitted with the entry")]
    text += ["  # Measured on no device of these families: taken from the nearest that was.", "  same_as:"]
    text += ["    blackwell: hopper # NVLink switches with in-network reduction, as Hopper's"]
    TARGET.write_text("\n".join(text) + "\n", encoding="utf-8")


SOURCES = {
    "hopper": "aiconfigurator@095f58a nccl and custom_allreduce (H100, H200; vLLM and SGLang in graphs), "
    "apex_plus@8769096 profile/comm, vidur@7d47513 send_recv (H100)",
    "ampere": "aiconfigurator@095f58a nccl and custom_allreduce (A100; vLLM in graphs), vTrain@f8dda84 AR LUT, "
    "vidur@7d47513 send_recv (A100); in-network reduction as hopper, since A100 systems have none",
    "generic": "all data of ampere and hopper together",
    "l40s": "PCIe: aiconfigurator@095f58a nccl and custom_allreduce (L40S, 2 GPUs; 4 and 8 come from a bad host); the "
    "rest as generic",
    "pcie": "apex_plus@8769096 (V100-PCIe, 2 and 4 GPUs); an L40S host is 2-3 times as fast: weak",
    "scale_out": "pairwise, doubling: aiconfigurator@095f58a DeepEP low latency (H100, 2-8 nodes); message: "
    "vidur@7d47513 send_recv between nodes (H100); ring: apex_plus@8769096 (V100, taken as 10 GbE); hop, ramp_s: as "
    "inside a node, no sound small inter-node all-reduce was at hand; in_network (SHARP) as ring, not measured",
}


def fit_and_judge(folder: Path, *, keep: bool = False) -> tuple[dict[str, CollectiveConstants], list[Judged]]:
    """The constants by family, and how they do; ``keep``: written to the YAML file."""
    data = [
        *aiconfigurator(folder / "k1_aiconfigurator"),
        *vidur(folder / "k2_vidur"),
        *apex(folder / "s3_apex_plus"),
        *others(folder),
    ]
    found = fit_all(data)
    for name, c in found.items():
        print(f"{name}: {c.points} points, held out {100 * c.median_error:.1f} / {100 * c.p90_error:.1f} %")
    each = judged(data, found)
    report(each)
    if keep:
        write(found)
    return found, each


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of measured data")
    parser.add_argument("--write", action="store_true", help=f"write {TARGET.name}")
    options = parser.parse_args()
    fit_and_judge(options.data, keep=options.write)


if __name__ == "__main__":
    main()
