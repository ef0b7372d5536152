"""DistServe: prompts and decoding on engines of their own, each with its parallelism, placed by bandwidth."""

from __future__ import annotations

from typing import ClassVar

from windtunnel.scenario.provenance import assumption, paper
from windtunnel.scenario.simulate_options import SimulateOptions
from windtunnel.scenario.technique import About, O, Technique, parameter

OURS = assumption(0, "the split of what the user gave: see the summary")


class DistServe(Technique):
    name: ClassVar[str] = "distserve"
    about: ClassVar[About] = About(
        seed="P010",
        title="DistServe: Disaggregating Prefill and Decoding for Goodput-optimized Large Language Model Serving",
        source="OSDI 2024, arXiv 2401.09670",
        summary="Prompts run on engines of their own and decoding on others, each phase with its tp and pp, so that "
        "neither holds up the other; KV caches move between them, inside a node where both fit. Without parameters the "
        "engines that were asked for are split in halves (more of them decode if their number is odd), and a single "
        "engine into two of half its tensor-parallel ranks; pools that were asked for stay.",
        rewrites=("policy",),
        commands=("simulate",),
        decides=("the pools",),
    )

    prefill_engines: int = parameter(OURS, "engines that run prompts; 0: half of the engines asked for", ge=0)
    prefill_tp: int = parameter(OURS, "their tensor-parallel ranks; 0: as asked for", ge=0)
    prefill_pp: int = parameter(OURS, "their pipeline stages; 0: as asked for", ge=0)
    decode_engines: int = parameter(OURS, "engines that decode; 0: the other half", ge=0)
    decode_tp: int = parameter(OURS, "their tensor-parallel ranks; 0: as asked for", ge=0)
    decode_pp: int = parameter(OURS, "their pipeline stages; 0: as asked for", ge=0)
    near: bool = parameter(
        paper(True, "section 4.2: where links between nodes are slow, both phases of a stage are put in one node"),
        "whether engines that decode are in the nodes of those that run prompts",
    )

    def request(self, options: O) -> O:
        assert isinstance(options, SimulateOptions)
        placement = "beside" if self.near else "behind"
        if options.prefill and options.decode and not self.model_fields_set - {"near"}:
            return self.ask(options, kv_placement=placement)
        engines, tp = options.replicas, options.tp
        if engines == 1 and not (self.prefill_engines or self.decode_engines):
            if tp % 2 and not (self.prefill_tp and self.decode_tp):
                raise self.refuse(
                    f"one engine of tp={tp} cannot be split in two: give replicas, or prefill_tp and so on"
                )
            engines, tp = 2, tp if tp % 2 else tp // 2
        prefill = _group(self.prefill_engines or max(engines // 2, 1), self.prefill_tp or tp, self.prefill_pp)
        decode = _group(self.decode_engines or max(engines - engines // 2, 1), self.decode_tp or tp, self.decode_pp)
        given = options.model_copy(update={"replicas": 1})
        return self.ask(given, prefill=prefill, decode=decode, kv_placement=placement)


def _group(engines: int, tp: int, pp: int) -> str:
    return f"{engines}x(tp={tp}" + (f",pp={pp})" if pp else ")")
