"""What ``--set key=value`` may change: every key names its quantity and, after it, its unit.

A quantity such as ``hbm`` has a dimension (a rate, a capacity, …), and any unit of that dimension is accepted:
``hbm_gbyte_per_s=3350``, ``hbm_tbyte_per_s=3.35`` and ``hbm_gbit_per_s=26800`` are the same. Abbreviations that people
read in two ways (``gbps``, ``gb``) are refused with both of their readings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from windtunnel.errors import ScenarioError, unknown
from windtunnel.hardware.schema import DTYPES

UNITS: dict[str, dict[str, float]] = {
    "rate": {
        "gbyte_per_s": 1e9, "gbit_per_s": 1e9 / 8, "tbyte_per_s": 1e12, "tbit_per_s": 1e12 / 8,
        "mbyte_per_s": 1e6, "mbit_per_s": 1e6 / 8, "gibyte_per_s": 2.0**30,
    },
    "capacity": {
        "gbyte": 1e9, "gibyte": 2.0**30, "mbyte": 1e6, "mibyte": 2.0**20, "tbyte": 1e12, "tibyte": 2.0**40,
    },
    "time": {"us": 1e-6, "ns": 1e-9, "ms": 1e-3, "s": 1.0},
    "flops": {"tflops": 1e12, "tops": 1e12, "gflops": 1e9, "pflops": 1e15},
    "power": {"watt": 1.0, "kilowatt": 1e3},
    "money": {"usd_per_hour": 1.0},
    "number": {},
    "whole": {},
}  # fmt: skip
"""Units by dimension, in SI base units; the first of each is the usual one. "number" and "whole" have none."""

AMBIGUOUS: dict[str, tuple[str, str]] = {
    **dict.fromkeys(("gbps", "gb_per_s", "gbs", "gb_s", "gib_per_s"), ("gbit_per_s", "gbyte_per_s")),
    **dict.fromkeys(("tbps", "tb_per_s", "tbs", "tb_s"), ("tbit_per_s", "tbyte_per_s")),
    **dict.fromkeys(("mbps", "mb_per_s", "mbs", "mb_s"), ("mbit_per_s", "mbyte_per_s")),
    "gb": ("gbyte", "gibyte"), "mb": ("mbyte", "mibyte"), "tb": ("tbyte", "tibyte"), "g": ("gbyte", "gibyte"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Quantity:
    """Something that can be set: its dimension, the bounds of what is believable (SI), what it is, whether it may be
    zero, and its usual unit where that is not the dimension's first.
    """

    dimension: str
    low: float
    high: float
    about: str
    zero: bool = False
    unit: str = ""


_RATE = ("rate", 1.0, 1e18)
_BYTES = ("capacity", 1.0, 1e18)
_MAYBE_NONE = ("capacity", 0.0, 1e18)
_TIME = ("time", 0.0, 10.0)
_WATT = ("power", 1e-3, 1e7)

# A quantity with two dimensions (hbm: rate and capacity) has two entries, told apart by the unit that is given.
QUANTITIES: dict[tuple[str, str], Quantity] = {
    (name, quantity.dimension): quantity
    for name, quantity in [
        *[(dtype, Quantity("flops", 1e6, 1e21, f"dense {dtype} rate of the matrix unit")) for dtype in DTYPES],
        ("vector", Quantity("flops", 1e6, 1e21, "fp32 rate outside the matrix unit")),
        ("hbm", Quantity(*_RATE, "device memory bandwidth")),
        ("hbm", Quantity(*_BYTES, "device memory that a process can allocate")),
        ("l2", Quantity(*_RATE, "bandwidth of the last cache")),
        ("l2", Quantity(*_BYTES, "size of the last cache")),
        ("kernel_gap", Quantity(*_TIME, "idle time between two dependent kernels", zero=True)),
        ("tdp", Quantity(*_WATT, "most that an accelerator draws")),
        ("power_cap", Quantity(*_WATT, "limit set below what an accelerator draws at most: clocks fall to keep it")),
        ("idle", Quantity("power", 0.0, 1e7, "what an idle accelerator draws", zero=True)),
        ("price", Quantity("money", 0.0, 1e6, "one accelerator with its share of the node", zero=True)),
        ("scale_up", Quantity(*_RATE, "innermost scale-up level, each accelerator and direction")),
        ("scale_up_latency", Quantity(*_TIME, "one message at the innermost scale-up level", zero=True)),
        ("scale_out", Quantity(*_RATE, "network, each accelerator and direction")),
        ("scale_out_latency", Quantity(*_TIME, "one message at the innermost network level", zero=True)),
        ("nic", Quantity(*_RATE, "one network adapter and direction", unit="gbit_per_s")),
        ("pcie", Quantity(*_RATE, "accelerator to host, each accelerator and direction")),
        ("dram", Quantity(*_RATE, "host memory bandwidth of a node")),
        ("dram", Quantity(*_MAYBE_NONE, "host memory of a node", zero=True)),
        ("nvme", Quantity(*_RATE, "local drives of a node")),
        ("nvme", Quantity(*_MAYBE_NONE, "local drives of a node", zero=True)),
        ("node_power", Quantity("power", 0.0, 1e7, "what a node draws beside its accelerators", zero=True)),
        ("compute_units", Quantity("whole", 1, 1e6, "SMs, CUs or cores of an accelerator")),
        ("nics_per_node", Quantity("whole", 1, 1e6, "network adapters of a node")),
        ("gpus_per_node", Quantity("whole", 1, 1e6, "accelerators of a node")),
        ("scale_up_domain", Quantity("whole", 1, 1e6, "accelerators that the outermost scale-up level joins")),
        ("oversubscription", Quantity("number", 1.0, 1e6, "bandwidth into over out of the outermost network level")),
        (
            "host_relative_speed",
            Quantity("number", 1e-3, 1e3, "single-thread speed of the host, 1 being the reference"),
        ),
    ]
}

CHOICES = ("fabric", "node")
SWITCHES = ("in_network_reduction",)


def override_keys() -> dict[str, str]:
    """Every key in its usual unit, with what it sets; other units of the same dimension are accepted, too."""
    keys = {_key(name, dimension): quantity.about for (name, dimension), quantity in QUANTITIES.items()}
    keys |= {
        "fabric": "a network of the catalogue",
        "node": "a node of the catalogue",
        "in_network_reduction": "true or false: whether switches reduce (NVLS, SHARP)",
    }
    return keys


def _key(name: str, dimension: str) -> str:
    unit = QUANTITIES[name, dimension].unit or next(iter(UNITS[dimension]), "")
    return f"{name}_{unit}" if unit else name


@dataclass(frozen=True, slots=True)
class Overrides:
    """Validated overrides in SI units, by (quantity, dimension); ``given`` holds what was written, for the sources."""

    values: Mapping[tuple[str, str], float]
    given: Mapping[tuple[str, str], str]
    node: str | None = None
    fabric: str | None = None
    in_network_reduction: bool | None = None

    def value(self, name: str, dimension: str, default: float) -> float:
        return self.values.get((name, dimension), default)

    def source(self, name: str, dimension: str, default: str) -> str:
        given = self.given.get((name, dimension))
        return default if given is None else f"set by the user: {given}"


def parse_overrides(overrides: Mapping[str, object] | None) -> Overrides:
    """Check and convert ``{"hbm_gbyte_per_s": 4800, "fabric": "leaf-spine", …}``; numbers may be text.

    Raises :class:`ScenarioError` for an unknown or ambiguous key, a quantity set twice, and a value that is no
    number, not finite, negative, zero where that means nothing, not whole where it must be, or beyond belief.
    """
    values: dict[tuple[str, str], float] = {}
    given: dict[tuple[str, str], str] = {}
    choices: dict[str, str] = {}
    switch: bool | None = None
    for written, value in (overrides or {}).items():
        key = str(written).strip().lower().replace("-", "_")
        if key in CHOICES:
            if not isinstance(value, str) or not value.strip():
                raise ScenarioError(f"{key} is a name, not {one_line(value)}")
            choices[key] = value.strip().lower()
            continue
        if key in SWITCHES:
            switch = _boolean(key, value)
            continue
        entry, factor = _quantity(key)
        if entry in values:
            raise ScenarioError(f"{given[entry]} and {key}={one_line(value)} set the same figure; give one of them")
        values[entry] = _number(key, value, factor, QUANTITIES[entry])
        given[entry] = f"{key}={one_line(value)}"
    for network in (("nic", "rate"), ("nics_per_node", "whole")):
        if ("scale_out", "rate") in values and network in values:
            raise ScenarioError(
                f"{given['scale_out', 'rate']} and {given[network]} set the same bandwidth; give one of them"
            )
    return Overrides(values, given, choices.get("node"), choices.get("fabric"), switch)


def _quantity(key: str) -> tuple[tuple[str, str], float]:
    """The entry of :data:`QUANTITIES` that a key names, and its unit's factor to SI."""
    for dimension, units in UNITS.items():
        if not units and (key, dimension) in QUANTITIES:
            return (key, dimension), 1.0
        for unit, factor in units.items():
            name = key.removesuffix("_" + unit)
            if name != key and (name, dimension) in QUANTITIES:
                return (name, dimension), factor
    for short, readings in AMBIGUOUS.items():
        name = key.removesuffix("_" + short)
        dimension = "rate" if readings[0].endswith("_per_s") else "capacity"
        if name != key and (name, dimension) in QUANTITIES:
            raise ScenarioError(f"{key!r} can be read in two ways: use {name}_{readings[0]} or {name}_{readings[1]}")
    bare = [_key(*entry) for entry in QUANTITIES if entry[0] == key]
    if bare:
        raise ScenarioError(f"{key!r} names no unit: use {' or '.join(bare)}")
    raise unknown("setting", key, override_keys())


