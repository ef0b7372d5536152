"""What a network is made of: plain data, read from a ``config.json`` by :mod:`windtunnel.models.config`.

A :class:`Network` is a sequence of :class:`Block` s; a block is a mixer (attention, a state-space layer, …)
and a feed-forward part (dense or mixture of experts). Every part knows its own exact number of parameters.
All sizes are counts (heads, channels, tokens); nothing here knows how a network is laid on machines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from windtunnel.models.sparse import USES, SparseKV, Use

Position = Literal["rope", "learned", "alibi", "relative", "none"]


@dataclass(frozen=True, slots=True)
class Norm:
    """A normalisation over ``size`` channels; ``affine`` counts its vectors (RMSNorm 1, LayerNorm 2, none 0)."""

    size: int
    affine: int = 1

    @property
    def parameters(self) -> int:
        return self.size * self.affine


@dataclass(frozen=True, slots=True)
class Attention:
    """Multi-head attention with ``kv_heads`` key/value heads (MHA, GQA, MQA), optionally in a sliding window.

    ``window``: tokens a query sees at most, itself included (None: all); with ``chunked`` the sequence is cut into
    chunks of ``window`` tokens and a query sees its own chunk only (Llama 4). ``gated``: a query-sized output gate,
    projected along with the queries (Qwen3-Next). ``sinks``: one learned logit a head (gpt-oss). ``cross``: keys and
    values come from the encoder. ``extra_parameters`` counts what is neither a projection nor a norm. ``sparse``: what
    serving keeps of its context (None: all).
    """

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    v_head_dim: int
    q_bias: bool = False
    kv_bias: bool = False
    out_bias: bool = False
    norms: tuple[Norm, ...] = ()
    window: int | None = None
    causal: bool = True
    cross: bool = False
    position: Position = "rope"
    gated: bool = False
    sinks: bool = False
    extra_parameters: int = 0
    chunked: bool = False
    sparse: SparseKV | None = None

    @property
    def q_size(self) -> int:
        """Output channels of the query projection (the gate included)."""
        return self.heads * self.head_dim * (2 if self.gated else 1)

    @property
    def k_size(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def v_size(self) -> int:
        return self.kv_heads * self.v_head_dim

    @property
    def out_size(self) -> int:
        """Input channels of the output projection."""
        return self.heads * self.v_head_dim

    @property
    def view(self) -> int | None:
        """What a query sees of what precedes it: None all, w > 0 the last w tokens, -c those of its chunk of c."""
        return -self.window if self.chunked and self.window is not None else self.window

    @property
    def kv_elements_per_token(self) -> int:
        """Elements that one token leaves in the KV cache of this layer.

        Nothing grows in cross attention, and attention that looks both ways cannot be continued from a cache.
        """
        return self.k_size + self.v_size if self.causal and not self.cross else 0

    @property
    def parameters(self) -> int:
        q = self.hidden * self.q_size + self.q_bias * self.q_size
        kv = (self.hidden + self.kv_bias) * (self.k_size + self.v_size)
        out = self.out_size * self.hidden + self.out_bias * self.hidden
        norms = sum(n.parameters for n in self.norms)
        return q + kv + out + norms + self.sinks * self.heads + self.extra_parameters


@dataclass(frozen=True, slots=True)
class LatentAttention:
    """Multi-head latent attention (MLA; DeepSeek-V2, arXiv 2405.04434, section 2.1).

    The cache holds ``kv_lora_rank`` latent channels and ``rope_head_dim`` shared rotary channels a token.
    ``q_lora_rank`` None: queries are projected directly. ``sparse``: what serving keeps of its context (None: all).
    """

    hidden: int
    heads: int
    q_lora_rank: int | None
    kv_lora_rank: int
    nope_head_dim: int
    rope_head_dim: int
    v_head_dim: int
    bias: bool = False
    causal: bool = True
    window: int | None = None
    sparse: SparseKV | None = None

    @property
    def view(self) -> int | None:
        """As :attr:`Attention.view`."""
        return self.window

    @property
    def head_dim(self) -> int:
        return self.nope_head_dim + self.rope_head_dim

    @property
    def out_size(self) -> int:
        return self.heads * self.v_head_dim

    @property
    def kv_elements_per_token(self) -> int:
        return self.kv_lora_rank + self.rope_head_dim

    @property
    def parameters(self) -> int:
        down = (self.hidden + self.bias) * (self.kv_lora_rank + self.rope_head_dim)
        up = self.kv_lora_rank * self.heads * (self.nope_head_dim + self.v_head_dim) + self.kv_lora_rank
        if self.q_lora_rank is None:
            q = self.hidden * self.heads * self.head_dim
        else:
            q = self.hidden * self.q_lora_rank + self.bias * self.q_lora_rank
            q += self.q_lora_rank + self.q_lora_rank * self.heads * self.head_dim
        return q + down + up + self.out_size * self.hidden + self.bias * self.hidden


def kept(mixer: Attention | LatentAttention, use: Use) -> tuple[tuple[float, int | None], ...]:
    """(share, view) of the parts of its context that a layer holds, reads, or lets prompts attend to."""
    return ((1.0, mixer.view),) if mixer.sparse is None else mixer.sparse.parts(use, mixer.view)


def views_of(mixer: Attention | LatentAttention) -> frozenset[int | None]:
    """Every view of the context that a layer's work or cache depends on."""
    if mixer.sparse is None:
        return frozenset({mixer.view})
    return frozenset(view for use in USES for _, view in kept(mixer, use))


