"""The plans of one chunk as a grid: an axis for each option, which plans are legal, and why the others are not.

Arrays have the axes tp, cp, dp, ep, etp, micro_batch, hsdp and virtual_stages, of length 1 where a value does not
depend on one: what is priced keeps the shape of what decides it, and NumPy's broadcasting does the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from windtunnel.models.flops import counted
from windtunnel.models.network import MoE, Network
from windtunnel.ops.values import Array
from windtunnel.planning.train.axes import Axes

SAME = "another name of a plan that is counted"
"""Options that make no difference: sequence parallelism at tp=1, ZeRO on one rank, schedules of one stage."""

MEMORY, HOST, LATE = "does not fit in memory", "does not fit in the hosts' memory", "takes too long"
"""Why legal plans are not feasible; every other reason is about combinations that are not legal."""

Mask = NDArray[np.bool_]
NAMES = ("tp", "cp", "dp", "ep", "etp", "micro_batch", "hsdp", "virtual_stages")
"""The axes, in order."""


@dataclass(frozen=True)
class Key:
    """What all plans of a chunk share."""

    pp: int
    sequence_parallel: bool
    recompute: str
    precision: str | None
    offload: str | None

    def __str__(self) -> str:
        parts = (f"pp={self.pp}", "sp" if self.sequence_parallel else "", self.recompute, self.precision, self.offload)
        return " ".join(filter(None, parts))


@dataclass(frozen=True, eq=False)
class Grid:
    """The options of the plans of a chunk, and ``legal`` ones among those that pp, ZeRO and schedules do not concern.

    ``gpus`` and ``micro_batches`` follow from the others. Illegal cells hold values that can be priced all the same.
    """

    tp: Array
    cp: Array
    dp: Array
    ep: Array
    etp: Array
    micro_batch: Array
    gpus: Array
    micro_batches: Array
    legal: Mask


class Refused:
    """Counts plans by the first rule that they break."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def strike(self, legal: Mask, rule: Mask, reason: str, others: int) -> Mask:
        """The plans that keep the rule, too; ``others``: plans for each cell."""
        kept: Mask = legal & rule
        shape = kept.shape
        broken = int(np.count_nonzero(np.broadcast_to(legal, shape)) - np.count_nonzero(kept)) * others
        self.add(reason, broken)
        return kept

    def add(self, reason: str, plans: int) -> None:
        """Count so many plans."""
        if plans:
            self.counts[reason] = self.counts.get(reason, 0) + plans


def along(axis: str, values: Sequence[float | int]) -> Array:
    """Values along one of the axes."""
    shape = [1] * len(NAMES)
    shape[NAMES.index(axis)] = len(values)
    return np.asarray(values, dtype=float).reshape(shape)


def make_grid(axes: Axes, key: Key, others: int, refused: Refused) -> Grid:
    """The grid of a chunk. ``others``: plans for each of its cells (ZeRO, groups, schedules, virtual stages)."""
    options = axes.options
    batch, count = float(options.global_batch or 1), float(axes.cluster.count)
    tp, cp, ep, micro = (along(name, getattr(axes, name)) for name in ("tp", "cp", "ep", "micro_batch"))
    one: Mask = np.ones((1,) * len(NAMES), bool)
    inside = tp * cp * key.pp
    if axes.dp is not None:
        dp = along("dp", axes.dp)
    elif axes.gpus is not None:
        dp = along("dp", axes.gpus) / inside
    else:
        raise AssertionError("dp is listed where any number of accelerators may be used")
    most = others * len(axes.ep) * len(axes.etp or (0,)) * len(axes.micro_batch)
    each_tp = most * len(axes.cp) * len(axes.dp or axes.gpus or ())
    refused.add("tp does not divide the model's heads or widths", axes.narrow * each_tp)
    bare = tp > 1 if key.sequence_parallel else one
    legal = refused.strike(one, bare, SAME, each_tp)
    whole = (dp >= 1) & (dp == np.floor(dp))
    legal = refused.strike(legal, whole, "tp x pp x cp does not divide the accelerators", most)
    dp = np.where(whole, dp, 1.0)
    gpus = inside * dp
    legal = refused.strike(legal, gpus <= count, "more accelerators than there are", most)
    if axes.dp is not None and axes.gpus is not None:
        asked = np.isin(gpus, axes.gpus)
        legal = refused.strike(legal, asked, "not the number of accelerators to use", most)
    halves = (cp == 1) | (axes.seq % (2 * cp) == 0)
    legal = refused.strike(legal, halves, "seq is not a multiple of 2 x cp", most)
    ranks = tp * cp * dp
    etp = _expert_tp(axes, tp, ep, ranks)
    legal = _experts(axes.network, legal, tp, ep, etp, ranks, refused, others * len(axes.micro_batch))
    fine = np.broadcast_to(legal, np.broadcast_shapes(legal.shape, ep.shape, etp.shape))
    ep, etp = np.where(fine, ep, 1.0), np.where(fine, etp, np.broadcast_to(1.0, fine.shape))
    if not _moes(axes.network):
        ep, etp = np.ones_like(ep[:1, :1, :1]), tp
    micro_batches = batch / (dp * micro)
    even = micro_batches == np.floor(micro_batches)
    legal = refused.strike(legal, even, "global_batch is not a multiple of dp x micro_batch", others)
    return Grid(tp, cp, dp, ep, etp, micro, gpus, np.maximum(micro_batches, 1.0), legal)


def _moes(network: Network) -> list[MoE]:
    blocks = [block for block, _ in counted(network.encoder + network.blocks)]
    return list(dict.fromkeys(b.ffn for b in blocks if isinstance(b.ffn, MoE)))


def _expert_tp(axes: Axes, tp: Array, ep: Array, ranks: Array) -> Array:
    """Tensor-parallel ranks inside an expert, as ``train`` chooses them where they are not given."""
    if axes.etp is not None:
        return along("etp", axes.etp)
    if not _moes(axes.network):
        return tp
    if axes.engine.expert_tp == "one":
        return np.ones_like(tp)
    return np.where(ranks % (tp * ep) == 0, tp, 1.0)


def _experts(
    network: Network, legal: Mask, tp: Array, ep: Array, etp: Array, ranks: Array, refused: Refused, others: int
) -> Mask:
    moes = _moes(network)
    if not moes:
        legal = refused.strike(legal, ep == 1, "ep without experts", others)
        return refused.strike(legal, etp == tp, "etp without experts", others)
    for moe in moes:
        legal = refused.strike(legal, moe.experts % ep == 0, "ep does not divide the experts", others)
        fits = moe.expert.intermediate % etp == 0
        legal = refused.strike(legal, fits, "etp does not divide an expert's width", others)
    return refused.strike(legal, ranks % (ep * etp) == 0, "etp x ep does not divide a stage's ranks", others)
