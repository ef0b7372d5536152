"""What one rank of a pipeline stage holds."""

from __future__ import annotations

from dataclasses import dataclass

from windtunnel.ops.values import Value
from windtunnel.parallel.low_rank import Subspace
from windtunnel.parallel.stages import StageLayers


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """What one rank of a stage holds, in elements and bytes; memory is reckoned from it.

    ``dense``/``expert``: trained parameters by the group that shares their gradients; ``frozen``: not trained, of which
    ``frozen_outside`` are outside the layers (tables, output projection).
    ``saved``: activation bytes of one micro-batch kept until its backward pass under the plan's recomputation;
    ``transient``: those of the one layer (or core) that recomputation brings back; ``logits``: rows x vocabulary of
    one micro-batch on the last stage. ``largest``: trained parameters of the largest layer or part outside layers;
    ``layer_input``: bytes of what one layer is given; ``subspaces``: what a low-rank optimizer projects of the dense
    and of the expert parameters.
    """

    layers: StageLayers
    dense: Value
    expert: Value
    frozen: Value
    saved: Value
    transient: Value
    logits: Value
    frozen_outside: Value = 0.0
    largest: Value = 0.0
    layer_input: Value = 0.0
    subspaces: tuple[Subspace, Subspace] | None = None
