"""Megatron-LM's interleaved pipeline schedule: several model chunks a device shrink the bubble."""

from __future__ import annotations

from typing import ClassVar

from windtunnel.scenario.options import TrainOptions
from windtunnel.scenario.provenance import paper
from windtunnel.scenario.technique import About, O, Technique, parameter


class MegatronLM(Technique):
    """The bubble's share of the ideal time falls from (pp - 1)/m to (pp - 1)/(v·m); sends between stages grow v times
    (arXiv 2104.04473, section 2.2). Tensor, pipeline and data parallelism are the plan's own."""

    name: ClassVar[str] = "megatron-lm"
    about: ClassVar[About] = About(
        seed="P034",
        title="Efficient Large-Scale Language Model Training on GPU Clusters Using Megatron-LM",
        source="arXiv 2104.04473",
        summary="Each pipeline stage holds several chunks of the model and runs 1F1B over them, which divides the "
        "pipeline's bubble by their number and multiplies its messages by it.",
        rewrites=("policy",),
        commands=("train",),
        decides=("the pipeline schedule",),
        neutral={"virtual_stages": 1},
    )

    virtual_stages: int = parameter(
        paper(2, "section 2.2 and figure 4: two chunks a device"), "model chunks of a pipeline stage", ge=1, le=1000
    )

    def request(self, options: O) -> O:
        if not isinstance(options, TrainOptions) or self.virtual_stages == 1:
            return options
        return self.ask(options, schedule="interleaved", virtual_stages=self.virtual_stages)
