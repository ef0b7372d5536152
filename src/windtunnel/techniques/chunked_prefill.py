"""Chunked prefill: prompts in pieces, in the iterations of running decodes."""

from __future__ import annotations

from typing import ClassVar

from windtunnel.scenario.engines import ServeEngine
from windtunnel.scenario.provenance import assumption
from windtunnel.scenario.simulate import ALIASES
from windtunnel.scenario.simulate_options import SimulateOptions
from windtunnel.scenario.technique import About, E, O, Technique, parameter


class ChunkedPrefill(Technique):
    name: ClassVar[str] = "chunked-prefill"
    about: ClassVar[About] = About(
        seed="P068",
        title="Chunked prefill, as serving engines have it",
        source="arXiv 2308.16369 and 2403.02310; vLLM's option --enable-chunked-prefill",
        summary="Decodes come first in every iteration; what is left of its token budget is filled with pieces of "
        "prompts. For any engine that runs prompts alone or whole.",
        rewrites=("policy",),
        commands=("infer", "simulate"),
        decides=("the scheduler",),
        neutral={"token_budget": 0},
    )

    token_budget: int = parameter(
        assumption(2048, "vLLM's usual max_num_batched_tokens with chunked prefill from 0.6 on"),
        "tokens of an iteration, decodes included, unless --chunk says so; 0 leaves the engine as it is",
        ge=0,
        le=100_000_000,
    )

    def request(self, options: O) -> O:
        if not self.token_budget:
            return options
        if (
            isinstance(options, SimulateOptions)
            and ALIASES.get(options.scheduler or "", options.scheduler) != "chunked"
        ):
            options = self.ask(options, scheduler="chunked")
        given = [name for name in ("chunk", "max_tokens") if getattr(options, name, None) is not None]
        if given and "token_budget" not in self.model_fields_set:
            return options  # the user's own budget, under a name that engines have for it
        return self.ask(options, **dict.fromkeys(given or ["chunk"], self.token_budget))

    def engine(self, engine: E) -> E:
        if not self.token_budget:
            return engine
        assert isinstance(engine, ServeEngine)
        return engine.model_copy(update={"scheduler": "chunked"})
