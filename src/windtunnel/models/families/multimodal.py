"""Models whose configuration wraps a language model and a vision tower: Llama 4, Gemma 3, and others by their text."""

from __future__ import annotations

from dataclasses import replace

from windtunnel.models.families.common import (
    Build,
    attention,
    causal_lm,
    divided,
    read_experts,
    read_heads,
    read_layer_types,
    read_moe,
    rms,
    stack,
)
from windtunnel.models.families.llama import gated_mlp, gemma3_text
from windtunnel.models.families.moe import read_top_k
from windtunnel.models.network import MLP, Block, Network, Norm
from windtunnel.models.reader import MAX_LAYERS, Reader


def text_only(r: Reader, build: Build) -> Network:
    """The language model under ``text_config``, with a note that nothing else is counted."""
    network = build(r.sub("text_config"))
    return replace(network, notes={**network.notes, "scope": "text model only (text_config); no vision or audio tower"})


def gemma3(r: Reader) -> Network:
    return text_only(r, gemma3_text) if r.has("text_config") else gemma3_text(r)


def llama4_text(r: Reader) -> Network:
    """Llama 4's language model: chunked layers with rotary positions, every fourth one full and without positions.

    A mixture layer is top-k routed experts plus one shared expert of the same size; the dense layers between them (in
    Maverick) are ``intermediate_size_mlp`` wide.
    """
    hidden = r.needed("hidden_size", default=5120)
    layers = r.layers("num_hidden_layers", default=48)
    heads = read_heads(r, hidden, 40, kv=8, dim=128)
    chunk = r.optional("attention_chunk_size") if r.has("attention_chunk_size") else 8192
    expert = gated_mlp(r, hidden, 8192)
    dense = MLP(hidden, r.size("intermediate_size_mlp", default=16384), True, False, expert.activation)
    experts = read_experts(r, "num_local_experts", default=16)
    moe = read_moe(r, expert, experts, read_top_k(r, 1), shared=expert)
    step = r.size("interleave_moe_layer_step", default=1)
    stated = r.numbers("moe_layers", 0, MAX_LAYERS)
    sparse = frozenset(range(step - 1, layers, step) if stated is None else stated)
    interval = r.size("no_rope_layer_interval", default=4)
    ropes = r.numbers("no_rope_layers", 0, 1) or [int((i + 1) % interval != 0) for i in range(layers)]
    if len(ropes) != layers:
        raise r.error("no_rope_layers", ropes, f"{layers} entries, one a layer")
    accepted = ("full_attention", "chunked_attention")
    types = read_layer_types(r, layers, accepted, lambda i: accepted[ropes[i]])

    def build(kind: tuple[str, int, bool]) -> Block:
        attention_type, rope, is_moe = kind
        chunked = attention_type == "chunked_attention" and chunk is not None
        mixer = attention(
            hidden,
            heads,
            window=chunk if chunked else None,
            chunked=chunked,
            position="rope" if rope else "none",
        )
        return Block(mixer, moe if is_moe else dense, rms(hidden))

    return causal_lm(
        r,
        hidden=hidden,
        vocab=r.needed("vocab_size", default=202048),
        blocks=stack([(types[i], ropes[i], i in sparse) for i in range(layers)], build),
        final_norm=Norm(hidden),
        tied=False,
        max_positions=r.size("max_position_embeddings", default=131072),
    )


def llama4(r: Reader) -> Network:
    """Llama 4 with its vision tower and projector, which count as parameters and do no work for a text token."""
    if not r.has("text_config"):
        return llama4_text(r)
    if r.data.get("vision_config") is None:
        return text_only(r, llama4_text)
    network = llama4_text(r.sub("text_config"))
    tower = _llama4_vision(r.sub("vision_config"), network.hidden_size)
    note = f"vision tower and projector ({tower:,} parameters) are in the total and do no work for a text token"
    return replace(
        network,
        other_parameters=network.other_parameters + tower,
        notes={**network.notes, "vision": note},
    )


def _llama4_vision(v: Reader, text_hidden: int) -> int:
    """Parameters of the vision tower: patch projection, class and position vectors, layers, adapter, projector."""
    hidden = v.size("hidden_size", default=768)
    layers = v.size("num_hidden_layers", default=34, high=MAX_LAYERS)
    divided(v, "num_attention_heads", hidden, v.size("num_attention_heads", default=16))
    width = v.size("intermediate_size", default=5632)
    patch = v.size("patch_size", default=14, high=65536)
    patches = (v.size("image_size", default=448, high=2**20) // patch) ** 2 + 1
    block = 4 * (hidden + 1) * hidden + MLP(hidden, width, False, True).parameters + 4 * hidden
    stem = v.size("num_channels", default=3, high=65536) * patch * patch * hidden + (1 + patches) * hidden + 4 * hidden
    adapter = width * v.size("projector_input_dim", default=4096) + v.size("projector_output_dim", default=4096) ** 2
    projector = v.size("vision_output_dim", default=7680) * text_hidden
    return layers * block + stem + adapter + projector
