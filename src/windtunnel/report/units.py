"""Numbers as people read them. Only reports use these: inside and in JSON everything is SI."""

from __future__ import annotations

import math

MISSING = "–"
"""Shown where a figure is not known."""

_TIMES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
_LONG = ((86400.0, "days"), (3600.0, "h"), (60.0, "min"))
_SIZES = ((2.0**50, "PiB"), (2.0**40, "TiB"), (2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"))
_COUNTS = ((1e12, "T"), (1e9, "B"), (1e6, "M"))


def number(value: float | None, digits: int = 3) -> str:
    """``digits`` significant figures, all of them before the decimal point kept: 339,870, 51.8, 0.00312."""
    if value is None or not math.isfinite(value):
        return MISSING
    if value == 0:
        return "0"
    places = digits - 1 - math.floor(math.log10(abs(value)))
    if round(abs(value), places) >= 10.0 ** (digits - places):  # 9.996 rounds up to 10.0
        places -= 1
    if places > 8:
        return f"{value:.{digits - 1}e}"
    return f"{value:,.{max(places, 0)}f}"


def seconds(value: float | None) -> str:
    """12.3 s, 412 ms, 35.2 µs."""
    if value is None or not math.isfinite(value):
        return MISSING
    if value == 0:
        return "0 s"
    size, unit = next((t for t in _TIMES if abs(value) >= 0.9995 * t[0]), _TIMES[-1])
    return f"{number(value / size)} {unit}"


def duration(value: float | None) -> str:
    """A long time: 51.2 days, 3.40 h; seconds below two minutes."""
    if value is None or not math.isfinite(value):
        return MISSING
    for size, unit in _LONG:
        if abs(value) >= 2 * size:
            return f"{number(value / size)} {unit}"
    return seconds(value)


def size(value: float | None) -> str:
    """61.2 GiB."""
    if value is None or not math.isfinite(value):
        return MISSING
    for one, unit in _SIZES:
        if abs(value) >= 0.9995 * one:
            return f"{number(value / one)} {unit}"
    return f"{number(value)} B"


def percent(fraction: float | None) -> str:
    """71.2 %."""
    return MISSING if fraction is None or not math.isfinite(fraction) else f"{100 * fraction:.1f} %"


def dollars(value: float | None) -> str:
    """$5.12, $0.00312, $12,300."""
    if value is None or not math.isfinite(value):
        return MISSING
    if abs(value) >= 100:
        return f"${value:,.0f}"
    return f"${value:,.2f}" if abs(value) >= 1 or value == 0 else f"${number(value)}"


def energy(value: float | None) -> str:
    """3.10 MJ, up to a megawatt-hour; beyond that 12.0 MWh."""
    if value is None or not math.isfinite(value):
        return MISSING
    if value >= 3.6e9:
        return f"{number(value / 3.6e9)} MWh"
    for one, unit in ((1e6, "MJ"), (1e3, "kJ"), (1.0, "J")):
        if value >= one:
            return f"{number(value / one)} {unit}"
    return f"{number(value * 1e3)} mJ" if value else "0 J"


def count(value: float | None) -> str:
    """70.6 B, 1.3 T; whole below a million."""
    if value is None or not math.isfinite(value):
        return MISSING
    for one, unit in _COUNTS:
        if abs(value) >= 0.9995 * one:
            return f"{number(value / one)} {unit}"
    return f"{value:,.0f}" if float(value).is_integer() else number(value)


def option(value: object) -> str:
    """An option's value as a user would write it: several techniques with plus signs between them."""
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return "+".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
