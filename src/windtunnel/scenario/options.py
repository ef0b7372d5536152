"""What a user can ask for, as they write it. Validated by pydantic; every problem is one clear line."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from windtunnel.errors import ScenarioError, unknown
from windtunnel.scenario.text import shown

SCHEDULES = ("gpipe", "1f1b", "interleaved", "zero-bubble", "dualpipe")
"""Names of pipeline schedules; ``training`` knows what they do."""


class Options(BaseModel):
    """What every command takes."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)

    model: str = Field(
        min_length=1, max_length=4096, description="catalogue name, or path of a config.json or of its folder"
    )
    on: str = Field(
        min_length=1, max_length=4096, description="the cluster as COUNTxDEVICE, such as 8xh100-sxm, or a YAML file"
    )
    set: dict[str, float | str | bool] = Field(
        default_factory=dict, description="change a hardware figure; its name states the unit: nic_gbit_per_s=400"
    )
    tp: int = Field(1, ge=1, le=1_000_000, description="tensor-parallel ranks")
    pp: int = Field(1, ge=1, le=1_000_000, description="pipeline stages")
    dp: int | None = Field(
        default=None, ge=1, le=1_000_000, description="data-parallel ranks; in serving, of attention in one engine"
    )
    ep: int = Field(1, ge=1, le=1_000_000, description="expert-parallel ranks")
    etp: int | None = Field(default=None, ge=1, le=1_000_000, description="tensor-parallel ranks inside an expert")
    precision: str | None = Field(
        default=None,
        description="number format of weights and compute: bf16, fp16, fp8, fp32 ...; serving also w4a16, w8a8 ...",
    )
    engine: str = Field(
        default="megatron", description="training framework, NAME or NAME@VERSION: megatron, fsdp, deepspeed ..."
    )
    calibration: str | None = Field(
        default=None, description="file of fitted constants to use instead of the shipped ones"
    )
    techniques: list[str] = Field(
        default_factory=list,
        description="switch on a published technique, name or name:param=value,…: see windtunnel techniques",
    )

    @field_validator("techniques", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        """One is the same as a list of one."""
        return [value] if isinstance(value, str) else value

    @field_validator("*", mode="before")
    @classmethod
    def _numbers_and_text(cls, value: Any, info: Any) -> Any:
        """The same value from Python, a command line and a file: digits are a number and a number is text where the
        option is one; a truth value is neither."""
        annotation = cls.model_fields[info.field_name].annotation
        accepted = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
        choices = [c for a in accepted if get_origin(a) is Literal for c in get_args(a)]
        numbers = {str(c): c for c in choices if isinstance(c, int)}
        if isinstance(value, bool):
            if numbers or int in accepted or float in accepted:
                raise ValueError("a number is needed")
        elif isinstance(value, str):
            return numbers.get(value, value)
        elif isinstance(value, int | float) and str in accepted:
            return shown(value)
        return value


class TrainOptions(Options):
    """``windtunnel train``."""

    cp: int = Field(1, ge=1, le=1_000_000, description="context-parallel ranks (parts of a sequence)")
    virtual_stages: int = Field(1, ge=1, le=1000, description="model chunks of a pipeline stage (interleaved schedule)")
    schedule: str | None = Field(default=None, description=f"pipeline schedule: {', '.join(SCHEDULES)}")
    zero: Literal[0, 1, 2, 3] | None = Field(
        default=None,
        description="sharded over data-parallel ranks: 1 optimizer state, 2 also gradients, 3 also weights (FSDP)",
    )
    hsdp: int | None = Field(
        default=None, ge=1, le=1_000_000, description="with zero=3, shard within groups of this many ranks"
    )
    sequence_parallel: bool | None = Field(
        default=None, description="split norms and residuals over the tensor-parallel ranks"
    )
    context_parallel: Literal["ring", "ulysses"] = Field(
        default="ring", description="how attention is spread over cp ranks"
    )
    micro_batch: int = Field(
        1, ge=1, le=1_000_000, description="sequences of one micro-batch on one data-parallel rank"
    )
    global_batch: int | None = Field(default=None, ge=1, le=1_000_000_000, description="sequences of one step")
    seq: int | None = Field(default=None, ge=1, le=100_000_000, description="tokens of a sequence")
    recompute: Literal["none", "selective", "full"] = Field(
        default="none", description="activations computed again in the backward pass"
    )
    optimizer: str = Field(default="adamw", description="adamw, sgd, sgd-momentum, lion, muon, adam8bit, adafactor ...")
    flash_attention: bool | None = Field(default=None, description="fused attention kernels")
    finetune: str = Field(default="full", description="what is trained: full, lora:r=16 or qlora:r=16,bits=4")
    offload: str | None = Field(
        default=None, description="what leaves the device, and to where: optimizer:cpu,params:nvme,activations:cpu"
    )
    packed_lengths: str | None = Field(
        default=None, description="tokens of packed documents: 512, uniform:100,900 or lognormal:mean=600,cv=1.2"
    )
    flops_convention: Literal["full", "causal"] = Field(
        default="full", description="attention of the model FLOPs in mfu counted in full or causally"
    )
    tokens: float | None = Field(
        default=None,
        gt=0,
        le=1e18,
        allow_inf_nan=False,
        description="tokens of the whole run: adds its time, energy and cost",
    )
    mtbf_hours: float | None = Field(
        default=None, gt=0, le=1e12, allow_inf_nan=False, description="hours between interruptions of the whole job"
    )
    accelerator_mtbf_hours: float | None = Field(
        default=None, gt=0, le=1e12, allow_inf_nan=False, description="hours between failures of one accelerator"
    )
    node_mtbf_hours: float | None = Field(
        default=None, gt=0, le=1e12, allow_inf_nan=False, description="hours between failures of one node's other parts"
    )
    detection_s: float | None = Field(
        default=None, ge=0, le=1e9, allow_inf_nan=False, description="seconds until a failure is found"
    )
    restart_s: float | None = Field(
        default=None, ge=0, le=1e9, allow_inf_nan=False, description="seconds to start the job, loading aside"
    )
    checkpoint_every: str = Field(
        default="auto", description="seconds of work between checkpoints, a number of steps (10steps), or auto"
    )
    checkpoint_to: str | None = Field(
        default=None,
        description="where checkpoints go: dram, nvme, parallel-fs or object-store, or one with figures of your own as "
        "parallel-fs:aggregate_write_gbyte_per_s=650",
    )
    checkpoint_async: bool = Field(default=False, description="train on while checkpoints are written")
    straggler_cv: float = Field(
        default=0.0, ge=0, le=10, allow_inf_nan=False, description="standard deviation over mean of a rank's step time"
    )


class ServeOptions(Options):
    """What every question about a serving engine takes."""

    engine: str = Field(
        default="vllm", description="serving engine, NAME or NAME@VERSION: vllm, sglang, tensorrt-llm ..."
    )
    replicas: int = Field(1, ge=1, le=1_000_000, description="engines side by side")
    kv_precision: str | None = Field(default=None, description="number format of the KV cache")
    kv_blocks: int | None = Field(
        default=None, ge=1, le=10**12, description="blocks of the KV cache, instead of what memory holds"
    )
    block_size: int | None = Field(default=None, ge=1, le=65536, description="tokens of a KV-cache block")
    memory_utilization: float | None = Field(
        default=None, gt=0, le=1, description="share of device memory that the engine may use, 0 to 1"
    )
    max_model_len: int | None = Field(
        default=None, ge=1, le=100_000_000, description="longest context of a request in tokens"
    )
    chunk: int | None = Field(
        default=None, ge=1, le=100_000_000, description="most tokens of one iteration (chunked prefill)"
    )
    max_batch: int | None = Field(default=None, ge=1, le=1_000_000, description="most sequences of one iteration")
    all_reduce: Literal["nccl", "custom"] | None = Field(
        default=None, description="sums over tensor-parallel ranks: NCCL's, or the engine's own inside a node"
    )


class InferOptions(ServeOptions):
    """``windtunnel infer``."""

    batch: int = Field(1, ge=1, le=1_000_000, description="sequences that arrive together at one engine")
    input: int = Field(1024, ge=1, le=100_000_000, description="tokens of a prompt")
    output: int = Field(128, ge=1, le=100_000_000, description="tokens generated for each prompt")
    offload: str | None = Field(
        default=None,
        max_length=4096,
        description="what is kept off the device, where, and how much of it: weights:cpu, weights:cpu=0.6,kv:cpu, "
        "weights:nvme",
    )
    block_batches: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="parts of the batch that take turns on each layer while its weights are there (default: 1)",
    )
    long_context: bool = Field(
        default=False,
        description="say what a context of --input tokens costs beside a short one: prefill, users at once, decoding, "
        "context switches",
    )
    short_context: int = Field(4096, ge=1, le=100_000_000, description="tokens of the short context beside it")
    rounds: int = Field(5, ge=1, le=1_000_000, description="answers of --output tokens in a session about one document")


