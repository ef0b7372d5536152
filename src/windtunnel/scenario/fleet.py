"""How a deployment is written: engines side by side, replicas that come and go, tiers of a prefix cache."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from windtunnel.errors import ScenarioError, unknown
from windtunnel.hardware import override_keys
from windtunnel.scenario.text import number, shown

ENGINE_OPTIONS = (
    "tp", "pp", "dp", "ep", "etp", "precision", "kv_precision", "engine", "kv_blocks", "block_size",
    "memory_utilization", "max_model_len", "chunk", "max_batch", "max_tokens", "scheduler", "preemption", "watermark",
    "reserve", "prefix_cache", "eviction", "cache_tiers", "swap_gbyte", "prediction_error", "async_scheduling",
    "expert_imbalance", "max_queue", "timeout",
)  # fmt: skip
"""Options of ``simulate`` that may differ from engine to engine."""

MACHINE = "on"
"""Key of the machine that a group runs on, where it is not the command's."""

MOST_REPLICAS = 100_000

TIERS = ("host", "nvme", "remote")
"""Memories below the device's, fastest first: the host's, the node's drives, storage over the network."""

Metric = Literal["load", "kv", "queue"]


@dataclass(frozen=True, slots=True)
class EngineGroup:
    """``count`` like engines, with ``options`` (names of :data:`ENGINE_OPTIONS`, values as written) of their own.

    ``on``: the machine of these engines, ``DEVICE`` (as many as they need) or ``COUNTxDEVICE``; None: the command's.
    ``figures``: of that machine, as ``--set`` has them, in their usual units.
    """

    count: int
    options: Mapping[str, str]
    on: str | None = None
    figures: Mapping[str, str] = field(default_factory=dict)


def fleet(text: str, what: str = "fleet") -> tuple[EngineGroup, ...]:
    """``"2x(tp=4)+1x(tp=8,max-batch=64)"`` → two groups; ``"2"`` or ``"2x()"``: two engines as the options say;
    ``"4x(tp=8,on=h100-sxm,power-cap-watt=400)"``: on machines of their own.

    ``what``: the option's name, for errors.

    Raises:
        ScenarioError: another form, no engine or too many, an option that engines do not have, or one given twice.
    """
    groups = tuple(_group(part, text, what) for part in _parts(text))
    total = sum(g.count for g in groups)
    if total > MOST_REPLICAS:
        raise ScenarioError(f"{what} {shown(text)} has {total} engines; at most {MOST_REPLICAS} are accepted")
    return groups


def _parts(text: str) -> Iterator[str]:
    """The text between the plus signs that stand outside of parentheses."""
    depth = start = 0
    for i, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if letter == "+" and depth == 0:
            yield text[start:i]
            start = i + 1
    yield text[start:]


def _pairs(text: str, what: str) -> dict[str, str]:
    """``"a=1,b=2"`` → {"a": "1", "b": "2"}."""
    pairs: dict[str, str] = {}
    for part in filter(str.strip, text.split(",")):
        key, _, value = (x.strip() for x in part.partition("="))
        if not key or not value or key in pairs:
            raise ScenarioError(f"{what} {shown(part)} is not a new key=value; accepted: key=value,key=value")
        pairs[key] = value
    return pairs


_GROUP = re.compile(r"\s*([0-9]{1,9})\s*(?:[xX×*]\s*\(([^()]*)\)\s*)?")


def _group(part: str, text: str, what: str) -> EngineGroup:
    found = _GROUP.fullmatch(part)
    if found is None:
        raise ScenarioError(
            f"{what} {shown(text)}: {shown(part)} is not understood; accepted: 2x(tp=4)+1x(tp=8,max-batch=64)"
        )
    count = int(found[1])
    if not 1 <= count <= MOST_REPLICAS:
        raise ScenarioError(f"{what} {shown(text)}: {count} engines; 1 to {MOST_REPLICAS} are accepted")
    options: dict[str, str] = {}
    figures: dict[str, str] = {}
    known = override_keys()
    for key, value in _pairs(found[2] or "", f"{what} {shown(text)}:").items():
        name = key.replace("-", "_")
        if name not in (*ENGINE_OPTIONS, MACHINE, *known):
            raise unknown(f"engine option in {what} {shown(text)}:", name, (*ENGINE_OPTIONS, MACHINE, *known))
        if name in options or name in figures:
            raise ScenarioError(f"{what} {shown(text)}: {name} is given twice")
        (figures if name in known else options)[name] = value
    return EngineGroup(count, options, options.pop(MACHINE, None), figures)


