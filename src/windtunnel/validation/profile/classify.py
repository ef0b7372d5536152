"""What a kernel or an operator of a trace is, in the package's own operator kinds.

First come names that say it outright (a communication library's, a flash-attention kernel's). Kernels of general
purpose (elementwise, reductions, what a compiler fused) are what the operator is that launched them; where the trace
does not know that, their own name has the last word.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

HOST, OTHER = "host", "other"
"""Work that only calls other work, or makes views; and what nothing here knows."""

GROUPS: dict[str, tuple[str, ...]] = {
    "matrix": ("gemm", "grouped_gemm"),
    "attention": ("attention", "attention_backward", "attention_decode"),
    "pointwise": (
        "norm", "activation", "elementwise", "rope", "embedding", "softmax", "sampling", "dropout", "cross_entropy",
        "quantize", "copy", "none",
    ),
    "scan": ("scan",),
    "optimizer": ("optimizer", "host_memory"),
    "communication": ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "send_recv"),
    "host": (HOST,),
}  # fmt: skip
"""Kinds that belong together: a framework may do as one kernel of a group what another does as a different one."""

Table = tuple[tuple[re.Pattern[str], str], ...]


def _table(*rows: tuple[str, str]) -> Table:
    return tuple((re.compile(pattern), kind) for pattern, kind in rows)


_COMMUNICATION = _table(
    (r"(nccl|rccl|c10d|gloo|mpi).*all_?reduce|cross_device_reduce|one_?shot_all_?reduce|two_?shot_all_?reduce"
     r"|multimem_all_reduce|allreduce_?(fusion|kernel)", "all_reduce"),
    (r"(nccl|rccl|c10d|gloo|mpi).*all_?gather|multimem_all_gather", "all_gather"),
    (r"(nccl|rccl|c10d|gloo|mpi).*reduce_?scatter", "reduce_scatter"),
    (r"(nccl|rccl|c10d|gloo|mpi).*all_?to_?all|deep_ep.*(dispatch|combine)", "all_to_all"),
    (r"(nccl|rccl|c10d|gloo|mpi).*(send|recv)", "send_recv"),
    (r"(nccl|rccl|c10d|gloo|mpi).*broadcast", "broadcast"),
)  # fmt: skip

# Names of kernels that need no operator beside them. The order matters: a fused name is what is rarest in it.
_KERNELS = _table(
    (r"flash.*(bwd|bprop)|fmha.*(bwd|backward)|fmha_cutlassb|sdpa.*bprop|sdpa.*(bwd|backward)|(bwd|backward).*(fmha|flash|sdpa)|attention.*(bwd|backward)"
     r"|mha_bwd", "attention_backward"),
    (r"splitkv|split_kv|paged_?attention|batch_?decode|decode.*attention|attention.*decode|flash_?mla|mmha"
     r"|masked_multihead|xqa", "attention_decode"),
    (r"flash_?(fwd|attn|attention|infer)|fmha|sdpa|mha_fwd|batch_?prefill|single_?prefill|attention.*(fwd|forward)"
     r"|(fwd|forward).*attention|unified_attention|context_attention", "attention"),
    (r"selective_scan|chunk_scan|chunk_state|state_passing|causal_conv1d|chunk_gated", "scan"),
    (r"fused_moe|grouped_?gemm|group_?gemm|grouped_?mm|moe.*gemm|m_grouped|ptr_array", "grouped_gemm"),
    (r"multi_tensor_apply|fused_?adam|distributed_fused", "optimizer"),
    (r"gemm|gemv|nvjet|cublas|cutlass|xmma|cijk_|wgmma|hmma|matmul|marlin|_mm_kernel|triton_(tem|mm)|splitkreduce"
     r"|splitk_reduce", "gemm"),
    (r"memcpy|memset|copy_kernel|catarraybatchedcopy|direct_copy|gather_rows|reshape_and_cache", "copy"),
    (r"rotary|rope", "rope"),
    (r"cross_entropy|nll_loss|log_?softmax", "cross_entropy"),
    (r"softmax", "softmax"),
    (r"dropout", "dropout"),
    (r"quant|to_fp8|fp8_cast|amax", "quantize"),
    (r"embedding|indexselect", "embedding"),
    (r"silu|gelu|swiglu|geglu|relu|act_and_mul", "activation"),
    (r"layer_?norm|rms_?norm|norm_fwd|norm_bwd|cunnnorm|fused_add_rms", "norm"),
    (r"topk|sampl|multinomial|argmax|sort", "sampling"),
)  # fmt: skip

# Kernels of general purpose, where no operator beside them says more.
_FALLBACK = _table(
    (r"elementwise|triton_|pointwise|reduce_kernel|fill|index|scatter|gather|where|cumsum", "elementwise"),
)

# Operators of PyTorch, without their namespace.
_OPERATORS = _table(
    (r"(scaled_dot_product|flash_attention|efficient_attention|cudnn_attention|flash_attn).*backward"
     r"|scaleddotproduct.*backward", "attention_backward"),
    (r"paged_attention|attention_decode", "attention_decode"),
    (r"scaled_dot_product|flash_attention|flash_attn|efficient_attention|cudnn_attention", "attention"),
    (r"selective_scan|causal_conv1d", "scan"),
    (r"grouped_mm|grouped_gemm|fused_moe", "grouped_gemm"),
    (r"^_?(addmm|mm|bmm|baddbmm|addbmm|mv|addmv|scaled_mm|int_mm|weight_int4pack_mm|mkldnn_linear|linear_pointwise"
     r"|mkl_linear|_linear_pointwise)(_|_out|_activation)?$", "gemm"),
    (r"_fused_adam|_fused_sgd|_foreach_add|_foreach_mul|_foreach_lerp|_foreach_addc|_foreach_norm", "optimizer"),
    (r"cross_?entropy|nll_?loss|log_?softmax", "cross_entropy"),
    (r"softmax", "softmax"),
    (r"dropout|bernoulli", "dropout"),
    (r"rms_norm|layer_norm|batch_norm|group_norm", "norm"),
    (r"embedding|index_select", "embedding"),
    (r"silu|gelu|relu|^glu", "activation"),
    (r"rotary|rope", "rope"),
    (r"quantize|_fp8", "quantize"),
    (r"multinomial|argmax|topk|^sort", "sampling"),
    (r"^(copy_|clone|contiguous|cat|stack|_to_copy|index_copy|_pin_memory|roll|repeat)", "copy"),
    (r"^(add|sub|mul|div|neg|pow|sqrt|rsqrt|sum|mean|max|min|exp|log|abs|cos|sin|tanh|sigmoid|where|masked_fill|clamp"
     r"|fill|zero|ones|sqrt|lerp|addc|tril|triu|arange|eq|ne|lt|le|gt|ge|cumsum|index|scatter|gather|lt|bitwise|logical"
     r"|any|all|var|amax|amin|norm|reciprocal|square|outer|isnan|isinf|threshold|rand|normal|uniform|maximum|minimum"
     r"|linalg_vector_norm|outer|slice_backward|select_backward|rsub|erf|copysign|sign|floor|ceil|round|nonzero)",
     "elementwise"),
)  # fmt: skip

# Operators that call others, make views or allocate: what they take by themselves is the host's.
_VIEWS = re.compile(
    r"^(empty|resize|view|_unsafe_view|reshape|as_strided|t$|transpose|permute|expand|slice$|select$|split|chunk|unbind"
    r"|narrow|squeeze|unsqueeze|flatten|unflatten|detach|alias|resolve_|result_type|item|_local_scalar_dense|lift|to$"
    r"|type_as|_reshape_alias|linear$|matmul$|record_function|set_|movedim|swapaxes|broadcast_|is_|numpy_t|new_)"
)

_GENERAL = frozenset({"elementwise", "copy", HOST})
"""Kinds that any operator may be made of: the operator around says more."""


@lru_cache(maxsize=4096)
def classify_kernel(name: str, ops: tuple[str, ...] = ()) -> str:
    """The kind of a GPU kernel launched from within ``ops``, the innermost first; ``other`` if unknown."""
    text = name.lower()
    first = _match(_COMMUNICATION, text)
    if first is not None:
        return first
    if _optimizer(ops):
        return "optimizer"
    named = _match(_KERNELS, text)
    if named not in (None, "copy", "softmax"):
        return named
    # One softmax kernel serves attention and the loss, and anything may be copied: the operators around know.
    asked = [k for k in map(_operator_kind, ops) if k not in (None, HOST)]
    return _telling([*asked, named, _match(_FALLBACK, text)]) or OTHER


@lru_cache(maxsize=4096)
def classify_operator(ops: tuple[str, ...], wraps: bool) -> str:
    """The kind of a CPU operator's own time; ``ops``: it and those around it. ``wraps``: it calls others."""
    first = _match(_COMMUNICATION, ops[0].lower())
    if first is not None:
        return first
    if _optimizer(ops):
        return "optimizer"
    own = _operator_kind(ops[0])
    if own is None:
        return HOST if wraps or ops[0].startswith("autograd::") else OTHER
    if own == HOST or own not in _GENERAL:
        return own
    around = [k for k in map(_operator_kind, ops[1:]) if k not in (None, HOST)]
    return _telling([own, *around]) or own


def _operator_kind(name: str) -> str | None:
    if name.startswith("autograd::engine") or name.endswith("AccumulateGrad"):
        return HOST
    bare = name.rpartition("::")[2].lower()
    if _VIEWS.search(bare):
        return HOST
    if name.rpartition("::")[0] in ("", "torch::autograd") and re.search(r"backward\d*$", bare):
        # A node of the backward graph calls the operators that work.
        kind = _match(_OPERATORS, re.sub(r"backward\d*$", "", bare))
        return kind if kind not in (None, "elementwise", "copy", "gemm") else HOST
    return _match(_OPERATORS, bare)


def _telling(kinds: Iterable[str | None]) -> str | None:
    """The first kind that says more than that something is computed or moved, else the first."""
    known = [k for k in kinds if k is not None]
    return next((k for k in known if k not in _GENERAL), known[0] if known else None)


def _optimizer(ops: Sequence[str]) -> bool:
    return any(op.startswith("Optimizer.step#") for op in ops)


def _match(table: Table, text: str) -> str | None:
    return next((kind for pattern, kind in table if pattern.search(text)), None)
