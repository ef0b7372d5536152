"""A small llama-like decoder in plain PyTorch: what ``calibrate --measure`` runs to check its predictions, and the
pieces of it that are timed one by one.

Pre-norm layers of RMSNorm, rotary embedding, grouped-query attention and SwiGLU, with one product for queries, keys and
values and one for gate and up. ``torch`` is handed in, since only ``--measure`` needs it installed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Tensor = Any


@dataclass(frozen=True, slots=True)
class Sizes:
    """A decoder's sizes, named as in a Hugging Face configuration."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocab: int
    head_dim: int = 64

    def config(self, dtype: str) -> Mapping[str, Any]:
        """The ``config.json`` that describes it to the rest of the package; ``dtype`` as PyTorch names it."""
        return {
            "model_type": "llama",
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "intermediate_size": self.intermediate,
            "vocab_size": self.vocab,
            "max_position_embeddings": 8192,
            "tie_word_embeddings": False,
            "torch_dtype": dtype,
        }


class Decoder:
    """The network with random weights. ``dtype`` and ``device`` are PyTorch's."""

    def __init__(self, torch: Any, sizes: Sizes, *, device: str, dtype: Any, seed: int = 0) -> None:
        self.torch, self.sizes, self.device, self.dtype = torch, sizes, device, dtype
        generator = torch.Generator(device=device).manual_seed(seed)

        def weight(*shape: int) -> Tensor:
            values = torch.randn(*shape, generator=generator, device=device, dtype=torch.float32)
            return (values * 0.02).to(dtype).requires_grad_()

        s = sizes
        q, kv = s.heads * s.head_dim, s.kv_heads * s.head_dim
        self.embedding, self.head = weight(s.vocab, s.hidden), weight(s.vocab, s.hidden)
        self.final = torch.ones(s.hidden, device=device, dtype=dtype, requires_grad=True)
        self.layers = [
            {
                "norm": torch.ones(s.hidden, device=device, dtype=dtype, requires_grad=True),
                "qkv": weight(q + 2 * kv, s.hidden),
                "out": weight(s.hidden, q),
                "ffn_norm": torch.ones(s.hidden, device=device, dtype=dtype, requires_grad=True),
                "up": weight(2 * s.intermediate, s.hidden),
                "down": weight(s.hidden, s.intermediate),
            }
            for _ in range(s.layers)
        ]
        self.table = rotation(torch, 8192, s.head_dim, device, dtype)

    def parameters(self) -> list[Tensor]:
        return [self.embedding, self.head, self.final, *(w for layer in self.layers for w in layer.values())]

    def cache(self, batch: int, length: int) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of every layer for ``length`` tokens, filled at random."""
        shape = (batch, self.sizes.kv_heads, length, self.sizes.head_dim)
        made = [self.torch.randn(shape, device=self.device).to(self.dtype) for _ in range(2 * self.sizes.layers)]
        return list(zip(made[::2], made[1::2], strict=True))

    def forward(self, tokens: Tensor, *, last: bool = False) -> Tensor:
        """Logits of ``tokens`` [batch, length]; of each sequence's ``last`` token only if asked for."""
        functional = self.torch.nn.functional
        x = functional.embedding(tokens, self.embedding)
        for layer in self.layers:
            q, k, v = self._qkv(layer, x, 0)
            attended = prompt_attention(self.torch, q, k, v)
            x = self._rest(layer, x, attended.transpose(1, 2).flatten(2))
        return self._logits(x[:, -1:] if last else x)

    def step(self, tokens: Tensor, caches: list[tuple[Tensor, Tensor]], position: int) -> Tensor:
        """Logits after one more token [batch, 1] of each sequence, which takes its place in the caches."""
        x = self.torch.nn.functional.embedding(tokens, self.embedding)
        for layer, (keys, values) in zip(self.layers, caches, strict=True):
            q, k, v = self._qkv(layer, x, position)
            keys[:, :, position : position + 1] = k
            values[:, :, position : position + 1] = v
            seen = position + 1
            attended = decode_attention(self.torch, q, keys[:, :, :seen], values[:, :, :seen])
            x = self._rest(layer, x, attended)
        return self._logits(x)

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Mean cross entropy of every token's logits."""
        logits = self.forward(tokens)
        return self.torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def _qkv(self, layer: dict[str, Tensor], x: Tensor, position: int) -> tuple[Tensor, Tensor, Tensor]:
        s, functional = self.sizes, self.torch.nn.functional
        projected = functional.linear(rms_norm(self.torch, x, layer["norm"]), layer["qkv"])
        split = projected.unflatten(-1, (s.heads + 2 * s.kv_heads, s.head_dim))
        turned = rotate(self.torch, split[:, :, : s.heads + s.kv_heads], self.table, position)
        q, k, v = turned[:, :, : s.heads], turned[:, :, s.heads :], split[:, :, s.heads + s.kv_heads :]
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)

    def _rest(self, layer: dict[str, Tensor], x: Tensor, attended: Tensor) -> Tensor:
        functional = self.torch.nn.functional
        x = x + functional.linear(attended, layer["out"])
        up = functional.linear(rms_norm(self.torch, x, layer["ffn_norm"]), layer["up"])
        return x + functional.linear(gated(self.torch, up), layer["down"])

    def _logits(self, x: Tensor) -> Tensor:
        return self.torch.nn.functional.linear(rms_norm(self.torch, x, self.final), self.head)


def rms_norm(torch: Any, x: Tensor, weight: Tensor) -> Tensor:
    return torch.nn.functional.rms_norm(x, (x.shape[-1],), weight, 1e-5)


def rotation(torch: Any, length: int, size: int, device: str, dtype: Any) -> tuple[Tensor, Tensor]:
    """Cosines and sines [length, 1, size / 2] of the rotary embedding (arXiv 2104.09864, section 3.4)."""
    rates = 10000.0 ** (-torch.arange(0, size, 2, device=device, dtype=torch.float32) / size)
    angles = torch.arange(length, device=device, dtype=torch.float32)[:, None, None] * rates
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(torch: Any, x: Tensor, table: tuple[Tensor, Tensor], position: int) -> Tensor:
    """Rotary embedding of [batch, length, heads, size] from ``position`` on."""
    length = x.shape[1]
    cos, sin = (t[position : position + length] for t in table)
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


def gated(torch: Any, up: Tensor) -> Tensor:
    gate, value = up.chunk(2, dim=-1)
    return torch.nn.functional.silu(gate) * value


def prompt_attention(torch: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention of [batch, heads, length, size] over as many keys of fewer heads."""
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


def decode_attention(torch: Any, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """[batch, 1, heads x size] of one query a sequence. The queries that share a KV head are laid side by side as if
    they were several tokens, so that each key is read once."""
    batch, heads, _, size = q.shape
    grouped = q.reshape(batch, keys.shape[1], heads // keys.shape[1], size)
    attended = torch.nn.functional.scaled_dot_product_attention(grouped, keys, values)
    return attended.reshape(batch, 1, heads * size)
