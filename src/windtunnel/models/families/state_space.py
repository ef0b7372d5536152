"""Recurrent mixers and the networks made of them: Mamba, Mamba-2, Jamba, Nemotron-H, Qwen3-Next.

``scan_flops_per_token`` counts the recurrence token by token, multiplications and additions as one each (and an
exponential as one), as each paper's recurrence is written; chunked kernels trade some of it for matrix products.
Recurrent state is counted with a convolution tail of ``kernel - 1`` tokens.
"""

from __future__ import annotations

from windtunnel.errors import ScenarioError
from windtunnel.models.families.common import (
    MAX_HEADS,
    Heads,
    attention,
    causal_lm,
    check_groups,
    head_norms,
    is_sparse,
    read_experts,
    read_heads,
    read_layer_types,
    read_moe,
    rms,
    stack,
)
from windtunnel.models.families.llama import gated_mlp
from windtunnel.models.families.moe import read_top_k
from windtunnel.models.network import MLP, Attention, Block, Network, Norm, StateSpace
from windtunnel.models.reader import MAX_LAYERS, Reader


def mamba_layer(
    hidden: int,
    inner: int,
    state: int,
    rank: int,
    kernel: int,
    *,
    conv_bias: bool,
    bias: bool,
    norms: int = 0,
) -> StateSpace:
    """A selective state space of ``inner`` channels with ``state`` elements each (Mamba, arXiv 2312.00752).

    A token costs, from the recurrence (2a, 2b) with the discretisation (4) as Algorithm 2 applies it: for each state
    element the product ΔA and its exponential, ΔB·x, the decay, the addition, and C·h (two): 7; for each channel Δ·x,
    the skip D·x and its addition, the gate and its activation: 5; and ``2 · kernel`` for the convolution.
    ``norms``: parameters of norms inside (Jamba).
    """
    x_proj, dt_proj = (inner, rank + 2 * state), (rank, inner)
    conv = inner * (kernel + conv_bias)
    projections = x_proj[0] * x_proj[1] + dt_proj[0] * dt_proj[1] + inner
    return StateSpace(
        hidden=hidden,
        in_size=2 * inner,
        inner=inner,
        state_elements=inner * (state + kernel - 1),
        scan_flops_per_token=float(inner * (7 * state + 5 + 2 * kernel)),
        inner_parameters=conv + projections + inner * state + inner + norms,
        inner_gemms=(x_proj, dt_proj),
        bias=bias,
        version="mamba",
    )


def mamba2_layer(
    hidden: int, heads: int, head_dim: int, groups: int, state: int, kernel: int, *, conv_bias: bool, bias: bool
) -> StateSpace:
    """A scalar-decay state space of ``heads × head_dim × state`` (Mamba-2, arXiv 2405.21060).

    A token costs, from the recurrence of section 3 (h = a·h + Δx ⊗ B, y = C·h + D·x): for each state element the decay,
    the outer product and addition, and C·h (two): 5; for each channel Δ·x, the skip (two), the gate and its activation:
    5; and ``2 · kernel`` for each channel of the convolution, which covers x, B and C.
    """
    inner = heads * head_dim
    conv = inner + 2 * groups * state
    return StateSpace(
        hidden=hidden,
        in_size=inner + conv + heads,
        inner=inner,
        state_elements=inner * state + conv * (kernel - 1),
        scan_flops_per_token=float(5 * inner * state + 5 * inner + 2 * kernel * conv),
        inner_parameters=conv * (kernel + conv_bias) + 3 * heads + inner,
        bias=bias,
        version="mamba2",
    )


def delta_layer(hidden: int, k_heads: int, k_dim: int, v_heads: int, v_dim: int, kernel: int) -> StateSpace:
    """A gated delta net with a ``k_dim × v_dim`` state for each value head (arXiv 2412.06464, equation 10).

    A token costs, for each state element, the decay, the read k·S (two), the outer-product update (two) and the output
    q·S (two): 7; for each value channel the correction β(v - k·S) (two) and the gate and its activation: 4; and
    ``2 · kernel`` for each channel of the convolution, which covers queries, keys and values.
    """
    key, value = k_heads * k_dim, v_heads * v_dim
    conv = 2 * key + value
    return StateSpace(
        hidden=hidden,
        in_size=2 * key + 2 * value + 2 * v_heads,
        inner=value,
        state_elements=value * k_dim + conv * (kernel - 1),
        scan_flops_per_token=float(7 * value * k_dim + 4 * value + 2 * kernel * conv),
        inner_parameters=conv * kernel + 2 * v_heads + v_dim,
        version="delta",
    )


