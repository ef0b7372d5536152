"""How a network's layers are dealt to pipeline stages, and which neighbouring stages are alike."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from windtunnel.models.network import Block, Network


@dataclass(frozen=True, slots=True)
class StageLayers:
    """``count`` neighbouring stages from ``index`` on that hold the same layers.

    ``first``/``last``: it holds the embedding / the head. ``encoder``: its encoder layers.
    """

    index: int
    count: int
    blocks: tuple[Block, ...]
    encoder: tuple[Block, ...]
    first: bool
    last: bool

    @property
    def layers(self) -> int:
        return len(self.blocks) + len(self.encoder)


def deal(network: Network, pp: int) -> tuple[StageLayers, ...]:
    """Contiguous layers for ``pp`` stages, as even as can be; odd layers go to the stages after the first, which has
    the embedding (and never to the last while another can take them, which has the head).
    """
    every = [(b, True) for b in network.encoder] + [(b, False) for b in network.blocks]
    base, odd = divmod(len(every), pp)
    extra = [0] * pp
    for i in [*range(1, pp - 1), 0, pp - 1][:odd] if pp > 1 else []:
        extra[i] = 1
    groups: list[StageLayers] = []
    start = 0
    for i in range(pp):
        held = every[start : start + base + extra[i]]
        start += len(held)
        stage = StageLayers(
            i, 1, tuple(b for b, e in held if not e), tuple(b for b, e in held if e), i == 0, i == pp - 1
        )
        if groups and _alike(groups[-1], stage):
            last = groups[-1]
            groups[-1] = StageLayers(last.index, last.count + 1, last.blocks, last.encoder, last.first, last.last)
        else:
            groups.append(stage)
    return tuple(groups)


def _alike(a: StageLayers, b: StageLayers) -> bool:
    if a.first or b.last:
        return False
    if a.blocks == b.blocks and a.encoder == b.encoder:
        return True
    return Counter(a.blocks) == Counter(b.blocks) and Counter(a.encoder) == Counter(b.encoder)
