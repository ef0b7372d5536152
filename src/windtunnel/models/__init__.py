"""What networks ask for: ``config.json`` files and a catalogue of them, exact counts, and FLOPs in closed form."""

from __future__ import annotations

from windtunnel.models.config import known_model_types, network_from_config
from windtunnel.models.describe import describe
from windtunnel.models.flops import forward_flops_per_token, hardware_flops_per_token, model_flops_per_token
from windtunnel.models.lookup import catalogue_names, load_network

__all__ = [
    "catalogue_names",
    "describe",
    "forward_flops_per_token",
    "hardware_flops_per_token",
    "known_model_types",
    "load_network",
    "model_flops_per_token",
    "network_from_config",
]
