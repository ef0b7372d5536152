"""Papers' claims, run: published against predicted."""

from windtunnel.studies.registry import load_study, study_names
from windtunnel.studies.run import run_studies

__all__ = ["load_study", "run_studies", "study_names"]
