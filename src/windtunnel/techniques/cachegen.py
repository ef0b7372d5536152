"""CacheGen: contexts come as compressed KV caches from a store."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from windtunnel.models.network import StateSpace
from windtunnel.scenario.provenance import assumption, paper
from windtunnel.scenario.simulate_options import SimulateOptions
from windtunnel.scenario.stored import StoredContext
from windtunnel.scenario.technique import About, O, ServeSetting, Technique, parameter


class CacheGen(Technique):
    """The KV cache of a context is fetched as a bitstream, or computed from its text where that is quicker."""

    name: ClassVar[str] = "cachegen"
    about: ClassVar[About] = About(
        seed="P120",
        title="CacheGen: Fast Context Loading for Language Model Applications",
        source="Liu et al., arXiv 2310.07240",
        summary=(
            "KV caches of contexts lie in a store, quantised and entropy-coded; they are sent over the network and "
            "decoded on the device piece by piece, and the query alone is computed; where computing the context from "
            "its text is quicker, that is done. In simulate the store is the remote tier of the prefix cache."
        ),
        rewrites=("step", "policy"),
        commands=("infer", "simulate"),
        decides=("where the cache of a context comes from",),
        neutral={"share": 0},
    )

    share: float = parameter(
        assumption(0.99, "a long context and a question of some tens of tokens"),
        "share of each prompt whose cache is stored (infer); 0: none", ge=0, le=1,
    )  # fmt: skip
    bandwidth_gbit_per_s: float = parameter(
        paper(3.0, "section 7: 3 Gbit/s unless stated"), "link from the store to one engine, Gbit/s", gt=0, le=1e6
    )
    ratio: float = parameter(
        paper(8.0, "abstract: 3.7-4.3 times smaller than the 8-bit baseline, itself half of 16 bits"),
        "bytes of the cache on the device over bytes sent; 1: as it is, 2: 16 bits sent in 8", ge=1, le=1000,
    )  # fmt: skip
    decode_gbyte_per_s: float = parameter(
        assumption(5.0, "some billions of symbols a second of a parallel arithmetic decoder on a GPU"),
        "cache that the device restores, GB/s", gt=0, le=1e9,
    )  # fmt: skip
    piece_tokens: int = parameter(
        paper(1500, "section 5.3: chunks of 1.5 thousand tokens"), "tokens sent and decoded at a time", ge=1
    )
    text: bool = parameter(
        paper(True, "abstract: a controller loads raw text instead where that is quicker"),
        "whether a context may be computed from its text",
    )
    store: str = parameter(
        assumption("10TB", "large beside what one engine meets"), "size of the store (simulate), such as 10TB"
    )

    def request(self, options: O) -> O:
        """The prefix cache of a simulation has the store below it."""
        if self.share == 0 or not isinstance(options, SimulateOptions):
            return options
        if options.cache_tiers is None:
            return self.ask(options, cache_tiers=f"remote:{self.store}")
        if "remote" not in options.cache_tiers:
            raise self.refuse(f"cache_tiers={options.cache_tiers} has no remote tier, which would be the store")
        return options

    def serve(self, setting: ServeSetting) -> ServeSetting:
        """Contexts come from the store."""
        if self.share == 0:
            return setting
        if any(isinstance(b.mixer, StateSpace) for b in setting.network.blocks):
            raise self.refuse(f"{setting.network.name} keeps recurrent states, which no KV codec compresses")
        stored = StoredContext(
            bytes_per_s=self.bandwidth_gbit_per_s * 1e9 / 8,
            share=self.share,
            ratio=self.ratio,
            decode_bytes_per_s=self.decode_gbyte_per_s * 1e9,
            piece_tokens=self.piece_tokens,
            text=self.text,
        )
        return replace(setting, plan=replace(setting.plan, stored=stored))
