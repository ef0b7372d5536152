"""MkDocs hook: what the documentation takes from the package itself, so that there is nothing to keep in step.

The reference has one page for each room, made from its docstrings, in the order of the import contract in
``pyproject.toml``. A comment such as ``<!-- accelerators -->`` in a page stands for a table of the catalogue.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from windtunnel import hardware, models
from windtunnel.hardware.overrides import override_keys
from windtunnel.scenario import engines
from windtunnel.training.failures import reliability

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "windtunnel"


def rooms() -> list[str]:
    """The rooms that hold code, from the first to the last."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(c["layers"] for c in contracts if c["id"] == "rooms")
    names = [name.strip(" ()") for layer in reversed(layers) for name in layer.split("|")]
    return [name for name in names if any(file.read_text().strip() for file in modules(name))]


def modules(room: str) -> list[Path]:
    """The source files of a room, which is a package or a single module."""
    module = PACKAGE / f"{room}.py"
    return [module] if module.is_file() else sorted((PACKAGE / room).rglob("*.py"))


def reference(room: str) -> str:
    """A page with the room's own docstring and a section for each of its modules."""
    page = [f"# windtunnel.{room}"]
    for file in modules(room):
        name = ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts)
        if file.stem == "__init__":  # what it exports is documented where it is defined
            page.append(f"::: {name.removesuffix('.__init__')}\n    options:\n      members: false")
        elif name == f"windtunnel.{room}":
            page.append(f"::: {name}")
        else:
            page.append(
                f"## {name.removeprefix(f'windtunnel.{room}.')}\n\n::: {name}\n    options:\n      heading_level: 3"
            )
    return "\n\n".join(page) + "\n"


def table(header: str, rows: Iterable[Iterable[object]]) -> str:
    """A Markdown table; a column whose heading ends in a colon is aligned to the right."""
    names = [name.strip() for name in header.split("|")]
    rule = "|".join("---:" if name.endswith(":") else "---" for name in names)
    lines = ["|".join(name.removesuffix(":") for name in names), rule]
    lines += ["|".join(str(cell).replace("|", "\\|") for cell in row) for row in rows]
    return "\n".join(f"|{line}|" for line in lines)


def figure(entry: dict[str, Any], key: str) -> str:
    """A figure of a catalogue entry, or a dash where it has none."""
    value = entry["figures"].get(key, {}).get("value")
    return "–" if value is None else f"{value:,g}"


def levels(entry: dict[str, Any], key: str, unit: str) -> str:
    """The links of a node or network, from the innermost outward."""
    return "; ".join(f"{v['name']} ({v['topology']}): {v[key]['value']:g} {unit}" for v in entry["levels"]) or "–"


def accelerators() -> str:
    keys = ("bf16_tflops", "fp8_tflops", "hbm_gibyte", "hbm_gbyte_per_s", "tdp_watt", "price_usd_per_hour")
    header = "name | bf16 TFLOP/s: | fp8 TFLOP/s: | memory GiB: | memory GB/s: | W: | USD/h: | usual node"
    entries = [hardware.describe(name) for name in hardware.accelerator_names()]
    return table(header, ([e["name"], *(figure(e, k) for k in keys), e["node"]["name"]] for e in entries))


def nodes() -> str:
    def row(e: dict[str, Any]) -> list[object]:
        adapters = figure(e, "nics_per_node"), figure(e, "nic_gbit_per_s")
        return [e["name"], e["size"], levels(e, "gbyte_per_s", "GB/s"), *adapters, e["fabric"]]

    header = "name | accelerators: | links, GB/s each and direction | adapters: | Gbit/s each: | usual network"
    return table(header, (row(hardware.describe(name)) for name in hardware.node_names()))


def fabrics() -> str:
    entries = [hardware.describe(name) for name in hardware.fabric_names()]
    rows = ([e["name"], e["description"], levels(e, "latency_us", "µs")] for e in entries)
    return table("name | what it is | latency of its levels", rows)


def catalogue_models() -> str:
    def row(e: dict[str, Any]) -> list[object]:
        counts = (f"{e[key] / 1e9:,.2f}" for key in ("total_parameters", "active_parameters"))
        return [e["name"], e["model_type"], *counts, f"{e['kv_bytes_per_token']:,}"]

    header = "name | model_type | parameters, 10⁹: | active, 10⁹: | KV bytes a token:"
    return table(header, (row(models.describe(models.load_network(name))) for name in models.catalogue_names()))


def profiles() -> dict[str, dict[str, Any]]:
    """Each engine profile as its own file states it, with its kind; training frameworks first."""
    files = {name: yaml.safe_load((engines.FOLDER / f"{name}.yaml").read_text()) for name in engines.engine_names()}

    def kind(name: str) -> str:
        return str(files[name].get("kind") or kind(files[name]["extends"]))

    return {name: {**files[name], "kind": kind(name)} for name in sorted(files, key=lambda n: (kind(n) != "train", n))}


def engine_profiles() -> str:
    uses = {"train": "training", "serve": "serving"}
    rows = ([f"`{name}`", uses[data["kind"]], data["description"]] for name, data in profiles().items())
    return table("profile | for | what it stands for", rows)


IDENTITY = ("name", "kind", "description")


def engine_settings() -> str:
    """A section for each profile: what its own file states, and from where."""
    parts = []
    for name, data in profiles().items():
        sources = data.pop("sources", {})
        based = data.pop("extends", None)
        settings = ([f"`{k}`", setting(v), sources.get(k, "–")] for k, v in data.items() if k not in IDENTITY)
        intro = f"As `{based}`, but for:" if based else ""
        parts += [f"### {name}", intro, table("key | value | source", settings)]
    return "\n\n".join(parts)


def setting(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(value) or "nothing"
    return f"{value:g}" if isinstance(value, float) else str(value)


def checkpoint_tiers() -> str:
    keys = [f"{way}_gbyte_per_s" for way in ("read", "write")]
    columns = [f"{f}{k}{n}" for f, n in (("", "_per_node"), ("aggregate_", "")) for k in keys]
    rows = (
        [f"`{name}`", *(f"{tier[c]:g}" if c in tier else "–" for c in columns), tier["source"]]
        for name, tier in reliability()["tiers"].items()
    )
    header = "tier | a node reads, GB/s: | writes: | the whole store reads: | writes: | from"
    return table(header, rows)


TABLES: dict[str, Callable[[], str]] = {
    "accelerators": accelerators,
    "nodes": nodes,
    "fabrics": fabrics,
    "models": catalogue_models,
    "checkpoint-tiers": checkpoint_tiers,
    "engines": engine_profiles,
    "engine-settings": engine_settings,
    "overrides": lambda: table("key | what it sets", ((f"`{k}`", about) for k, about in override_keys().items())),
    "model-types": lambda: ", ".join(f"`{name}`" for name in models.known_model_types()) + ".",
}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    assert config.nav is not None
    config.nav.append({"Reference": [{room: f"reference/{room}.md"} for room in rooms()]})
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    for room in rooms():
        files.append(File.generated(config, f"reference/{room}.md", content=reference(room)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Puts each table in the place of its comment; an unknown comment is an error."""
    return re.sub(r"^<!-- ([a-z-]+) -->$", lambda found: TABLES[found[1]](), markdown, flags=re.MULTILINE)


def on_page_content(html: str, **_: Any) -> str:
    """Docstrings name things in the Sphinx way, for editors; a reader of the page needs the name only."""
    return re.sub(r":(?:attr|class|data|exc|func|meth|mod):<code>~?(?:windtunnel[.\w]*\.)?", "<code>", html)
