"""A plan: how a model is laid on a cluster and run, as plain data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from windtunnel.models.dtypes import PRECISIONS, Precision
from windtunnel.ops.tree import Node
from windtunnel.ops.values import Value
from windtunnel.scenario.layout import Layout

Recompute = Literal["none", "selective", "full"]

TreeRewrite = Callable[[Node], Node]
"""Another tree for that of one layer (or of the parts before and after the layers). In training it is given forward
trees; backward trees follow from what it returns."""


@dataclass(frozen=True, slots=True)
class Optimizer:
    """``state_bytes``: what an updated parameter keeps beside its master copy."""

    name: str
    state_bytes: float


OPTIMIZERS: dict[str, Optimizer] = {
    # Two fp32 moments (Loshchilov and Hutter, arXiv 1711.05101).
    "adamw": Optimizer("adamw", 8.0),
    "adam": Optimizer("adam", 8.0),
    "sgd": Optimizer("sgd", 0.0),
    "sgd-momentum": Optimizer("sgd-momentum", 4.0),
    # One fp32 momentum (Chen et al., arXiv 2302.06675; Muon: Jordan et al. 2024).
    "lion": Optimizer("lion", 4.0),
    "muon": Optimizer("muon", 4.0),
    # Two 8-bit moments and a scale a block of 2,048 (Dettmers et al., arXiv 2110.02861).
    "adam8bit": Optimizer("adam8bit", 2.0 + 8.0 / 2048),
    # Row and column sums only (Shazeer and Stern, arXiv 1804.04235): of the order of a thousandth.
    "adafactor": Optimizer("adafactor", 0.0),
}


@dataclass(frozen=True, slots=True)
class Finetune:
    """What is trained: everything, or rank-``r`` adapters on a frozen base kept in ``bits`` bits (LoRA, arXiv
    2106.09685; QLoRA, arXiv 2305.14314). ``targets``: "attention", "mlp" or "all" linear layers."""

    kind: Literal["full", "lora", "qlora"] = "full"
    r: int = 16
    bits: int = 16
    targets: Literal["attention", "mlp", "all"] = "all"


@dataclass(frozen=True, slots=True)
class TrainPlan:
    """One training step. ``micro_batch`` and ``global_batch`` in sequences of ``seq`` tokens."""

    layout: Layout = field(default_factory=Layout)
    micro_batch: Value = 1
    global_batch: Value = 1
    seq: int = 2048
    virtual_stages: Value = 1
    schedule: str = "1f1b"
    zero: int = 1
    hsdp: Value | None = None
    sequence_parallel: bool = False
    context: Literal["ring", "ulysses"] = "ring"
    linear: Precision = PRECISIONS["bf16"]
    precision: str = "bf16"
    weight_bytes: float = 2.0
    recompute: Recompute = "none"
    optimizer: Optimizer = OPTIMIZERS["adamw"]
    finetune: Finetune = Finetune()
    eager_attention: bool = False
    offload_optimizer: Literal["", "cpu", "nvme"] = ""
    offload_params: Literal["", "cpu", "nvme"] = ""
    offload_activations: Literal["", "cpu", "nvme"] = ""
    document_tokens: float | None = None
    """E[l^2]/E[l] of the documents packed into a sequence; None: one document each."""
    rewrites: tuple[TreeRewrite, ...] = ()

    @property
    def micro_batches(self) -> Value:
        return self.global_batch / (self.layout.dp * self.micro_batch)


@dataclass(frozen=True, slots=True)
class Away:
    """Shares of something that is kept off the device: in the host's memory, on local drives."""

    cpu: float = 0.0
    nvme: float = 0.0

    @property
    def total(self) -> float:
        return self.cpu + self.nvme


@dataclass(frozen=True, slots=True)
class ServePlan:
    """One serving engine: its layout and settings. ``weights_away``: of the layers' weights, ``kv_away``: of the KV
    cache; ``block_batches``: batches that take turns on each layer while its weights are there."""

    layout: Layout = field(default_factory=Layout)
    linear: Precision = PRECISIONS["bf16"]
    experts: Precision = PRECISIONS["bf16"]
    precision: str = "bf16"
    max_batched_tokens: int = 8192
    max_sequences: int = 256
    block_size: int = 16
    kv_blocks: int | None = None
    memory_utilization: float = 0.9
    max_model_len: int | None = None
    weights_away: Away = Away()
    kv_away: Away = Away()
    block_batches: int = 1
    rewrites: tuple[TreeRewrite, ...] = ()

    @property
    def offloads(self) -> bool:
        """Whether anything is kept off the device."""
        return self.weights_away.total > 0 or self.kv_away.total > 0
