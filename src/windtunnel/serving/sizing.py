"""From a laid-out engine to the numbers its event loop runs on: cache units, places, and how large tables must be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from windtunnel.hardware.machine import Cluster
from windtunnel.models.dtypes import BYTES
from windtunnel.models.network import Attention, Block, LatentAttention, MoE, Network, StateSpace, kept
from windtunnel.ops.fold import Pricer
from windtunnel.parallel.away import token_elements
from windtunnel.scenario.engines import ServeEngine
from windtunnel.scenario.plan import ServePlan
from windtunnel.serving.memory import ServeMemory, draft_kv_bytes, serve_memory
from windtunnel.serving.outcome import PS
from windtunnel.serving.rules import Rules
from windtunnel.serving.spec import NO_LIMIT, EngineSpec
from windtunnel.serving.speculated_cost import engine_cost
from windtunnel.serving.step_cost import StepCost
from windtunnel.serving.workload.requests import Workload

WATERMARK = 0.01
"""Share of the cache left free when a request is admitted (vLLM's block manager)."""

SWAP_BYTES = 4 * 2**30
"""Host memory of a GPU for swapped requests (vLLM's --swap-space)."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What of a request for a simulation concerns one engine. ``watermark``: share of the cache; ``swap_bytes``: of
    host memory for each accelerator (0: recompute); seconds for ``timeout_s``."""

    rules: Rules
    reserve_output: bool = False
    watermark: float = WATERMARK
    swap_bytes: float = 0.0
    max_queue: int = NO_LIMIT
    timeout_s: float | None = None
    prefix_tokens: int = 0
    prompts_only: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Sized:
    """An engine ready to run. ``copies``: engines that stand for one of these (attention-data-parallel ranks without
    experts do not wait for each other); ``shortfall_bytes``: what a device lacks to hold weights and one block."""

    spec: EngineSpec
    memory: ServeMemory
    kv_capacity_tokens: float
    copies: int
    shortfall_bytes: float


def size_engine(
    network: Network, cluster: Cluster, engine: ServeEngine, plan: ServePlan, price: Pricer, workload: Workload,
    settings: Settings, swap_s_per_byte: float, cost: StepCost | None = None,
) -> Sized:  # fmt: skip
    """One engine for this workload. ``cost``: its price list, if there is one (:func:`price_list`).

    Raises:
        ScenarioError: a kernel or a number format that the machine has no price for.
    """
    tied = any(isinstance(b.ffn, MoE) for b in network.blocks)
    dp = int(plan.layout.dp)
    ranks, copies = (dp, 1) if tied else (1, dp)
    slots = int(plan.layout.pp)
    _, mean = _lengths(workload, settings)
    memory = serve_memory(network, plan, engine, cluster, mean, _longest_prompt(workload))
    places = _places(plan, workload)
    if cost is None:
        cost = price_list(network, cluster, engine, [plan], price, workload, settings)
    units, state = cache_units(memory.layers.blocks, plan, cost.windows)
    whole = sum(units)
    room = max(memory.kv_budget, 0.0)
    capacity = plan.kv_blocks * max(whole, 1) if plan.kv_blocks is not None else int(room)
    if whole and not state:
        capacity -= capacity % whole
    lacking = -min(memory.kv_budget, 0.0)
    if plan.kv_blocks is not None:
        lacking = max(memory.weights + memory.activations + capacity - memory.capacity, 0.0)
    elif capacity < whole + state:
        lacking = max(lacking, whole + state - capacity)
    limit = plan.max_model_len if plan.max_model_len is not None else network.max_positions
    spec = EngineSpec(
        cost=cost,
        rules=settings.rules,
        budget=plan.max_batched_tokens,
        most_sequences=places,
        slots=slots,
        ranks=ranks,
        block=plan.block_size,
        units=units,
        stops=tuple(NO_LIMIT if w == 0 else w - 1 if w > 0 else -w for w in cost.windows),
        state_units=state,
        capacity=capacity,
        watermark=int(settings.watermark * capacity),
        reserve_output=settings.reserve_output,
        longest=limit if limit is not None else NO_LIMIT,
        swap_units=int(settings.swap_bytes),
        swap_s=swap_s_per_byte,
        front_ps=round(engine.first_token_s * PS),
        delayed=engine.asynchronous,
        max_queue=settings.max_queue,
        timeout_ps=NO_LIMIT if settings.timeout_s is None else round(settings.timeout_s * PS),
        prefix_tokens=settings.prefix_tokens,
        prefix_units=whole * -(-settings.prefix_tokens // plan.block_size) if settings.prefix_tokens else 0,
    )
    tokens = capacity / whole * plan.block_size * ranks if whole else float("inf")
    return Sized(spec, memory, min(tokens, 1e15) * copies, copies, lacking)


def cache_units(blocks: tuple[Block, ...], plan: ServePlan, windows: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
    """(bytes that one block of tokens takes in the layers of each view, bytes of a sequence's recurrent states) on a
    rank that holds ``blocks`` (``memory.kv_bytes`` says how they are shared out)."""
    tp, per = int(plan.layout.tp), BYTES[plan.linear.kv] * float(plan.context_copies)
    found = dict.fromkeys(windows, 0.0)
    state = 0.0
    for b in blocks:
        m = b.mixer
        if isinstance(m, Attention | LatentAttention):
            each = per * float(token_elements(m, tp))
            for share, view in kept(m, "hold"):
                found[view or 0] += each * share
        elif isinstance(m, StateSpace):
            state += 4.0 * m.state_elements / tp * float(plan.context_copies)
    found[windows[0]] += float(draft_kv_bytes(plan, 1.0))
    return tuple(int(np.ceil(found[w] * plan.block_size)) for w in windows), int(np.ceil(state))


def price_list(
    network: Network, cluster: Cluster, engine: ServeEngine, plans: Sequence[ServePlan], price: Pricer,
    workload: Workload, settings: Settings,
) -> StepCost:  # fmt: skip
    """The price list of plans that differ in the tokens and sequences of an iteration alone, as large as this workload
    can make iterations. Between the same points a larger list holds the same prices.

    Raises:
        ScenarioError: a kernel or a number format that the machine has no price for.
    """
    longest, mean = _lengths(workload, settings)
    sizes = []
    for plan in plans:
        memory = serve_memory(network, plan, engine, cluster, mean, _longest_prompt(workload))
        sizes.append(_extent(network, plan, memory, settings.rules, longest, workload))
    tokens, prompts, places, context = (max(column) for column in zip(*sizes, strict=True))
    return engine_cost(
        network, plans[0], engine, price,
        most_tokens=tokens,
        most_prompt_tokens=prompts,
        most_sequences=places,
        most_context=context,
        longest=longest,
    )  # fmt: skip


def _lengths(workload: Workload, settings: Settings) -> tuple[int, float]:
    """(Tokens of the longest request, of the mean one)."""
    if not len(workload):
        return 1, 1.0
    outputs = np.ones(1, np.int64) if settings.prompts_only else workload.output_tokens
    return int(np.max(workload.input_tokens + outputs)), float(np.mean(workload.input_tokens) + np.mean(outputs))


def _longest_prompt(workload: Workload) -> float:
    return float(np.max(workload.input_tokens)) if len(workload) else 0.0


def _places(plan: ServePlan, workload: Workload) -> int:
    """Sequences of an iteration at most."""
    return max(min(-(-plan.max_sequences // int(plan.layout.pp)), max(len(workload), 1)), 1)


def _extent(
    network: Network, plan: ServePlan, memory: ServeMemory, rules: Rules, longest: int, workload: Workload
) -> tuple[int, int, int, int]:
    """(Tokens, tokens of prompts, sequences, context tokens of all decodes) of an iteration at most."""
    places = _places(plan, workload)
    everything = int(np.sum(workload.input_tokens)) + int(np.sum(workload.output_tokens)) if len(workload) else 1
    prompts = min(plan.max_batched_tokens, everything)
    if not rules.limited:
        prompts = min(places * longest, everything)
    elif not rules.cut:
        prompts = max(prompts, longest)
    context = places * (longest + 1)
    if rules.padded:  # those that have ended grow on until the last of their batch has
        context += places * (int(np.max(workload.output_tokens)) if len(workload) else 0)
    else:
        units, _ = cache_units(memory.layers.blocks, plan, (0, *network.views))
        if units[0]:
            pool = plan.kv_blocks * sum(units) if plan.kv_blocks is not None else max(memory.kv_budget, 0.0)
            context = min(context, int(pool / units[0] * plan.block_size) + 2 * places)
    return prompts + places, max(prompts, 1), places, max(context, 1)