@dataclass(frozen=True, slots=True)
class StateSpace:
    """A recurrent mixer with a fixed-size state: Mamba, Mamba-2 or a gated delta net.

    ``in_size``/``inner``: channels of the input projection's output and of the output projection's input.
    ``state_elements``: elements of recurrent state a sequence (the convolution's tail included), which is what
    stays in memory instead of a KV cache. ``scan_flops_per_token``: FLOPs of the recurrence and convolution.
    ``inner_parameters``: everything that is neither the input nor the output projection.
    ``version``: "mamba", "mamba2" or "delta".
    """

    hidden: int
    in_size: int
    inner: int
    state_elements: int
    scan_flops_per_token: float
    inner_parameters: int
    inner_gemms: tuple[tuple[int, int], ...] = ()
    bias: bool = False
    version: Literal["mamba", "mamba2", "delta"] = "mamba2"

    @property
    def kv_elements_per_token(self) -> int:
        return 0

    @property
    def parameters(self) -> int:
        """``inner_gemms`` are (in, out) projections inside the layer; their weights are in ``inner_parameters``."""
        projections = self.hidden * self.in_size + self.inner * self.hidden
        return projections + self.bias * (self.in_size + self.hidden) + self.inner_parameters


@dataclass(frozen=True, slots=True)
class MLP:
    """A feed-forward part: up (and gate), activation, down."""

    hidden: int
    intermediate: int
    gated: bool
    bias: bool = False
    activation: str = "silu"

    @property
    def parameters(self) -> int:
        ups = 2 if self.gated else 1
        weights = (ups + 1) * self.hidden * self.intermediate
        return weights + self.bias * (ups * self.intermediate + self.hidden)


@dataclass(frozen=True, slots=True)
class MoE:
    """A mixture of ``experts`` MLPs of which each token visits ``top_k``, plus ``shared`` (every token).

    ``router_parameters``: the router's weights and biases and a shared expert's gate. ``shared_gate``: the shared
    expert's output is scaled by a learned gate of one channel (Qwen2-MoE).
    """

    experts: int
    top_k: int
    expert: MLP
    shared: MLP | None = None
    router_parameters: int = 0
    shared_gate: bool = False

    @property
    def hidden(self) -> int:
        return self.expert.hidden

    @property
    def parameters(self) -> int:
        shared = self.shared.parameters if self.shared else 0
        return self.experts * self.expert.parameters + shared + self.router_parameters

    @property
    def active_parameters(self) -> int:
        return self.parameters - (self.experts - self.top_k) * self.expert.parameters


Mixer = Attention | LatentAttention | StateSpace
FeedForward = MLP | MoE


