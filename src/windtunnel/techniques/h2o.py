"""H2O: a KV cache that keeps the tokens that attention has used most, and the latest ones."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from windtunnel.models.network import Attention, LatentAttention, Mixer, Network, with_mixers
from windtunnel.models.sparse import Kept, SparseKV
from windtunnel.scenario.provenance import assumption, paper
from windtunnel.scenario.technique import About, ServeSetting, Technique, parameter


class HeavyHitters(Technique):
    """A share of each sequence's tokens stays in the cache: half of it the latest, half the heavy hitters."""

    name: ClassVar[str] = "h2o"
    about: ClassVar[About] = About(
        seed="P200",
        title="H2O: Heavy-Hitter Oracle for Efficient Generative Inference of Large Language Models",
        source="arXiv 2306.14048",
        summary="Keeps a share of each sequence's KV cache: recent tokens and those with the largest attention weights "
        "so far. Prompts attend to everything; decoding reads, and memory holds, the share alone. Each step adds its "
        "weights to the scores kept for each token and drops the token with the smallest.",
        rewrites=("model",),
        commands=("infer", "simulate"),
        decides=("what the KV cache keeps",),
        neutral={"share": 1.0},
    )

    share: float = parameter(
        paper(0.2, "abstract: 20% heavy hitters"), "tokens kept over those of the context so far", gt=0, le=1
    )
    tokens: int = parameter(
        assumption(0, "section 4, algorithm 1 fixes the cache's size; which one follows from a request's length"),
        "tokens kept at most, instead of a share (0: a share)",
        ge=0,
    )
    kernels: int = parameter(
        assumption(
            6, "addition, smallest score, and the token's place in scores, keys and values, as tensor operations"
        ),
        "kernels of a layer's bookkeeping at each decode step",
        ge=1,
    )

    @property
    def _drops(self) -> bool:
        return self.tokens > 0 or self.share < 1.0

    def model(self, network: Network) -> Network:
        if not self._drops:
            return network
        if not any(isinstance(b.mixer, Attention | LatentAttention) for b in network.blocks):
            raise self.refuse(f"{network.name} keeps no tokens, only recurrent states")
        return with_mixers(network, self._sparse)

    def serve(self, setting: ServeSetting) -> ServeSetting:
        options = setting.options
        if self._drops and (getattr(options, "prefix_cache", None) or getattr(options, "cache_tiers", None)):
            raise self.refuse("what is dropped depends on what follows a prefix, so prefixes cannot share a cache")
        return setting

    def _sparse(self, mixer: Attention | LatentAttention) -> Mixer:
        groups = mixer.heads / mixer.kv_heads if isinstance(mixer, Attention) else mixer.heads
        part = (Kept(window=self.tokens) if self.tokens else Kept(self.share),)
        # The weights of a group's query heads are read, one sum for each token is read and written.
        sparse = SparseKV(hold=part, read=part, choose=groups + 2.0, choose_kernels=self.kernels, score=1.0)
        return replace(mixer, sparse=sparse)
