"""How operators are written down: one small function a kernel family, from shapes to an :class:`Op`.

Shapes are per rank. ``weight``, ``act`` and ``kv`` are bytes an element. FLOPs count two for a multiply-add.
"""

from __future__ import annotations

from typing import Any

from windtunnel.ops.op import Group, Op
from windtunnel.ops.values import Value, minimum, where

COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "send_recv")


def gemm(
    name: str, m: Value, n: Value, k: Value, *, dtype: str, weight: float, act: float, bias: bool = False, **extra: Any
) -> Op:
    """A linear layer: [m, k] x [k, n], its weights read once from memory and its input kept for the weight gradient."""
    return Op(
        name,
        "gemm",
        dtype=dtype,
        flops=2.0 * m * n * k,
        hbm_bytes=weight * n * k,
        cached_bytes=act * (m * k + m * n),
        shape={"m": m, "n": n, "k": k, "weight": weight, "act": act},
        parameters=n * k + (n if bias else 0),
        **{"saved_bytes": act * m * k, **extra},
    )


def grouped_gemm(
    name: str,
    rows: Value,
    n: Value,
    k: Value,
    *,
    experts: Value,
    active: Value,
    imbalance: Value,
    dtype: str,
    weight: float,
    act: float,
    bias: bool = False,
    **extra: Any,
) -> Op:
    """``experts`` local weight matrices [k, n], of which ``active`` are visited by ``rows`` rows in all.

    ``imbalance`` >= 1: the busiest rank's rows over the mean; time follows it, the counted work does not.
    """
    return Op(
        name,
        "grouped_gemm",
        dtype=dtype,
        flops=2.0 * rows * n * k,
        hbm_bytes=weight * active * n * k,
        cached_bytes=act * rows * (n + k),
        shape={"m": rows, "n": n, "k": k, "groups": active, "imbalance": imbalance, "weight": weight, "act": act},
        parameters=experts * (n * k + (n if bias else 0)),
        expert=True,
        **{"saved_bytes": act * rows * k, **extra},
    )


def attention(
    name: str,
    *,
    tokens: Value,
    pairs: Value,
    context: Value,
    heads: Value,
    kv_heads: Value,
    head_dim: Value,
    v_head_dim: Value,
    dtype: str,
    act: float,
    **extra: Any,
) -> Op:
    """Fused (flash) attention of ``tokens`` queries over ``pairs`` query-key pairs, reading ``context`` keys.

    FlashAttention-2 (arXiv 2307.08691, section 3): the score matrix never reaches memory; what the kernel itself keeps
    is one fp32 row statistic a head (q, k, v and the output are kept by the layers around it).
    """
    qo = tokens * heads * (head_dim + v_head_dim)
    kv = context * kv_heads * (head_dim + v_head_dim)
    return Op(
        name,
        "attention",
        dtype=dtype,
        flops=2.0 * pairs * heads * (head_dim + v_head_dim),
        vector_flops=6.0 * pairs * heads,
        cached_bytes=act * (qo + kv),
        kernels=where(tokens > 0, 1.0, 0.0),
        shape={
            "tokens": tokens,
            "pairs": pairs,
            "heads": heads,
            "head_dim": head_dim,
            "context": context,
            "kv_bytes": act * kv_heads * (head_dim + v_head_dim),
        },
        **{"saved_bytes": 4.0 * tokens * heads, **extra},
    )


def attention_decode(
    name: str,
    *,
    sequences: Value,
    context: Value,
    heads: Value,
    kv_heads: Value,
    head_dim: Value,
    v_head_dim: Value,
    dtype: str,
    act: float,
    kv_bytes_per_token: Value,
    queries: Value = 1.0,
    **extra: Any,
) -> Op:
    """``queries`` new tokens of each of ``sequences``, over ``context`` cached tokens in all (split-KV kernels).

    Several queries of a sequence share one reading of its keys, as the heads of a group do: to the kernel they are
    more heads.
    """
    heads = heads * queries
    return Op(
        name,
        "attention_decode",
        dtype=dtype,
        flops=2.0 * context * heads * (head_dim + v_head_dim),
        vector_flops=6.0 * context * heads,
        hbm_bytes=context * kv_bytes_per_token,
        cached_bytes=act * sequences * heads * (head_dim + v_head_dim),
        shape={
            "sequences": sequences,
            "context": context,
            "heads": heads,
            "kv_heads": kv_heads,
            "head_dim": head_dim,
        },
        kernels=where(sequences > 0, 1.0, 0.0),
        **extra,
    )


def pointwise(
    name: str,
    kind: str,
    *,
    reads: Value,
    writes: Value,
    act: float,
    flops: Value = 0.0,
    cold_bytes: Value = 0.0,
    **extra: Any,
) -> Op:
    """A bandwidth-bound kernel over ``reads`` and ``writes`` elements: norm, activation, rotary embedding, add …

    ``cold_bytes``: what it moves that no neighbour has just touched. Its parameters are stored like activations.
    """
    return Op(
        name,
        kind,
        vector_flops=flops,
        cached_bytes=act * (reads + writes),
        hbm_bytes=cold_bytes,
        shape={"weight": act},
        **extra,
    )


def collective(kind: str, size: Value, group: Group, category: str, *, name: str = "", **extra: Any) -> Op:
    """A collective over ``group``. ``size`` in bytes: for all_reduce and broadcast each rank's buffer, for all_gather
    the gathered result, for reduce_scatter the input, for all_to_all what a rank sends (its own part included),
    for send_recv the message. In a group of one nothing is sent and nothing launched.
    """
    alone = group.size <= 1
    return Op(
        name or kind,
        kind,
        category,
        message_bytes=where(alone, 0.0, size),
        group=group,
        kernels=where(alone, 0.0, 1.0),
        **{"adjoint": (), **extra},
    )


def wire_bytes(op: Op) -> Value:
    """The bytes that a rank must at least send for a collective (Thakur et al. 2005, table of lower bounds)."""
    if op.group is None:
        return 0.0
    n = op.group.size
    share = (n - 1) / n
    if op.kind == "all_reduce":
        return 2 * share * op.message_bytes
    if op.kind in ("all_gather", "reduce_scatter", "all_to_all"):
        return share * op.message_bytes
    return minimum(n - 1, 1.0) * op.message_bytes


def transfer(name: str, category: str, *, pcie: Value = 0.0, nvme: Value = 0.0, **extra: Any) -> Op:
    """A copy between the device and the host (``pcie`` bytes) or storage (``nvme`` bytes), one direction."""
    return Op(name, "copy", category, pcie_bytes=pcie, nvme_bytes=nvme, **{"adjoint": (), **extra})


def host_work(name: str, seconds: Value, category: str = "host", **extra: Any) -> Op:
    """Work on the host alone (launching, scheduling, sampling), beside the device until the next synchronisation."""
    return Op(name, "host", category, host_s=seconds, kernels=0.0, **{"adjoint": (), **extra})