@dataclass(frozen=True, slots=True)
class Autoscale:
    """Between ``minimum`` and ``maximum`` replicas; every ``interval_s`` as many as bring ``metric`` to ``target``.

    ``metric``: ``load`` (requests in the engines over their max-batch), ``kv`` (used fraction of their KV cache) or
    ``queue`` (requests waiting at each). A new replica reads its weights from the tier ``source`` (None: they are
    there) and then takes ``delay_s`` to start. ``policy``: a user's ``module:Class`` that decides instead of the
    target.
    """

    minimum: int
    maximum: int
    metric: Metric = "load"
    target: float = 0.7
    interval_s: float = 10.0
    source: str | None = None
    delay_s: float = 0.0
    policy: str | None = None


_AUTOSCALE = ("min", "max", "metric", "target", "interval", "from", "delay", "policy")


def autoscale(text: str) -> Autoscale:
    """``"min=1,max=8,metric=load,target=0.7,interval=10,from=nvme,delay=20"``; all but ``max`` may be left out.

    The target is 0.7 where it is not given, and one waiting request for ``metric=queue``.

    Raises:
        ScenarioError: an unknown key, a value out of its range, or ``min`` above ``max``.
    """
    what = f"autoscale {shown(text)}:"
    given = _pairs(text, what)
    for key in given:
        if key not in _AUTOSCALE:
            raise unknown(f"key in {what}", key, _AUTOSCALE)
    if "max" not in given:
        raise ScenarioError(f"{what} max is missing; accepted: min=1,max=8,target=0.7,interval=10,from=nvme")
    minimum, maximum = (_replicas(given.get(key, "1"), f"{what} {key}") for key in ("min", "max"))
    if minimum > maximum:
        raise ScenarioError(f"{what} min={minimum} is more than max={maximum}")
    metrics: dict[str, Metric] = {m: m for m in get_args(Metric)}
    name = given.get("metric", "load")
    if name not in metrics:
        raise unknown(f"metric in {what}", name, metrics)
    source = given.get("from")
    if source is not None and source not in TIERS:
        raise unknown(f"tier in {what}", source, TIERS)
    policy = given.get("policy")
    if policy is not None and ":" not in policy:
        raise ScenarioError(f"{what} policy {shown(policy)} is not understood; accepted: module:Class")
    return Autoscale(
        minimum=minimum,
        maximum=maximum,
        metric=metrics[name],
        target=number(given.get("target", "1" if name == "queue" else "0.7"), f"{what} target", at_most=_MOST[name]),
        interval_s=number(given.get("interval", "10"), f"{what} interval", above=1e-3, at_most=1e6),
        source=source,
        delay_s=0.0 if given.get("delay", "0") == "0" else number(given["delay"], f"{what} delay", at_most=1e6),
        policy=policy,
    )


_MOST = {"load": 1e6, "kv": 1.0, "queue": 1e9}


def _replicas(text: str, what: str) -> int:
    if not (re.fullmatch("[0-9]{1,9}", text) and 1 <= int(text) <= MOST_REPLICAS):
        raise ScenarioError(f"{what}={shown(text)} is not a whole number from 1 to {MOST_REPLICAS}")
    return int(text)


@dataclass(frozen=True, slots=True)
class CacheTier:
    """A memory below the device's that keeps evicted prefixes, of one replica: one of :data:`TIERS`."""

    name: str
    capacity_bytes: int


_UNITS = {"MB": 10**6, "GB": 10**9, "TB": 10**12, "PB": 10**15,
          "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "PiB": 2**50}  # fmt: skip


def cache_tiers(text: str) -> tuple[CacheTier, ...]:
    """``"host:64GB,nvme:1TB,remote:10TB"``: any of these, in this order.

    Raises:
        ScenarioError: an unknown tier, one given twice or out of order, or a size without its unit.
    """
    tiers: list[CacheTier] = []
    for part in text.split(","):
        name, _, size = (x.strip() for x in part.partition(":"))
        if name not in TIERS:
            raise unknown(f"tier in cache-tiers {shown(text)}:", name, TIERS)
        if tiers and TIERS.index(name) <= TIERS.index(tiers[-1].name):
            raise ScenarioError(
                f"cache-tiers {shown(text)}: {name} after {tiers[-1].name}; accepted: each once, host before nvme "
                "before remote"
            )
        tiers.append(CacheTier(name, _bytes(size, f"cache-tiers {shown(text)}: {name}")))
    return tuple(tiers)


def _bytes(size: str, what: str) -> int:
    found = re.fullmatch(r"([0-9.eE+-]+)\s*([A-Za-z]+)", size)
    unit = next((u for u in _UNITS if found and found[2] in (u, u.lower())), None)
    if found is None or unit is None:
        raise ScenarioError(f"{what} {shown(size)} is not a size; accepted: a number and one of {', '.join(_UNITS)}")
    return round(number(found[1], what, at_most=1e9) * _UNITS[unit])
