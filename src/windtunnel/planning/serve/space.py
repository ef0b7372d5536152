"""The plans that a search goes through: every engine that the rules allow on every machine, its count left open."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from itertools import product
from typing import Any

from windtunnel.errors import ScenarioError, unknown
from windtunnel.models.dtypes import BYTES
from windtunnel.models.network import Network
from windtunnel.planning.serve.question import Machine, Question
from windtunnel.scenario.checks import check_experts, check_stages, check_tp, has_experts
from windtunnel.scenario.engines import ServeEngine, load_engine
from windtunnel.scenario.serve import serving_precision
from windtunnel.scenario.simulate import WHOLE_PROMPTS, simulate_scenario
from windtunnel.scenario.text import shown
from windtunnel.serving.memory import serve_memory

TOO_MANY = "needs more accelerators than the cluster has"
NO_HEADS = "tp does not divide the model's heads or widths"
NO_STAGES = "more pipeline stages than layers"
NO_EXPERTS = "ep does not divide the experts or the engine's ranks"
NO_MEMORY = "does not fit in memory"
NO_PRICE = "no price is known for the accelerator"
OVER_BUDGET = "one engine costs more than the budget"

CHUNKS = (0.25, 1, 2)
"""Tokens of an iteration to try, over the engine's own."""

MAX_BATCHES = (0.25, 1, 4)
"""Sequences of an iteration to try, over the engine's own."""

DEPLOYMENTS = ("colocated", "disaggregated")

LARGEST_STAGES = 8
"""Most pipeline stages that are tried unasked, where a model does not fit otherwise."""

LARGEST_ENGINE = 64
"""Most accelerators of an engine with attention data parallelism that are tried unasked."""


@dataclass(frozen=True, slots=True)
class Engine:
    """One serving engine. None: the model's or the engine's own."""

    tp: int = 1
    pp: int = 1
    dp: int = 1
    ep: int = 1
    engine: str = "vllm"
    precision: str | None = None
    kv_precision: str | None = None
    chunk: int | None = None
    max_batch: int | None = None

    @property
    def accelerators(self) -> int:
        return self.tp * self.pp * self.dp

    @property
    def options(self) -> dict[str, Any]:
        """As ``simulate`` takes them, defaults left out."""
        usual = Engine()
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in given.items() if value is not None and value != getattr(usual, name)}

    @property
    def layout(self) -> tuple[Any, ...]:
        """All but chunk and max_batch."""
        return astuple(self)[:-2]


@dataclass(frozen=True, slots=True)
class Design:
    """A plan whose numbers of engines are open: one kind of engine on the machine of that number, or one kind for
    prompts and one for decoding."""

    machine: int
    engines: tuple[Engine, ...]

    @property
    def apart(self) -> bool:
        return len(self.engines) > 1

    @property
    def text(self) -> str:
        """Unlike that of any other design of the question."""
        parts = ["".join(f" {k}={v}" for k, v in e.options.items()).strip() or "tp=1" for e in self.engines]
        return f"{self.machine}: " + " | ".join(parts)

    def accelerators(self, counts: Sequence[int]) -> int:
        """Of ``counts`` engines of each kind."""
        return sum(n * e.accelerators for n, e in zip(counts, self.engines, strict=True))

    def plan(self, machine: Machine, counts: Sequence[int]) -> dict[str, Any]:
        """The options of ``simulate`` that it stands for, on just the accelerators that it uses."""
        on = {"on": machine.holding(self.accelerators(counts))}
        if not self.apart:
            return {**on, **self.engines[0].options, "replicas": counts[0]}
        prefill, decode = (e.options for e in self.engines)
        same = {k: v for k, v in prefill.items() if decode.get(k) == v and k in _SHARED}
        pools = (
            f"{n}x(" + ",".join(f"{k.replace('_', '-')}={v}" for k, v in own.items() if k not in same) + ")"
            for n, own in zip(counts, ({"tp": e.tp, **e.options} for e in self.engines), strict=True)
        )
        return {**on, **same, **dict(zip(("prefill", "decode"), pools, strict=True))}


_SHARED = ("engine", "precision", "kv_precision")
"""Options that both pools have in common, said once."""


@dataclass(frozen=True, slots=True, eq=False)
class Space:
    """``colocated``: designs with one kind of engine. ``prefill``, ``decode``: engines that a disaggregated service on
    each machine may have. ``why_not``: the other plans by reason. ``least``: of those that do not fit, the one that
    lacks least and its bytes needed and there."""

    colocated: tuple[Design, ...]
    prefill: Mapping[int, tuple[Engine, ...]]
    decode: Mapping[int, tuple[Engine, ...]]
    why_not: Mapping[str, int]
    least: tuple[Design, float, float] | None
    replicas: tuple[int, ...] | None


