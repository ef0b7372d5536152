"""What is known of training frameworks and serving engines, as data: one small YAML file each.

A version is a file of its own that ``extends`` another and states what differs, so that a study can use the engine
of a paper's year. ``NAME@VERSION`` names it.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from windtunnel.errors import ScenarioError, unknown

FOLDER = Path(__file__).parent / "profiles"


class _Profile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    description: str
    sources: dict[str, str] = Field(default_factory=dict)
    """Where each value that is not a default comes from, by key; an inherited value keeps its own."""
    attention: Literal["eager", "flash1", "flash2", "flash3"] = "flash2"
    sequence_parallel: bool = False
    graphs: bool = False
    all_reduce: Literal["nccl", "custom"] = "nccl"
    in_network: bool = True
    hierarchical: bool = False
    """Collectives over nodes may run level by level, besides in one ring or tree over all ranks."""
    fused: frozenset[
        Literal["norm", "rope", "activation", "residual", "softmax", "cross_entropy", "qkv", "add_norm", "quantize"]
    ] = frozenset()
    """Groups of small kernels that run as one: bias and dropout with the addition (``residual``), the addition with
    the next norm (``add_norm``), biases and products with the activation, the cast to 8 bits with the norm or
    activation before it (``quantize``), …"""
    interference: float = Field(0.1, ge=0, le=1)
    """Of communication behind compute: 0 hides it ideally, 1 not at all."""
    expert_imbalance: float = Field(1.0, ge=1)
    """Rows of the busiest expert rank over the mean."""
    workspace_bytes: float = Field(0, ge=0)
    """Device memory beside the model: context, communication buffers, allocator slack."""


class TrainEngine(_Profile):
    """A training framework."""

    kind: Literal["train"] = "train"
    zero: Literal[0, 1, 2, 3] = 1
    """Sharding when the plan does not say."""
    overlap_gradients: bool = True
    overlap_parameters: bool = True
    bucket_parameters: float = Field(40e6, gt=0)
    gradient_bytes: float = Field(4, gt=0)
    """Bytes an accumulated gradient element is held in."""
    reduce_bytes: float = Field(4, gt=0)
    """Bytes a gradient element has on the wire."""
    offload_gradients: bool = False
    """With an offloaded optimizer, gradients leave for the host layer by layer behind the backward pass and wait for
    the update there; otherwise the device holds them until then."""
    master_weights: bool = True
    """An fp32 copy of the weights beside a 16-bit one."""
    sharded_master_only: bool = False
    """The sharded fp32 copy is the only one; 16-bit weights exist for the layers in use (FSDP, ZeRO-3)."""
    gathered_layers: float = Field(2, ge=0)
    """Whole layers held at once under zero 3."""
    optimizer_traffic_bytes: float = Field(40, gt=0)
    """Bytes the update moves for each parameter it owns."""
    host_s_per_layer: float = Field(0, ge=0)
    """Host seconds to issue one layer's forward pass."""
    host_backward_ratio: float = Field(1.6, gt=0)
    host_s_per_step: float = Field(0, ge=0)
    tp_overlap_backward: bool = False
    """In the backward pass, tensor-parallel collectives run beside the gradient kernels (asynchronous all-reduce)."""
    tp_overlap: bool = False
    """Tensor-parallel communication is pipelined with the GEMM beside it."""
    logits_bytes: float = Field(6, gt=0)
    """Bytes held at once for each logit of a micro-batch."""
    selective: Literal["core", "operators"] = "core"
    """What selective recomputation runs again: attention's inside (Megatron-LM), or all but every other product and
    attention (torchtitan)."""
    schedules: frozenset[Literal["gpipe", "1f1b", "interleaved", "zero-bubble", "dualpipe"]] = frozenset(
        {"gpipe", "1f1b", "interleaved", "zero-bubble", "dualpipe"}
    )
    """Pipeline schedules that the framework itself has. Others are priced all the same."""
    recompute_stops: bool = False
    """Full recomputation of a layer stops where all is there that its backward pass reads: without its last product."""
    expert_tp: Literal["tp", "one"] = "tp"
    """Tensor-parallel ranks inside an expert when the plan does not say."""
    expert_dispatch: Literal["copies", "once"] = "copies"
    """Tokens travel to experts in a copy for each expert, or over networks once to each node that has some of them
    (DeepEP, HybridEP)."""
    expert_passes: float = Field(1, ge=1)
    """Times that the permutation of tokens for experts, and its undoing, move what one pass moves (probabilities,
    padding, index arithmetic and masks in kernels of their own)."""
    expert_host_s: float = Field(0, ge=0)
    """Host seconds that a layer of experts adds to its forward pass: waiting for token counts, issuing the experts'
    kernels."""
    dropout: bool = False
    """Dropout is applied where the architecture has it (models before 2022)."""
    vocab_multiple: int = Field(128, gt=0)
    """The output rows are padded to a multiple of this times tp."""
    checkpoint_writer_bytes_per_s: float | None = Field(None, gt=0)
    """What one process writes of a checkpoint (its serialisation, one stream to the store); None: no limit of its
    own."""
    lazy_checkpoints: bool = False
    """The copy of an asynchronous checkpoint to host memory hides behind the next forward and backward passes, which
    do not change the state, and its pieces are written as they come; otherwise training stops for it."""
    checkpoint_cache_bytes: float | None = Field(None, ge=0)
    """Host memory that lazy copies of an accelerator's state may take; None: whatever they need."""


