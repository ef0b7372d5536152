"""Changing a tree: the same shape with some operators replaced. Techniques of the step are such rewrites."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from windtunnel.ops.op import Op
from windtunnel.ops.tree import Best, Exposed, Flow, Node, Par, Repeat, Seq, Stage, Sync


def rewrite(node: Node, change: Callable[[Op], Node], known: Mapping[int, Node] = MappingProxyType({})) -> Node:
    """A tree in which every operator stands as ``change`` of it. Shared subtrees stay shared. ``known``: what becomes
    of some subtrees, by their ``id``."""
    done = dict(known)

    def walk(node: Node) -> Node:
        if id(node) not in done:
            done[id(node)] = _step(node)
        return done[id(node)]

    def _step(node: Node) -> Node:
        if isinstance(node, Op):
            return change(node)
        if isinstance(node, Seq | Par):
            return replace(node, parts=tuple(walk(p) for p in node.parts))
        if isinstance(node, Repeat | Sync):
            return replace(node, part=walk(node.part))
        if isinstance(node, Flow):
            return replace(node, stages=tuple(walk(s) for s in node.stages))
        if isinstance(node, Exposed):
            beside = walk(node.beside)
            assert isinstance(beside, Flow | Par)
            return replace(node, beside=beside)
        if isinstance(node, Best):
            return replace(node, options=tuple(walk(o) for o in node.options))
        return replace(node, stages=tuple(_stage(s) for s in node.stages))

    def _stage(s: Stage) -> Stage:
        forward, backward, weight, send, epilogue = (walk(c) for c in s.children[:5])
        overlapped = None if s.overlapped is None else walk(s.overlapped)
        return Stage(s.count, forward, backward, weight, send, epilogue, overlapped)

    return walk(node)


def operators(node: Node) -> list[Op]:
    """The distinct operators of a tree, in order."""
    seen: dict[int, Op] = {}

    def walk(node: Node) -> None:
        if isinstance(node, Op):
            seen.setdefault(id(node), node)
        else:
            for child in node.children:
                walk(child)

    walk(node)
    return list(seen.values())
