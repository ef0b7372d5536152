"""The training side of the front door: model, cluster, framework, plan and batch, checked against each other.

Making one raises every error that a user can meet before anything is computed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from windtunnel.errors import ScenarioError, unknown
from windtunnel.hardware import parse_cluster
from windtunnel.hardware.machine import Cluster
from windtunnel.models import load_network
from windtunnel.models.dtypes import PRECISIONS
from windtunnel.models.network import Network
from windtunnel.scenario.checks import check_experts, check_positions, check_stages, check_tp, has_experts
from windtunnel.scenario.engines import TrainEngine, load_engine
from windtunnel.scenario.layout import Layout
from windtunnel.scenario.options import SCHEDULES, Options, TrainOptions
from windtunnel.scenario.own_engine import with_own_constants
from windtunnel.scenario.plan import OPTIMIZERS, Finetune, TrainPlan
from windtunnel.scenario.registry import requested, techniques_of
from windtunnel.scenario.technique import TrainSetting
from windtunnel.scenario.text import lengths, named_parameters, number, shown

TRAIN_PRECISIONS = ("bf16", "fp16", "fp8", "fp32", "tf32")


@dataclass(frozen=True, slots=True)
class TrainScenario:
    """Everything that ``train`` needs. ``warnings``: what the user should know about how the request was read."""

    options: TrainOptions
    network: Network
    cluster: Cluster
    engine: TrainEngine
    plan: TrainPlan
    warnings: tuple[str, ...] = ()
    kind: Literal["train"] = "train"


def train_scenario(options: TrainOptions) -> TrainScenario:
    """Read the model and the cluster, fill in defaults, check that the plan is possible.

    Raises:
        ScenarioError: an unknown name or a plan that cannot be laid out.
    """
    return with_rewritten_step(plain_scenario(requested(options, techniques_of(options, "train"))))


def with_rewritten_step(scenario: TrainScenario) -> TrainScenario:
    """The scenario with the step as its techniques rewrite it.

    Raises:
        ScenarioError: a technique that cannot be used in this plan.
    """
    used = techniques_of(scenario.options, "train")
    if not used:
        return scenario
    setting = TrainSetting(scenario.options, scenario.network, scenario.cluster, scenario.engine, scenario.plan)
    for technique in used:
        setting = technique.train(setting)
    return replace(scenario, engine=setting.engine, plan=setting.plan)


def plain_scenario(options: TrainOptions) -> TrainScenario:
    """As :func:`train_scenario`, of options that have what techniques request, and without rewrites of the step.

    Raises:
        ScenarioError: an unknown name or a plan that cannot be laid out.
    """
    network, cluster, engine, warnings = read_parties(options)
    layout = train_layout(options, network, cluster, warnings, 1 if engine.expert_tp == "one" else None)
    seq = _sequence(options, network, warnings)
    global_batch = _global_batch(options, layout, warnings)
    precision = options.precision
    if precision is None:
        half = network.dtype == "fp16" and "bf16" not in cluster.accelerator.peak_flops
        precision = "fp16" if half else "bf16"
    if precision not in TRAIN_PRECISIONS:
        raise unknown("precision", precision, TRAIN_PRECISIONS)
    if options.optimizer not in OPTIMIZERS:
        raise unknown("optimizer", options.optimizer, OPTIMIZERS)
    schedule = _schedule(options, layout, network, global_batch // (int(layout.dp) * options.micro_batch), warnings)
    sequence_parallel = engine.sequence_parallel if options.sequence_parallel is None else options.sequence_parallel
    if options.sequence_parallel and layout.tp == 1:
        warnings.append("sequence parallelism does nothing at tp=1")
    zero = engine.zero if options.zero is None else options.zero
    if options.hsdp is not None:
        if zero != 3:
            raise ScenarioError(f"hsdp={options.hsdp} needs zero=3 (fully sharded); zero is {zero}")
        if (layout.dp * layout.cp) % options.hsdp:
            raise ScenarioError(f"hsdp={options.hsdp} does not divide the {layout.dp * layout.cp} data-parallel ranks")
    flash = engine.attention != "eager" if options.flash_attention is None else options.flash_attention
    offload = _offload(options.offload, cluster)
    linear = PRECISIONS[precision]
    packed = None if options.packed_lengths is None else lengths(options.packed_lengths)
    plan = TrainPlan(
        layout=layout,
        micro_batch=options.micro_batch,
        global_batch=global_batch,
        seq=seq,
        virtual_stages=options.virtual_stages,
        schedule=schedule,
        zero=zero,
        hsdp=options.hsdp,
        sequence_parallel=sequence_parallel and options.tp > 1,
        context=options.context_parallel,
        linear=linear,
        precision=precision,
        weight_bytes=4.0 if linear.activations == "fp32" else 2.0,
        recompute=options.recompute,
        optimizer=OPTIMIZERS[options.optimizer],
        finetune=_finetune(options.finetune),
        eager_attention=not flash,
        offload_optimizer=offload.get("optimizer", ""),
        offload_params=offload.get("params", ""),
        offload_activations=offload.get("activations", ""),
        document_tokens=None if packed is None else packed.mean_square_over_mean,
    )
    return TrainScenario(options, network, cluster, engine, plan, tuple(warnings))


def read_parties(options: Options) -> tuple[Network, Cluster, TrainEngine, list[str]]:
    """The model and the framework as techniques change them, the cluster, and what the user should know about how these
    were read.

    Raises:
        ScenarioError: an unknown name, or a file that cannot be used.
    """
    network = load_network(options.model)
    cluster = parse_cluster(options.on, dict(options.set))
    loaded = load_engine(options.engine, "train")
    assert isinstance(loaded, TrainEngine)
    warnings: list[str] = []
    engine = with_own_constants(loaded, options.calibration, warnings)
    for technique in techniques_of(options, "train"):
        network, engine = technique.model(network), technique.engine(engine)
    return network, cluster, engine, warnings


def usual_sequence(network: Network) -> int:
    """Tokens of a sequence where none are given."""
    return min(network.max_positions or 4096, 4096)


def train_layout(
    options: TrainOptions, network: Network, cluster: Cluster, warnings: list[str], etp: int | None = None
) -> Layout:
    """Degrees of parallelism on this cluster; dp is what is left unless it is given. ``etp``: the framework's own
    choice for networks with experts (None: tp).

    Raises:
        ScenarioError: degrees that do not fit the cluster or the network.
    """
    tp, pp, cp = options.tp, options.pp, options.cp
    model_ranks = tp * pp * cp
    if model_ranks > cluster.count:
        raise ScenarioError(
            f"tp x pp x cp = {tp} x {pp} x {cp} = {model_ranks} needs more than the {cluster.count} accelerators "
            f"of {shown(options.on)}"
        )
    if options.dp is None:
        if cluster.count % model_ranks:
            raise ScenarioError(
                f"tp x pp x cp = {model_ranks} does not divide the {cluster.count} accelerators; "
                f"give dp or choose degrees that divide {cluster.count}"
            )
        dp = cluster.count // model_ranks
    else:
        dp = options.dp
        if dp * model_ranks > cluster.count:
            raise ScenarioError(
                f"tp x pp x cp x dp = {tp} x {pp} x {cp} x {dp} = {dp * model_ranks} needs more than the "
                f"{cluster.count} accelerators of {shown(options.on)}"
            )
        if dp * model_ranks < cluster.count:
            warnings.append(
                f"{cluster.count - dp * model_ranks} of {cluster.count} accelerators are not used by the plan"
            )
    check_tp(network, tp)
    check_stages(network, pp)
    if tp > cluster.levels[0].domain and tp > cluster.node_size:
        warnings.append(f"tp={tp} spans nodes of {cluster.node_size}: its collectives cross the scale-out network")
    if etp is None or not has_experts(network):
        etp = tp if not has_experts(network) or (tp * cp * dp) % (tp * options.ep) == 0 else 1
    etp = options.etp or etp
    check_experts(network, options.ep, etp, tp, tp * cp * dp)
    return Layout(tp=tp, pp=pp, dp=dp, cp=cp, ep=options.ep, etp=etp)


def _sequence(options: TrainOptions, network: Network, warnings: list[str]) -> int:
    seq = options.seq or usual_sequence(network)
    if options.seq is None:
        warnings.append(f"seq was not given: {seq} is assumed")
    check_positions(network, "seq", seq, warnings)
    if seq % (2 * options.cp if options.cp > 1 else 1):
        raise ScenarioError(
            f"seq={seq} must be a multiple of 2 x cp = {2 * options.cp}: each rank holds two balanced pieces"
        )
    return seq


def _global_batch(options: TrainOptions, layout: Layout, warnings: list[str]) -> int:
    unit = int(layout.dp) * options.micro_batch
    if options.global_batch is None:
        chosen = unit * (4 * int(layout.pp) if layout.pp > 1 else 1)
        warnings.append(f"global_batch was not given: {chosen} is assumed")
        return chosen
    if options.global_batch % unit:
        down = options.global_batch // unit * unit
        near = f"{down} or {down + unit}" if down else str(unit)
        raise ScenarioError(
            f"global_batch={options.global_batch} is not a multiple of dp x micro_batch = "
            f"{layout.dp} x {options.micro_batch}; accepted near it: {near}"
        )
    return options.global_batch


def _schedule(options: TrainOptions, layout: Layout, network: Network, micro_batches: int, warnings: list[str]) -> str:
    name = options.schedule
    if name is None:
        name = "interleaved" if options.virtual_stages > 1 else "1f1b"
    if name not in SCHEDULES:
        raise unknown("schedule", name, SCHEDULES)
    v, pp = options.virtual_stages, int(layout.pp)
    if network.layers % (pp * v):
        # Llama 3 405B has 126 layers on 16 stages (arXiv 2407.21783, section 3.3.2): embedding and head take places.
        warnings.append(
            f"the {network.layers} layers of {network.name} are dealt unevenly to {pp * v} chunks of stages"
        )
    if v > 1 and name != "interleaved":
        raise ScenarioError(f"virtual_stages={v} needs schedule=interleaved; {name} has one chunk a stage")
    if v > 1 and pp > 1:
        if pp * v > network.layers:
            raise ScenarioError(
                f"pp x virtual_stages = {pp} x {v} makes more chunks than the {network.layers} layers of {network.name}"
            )
        if micro_batches % pp:
            raise ScenarioError(
                f"the interleaved schedule needs a multiple of pp={pp} micro-batches; "
                f"the global batch makes {micro_batches}"
            )
    if name == "dualpipe" and pp > 1 and (pp % 2 or micro_batches % 2 or micro_batches < 2 * pp):
        raise ScenarioError(
            f"dualpipe needs an even pp and an even number of at least 2 x pp micro-batches; "
            f"pp={pp}, micro-batches {micro_batches}"
        )
    return name


def _finetune(text: str) -> Finetune:
    name, given = named_parameters(text, "finetune")
    if name not in ("full", "lora", "qlora"):
        raise unknown("finetune", name, ("full", "lora", "qlora"))
    allowed = {"full": set(), "lora": {"r", "targets"}, "qlora": {"r", "bits", "targets"}}[name]
    for key in given:
        if key not in allowed:
            raise ScenarioError(
                f"finetune {shown(text)}: unknown parameter {shown(key)}; "
                f"accepted: {', '.join(sorted(allowed)) or 'none'}"
            )
    targets = given.get("targets", "all")
    if targets not in ("attention", "mlp", "all"):
        raise unknown("finetune targets", targets, ("attention", "mlp", "all"))
    bits = given.get("bits", "4")
    if bits not in ("4", "8"):
        raise ScenarioError(f"finetune {shown(text)}: bits={shown(bits)}; accepted: 4, 8")
    r = number(given.get("r", "16"), f"finetune {shown(text)}: r", at_most=65536)
    if r != int(r):
        raise ScenarioError(f"finetune {shown(text)}: r={shown(given['r'])}; accepted: a whole number")
    return Finetune(name, int(r), int(bits) if name == "qlora" else 16, targets)  # type: ignore[arg-type]


def _offload(text: str | None, cluster: Cluster) -> dict[str, Literal["cpu", "nvme"]]:
    result: dict[str, Literal["cpu", "nvme"]] = {}
    tiers = {"cpu": ("host memory of its own", cluster.dram), "nvme": ("local drive", cluster.nvme)}
    for part in [] if text is None else text.split(","):
        what, _, where = (x.strip() for x in part.partition(":"))
        if what not in ("optimizer", "params", "activations") or where not in tiers or what in result:
            raise ScenarioError(
                f"offload {shown(text)}: {shown(part)} is not understood; "
                f"accepted: optimizer, params and activations, each once, followed by :cpu or :nvme"
            )
        kind, memory = tiers[where]
        if not memory.capacity_bytes > 0:
            raise ScenarioError(
                f"offload {shown(part)}: a node of {shown(cluster.node)} has no {kind}; give it one with "
                f"set {'dram' if where == 'cpu' else 'nvme'}_gbyte, or leave this out"
            )
        result[what] = "cpu" if where == "cpu" else "nvme"
    return result
