"""PyTorch, loaded where it is needed, and how long its calls take on a device."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from windtunnel.errors import ScenarioError

Device = Literal["cpu", "cuda"]
Call = Callable[[], object]
"""Something to time."""

SLICE_S = 400e-6
"""Short calls are timed this long together, so that the clock does not matter."""
MOST_CALLS = 200


def load_torch(device: str = "cpu") -> Any:
    """PyTorch with a working ``device``.

    Raises:
        ScenarioError: it is not installed, or has no such device.
    """
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        raise ScenarioError(
            "--measure runs PyTorch, which is not installed; install it with: pip install 'windtunnel[torch]'"
        ) from None
    if device not in ("cpu", "cuda"):
        raise ScenarioError(f"--device {device[:40]!r} is not one of cpu, cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise ScenarioError("--device cuda: PyTorch finds no CUDA device here; accepted: cpu")
    return torch


@dataclass(frozen=True, slots=True)
class Clock:
    """Times calls on a device."""

    torch: Any
    device: Device

    def wait(self) -> None:
        """Until the device has done all that it was given."""
        if self.device == "cuda":
            self.torch.cuda.synchronize()

    def kernels(self, call: Call, times: int) -> float:
        """Device seconds of one call, of ``times`` in a row.

        On CUDA the calls are queued behind a kernel that spins until the host has issued them all, so that the
        device's own time is seen and not how fast Python launches; on a CPU the two are one.
        """
        if self.device == "cpu":
            begin = time.perf_counter()
            for _ in range(times):
                call()
            return (time.perf_counter() - begin) / times
        cuda = self.torch.cuda
        begin = time.perf_counter()
        call()
        issue = time.perf_counter() - begin
        start, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
        # Cycles of a clock of 1 to 2 GHz: twice what the launches should take, and some.
        cuda._sleep(int(2e9 * (2 * issue * times + 50e-6)))
        start.record()
        for _ in range(times):
            call()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) * 1e-3 / times

    def whole(self, call: Call) -> float:
        """Seconds from calling until the device is done."""
        self.wait()
        begin = time.perf_counter()
        call()
        self.wait()
        return time.perf_counter() - begin


def repeats(clock: Clock, calls: Sequence[Call], rounds: int, *, kernels: bool) -> list[list[float]]:
    """Seconds of each call in each of ``rounds``, in which all take their turn: what disturbs the machine for a while
    then falls on all alike. ``kernels``: device time of short calls, timed several in a row."""
    slices = []
    found: list[list[float]] = [[] for _ in calls]
    for call in calls:
        call()  # compiles, allocates
        seconds = clock.whole(call)
        slices.append(min(max(int(SLICE_S / max(seconds, 1e-9)), 1), MOST_CALLS))
    for _ in range(rounds):
        for call, times, seconds_of in zip(calls, slices, found, strict=True):
            if not kernels:
                seconds_of.append(clock.whole(call))
                continue
            call()  # its own tensors are in the caches again that the others have used
            seconds_of.append(clock.kernels(call, times))
    return found
