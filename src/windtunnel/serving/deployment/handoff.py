"""KV caches on their way from the replicas that run prompts to those that decode.

A transfer begins when the prompt is done and shares its link with the others (a :class:`~windtunnel.cost.channel`).
``layerwise``, the layers before the last were sent while the prompt ran, as far as the link had time for them. The
prompt's KV cache is taken to appear evenly from its first work (``start``) to its end, so that with L layers
the first is there after 1/L of that time, and 1/L of the bytes is still to be sent at the end. What was sent before is
found when the prompt ends: in those stretches of [start, end] in which the link had nothing else to send, bytes go at
its bandwidth as soon as they are there. What is used so is used up, so no link ever sends faster than it can, and an
undisturbed transfer takes what equal pieces through two streams take (L transfers of t each behind L layers of c each:
it ends L·c + t, or c + L·t if t > c, after the start). Against a real link the credit is shared out in the order in
which prompts end, and transfers after the prompt come before those that overlap one.
"""

from __future__ import annotations

from windtunnel.cost.channel import Channel
from windtunnel.serving.deployment.events import Agenda, Kind
from windtunnel.serving.deployment.service import KVTransfer
from windtunnel.serving.outcome import PS

_SLOTS = 4096
"""Stretches of idle time remembered of one link; older ones give no credit."""


class IdleTime:
    """When a link had nothing to send, and how many bytes it could still have sent then."""

    def __init__(self, bytes_per_s: int) -> None:
        self._bytes_per_s = bytes_per_s
        self._slots: list[tuple[int, int, int]] = []  # (from, to, bytes, which are spread evenly over it)

    def idle(self, since: int, until: int) -> None:
        """The link was idle from ``since``, which is not before the end of any earlier stretch, to ``until``."""
        if since < until:
            self._slots.append((since, until, self._bytes_per_s * (until - since) // PS))
            del self._slots[:-_SLOTS]

    def send(self, start: int, end: int, size: int, layers: int) -> int:
        """How many of ``size`` bytes, made evenly from ``start`` to ``end``, are sent by then; takes their place."""
        most = size - -(-size // layers)
        ready = start - (start - end) // layers  # the first layer is there
        first = len(self._slots)
        while first > 0 and self._slots[first - 1][1] > ready:
            first -= 1
        slots = self._slots[first:]
        del self._slots[first:]
        if slots and slots[0][0] < ready:  # no byte of this prompt before
            since, until, free = slots[0]
            later = free * (until - ready) // (until - since)
            self._slots.append((since, ready, free - later))
            slots[0] = (ready, until, later)
        sent = 0
        for since, until, free in slots:
            made = min(most, size * (until - start) // (end - start))
            share = min(made - sent, free)
            sent += share
            self._slots.append((since, until, free - share))
        return sent


class Link:
    """A channel, the idle time behind it, and whose transfers are on it."""

    def __init__(self, transfer: KVTransfer) -> None:
        self.channel = Channel(transfer.bytes_per_s, transfer.latency_s)
        self.due: int | None = None
        self.idle_time = IdleTime(self.channel.bytes_per_s)
        self.sending: dict[int, tuple[int, int, int]] = {}  # of each transfer: request, sender, when it began

    def begin(self, transfer: KVTransfer, request: int, sender: int, now: int) -> None:
        """The request's prompt is done on that replica."""
        size = int(transfer.kv_bytes(request))
        start = int(transfer.start[request])
        idle_since = self.channel.idle_since(now)
        if idle_since is not None:
            self.idle_time.idle(idle_since, now)
        if transfer.layerwise and 0 <= start < now:
            size -= self.idle_time.send(start, now, size, transfer.layers)
        self.sending[self.channel.start(now, size)] = (request, sender, now)


class Handoff:
    """All links of a service. ``senders``: prefill replicas, which have a link each unless they share one."""

    def __init__(self, transfer: KVTransfer, senders: int, agenda: Agenda) -> None:
        self._transfer, self._agenda = transfer, agenda
        self._links = [Link(transfer) for _ in range(1 if transfer.shared else senders)]

    def begin(self, request: int, sender: int) -> None:
        """The request's prompt is done on that replica."""
        number = self._number(sender)
        self._links[number].begin(self._transfer, request, sender, self._agenda.now)
        self._watch(number)

    def arrived(self, number: int) -> list[tuple[int, int]]:
        """(request, time on its way) of what has arrived on a link whose time has come."""
        link = self._links[number]
        if link.due != self._agenda.now:
            return []
        done = [(link.sending.pop(a.transfer), a.time) for a in link.channel.advance(link.due)]
        link.due = None
        self._watch(number)
        return [(request, time - began) for (request, _, began), time in done]

    def lose(self, sender: int) -> list[int]:
        """The sender has failed: the requests whose KV caches were on their way from it."""
        number = self._number(sender)
        link = self._links[number]
        lost = [(t, request) for t, (request, by, _) in link.sending.items() if by == sender]
        for t, _ in lost:
            link.channel.cancel(self._agenda.now, t)
            del link.sending[t]
        self._watch(number)
        return [request for _, request in lost]

    def _number(self, sender: int) -> int:
        return 0 if self._transfer.shared else sender

    def _watch(self, number: int) -> None:
        link = self._links[number]
        due = link.channel.next()
        if due is not None and due != link.due:
            self._agenda.add(due, Kind.LINK, number)
        link.due = due
