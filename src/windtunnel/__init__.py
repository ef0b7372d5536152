"""A wind tunnel for AI systems: the time, memory, energy and cost of training and serving large models, predicted.

    import windtunnel as wt
    step = wt.train("llama-3.1-70b", on="64xh100-sxm", tp=8, pp=2, micro_batch=1, global_batch=512, seq=8192)
    step.step_time_s, step.bottleneck

Nothing heavy is loaded before the first call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from windtunnel.api import infer, plan_serve, plan_train, simulate, study, train, validate
    from windtunnel.errors import Infeasible, ScenarioError

    __version__: str

__all__ = [
    "Infeasible", "ScenarioError", "__version__", "infer", "plan_serve", "plan_train", "simulate", "study", "train",
    "validate",
]  # fmt: skip

_WHERE = {
    "Infeasible": "windtunnel.errors",
    "ScenarioError": "windtunnel.errors",
    "infer": "windtunnel.api",
    "plan_serve": "windtunnel.api",
    "plan_train": "windtunnel.api",
    "simulate": "windtunnel.api",
    "study": "windtunnel.api",
    "train": "windtunnel.api",
    "validate": "windtunnel.api",
}


def __getattr__(name: str) -> Any:
    """Attributes are found on first use (PEP 562)."""
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("windtunnel")
        except PackageNotFoundError:  # run from a source tree that is not installed
            return "unknown"
    if name not in _WHERE:
        raise AttributeError(f"module 'windtunnel' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
