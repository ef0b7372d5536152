"""Chunked prefill: prompts in pieces, in the iterations of running decodes."""

from __future__ import annotations

from typing import ClassVar

from windtunnel.scenario.engines import ServeEngine
from windtunnel.scenario.provenance import assumption
from windtunnel.scenario.simulate import ALIASES
from windtunnel.scenario.simulate_options import SimulateOptions
from windtunnel.scenario.technique import About, E, O, Technique, parameter


def mixed_request(technique: Technique, options: O, tokens: int) -> O:
    """``options`` with prompts cut to iterations of ``tokens``, decodes included.

    Raises:
        ScenarioError: the user asked for another scheduler or another budget.
    """
    if isinstance(options, SimulateOptions):
        name = options.scheduler
        if name is None or ALIASES.get(name, name) != "chunked":
            options = technique.ask(options, scheduler="chunked")
        options = technique.ask(options, max_tokens=tokens)
    return technique.ask(options, chunk=tokens)


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
        "tokens of an iteration, decodes included; 0 leaves the engine as it is",
        ge=0,
        le=100_000_000,
    )

    def request(self, options: O) -> O:
        return mixed_request(self, options, self.token_budget) if self.token_budget else options

    def engine(self, engine: E) -> E:
        if not self.token_budget:
            return engine
        assert isinstance(engine, ServeEngine)
        return engine.model_copy(update={"scheduler": "chunked"})
