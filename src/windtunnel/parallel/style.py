"""How layers are executed, beyond their mathematics: what a layer builder needs besides network and batch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from windtunnel.models.dtypes import BYTES, PRECISIONS, Precision
from windtunnel.scenario.layout import Layout


@dataclass(frozen=True, slots=True)
class Style:
    """``linear``/``experts``: the precisions of ordinary and expert linear layers. ``fused`` groups and
    ``interference`` as in :class:`~windtunnel.scenario.engines.TrainEngine`.

    ``context``: how attention is spread over cp: blocks of keys passed round (ring, arXiv 2310.01889) or heads
    exchanged (ulysses, arXiv 2309.14509). ``overlap_tp``: tensor-parallel collectives are cut into pieces that run
    beside the GEMM that makes or needs them; ``overlap_backward``: those of the backward pass run beside the gradient
    kernels of the layer they belong to. ``expert_once``: over networks a token travels once to each ``domain`` of ranks
    joined faster.
    """

    layout: Layout = field(default_factory=Layout)
    linear: Precision = PRECISIONS["bf16"]
    experts: Precision = PRECISIONS["bf16"]
    training: bool = False
    sequence_parallel: bool = False
    eager_attention: bool = False
    fused: frozenset[str] = frozenset()
    dropout: bool = False
    context: Literal["ring", "ulysses"] = "ring"
    expert_imbalance: float = 1.0
    expert_passes: float = 1.0
    expert_once: bool = False
    domain: int = 1
    overlap_tp: bool = False
    overlap_backward: bool = False
    interference: float = 0.1
    mixed_attention: float = 1.0
    frozen: bool = False
    vocab_multiple: int = 1

    @property
    def act(self) -> float:
        """Bytes of an activation element."""
        return BYTES[self.linear.activations]

    @property
    def kv(self) -> float:
        """Bytes of a KV-cache element."""
        return BYTES[self.linear.kv]

    @property
    def dtype(self) -> str:
        """The type that attention computes in (caches are widened on the way in)."""
        return self.linear.activations