@dataclass(frozen=True, slots=True)
class Block:
    """One layer: an optional mixer, an optional cross attention, an optional feed-forward part, and norms.

    ``parallel``: mixer and feed-forward read the same input and are added together (GPT-J, PaLM, Falcon).
    """

    mixer: Mixer | None
    ffn: FeedForward | None
    norms: tuple[Norm, ...]
    cross: Attention | None = None
    parallel: bool = False

    @property
    def parameters(self) -> int:
        parts = [p for p in (self.mixer, self.cross, self.ffn) if p is not None]
        return sum(p.parameters for p in parts) + sum(n.parameters for n in self.norms)

    @property
    def active_parameters(self) -> int:
        idle = self.ffn.parameters - self.ffn.active_parameters if isinstance(self.ffn, MoE) else 0
        return self.parameters - idle


@dataclass(frozen=True, slots=True)
class Quantization:
    """How a checkpoint stores its weights: a precision name of :mod:`windtunnel.models.dtypes` and what it covers."""

    precision: str
    covers: Literal["linear", "experts"] = "linear"
    method: str = ""


@dataclass(frozen=True, slots=True)
class Network:
    """A whole network. ``blocks``: the decoder's (or only) layers in order; equal blocks compare equal.

    ``embedding_parameters``: token, position and type tables and their norms. ``head_parameters``: the output
    projection's own parameters (0 where it is tied to the token table). ``other_parameters``: final norms, poolers,
    relative-position tables and whatever else is outside the layers. ``vocab_size`` rows are in the output.
    ``max_positions``: the longest sequence that the configuration allows (None: not stated).
    ``head_width``: input channels of the output projection where they are not ``hidden_size`` (OPT-350m).
    ``extra_flops_per_token``: forward FLOPs of dense products outside the layers and the output projection (a patch
    projection, a convolutional stem), a token of the encoder where there is one.
    ``published_parameters``: what the makers or the hub state, where known; ``notes`` says what it covers.
    """

    name: str
    model_type: str
    hidden_size: int
    vocab_size: int
    blocks: tuple[Block, ...]
    embedding_parameters: int
    head_parameters: int
    other_parameters: int = 0
    encoder: tuple[Block, ...] = ()
    has_head: bool = True
    tied: bool = False
    max_positions: int | None = None
    dtype: str = "bf16"
    quantization: Quantization | None = None
    source: str = ""
    notes: Mapping[str, str] = field(default_factory=dict)
    head_width: int | None = None
    extra_flops_per_token: float = 0.0
    published_parameters: int | None = None

    @property
    def layers(self) -> int:
        return len(self.blocks) + len(self.encoder)

    @property
    def total_parameters(self) -> int:
        blocks = sum(b.parameters for b in self.encoder + self.blocks)
        return blocks + self.embedding_parameters + self.head_parameters + self.other_parameters

    @property
    def active_parameters(self) -> int:
        """Parameters that one token touches: all but the experts it does not visit (embedding and head included)."""
        idle = sum(b.parameters - b.active_parameters for b in self.encoder + self.blocks)
        return self.total_parameters - idle

    @property
    def views(self) -> tuple[int, ...]:
        """The distinct windows and chunks of its attention layers (see :attr:`Attention.view`), and what they keep."""
        mixers = {id(b.mixer): b.mixer for b in self.encoder + self.blocks}.values()
        found = {v for m in mixers if isinstance(m, Attention | LatentAttention) for v in views_of(m)}
        return tuple(sorted(v for v in found if v is not None))

    @property
    def kv_elements_per_token(self) -> int:
        """KV-cache elements a token while every window still grows."""
        return sum(b.mixer.kv_elements_per_token for b in self.blocks if b.mixer is not None)

    @property
    def cross_kv_elements_per_source_token(self) -> int:
        """Elements that one encoder token leaves in the decoder's cross-attention caches (0 without an encoder)."""
        return sum(b.cross.k_size + b.cross.v_size for b in self.blocks if b.cross is not None)

    @property
    def state_elements(self) -> int:
        """Recurrent-state elements a sequence."""
        return sum(b.mixer.state_elements for b in self.blocks if isinstance(b.mixer, StateSpace))


def with_mixers(network: Network, change: Callable[[Attention | LatentAttention], Mixer]) -> Network:
    """The network with other attention in its (decoder's) layers. Equal layers stay one object."""
    made = {
        id(b): replace(b, mixer=change(b.mixer)) if isinstance(b.mixer, Attention | LatentAttention) else b
        for b in network.blocks
    }
    return replace(network, blocks=tuple(made[id(b)] for b in network.blocks))
