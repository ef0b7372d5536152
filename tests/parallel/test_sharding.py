"""What data parallelism, offloading and the update add to a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from windtunnel.models.network import MLP, MoE, Network
from windtunnel.ops.fold import tree_totals
from windtunnel.ops.op import Op
from windtunnel.ops.rewrite import operators
from windtunnel.ops.tree import Exposed, Flow, Node
from windtunnel.ops.values import Value
from windtunnel.parallel.step import Step
from windtunnel.scenario.engines import TrainEngine
from windtunnel.scenario.plan import OPTIMIZERS, Finetune

Make = Callable[..., Step]
Gpt = Callable[..., Network]
Engine = Callable[..., TrainEngine]
Sent = Callable[[Node], dict[str, Value]]

MICRO_BATCHES = 4


def data_parallel(sent: dict[str, Value]) -> dict[str, Value]:
    return {k: v for k, v in sent.items() if k.startswith(("dp.", "tied"))}


def op(tree: Node, name: str) -> Op:
    (found,) = {o.name: o for o in operators(tree) if o.name == name}.values()
    return found


@pytest.fixture
def made(step: Make, gpt: Gpt, engine: Engine, sent: Sent) -> Callable[..., tuple[Step, dict[str, Value], int]]:
    """(step, what it sends for data parallelism, parameters) of a small GPT on four data-parallel ranks."""

    def build(profile: dict[str, Any] | None = None, **options: Any) -> tuple[Step, dict[str, Value], int]:
        network = gpt(layers=3)
        result = step(
            network, engine(**(profile or {})), **{"dp": 4, "global_batch": 4 * MICRO_BATCHES, **options}
        )  # fmt: skip
        return result, data_parallel(sent(result.tree)), network.total_parameters

    return build


Made = Callable[..., tuple[Step, dict[str, Value], int]]


def test_zero_0_sums_all_gradients_once_a_step(made: Made) -> None:
    step, sent, n = made(zero=0)
    assert sent == {"dp.reduce": pytest.approx(4 * n)}
    assert {o.kind for o in operators(step.tree) if o.name == "dp.reduce"} == {"all_reduce"}


def test_zero_1_scatters_gradients_and_gathers_weights(made: Made) -> None:
    step, sent, n = made(zero=1)
    assert sent == {"dp.reduce": pytest.approx(4 * n), "dp.gather": pytest.approx(2 * n)}
    assert {o.kind for o in operators(step.tree) if o.name == "dp.reduce"} == {"reduce_scatter"}


def test_zero_2_keeps_no_whole_gradient_and_reduces_every_micro_batch(made: Made) -> None:
    _, sent, n = made({"reduce_bytes": 2}, zero=2)
    assert sent == {"dp.reduce": pytest.approx(MICRO_BATCHES * 2 * n), "dp.gather": pytest.approx(2 * n)}


def test_zero_3_gathers_weights_for_every_pass(made: Made) -> None:
    _, sent, n = made(zero=3)
    assert sent == {
        "dp.gather": pytest.approx(2 * MICRO_BATCHES * 2 * n),
        "dp.reduce": pytest.approx(MICRO_BATCHES * 4 * n),
    }


def test_hybrid_sharding_gathers_within_groups_and_reduces_between_them(made: Made) -> None:
    step, sent, n = made(zero=3, hsdp=2)
    assert sent["dp.replicas"] == pytest.approx(MICRO_BATCHES * 4 * n / 2)
    assert op(step.tree, "dp.gather").group.size == 2
    replicas = op(step.tree, "dp.replicas").group
    assert (replicas.size, replicas.stride) == (2, 2)


def test_context_parallel_ranks_share_gradients_too(made: Made) -> None:
    step, _, _ = made(dp=2, cp=2)
    group = op(step.tree, "dp.reduce").group
    assert (group.size, group.stride) == (4, 1)


def test_a_single_rank_sends_nothing(made: Made) -> None:
    for zero in range(4):
        assert made(dp=1, global_batch=MICRO_BATCHES, zero=zero)[1] == {}


def test_experts_are_reduced_among_their_own_copies(step: Make, gpt: Gpt, sent: Sent) -> None:
    moe = MoE(8, 2, MLP(64, 128, gated=True), router_parameters=64 * 8)
    network = gpt(layers=2, moe=moe)
    experts = 2 * 8 * moe.expert.parameters
    dense = network.total_parameters - experts
    made = step(network, dp=8, ep=4, zero=0, global_batch=8)
    sizes = {o.group.size: o.message_bytes for o in operators(made.tree) if o.name == "dp.reduce"}
    assert sizes == {8: 4 * dense, 2: pytest.approx(4 * experts / 4)}
    # Copies may lie inside a tp group: they are reduced although dp is 1.
    inside = step(network, tp=4, etp=1, ep=2, zero=0, global_batch=1)
    assert {o.group.size for o in operators(inside.tree) if o.name == "dp.reduce" and o.message_bytes > 0} == {2}


def test_a_tied_table_on_two_stages_is_summed_between_them(step: Make, gpt: Gpt) -> None:
    network = gpt(layers=4, tied=True)
    made = step(network, pp=4, tp=2, global_batch=4)
    assert [[o.name for o in operators(s.epilogue)].count("tied") for s in made.tree.stages] == [1, 0, 1]
    tied = op(made.tree.stages[0].epilogue, "tied")
    assert tied.message_bytes == 4 * network.vocab_size * network.hidden_size / 2
    assert (tied.group.size, tied.group.stride) == (2, 2 * 3)
    assert "tied" not in {o.name for o in operators(step(network).tree)}
    assert "tied" not in {o.name for o in operators(step(gpt(layers=4), pp=4).tree)}


@pytest.mark.parametrize(("zero", "share"), [(0, 1), (1, 4), (3, 4)])
def test_the_update_moves_the_state_of_the_parameters_it_owns(made: Made, zero: int, share: int) -> None:
    step, _, n = made(zero=zero)
    assert op(step.tree, "optimizer").hbm_bytes == pytest.approx(40 * n / share)
    sgd, _, _ = made(zero=zero, optimizer=OPTIMIZERS["sgd"])
    # No moments to read and write: 16 bytes less a parameter.
    assert op(sgd.tree, "optimizer").hbm_bytes == pytest.approx(24 * n / share)


def test_an_offloaded_optimizer_sends_gradients_out_and_weights_back(made: Made) -> None:
    step, _, n = made(zero=1, offload_optimizer="nvme")
    move = op(step.tree, "offload.optimizer")
    assert move.pcie_bytes == pytest.approx((4 + 2) * n / 4)
    assert move.nvme_bytes == pytest.approx(2 * 12 * n / 4)
    assert op(step.tree, "optimizer.host").shape["bytes"] == pytest.approx(40 * n / 4)


def test_offloaded_weights_and_activations_travel_once_a_pass(made: Made) -> None:
    step, _, n = made(offload_params="cpu")
    pcie = tree_totals(step.tree).bytes["pcie"]
    assert pcie == pytest.approx(2 * MICRO_BATCHES * 2 * n)
    step, _, _ = made(offload_activations="nvme")
    totals = tree_totals(step.tree).bytes
    assert totals["pcie"] == totals["nvme"] == pytest.approx(2 * MICRO_BATCHES * step.held[0].saved)


def test_overlap_hides_communication_behind_one_pass(made: Made) -> None:
    def exposed(step: Step) -> list[Node]:
        (epilogue,) = [s.epilogue for s in step.tree.stages]
        return [node for node in epilogue.children if isinstance(node, Exposed)]

    reduce, gather = exposed(made({"bucket_parameters": 1e4}, zero=1)[0])
    buckets = reduce.beside.n
    assert buckets == made()[2] / 1e4
    assert (reduce.beside.streams, reduce.beside.main) == (("compute", "dp"), 0)
    assert (gather.beside.streams, gather.beside.main) == (("dp", "compute"), 1)
    assert exposed(made({"overlap_gradients": False, "overlap_parameters": False}, zero=1)[0]) == []
    (stage,) = made(zero=3)[0].tree.stages
    assert isinstance(stage.forward, Flow)
    assert isinstance(stage.backward, Flow)
    assert stage.backward.streams == ("dp", "compute", "dp")


def test_a_frozen_base_is_gathered_by_zero_3_only(step: Make, gpt: Gpt, engine: Engine, sent: Sent) -> None:
    network = gpt(layers=3)
    for kind, bits, width in (("lora", 16, 2.0), ("qlora", 4, 0.5 + 0.127 / 8), ("qlora", 8, 1.0)):
        finetune = Finetune(kind, r=4, bits=bits)
        adapters = step(network, finetune=finetune).held[0].dense
        options = {"dp": 4, "global_batch": 16, "finetune": finetune}
        assert data_parallel(sent(step(network, zero=1, **options).tree)) == {
            "dp.reduce": pytest.approx(4 * adapters), "dp.gather": pytest.approx(2 * adapters)
        }  # fmt: skip
        passes = data_parallel(sent(step(network, zero=3, **options).tree))
        assert passes["dp.gather"] == pytest.approx(2 * 4 * (2 * adapters + width * network.total_parameters))
