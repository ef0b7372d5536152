"""Speculation: tokens are guessed ahead, and one pass of the network checks several guesses at once.

What a guess is worth is an expectation. An iteration of the event loop gives every sequence one token; with ``tokens``
expected a pass it lasts a ``tokens``-th of that pass and of the drafting before it. That acceptance varies from pass to
pass is not in it.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, replace

from windtunnel.errors import ScenarioError
from windtunnel.models import load_network
from windtunnel.models.network import Network, StateSpace
from windtunnel.scenario.checks import check_tp


@dataclass(frozen=True, slots=True)
class Guess:
    """One way to guess ahead. ``candidates``: tokens of a sequence checked in a pass beside the last accepted one, in a
    chain or a tree; ``passes``: of the draft, one after the other, that make them; ``tokens``: expected of a pass, from
    1 (none of them is right) to the longest path and one more."""

    candidates: int
    passes: int
    tokens: float


PLAIN = Guess(0, 0, 1.0)
"""No guess: the next token alone."""


@dataclass(frozen=True, slots=True)
class Draft:
    """Who guesses: a network on ``tp`` of the target's ranks. ``context``: most tokens of a context that it reads
    (None: all of it). ``shared``: it is a part of the target (early exit, a sparser view of its cache) and holds
    neither weights nor cache of its own."""

    network: Network
    tp: int = 1
    context: int | None = None
    shared: bool = False


@dataclass(frozen=True, slots=True)
class Speculation:
    """How an engine speculates. Of several ``guesses`` each iteration takes the one with least time a token, which is
    the largest goodput. ``draft``: None where guesses cost nothing to make (a look-up in the prompt) or come from
    ``heads`` on the target's last layer: each a square layer with a residual and an output projection of its own."""

    guesses: tuple[Guess, ...]
    draft: Draft | None = None
    heads: int = 0


def chain(length: int, acceptance: float) -> Guess:
    """``length`` tokens in a row, each right with probability ``acceptance`` if those before it are: (1 - a^(k+1)) /
    (1 - a) tokens a pass (Leviathan et al., arXiv 2211.17192, equation 1)."""
    tokens = length + 1.0 if acceptance == 1 else (1 - acceptance ** (length + 1)) / (1 - acceptance)
    return Guess(length, length, tokens) if length else PLAIN


def tree(accuracies: tuple[tuple[float, ...], ...], candidates: int) -> Guess:
    """The ``candidates`` most probable nodes of a tree. ``accuracies`` [depth][rank]: how often the guess of that rank
    for that position is the right one, if the path before it is. A node counts with the product along its path (Medusa,
    arXiv 2401.10774, section 2.3.3). No passes: whoever has all positions at once guesses them."""
    tokens, found = 1.0, 0
    # A child is never more probable than its parent, nor than its elder sibling: each brings these two in.
    heap = [(-accuracies[0][0], 1.0, 0, 0)] if accuracies else []
    while heap and found < candidates:
        negative, parent, depth, rank = heapq.heappop(heap)
        if not negative:
            break
        tokens, found = tokens - negative, found + 1
        if rank + 1 < len(accuracies[depth]):
            heapq.heappush(heap, (-parent * accuracies[depth][rank + 1], parent, depth, rank + 1))
        if depth + 1 < len(accuracies):
            heapq.heappush(heap, (negative * accuracies[depth + 1][0], -negative, depth + 1, 0))
    return Guess(found, 0, tokens) if found else PLAIN


def first_layers(network: Network, share: float) -> Network:
    """A network of the same width and vocabulary with the first ``share`` of the layers, one at least: what a draft of
    a family is where none is named."""
    count = max(round(share * len(network.blocks)), 1)
    return replace(network, name=f"{network.name}[:{count}]", blocks=network.blocks[:count], published_parameters=None)


def draft_for(target: Network, name: str, share: float, tp: int) -> Draft:
    """The network ``name`` as the draft of ``target``, or the first ``share`` of the target's layers where it is empty.

    Raises:
        ScenarioError: no such network, one that shares no vocabulary with the target, or one that ``tp`` cannot share.
    """
    if not name:
        network = first_layers(target, share)
    else:
        network = load_network(name)
        if abs(network.vocab_size - target.vocab_size) > SPARE_ROWS:
            raise ScenarioError(
                f"draft {name} has {network.vocab_size} tokens and {target.name} {target.vocab_size}; a draft guesses "
                "in the vocabulary of its target"
            )
    check_tp(network, tp)
    return Draft(network, tp)


SPARE_ROWS = 512
"""By how many rows the tables of one vocabulary may differ: they are padded to multiples of up to this."""


def refusal(network: Network, pp: int) -> str | None:
    """Why an engine of ``pp`` stages cannot speculate, in words; None where it can."""
    if pp > 1:
        return "engines speculate without pipeline stages (vLLM's documentation of speculative decoding); use tp"
    if any(isinstance(b.mixer, StateSpace) for b in network.blocks):
        return f"{network.name} has recurrent layers, whose states cannot take back tokens that were not accepted"
    return None
