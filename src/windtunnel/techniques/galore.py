"""GaLore: the optimizer works in a low-rank subspace of each gradient."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from windtunnel.scenario.plan import LowRank
from windtunnel.scenario.provenance import assumption, paper
from windtunnel.scenario.technique import About, Technique, TrainSetting, parameter


class GaLore(Technique):
    """Whatever the optimizer, its moments are kept of projected gradients. ``optimizer=adam8bit`` makes it 8-bit."""

    name: ClassVar[str] = "galore"
    about: ClassVar[About] = About(
        seed="P190",
        title="GaLore: Memory-Efficient LLM Training by Gradient Low-Rank Projection",
        source="arXiv 2403.03507",
        summary="Gradients of the layers' matrices are projected to a low rank, where the optimizer's moments live; "
        "its steps are projected back, so that all parameters are trained. Singular value decompositions find new "
        "subspaces from time to time.",
        rewrites=("step",),
        commands=("train",),
        decides=("the optimizer's state",),
        neutral={"rank": 0, "layerwise": False},
    )

    rank: int = parameter(
        paper(1024, "experiments: rank 1024 for the 7B model"), "rank of the subspaces (0: none)", ge=0
    )
    refresh_steps: int = parameter(
        paper(200, "experiments: subspace change frequency T of 200 steps"),
        "steps from one decomposition of all gradients to the next",
        ge=1,
    )
    projector_bytes: float = parameter(
        assumption(2.0, "projectors in the format of the 16-bit gradients that they come from"),
        "bytes of a projector's element",
        gt=0,
    )
    layerwise: bool = parameter(
        assumption(False, "the paper has it as an option, for steps of one micro-batch"),
        "each layer is updated in the backward pass, so that no other gradients are held",
    )

    def train(self, setting: TrainSetting) -> TrainSetting:
        plan = setting.plan
        if plan.finetune.kind != "full":
            raise self.refuse(f"finetune={plan.finetune.kind} trains low-rank adapters already; accepted: full")
        if self.rank and plan.offload_optimizer:
            raise self.refuse("projecting runs on the device; leave out offload optimizer")
        if self.layerwise and plan.micro_batches > 1:
            raise self.refuse(
                f"layerwise updates need whole gradients at once; a step has {plan.micro_batches:g} micro-batches: "
                f"accepted: global_batch = dp x micro_batch, or layerwise=false"
            )
        if self.layerwise:
            plan = replace(plan, layerwise_update=True)
        if self.rank:
            low_rank = LowRank(self.rank, self.projector_bytes, self.refresh_steps)
            plan = replace(plan, optimizer=replace(plan.optimizer, low_rank=low_rank))
        return replace(setting, plan=plan)
