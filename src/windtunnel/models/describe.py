"""What a network is, in the numbers that people quote."""

from __future__ import annotations

from typing import Any

from windtunnel.models.dtypes import BYTES
from windtunnel.models.flops import encoder_flops_per_token, forward_flops_per_token
from windtunnel.models.network import Network


def describe(network: Network) -> dict[str, Any]:
    """A JSON-ready summary.

    ``kv_bytes_per_token``: bytes that a token adds to a bf16 KV cache while every window still grows.
    ``forward_flops_per_token``: ``context_0``, and ``per_1000_tokens_context``, what the first 1,000 tokens of context
    add, windows respected. Of an encoder-decoder both are a decoder token's; ``encoder_flops_per_source_token`` is
    given beside them.
    """
    base = forward_flops_per_token(network)
    summary: dict[str, Any] = {
        "name": network.name,
        "model_type": network.model_type,
        "total_parameters": network.total_parameters,
        "active_parameters": network.active_parameters,
        "kv_bytes_per_token": int(network.kv_elements_per_token * BYTES["bf16"]),
        "forward_flops_per_token": {
            "context_0": base,
            "per_1000_tokens_context": forward_flops_per_token(network, 1000.0) - base,
        },
        "layers": network.layers,
        "hidden_size": network.hidden_size,
        "vocab_size": network.vocab_size,
        "max_positions": network.max_positions,
        "state_bytes_per_sequence": int(network.state_elements * BYTES["bf16"]),
        "dtype": network.dtype,
        "quantization": network.quantization.precision if network.quantization else None,
        "source": network.source,
        "published_parameters": network.published_parameters,
        "notes": dict(network.notes),
    }
    if network.encoder:
        summary["encoder_flops_per_source_token"] = encoder_flops_per_token(network)
    return summary