T = TypeVar("T", bound=Options)

WORDS: Mapping[str, str] = MappingProxyType({"techniques": "with", "tries": "try"})
"""What files and the command line call options whose names are words of the language to Python."""


_OPTIONS = {word: name for name, word in WORDS.items()}


def asked_of(options: Options) -> dict[str, Any]:
    """What was asked for, by the names that files and the command line use; defaults are left out."""
    asked = options.model_dump(exclude_unset=True, exclude_none=True)
    return {WORDS.get(k, k): v for k, v in asked.items() if v or k not in ("set", *WORDS)}


def read_options(kind: type[T], given: Mapping[str, Any]) -> T:
    """Options from keyword arguments, a command line or a YAML file; keys with dashes or underscores.

    Raises:
        ScenarioError: an unknown option, a value of the wrong kind or out of range.
    """
    cleaned: dict[str, Any] = {}
    for key, value in given.items():
        name = key.replace("-", "_") if isinstance(key, str) else shown(key)
        name = _OPTIONS.get(name, name)
        if name not in kind.model_fields:
            raise unknown("option", name, kind.model_fields)
        if name in cleaned:
            raise ScenarioError(f"{name} is given twice; accepted: one of {name} and {name.replace('_', '-')}")
        if value is not None:
            cleaned[name] = value
    try:
        return kind.model_validate(cleaned)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(x) if str(x).isidentifier() else shown(x) for x in first["loc"][:2])
        said = first["msg"].removeprefix("Value error, ").replace("Input should be", "it should be")
        if first["type"] == "missing":
            raise ScenarioError(
                f"{where} is missing; say {'which model' if where == 'model' else 'where to run'}"
            ) from None
        raise ScenarioError(f"{where}={shown(first.get('input'))}: {said}") from None
