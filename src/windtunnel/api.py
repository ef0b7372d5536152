"""The Python calls: the commands by the same names, with the same options as keyword arguments."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from windtunnel import engine
from windtunnel.errors import Infeasible
from windtunnel.scenario.options import InferOptions, TrainOptions, read_options
from windtunnel.scenario.plan_options import PlanServeOptions, PlanTrainOptions
from windtunnel.scenario.plans import PlanResult
from windtunnel.scenario.results import InferResult, TrainResult
from windtunnel.scenario.simulate_options import SimulateOptions
from windtunnel.scenario.simulation import SimulateResult

if TYPE_CHECKING:
    from windtunnel.validation import Validation

R = TypeVar("R", TrainResult, InferResult, SimulateResult)


def train(model: str | os.PathLike[str], *, on: str, **options: Any) -> TrainResult:
    """One training step of ``model`` (a catalogue name or a path) on the cluster ``on`` ("64xh100-sxm").

    ``options``: those of ``windtunnel train`` (:class:`~windtunnel.scenario.options.TrainOptions`), with underscores;
    ``set`` is a mapping of hardware figures. Times in seconds, sizes in bytes, energies in joules.

    Raises:
        ScenarioError: the request is wrong.
        Infeasible: it does not fit in memory, or failures leave no time to progress; ``result`` is the full answer.
    """
    result = engine.train(read_options(TrainOptions, {"model": _path(model), "on": on, **options}))
    return _fitting(result)


def infer(model: str | os.PathLike[str], *, on: str, **options: Any) -> InferResult:
    """A batch of prompts that arrive at once at a serving engine; arguments and errors as :func:`train`."""
    result = engine.infer(read_options(InferOptions, {"model": _path(model), "on": on, **options}))
    return _fitting(result)


def simulate(model: str | os.PathLike[str], *, on: str, **options: Any) -> SimulateResult:
    """Requests over time on a serving deployment; arguments and errors as :func:`train`. An interruption (Ctrl-C) gives
    the answer up to then, with ``partial`` True."""
    result = engine.simulate(read_options(SimulateOptions, {"model": _path(model), "on": on, **options}))
    return _fitting(result)


def plan_train(model: str | os.PathLike[str], *, on: str, **options: Any) -> PlanResult:
    """The best ways to train ``model`` on the cluster ``on``, every legal one priced.

    ``options``: those of ``windtunnel plan train`` (:class:`~windtunnel.scenario.plan_options.PlanTrainOptions`); one
    that is searched takes a value, several (``tp=[4, 8]`` or ``"4,8"``) or, left out, every legal one.

    Raises:
        ScenarioError: the request is wrong.
        Infeasible: no plan is feasible; ``result`` is the full answer, with the ``nearest`` plan and what ``binding``
            constraint it misses.
    """
    from windtunnel import planning

    return _found(planning.plan_train(read_options(PlanTrainOptions, {"model": _path(model), "on": on, **options})))


def plan_serve(model: str | os.PathLike[str], *, on: str | Sequence[str], **options: Any) -> PlanResult:
    """The best ways to serve a workload within its limits (``slo``) on one of the clusters ``on``; options
    (:class:`~windtunnel.scenario.plan_options.PlanServeOptions`) and errors as :func:`plan_train`."""
    from windtunnel import planning

    return _found(planning.plan_serve(read_options(PlanServeOptions, {"model": _path(model), "on": on, **options})))


def study(*names: str, workers: int | None = None) -> dict[str, Any]:
    """Papers' claims, published against predicted: the studies ``names`` (all by default), on ``workers`` processes.
    The fields of ``windtunnel study run --json``.

    Raises:
        ScenarioError: no such study.
    """
    from windtunnel import studies

    return studies.run_studies(names or studies.study_names(), workers=workers)


def validate(*names: str, data: str | os.PathLike[str] | None = None, workers: int | None = None) -> Validation:
    """How far predictions are off the measured data sets ``names`` (all by default); see
    :func:`windtunnel.validation.validate`."""
    from windtunnel import validation

    return validation.validate(*names, data=data, workers=workers)


def _fitting(result: R) -> R:
    if not result.fits:
        needed, capacity = result.memory_bytes["total"], result.memory_bytes["capacity"]
        raise Infeasible(
            f"{result.model} on {result.on} does not fit: {needed / 2**30:.1f} GiB needed a GPU, "
            f"{capacity / 2**30:.1f} GiB there, short by {result.shortfall_bytes / 2**30:.1f} GiB",
            result,
        )
    if isinstance(result, TrainResult) and result.run is not None and not result.feasible:
        raise Infeasible(f"{result.model} on {result.on}: {result.run['problem']}", result)
    return result


def _found(result: PlanResult) -> PlanResult:
    if result.feasible == 0:
        from windtunnel.report.plan_words import shortfall

        said = [f"no plan of {result.model} on {' or '.join(result.on)} is feasible", shortfall(result)]
        raise Infeasible(": ".join(filter(None, said)), result)
    return result


def _path(model: Any) -> Any:
    return os.fspath(model) if isinstance(model, os.PathLike) else model
