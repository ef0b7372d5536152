"""What is tried of each option of a training plan: what the user listed, or every value that could be legal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, TypeVar

from windtunnel.errors import ScenarioError, unknown
from windtunnel.hardware.machine import Cluster
from windtunnel.models.network import Network
from windtunnel.scenario.checks import check_stages, check_tp, has_experts
from windtunnel.scenario.engines import TrainEngine
from windtunnel.scenario.options import SCHEDULES, TrainOptions
from windtunnel.scenario.plan_options import TRAIN_SEARCHED, PlanTrainOptions
from windtunnel.scenario.text import shown
from windtunnel.scenario.train import TRAIN_PRECISIONS, read_parties, usual_sequence

RECOMPUTE = ("none", "selective", "full")
PARTS, TIERS = ("optimizer", "params", "activations"), ("cpu", "nvme")
MOST = 100_000
"""Values of one option at most."""


@dataclass(frozen=True)
class Axes:
    """Values to try, and what holds for every plan. ``dp``: None where it follows from the accelerators used, which
    are one of ``gpus`` or, where that is None, any number. ``etp``: None for the framework's own choice.
    ``narrow``: how many values of tp were left out, since they do not divide the model's heads or widths."""

    options: PlanTrainOptions
    network: Network
    cluster: Cluster
    engine: TrainEngine
    tp: tuple[int, ...]
    pp: tuple[int, ...]
    dp: tuple[int, ...] | None
    cp: tuple[int, ...]
    ep: tuple[int, ...]
    etp: tuple[int, ...] | None
    micro_batch: tuple[int, ...]
    virtual_stages: tuple[int, ...]
    schedule: tuple[str, ...]
    zero: tuple[int, ...]
    hsdp: tuple[int | None, ...]
    sequence_parallel: tuple[bool, ...]
    recompute: tuple[str, ...]
    precision: tuple[str | None, ...]
    offload: tuple[str | None, ...]
    gpus: tuple[int, ...] | None
    narrow: int
    warnings: tuple[str, ...] = ()

    @property
    def seq(self) -> int:
        """Tokens of a sequence."""
        return self.options.seq or usual_sequence(self.network)

    def fixed(self) -> dict[str, object]:
        """The options of ``train`` that every plan has, as they were given."""
        asked = self.options.model_dump(exclude_unset=True, exclude_none=True)
        searched = set(TRAIN_SEARCHED) | set(PlanTrainOptions.model_fields) - set(TrainOptions.model_fields)
        return {k: v for k, v in asked.items() if k not in searched}


