"""Rewrites of linear layers: low-rank adapters, stored weights widened before use, casts to 8 bits."""

from __future__ import annotations

from windtunnel.models.dtypes import BYTES
from windtunnel.ops.build import gemm, pointwise
from windtunnel.ops.op import Op
from windtunnel.ops.rewrite import rewrite
from windtunnel.ops.tree import Node, seq
from windtunnel.ops.values import Value
from windtunnel.scenario.plan import Finetune

_TARGETS = {
    "attention": ("attn.", "mla."),
    "mlp": ("mlp.", "shared."),
    "all": ("attn.", "mla.", "mlp.", "shared.", "ssm."),
}


def with_adapters(tree: Node, finetune: Finetune, dtype: str) -> Node:
    """Each targeted linear layer [k, n] with A [k, r] and B [r, n] beside it, added to its output.

    The base is frozen (LoRA, arXiv 2106.09685, section 4.1), experts and router included: a layer without an adapter
    has no weight gradient and keeps no input for one. Where the base is stored in fewer bits (QLoRA, arXiv 2305.14314,
    section 3) it is widened to 16 bits by a kernel of its own before each use, and the input is kept all the same
    (bitsandbytes of 2023, MatMul4Bit). Adapters compute in ``dtype``, the activations' own.
    """
    act = BYTES[dtype]
    prefixes = _TARGETS[finetune.targets]

    def change(op: Op) -> Node:
        if op.kind not in ("gemm", "grouped_gemm") or not op.frozen:
            return op
        m, n, k = op.shape["m"], op.shape["n"], op.shape["k"]
        widen = None
        if finetune.kind == "qlora" and op.name != "lm_head":
            stored = BYTES["nf4"] if finetune.bits == 4 else BYTES["int8"]
            weights = n * k * op.shape.get("groups", 1.0)
            widen = pointwise(
                op.name + ".widen", "quantize", reads=0.0, writes=weights, act=act, cold_bytes=stored * weights,
                backward=1.0,
            )  # fmt: skip
        if op.kind != "gemm" or not op.name.startswith(prefixes):
            return seq(widen, op if widen is not None else op.but(saved_bytes=0.0))
        r = finetune.r
        down = gemm(op.name + ".lora_a", m, r, k, dtype=dtype, weight=act, act=act, saved_bytes=0.0)
        up = gemm(op.name + ".lora_b", m, n, r, dtype=dtype, weight=act, act=act)
        join = pointwise(op.name + ".lora_add", "elementwise", reads=2 * m * n, writes=m * n, act=act, backward=0.0)
        return seq(widen, op, down, up, join)

    return rewrite(tree, change)


def with_casts(tree: Node, micro_batches: Value) -> Node:
    """FP8 training: inputs and 16-bit weights are cast (and scaled) before each product, gradients in backward.

    One kernel reads a 16-bit tensor and writes it and its transpose in 8 bits, since Hopper's 8-bit products need both
    orders (NVIDIA, Transformer Engine user guide, FP8 primer); weights are cast once a step, for its first micro-batch.
    The 8-bit copy is what is kept for the weight gradient. Under a frozen weight one order is enough.
    """

    def change(op: Op) -> Node:
        if op.kind not in ("gemm", "grouped_gemm") or op.dtype != "fp8":
            return op
        m, n, k = op.shape["m"], op.shape["n"], op.shape["k"]
        groups = op.shape.get("groups", 1.0)
        back = pointwise(op.name + ".cast.grad", "quantize", reads=m * n, writes=m * n, act=2.0)
        cast = pointwise(
            op.name + ".cast", "quantize", reads=m * k, writes=(0.5 if op.frozen else 1.0) * m * k, act=2.0,
            cold_bytes=4.0 * n * k * groups / micro_batches, adjoint=(back,),
        )  # fmt: skip
        return seq(cast, op.but(saved_bytes=op.saved_bytes * BYTES["fp8"] / op.shape["act"]))

    return rewrite(tree, change)


_OWN_CAST = ("attn.out", "mla.kv_up", "mla.absorb", "mla.expand")
"""Products whose input comes from attention or the cache: no norm or activation before them can cast it."""


def with_inputs_cast(tree: Node, kernels: float, *, fused: bool) -> Node:
    """Serving in 8 bits: ``kernels`` find the scales of a product's 16-bit input (a tensor's, a token's or a block's)
    and write it in 8 bits (vLLM's scaled_fp8_quant, SGLang's per_token_group_quant). ``fused``: norms and activations
    write 8 bits themselves.

    Products in 8 bits were measured with one cast before them: prices hold two launches. Without a cast one remains
    and the input is narrow; more kernels than one are added. Experts' products were measured with all of theirs.
    """

    def change(op: Op) -> Node:
        if op.kind != "gemm" or op.dtype not in ("fp8", "int8"):
            return op
        elements = op.shape["m"] * op.shape["k"]
        if not kernels or (fused and op.name not in _OWN_CAST):
            narrow = {**op.shape, "act": 1.0}
            return op.but(kernels=0.5 * op.kernels, cached_bytes=op.cached_bytes - elements, shape=narrow)
        if kernels <= 1:
            return op
        cast = pointwise(op.name + ".cast", "quantize", reads=elements, writes=elements / 2, act=2.0)
        return seq(cast.but(kernels=(kernels - 1) * op.kernels), op)

    return rewrite(tree, change)
