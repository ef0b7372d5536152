"""Small trees and answers made by hand, so that reports are tested without an engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from windtunnel.ops.fold import Evaluation
from windtunnel.ops.op import Op, Price
from windtunnel.ops.pipeline import StageTimes
from windtunnel.ops.tree import EMPTY, Exposed, Flow, Node, Pipeline, Repeat, Stage, seq
from windtunnel.scenario.results import Bottleneck, InferResult, Phase, TrainResult


def op(name: str, seconds: float, *, kind: str = "gemm", category: str = "compute", resource: str = "tensor") -> Op:
    """An operator of so many seconds, bound by ``resource``."""
    return Op(name, kind, category, shape={"seconds": seconds}, dtype=resource)


def price(operator: Op) -> Price:
    """What :func:`op` says; operators with host work only have nothing else."""
    seconds = float(operator.shape.get("seconds", 0.0))
    return Price(seconds, {operator.dtype: seconds} if seconds else {}, 0.0, float(operator.host_s))


@dataclass(frozen=True)
class OneAfterTheOther:
    """GPipe's length for equal sends: every stage's fill, then the slowest stage's passes (arXiv 1811.06965)."""

    name: str = "gpipe"
    overlaps: bool = False

    def length(self, stages: tuple[StageTimes, ...], micro_batches: Any, virtual_stages: Any) -> float:
        """Exact for stages of equal forward, backward and send times."""
        every = [t for t in stages for _ in range(int(t.count))]
        slowest = max(t.forward + t.backward + t.weight for t in every)
        fill = sum(t.forward + t.backward + t.weight + 2 * t.send for t in every) - 2 * every[-1].send
        return fill + (micro_batches - 1) * slowest + max(t.epilogue for t in every)

    def in_flight(self, stage: Any, stages: Any, micro_batches: Any, virtual_stages: Any) -> Any:
        return micro_batches


def stage(count: int, forward: Node, *, send: float = 0.0, epilogue: Node = EMPTY) -> Stage:
    """A stage whose backward pass takes twice its forward pass, half of it for the weight gradient."""
    sent = op("pp.send", send, kind="send_recv", category="pp_comm", resource="scale_out") if send else EMPTY
    return Stage(count, seq(forward, name="forward"), Repeat(1, forward), Repeat(1, forward), sent, epilogue)


def layer(scale: float = 1.0) -> Node:
    """Two products with a collective between them, eight times, and a small norm."""
    parts = (
        op("norm", 1e-6 * scale, kind="norm", resource="hbm"),
        op("attn.qkv", 4e-3 * scale),
        op("tp.reduce", 1e-3 * scale, kind="all_reduce", category="tp_comm", resource="scale_up"),
        op("mlp.up", 7e-3 * scale),
    )
    return Repeat(8, seq(*parts, name="layer"), name="8 x layer")


def pipeline(micro_batches: int = 4, scale: float = 1.0) -> Pipeline:
    """Three stages; the gradients' reduction is partly hidden behind the last backward pass."""
    work = layer(scale)
    reduce = op("dp.reduce", 6e-3, kind="reduce_scatter", category="dp_comm", resource="scale_out")
    flow = Flow(10, (Repeat(0.1, work), reduce), ("compute", "dp"), 0.0, 0)
    update = op("optimizer", 2e-3, kind="optimizer", category="optimizer", resource="hbm")
    epilogue = seq(Exposed(flow, "reduction behind backward"), update, name="epilogue")
    stages = (stage(1, work, send=1e-4, epilogue=epilogue), stage(2, work, send=1e-4, epilogue=epilogue))
    return Pipeline(stages, micro_batches, OneAfterTheOther(), 1, "step")


@pytest.fixture
def evaluation() -> Evaluation:
    return Evaluation(pipeline(), price)


