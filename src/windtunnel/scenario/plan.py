"""A plan: how a model is laid on a cluster and run, as plain data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from windtunnel.models.dtypes import PRECISIONS, Precision
from windtunnel.ops.tree import Node
from windtunnel.ops.values import Value
from windtunnel.scenario.layout import Layout
from windtunnel.scenario.speculation import Speculation
from windtunnel.scenario.stored import StoredContext

Recompute = Literal["none", "selective", "full"]

TreeRewrite = Callable[[Node], Node]
"""Another tree for that of one layer (or of the parts before and after the layers). In training it is given forward
trees; backward trees follow from what it returns."""


@dataclass(frozen=True, slots=True)
class LowRank:
    """The layers' matrices are updated in a subspace: of a gradient [m, n] with m <= n the moments are kept of its
    projection [``rank``, n], and the projector [m, ``rank``] in ``projector_bytes`` an element (0: made anew from a
    seed). ``refresh_steps``: steps from one singular value decomposition of the gradients to the next (0: none).
    """

    rank: Value
    projector_bytes: float = 2.0
    refresh_steps: float = 0.0


@dataclass(frozen=True, slots=True)
class Optimizer:
    """``state_bytes``: what an updated parameter keeps beside its master copy; with ``low_rank``, an element of a
    projected gradient."""

    name: str
    state_bytes: float
    low_rank: LowRank | None = None


OPTIMIZERS: dict[str, Optimizer] = {
    # Two fp32 moments (Loshchilov and Hutter, arXiv 1711.05101).
    "adamw": Optimizer("adamw", 8.0),
    # The same in the format of 16-bit weights, as PyTorch's AdamW keeps them for a model cast to bf16.
    "adamw-bf16": Optimizer("adamw-bf16", 4.0),
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
class Compression:
    """Gradients are made smaller before data-parallel ranks exchange them.

    An element takes ``density`` x (``value_bits`` + ``index_bits``) on the wire. ``exchange``: "sum" where the small
    form can be added up on the way (16- or 8-bit values, low rank); "gather" where every rank gets every other's
    (sparse values at places of their own: the payload grows with the ranks); "shards" where each rank collects its
    shard from all, adds it up and sends it on as small as it came (1-bit Adam). Ranks of ``node`` neighbours (1: none)
    first add up in full. Every step the device moves ``select_bytes`` for each parameter to choose or quantise, and
    ``buffer_bytes`` are kept for it (error feedback). In a share ``warmup`` of the steps gradients travel whole.
    """

    value_bits: float = 32.0
    index_bits: float = 0.0
    density: Value = 1.0
    exchange: Literal["sum", "gather", "shards"] = "sum"
    node: int = 1
    select_bytes: float = 0.0
    buffer_bytes: float = 0.0
    warmup: float = 0.0

    @property
    def wire_bytes(self) -> Value:
        """Bytes of a gradient element on the wire."""
        return self.density * (self.value_bits + self.index_bits) / 8


@dataclass(frozen=True, slots=True)
class LocalSteps:
    """Workers train on their own for ``period`` steps, then exchange what changed (local SGD, DiLoCo, CO2).

    A worker is ``worker`` neighbouring ranks that stay in step (a node; 1: each data-parallel rank by itself), or
    ``sharing`` if there are more of these and ZeRO shards state, which only ranks in step can share. ``behind``:
    further steps behind which the exchange runs (0: all wait for it; a whole period: it is stale by one). Parameters
    travel in ``fragments`` parts, each at a time of its own, as ``wire_bytes`` an element, summed over "all" workers
    or with one neighbour ("pair", gossip). ``buffer_bytes``: kept for each parameter (its value at the last exchange,
    the outer optimizer's momentum, what is on the way).
    """

    period: Value = 1
    behind: Value = 0
    worker: int = 1
    sharing: int = 1
    fragments: int = 1
    wire_bytes: float = 4.0
    partners: Literal["all", "pair"] = "all"
    buffer_bytes: float = 0.0


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
    partition_activations: bool = False
    """Full recomputation: each tensor-parallel rank keeps its share of a layer's input and gathers the rest again."""
    recompute_share: float = 1.0
    """Of the layers, how many recompute; the others keep everything."""
    optimizer: Optimizer = OPTIMIZERS["adamw"]
    finetune: Finetune = Finetune()
    eager_attention: bool = False
    offload_optimizer: Literal["", "cpu", "nvme"] = ""
    offload_params: Literal["", "cpu", "nvme"] = ""
    offload_activations: Literal["", "cpu", "nvme"] = ""
    streamed: bool = False
    """What is offloaded moves in both directions at once, layer by layer, and the host updates a layer as soon as its
    gradient is there. Otherwise copies queue on one link, and the update comes after the backward pass."""
    layerwise_update: bool = False
    """A layer is updated in the backward pass, as soon as its gradient is there: no others are held."""
    compression: Compression | None = None
    local: LocalSteps | None = None
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
    context_copies: Value = 1
    """Ranks that each hold what a sequence keeps of its context."""
    speculation: Speculation | None = None
    stored: StoredContext | None = None
    weights_away: Away = Away()
    kv_away: Away = Away()
    block_batches: int = 1
    rewrites: tuple[TreeRewrite, ...] = ()

    @property
    def offloads(self) -> bool:
        """Whether anything is kept off the device."""
        return self.weights_away.total > 0 or self.kv_away.total > 0
