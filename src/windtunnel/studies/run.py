"""Several studies at once, each in a process of its own where there are several."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from windtunnel.errors import ScenarioError
from windtunnel.studies.registry import load_study
from windtunnel.studies.study import outcome

Told = Callable[[str, int, int], None]


def _outcome(name: str) -> dict[str, Any]:
    return outcome(load_study(name))


def run_studies(names: Sequence[str], *, workers: int | None = None, told: Told | None = None) -> dict[str, Any]:
    """{``studies``: an entry for each of ``names``, in their order; ``verdicts``: how many there are of each}.

    ``workers``: processes (default: as many as processors, and one for few studies). ``told``: the name of one that is
    done, how many are, and of how many.

    Raises:
        ScenarioError: no such study, or a number of workers that is not positive.
    """
    names = list(dict.fromkeys(names))
    for name in names:
        load_study(name)
    if workers is not None and workers < 1:
        raise ScenarioError(f"workers={workers}: it should be at least 1")
    count = min(workers or os.cpu_count() or 1, max(len(names) // 2, 1))
    found: dict[str, dict[str, Any]] = {}
    for entry in _each(names, count):
        found[entry["name"]] = entry
        if told is not None:
            told(entry["name"], len(found), len(names))
    rows = [found[name] for name in names]
    verdicts = {v: sum(r["verdict"] == v for r in rows) for v in ("reproduced", "direction", "missed", None)}
    return {"studies": rows, "verdicts": {v or "no number": n for v, n in verdicts.items()}}


def _each(names: Sequence[str], workers: int) -> Any:
    if workers == 1:
        return map(_outcome, names)
    from joblib import Parallel, delayed

    pool = Parallel(n_jobs=workers, return_as="generator_unordered", pre_dispatch="all", batch_size=1)
    return pool(delayed(_outcome)(name) for name in names)
