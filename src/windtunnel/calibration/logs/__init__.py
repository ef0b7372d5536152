"""Engine constants from a user's own log: a serving benchmark's results, or the step times of training."""

from windtunnel.calibration.logs.calibrate import calibrate_from_log
from windtunnel.calibration.logs.recognise import recognise
from windtunnel.calibration.logs.result import LogCalibration

__all__ = ["LogCalibration", "calibrate_from_log", "recognise"]