def _rank(r: Reader, key: str, hidden: int) -> int:
    """The rank of the time step's projection: a number, or "auto" (and by default) ``ceil(hidden / 16)``."""
    return -(-hidden // 16) if r.data.get(key) == "auto" else r.size(key, default=-(-hidden // 16))


def mamba(r: Reader) -> Network:
    hidden = r.needed("hidden_size", default=768)
    layers = r.layers("num_hidden_layers", default=32)
    mixer = mamba_layer(
        hidden,
        r.scaled("expand", hidden, 2.0),
        r.size("state_size", default=16, high=2**20),
        _rank(r, "time_step_rank", hidden),
        r.size("conv_kernel", default=4, high=4096),
        conv_bias=r.flag("use_conv_bias", True),
        bias=r.flag("use_bias", False),
    )
    return causal_lm(
        r,
        hidden=hidden,
        vocab=r.needed("vocab_size", default=50280),
        blocks=(Block(mixer, None, rms(hidden, 1)),) * layers,
        final_norm=Norm(hidden),
        tied=True,
    )


def mamba2(r: Reader) -> Network:
    hidden = r.needed("hidden_size", default=4096)
    layers = r.layers("num_hidden_layers", default=64)
    heads, dim = r.size("num_heads", default=128, high=2**20), r.size("head_dim", default=64, high=2**20)
    if heads * dim != r.scaled("expand", hidden, 2.0):
        raise r.error("num_heads", heads, f"num_heads × head_dim ({dim}) equal to expand × hidden_size")
    groups = r.size("n_groups", default=8, high=2**20)
    check_groups(r, heads, groups, "n_groups")
    mixer = mamba2_layer(
        hidden,
        heads,
        dim,
        groups,
        r.size("state_size", default=128, high=2**20),
        r.size("conv_kernel", default=4, high=4096),
        conv_bias=r.flag("use_conv_bias", True),
        bias=r.flag("use_bias", False),
    )
    return causal_lm(
        r,
        hidden=hidden,
        vocab=r.needed("vocab_size", default=32768),
        blocks=(Block(mixer, None, rms(hidden, 1)),) * layers,
        final_norm=Norm(hidden),
        tied=False,
    )


def jamba(r: Reader) -> Network:
    """Jamba: attention in every eighth layer (without positions), Mamba in the others, a mixture in every second."""
    hidden = r.needed("hidden_size", default=4096)
    layers = r.layers("num_hidden_layers", default=32)
    state = r.size("mamba_d_state", default=16, high=2**20)
    rank = _rank(r, "mamba_dt_rank", hidden)
    recurrent = mamba_layer(
        hidden,
        r.size("mamba_expand", default=2, high=1024) * hidden,
        state,
        rank,
        r.size("mamba_d_conv", default=4, high=4096),
        conv_bias=r.flag("mamba_conv_bias", True),
        bias=r.flag("mamba_proj_bias", False),
        norms=rank + 2 * state,
    )
    heads = read_heads(r, hidden, 32, kv=8)
    full = attention(hidden, heads, window=r.optional("sliding_window"), position="none")
    attention_at = _periodic(r, "attn_layer", 8, 4)
    experts_at = _periodic(r, "expert_layer", 2, 1)
    dense, experts = gated_mlp(r, hidden, 14336), read_experts(r, "num_experts", default=16)
    moe = read_moe(r, dense, experts, read_top_k(r, 2)) if experts > 1 else dense

    def build(kind: tuple[bool, bool]) -> Block:
        return Block(full if kind[0] else recurrent, moe if kind[1] else dense, rms(hidden))

    kinds = [(i % attention_at[0] == attention_at[1], i % experts_at[0] == experts_at[1]) for i in range(layers)]
    return causal_lm(
        r,
        hidden=hidden,
        vocab=r.needed("vocab_size", default=65536),
        blocks=stack(kinds, build),
        final_norm=Norm(hidden),
        tied=False,
        max_positions=r.size("max_position_embeddings", default=262144),
    )


def _periodic(r: Reader, name: str, period: int, offset: int) -> tuple[int, int]:
    period = r.size(f"{name}_period", default=period)
    return period, r.size(f"{name}_offset", default=min(offset, period - 1), low=0, high=period - 1)


_PATTERN = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}
_LAYER_WORDS = {"linear_attention": "mamba", "full_attention": "attention"} | {w: w for w in _PATTERN.values()}


def _nemotron_layers(r: Reader) -> list[str]:
    """Kinds of layers from ``hybrid_override_pattern`` or a list; ``num_hidden_layers`` must agree where stated."""
    for key in ("layers_block_type", "layer_types"):
        words = r.words(key, tuple(_LAYER_WORDS))
        if words is not None:
            kinds = [_LAYER_WORDS[w] for w in words]
            break
    else:
        key = "hybrid_override_pattern"
        pattern = r.data.get(key)
        if not isinstance(pattern, str) or set(pattern) - set(_PATTERN):
            raise r.error(key, pattern, "a string of M (Mamba), * (attention), - (MLP) and E (experts)")
        kinds = [_PATTERN[letter] for letter in pattern]
    count = r.size("num_hidden_layers", default=max(len(kinds), 1), high=MAX_LAYERS)
    if len(kinds) != count:
        raise ScenarioError(f"{r.where}: {r.prefix}{key} has {len(kinds)} layers; expected num_hidden_layers = {count}")
    return kinds


