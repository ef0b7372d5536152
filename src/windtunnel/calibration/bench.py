"""The kernels that ``calibrate --measure`` times, as rows of the table that :mod:`windtunnel.calibration.layout` reads.

Weights and KV caches are read from another place of a large pool each time, so that no cache has them, as in a model;
activations stay what they are, since in a model the kernel before has just written them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median, quantiles
from typing import Any

from windtunnel.calibration import decoder
from windtunnel.calibration.clock import Call, Clock

COLD = 3.0
"""Size of the pool over that of the last cache."""


@dataclass(frozen=True, slots=True)
class Bench:
    """One kernel to time: its row of the table without ``seconds``; ``share``: of the call's time that is its."""

    row: Mapping[str, Any]
    call: Call
    share: float = 1.0


class Pool:
    """Memory that is walked through again and again. ``size``: elements; ``at``: where the walk is."""

    def __init__(self, tensor: Any) -> None:
        self.tensor, self.size, self.at = tensor, tensor.numel(), 0


class Turns:
    """Tensors of one shape in a pool, of which the next in the walk is taken."""

    def __init__(self, pool: Pool, *shape: int) -> None:
        self.pool, self.each = pool, math.prod(shape)
        self.views = list(pool.tensor[: pool.size // self.each * self.each].view(-1, *shape))

    def take(self) -> Any:
        place = -(-self.pool.at // self.each)
        place = place if place < len(self.views) else 0
        self.pool.at = (place + 1) * self.each
        return self.views[place]


def on_turn(function: Callable[..., object], turns: Turns, *before: Any) -> Call:
    """Calls ``function`` with the next tensor after the arguments ``before``."""
    return lambda: function(*before, turns.take())


@dataclass(frozen=True, slots=True)
class Grid:
    """The shapes that are timed. ``weights``: (n, k); ``rows``: m; ``backward``: (m, n, k) of gradients' products;
    ``prompts``: (sequences, length); ``decodes``: (sequences, context); ``stream_bytes``: sizes of pointwise kernels.
    """

    weights: tuple[tuple[int, int], ...]
    rows: tuple[int, ...]
    backward: tuple[tuple[int, int, int], ...]
    prompts: tuple[tuple[int, int], ...]
    decodes: tuple[tuple[int, int], ...]
    stream_bytes: tuple[float, ...]
    heads: int = 12
    kv_heads: int = 3


def layers(hidden: int) -> tuple[tuple[int, int], ...]:
    """(n, k) of a decoder's linear layers and its head, in the proportions of Llama's."""
    return (
        (hidden * 3 // 2, hidden), (hidden, hidden), (hidden * 11 // 2, hidden), (hidden, hidden * 11 // 4),
        (hidden * 14, hidden),
    )  # fmt: skip


QUICK = Grid(
    weights=layers(640),
    rows=(1, 2, 6, 14, 40, 100, 300),
    backward=((100, 640, 640), (300, 3520, 640), (300, 640, 1760), (160, 8960, 640)),
    prompts=((1, 20), (1, 48), (1, 100), (1, 160), (1, 300), (1, 448), (2, 96), (3, 200), (5, 100), (6, 40)),
    decodes=((1, 96), (1, 768), (1, 2000), (2, 320), (2, 900), (6, 96), (6, 192), (6, 768), (12, 96), (12, 320)),
    stream_bytes=(8e3, 64e3, 200e3, 400e3, 1e6, 2e6, 8e6, 24e6, 48e6),
)
FULL = Grid(
    weights=(*layers(640), *layers(1024), (896, 896), (4928, 896), (896, 2464)),
    rows=(1, 2, 3, 6, 10, 14, 24, 40, 70, 100, 180, 300, 600),
    backward=(*QUICK.backward, (450, 1024, 1024), (450, 5632, 1024), (100, 1024, 2816), (200, 14336, 1024)),
    prompts=(*QUICK.prompts, (1, 36), (1, 72), (1, 220), (1, 640), (1, 900), (2, 300), (4, 160), (2, 560), (8, 80)),
    decodes=(*QUICK.decodes, (1, 48), (1, 3000), (2, 1500), (3, 600), (12, 1000), (24, 300), (24, 768)),
    stream_bytes=(4e3, 16e3, 64e3, 120e3, 200e3, 400e3, 700e3, 1e6, 2e6, 4e6, 8e6, 16e6, 24e6, 36e6, 48e6),
)


def kernel_benches(clock: Clock, grid: Grid, dtype: str, cache_bytes: float) -> list[Bench]:
    """What is timed. ``cache_bytes``: of the last cache."""
    return list(_Maker(clock, grid, dtype, cache_bytes).all())


def table_rows(benches: Sequence[Bench], seconds: Sequence[Sequence[float]]) -> list[dict[str, Any]]:
    """Rows of a table of kernels, with the median of each one's ``seconds``."""
    return [{**b.row, "seconds": median(s) * b.share} for b, s in zip(benches, seconds, strict=True)]


def unsteadiness(seconds: Sequence[Sequence[float]]) -> float:
    """How far a kernel's repeats typically lie apart: the middle half of them over their median."""
    apart = []
    for repeated in seconds:
        low, middle, high = quantiles(repeated, n=4, method="inclusive")
        apart.append((high - low) / middle)
    return median(apart)


class _Maker:
    def __init__(self, clock: Clock, grid: Grid, dtype: str, cache_bytes: float) -> None:
        self.torch, self.grid, self.name, self.device = clock.torch, grid, dtype, clock.device
        self.dtype = torch_dtype(clock.torch, dtype)
        self.size = self.dtype.itemsize
        largest = max(n * k for n, k in grid.weights)
        self.pool = Pool(self.tensor(max(int(COLD * cache_bytes / self.size), 3 * largest)))

    def tensor(self, *shape: int) -> Any:
        return self.torch.randn(shape, device=self.device).to(self.dtype)

    def all(self) -> Iterator[Bench]:
        yield from self.products()
        yield from self.prompts()
        yield from self.decodes()
        yield from self.streams()
        yield from self.losses()
        yield from self.updates()
        yield from self.transfers()

    def products(self) -> Iterator[Bench]:
        """A linear layer, and its two gradients, whose operands lie otherwise in memory."""
        linear, matmul = self.torch.nn.functional.linear, self.torch.matmul
        for n, k in self.grid.weights:
            weights = Turns(self.pool, n, k)
            for m in self.grid.rows:
                x = self.tensor(m, k)
                yield Bench(self._gemm(m, n, k), on_turn(linear, weights, x))
        for m, n, k in self.grid.backward:
            weights, g, x = Turns(self.pool, n, k), self.tensor(m, n), self.tensor(m, k)
            yield Bench(self._gemm(m, k, n), on_turn(matmul, weights, g))
            yield Bench(self._gemm(n, k, m), partial(matmul, g.t(), x))

    def _gemm(self, m: int, n: int, k: int) -> dict[str, Any]:
        return {"kernel": "gemm", "dtype": self.name, "m": m, "n": n, "k": k}

    def prompts(self) -> Iterator[Bench]:
        torch, heads, kv_heads = self.torch, self.grid.heads, self.grid.kv_heads
        for b, s in self.grid.prompts:
            q, k, v = (self.tensor(b, s, h, 64).transpose(1, 2) for h in (heads, kv_heads, kv_heads))
            row = {
                "dtype": self.name, "variant": "flash2", "tokens": b * s, "pairs": b * s * (s + 1) / 2,
                "context": b * s, "heads": heads, "kv_heads": kv_heads, "head_dim": 64,
            }  # fmt: skip
            yield Bench({"kernel": "attention", **row}, partial(decoder.prompt_attention, torch, q, k, v))
            yield Bench({"kernel": "attention_backward", **row}, self._backward(q, k, v))

    def _backward(self, q: Any, k: Any, v: Any) -> Call:
        torch = self.torch
        inputs = [t.detach().clone().requires_grad_() for t in (q, k, v)]
        with torch.enable_grad():
            out = decoder.prompt_attention(torch, *inputs)
        upstream = torch.randn_like(out)
        return lambda: torch.autograd.grad(out, inputs, upstream, retain_graph=True)

    def decodes(self) -> Iterator[Bench]:
        torch, heads, kv_heads = self.torch, self.grid.heads, self.grid.kv_heads
        for b, s in self.grid.decodes:
            q, caches = self.tensor(b, heads, 1, 64), Turns(self.pool, 2, b, kv_heads, s + 64, 64)

            def call(q: Any = q, caches: Turns = caches, s: int = s) -> object:
                keys, values = caches.take()
                return decoder.decode_attention(torch, q, keys[:, :, :s], values[:, :, :s])

            row = {"sequences": b, "context": b * s, "heads": heads, "kv_heads": kv_heads, "head_dim": 64}
            yield Bench({"kernel": "attention_decode", "dtype": self.name, **row}, call)

    def streams(self) -> Iterator[Bench]:
        """Pointwise kernels of a decoder on activations 1,024 wide, by bytes read and written."""
        torch, width = self.torch, 1024
        table = decoder.rotation(torch, 8192, 64, self.device, self.dtype)
        weight = self.tensor(width)
        kinds: dict[str, tuple[float, Callable[[Any], object], tuple[int, ...]]] = {
            "norm": (2, lambda x: decoder.rms_norm(torch, x, weight), (width,)),
            "activation": (3, lambda x: decoder.gated(torch, x), (2 * width,)),
            "softmax": (2, lambda x: torch.softmax(x, -1), (width,)),
            "rope": (2, lambda x: decoder.rotate(torch, x, table, 0), (width // 64, 64)),
        }
        for kind, (passes, function, shape) in kinds.items():
            for size in self.grid.stream_bytes:
                rows = max(round(size / (passes * self.size * width)), 1)
                if kind == "rope":  # within the table of positions
                    x = self.tensor(max(rows // 8, 1), min(rows, 8), *shape)
                    rows = max(rows // 8, 1) * min(rows, 8)
                else:
                    x = self.tensor(rows, *shape)
                yield self._stream(kind, passes * self.size * width * rows, partial(function, x))
        for size in self.grid.stream_bytes:
            rows = max(round(size / (3 * self.size * width)), 1)
            a, b = self.tensor(rows, width), self.tensor(rows, width)
            yield self._stream("elementwise", 3 * self.size * width * rows, partial(torch.add, a, b))
        vocabulary = self.pool.tensor[: self.pool.size // width * width].view(-1, width)

        def look(picks: Any) -> object:
            return torch.nn.functional.embedding(picks, vocabulary)

        for rows in (1, 8, 32, 100, 256, 700, 2048):
            drawn = torch.randint(0, len(vocabulary), (64 * rows,), device=self.device)
            picks = Turns(Pool(drawn), rows)
            size = self.size * width * rows
            yield self._stream("embedding", size, on_turn(look, picks), cold=size)

    def _stream(self, kind: str, size: float, call: Call, share: float = 1.0, cold: float = 0.0) -> Bench:
        return Bench({"kernel": kind, "bytes": size, "cold_bytes": cold}, call, share)

    def losses(self) -> Iterator[Bench]:
        """The loss with its gradient, which a step's tree prices as two passes over the logits."""
        torch = self.torch
        for rows, vocabulary in ((48, 4096), (100, 12288), (160, 6144), (320, 4096), (320, 12288)):
            logits = self.tensor(rows, vocabulary).requires_grad_()
            targets = torch.randint(0, vocabulary, (rows,), device=self.device)

            def call(logits: Any = logits, targets: Any = targets) -> object:
                with torch.enable_grad():
                    loss = torch.nn.functional.cross_entropy(logits, targets)
                return torch.autograd.grad(loss, logits)

            yield self._stream("cross_entropy", 3 * self.size * rows * vocabulary, call, share=0.5)

    def updates(self) -> Iterator[Bench]:
        """AdamW of fp32 parameters: reads four tensors and writes three."""
        torch = self.torch
        for elements in (200_000, 1_500_000, 4_000_000, 8_000_000, 14_000_000):
            parameter = torch.randn(elements, device=self.device, requires_grad=True)
            parameter.grad = torch.randn(elements, device=self.device)
            optimizer = torch.optim.AdamW([parameter], lr=1e-9, fused=True)
            yield self._stream("optimizer", 0.0, optimizer.step, cold=28.0 * elements)

    def transfers(self) -> Iterator[Bench]:
        """Copies from the host's memory to the device's (on a CPU within its memory)."""
        torch = self.torch
        source = torch.randn(int(32e6))
        if self.device == "cuda":
            source = source.pin_memory()
        for elements in (4_000, 16_000, 75_000, 250_000, 2_000_000, 8_000_000):
            there = torch.empty(elements, device=self.device)
            call = on_turn(partial(there.copy_, non_blocking=True), Turns(Pool(source), elements))
            yield Bench({"kernel": "copy", "pcie_bytes": 4.0 * elements}, call)


def torch_dtype(torch: Any, name: str) -> Any:
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[name]
