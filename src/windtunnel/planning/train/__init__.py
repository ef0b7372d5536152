"""``plan train``: every legal layout and memory choice, priced together."""

from windtunnel.planning.train.answer import plan_train

__all__ = ["plan_train"]
