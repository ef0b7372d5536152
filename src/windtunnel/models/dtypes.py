"""Number formats: how many bytes an element takes, scales included, and which matrix-unit rate serves it."""

from __future__ import annotations

from dataclasses import dataclass

BYTES: dict[str, float] = {
    "fp32": 4.0, "tf32": 4.0, "bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "int8": 1.0,
    # OCP microscaling formats (MX v1.0, section 5): one 8-bit scale for 32 elements; NVFP4: 8-bit scale for 16.
    "mxfp8": 1.0 + 1 / 32, "mxfp4": 0.5 + 1 / 32, "nvfp4": 0.5 + 1 / 16,
    # Group-wise 4-bit integers (AWQ/GPTQ, groups of 128): a 16-bit scale and a 4-bit zero a group.
    "int4": 0.5 + 2.5 / 128, "nf4": 0.5 + 0.127 / 8,
}  # fmt: skip
"""Bytes an element."""


@dataclass(frozen=True, slots=True)
class Precision:
    """What a run keeps its numbers in. Names are keys of :data:`BYTES`.

    ``compute``: the matrix unit's input type; ``weights``: as stored and read; ``activations``: between operators;
    ``kv``: the cache.
    """

    compute: str = "bf16"
    weights: str = "bf16"
    activations: str = "bf16"
    kv: str = "bf16"


PRECISIONS: dict[str, Precision] = {
    "bf16": Precision(),
    "fp16": Precision("fp16", "fp16", "fp16", "fp16"),
    "fp32": Precision("fp32", "fp32", "fp32", "fp32"),
    "tf32": Precision("tf32", "fp32", "fp32", "fp32"),
    "fp8": Precision("fp8", "fp8", "bf16", "bf16"),
    "int8": Precision("int8", "int8", "bf16", "bf16"),
    "w8a8": Precision("int8", "int8", "bf16", "bf16"),
    "w4a16": Precision("bf16", "int4", "bf16", "bf16"),
    "w4a8": Precision("int8", "int4", "bf16", "bf16"),
    "nvfp4": Precision("fp4", "nvfp4", "bf16", "bf16"),
    "mxfp4": Precision("bf16", "mxfp4", "bf16", "bf16"),
    "mxfp8": Precision("fp8", "mxfp8", "bf16", "bf16"),
    "nf4": Precision("bf16", "nf4", "bf16", "bf16"),
}
"""``--precision`` names. ``compute`` may be "fp4", a rate only Blackwell-class devices have."""
