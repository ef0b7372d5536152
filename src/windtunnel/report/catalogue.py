"""The catalogue's entries as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from windtunnel.report import units


def _table(*columns: tuple[str, str]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    for title, justify in columns:
        table.add_column(title, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    return table


def render_models(models: Sequence[Mapping[str, Any]]) -> RenderableType:
    """One line a model, as :func:`windtunnel.models.describe` gives it."""
    table = _table(
        ("model", "left"), ("type", "left"), ("parameters", "right"), ("active", "right"), ("layers", "right"),
        ("KV a token", "right"), ("context", "right"),
    )  # fmt: skip
    for m in models:
        table.add_row(
            m["name"], m["model_type"], units.count(m["total_parameters"]), units.count(m["active_parameters"]),
            str(m["layers"]), units.size(m["kv_bytes_per_token"]),
            units.MISSING if m["max_positions"] is None else f"{m['max_positions']:,}",
        )  # fmt: skip
    note = f"{len(models)} models; KV a token in bf16. One of them with its source: windtunnel models NAME"
    return Group(table, Text(""), Text(note, style="dim"))


def render_model(model: Mapping[str, Any]) -> RenderableType:
    """One model."""
    flops = model["forward_flops_per_token"]
    rows = {
        "type": model["model_type"],
        "parameters": f"{units.count(model['total_parameters'])} ({model['total_parameters']:,})",
        "active a token": f"{units.count(model['active_parameters'])} ({model['active_parameters']:,})",
        "published": ", ".join(filter(None, [_published(model), model["notes"].get("published")])),
        "layers x hidden": f"{model['layers']} x {model['hidden_size']:,}",
        "vocabulary": f"{model['vocab_size']:,}",
        "context": units.MISSING if model["max_positions"] is None else f"{model['max_positions']:,} tokens",
        "KV cache a token": f"{units.size(model['kv_bytes_per_token'])} in bf16",
        "state a sequence": ""
        if not model["state_bytes_per_sequence"]
        else units.size(model["state_bytes_per_sequence"]),
        "forward FLOPs a token": f"{units.number(flops['context_0'] / 1e9)} GFLOP at context 0, "
        f"+ {units.number(flops['per_1000_tokens_context'] / 1e9)} GFLOP for the first 1,000 tokens",
        "stored as": " ".join(filter(None, [model["dtype"], model["quantization"]])),
        "source": model["source"],
        **{k: str(v) for k, v in model["notes"].items() if k != "published"},
    }
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    for key, value in rows.items():
        if value:
            table.add_row(key, str(value))
    return Group(Text(model["name"], style="bold"), table)


def _published(model: Mapping[str, Any]) -> str:
    return "" if model["published_parameters"] is None else f"{model['published_parameters']:,} parameters"


_COLUMNS = {
    "bf16_tflops": "bf16\nTFLOP/s",
    "fp8_tflops": "fp8\nTFLOP/s",
    "hbm_gibyte": "memory\nGiB",
    "hbm_gbyte_per_s": "\nGB/s",
    "tdp_watt": "TDP\nW",
    "price_usd_per_hour": "price\n$/h",
}


def render_hardware(every: Mapping[str, Sequence[Mapping[str, Any]]]) -> RenderableType:
    """Accelerators one a line; nodes and networks by name."""
    figures = [(title, "right") for title in _COLUMNS.values()]
    table = _table(("accelerator", "left"), *figures, ("calibrated", "left"))
    for a in every["accelerators"]:
        found = (a["figures"].get(key, {}).get("value") for key in _COLUMNS)
        cells = ("" if value is None else f"{value:,g}" for value in found)
        fitted = a.get("calibrated", {})
        how = "yes" if fitted and all(fitted.values()) else "in part" if any(fitted.values()) else "no"
        table.add_row(a["name"], *cells, how)
    blocks: list[RenderableType] = [table, Text("")]
    for kind in ("nodes", "fabrics"):
        blocks.append(Text.assemble((f"{kind}: ", "bold"), ", ".join(e["name"] for e in every[kind])))
    note = "One of them with every figure's source: windtunnel hardware NAME"
    return Group(*blocks, Text(""), Text(note, style="dim"))


def render_machine(machine: Mapping[str, Any]) -> RenderableType:
    """An accelerator with its node and network, a node, or a network: every figure with its source."""
    blocks: list[RenderableType] = [Text(machine["name"], style="bold")]
    about = [str(machine[k]) for k in ("vendor", "family", "description", "note") if machine.get(k)]
    if about:
        blocks.append(Text(", ".join(about), style="dim"))
    if machine.get("aliases"):
        blocks.append(Text(f"also: {', '.join(machine['aliases'])}", style="dim"))
    blocks += [Text(""), _figures(machine["figures"])]
    for level in machine.get("levels", ()):
        reach = f"domain {level['domain']}" if "domain" in level else f"{level['nodes']} nodes"
        what = [
            level["resource"],
            level["topology"],
            reach,
            "reduces in the network" if level["in_network_reduction"] else "",
        ]
        blocks += [Text(f"link {level['name']}: {', '.join(filter(None, what))}")]
        blocks.append(_figures({k: v for k, v in level.items() if isinstance(v, Mapping)}))
    if "calibrated" in machine:
        fitted = [k for k, v in machine["calibrated"].items() if v]
        other = [k for k, v in machine["calibrated"].items() if not v]
        blocks += [Text(""), Text(f"calibrated on this device: {', '.join(fitted) or 'nothing'}")]
        if other:
            blocks.append(Text(f"constants of its family or the generic ones: {', '.join(other)}"))
    for part in ("node", "fabric"):
        if isinstance(machine.get(part), Mapping):
            blocks += [Text(""), Text(f"in {part}", style="dim"), render_machine(machine[part])]
    return Group(*blocks)


def _figures(figures: Mapping[str, Any]) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, justify="right")
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold", style="dim")
    for key, f in figures.items():
        source = f["source"] + (f" ({f['date']})" if f.get("date") else "")
        table.add_row("  " + key, units.MISSING if f["value"] is None else f"{f['value']:,g}", f["unit"], source)
    return table
