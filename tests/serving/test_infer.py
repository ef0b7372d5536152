"""A batch from arrival to last token: closed forms under simple prices, and the parts of a real one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.cost import load_calibration, make_pricer
from windtunnel.hardware import parse_cluster
from windtunnel.models import load_network
from windtunnel.models.network import MLP, Attention, Block, Network, Norm
from windtunnel.ops.fold import Evaluation, Pricer
from windtunnel.ops.op import Op, Price
from windtunnel.ops.values import Value
from windtunnel.parallel.iteration import iteration
from windtunnel.scenario.batch import decode, prefill
from windtunnel.scenario.engines import ServeEngine, load_engine
from windtunnel.scenario.layout import Layout
from windtunnel.scenario.plan import ServePlan
from windtunnel.serving.infer import Course, in_turns, phase_trees, run_batch


def engine(scheduler: str = "static", **changes: Any) -> ServeEngine:
    """An engine whose host costs nothing unless said."""
    loaded = load_engine("vllm", "serve")
    assert isinstance(loaded, ServeEngine)
    free = {"host_s_per_step": 0.0, "host_s_per_sequence": 0.0, "mixed_attention": 1.0}
    return ServeEngine.model_validate(loaded.model_dump() | free | {"scheduler": scheduler} | changes)


def network(layers: int = 4) -> Network:
    block = Block(Attention(64, 4, 4, 16, 16), MLP(64, 256, True), (Norm(64), Norm(64)))
    return Network("tiny", "llama", 64, 512, (block,) * layers, 512 * 64, 512 * 64)


def per_iteration(fixed: float, token: float = 0.0) -> Pricer:
    """``fixed`` seconds for an iteration and ``token`` for each of its tokens, whatever the rest is."""

    def price(op: Op) -> Price:
        seconds: Value = fixed if op.name == "lm_head" else 0.0
        if op.name == "embedding":
            seconds = token * op.saved_bytes / 8.0  # eight bytes of index a token
        return Price(seconds, {}, 0.0, op.host_s)

    return price


def per_layer(seconds: float) -> Pricer:
    """``seconds`` for each layer."""
    return lambda op: Price(seconds if op.name == "mlp.down" else 0.0, {}, 0.0, op.host_s)


def run(
    price: Pricer,
    e: ServeEngine | None = None,
    *,
    layers: int = 4,
    requests: int = 1,
    input_tokens: int = 100,
    output_tokens: int = 11,
    slots: int = 1000,
    budget: int = 10**6,
    **layout: int,
) -> Course:
    plan = ServePlan(layout=Layout(**layout), max_batched_tokens=budget)
    return run_batch(
        network(layers), plan, e or engine(), price, requests=requests, input_tokens=input_tokens,
        output_tokens=output_tokens, slots=slots,
    )  # fmt: skip


@given(st.integers(1, 300), st.integers(1, 2000), st.integers(1, 500), st.sampled_from(["static", "iteration"]))
def test_a_batch_that_fits_runs_as_one(requests: int, inputs: int, outputs: int, scheduler: str) -> None:
    fixed, token = 0.01, 1e-5
    c = run(
        per_iteration(fixed, token), engine(scheduler), requests=requests, input_tokens=inputs, output_tokens=outputs
    )
    prompt, step = fixed + token * requests * inputs, fixed + token * requests
    assert c.ttft == pytest.approx(prompt)
    assert c.tpot == pytest.approx(step if outputs > 1 else 0.0)
    assert c.e2e == pytest.approx(prompt + (outputs - 1) * step)
    assert c.makespan == pytest.approx(c.e2e)
    assert (c.turns, c.share, c.running) == (1, requests, requests)


@given(st.integers(1, 200), st.integers(1, 500), st.integers(1, 50), st.integers(1, 64), st.booleans())
def test_means_are_one_story(requests: int, inputs: int, outputs: int, slots: int, chunked: bool) -> None:
    c = run(
        per_iteration(0.01, 1e-5), engine("chunked" if chunked else "prefill-first"), requests=requests,
        input_tokens=inputs, output_tokens=outputs, slots=slots, budget=512,
    )  # fmt: skip
    assert c.e2e == pytest.approx(c.ttft + c.tpot * (outputs - 1))
    assert 0 < c.ttft <= c.e2e <= c.makespan * (1 + 1e-12)
    assert c.makespan == pytest.approx(float(np.sum(c.seconds)))
    # Every token is computed once: prompts, and all but the first output token of each request.
    tokens = float(np.sum(c.rows.steps * (c.rows.prefill + c.rows.decodes)))
    assert tokens == requests * (inputs + outputs - 1)


def test_one_request_meets_its_prompt_and_the_way_there() -> None:
    c = run(per_iteration(0.0, 1e-3), engine("chunked"), budget=30)
    assert c.ttft == pytest.approx(100e-3)  # in four pieces, at the same cost a token
    assert run(per_iteration(1.0), engine("chunked"), budget=30).ttft == pytest.approx(4.0)


def test_requests_without_a_place_wait() -> None:
    """One at a time: request i starts when i before it have ended."""
    c = run(per_iteration(0.01, 1e-4), engine("prefill-first"), requests=5, slots=1)
    each = (0.01 + 100e-4) + 10 * (0.01 + 1e-4)
    assert c.ttft == pytest.approx(0.02 + 2 * each)
    assert c.makespan == pytest.approx(5 * each)
    assert c.tpot == pytest.approx(0.0101)
    assert c.running == 1


def test_groups_of_data_parallel_attention_share_the_batch() -> None:
    c = run(per_iteration(0.01, 1e-4), requests=5, dp=2)
    assert c.share == 3
    assert c.ttft == pytest.approx(0.01 + 300e-4)


def test_a_pipeline_serves_as_many_groups_as_it_has_stages() -> None:
    """Four layers on two stages: a group's iteration lasts four layers, the other's work hides in it."""
    c = run(per_layer(0.1), requests=4, pp=2)
    assert (c.turns, c.share) == (2, 2)
    # The second group enters two layers later: one on average.
    assert c.ttft == pytest.approx(0.4 + 0.1)
    assert c.tpot == pytest.approx(0.4)
    assert c.makespan == pytest.approx(11 * 0.4 + 0.2)


def test_one_request_has_a_pipeline_to_itself() -> None:
    """Three layers on two stages: alone a request meets three, not twice the longer stage."""
    assert run(per_layer(0.1), layers=3, pp=2).tpot == pytest.approx(0.3)
    assert run(per_layer(0.1), layers=3, requests=2, pp=2).tpot == pytest.approx(0.4)
    few = run(per_layer(0.1), layers=8, requests=2, pp=8)
    assert (few.turns, few.share) == (2, 1)
    assert few.tpot == pytest.approx(0.8)


def test_what_fits_does_not_queue_for_being_odd() -> None:
    """Three requests that memory holds, on two stages: groups of two and one, nobody waits."""
    c = run(per_layer(0.1), engine("prefill-first"), requests=3, pp=2, slots=3)
    assert (c.share, c.running) == (2, 2)
    assert c.tpot == pytest.approx(0.4)
    tight = run(per_layer(0.1), engine("prefill-first"), requests=4, pp=2, slots=2)
    assert (tight.turns, tight.share, tight.running) == (2, 2, 1)
    single = run(per_layer(0.1), engine("prefill-first"), requests=4, pp=2, slots=1)
    assert (single.turns, single.share, single.running) == (1, 4, 1)


def test_the_host_works_before_or_beside_the_device() -> None:
    before = run(per_iteration(0.1), engine(host_s_per_step=0.02, host_s_per_sequence=0.01), requests=3)
    assert before.tpot == pytest.approx(0.1 + 0.02 + 3 * 0.01)
    hidden = run(
        per_iteration(0.1), engine(host_s_per_step=0.02, host_s_per_sequence=0.01, asynchronous=True), requests=3
    )
    assert hidden.tpot == pytest.approx(0.1)
    bound = run(per_iteration(0.1), engine(host_s_per_step=0.2, asynchronous=True))
    assert bound.tpot == pytest.approx(0.2)


def test_issuing_kernels_can_be_what_takes_time() -> None:
    """Without graphs the host issues each layer, beside the device; on every stage of a pipeline its own layers."""
    eager = engine(host_s_per_layer=0.05, graphs=False)
    assert run(per_layer(0.1), eager).tpot == pytest.approx(0.4)
    assert run(per_layer(0.01), eager).tpot == pytest.approx(0.2)
    assert run(per_layer(0.01), eager, layers=3, requests=2, pp=2).tpot == pytest.approx(2 * 2 * 0.05)
    assert run(per_layer(0.01), engine(host_s_per_layer=0.05, graphs=True)).tpot == pytest.approx(0.04)


@pytest.mark.parametrize("name", ["llama-3.1-8b", "deepseek-v2-lite", "gemma-2-9b", "mamba2-2.7b"])
def test_decoding_alone_is_the_mean_of_its_iterations(name: str) -> None:
    """Batch 1: iterations 1 to 100 after the prompt attend to 3,001 to 3,100 tokens."""
    cluster = parse_cluster("1xh100-sxm")
    price = make_pricer(cluster, calibration=load_calibration(cluster.accelerator))
    model, plan, e = load_network(name), ServePlan(), engine("chunked")
    course = run_batch(model, plan, e, price, requests=1, input_tokens=3000, output_tokens=101, slots=1)
    windows = tuple(sorted({w for b in model.blocks if (w := getattr(b.mixer, "window", None)) is not None}))
    contexts = np.arange(3001.0, 3101.0)
    trees = iteration(model, plan, e, decode(np.ones(100), contexts, windows)).tree
    each = np.broadcast_to(np.asarray(Evaluation(trees, price).seconds(), float), (100,))
    assert course.tpot == pytest.approx(each.mean(), rel=1e-4)
    prompt = iteration(model, plan, e, prefill(1.0, 3000.0, 0.0, windows)).tree
    assert course.ttft == pytest.approx(float(Evaluation(prompt, price).seconds()), rel=1e-9)


def test_a_prompt_in_pieces_costs_more_kernels_and_the_same_attention() -> None:
    cluster = parse_cluster("1xa100-80gb-sxm")
    price = make_pricer(cluster, calibration=load_calibration(cluster.accelerator))
    model, e = load_network("llama-3.1-8b"), engine("chunked")
    whole, pieces = (
        run_batch(
            model, ServePlan(max_batched_tokens=budget), e, price, requests=1, input_tokens=8192, output_tokens=2,
            slots=1,
        )
        for budget in (8192, 512)
    )  # fmt: skip
    assert pieces.rows.steps.sum() == 16 + 1
    assert pieces.rows.pairs.sum() == whole.rows.pairs.sum() == 8192 * 8193 / 2
    assert whole.ttft < pieces.ttft < 3 * whole.ttft


def test_the_typical_iterations_of_each_phase() -> None:
    plan = ServePlan(max_batched_tokens=1000)
    price = per_iteration(0.0, 1.0)

    def tokens(share: int, inputs: int) -> tuple[float, float]:
        trees = phase_trees(network(), plan, engine("chunked"), share=share, input_tokens=inputs, output_tokens=10)
        before, during = (float(Evaluation(tree, price).seconds()) for tree in trees)
        return before, during

    assert tokens(4, 100) == pytest.approx((400, 4))
    assert tokens(64, 100) == pytest.approx((1000, 64))  # ten prompts fill the budget
    assert tokens(4, 5000) == pytest.approx((1000, 4))  # a piece of one prompt


def test_a_window_is_seen_by_decoding() -> None:
    """Contexts beyond every window cost the same as at the window."""
    block = Block(Attention(64, 4, 4, 16, 16, window=128), MLP(64, 256, True), (Norm(64), Norm(64)))
    model = replace(network(), blocks=(block,) * 4)

    def kv(op: Op) -> Price:
        return Price(op.hbm_bytes if op.kind == "attention_decode" else 0.0, {}, 0.0, 0.0)

    def tpot(inputs: int) -> float:
        return run_batch(
            model, ServePlan(max_batched_tokens=10**6), engine(), kv, requests=3, input_tokens=inputs,
            output_tokens=5, slots=3,
        ).tpot  # fmt: skip

    assert tpot(1000) == tpot(4000) == pytest.approx(4 * 3 * 128 * 2 * 64 * 2)
    assert tpot(50) == pytest.approx(4 * 3 * (50 + 2.5) * 2 * 64 * 2)


def flow_shop(times: list[float], steps: list[int], turns: int, stages: int) -> list[list[float]]:
    """Ends of rows by the full recursion C[i,j] = max(C[i-1,j], C[i,j-1]) + t[i] over like stages, one by one."""
    left, ready = [0.0] * stages, [0.0] * turns
    ends = [[0.0] * len(times) for _ in range(turns)]
    for row, (time, count) in enumerate(zip(times, steps, strict=True)):
        for _ in range(count):
            for i in range(turns):
                at = ready[i]
                for j in range(stages):
                    at = left[j] = max(at, left[j]) + time
                ready[i] = at
        for i in range(turns):
            ends[i][row] = ready[i]
    return ends


@given(
    rows=st.lists(st.tuples(st.floats(0.01, 10.0), st.integers(1, 12)), min_size=1, max_size=6),
    stages=st.integers(1, 5),
    data=st.data(),
)
def test_batches_that_take_turns_are_a_flow_shop(
    rows: list[tuple[float, int]], stages: int, data: st.DataObject
) -> None:
    turns = data.draw(st.integers(1, stages))
    time, steps = np.array([t for t, _ in rows]), np.array([float(n) for _, n in rows])
    found = in_turns(stages * time, time, steps, turns)
    expected = flow_shop(time.tolist(), [n for _, n in rows], turns, stages)
    assert found == pytest.approx(np.array(expected), rel=1e-9)
