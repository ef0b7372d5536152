"""A Hugging Face ``config.json`` in, a :class:`~windtunnel.models.network.Network` out; no code of the model is run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from windtunnel.errors import ScenarioError, unknown
from windtunnel.models.families.multimodal import text_only
from windtunnel.models.families.registry import MODEL_TYPES
from windtunnel.models.network import MoE, Network
from windtunnel.models.quantization import read_quantization
from windtunnel.models.reader import Reader, check_values, printable, read_json

_DTYPES = {
    "bfloat16": "bf16",
    "float16": "fp16",
    "half": "fp16",
    "float32": "fp32",
    "float": "fp32",
    "float8_e4m3fn": "fp8",
    "auto": "bf16",
}


def known_model_types() -> list[str]:
    """The values of ``model_type`` that :func:`network_from_config` reads, in alphabetical order."""
    return sorted(MODEL_TYPES)


def network_from_config(config: Mapping[str, Any], name: str, source: str = "") -> Network:
    """The network that a configuration describes. ``name`` is what errors and results call it.

    Where a key is missing the reference class's default holds, but the main sizes (hidden size, layers, heads,
    vocabulary, widths, experts) must be stated. Raises ScenarioError, in one line, for anything that is not a usable
    configuration of a known ``model_type``.
    """
    if not isinstance(config, Mapping):
        raise ScenarioError(f"{name}: the configuration is a {type(config).__name__}; expected an object (a mapping)")
    check_values(config, name)
    r = Reader(config, name)
    r.check_common()
    model_type = config.get("model_type")
    if model_type is None:
        accepted = ", ".join(known_model_types())
        raise ScenarioError(f"{name}: model_type is missing; known: {accepted}")
    if not isinstance(model_type, str):
        raise r.error("model_type", model_type, f"one of {', '.join(known_model_types())}")
    build = MODEL_TYPES.get(model_type)
    if build is not None:
        network = build(r)
    else:
        text = r.sub("text_config")
        inner = MODEL_TYPES.get(str(text.data.get("model_type")))
        if inner is None:
            raise _unknown_type(name, model_type)
        network = text_only(r, inner)
    return replace(
        network,
        name=name,
        model_type=model_type,
        dtype=_dtype(r),
        quantization=_quantization(r, network),
        source=source,
    )


def _unknown_type(name: str, model_type: str) -> ScenarioError:
    accepted = known_model_types()
    message = str(unknown(f"model_type in {name}:", model_type, accepted))
    return ScenarioError(message if "; known:" in message else f"{message} known: {', '.join(accepted)}")


def _dtype(r: Reader) -> str:
    """The checkpoint's number format; transformers wrote it as ``torch_dtype`` and writes it as ``dtype``."""
    for reader in (r, r.sub("text_config")):
        key, value = reader.find(("dtype", "torch_dtype"))
        if value is not None:
            word = reader.word(key, default="").removeprefix("torch.")
            if word not in _DTYPES:
                raise reader.error(key, value, f"one of {', '.join(sorted(_DTYPES))}")
            return _DTYPES[word]
    return "bf16"


def _quantization(r: Reader, network: Network) -> Any:
    has_experts = any(isinstance(block.ffn, MoE) for block in network.encoder + network.blocks)
    return read_quantization(r, has_experts) or read_quantization(r.sub("text_config"), has_experts)


def network_from_file(path: Path) -> Network:
    """The network in a ``config.json``, or in a folder that holds one.

    Raises ScenarioError if there is none, or it is not a usable configuration.
    """
    file = path / "config.json" if os.path.isdir(path) else path
    if file != path and not os.path.exists(file):
        raise ScenarioError(f"folder {printable(path)} holds no config.json; expected one")
    return network_from_config(read_json(file), printable(file), source=f"file {printable(file.name)}")
