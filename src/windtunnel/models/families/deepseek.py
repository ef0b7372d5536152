"""DeepSeek-V2 and V3 (and Kimi K2, which is V3's architecture): latent attention and fine-grained experts.

Sources: arXiv 2405.04434 section 2 and arXiv 2412.19437 section 2; class defaults of transformers 4.57.
"""

from __future__ import annotations

from windtunnel.models.families.common import MAX_HEADS, causal_lm, read_experts, read_moe, rms, stack
from windtunnel.models.families.llama import gated_mlp
from windtunnel.models.families.moe import mtp_note, read_top_k
from windtunnel.models.network import MLP, Block, LatentAttention, MoE, Network, Norm
from windtunnel.models.reader import Reader


def _latent_attention(r: Reader, hidden: int, heads: int) -> LatentAttention:
    """MLA as stated; a null ``q_lora_rank`` projects queries directly, a missing one is the class default 1,536."""
    q_rank = r.optional("q_lora_rank") if r.has("q_lora_rank") else 1536
    return LatentAttention(
        hidden=hidden,
        heads=heads,
        q_lora_rank=q_rank,
        kv_lora_rank=r.size("kv_lora_rank", default=512),
        nope_head_dim=r.size("qk_nope_head_dim", default=128, high=2**20),
        rope_head_dim=r.size("qk_rope_head_dim", default=64, high=2**20),
        v_head_dim=r.size("v_head_dim", default=128, high=2**20),
        bias=r.flag("attention_bias", False),
    )


def _experts(
    r: Reader, hidden: int, *, experts: int, shared: int, top_k: int, width: int, correction: bool
) -> MoE | None:
    """The mixture, whose shared experts run as one wider MLP; None where ``n_routed_experts`` is null."""
    if r.has("n_routed_experts") and r.optional("n_routed_experts") is None:
        return None
    expert = gated_mlp(r, hidden, width, key="moe_intermediate_size")
    count = r.size("n_shared_experts", default=0 if r.has("n_shared_experts") else shared, low=0, high=1024)
    both = MLP(hidden, expert.intermediate * count, True, False, expert.activation) if count else None
    routed = read_experts(r, "n_routed_experts", default=experts)
    return read_moe(r, expert, routed, read_top_k(r, top_k), shared=both, router_bias=correction)


def _deepseek(
    r: Reader, mixer: LatentAttention, moe: MoE | None, *, layers: int, vocab: int, width: int, first: int
) -> Network:
    hidden = mixer.hidden
    every = r.size("moe_layer_freq", default=1)
    first = r.size("first_k_dense_replace", default=first, low=0)
    dense = gated_mlp(r, hidden, width)
    count = r.layers("num_hidden_layers", default=layers)
    sparse = (moe is not None and i >= first and i % every == 0 for i in range(count))
    return causal_lm(
        r,
        hidden=hidden,
        vocab=r.needed("vocab_size", default=vocab),
        blocks=stack(sparse, lambda s: Block(mixer, moe if s else dense, rms(hidden))),
        final_norm=Norm(hidden),
        tied=False,
        max_positions=r.optional("max_position_embeddings"),
        notes=mtp_note(r),
    )


def deepseek_v2(r: Reader) -> Network:
    hidden = r.needed("hidden_size", default=4096)
    mixer = _latent_attention(r, hidden, r.needed("num_attention_heads", default=32, high=MAX_HEADS))
    moe = _experts(r, hidden, experts=64, shared=2, top_k=6, width=1407, correction=False)
    return _deepseek(r, mixer, moe, layers=32, vocab=32000, width=11008, first=0)


def deepseek_v3(r: Reader) -> Network:
    """DeepSeek-V3: the router's correction bias (one term an expert) is counted, multi-token prediction is not."""
    hidden = r.needed("hidden_size", default=7168)
    mixer = _latent_attention(r, hidden, r.needed("num_attention_heads", default=128, high=MAX_HEADS))
    moe = _experts(r, hidden, experts=256, shared=1, top_k=8, width=2048, correction=True)
    return _deepseek(r, mixer, moe, layers=61, vocab=129280, width=18432, first=3)
