"""Which constants a log may be fitted with, and the calibration file that holds their values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from windtunnel.cost import Calibration, effective_dtype, load_calibration
from windtunnel.cost.kernels import WIDER
from windtunnel.cost.sustained import at_power
from windtunnel.hardware.yaml_file import read_user_yaml
from windtunnel.scenario.engines import ServeEngine, TrainEngine
from windtunnel.scenario.own_engine import SECTION
from windtunnel.scenario.simulate_options import SimulateOptions
from windtunnel.scenario.train import TrainScenario

SUSTAINED = "sustained"
"""Not of the profile: the factor on the ``sustained`` fractions of matrix products and attention in the kernel
calibration, the one in-situ efficiency that all layers share."""


@dataclass(frozen=True, slots=True)
class Constant:
    """One number that may be fitted. ``shipped``: where the fit begins; ``width``: the standard deviation, around it,
    within which the number is taken to lie before the log is seen; ``low``, ``high``: what is physical."""

    name: str
    about: str
    shipped: float
    width: float
    low: float
    high: float


def serve_constants(engine: ServeEngine, options: Iterable[SimulateOptions]) -> list[Constant]:
    """Of a serving engine; the share of memory only where it is what decides on the cache's size.

    Widths: a shipped value may be off by itself or, where it is small, by a usual size of that cost.
    """
    found = [
        Constant("host_s_per_step", "host seconds an iteration", *_cost(engine.host_s_per_step, 1e-3, 0.1)),
        Constant("host_s_per_sequence", "host seconds an iteration for each sequence in it",
                 *_cost(engine.host_s_per_sequence, 2e-5, 0.01)),
        Constant("first_token_s", "seconds a request outside of the engine", *_cost(engine.first_token_s, 0.02, 5.0)),
        Constant("mixed_attention", "attention of prompts and decodes together over the two apart",
                 engine.mixed_attention, 0.3, 1.0, 4.0),
    ]  # fmt: skip
    if all(o.kv_blocks is None and o.memory_utilization is None for o in options):
        about = "share of device memory that the engine uses"
        found.append(Constant("memory_utilization", about, engine.memory_utilization, 0.05, 0.3, 1.0))
    return found


def train_constants(engine: TrainEngine) -> list[Constant]:
    """Of a training framework, and the in-situ efficiency of its products (at most the kernels' own)."""
    return [
        Constant("host_s_per_layer", "host seconds to issue one layer's forward pass",
                 *_cost(engine.host_s_per_layer, 5e-4, 0.1)),
        Constant("host_s_per_step", "host seconds a step", *_cost(engine.host_s_per_step, 0.02, 60.0)),
        Constant("interference", "of communication behind compute", engine.interference, 0.2, 0.0, 1.0),
        Constant(SUSTAINED, "factor on the matrix unit's rate inside a run", 1.0, 0.15, 0.3, 1.5),
    ]  # fmt: skip


def _cost(shipped: float, usual: float, most: float) -> tuple[float, float, float, float]:
    return shipped, max(shipped, usual), 0.0, max(most, 2 * shipped)


@dataclass(frozen=True, slots=True)
class Target:
    """The file that is fitted: an engine's profile and, for :data:`SUSTAINED`, the devices' own entries by table.

    ``base``: the user's calibration file that the constants are laid over, as data; ``devices``: for each device the
    shipped entries whose ``sustained`` is scaled.
    """

    engine: str
    base: Mapping[str, Any]
    devices: Mapping[str, Mapping[str, Mapping[str, Mapping[str, Any]]]]
    log: str

    def content(self, values: Mapping[str, float]) -> dict[str, Any]:
        """The calibration file with these values of constants."""
        data = {**self.base}
        own = {k: float(f"{v:.6g}") for k, v in values.items() if k != SUSTAINED}
        if own:
            engines = dict(data.get(SECTION) or {})
            engines[self.engine] = {**(engines.get(self.engine) or {}), **own}
            data[SECTION] = engines
        if SUSTAINED in values:
            data["devices"] = self._devices(dict(data.get("devices") or {}), values[SUSTAINED])
        return data

    def _devices(self, known: dict[str, Any], factor: float) -> dict[str, Any]:
        for device, tables in self.devices.items():
            sections = dict(known.get(device) or {})
            for table, entries in tables.items():
                own = dict(sections.get(table) or {})
                for key, entry in entries.items():
                    scaled = float(f"{min(entry['sustained'] * factor, 1.0):.6g}")
                    said = f"sustained: fitted on {self.log}; the rest as before"
                    own[key] = {**(own.get(key) or {}), SUSTAINED: scaled, "source": said}
                    if entry["fit"]:  # on kernels, which say nothing of this constant
                        own[key]["fit"] = entry["fit"]
                sections[table] = own
            known[device] = sections
        return known


def target(engine: str, calibration: str | None, log: str, scenarios: Iterable[TrainScenario] = ()) -> Target:
    """The file for ``engine``, over the user's file ``calibration``; ``scenarios`` say on which devices and with which
    number formats products run.

    Raises:
        ScenarioError: the user's file cannot be read.
    """
    base = read_user_yaml(calibration) if calibration is not None else {}
    devices: dict[str, dict[str, dict[str, dict[str, Any]]]] = {}
    for scenario in scenarios:
        accelerator = scenario.cluster.accelerator
        used = effective_dtype(accelerator, scenario.plan.linear.compute)
        found = _sustained(at_power(load_calibration(accelerator, calibration), accelerator), used)
        own = devices.setdefault(accelerator.name, {})
        for table, entries in found.items():
            own.setdefault(table, {}).update(entries)
    return Target(engine, base if isinstance(base, dict) else {}, devices, log)


def _sustained(calibration: Calibration, dtype: str) -> dict[str, dict[str, dict[str, Any]]]:
    """Entries of attention and of products in ``dtype`` and bf16, which training in 8 bits uses beside it."""
    tables: dict[str, dict[str, dict[str, Any]]] = {}
    for table, key, entry in calibration.records():
        stands_in = {_stand_in(getattr(calibration, table), t) for t in (dtype, "bf16")} if "gemm" in table else set()
        if key in stands_in or table in ("attention", "attention_backward"):
            held = entry.model_dump()
            tables.setdefault(table, {})[key] = {SUSTAINED: held[SUSTAINED], "fit": held["fit"]}
    return tables


def _stand_in(table: Mapping[str, Any], dtype: str) -> str:
    """The format whose constants products in ``dtype`` have."""
    return next((t for t in WIDER[dtype] if t in table), "bf16")
