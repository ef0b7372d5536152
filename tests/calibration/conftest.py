"""Tables of kernels whose times are the package's own prices for constants that a test knows; and the command."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from windtunnel.calibration.forms import families, inherited, predict, rates_of
from windtunnel.calibration.layout import Table, table_of
from windtunnel.cost.calibration import load_calibration
from windtunnel.hardware import parse_cluster


class Synthetic:
    """Measurements of a device that the package knows from its family only."""

    device = "a6000"

    def shapes(self, kernel: str) -> list[dict[str, Any]]:
        """Rows of one kernel over the sizes that tell its constants apart."""
        heads = {"heads": 32, "kv_heads": 8, "head_dim": 128}
        if kernel == "gemm":
            weights = ((4096, 4096), (6144, 4096), (28672, 4096), (4096, 14336), (1024, 8192))
            return [
                {"kernel": kernel, "dtype": "bf16", "m": m, "n": n, "k": k}
                for n, k in weights
                for m in (1, 8, 32, 100, 256, 1024, 4096)
            ]
        if kernel in ("attention", "attention_backward"):
            return [
                {
                    "kernel": kernel,
                    "dtype": "bf16",
                    "tokens": b * s,
                    "pairs": b * s * (s + 1) / 2,
                    "context": b * s,
                    **heads,
                }
                for s in (64, 128, 300, 512, 1500, 2048, 8192)
                for b in (1, 4, 16)
            ]
        if kernel == "attention_decode":
            return [
                {"kernel": kernel, "dtype": "bf16", "sequences": b, "context": b * s, **heads}
                for s in (128, 512, 2048, 8192)
                for b in (1, 4, 16, 64)
            ]
        size = "pcie_bytes" if kernel == "copy" else "bytes"
        return [{"kernel": kernel, size: float(b)} for b in np.geomspace(1e4, 1e9, 16)]

    def priced(
        self, rows: list[dict[str, Any]], constants: Mapping[str, float], noise: float = 0.0, seed: int = 0
    ) -> Table:
        """The rows of one kernel with the seconds that its constants give, each off by about ``noise``."""
        cluster = parse_cluster(f"1x{self.device}")
        calibration = load_calibration(cluster.accelerator)
        table = table_of([{**row, "seconds": 1.0} for row in rows])
        (family,) = families(table.samples, calibration, cluster.accelerator)
        entry = inherited(calibration, family.section, family.key).model_copy(update=dict(constants))
        seconds = predict(family, entry, rates_of(cluster, calibration), cluster)
        off = np.exp(np.random.default_rng(seed).normal(0.0, noise, len(seconds)))
        (sample,) = table.samples
        return replace(table, samples=(replace(sample, seconds=seconds * off),))


@pytest.fixture(scope="session")
def synthetic() -> Synthetic:
    return Synthetic()


@pytest.fixture
def calibrate(run: Callable[..., Any]) -> Callable[..., Any]:
    """``calibrate("--from", "kernels.csv")``: the exit code, standard output and standard error."""

    def asked(*arguments: str, command: str = "calibrate") -> Any:
        return run(command, *arguments)

    return asked
