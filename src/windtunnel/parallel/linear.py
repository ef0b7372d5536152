"""The pieces that layers are made of: linear layers in a style's precision and one-pass kernels."""

from __future__ import annotations

from typing import Any

from windtunnel.models.dtypes import BYTES
from windtunnel.ops.build import gemm, pointwise
from windtunnel.ops.op import Op
from windtunnel.ops.values import Value, where
from windtunnel.parallel.style import Style


def linear(name: str, m: Value, n: Value, k: Value, style: Style, *, bias: bool = False, **extra: Any) -> Op:
    """A linear layer in the style's precision."""
    p = style.linear
    return gemm(
        name, m, n, k, dtype=p.compute, weight=BYTES[p.weights], act=style.act, bias=bias, frozen=style.frozen, **extra
    )


def shard_of_input(tokens: Value, size: Value, style: Style) -> Value:
    """Bytes kept of a column-parallel layer's input: a shard of the sequence under sequence parallelism."""
    return style.act * tokens * size / (style.layout.tp if style.sequence_parallel else 1)


def unary(name: str, kind: str, elements: Value, style: Style, *, saved: float = 0.0, **extra: Any) -> Op:
    """One read and one write of ``elements``; ``saved`` bytes an element are kept."""
    return pointwise(
        name,
        kind,
        reads=elements,
        writes=elements,
        act=style.act,
        flops=4.0 * elements,
        saved_bytes=saved * elements,
        **extra,
    )


UNFUSED: dict[str, tuple[float, int, float]] = {
    # Bytes beside the one kernel's, kernels, and kept bytes beside the one kernel's, counted over 16-bit tensors from
    # the operators that Hugging Face's Llama runs one by one in eager PyTorch (transformers, modeling_llama):
    # RMSNorm: to fp32, square, mean, add and rsqrt (a row each), product, to 16 bits, product with the weight.
    "norm": (36 / 4, 8, 10 / 2),
    # Rotation of queries and of keys: product, negation, concatenation, product, sum.
    "rope": (20 / 4, 10, 1.0),
    # SiLU, product with the other half; the first result is kept, too.
    "activation": (10 / 6, 2, 6 / 4),
    # Scaling, mask, softmax in fp32, to 16 bits.
    "softmax": (20 / 4, 4, 1.0),
    # Logits to fp32, log-softmax, its gradient, to 16 bits.
    "cross_entropy": (14 / 6, 4, 1.0),
}


def chain(op: Op, group: str, style: Style) -> Op:
    """One kernel where the engine has it fused, else what the separate ones move, launch and keep."""
    if group in style.fused:
        return op
    moved, kernels, kept = UNFUSED[group]
    return op.but(cached_bytes=moved * op.cached_bytes, kernels=kernels * op.kernels, saved_bytes=kept * op.saved_bytes)


def used(op: Op, amount: Value) -> Op:
    """The operator where there is any ``amount`` of work for it; elsewhere its weights are held but not read."""
    return op.but(hbm_bytes=where(amount > 0, op.hbm_bytes, 0.0), kernels=where(amount > 0, op.kernels, 0.0))
