"""How ranks are numbered and which of them form a group.

Ranks run tp first, then cp, then dp, then pp, as Megatron-LM numbers them (arXiv 2104.04473, section 3.2: tensor
parallelism inside the node). Expert layers reuse the same tp x cp x dp ranks as etp x ep x edp, in that order.
"""

from __future__ import annotations

from dataclasses import dataclass

from windtunnel.ops.op import Group
from windtunnel.ops.values import Value


@dataclass(frozen=True, slots=True)
class Layout:
    """Degrees of parallelism. Any may be an array of plans."""

    tp: Value = 1
    pp: Value = 1
    dp: Value = 1
    cp: Value = 1
    ep: Value = 1
    etp: Value = 1

    @property
    def world(self) -> Value:
        return self.tp * self.pp * self.cp * self.dp

    @property
    def edp(self) -> Value:
        """Data-parallel copies of each expert."""
        return self.tp * self.cp * self.dp / (self.etp * self.ep)

    @property
    def tp_group(self) -> Group:
        return Group(self.tp, 1)

    @property
    def cp_group(self) -> Group:
        return Group(self.cp, self.tp)

    @property
    def dp_group(self) -> Group:
        """Ranks that hold the same dense weights: gradients are summed over cp and dp together."""
        return Group(self.dp * self.cp, self.tp)

    @property
    def ep_group(self) -> Group:
        return Group(self.ep, self.etp)

    @property
    def etp_group(self) -> Group:
        return Group(self.etp, 1)

    @property
    def edp_group(self) -> Group:
        return Group(self.edp, self.etp * self.ep)

    @property
    def pp_group(self) -> Group:
        """Two neighbouring stages."""
        return Group(2, self.tp * self.cp * self.dp)