def nemotron_h(r: Reader) -> Network:
    """Nemotron-H and Nemotron 3: each layer is one Mamba-2, attention, MLP or mixture-of-experts part and its norm."""
    hidden = r.needed("hidden_size", default=4096)
    kinds = _nemotron_layers(r)
    mlp_bias, act = r.flag("mlp_bias", False), r.word("mlp_hidden_act", default="relu2")
    if r.optional("moe_latent_size") is not None:
        raise r.error("moe_latent_size", r.data["moe_latent_size"], "null: latent experts are not supported")

    def build(kind: str) -> Block:
        if kind == "mamba":
            return Block(_nemotron_mamba(r, hidden), None, rms(hidden, 1))
        if kind == "attention":
            return Block(_nemotron_attention(r, hidden), None, rms(hidden, 1))
        if kind == "mlp":
            width = r.needed("intermediate_size", default=21504)
            return Block(None, MLP(hidden, width, False, mlp_bias, act), rms(hidden, 1))
        expert = MLP(hidden, r.needed("moe_intermediate_size", default=7688), False, False, act)
        shared = r.size("moe_shared_expert_intermediate_size", default=7688)
        count = r.size("n_shared_experts", default=1, low=0, high=1)
        experts = read_experts(r, "n_routed_experts", "num_local_experts", default=8)
        both = MLP(hidden, shared, False, mlp_bias, act) if count else None
        moe = read_moe(r, expert, experts, read_top_k(r, 2), shared=both, router_bias=True)
        return Block(None, moe, rms(hidden, 1))

    return causal_lm(
        r,
        hidden=hidden,
        vocab=r.needed("vocab_size", default=131072),
        blocks=stack(kinds, build),
        final_norm=Norm(hidden),
        tied=False,
        max_positions=r.optional("max_position_embeddings"),
    )


def _nemotron_mamba(r: Reader, hidden: int) -> StateSpace:
    heads = r.size("mamba_num_heads", default=128, high=2**20)
    groups = r.size("n_groups", "mamba_n_groups", default=8, high=2**20)
    check_groups(r, heads, groups, "n_groups")
    return mamba2_layer(
        hidden,
        heads,
        r.size("mamba_head_dim", default=64, high=2**20),
        groups,
        r.size("ssm_state_size", default=128, high=2**20),
        r.size("conv_kernel", "mamba_d_conv", default=4, high=4096),
        conv_bias=r.flag("use_conv_bias", True),
        bias=r.flag("use_bias", False),
    )


def _nemotron_attention(r: Reader, hidden: int) -> Attention:
    heads = r.needed("num_attention_heads", default=32, high=MAX_HEADS)
    kv = r.size("num_key_value_heads", default=heads if r.has("num_key_value_heads") else 8, high=MAX_HEADS)
    check_groups(r, heads, kv)
    shape = Heads(heads, kv, r.size("head_dim", "attention_head_dim", default=128, high=2**20))
    bias = r.flag("attention_bias", False)
    return attention(hidden, shape, bias=bias, out_bias=bias, window=r.optional("sliding_window"), position="none")


def qwen3_next(r: Reader) -> Network:
    """Qwen3-Next: three gated delta nets, then one gated attention; a mixture with a gated shared expert throughout."""
    hidden = r.needed("hidden_size", default=2048)
    layers = r.layers("num_hidden_layers", default=48)
    heads = read_heads(r, hidden, 16, kv=2, dim=256)
    bias = r.flag("attention_bias", False)
    k_heads = r.size("linear_num_key_heads", default=16, high=2**20)
    v_heads = r.size("linear_num_value_heads", default=32, high=2**20)
    check_groups(r, v_heads, k_heads, "linear_num_key_heads")
    recurrent = delta_layer(
        hidden,
        k_heads,
        r.size("linear_key_head_dim", default=128, high=2**20),
        v_heads,
        r.size("linear_value_head_dim", default=128, high=2**20),
        r.size("linear_conv_kernel_dim", default=4, high=4096),
    )
    full = attention(hidden, heads, bias=bias, out_bias=bias, norms=head_norms(heads), gated=True)
    expert = gated_mlp(r, hidden, 512, key="moe_intermediate_size")
    shared = gated_mlp(r, hidden, 512, key="shared_expert_intermediate_size")
    experts = read_experts(r, "num_experts", default=512)
    moe = read_moe(r, expert, experts, read_top_k(r, 10), shared=shared, shared_gate=True)
    sparse, dense = is_sparse(r), gated_mlp(r, hidden, 5632)
    interval = r.size("full_attention_interval", default=4)
    names = ("linear_attention", "full_attention")
    types = read_layer_types(r, layers, names, lambda i: names[(i + 1) % interval == 0])

    def build(kind: tuple[str, bool]) -> Block:
        return Block(recurrent if kind[0] == names[0] else full, moe if kind[1] else dense, rms(hidden))

    return causal_lm(
        r,
        hidden=hidden,
        vocab=r.needed("vocab_size", default=151936),
        blocks=stack([(types[i], sparse(i)) for i in range(layers)], build),
        final_norm=Norm(hidden),
        tied=False,
        max_positions=r.size("max_position_embeddings", default=32768),
        notes={"mtp": "a multi-token-prediction layer, where the checkpoint has one, is not counted"},
    )
