"""The best way to run it: search over plans of training and of serving."""

from __future__ import annotations

from collections.abc import Callable

from windtunnel.scenario.plan_options import PlanServeOptions, PlanTrainOptions
from windtunnel.scenario.plans import PlanResult

Progress = Callable[[float, str], None]
"""Told the fraction that is done and the best so far."""


def plan_train(options: PlanTrainOptions, *, progress: Progress | None = None) -> PlanResult:
    """The best training plans; see :mod:`windtunnel.planning.train`. With ``export``, among those that the tool can
    run, and the files for the best of them.

    Raises:
        ScenarioError: the request is wrong. Where nothing is feasible the answer has ``feasible`` 0.
    """
    from windtunnel.planning.exported import for_tool, with_files
    from windtunnel.planning.train import plan_train as search
    from windtunnel.planning.trying import try_all

    options, narrowed = for_tool(options)
    return with_files(try_all(options, lambda o, p: search(o, narrowed=narrowed, progress=p), progress), options)


def plan_serve(options: PlanServeOptions, *, progress: Progress | None = None) -> PlanResult:
    """The best services for a workload and an SLO; see :mod:`windtunnel.planning.serve`. With ``export`` as
    :func:`plan_train`.

    Raises:
        ScenarioError: the request is wrong. Where nothing is feasible the answer has ``feasible`` 0.
    """
    from windtunnel.planning.exported import for_tool, with_files
    from windtunnel.planning.serve import plan_serve as search
    from windtunnel.planning.trying import try_all

    options, narrowed = for_tool(options)
    return with_files(try_all(options, lambda o, p: search(o, narrowed=narrowed, progress=p), progress), options)