def make_axes(options: PlanTrainOptions, narrowed: Mapping[str, Sequence[Any]] | None = None) -> Axes:
    """``narrowed``: values that options may take where the user lists none (what a framework can run).

    Raises:
        ScenarioError: an unknown name, a list that cannot be read, or an option without any value left.
    """
    network, cluster, engine, warnings = read_parties(options)
    if options.global_batch is None:
        raise ScenarioError("global_batch is missing; say how many sequences a step has")
    can = narrowed or {}
    batch, count = options.global_batch, cluster.count
    gpus = _gpus(options.gpus, count)

    def whole(name: str, default: Callable[[], Sequence[int]]) -> tuple[int, ...]:
        given = getattr(options, name)
        values = _integers(name, given) if given is not None else tuple(default())
        return _allowed(name, values, can, given is not None)

    def checked(values: tuple[int, ...], check: Callable[[Network, int], None]) -> tuple[int, ...]:
        """Those that the model allows; where none of the listed is, it is said why not."""
        good, last = [], None
        for value in values:
            try:
                check(network, value)
                good.append(value)
            except ScenarioError as error:
                last = error
        if not good and last is not None:
            raise last
        return tuple(good)

    some = gpus is None or len(gpus) > 1 or gpus[0] != count
    shares = _divisors(count) if not some else _smooth(count)
    widths = whole("tp", lambda: shares)
    tp = checked(widths, check_tp)
    depths = {n for n in (*shares, *(_divisors(network.layers) if some else ())) if n <= network.layers}
    pp = checked(whole("pp", lambda: sorted(depths)), check_stages)
    experts = has_experts(network)
    own_etp = options.etp is not None or (experts and "etp" in can)
    dp = None
    if options.dp is not None:
        dp = whole("dp", tuple)
    elif some:
        dp = tuple(n for n in _divisors(batch) if n <= count)
    return Axes(
        options=options,
        network=network,
        cluster=cluster,
        engine=engine,
        tp=tp,
        pp=pp,
        dp=dp,
        cp=whole("cp", lambda: shares),
        ep=whole("ep", lambda: shares if experts else (1,)),
        etp=whole("etp", lambda: can["etp"]) if own_etp else None,
        micro_batch=whole("micro_batch", lambda: _divisors(batch)),
        virtual_stages=whole("virtual_stages", lambda: range(1, network.layers // 2 + 1)),
        schedule=_names("schedule", options.schedule, SCHEDULES, can),
        zero=whole("zero", lambda: (0, 1, 2, 3)),
        hsdp=_hsdp(options.hsdp, count, can),
        sequence_parallel=_switch("sequence_parallel", options.sequence_parallel, can),
        recompute=_names("recompute", options.recompute, RECOMPUTE, can),
        precision=_precisions(options.precision, can),
        offload=_offloads(options.offload, cluster, can),
        gpus=gpus,
        narrow=len(widths) - len(tp),
        warnings=tuple(warnings),
    )  # fmt: skip


def _divisors(n: int) -> list[int]:
    small = [d for d in range(1, int(n**0.5) + 1) if n % d == 0]
    return sorted({*small, *(n // d for d in small)})


def _smooth(most: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12 …: degrees to try where any number of accelerators may be used."""
    return sorted(2**i * k for k in (1, 3) for i in range(21) if 2**i * k <= most)


def _integers(name: str, text: str) -> tuple[int, ...]:
    values = []
    for part in text.split(","):
        try:
            values.append(int(part))
        except ValueError:
            raise ScenarioError(
                f"{name}={shown(text)}: {shown(part)} is not a whole number; accepted: {name}=1,2,4"
            ) from None
        if not (0 if name == "zero" else 1) <= values[-1] <= (3 if name == "zero" else 10**9):
            least = "0 to 3" if name == "zero" else "at least 1"
            raise ScenarioError(f"{name}={shown(text)}: {values[-1]} is out of range; accepted: {least}")
    if len(values) > MOST:
        raise ScenarioError(f"{name} lists {len(values)} values; at most {MOST:,} are accepted")
    return tuple(dict.fromkeys(values))


def _names(name: str, text: str | None, known: Sequence[str], can: Mapping[str, Sequence[Any]]) -> tuple[str, ...]:
    values = tuple(known) if text is None else tuple(dict.fromkeys(x.strip() for x in text.split(",")))
    for value in values:
        if value not in known:
            raise unknown(name, value, known)
    return _allowed(name, values, can, text is not None)


T = TypeVar("T")


def _allowed(name: str, values: tuple[T, ...], can: Mapping[str, Sequence[Any]], given: bool) -> tuple[T, ...]:
    """The values that a framework to export to can run; what the user lists must be among them. No value at all (None:
    nothing offloaded, the model's own precision) is always one."""
    if name not in can:
        return values
    for value in values:
        if given and value is not None and value not in can[name]:
            accepted = ", ".join(map(str, can[name]))
            raise ScenarioError(f"{name}={shown(value)} cannot be exported; accepted: {accepted}")
    return tuple(v for v in values if v is None or v in can[name])


def _precisions(text: str | None, can: Mapping[str, Sequence[Any]]) -> tuple[str | None, ...]:
    return (None,) if text is None else _names("precision", text, TRAIN_PRECISIONS, can)


def _switch(name: str, text: str | None, can: Mapping[str, Sequence[Any]]) -> tuple[bool, ...]:
    words = {"on": True, "true": True, "off": False, "false": False}
    found = []
    for part in (text or "off,on").split(","):
        if part.strip().lower() not in words:
            raise ScenarioError(f"{name}={shown(text)}: {shown(part)} is not understood; accepted: on, off")
        found.append(words[part.strip().lower()])
    return _allowed(name, tuple(dict.fromkeys(found)), can, text is not None)


def _hsdp(text: str | None, count: int, can: Mapping[str, Sequence[Any]]) -> tuple[int | None, ...]:
    if text is None:
        return _allowed("hsdp", (None, *(n for n in _divisors(count) if n < count)), can, False)
    off = [part.strip().lower() in ("off", "none") for part in text.split(",")]
    sizes = [part for part, no in zip(text.split(","), off, strict=True) if not no]
    values: tuple[int | None, ...] = _integers("hsdp", ",".join(sizes)) if sizes else ()
    return _allowed("hsdp", ((None,) if any(off) else ()) + values, can, True)


def _offloads(text: str | None, cluster: Cluster, can: Mapping[str, Sequence[Any]]) -> tuple[str | None, ...]:
    if text == "all":
        memories = {"cpu": cluster.dram, "nvme": cluster.nvme}
        tiers = ("", *(t for t in TIERS if memories[t].capacity_bytes > 0))
        every = product(*([f"{part}:{tier}" if tier else "" for tier in tiers] for part in PARTS))
        values = tuple(",".join(filter(None, each)) or None for each in every)
    else:
        each = [part.strip() for part in (text or "none").split("/")]
        values = tuple(dict.fromkeys(None if part.lower() == "none" else part for part in each))
    return _allowed("offload", values, can, text is not None and text != "all")


def _gpus(text: str, count: int) -> tuple[int, ...] | None:
    """How many accelerators a plan may use; None for any number."""
    if text == "all":
        return (count,)
    if text == "any":
        return None
    values = _integers("gpus", text)
    for value in values:
        if value > count:
            raise ScenarioError(f"gpus={value} is more than the {count} accelerators of the cluster")
    return values