def build_space(question: Question) -> Space:
    """Every plan of the question that the rules allow and that fits in memory.

    Raises:
        ScenarioError: a searched value that cannot be read, an unknown name, or a question that no legal plan answers.
    """
    asked = question.asked
    replicas = _whole(asked.replicas, "replicas")
    deployments = _deployments(question, replicas)
    rules = _Rules(question)
    for number, machine in enumerate(question.machines):
        rules.visit(number, machine)
    both = [Design(number, (engine,)) for number, engine in rules.fitting]
    if not both and not rules.lacking:
        reason = max(rules.why_not, key=lambda k: rules.why_not[k])
        raise ScenarioError(rules.said or f"no plan is legal: {reason}")
    pools: dict[str, dict[int, tuple[Engine, ...]]] = {"prefill": {}, "decode": {}}
    if "disaggregated" in deployments:
        for number in range(len(question.machines)):
            own = [d.engines[0] for d in both if d.machine == number]
            pools["prefill"][number] = _distinct(own, "max_batch", question)
            pools["decode"][number] = _distinct(own, "chunk", question)
    return Space(
        tuple(both) if "colocated" in deployments else (),
        pools["prefill"],
        pools["decode"],
        dict(rules.why_not),
        min(rules.lacking, key=lambda x: x[1] - x[2], default=None),
        replicas,
    )


def _deployments(question: Question, replicas: tuple[int, ...] | None) -> tuple[str, ...]:
    """Those to search: both where nothing is said, unless the number of replicas is."""
    asked = question.asked
    if asked.deployment is None:
        alone = replicas is not None
        return ("colocated",) if alone else DEPLOYMENTS
    found = _listed(asked.deployment, "deployment")
    if found == ("both",):
        found = DEPLOYMENTS
    for name in found:
        if name not in DEPLOYMENTS:
            raise unknown("deployment", name, (*DEPLOYMENTS, "both"))
    if replicas is not None and found == ("disaggregated",):
        raise ScenarioError(
            f"replicas={shown(asked.replicas)} counts engines side by side; leave it out with deployment=disaggregated"
        )
    return found


def _distinct(engines: Iterable[Engine], name: str, question: Question) -> tuple[Engine, ...]:
    """The engines of a pool: ``name`` does not matter to it, so that the engine's own stands for every value."""
    given = getattr(question.asked, name) is not None
    return tuple(dict.fromkeys(e for e in engines if given or getattr(e, name) is None))


