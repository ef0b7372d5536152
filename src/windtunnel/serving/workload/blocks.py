"""Prompts that begin like earlier ones, as numbered blocks."""

from __future__ import annotations

import math

import numpy as np

from windtunnel.errors import ScenarioError
from windtunnel.serving.workload.draws import Stream, generator
from windtunnel.serving.workload.published import PREFIX_SCORES, Prefixes
from windtunnel.serving.workload.requests import Floats, Ints
from windtunnel.serving.workload.traces import MOST_BLOCKS

CANDIDATES = 32
"""Earlier requests that are looked at for one long enough to share from: with fewer, hits are lost to short ones."""

CHUNK = 2**15
"""Requests whose candidates are looked at together, to bound memory."""


def inherited(counts: Ints, parent: Ints, shared: Ints) -> tuple[Ints, Ints]:
    """(blocks, offsets) of requests with ``counts`` blocks of which the first ``shared`` are those of ``parent``, an
    earlier request (-1: none), and the others new.

    Numbers go up in order of appearance: those of the first n requests do not depend on what follows.
    """
    total = int(counts.sum())
    if total > MOST_BLOCKS:
        raise ScenarioError(
            f"the workload has {total:,} blocks of shared prompts; at most {MOST_BLOCKS:,} are followed"
        )
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    created = counts - shared
    first_new = np.cumsum(created) - created
    blocks = np.arange(total, dtype=np.int64) - np.repeat(offsets[:-1] + shared - first_new, counts)
    having = np.flatnonzero(shared > 0)
    for start, origin, length in zip(
        offsets[having].tolist(), offsets[parent[having]].tolist(), shared[having].tolist(), strict=True
    ):
        blocks[start : start + length] = blocks[origin : origin + length]
    return blocks, offsets


def like(prefixes: Prefixes, inputs: Ints, scores: Floats, seed: int) -> tuple[Ints, Ints]:
    """(blocks, offsets) of prompts that share about as much as those of a trace did.

    How large a part of a prompt is known is drawn by its quantiles, with their rank correlation to the prompt's length
    (``scores`` [N]: the normal scores that ``inputs`` were drawn from). From whom: a request as far back as the
    trace's distances say, the first of :data:`CANDIDATES` that is long enough, else the longest of them. So the hit
    rate of an unbounded cache, the distances of reuse, and chains of prompts that grow from one another are kept;
    how popular a single prefix is, is not.
    """
    n = len(inputs)
    counts = -(-inputs // prefixes.block_tokens)
    common = np.minimum(prefixes.common, counts)
    r = normal_correlation(prefixes.rank_correlation)
    own = generator(seed, Stream.SHARED).standard_normal(n)
    share = np.interp(r * scores + math.sqrt(1 - r * r) * own, PREFIX_SCORES, prefixes.share)
    shared = common + np.rint(share * (counts - common)).astype(np.int64)
    parent = _parents(prefixes, counts, shared, generator(seed, Stream.PARENTS))
    shared = np.minimum(shared, counts[parent])
    shared[:1] = 0
    return inherited(counts, parent, shared)


def _parents(prefixes: Prefixes, counts: Ints, shared: Ints, rng: np.random.Generator) -> Ints:
    """[N] earlier requests to share from (0 for the first)."""
    n = len(counts)
    parent = np.zeros(n, dtype=np.int64)
    for start in range(0, n, CHUNK):
        at = np.arange(start, min(start + CHUNK, n))[:, None]
        draws = np.interp(rng.standard_normal((len(at), CANDIDATES)), PREFIX_SCORES, prefixes.distance)
        back = np.maximum(np.rint(draws).astype(np.int64), 1) - 1
        # Farther back than the first request: any earlier one, by the remainder.
        candidates = np.maximum(at - 1 - back % np.maximum(at, 1), 0)
        lengths = counts[candidates]
        enough = lengths >= shared[start : start + CHUNK, None]
        choice = np.where(enough.any(axis=1), enough.argmax(axis=1), lengths.argmax(axis=1))
        parent[start : start + CHUNK] = candidates[np.arange(len(at)), choice]
    return parent


def normal_correlation(rank_correlation: float) -> float:
    """The correlation of two normal variables with that rank correlation (Spearman's): 2 sin(pi/6 · r).

    W. H. Kruskal, Ordinal measures of association, JASA 53 (1958), 814-861.
    """
    return 2 * math.sin(math.pi / 6 * rank_correlation)
