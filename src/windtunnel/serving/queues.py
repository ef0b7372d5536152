"""Who is next: the queues of requests that wait for a place, one for each order."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from typing import Protocol

from windtunnel.serving.request import Request
from windtunnel.serving.rules import OUTPUT_CHARGE, PROMPT_CHARGE, Order


class Queue(Protocol):
    """Waiting requests in the order in which they should be taken in."""

    def push(self, request: Request) -> None:
        """It has arrived."""

    def push_back(self, request: Request) -> None:
        """It had a place and lost it: it comes before those that never had one, where the order allows."""

    def head(self) -> Request | None:
        """The next one."""

    def remove(self, request: Request) -> None:
        """It is taken in, or leaves."""

    def served(self, client: int, prompt: int, output: int) -> None:
        """A client's requests will have so many prompt tokens computed, or have been given so many of output."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Request]:
        """All of them; in order, as far as the order can be told beforehand."""


class Fifo:
    """First come, first served; those that lost their place first, the last one of them at the head."""

    __slots__ = ("_gone", "_length", "_returned", "_waiting")

    def __init__(self) -> None:
        self._returned: list[Request] = []
        self._waiting: deque[Request] = deque()
        self._gone: set[int] = set()  # of those that wait, taken out of the middle: never at the head
        self._length = 0

    def push(self, request: Request) -> None:
        self._waiting.append(request)
        self._length += 1

    def push_back(self, request: Request) -> None:
        self._returned.append(request)
        self._length += 1

    def head(self) -> Request | None:
        if self._returned:
            return self._returned[-1]
        return self._waiting[0] if self._waiting else None

    def remove(self, request: Request) -> None:
        waiting, gone = self._waiting, self._gone
        self._length -= 1
        if self._returned and self._returned[-1] is request:
            self._returned.pop()
        elif waiting and waiting[0] is request:
            waiting.popleft()
            while gone and waiting and waiting[0].number in gone:
                gone.remove(waiting.popleft().number)
        elif request in self._returned:
            self._returned.remove(request)
        else:
            gone.add(request.number)

    def served(self, client: int, prompt: int, output: int) -> None:
        """Nobody keeps count."""

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Request]:
        yield from reversed(self._returned)
        yield from (request for request in self._waiting if request.number not in self._gone)


class Sorted:
    """By priority (smaller first) or by predicted output; equals in order of arrival."""

    __slots__ = ("_by_length", "_gone", "_heap")

    def __init__(self, by_length: bool) -> None:
        self._by_length = by_length
        self._heap: list[tuple[int, int, int, Request]] = []
        self._gone: set[tuple[int, int]] = set()

    def push(self, request: Request) -> None:
        first = request.predicted if self._by_length else request.priority
        heapq.heappush(self._heap, (first, request.number, request.epoch, request))

    push_back = push

    def head(self) -> Request | None:
        while self._gone and self._heap and self._heap[0][1:3] in self._gone:
            self._gone.discard(heapq.heappop(self._heap)[1:3])
        return self._heap[0][3] if self._heap else None

    def remove(self, request: Request) -> None:
        if self.head() is request:
            heapq.heappop(self._heap)
        else:
            self._gone.add((request.number, request.epoch))

    def served(self, client: int, prompt: int, output: int) -> None:
        """Nobody keeps count."""

    def __len__(self) -> int:
        return len(self._heap) - len(self._gone)

    def __iter__(self) -> Iterator[Request]:
        return (entry[3] for entry in sorted(self._heap, key=lambda e: e[:3]) if entry[1:3] not in self._gone)


class Fair:
    """The client with the smallest virtual token counter is next, its requests in order of arrival.

    A client that comes back to an empty queue of its own is lifted to the smallest counter of those that wait, so that
    idling earns no credit (arXiv 2401.00588, algorithm 2). Ties go to the smaller client number.
    """

    __slots__ = ("_counters", "_length", "_queues")

    def __init__(self) -> None:
        self._counters: dict[int, int] = {}
        self._queues: dict[int, deque[Request]] = {}
        self._length = 0

    def push(self, request: Request) -> None:
        self._lift(request.client)
        self._queues[request.client].append(request)
        self._length += 1

    def push_back(self, request: Request) -> None:
        self._lift(request.client)
        self._queues[request.client].appendleft(request)
        self._length += 1

    def _lift(self, client: int) -> None:
        queue = self._queues.setdefault(client, deque())
        own = self._counters.setdefault(client, 0)
        if not queue and self._length:
            least = min(self._counters[c] for c, q in self._queues.items() if q)
            self._counters[client] = max(own, least)

    def head(self) -> Request | None:
        if not self._length:
            return None
        client = min((c for c, q in self._queues.items() if q), key=lambda c: (self._counters[c], c))
        return self._queues[client][0]

    def remove(self, request: Request) -> None:
        queue = self._queues[request.client]
        if queue[0] is request:
            queue.popleft()
        else:
            queue.remove(request)
        self._length -= 1

    def served(self, client: int, prompt: int, output: int) -> None:
        self._counters[client] = self._counters.get(client, 0) + PROMPT_CHARGE * prompt + OUTPUT_CHARGE * output

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Request]:
        for client in sorted(self._queues, key=lambda c: (self._counters[c], c)):
            yield from self._queues[client]


def make_queue(order: Order) -> Queue:
    """An empty queue of one of the built-in orders."""
    if order == "fcfs":
        return Fifo()
    return Fair() if order == "fair" else Sorted(by_length=order == "shortest")
