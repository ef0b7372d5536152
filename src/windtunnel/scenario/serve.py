"""The serving side of the front door: model, cluster, engine and plan, checked against each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from windtunnel.errors import ScenarioError, unknown
from windtunnel.hardware import parse_cluster
from windtunnel.hardware.machine import Cluster
from windtunnel.models import load_network
from windtunnel.models.dtypes import BYTES, PRECISIONS, Precision
from windtunnel.models.network import Attention, LatentAttention, Network
from windtunnel.scenario.checks import check_experts, check_positions, check_stages, check_tp, has_experts
from windtunnel.scenario.engines import ServeEngine, load_engine
from windtunnel.scenario.layout import Layout
from windtunnel.scenario.options import InferOptions, ServeOptions
from windtunnel.scenario.own_engine import with_own_constants
from windtunnel.scenario.plan import ServePlan
from windtunnel.scenario.registry import requested, techniques_of
from windtunnel.scenario.serve_offload import serve_offload
from windtunnel.scenario.technique import ServeSetting, Technique
from windtunnel.scenario.text import shown


@dataclass(frozen=True, slots=True)
class InferScenario:
    """Everything that ``infer`` needs."""

    options: InferOptions
    network: Network
    cluster: Cluster
    engine: ServeEngine
    plan: ServePlan
    warnings: tuple[str, ...] = ()
    kind: Literal["infer"] = "infer"


def infer_scenario(options: InferOptions) -> InferScenario:
    """Read the model and the cluster, fill in the engine's defaults, check that the plan is possible.

    Raises:
        ScenarioError: an unknown name or a plan that cannot be laid out.
    """
    used = techniques_of(options, "infer")
    options = requested(options, used)
    network = served_network(options, used)
    cluster = parse_cluster(options.on, dict(options.set))
    warnings: list[str] = []
    engine = serving_engine(options, cluster, warnings, used)
    layout = serve_layout(options, network, cluster, warnings)
    name, linear, experts = with_precision(network, options, engine)
    options = _defaults(options, network, warnings)
    longest = options.input + options.output
    check_positions(network, "input + output", longest, warnings)
    if options.max_model_len is not None and longest > options.max_model_len:
        raise ScenarioError(f"input + output = {longest} is more than max_model_len={options.max_model_len}")
    budget, most = options.chunk or engine.max_batched_tokens, options.max_batch or engine.max_sequences
    if engine.scheduler in ("static", "iteration"):
        # All prompts that join run whole in one iteration, however long they are.
        budget = min(-(-options.batch // int(layout.dp)), most) * options.input
        if options.chunk is not None:
            warnings.append(f"chunk={options.chunk} does nothing: {engine.name} runs prompts whole")
    away = serve_offload(options.offload, cluster)
    plan = ServePlan(
        layout=layout,
        linear=linear,
        experts=experts,
        precision=name,
        max_batched_tokens=budget,
        max_sequences=most,
        block_size=options.block_size or engine.block_size,
        kv_blocks=options.kv_blocks,
        memory_utilization=options.memory_utilization or engine.memory_utilization,
        max_model_len=options.max_model_len,
        weights_away=away["weights"],
        kv_away=away["kv"],
        block_batches=_block_batches(options, layout, engine),
    )
    _check_length(options, plan)
    if options.long_context and options.input < options.short_context:
        raise ScenarioError(
            f"long_context sets input={options.input} beside short_context={options.short_context}: input must not be "
            "the shorter one"
        )
    engine, plan = with_techniques(ServeSetting(options, network, cluster, engine, plan), used)
    return InferScenario(options, network, cluster, engine, plan, tuple(warnings))


def _block_batches(options: InferOptions, layout: Layout, engine: ServeEngine) -> int:
    """Raises: ScenarioError: an engine that has no whole batches, or more parts than sequences."""
    turns, share = options.block_batches or 1, -(-options.batch // int(layout.dp))
    if turns == 1:
        return 1
    if engine.scheduler != "static":
        raise ScenarioError(f"block_batches={turns} cuts up static batches; {engine.name} runs requests as they come")
    if turns > share:
        raise ScenarioError(f"block_batches={turns} is more than the {share} sequences of the batch")
    return turns


def served_network(options: ServeOptions, used: Sequence[Technique]) -> Network:
    """The model as its techniques change it.

    Raises:
        ScenarioError: no such model, or one that serving engines here do not run.
    """
    network = load_network(options.model)
    for technique in used:
        network = technique.model(network)
    check_served(network)
    return network


def with_techniques(setting: ServeSetting, used: Sequence[Technique]) -> tuple[ServeEngine, ServePlan]:
    """Engine and plan as the techniques change them.

    Raises:
        ScenarioError: a technique that cannot be used here.
    """
    for technique in used:
        setting = technique.serve(setting)
    return setting.engine, setting.plan


def serving_engine(
    options: ServeOptions, cluster: Cluster, warnings: list[str], used: Sequence[Technique] = (), **changed: object
) -> ServeEngine:
    """The engine's profile, with a user's own constants, what techniques and the user change (where not None), as it
    runs on these devices.

    Raises:
        ScenarioError: no such engine, or a calibration file that cannot be used.
    """
    loaded = load_engine(options.engine, "serve")
    assert isinstance(loaded, ServeEngine)
    engine = with_own_constants(loaded, options.calibration, warnings)
    for technique in used:
        engine = technique.engine(engine)
    changed["all_reduce"] = options.all_reduce
    update = {k: v for k, v in changed.items() if v is not None}
    if "fp8" not in cluster.accelerator.peak_flops:
        update["quantize_kernels"] = None  # 8-bit weights are widened
    return engine.model_copy(update=update)


def check_served(network: Network) -> None:
    """Serving engines here run decoder-only models.

    Raises:
        ScenarioError: another kind of model.
    """
    both_ways = any(isinstance(b.mixer, Attention | LatentAttention) and not b.mixer.causal for b in network.blocks)
    if network.encoder or both_ways or not network.has_head:
        kind = "an encoder-decoder" if network.encoder else "an encoder" if both_ways else "without an output head"
        raise ScenarioError(f"{network.name} is {kind}; infer and simulate serve decoder-only models")


def with_precision(network: Network, options: ServeOptions, engine: ServeEngine) -> tuple[str, Precision, Precision]:
    """(name, linear layers, experts), with the number format of the KV cache that is asked for, else the engine's.

    Raises:
        ScenarioError: an unknown format.
    """
    name, linear, experts = serving_precision(network, options.precision)
    if options.kv_precision is not None:
        if options.kv_precision not in BYTES:
            raise unknown("kv_precision", options.kv_precision, BYTES)
        linear = replace(linear, kv=options.kv_precision)
    elif engine.fp8_cache and name == "fp8" and network.quantization is None:
        linear = replace(linear, kv="fp8")
    return name, linear, experts


MOST_ITERATIONS = 1_000_000
"""Prompt iterations that one answer lays out: some seconds of work."""


def _check_length(options: InferOptions, plan: ServePlan) -> None:
    share = -(-options.batch // int(plan.layout.dp))
    iterations = share * options.input / plan.max_batched_tokens
    if iterations > MOST_ITERATIONS:
        raise ScenarioError(
            f"batch={options.batch} prompts of input={options.input} tokens take {iterations:.2g} iterations of "
            f"{plan.max_batched_tokens} tokens; at most {MOST_ITERATIONS:,} are accepted: ask for fewer or shorter "
            "prompts, or a larger chunk"
        )


def _defaults(options: InferOptions, network: Network, warnings: list[str]) -> InferOptions:
    """A prompt that was not asked for leaves room for the output within the model's positions."""
    limit = network.max_positions
    if "input" in options.model_fields_set or limit is None or options.input + options.output <= limit:
        return options
    shorter = max(limit - options.output, 1)
    warnings.append(f"input was not given: {shorter} is assumed, of the {limit} positions of {network.name}")
    return options.model_copy(update={"input": shorter})


