"""The catalogue: configurations of published models, one JSON file each, and where each comes from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import yaml

from windtunnel.errors import ScenarioError, unknown
from windtunnel.models.config import network_from_config, network_from_file
from windtunnel.models.network import Network
from windtunnel.models.reader import read_json

FOLDER = Path(__file__).parent / "catalogue"


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known about a catalogue model besides its configuration.

    ``config_source`` and ``count_source``: where its sizes and its published number of parameters come from.
    ``published``: that number; ``exact``: it is given to the last digit. ``note``: how it differs from the count.
    """

    config_source: str
    published: int
    exact: bool
    count_source: str
    note: str = ""
    aliases: tuple[str, ...] = ()


@lru_cache(maxsize=1)
def _names() -> tuple[str, ...]:
    return tuple(sorted(entry[:-5] for entry in os.listdir(FOLDER) if entry.endswith(".json")))


def catalogue_names() -> list[str]:
    """The models that can be named, in alphabetical order (aliases left out)."""
    return list(_names())


@lru_cache(maxsize=1)
def entries() -> Mapping[str, Entry]:
    """Sources and published counts by catalogue name."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    with (FOLDER / "catalogue.yaml").open(encoding="utf-8") as file:
        data = yaml.load(file, Loader=loader)
    return {name: Entry(**{**fields, "aliases": tuple(fields.get("aliases", ()))}) for name, fields in data.items()}


def _plain(name: str) -> str:
    """A name without case and separators; dots stay, since OPT comes in 1.3b and 13b."""
    return name.lower().translate(str.maketrans("", "", "-_ "))


@lru_cache(maxsize=1)
def _aliases() -> Mapping[str, str]:
    """Every other spelling: stated aliases, with and without the hub's organisation, and names without separators."""
    found: dict[str, str] = {}
    for name, entry in entries().items():
        for alias in (name, *entry.aliases):
            found[_plain(alias)] = name
            found[_plain(alias.rpartition("/")[2])] = name
    return found


def find_name(name: str) -> str | None:
    """The catalogue name that ``name`` means, whatever its case; None if there is none."""
    lower = name.lower()
    if lower in _names():
        return lower
    return _aliases().get(_plain(name))


@lru_cache(maxsize=64)
def _load(name: str) -> Network:
    entry = entries()[name]
    network = network_from_config(read_json(FOLDER / f"{name}.json"), name, source=entry.config_source)
    exactness = "exact" if entry.exact else "rounded"
    notes = {**network.notes, "published": f"{exactness}, from {entry.count_source}"}
    if entry.note:
        notes["count"] = entry.note
    return replace(network, published_parameters=entry.published, notes=notes)


def load_network(name_or_path: str) -> Network:
    """The network called ``name_or_path``, or described by the configuration at that path.

    A catalogue name is taken in any case, with other separators, or as the hub writes it
    (``meta-llama/Llama-3.1-70B``). What ends in ``.json`` or holds a path separator is a path, to a ``config.json`` or
    to a folder with one, unless nothing lies there and it is a known hub name; so is what is no name but exists as a
    file or folder. Raises ScenarioError for an unknown name (with close ones) and for an unusable file.
    """
    text = str(name_or_path).strip()
    exists = os.path.lexists(text)
    is_path = text.lower().endswith(".json") or "/" in text or os.sep in text or text in {".", ".."}
    hub_like = not exists and text.count("/") == 1 and text[0] not in "./~" and text[-1] not in "/"
    if not is_path or (hub_like and not text.lower().endswith(".json")):
        known = find_name(text)
        if known is not None:
            return _load(known)
        if hub_like:
            raise ScenarioError(f"{unknown('model', text.rpartition('/')[2], _names())} ({text!r:.200} is no file)")
        if not exists:
            raise unknown("model", text, _names())
    try:
        path = Path(text).expanduser()
    except RuntimeError:
        path = Path(text)
    return network_from_file(path)
