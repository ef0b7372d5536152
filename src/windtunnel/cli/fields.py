"""Command-line options made from the fields of the option models, so that each is written down once."""

from __future__ import annotations

import inspect
import math
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer

from windtunnel.errors import ScenarioError
from windtunnel.scenario.options import WORDS, Options
from windtunnel.scenario.plan_options import SEARCHED

_PANELS: Mapping[str, tuple[str, ...]] = {
    "Layout": (
        "tp", "pp", "dp", "cp", "ep", "etp", "virtual_stages", "schedule", "zero", "hsdp", "context_parallel",
        "replicas",
    ),
    "Work": (
        "micro_batch", "global_batch", "seq", "packed_lengths", "batch", "input", "output", "long_context",
        "short_context", "rounds", "precision", "kv_precision", "optimizer", "finetune", "flops_convention",
    ),
    "Memory and engine": (
        "engine", "recompute", "offload", "block_batches", "kv_blocks", "block_size", "memory_utilization",
        "max_model_len", "chunk", "max_batch",
    ),
    "Workload": (
        "trace", "arrivals", "rate", "requests", "input_length", "output_length", "trace_from", "trace_to", "strict",
        "replay", "seed",
    ),
    "Scheduling": (
        "scheduler", "max_tokens", "preemption", "watermark", "reserve", "async_scheduling", "prediction_error",
        "expert_imbalance", "max_queue", "timeout",
    ),
    "KV cache": ("prefix_cache", "eviction", "cache_tiers", "swap_gbyte"),
    "Deployment": (
        "router", "fleet", "prefill", "decode", "kv_transfer", "autoscale", "replica_mtbf_hours", "replica_restart_s",
        "max_retries",
    ),
    "Goals and measurement": ("slo", "duration", "warmup", "loop"),
    "Switches": ("sequence_parallel", "flash_attention"),
    "The whole run": (
        "tokens",
        "mtbf_hours",
        "accelerator_mtbf_hours",
        "node_mtbf_hours",
        "detection_s",
        "restart_s",
        "checkpoint_every",
        "checkpoint_to",
        "checkpoint_async",
        "straggler_cv",
    ),
    "Techniques": ("techniques", "tries"),
    "Machine": ("on", "set", "calibration"),
}  # fmt: skip

Command = Callable[..., Callable[[], int]]

PLANNING: Mapping[str, tuple[str, ...]] = {
    "Goals and search": (
        "objective", "slo", "percentile", "budget", "tokens", "days", "gpus", "top", "workers", "store", "export",
    ),
    "Searched": SEARCHED,
}  # fmt: skip
"""Panels of ``plan`` before the usual ones."""

_METAVARS: Mapping[str, str] = {
    "on": "CLUSTER", "calibration": "FILE", "engine": "NAME", "model": "MODEL", "trace": "FILE|NAME", "replay": "FILE",
    "store": "FILE", "techniques": "TECHNIQUE", "tries": "T1,T2", "workers": "N|ray", "gpus": "all|any|N1,N2",
}  # fmt: skip


def command(function: Callable[[dict[str, Any]], int], about: str, parameters: Sequence[inspect.Parameter]) -> Command:
    """A function that typer takes for a command. It does nothing but hand back what is to be done, so that the work
    is done outside typer, which has its own ways with exceptions.
    """

    def called(**values: Any) -> Callable[[], int]:
        return lambda: function(values)

    called.__signature__ = inspect.Signature(list(parameters))  # type: ignore[attr-defined]
    called.__annotations__ = {p.name: p.annotation for p in parameters}
    called.__doc__ = about
    return called


def parameter(name: str, kind: Any, info: Any, default: Any = None) -> inspect.Parameter:
    """One parameter of a command; ``info`` is a ``typer.Option`` or ``typer.Argument``."""
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info])


def option_parameters(
    kind: type[Options], first: Mapping[str, tuple[str, ...]] = types.MappingProxyType({})
) -> list[inspect.Parameter]:
    """A parameter for each field. Values stay text: the model reads and checks them, here as from a file. ``first``:
    panels of the help (title: options) that come before the usual ones."""
    found = []
    panels = {**first, **_PANELS}
    for name, field in kind.model_fields.items():
        about = field.description or ""
        default = field.get_default(call_default_factory=True)
        if not field.is_required() and default not in (None, "") and not isinstance(default, dict):
            about += f" (default: {default})"
        if name == "model":
            found.append(parameter(name, str | None, typer.Argument(metavar="MODEL", help=about, show_default=False)))
            continue
        flag = "--" + WORDS.get(name, name).replace("_", "-")
        panel = next((p for p, names in panels.items() if name in names), "More")
        if name == "set":
            info = typer.Option(flag, metavar="KEY=VALUE", help=about, rich_help_panel=panel, show_default=False)
            found.append(parameter(name, list[str] | None, info))
        elif bool in _types(field.annotation):
            info = typer.Option(f"{flag}/--no-{flag[2:]}", help=about, rich_help_panel=panel, show_default=False)
            found.append(parameter(name, bool | None, info))
        else:
            metavar = "V1,V2" if panel == "Searched" else _METAVARS.get(name) or _metavar(field.annotation)
            info = typer.Option(flag, metavar=metavar, help=about, rich_help_panel=panel, show_default=False)
            several = get_origin(field.annotation) is list
            found.append(parameter(name, list[str] | None if several else str | None, info))
    order = list(dict.fromkeys(name for names in panels.values() for name in names))
    return sorted(found, key=lambda p: (p.name != "model", order.index(p.name) if p.name in order else len(order)))


def options_given(kind: type[Options], values: Mapping[str, Any]) -> dict[str, Any]:
    """What was given on the command line, as :func:`~windtunnel.scenario.options.read_options` takes it.

    Raises:
        ScenarioError: a ``--set`` that is not KEY=VALUE.
    """
    given = {k: as_field(kind, k, v) for k, v in values.items() if k in kind.model_fields and v is not None}
    if "set" in given:
        given["set"] = overrides(given["set"])
    return {k: v for k, v in given.items() if v not in ({}, [])}


def as_field(kind: type[Options], name: str, value: Any) -> Any:
    """Text from a command line, as a number where one of a few numbers is meant (pydantic's choices are exact)."""
    choices = _choices(kind.model_fields[name].annotation)
    return next((c for c in choices if not isinstance(c, str) and str(c) == value), value)


def overrides(texts: Sequence[str]) -> dict[str, float | str | bool]:
    """``["nic_gbit_per_s=100"]`` as a mapping.

    Raises:
        ScenarioError: a text without ``=``, or a key given twice.
    """
    found: dict[str, float | str | bool] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip() or not value.strip():
            raise ScenarioError(f"--set {text!r} is not KEY=VALUE, such as nic_gbit_per_s=400")
        if key.strip() in found:
            raise ScenarioError(f"--set {key.strip()} is given twice")
        found[key.strip()] = scalar(value.strip())
    return found


def scalar(text: str) -> float | str | bool:
    """A number or a truth value where the text is one."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        value = float(text)
    except ValueError:
        return text
    return value if math.isfinite(value) else text


def _types(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(t for part in get_args(annotation) for t in _types(part))
    return (annotation,)


def _choices(annotation: Any) -> tuple[Any, ...]:
    return tuple(c for t in _types(annotation) if get_origin(t) is Literal for c in get_args(t))


def _metavar(annotation: Any) -> str:
    choices = _choices(annotation)
    if choices:
        return "|".join(map(str, choices))
    kinds = _types(annotation)
    return "N" if int in kinds else "X" if float in kinds else "TEXT"
