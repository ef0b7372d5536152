"""Fuyou: state on drives, with all copies and the host's update behind the passes."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

from windtunnel.scenario.provenance import paper
from windtunnel.scenario.technique import About, Technique, TrainSetting, parameter
from windtunnel.training.swapping import cheapest_recompute_share


class Fuyou(Technique):
    """Weights, optimizer state and activations live on drives; the host updates behind the backward pass."""

    name: ClassVar[str] = "fuyou"
    about: ClassVar[About] = About(
        seed="P020",
        title="Adding NVMe SSDs to Enable and Accelerate 100B Model Fine-tuning on a Single GPU",
        source="arXiv 2403.06504",
        summary="All training state lives on drives. Copies run in both directions behind the passes, layer by layer, "
        "and the host updates a layer as soon as its gradient is there. As many layers swap their activations, rather "
        "than compute them again, as makes a step shortest.",
        rewrites=("step",),
        commands=("train",),
        decides=("where the model's state is kept",),
        neutral={"tier": "none"},
    )

    tier: Literal["none", "cpu", "nvme"] = parameter(
        paper("nvme", "abstract: adds SSD-CPU communication"), "where state is kept: nvme, cpu, or none (off)"
    )
    swap: float | None = parameter(
        paper(None, "abstract: computation and data swapping are co-optimized"),
        "share of layers whose activations are swapped, the others recompute; left out: what takes least time",
        ge=0,
        le=1,
    )

    def train(self, setting: TrainSetting) -> TrainSetting:
        if self.tier == "none":
            return setting
        plan, cluster = setting.plan, setting.cluster
        memory = cluster.dram if self.tier == "cpu" else cluster.nvme
        if not memory.capacity_bytes > 0:
            raise self.refuse(f"a node of {cluster.node} has no {self.tier} memory to keep state in")
        if plan.finetune.kind != "full":
            raise self.refuse(f"finetune={plan.finetune.kind} has little state to keep elsewhere; accepted: full")
        plan = replace(
            plan,
            offload_optimizer=self.tier,
            offload_params=self.tier,
            offload_activations=self.tier,
            streamed=True,
            recompute="full",
        )
        if self.swap is None:
            share = cheapest_recompute_share(
                setting.network, plan, setting.engine, cluster, setting.options.calibration
            )
        else:
            share = 1 - self.swap
        return replace(setting, plan=replace(plan, recompute_share=share))
