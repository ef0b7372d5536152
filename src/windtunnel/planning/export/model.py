"""The model as tools are told of it: a path or a hub's name, and the network with the configuration it comes from."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from windtunnel.models import load_network
from windtunnel.models.lookup import FOLDER, find_name
from windtunnel.models.network import Attention, LatentAttention, MoE, Network
from windtunnel.models.reader import read_json


@dataclass(frozen=True, slots=True)
class Model:
    """``setting``: the shell line that sets ``MODEL``. ``config``: the ``config.json``, of its text part where there
    are several."""

    network: Network
    config: Mapping[str, Any]
    setting: str

    @property
    def attention(self) -> Attention | LatentAttention | None:
        """The first layer's, where it has one."""
        return next((b.mixer for b in self.network.blocks if isinstance(b.mixer, Attention | LatentAttention)), None)

    @property
    def experts(self) -> MoE | None:
        return next((b.ffn for b in self.network.blocks if isinstance(b.ffn, MoE)), None)


def read_model(asked: Mapping[str, Any]) -> Model:
    """The model of a request.

    A path is written as it is, a hub's name as the default of ``MODEL``; a catalogue's name stands for no repository,
    so the script asks for it.

    Raises:
        ScenarioError: there is no such model.
    """
    text = str(asked["model"]).strip()
    network = load_network(text)
    path = Path(text).expanduser()
    known = None if os.path.exists(path) else find_name(text)
    if known is not None:
        config = read_json(FOLDER / f"{known}.json")
        hub = text.count("/") == 1
        setting = f"MODEL=${{MODEL:-{text}}}" if hub and _plain(text) else f"MODEL=${{MODEL:?{_what(known)}}}"
    else:
        file = path / "config.json" if path.is_dir() else path
        config = read_json(file)
        setting = f"MODEL={shlex.quote(str(file.parent.absolute()))}"
    inner = config.get("text_config")
    return Model(network, inner if isinstance(inner, Mapping) else config, setting)


def _plain(text: str) -> bool:
    return all(c.isalnum() or c in "/-_." for c in text)


def _what(name: str) -> str:
    return f"set MODEL to a local folder or a Hugging Face name of {name}"