class ServeEngine(_Profile):
    """A serving engine."""

    kind: Literal["serve"] = "serve"
    scheduler: Literal["static", "prefill-first", "chunked", "iteration"] = "chunked"
    """How prompts and decodes share iterations: see ``serving``."""
    max_batched_tokens: int = Field(8192, gt=0)
    max_sequences: int = Field(256, gt=0)
    block_size: int = Field(16, gt=0)
    memory_utilization: float = Field(0.9, gt=0, le=1)
    """Share of the device's memory that the engine takes; with ``cache_of_free`` the cache's share of what weights and
    activations leave."""
    cache_of_free: bool = False
    host_s_per_step: float = Field(0, ge=0)
    """Scheduling, input preparation and output handling of an iteration, while the device waits unless
    ``asynchronous``."""
    host_s_per_sequence: float = Field(0, ge=0)
    host_s_per_layer: float = Field(0, ge=0)
    """Host seconds to issue one layer's kernels, beside the device; with ``graphs`` of iterations with prompts alone,
    since decoding replays a graph."""
    first_token_s: float = Field(0, ge=0)
    """Tokenisation, HTTP and queues of the server before the engine, once a request. Calls of the
    engine itself (``infer``; ``simulate`` with all requests at time 0) have none."""
    asynchronous: bool = False
    """The host prepares the next step while the device runs this one."""
    sampling_kernels: float = Field(0, ge=0)
    """Kernels that sampling runs for each sequence, beside one for all: the next iteration waits for them."""
    reserve: Literal["prompt", "output"] = "prompt"
    """KV cache taken when a request is admitted: its prompt's, or that of its whole answer, too."""
    mixed_attention: float = Field(1.0, ge=1)
    """Time of a mixed prefill and decode attention call over the sum of the two alone."""
    quantize_kernels: float | None = Field(1.0, ge=0)
    """Kernels that bring the input of an 8-bit product to 8 bits with a scale, where nothing before it does; None:
    inputs stay in 16 bits."""
    checks_apart: bool = False
    """Guesses of a sequence are checked as sequences of their own, each of which the host prepares and which reads the
    cache again; else as several queries of one."""
    offload_overlap: bool = True
    """What is kept off the device arrives while the layers before run; otherwise the device waits for it."""
    offload_bytes_per_s: float | None = Field(None, gt=0)
    """At most that many bytes a second arrive from memory that is not page-locked: the driver's thread copies them
    first. None: it is page-locked."""
    offload_store_bytes_per_s: float | None = Field(None, gt=0)
    """The same of what leaves the device (new tokens of a KV cache)."""
    host_attention: bool = False
    """Decoding attends on the host to what of the KV cache is kept off the device."""
    host_attention_traffic: float = Field(1.0, ge=1)
    """Bytes of host memory that attention there moves for each byte of the cache (conversions to fp32)."""
    cache_copies: float = Field(1.0, ge=1)
    """Copies of the KV cache on the device at the end of a step: old and new where each step joins them anew."""
    score_bytes: float = Field(0.0, ge=0)
    """Bytes that unfused attention over prompts holds at once for each score of a layer."""
    fp8_cache: bool = False
    """Weights quantised to fp8 for this engine come with a KV cache in fp8."""


Engine = TrainEngine | ServeEngine


@cache
def engine_names() -> tuple[str, ...]:
    """Every profile, versions included."""
    return tuple(sorted(p.stem for p in FOLDER.glob("*.yaml")))


@cache
def load_engine(name: str, kind: Literal["train", "serve"]) -> Engine:
    """The profile ``NAME`` or ``NAME@VERSION``.

    Raises:
        ScenarioError: no such profile, or one of the other kind.
    """
    data = _read(name, kind)
    cls = TrainEngine if kind == "train" else ServeEngine
    try:
        return cls.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        raise ScenarioError(
            f"engine profile {name!r}: {first['loc'][0] if first['loc'] else ''}: {first['msg']}"
        ) from None


def _read(name: str, kind: str) -> dict[str, Any]:
    if name not in engine_names() or _resolved(name).get("kind") != kind:
        raise unknown("engine", name, [n for n in engine_names() if _resolved(n).get("kind") == kind])
    return _resolved(name)


def _resolved(name: str) -> dict[str, Any]:
    data = dict(_raw(name))
    parent = data.pop("extends", None)
    if parent is None:
        return data
    inherited = _resolved(parent)
    kept = {key: source for key, source in inherited.get("sources", {}).items() if key not in data}
    return {**inherited, **data, "sources": {**kept, **data.get("sources", {})}}


@cache
def _raw(name: str) -> dict[str, Any]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    data = yaml.load((FOLDER / f"{name}.yaml").read_text(), Loader=loader)
    return data if isinstance(data, dict) else {}
