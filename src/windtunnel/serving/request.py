"""A request while it is in an engine."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum


class Stage(IntEnum):
    """What an engine does with a request. ``FETCHING``: parts of its prompt come up from below device memory."""

    COMING = 0
    WAITING = 1
    FETCHING = 2
    PREFILLING = 3
    DECODING = 4
    GONE = 5


WAITING, FETCHING, PREFILLING, DECODING, GONE = list(Stage)[1:]


class Request:
    """What an engine keeps of one request. Times in picoseconds, sizes in tokens.

    ``number``: its row in the workload. ``generated``: output tokens that it has. ``prefilled``: of the tokens that
    have to be computed before its next token of output, those done; ``ready``: all of them are in the cache and it
    only needs a place (its cache came along, or comes back from host memory). ``origin``: while it decodes, its cached
    tokens less its lane's count of decode steps, so that nothing has to be touched as it grows. ``units``: cache that
    it holds alone; ``pinned``: blocks of the prefix cache that it holds, too, the first of ``blocks``. ``epoch`` counts
    its places. ``lane``: where it is, at which ``stage``; ``turn``: the last decision that gave it prompt tokens.
    """

    __slots__ = (
        "arrival", "blocks", "client", "epoch", "generated", "input_tokens", "joined", "lane", "last_token", "number",
        "origin", "output_tokens", "pinned", "predicted", "prefilled", "priority", "ready", "reserved", "stage",
        "start", "swapped", "turn", "units",
    )  # fmt: skip

    def __init__(
        self, number: int, arrival: int, input_tokens: int, output_tokens: int, *, client: int = 0, priority: int = 0,
        predicted: int = 0, progress: int = 0, blocks: Sequence[int] = (),
    ) -> None:  # fmt: skip
        self.number, self.arrival = number, arrival
        self.input_tokens, self.output_tokens = input_tokens, output_tokens
        self.client, self.priority, self.predicted = client, priority, predicted
        self.prefilled = min(progress, input_tokens)
        self.ready = progress >= input_tokens
        self.generated = 1 if self.ready else 0
        self.origin = self.epoch = self.joined = self.units = self.swapped = 0
        self.start = self.last_token = self.turn = -1
        self.reserved = False
        self.blocks = blocks
        self.pinned: list[int] = []
        self.lane: object = None
        self.stage = Stage.COMING

    @property
    def cached(self) -> int:
        """Tokens in the cache while it decodes: all but the last one, which has yet to be computed."""
        return self.input_tokens + self.generated - 1

    @property
    def wanted(self) -> int:
        """Tokens that a prompt's iterations have to bring into the cache: after losing its place, its output so far,
        too."""
        return self.input_tokens + self.generated

    @property
    def left(self) -> int:
        """Prompt tokens still to be computed."""
        return 0 if self.ready else self.input_tokens + self.generated - self.prefilled
