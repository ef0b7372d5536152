"""Answers: a scenario in, a result out."""

from windtunnel.engine.infer import infer
from windtunnel.engine.simulate import simulate
from windtunnel.engine.train import train

__all__ = ["infer", "simulate", "train"]