def serve_layout(options: ServeOptions, network: Network, cluster: Cluster, warnings: list[str]) -> Layout:
    """Degrees of one engine; expert layers spread over its tp x dp ranks as ep x etp.

    Raises:
        ScenarioError: degrees that do not fit the cluster or the network.
    """
    tp, pp, dp, ep = options.tp, options.pp, options.dp or 1, options.ep
    used = tp * pp * dp * options.replicas
    if used > cluster.count:
        what = f"tp x pp x dp x replicas = {tp} x {pp} x {dp} x {options.replicas} = {used}"
        raise ScenarioError(f"{what} needs more than the {cluster.count} accelerators of {shown(options.on)}")
    if used < cluster.count:
        warnings.append(f"{cluster.count - used} of {cluster.count} accelerators are not used by the plan")
    check_tp(network, tp)
    check_stages(network, pp)
    experts = has_experts(network)
    if experts and (tp * dp) % ep:
        raise ScenarioError(
            f"ep={ep} does not divide the {tp * dp} ranks (tp x dp) of an engine's stage; accepted: "
            + ", ".join(str(d) for d in range(1, tp * dp + 1) if tp * dp % d == 0)
        )
    etp = options.etp or (tp * dp // ep if experts else tp)
    check_experts(network, ep, etp, tp, tp * dp)
    return Layout(tp=tp, pp=pp, dp=dp, ep=ep, etp=etp)


def serving_precision(network: Network, name: str | None) -> tuple[str, Precision, Precision]:
    """(name, linear layers, experts) that a serving run uses: what is asked, else the checkpoint's own.

    A checkpoint that is quantised in its experts alone stays so when its own precision is asked for by name.

    Raises:
        ScenarioError: an unknown precision.
    """
    q = network.quantization
    # fp32 checkpoints are served in fp16 (vLLM's and SGLang's documentation of --dtype auto).
    usual = "fp16" if network.dtype == "fp32" else network.dtype if network.dtype in PRECISIONS else "bf16"
    own = usual if q is None else _STORED.get(q.precision, q.precision)
    name = own if name is None else name
    if name not in PRECISIONS:
        raise unknown("precision", name, PRECISIONS)
    experts_only = q is not None and q.covers == "experts" and name == own
    return name, PRECISIONS[usual if experts_only else name], PRECISIONS[name]


_STORED = {"int4": "w4a16"}
"""The precision under which a storage format is run where the two have different names."""
