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
    """Times calls on a device.

    ``alone``: the calls run on one thread of a CPU. Then the processor's time is taken, which other work on the machine
    does not stretch; otherwise the wall's.
    """

    torch: Any
    device: Device
    alone: bool = False

    def now(self) -> float:
        return time.process_time() if self.alone else time.perf_counter()

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
            begin = self.now()
            for _ in range(times):
                call()
            return (self.now() - begin) / times
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
        begin = self.now()
        call()
        self.wait()
        return self.now() - begin


def repeats(
    clock: Clock, kernels: Sequence[Call], runs: Sequence[Call], rounds: int
) -> tuple[list[list[float]], list[list[float]]]:
    """Seconds of each call in each of ``rounds``, in which all take their turn: what disturbs the machine for a while
    then falls on all alike. ``kernels``: short calls without gradients, of which the device time is taken, several in a
    row; ``runs``: longer ones, until the device is done.
    """
    of_kernels: list[list[float]] = [[] for _ in kernels]
    of_runs: list[list[float]] = [[] for _ in runs]
    slices = []
    with clock.torch.no_grad():
        for call in kernels:
            call()  # compiles, allocates
            seconds = clock.whole(call)
            slices.append(min(max(int(SLICE_S / max(seconds, 1e-9)), 1), MOST_CALLS))
    for call in runs:
        call()
        clock.whole(call)
    for _ in range(rounds):
        with clock.torch.no_grad():
            for call, times, found in zip(kernels, slices, of_kernels, strict=True):
                call()  # its own tensors are in the caches again that the others have used
                found.append(clock.kernels(call, times))
        for call, found in zip(runs, of_runs, strict=True):
            found.append(clock.whole(call))
    return of_kernels, of_runs