class _Rules:
    """Goes through the combinations of each machine, and counts why some are none."""

    def __init__(self, question: Question) -> None:
        asked = question.asked
        self.question = question
        self.network = question.network
        self.experts = has_experts(self.network)
        self.given = {name: _whole(getattr(asked, name), name) for name in ("tp", "pp", "dp", "ep")}
        self.engines = _listed(asked.engine, "engine")
        self.precisions = (None,) if asked.precision is None else _listed(asked.precision, "precision")
        for precision in self.precisions:
            serving_precision(self.network, precision)
        self.caches = (None,) if asked.kv_precision is None else _listed(asked.kv_precision, "kv_precision")
        for cache in self.caches:
            if cache is not None and cache not in BYTES:
                raise unknown("kv_precision", cache, BYTES)
            if cache is not None and cache not in question.narrowed.get("kv_precision", (cache,)):
                accepted = ", ".join(question.narrowed["kv_precision"])
                raise ScenarioError(f"kv_precision={cache} cannot be exported for {asked.export}; accepted: {accepted}")
        self.settings = {name: self._settings(name) for name in self.engines}
        self.why_not: Counter[str] = Counter()
        self.said = ""
        self.fitting: list[tuple[int, Engine]] = []
        self.lacking: list[tuple[Design, float, float]] = []

    def _settings(self, name: str) -> list[tuple[int | None, int | None]]:
        """(chunk, max_batch) to try with an engine; None: its own."""
        engine = load_engine(name, "serve")
        assert isinstance(engine, ServeEngine)
        asked = self.question.asked
        scheduler = asked.scheduler or engine.scheduler
        whole = scheduler in (*WHOLE_PROMPTS, "iteration")
        chunks: Sequence[int | None] = _around(asked.chunk, "chunk", engine.max_batched_tokens, CHUNKS)
        if whole and asked.chunk is None:
            chunks = (None,)
        batches = _around(asked.max_batch, "max_batch", engine.max_sequences, MAX_BATCHES)
        return list(product(chunks, batches))

    def visit(self, number: int, machine: Machine) -> None:
        """All combinations on one machine; more pipeline stages where none of one stage fits in memory."""
        before = len(self.fitting)
        self._layouts(number, machine, self.given["pp"] or (1,))
        if len(self.fitting) == before and self.given["pp"] is None:
            self._layouts(number, machine, tuple(p for p in _powers(LARGEST_STAGES) if p > 1), unasked=True)

    def _layouts(self, number: int, machine: Machine, stages: Iterable[int], *, unasked: bool = False) -> None:
        count, node = machine.cluster.count, machine.cluster.node_size
        tps = self.given["tp"] or _powers(min(node, count))
        for pp, tp in product(stages, tps):
            dps = self.given["dp"] or (_powers(max(LARGEST_ENGINE // tp, 1)) if self.experts else (1,))
            for dp in dps:
                if tp * pp * dp > count and (unasked or (self.given["dp"] is None and dp > 1)):
                    continue
                whole = tp * dp
                eps = self.given["ep"] or ((1, whole) if self.experts and dp == 1 and whole > 1 else (whole,))
                for ep in eps if self.experts or self.given["ep"] else (1,):
                    self._layout(number, machine, tp, pp, dp, ep)

    def _layout(self, number: int, machine: Machine, tp: int, pp: int, dp: int, ep: int) -> None:
        choices = [
            Engine(tp, pp, dp, ep, name, precision, cache, *own)
            for name, precision, cache in product(self.engines, self.precisions, self.caches)
            for own in self.settings[name]
        ]
        reason = self._illegal(machine, tp, pp, dp, ep)
        if reason is not None:
            self.why_not[reason] += len(choices)
            return
        for engine in choices:
            design = Design(number, (engine,))
            needed, there = self._memory(machine, design)
            if needed > there:
                self.why_not[NO_MEMORY] += 1
                self.lacking.append((design, needed, there))
            else:
                self.fitting.append((number, engine))

    def _illegal(self, machine: Machine, tp: int, pp: int, dp: int, ep: int) -> str | None:
        if tp * pp * dp > machine.cluster.count:
            self.said = self.said or (
                f"tp x pp x dp = {tp} x {pp} x {dp} = {tp * pp * dp} needs more than the {machine.cluster.count} "
                f"accelerators of {shown(machine.on)}"
            )
            return TOO_MANY
        etp = self.question.asked.etp or (tp * dp // ep if self.experts else tp)
        checks: tuple[tuple[str, Callable[[], None]], ...] = (
            (NO_HEADS, lambda: check_tp(self.network, tp)),
            (NO_STAGES, lambda: check_stages(self.network, pp)),
            (NO_EXPERTS, lambda: _check_experts(self.network, ep, etp, tp, dp, self.experts)),
        )
        for reason, check in checks:
            try:
                check()
            except ScenarioError as error:
                self.said = self.said or str(error)
                return reason
        price = machine.cost_usd_per_hour(tp * pp * dp)
        budget, objective = self.question.asked.budget, self.question.objective
        if price is None and (budget is not None or objective == "cost"):
            self.said = self.said or (
                f"no price is known for {machine.cluster.accelerator.name}; give --set price_usd_per_hour=..."
            )
            return NO_PRICE
        if budget is not None and price is not None and price > budget:
            self.said = self.said or f"one engine on {machine.on} costs {price:.4g} USD an hour; budget={budget:g}"
            return OVER_BUDGET
        return None

    def _memory(self, machine: Machine, design: Design) -> tuple[float, float]:
        """(bytes of a device needed for weights, activations and some cache; bytes there)."""
        scenario = simulate_scenario(self.question.options(design.plan(machine, [1])))
        (setup,) = scenario.pools["engine"]
        memory = serve_memory(self.network, setup.plan, setup.engine, scenario.cluster)
        if setup.plan.kv_blocks is not None:
            return memory.weights + memory.activations, memory.capacity
        return memory.capacity - memory.kv_budget, memory.capacity


def _check_experts(network: Network, ep: int, etp: int, tp: int, dp: int, experts: bool) -> None:
    if experts and (tp * dp) % ep:
        raise ScenarioError(f"ep={ep} does not divide the {tp * dp} ranks (tp x dp) of an engine's stage")
    check_experts(network, ep, etp, tp, tp * dp)


def _powers(most: int) -> tuple[int, ...]:
    """1, 2, 4 … up to ``most``."""
    return tuple(2**i for i in range(max(most, 1).bit_length()))


def _around(text: str | None, name: str, own: int, factors: Sequence[float]) -> tuple[int | None, ...]:
    if text is not None:
        return _whole(text, name) or (None,)
    return tuple(None if f == 1 else max(int(own * f), 1) for f in factors)


def _listed(text: str, name: str) -> tuple[str, ...]:
    """The values between commas, each once."""
    values = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    if not all(values):
        raise ScenarioError(f"{name}={shown(text)} has an empty value; accepted: values with commas between them")
    return values


def _whole(text: str | None, name: str) -> tuple[int, ...] | None:
    """Whole numbers between commas, in order; None where nothing is given."""
    if text is None:
        return None
    found = []
    for part in _listed(text, name):
        if not (part.isascii() and part.isdigit() and len(part) < 10 and int(part) >= 1):
            raise ScenarioError(f"{name}={shown(text)}: {shown(part)} is not a whole number from 1; accepted: 2,4,8")
        found.append(int(part))
    return tuple(sorted(set(found)))
