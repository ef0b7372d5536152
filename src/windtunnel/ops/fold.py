"""What a tree amounts to. Every answer of the tunnel (time, traffic, bottleneck, …) is one of these folds.

An :class:`Evaluation` holds a tree and the function that prices an Op, and keeps each node's cost, so that every fold
prices an operator once. Nothing here knows what an operator is or what a machine is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from windtunnel.ops.op import Op, Price
from windtunnel.ops.together import Cost
from windtunnel.ops.tree import Best, Composite, Exposed, Flow, Node, Par, Pipeline, Sync
from windtunnel.ops.values import Value, first_true, maximum, minimum, where

Pricer = Callable[[Op], Price]


class Evaluation:
    """One tree under one pricing function. Costs are kept per node, by identity.

    The pricing function may charge for many machines at once (values with a leading axis); :meth:`at` is then one of
    them, without pricing anything again. ``known``: an evaluation by the same pricing function of trees that this one
    shares parts with, which are not priced again; whoever gives it keeps those trees alive.
    """

    __slots__ = (
        "_costs", "_free", "_index", "_known", "_many", "_orders", "_prices", "_shown", "_sums", "price", "tree",
    )  # fmt: skip

    def __init__(self, tree: Node, price: Pricer, known: Evaluation | None = None) -> None:
        self.tree = tree
        self.price = price
        self._known = known
        self._sums: dict[int, tuple[Value, ...]] = {}
        self._costs: dict[int, Cost] = {}
        self._prices: dict[int, Price] = {}
        self._shown: dict[int, dict[str, Value]] = {}
        self._free: dict[int, Value] = {}
        self._orders: list[Node] = []
        self._many: Evaluation | None = None
        self._index = 0

    def at(self, index: int) -> Evaluation:
        """The evaluation on the machine ``index`` of those that this one prices, with plain numbers."""
        one = Evaluation(self.tree, self.price)
        one._many, one._index = self, index
        return one

    def _before(self) -> Iterator[Evaluation]:
        """Evaluations that know some of this one's nodes."""
        before = self._known
        while before is not None:
            yield before
            before = before._known

    def cost(self, node: Node) -> Cost:
        """Device seconds, host seconds and busy seconds by resource of a node of the tree."""
        known = self._costs.get(id(node))
        if known is None:
            known = next((e._costs[id(node)] for e in self._before() if id(node) in e._costs), None)
        if known is not None:
            return known
        if self._many is not None:
            many, i = self._many.cost(node), self._index
            result = Cost(_pick(many.seconds, i), _pick(many.host, i), _Picked(many.busy, i))
            if isinstance(node, Pipeline):
                self._free[id(node)] = _pick(self._many._without_sends(node), i)
        elif isinstance(node, Op):
            p = self.op_price(node)
            result = Cost(p.seconds, p.host, p.busy)
        elif isinstance(node, Pipeline):
            costs = [self.cost(c) for c in node.children]
            length, self._free[id(node)] = node.lengths(costs)
            result = Cost(length, 0.0, node.busy(costs))
        else:
            result = node.combine([self.cost(c) for c in node.children])
        self._costs[id(node)] = result
        return result

    def _reach(self, root: Node, edges: Callable[[Composite], Sequence[Value]]) -> Iterator[tuple[Node, Value]]:
        """Every node below ``root`` once, parents first, with the sum over all paths to it of the edges' products."""
        order = self._order(root)
        reach: dict[int, Value] = {id(root): 1.0}
        for node in reversed(order):
            value = reach[id(node)]
            yield node, value
            if not isinstance(node, Op):
                for child, edge in zip(node.children, edges(node), strict=True):
                    key = id(child)
                    reach[key] = reach.get(key, 0.0) + value * edge

    def _order(self, root: Node) -> list[Node]:
        """Every node below ``root`` once, children first."""
        if root is self.tree and self._orders:
            return self._orders
        order: list[Node] = []
        seen: set[int] = set()

        def visit(node: Node) -> None:
            seen.add(id(node))
            if not isinstance(node, Op):
                for child in node.children:
                    if id(child) not in seen:
                        visit(child)
            order.append(node)

        visit(root)
        if root is self.tree:
            self._orders = order
        return order

    def op_price(self, op: Op) -> Price:
        known = self._prices.get(id(op))
        if known is None:
            if self._many is None:
                known = self.price(op)
            else:
                p, i = self._many.op_price(op), self._index
                busy = {r: _pick(v, i) for r, v in p.busy.items()}
                known = Price(_pick(p.seconds, i), busy, _pick(p.latency, i), _pick(p.host, i))
            self._prices[id(op)] = known
        return known

    def seconds(self, node: Node | None = None) -> Value:
        """How long the node (the whole tree by default) takes, its device and host met at the end."""
        c = self.cost(self.tree if node is None else node)
        return maximum(c.seconds, c.host)

    def exposed(self, node: Node | None = None) -> dict[str, Value]:
        """Seconds by category; overlapped time goes to the main stream. Adds up to :meth:`seconds`."""
        root = self.tree if node is None else node
        return _merge(dict(self._exposed(root)), self._waiting(self.cost(root)), 1)

    @staticmethod
    def _waiting(c: Cost) -> dict[str, Value]:
        """Seconds that the device waits for the host."""
        return {"host": maximum(c.host - c.seconds, 0.0)}

    def _exposed(self, node: Node) -> dict[str, Value]:
        known = self._shown.get(id(node))
        if known is None:
            known = self._shown[id(node)] = self._expose(node)
        return known

    def _expose(self, node: Node) -> dict[str, Value]:
        total = self.cost(node).seconds
        if isinstance(node, Op):
            return {node.category: total}
        if isinstance(node, Sync):
            return _merge(dict(self._exposed(node.part)), self._waiting(self.cost(node.part)), 1)
        if isinstance(node, Pipeline):
            return self._exposed_pipeline(node)
        if isinstance(node, Par | Flow):
            main = node.children[node.main]
            result: dict[str, Value] = _merge({}, self._exposed(main), node.times[node.main])
            left = total - node.times[node.main] * self.cost(main).seconds
            others = [(c, n) for i, (c, n) in enumerate(zip(node.children, node.times, strict=True)) if i != node.main]
            return _merge(result, self._share_out(left, others), 1)
        if isinstance(node, Exposed):
            return self._share_out(total, node.others)
        result = {}
        for child, n in zip(node.children, self._times(node), strict=True):
            result = _merge(result, self._exposed(child), n)
        return result

    def _times(self, node: Composite) -> tuple[Value, ...]:
        """How often each child runs: a choice runs what it picks, a pipeline's ranks each run one stage."""
        if isinstance(node, Best):
            return tuple(node.weights([self.cost(c) for c in node.children]))
        if isinstance(node, Pipeline):
            ranks: Value = 0.0
            for stage in node.stages:
                ranks = ranks + stage.count
            counts = zip(node.stages, node.by_stage(node.times), strict=True)
            return tuple(n * stage.count / ranks for stage, times in counts for n in times)
        return node.times

    def _share_out(self, seconds: Value, children: list[tuple[Node, Value]]) -> dict[str, Value]:
        """``seconds`` that the children took side by side, by category: computing first, the rest in proportion."""
        own: dict[str, Value] = {}
        for child, n in children:
            own = _merge(own, self._exposed(child), n)
        total: Value = 0.0
        for v in own.values():
            total = total + v
        computed = own.pop("compute", 0.0)
        others = total - computed
        first = where(others > 0, minimum(computed, seconds), where(total > 0, seconds, 0.0))
        left = (seconds - first) / where(others > 0, others, 1.0)
        return {"compute": first, **{k: v * left for k, v in own.items()}}

    def _exposed_pipeline(self, node: Pipeline) -> dict[str, Value]:
        costs = [self.cost(c) for c in node.children]
        free = self._without_sends(node)
        busiest, work = node.busiest(costs), node.work(costs)
        worked: Value = 0.0
        for flag, seconds in zip(busiest, work, strict=True):
            worked = worked + flag * seconds
        # Where ranks share the busiest stage's work with a lighter one (DualPipe), they are done before it would be.
        done = minimum(free / where(worked > 0, worked, 1.0), 1.0)
        result: dict[str, Value] = {}
        for flag, stage, own in zip(busiest, node.stages, node.by_stage(costs), strict=True):
            passes: list[tuple[Node, Value]] = [(c, 1.0) for c in (stage.forward, stage.backward, stage.weight)]
            n = flag * done * node.micro_batches
            if stage.overlapped is None:
                for i, (child, _) in enumerate(passes):
                    result = _merge(result, self._exposed(child), n)
                    result = _merge(result, self._waiting(own[i]), n)
            else:
                together = maximum(own[5].seconds, own[5].host)
                result = _merge(result, self._share_out(together, passes), n)
            result = _merge(result, self._exposed(stage.epilogue), flag * done)
            result = _merge(result, self._waiting(own[4]), flag * done)
        result = _merge(result, {"pp_bubble": maximum(free - worked, 0.0)}, 1)
        return _merge(result, {"pp_comm": self.cost(node).seconds - free}, 1)

    def by_kind(self, node: Node | None = None) -> dict[str, Value]:
        """Seconds of the critical path by operator kind (``host`` for waiting on it). Adds up to :meth:`seconds`."""
        return self._on_path(node, lambda op: {op.kind: self.op_price(op).seconds})

    def critical(self, node: Node | None = None) -> dict[str, Value]:
        """Seconds of the critical path by binding resource (and ``latency``). Adds up to :meth:`seconds`."""
        return self._on_path(node, self.binding)

    def _on_path(self, node: Node | None, of: Callable[[Op], dict[str, Value]]) -> dict[str, Value]:
        root = Sync(self.tree if node is None else node)
        result: dict[str, Value] = {}
        waiting: dict[int, Value] = {}

        def edges(parent: Composite) -> Sequence[Value]:
            weights, waiting[id(parent)] = self._path(parent)
            return weights

        reached: list[tuple[Composite, Value]] = []
        for each, weight in self._reach(root, edges):
            if isinstance(each, Op):
                _merge(result, of(each), weight)
            elif isinstance(each, Sync | Pipeline):
                reached.append((each, weight))
        for parent, weight in reached:
            _merge(result, {"host": waiting[id(parent)]}, weight)
        return result

    def _without_sends(self, node: Pipeline) -> Value:
        self.cost(node)
        return self._free[id(node)]

    def _path(self, parent: Composite) -> tuple[list[Value], Value]:
        """(weight of each child's device time on the parent's critical path, seconds there that wait for the host)."""
        costs = [self.cost(c) for c in parent.children]
        if isinstance(parent, Pipeline):
            weights = parent.path(costs, self.cost(parent).seconds, self._without_sends(parent))
        else:
            weights = parent.weights(costs)
        waiting: Value = 0.0
        if isinstance(parent, Sync):
            waiting = where(costs[0].host > costs[0].seconds, costs[0].host, 0.0)
        elif isinstance(parent, Pipeline):
            for i, c in enumerate(costs):
                bound = where(c.host > c.seconds, 1.0, 0.0)
                waiting = waiting + weights[i] * bound * c.host
                weights[i] = weights[i] * (1.0 - bound)
        return weights, waiting

    def binding(self, op: Op) -> dict[str, Value]:
        """An operator's own seconds by what held it: its fullest resource, and latency."""
        p = self.op_price(op)
        if not p.busy:
            return {"latency": p.seconds}
        rest = p.seconds - p.latency
        fullest: Value = 0.0
        for v in p.busy.values():
            fullest = maximum(fullest, v)
        flags = first_true(v >= fullest for v in p.busy.values())
        return {"latency": p.latency, **{r: where(flag > 0, rest, 0.0) for r, flag in zip(p.busy, flags, strict=True)}}

    def sums(self, node: Node, of: Callable[[Op], tuple[Value, ...]]) -> tuple[Value, ...]:
        """What one rank's operators amount to under ``of`` (the same at every call), as :meth:`totals` counts them;
        empty where there are none. Found from the leaves up, so that values keep the shape of what they depend on."""
        found = self._sums.get(id(node))
        if found is None:
            found = next((e._sums[id(node)] for e in self._before() if id(node) in e._sums), None)
        if found is not None:
            return found
        if isinstance(node, Op):
            found = of(node)
        else:
            each = [(self.sums(child, of), n) for child, n in zip(node.children, self._times(node), strict=True)]
            parts = [(own, n) for own, n in each if own and not (isinstance(n, int | float) and n == 0)]
            found = tuple(sum(n * own[i] for own, n in parts) for i in range(len(parts[0][0]))) if parts else ()
        self._sums[id(node)] = found
        return found

    def totals(self, node: Node | None = None) -> Totals:
        """Work done by one rank (the mean over ranks where pipeline stages differ): see :class:`Totals`."""
        result = Totals({}, {}, {}, {})
        for each, times in self._reach(self.tree if node is None else node, self._times):
            if isinstance(each, Op):
                result.add(each, times)
        return result


