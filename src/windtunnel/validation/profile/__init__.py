"""A profiler's trace beside the prediction, operator by operator."""

from windtunnel.validation.profile.compare import against
from windtunnel.validation.profile.trace import read_trace

__all__ = ["against", "read_trace"]
