"""FLOPs in closed form: forward work for a token, and model FLOPs of training as the papers count them.

Dense products count two FLOPs for each weight a token meets: projections, MLPs, the experts it visits, the router, the
output projection; a table look-up counts none, nor do norms, activations and softmax. Attention counts two products,
scores and values: ``2 · heads · (head_dim + v_head_dim)`` for each token attended to. Recurrent mixers add
``scan_flops_per_token``. These are the conventions of PaLM (arXiv 2204.02311, appendix B) and of Megatron-LM
(arXiv 2104.04473, section 5.1, equation 3).
"""

from __future__ import annotations

from collections import Counter
from typing import Literal

from windtunnel.models.network import MLP, Attention, Block, FeedForward, LatentAttention, Mixer, Network, StateSpace

Convention = Literal["full", "causal"]
Recompute = Literal["none", "selective", "full"]


def mixer_weights(mixer: Mixer) -> int:
    """Weights of the dense products that one token meets in a mixer.

    In cross attention: queries and output only, since keys and values are made once for each source token.
    """
    if isinstance(mixer, StateSpace):
        inner = sum(rows * columns for rows, columns in mixer.inner_gemms)
        return mixer.hidden * (mixer.in_size + mixer.inner) + inner
    if isinstance(mixer, LatentAttention):
        queries = mixer.heads * mixer.head_dim
        q = mixer.hidden * queries if mixer.q_lora_rank is None else mixer.q_lora_rank * (mixer.hidden + queries)
        down = mixer.hidden * (mixer.kv_lora_rank + mixer.rope_head_dim)
        up = mixer.kv_lora_rank * mixer.heads * (mixer.nope_head_dim + mixer.v_head_dim)
        return q + down + up + mixer.out_size * mixer.hidden
    kv = 0 if mixer.cross else mixer.hidden * (mixer.k_size + mixer.v_size)
    return mixer.hidden * (mixer.q_size + mixer.out_size) + kv


def feed_forward_weights(ffn: FeedForward) -> int:
    """Weights of the dense products that one token meets: its MLP, or router, shared part and ``top_k`` experts."""
    if isinstance(ffn, MLP):
        return (3 if ffn.gated else 2) * ffn.hidden * ffn.intermediate
    shared = feed_forward_weights(ffn.shared) if ffn.shared else 0
    router = ffn.hidden * ffn.experts + (ffn.hidden if ffn.shared_gate else 0)
    return ffn.top_k * feed_forward_weights(ffn.expert) + shared + router


def block_weights(block: Block) -> int:
    """Weights of the dense products that one token meets in a layer."""
    mixers = [m for m in (block.mixer, block.cross) if m is not None]
    ffn = feed_forward_weights(block.ffn) if block.ffn is not None else 0
    return sum(mixer_weights(m) for m in mixers) + ffn


def head_weights(network: Network) -> int:
    """Weights of the output projection's product, tied to the token table or not (0 without a head)."""
    return (network.head_width or network.hidden_size) * network.vocab_size if network.has_head else 0


def _scan(block: Block) -> float:
    return block.mixer.scan_flops_per_token if isinstance(block.mixer, StateSpace) else 0.0


def _per_attended(mixer: Attention | LatentAttention) -> int:
    v = mixer.v_head_dim
    return 2 * mixer.heads * (mixer.head_dim + v)


def visible(mixer: Attention | LatentAttention, context: float) -> float:
    """How many of the last ``context`` tokens (itself included) a query sees."""
    window = mixer.window
    if window is None or context <= window:
        return context
    if isinstance(mixer, Attention) and mixer.chunked:
        return (context - 1) % window + 1
    return window


def mean_visible(mixer: Attention | LatentAttention, seq: float, convention: Convention) -> float:
    """Tokens attended to by a token of a sequence of ``seq``, on average.

    "full" counts every query against the whole sequence (or its window or chunk), as PaLM and Megatron do; "causal"
    counts the lower triangle, ``seq / 2`` without a window. What looks both ways is always counted in full.
    """
    window = seq if mixer.window is None else min(float(mixer.window), seq)
    if convention == "full" or not mixer.causal:
        return window
    if isinstance(mixer, Attention) and mixer.chunked and mixer.window is not None:
        whole, rest = divmod(seq, window)
        return (whole * window**2 + rest**2) / (2 * seq)
    return window - window**2 / (2 * seq)


