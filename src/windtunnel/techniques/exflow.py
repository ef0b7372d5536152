"""ExFlow: experts placed by which follows which, and tokens that stay where their expert was."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from windtunnel.models.dtypes import BYTES
from windtunnel.models.network import MoE
from windtunnel.ops.values import maximum
from windtunnel.parallel.reach import Reach
from windtunnel.scenario.provenance import assumption, paper
from windtunnel.scenario.technique import About, ServeSetting, Technique, parameter


class ExFlow(Technique):
    """One exchange a layer of experts instead of two, and less to exchange."""

    name: ClassVar[str] = "exflow"
    about: ClassVar[About] = About(
        seed="P012",
        title="Exploiting Inter-Layer Expert Affinity for Accelerating Mixture-of-Experts Model Inference",
        source="Yao et al., IPDPS 2024, arXiv 2401.08383",
        summary="Every rank holds all contexts, so that a token goes on from where its expert is and needs one "
        "exchange a layer; experts that often follow each other lie on one rank, so that many tokens need none.",
        rewrites=("step",),
        commands=("infer", "simulate"),
        decides=("how experts are reached",),
        neutral={"affinity": 0.0, "context_coherent": False},
    )

    affinity: float = parameter(
        paper(0.67, "abstract: placement takes off up to 67 % of the routing between GPUs"),
        "share of the visits to other ranks that placement makes local", ge=0, le=1,
    )  # fmt: skip
    context_coherent: bool = parameter(
        paper(True, "abstract: only one Alltoall for what others need two for"),
        "whether every rank holds all contexts, and tokens do not come back after each layer",
    )
    gathered: float = parameter(
        assumption(1.0, "the tokens themselves, once an iteration; what caches keep of one would be 2 in each layer"),
        "hidden vectors of each new token that all ranks gather in an iteration", ge=0,
    )  # fmt: skip

    def serve(self, setting: ServeSetting) -> ServeSetting:
        """The exchanges of layers of experts; caches hold the contexts of all ranks that share experts."""
        blocks, plan = setting.network.blocks, setting.plan
        experts = [b.ffn for b in blocks if isinstance(b.ffn, MoE)]
        if not experts:
            raise self.refuse(f"{setting.network.name} has no experts")
        if self.affinity == 0 and not self.context_coherent:
            return setting
        token = self.gathered * BYTES[plan.linear.activations] * setting.network.hidden_size
        reach = Reach(self.affinity, not self.context_coherent, max(e.top_k for e in experts), len(experts), token)
        if self.context_coherent:
            apart = maximum(plan.layout.ep * plan.layout.etp / plan.layout.tp, 1.0)
            plan = replace(plan, context_copies=plan.context_copies * apart)
        return replace(setting, plan=replace(plan, rewrites=(reach, *plan.rewrites)))
