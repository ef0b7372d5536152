"""Measured collectives: columns ``ranks`` and ``bytes`` (as :func:`windtunnel.ops.build.collective` counts them).

Rows that are held out together have the same ranks, and sizes within a factor of 1.4.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from windtunnel.calibration.published.rows import Measured, load, numbers, together
from windtunnel.cost.runtime import Runtime
from windtunnel.hardware import Cluster, parse_cluster
from windtunnel.hardware.machine import Level

if TYPE_CHECKING:
    import polars as pl

NCCL, CUSTOM = Runtime(), Runtime(all_reduce="custom")
KINDS = {"alltoall": "all_to_all", "sendrecv": "send_recv"}
RINGS = ("all_reduce", "all_gather", "reduce_scatter")


def _measured(
    kind: str, cluster: Cluster, frame: pl.DataFrame, ranks: Any, size: Any, seconds: Any,
    runtime: Runtime = NCCL, family: str = "",
) -> Measured:  # fmt: skip
    c = numbers(frame, ranks=ranks, bytes=size, seconds=seconds)
    whole = np.flatnonzero((c["bytes"] > 0) & (c["seconds"] > 0))
    c = {name: values[whole] for name, values in c.items()}
    group = together(c["ranks"], np.floor(2 * np.log2(c["bytes"])))
    return Measured(family or kind, kind, cluster, c, c.pop("seconds"), group, runtime=runtime)


def k1_nccl(data: Path, name: str, system: str) -> Iterator[Measured]:
    """nccl-tests in fp16. L40S: two ranks only, more went through a bad PCIe host."""
    import polars as pl

    d = load(data / "k1_aiconfigurator/nccl_half.csv").filter(pl.col("system") == system)
    if system == "l40s":
        d = d.filter(pl.col("num_gpus") == 2)
    for kind in d["op_name"].unique(maintain_order=True):
        rows = d.filter(pl.col("op_name") == kind)
        cluster = parse_cluster(f"8x{name}")
        yield _measured(KINDS.get(kind, kind), cluster, rows, "num_gpus", "message_bytes", pl.col("latency_ms") * 1e-3)


def k1_custom(data: Path, name: str, system: str) -> Iterator[Measured]:
    """The all-reduce kernels of serving engines. Left out: those launched from Python one by one, which show the host's
    time; more than two L40S."""
    import polars as pl

    d = load(data / "k1_aiconfigurator/custom_allreduce_bf16.csv")
    d = d.filter((pl.col("system") == system) & ~pl.col("kernel_source").str.ends_with("eager"))
    if system == "l40s":
        d = d.filter(pl.col("num_gpus") == 2)
    for source in d["kernel_source"].unique(maintain_order=True):
        rows = d.filter(pl.col("kernel_source") == source)
        family = "all_reduce.custom" + (".trtllm" if source == "TRTLLM" else "")
        seconds = pl.col("latency_ms") * 1e-3
        yield _measured(
            "all_reduce", parse_cluster(f"8x{name}"), rows, "num_gpus", "message_bytes", seconds, CUSTOM, family
        )


def k1_deepep(data: Path, name: str, system: str) -> Iterator[Measured]:
    """DeepEP's low-latency mode between nodes: every token is sent to each of its experts by itself, in fp8 with a
    scale for 128 values, and comes back in bf16."""
    import polars as pl

    d = load(data / "k1_aiconfigurator/deepep_dispatch_combine.csv")
    d = d.filter((pl.col("mode") == "ll") & (pl.col("node_num") > 1) & (pl.col("system") == system))
    sent = pl.col("num_token") * pl.col("num_topk") * pl.col("hidden_size")
    cluster = parse_cluster(f"64x{name}")
    for what, size in (("dispatch", sent * (1 + 4 / 128)), ("combine", sent * 2)):
        seconds = pl.col(f"{what}_us") * 1e-6
        yield _measured("all_to_all", cluster, d, 8 * pl.col("node_num"), size, seconds, family=f"all_to_all.{what}")


def k2_network(data: Path, name: str, gpu: str) -> Iterator[Measured]:
    """NCCL on DGX nodes. Left out: all-reduces below 16 MB, which show the host's launches, and what ran between A100
    nodes, whose network is not stated and gives 6 to 8 GB/s."""
    import polars as pl

    for kind in ("send_recv", "all_reduce"):
        d = load(data / f"k2_vidur/{kind}_{gpu}_dgx.csv")
        if kind == "all_reduce":
            d = d.filter(pl.col("size_bytes") >= 16e6)
        cluster = parse_cluster(f"64x{name}")
        for members in d["devices_per_node"].unique(maintain_order=True):
            for inside in (True, False):
                rows = d.filter(
                    (pl.col("devices_per_node") == members) & ((pl.col("num_workers") == members) == inside)
                )
                if not len(rows) or (gpu == "a100" and not inside):
                    continue
                first, *outer = cluster.levels
                levels = cluster.levels if inside else (replace(first, domain=int(members)), *outer)
                yield _measured(
                    kind, replace(cluster, levels=levels), rows, "num_workers", "size_bytes",
                    pl.col("latency_ms") * 1e-3, family=kind if inside else f"{kind}.nodes",
                )  # fmt: skip


def s3_nccl(data: Path, name: str, gpu: str) -> Iterator[Measured]:
    """In fp16, inside a node."""
    import polars as pl

    d = _s3(data, gpu)
    for kind in d["op"].unique(maintain_order=True):
        rows = d.filter(pl.col("op") == kind)
        yield _measured(
            KINDS.get(kind, kind), parse_cluster(f"8x{name}"), rows, "num_gpus_per_node", pl.col("size_kb") * 1024,
            pl.col("time_us") * 1e-6,
        )  # fmt: skip


def s3_ethernet(data: Path) -> Iterator[Measured]:
    """Nodes of PCIe V100s. The NIC is taken as one of 10 Gbit/s a node (a message reaches 1.19 GB/s), shared by the
    GPUs in use; of what crosses it, rings of 32 MB and more."""
    import polars as pl

    d = _s3(data, "V100-PCIE-16GB")
    cluster = parse_cluster("16xv100-sxm")
    layouts = d.select("num_nodes", "num_gpus_per_node").unique(maintain_order=True).rows()
    for nodes, members in layouts:
        of = d.filter((pl.col("num_nodes") == nodes) & (pl.col("num_gpus_per_node") == members))
        inside = Level("pcie", "scale_up", int(members), 16e9, 1e-6, "pcie")
        levels: Sequence[Level] = (inside,)
        if nodes > 1:
            levels = (inside, Level("ethernet", "scale_out", 4096, 1.25e9 / members, 25e-6))
            of = of.filter(pl.col("op").is_in(RINGS) & (pl.col("size_kb") * 1024 >= 32e6))
        for kind in of["op"].unique(maintain_order=True):
            known = KINDS.get(kind, kind)
            rows = of.filter(pl.col("op") == kind)
            yield _measured(
                known, replace(cluster, levels=tuple(levels)), rows, nodes * pl.col("num_gpus_per_node"),
                pl.col("size_kb") * 1024, pl.col("time_us") * 1e-6, family=known if nodes == 1 else f"{known}.ethernet",
            )  # fmt: skip


def _s3(data: Path, gpu: str) -> pl.DataFrame:
    import polars as pl

    d = load(data / "s3_apex_plus/collectives.csv")
    return d.filter((pl.col("gpu") == gpu) & (pl.col("dtype") == "half") & (pl.col("size_kb") > 0))


def t5_nccl(data: Path, name: str, gpu: str) -> Iterator[Measured]:
    """vTrain's look-up table of all-reduces, whose times hold some 20 us of the host's launch."""
    import polars as pl

    d = load(data / "t5_vtrain/nccl_allreduce_lut.csv").filter(pl.col("gpu") == gpu)
    yield _measured("all_reduce", parse_cluster(f"8x{name}"), d, "n_gpus", "size_bytes", pl.col("time_ns") * 1e-9)


def h1_nccl(data: Path, name: str) -> Iterator[Measured]:
    """Bus bandwidths of all-reduces among eight, from which times are computed."""
    import polars as pl

    d = load(data / "h1_hardware/nccl_busbw_vs_size_ml_engineering.csv")
    d = d.filter(pl.col("section") == "Real network throughput")
    units = {"KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}
    size = pl.Series("size", [float(p[:-3]) * units[p[-3:]] for p in d["payload"]])
    d = d.with_columns(size)
    seconds = pl.col("size") * 1.75 / (pl.col("busbw_gbps") * 1e9)
    yield _measured("all_reduce", parse_cluster(f"8x{name}"), d, 8.0, "size", seconds)


def s9_deepep(data: Path, name: str) -> Iterator[Measured]:
    """DeepEP's low-latency mode as its authors print it: 128 tokens to 8 of the experts each, of 7,168 values."""
    import polars as pl

    d = load(data / "s9_amd_sglang_deepep/deepep_bandwidth_latency.csv")
    d = d.filter((pl.col("mode") == "low_latency") & (pl.col("ep_size") > 8))
    cluster = parse_cluster(f"256x{name}")
    for what, width in (("dispatch", 1 + 4 / 128), ("combine", 2.0)):
        rows = d.filter(pl.col("op") == what)
        yield _measured(
            "all_to_all", cluster, rows, "ep_size", 128 * 8 * 7168 * width, pl.col("latency_us") * 1e-6,
            family=f"all_to_all.{what}",
        )  # fmt: skip
