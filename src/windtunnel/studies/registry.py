"""Studies by name: every module of :mod:`windtunnel.studies.papers` holds one, called ``STUDY``."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from windtunnel.errors import unknown
from windtunnel.studies import papers
from windtunnel.studies.study import Study


@cache
def study_names() -> tuple[str, ...]:
    """Every study: its module's name with dashes."""
    return tuple(sorted(m.name.replace("_", "-") for m in pkgutil.iter_modules(papers.__path__)))


def load_study(name: str) -> Study:
    """The study of that name.

    Raises:
        ScenarioError: no such study.
    """
    if name not in study_names():
        raise unknown("study", name, study_names())
    module = importlib.import_module(f"{papers.__name__}.{name.replace('-', '_')}")
    study = module.STUDY
    assert isinstance(study, Study)
    return study
