"""What work costs on a machine: seconds and joules of operators, from measured constants."""

from windtunnel.cost.calibration import Calibration, load_calibration
from windtunnel.cost.energy import energy_j
from windtunnel.cost.kernels import effective_dtype
from windtunnel.cost.pricing import make_pricer
from windtunnel.cost.runtime import Runtime

__all__ = ["Calibration", "Runtime", "effective_dtype", "energy_j", "load_calibration", "make_pricer"]
