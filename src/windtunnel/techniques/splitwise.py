"""Splitwise: prompts and tokens on pools of machines that suit each, with KV caches sent layer by layer."""

from __future__ import annotations

from typing import ClassVar

from windtunnel.scenario.provenance import assumption, paper
from windtunnel.scenario.simulate_options import SimulateOptions
from windtunnel.scenario.technique import About, O, Technique, parameter


class Splitwise(Technique):
    name: ClassVar[str] = "splitwise"
    about: ClassVar[About] = About(
        seed="P063",
        title="Splitwise: Efficient generative LLM inference using phase splitting",
        source="ISCA 2024, arXiv 2311.18677",
        summary="The engines asked for are split into a pool of prompt machines and one of token machines, which may "
        "be of another kind or have a lower power cap: decoding needs neither the newest compute nor its power. KV "
        "caches are sent layer by layer over the network while a prompt runs. Pools that were asked for stay.",
        rewrites=("policy",),
        commands=("simulate",),
        decides=("the pools",),
    )

    prompt_engines: int = parameter(
        assumption(0, "what the token pool leaves"),
        "engines of the prompt pool; 0: of the engines asked for, all but those of the token pool",
        ge=0,
    )
    token_engines: int = parameter(
        assumption(0, "as token_share says"),
        "engines of the token pool; 0: token_share of the engines asked for, one at least",
        ge=0,
    )
    token_share: float = parameter(
        assumption(0.4, "somewhat fewer than prompt machines; which share is best depends on the workload"),
        "of the engines asked for, those of the token pool where their number is not given",
        gt=0,
        lt=1,
    )
    token_on: str = parameter(
        paper("", "section 4.4: the same machines for both, unless the cluster is heterogeneous"),
        "device of the token pool, such as a100-80gb-sxm; empty: as for prompts",
    )
    token_price: float = parameter(
        assumption(0.0, "the catalogue's price"),
        "USD an hour of an accelerator of the token pool; 0: the catalogue's",
        ge=0,
    )
    token_power_cap: float = parameter(
        paper(0.0, "section 4.4: no cap, unless the design has one (half of the TDP)"),
        "power cap of the token pool's accelerators, W; 0: none",
        ge=0,
    )

    def request(self, options: O) -> O:
        assert isinstance(options, SimulateOptions)
        if options.prefill and options.decode and not self.model_fields_set:
            return self.ask(options, kv_transfer="layerwise")
        engines = options.replicas
        if engines < 2 and not (self.prompt_engines and self.token_engines):
            raise self.refuse(
                "one engine cannot be split into two pools: give replicas, or prompt_engines, token_engines"
            )
        tokens = self.token_engines or max(round(self.token_share * engines), 1)
        prompts = self.prompt_engines or max(engines - tokens, 1)
        own = {"on": self.token_on, "price_usd_per_hour": self.token_price, "power_cap_watt": self.token_power_cap}
        told = ",".join(f"{key}={value}" for key, value in own.items() if value)
        given = options.model_copy(update={"replicas": 1})
        return self.ask(given, prefill=f"{prompts}x()", decode=f"{tokens}x({told})", kv_transfer="layerwise")