def _attention(blocks: tuple[Block, ...], tokens: float, convention: Convention | None) -> float:
    """Score and value FLOPs of self attention for a token; convention None: of one token with that context."""
    total = 0.0
    for block, count in counted(blocks):
        mixer = block.mixer
        if isinstance(mixer, Attention | LatentAttention):
            seen = visible(mixer, tokens) if convention is None else mean_visible(mixer, tokens, convention)
            total += count * _per_attended(mixer) * seen
    return total


def _cross(blocks: tuple[Block, ...], source: float) -> float:
    return sum(count * _per_attended(b.cross) * source for b, count in counted(blocks) if b.cross is not None)


def counted(blocks: tuple[Block, ...]) -> list[tuple[Block, int]]:
    """Distinct layers with how often each occurs, in order of first occurrence."""
    # Equal layers of a network are one object.
    objects = {id(block): block for block in blocks}
    return [(objects[key], n) for key, n in Counter(map(id, blocks)).items()]


def _dense(blocks: tuple[Block, ...]) -> float:
    return sum(count * (2.0 * block_weights(b) + _scan(b)) for b, count in counted(blocks))


def forward_flops_per_token(network: Network, context: float = 0.0, source: float = 0.0) -> float:
    """FLOPs of one token's forward pass with ``context`` tokens to attend to, windows and chunks respected.

    At context 0: two FLOPs for each active weight (and a recurrent layer's scan). Of an encoder-decoder this is a
    decoder token that sees ``source`` encoded tokens; :func:`encoder_flops_per_token` is the other half.
    """
    total = _dense(network.blocks) + 2.0 * head_weights(network)
    total += _attention(network.blocks, context, None) + _cross(network.blocks, source)
    return total if network.encoder else total + network.extra_flops_per_token


def encoder_flops_per_token(network: Network, source: float = 0.0) -> float:
    """FLOPs that one source token of ``source`` costs: the encoder's, and the decoder's cross keys and values.

    0 without an encoder.
    """
    if not network.encoder:
        return 0.0
    cross = [(b.cross, count) for b, count in counted(network.blocks) if b.cross is not None]
    keys_values = sum(count * 2.0 * c.hidden * (c.k_size + c.v_size) for c, count in cross)
    encoder = _dense(network.encoder) + _attention(network.encoder, source, None)
    return encoder + keys_values + network.extra_flops_per_token


def training_forward_flops(network: Network, seq: float, convention: Convention = "full") -> tuple[float, float]:
    """Forward FLOPs a token of sequences of ``seq`` tokens: (in the layers, in the output projection and around).

    Of an encoder-decoder: of one target and one source token, both sequences ``seq`` long.
    """
    layers = _dense(network.blocks) + _attention(network.blocks, seq, convention)
    around = 2.0 * head_weights(network) + network.extra_flops_per_token
    if network.encoder:
        layers += encoder_flops_per_token(network, seq) - network.extra_flops_per_token + _cross(network.blocks, seq)
    return layers, around


def model_flops_per_token(network: Network, seq: float, convention: Convention = "full") -> float:
    """Model FLOPs of training a token: three forward passes' worth, recomputation not counted.

    With "full" and a GPT this is ``6 N + 12 L h s`` for N weights in products (PaLM, appendix B), and Megatron's
    equation 3 with its fourth, recomputed, forward pass taken out.
    """
    return 3.0 * sum(training_forward_flops(network, seq, convention))


def hardware_flops_per_token(
    network: Network, seq: float, convention: Convention = "full", recompute: Recompute = "none"
) -> float:
    """FLOPs that training a token executes: "full" runs the layers' forward pass again (Megatron's equation 3),
    "selective" the attention scores and values only (arXiv 2205.05198, section 5).
    """
    layers, around = training_forward_flops(network, seq, convention)
    again = 0.0
    if recompute == "full":
        again = layers
    elif recompute == "selective":
        again = _attention(network.blocks, seq, convention)
        if network.encoder:
            again += _attention(network.encoder, seq, "full") + _cross(network.blocks, seq)
    return 3.0 * (layers + around) + again