def _pick(value: Value, index: int) -> Value:
    return float(value[index]) if isinstance(value, np.ndarray) and value.ndim else value


class _Picked(Mapping[str, Value]):
    """Busy seconds on one of many machines, looked up when asked for."""

    __slots__ = ("_busy", "_index")

    def __init__(self, busy: Mapping[str, Value], index: int) -> None:
        self._busy, self._index = busy, index

    def __getitem__(self, resource: str) -> Value:
        return _pick(self._busy[resource], self._index)

    def __iter__(self) -> Iterator[str]:
        return iter(self._busy)

    def __len__(self) -> int:
        return len(self._busy)


def _merge(into: dict[str, Value], more: dict[str, Value], times: Value) -> dict[str, Value]:
    for key, value in more.items():
        into[key] = into.get(key, 0.0) + times * value
    return into


def _add(into: dict[str, Value], key: str, value: Value, times: Value) -> None:
    into[key] = into.get(key, 0.0) + times * value


@dataclass(frozen=True, slots=True)
class Totals:
    """FLOPs by matrix dtype (``vector`` for the rest), bytes by tier, message bytes by kind, and what is held.

    ``held``: parameters by group (dense, expert, and the frozen ones of each), ``weight_bytes`` as stored, and the
    activation bytes that a backward pass needs (``saved``, of which ``saved_core`` are attention's inside).
    """

    flops: dict[str, Value]
    bytes: dict[str, Value]
    messages: dict[str, Value]
    held: dict[str, Value]

    def add(self, op: Op, times: Value = 1) -> None:
        """Count an operator ``times`` times."""
        _add(self.flops, op.dtype, op.flops, times)
        _add(self.flops, "vector", op.vector_flops, times)
        _add(self.bytes, "hbm", op.hbm_bytes, times)
        _add(self.bytes, "cached", op.cached_bytes, times)
        _add(self.bytes, "pcie", op.pcie_bytes, times)
        _add(self.bytes, "nvme", op.nvme_bytes, times)
        if op.group is not None:
            # Nobody sends to himself.
            _add(self.messages, op.kind, where(op.group.size > 1, op.message_bytes, 0.0), times)
        _add(self.held, "saved", op.saved_bytes, times)
        if op.core:
            _add(self.held, "saved_core", op.saved_bytes, times)
        _add(self.held, "weight_bytes", op.parameters * op.shape.get("weight", 2.0), times)
        _add(self.held, ("expert" if op.expert else "dense") + ("_frozen" if op.frozen else ""), op.parameters, times)

    def plus(self, other: Totals) -> Totals:
        """The sum of both."""
        return Totals(
            _merge(dict(self.flops), other.flops, 1),
            _merge(dict(self.bytes), other.bytes, 1),
            _merge(dict(self.messages), other.messages, 1),
            _merge(dict(self.held), other.held, 1),
        )


def tree_totals(tree: Node) -> Totals:
    """The totals of a tree without choices (a forward pass): no price is needed."""

    def unpriced(op: Op) -> Price:
        raise TypeError(f"{op.name}: a choice between algorithms needs a price")

    return Evaluation(tree, unpriced).totals()