def _number(key: str, value: object, factor: float, quantity: Quantity) -> float:
    expected = "a whole number" if quantity.dimension == "whole" else "a number"
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ScenarioError(f"{key} is {expected}, not {one_line(value)}")
    try:
        if isinstance(value, str) and ("_" in value or not value.isascii()):
            raise ValueError  # Python reads 1_000 and ١ as numbers; nobody means them here
        number = float(value)
    except (ValueError, OverflowError):
        raise ScenarioError(f"{key} is {expected}, not {one_line(value)}") from None
    if not math.isfinite(number):
        raise ScenarioError(f"{key} is finite, not {one_line(value)}")
    if number < 0 or (number == 0 and not quantity.zero):
        raise ScenarioError(f"{key} is {'at least' if quantity.zero else 'above'} 0, not {one_line(value)}")
    if quantity.dimension == "whole" and number != int(number):
        raise ScenarioError(f"{key} is a whole number, not {one_line(value)}")
    if not quantity.low <= number * factor <= quantity.high:
        low, high = quantity.low / factor, quantity.high / factor
        raise ScenarioError(f"{key}={one_line(value)} is beyond belief; accepted are {low:.6g} to {high:.6g}")
    return number * factor


def _boolean(key: str, value: object) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in ("true", "false"):
        return text == "true"
    raise ScenarioError(f"{key} is true or false, not {one_line(value)}")


def one_line(value: object, longest: int = 40) -> str:
    """A user's value for an error message: on one line, in plain characters, not too long."""
    if isinstance(value, int) and abs(value) >= 10**40:
        return "an integer of more than 40 digits"  # Python refuses to print the longest
    text = value if isinstance(value, str) else repr(value)
    text = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
    return text if len(text) <= longest else text[: longest - 3] + "..."


def merge(first: Overrides, last: Overrides) -> Overrides:
    """Both sets of overrides; where they set the same figure, the last wins."""
    network = {("nic", "rate"), ("nics_per_node", "whole")}
    beaten: set[tuple[str, str]] = set(last.values)
    if ("scale_out", "rate") in last.values:
        beaten |= network
    if network & set(last.values):
        beaten.add(("scale_out", "rate"))
    return Overrides(
        {entry: v for entry, v in first.values.items() if entry not in beaten} | dict(last.values),
        {entry: v for entry, v in first.given.items() if entry not in beaten} | dict(last.given),
        last.node or first.node,
        last.fabric or first.fabric,
        first.in_network_reduction if last.in_network_reduction is None else last.in_network_reduction,
    )
