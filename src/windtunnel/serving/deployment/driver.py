"""Runs a service through a workload."""

from __future__ import annotations

from windtunnel.serving.deployment.independent import Independent, independent
from windtunnel.serving.deployment.loop import Loop
from windtunnel.serving.deployment.service import Progress, Record, Service
from windtunnel.serving.deployment.staged import Staged, staged
from windtunnel.serving.workload.requests import Workload


def serve(service: Service, workload: Workload, progress: Progress | None = None) -> Record:
    """What becomes of every request; the replicas write its times.

    Requests are routed when they come, by replicas' state at that very time; one that no replica is up for waits at
    the service, in order (its timeout begins when an engine gets it). The decoding replica is chosen when the KV cache
    has arrived. What a failed replica held is lost: its requests, and those whose KV cache was on its way from it,
    start anew at once, from the prompt.

    An interruption (Ctrl-C) ends the run: what is known so far is returned, marked as partial. ``progress`` is told
    (requests ended, requests, time in ps).

    Raises:
        ScenarioError: a time that the clock cannot hold, or a user's policy that fails.
    """
    if independent(service, workload):
        return Independent(service, workload).run(progress)
    if staged(service, workload):
        return Staged(service, workload).run(progress)
    return Loop(service, workload).run(progress)