@pytest.fixture
def make_train() -> Callable[..., TrainResult]:
    """A training answer around the small pipeline; keyword arguments replace fields."""

    def make(scale: float = 1.0, **changes: Any) -> TrainResult:
        tree = Evaluation(pipeline(scale=scale), price)
        seconds = float(tree.seconds())
        fields: dict[str, Any] = {
            "model": "toy",
            "on": "6xh100-sxm",
            "plan": {"tp": 2, "pp": 3, "dp": 1, "micro_batch": 1, "global_batch": 4, "seq": 128, "zero": 1},
            "step_time_s": seconds,
            "tokens_per_second": 512 / seconds,
            "tokens_per_second_per_gpu": 512 / seconds / 6,
            "samples_per_second": 4 / seconds,
            "model_tflops_per_gpu": 412.0,
            "flops_convention": "full",
            "mfu": 0.417,
            "hfu": 0.46,
            "fits": True,
            "shortfall_bytes": 0.0,
            "memory_bytes": {
                "weights": 5 * 2.0**30,
                "gradients": 9 * 2.0**30,
                "optimizer": 7 * 2.0**30,
                "activations": 22 * 2.0**30,
                "workspace": 3 * 2.0**30,
                "total": 46 * 2.0**30,
                "capacity": 79 * 2.0**30,
            },
            "memory_by_stage": [],
            "time_s": {**{k: float(v) for k, v in tree.exposed().items()}, "ep_comm": 0.0},
            "bottleneck": Bottleneck("tensor", 0.62),
            "critical_s": {},
            "elasticity": {
                "tensor": 0.62,
                "scale_up": 0.21,
                "hbm": 0.04,
                "scale_out": 0.01,
                "vector": 0.0,
                "host": 0.0,
            },
            "energy_j": 7.1e5,
            "cost_usd_per_step": 0.98,
            "interval": None,
            "calibrated": True,
            "warnings": ["seq was not given"],
            "tree": tree,
        }
        return TrainResult(**{**fields, **changes})

    return make


@pytest.fixture
def make_infer() -> Callable[..., InferResult]:
    """A served batch; keyword arguments replace fields."""

    def make(scale: float = 1.0, **changes: Any) -> InferResult:
        trees = {name: Evaluation(layer(scale * by), price) for name, by in (("prefill", 1.0), ("decode", 0.1))}
        phase = Phase(
            bottleneck=Bottleneck("hbm", 0.8),
            time_s={"gemm": 0.012, "all_reduce": 0.002},
            elasticity={"hbm": 0.81, "tensor": 0.02, "scale_up": 0.1, "pcie": 0.0},
        )
        fields: dict[str, Any] = {
            "model": "toy",
            "on": "8xh100-sxm",
            "plan": {"tp": 8, "batch": 32, "input": 1024, "output": 128, "precision": "bf16", "engine": "vllm"},
            "ttft_s": 0.51 * scale,
            "tpot_s": 0.0213 * scale,
            "e2e_s": 3.2 * scale,
            "output_tokens_per_second": 1490.0,
            "total_tokens_per_second": 11000.0,
            "output_tokens_per_second_per_gpu": 186.0,
            "fits": True,
            "shortfall_bytes": 0.0,
            "max_batch": 71,
            "kv_capacity_tokens": 81792.0,
            "memory_bytes": {
                "weights": 17 * 2.0**30,
                "kv_cache": 14 * 2.0**30,
                "activations": 3 * 2.0**30,
                "total": 34 * 2.0**30,
                "capacity": 79 * 2.0**30,
            },
            "prefill": phase,
            "decode": phase,
            "energy_j_per_token": 3.1,
            "cost_usd_per_million_tokens": None,
            "interval": None,
            "calibrated": True,
            "warnings": [],
            "tree": trees,
        }
        return InferResult(**{**fields, **changes})

    return make


@pytest.fixture
def shown() -> Callable[..., str]:
    """A report as it stands on a terminal without colours, ``width`` columns wide."""
    from rich.console import Console

    def show(renderable: Any, width: int = 100) -> str:
        console = Console(width=width, highlight=False, markup=False)
        with console.capture() as captured:
            console.print(renderable)
        return captured.get()

    return show


@pytest.fixture(scope="session")
def toy() -> SimpleNamespace:
    """The makers of this file, for tests that build trees of their own."""
    return SimpleNamespace(op=op, price=price, stage=stage, layer=layer, pipeline=pipeline, schedule=OneAfterTheOther())
