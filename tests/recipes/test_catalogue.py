"""The recipes for a device, a model and a model type work as they are written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

Follow = Callable[[str], Any]

DEVICE = """
name: lab-1
vendor: Lab
family: bench
node: lab-node
peak_tflops:
  fp32: {value: 50, source: "a test"}
  bf16: {value: 800, source: "a test"}
vector_tflops: {value: 50, source: "a test"}
hbm_gibyte: {value: 60, source: "a test"}
hbm_gbyte_per_s: {value: 2000, source: "a test"}
l2_mibyte: {value: 40, source: "a test"}
l2_gbyte_per_s: {value: 6000, source: "a test"}
compute_units: {value: 100, source: "a test"}
kernel_gap_us: {value: 1, source: "a test"}
tdp_watt: {value: 500, source: "a test"}
idle_watt: {value: 50, source: "a test"}
price_usd_per_hour: {value: 1.5, source: "a test", date: "today"}
"""
NODE = """
name: lab-node
description: "Four by one switch"
size: 4
fabric: lab-net
levels:
  - {name: link, domain: 4, topology: switch, in_network_reduction: false,
     gbyte_per_s: {value: 300, source: "a test"}, latency_us: {value: 1, source: "a test"}}
nics_per_node: {value: 1, source: "a test"}
nic_gbit_per_s: {value: 200, source: "a test"}
pcie_gbyte_per_s: {value: 32, source: "a test"}
dram_gbyte: {value: 512, source: "a test"}
dram_gbyte_per_s: {value: 300, source: "a test"}
nvme_gbyte: {value: 0, source: "a test"}
nvme_gbyte_per_s: {value: 5, source: "a test"}
node_power_watt: {value: 600, source: "a test"}
host_relative_speed: {value: 1, source: "a test"}
"""
FABRIC = """
name: lab-net
description: "One switch"
levels:
  - {name: leaf, nodes: all, topology: switch, in_network_reduction: false,
     oversubscription: {value: 2, source: "a test"}, latency_us: {value: 4, source: "a test"}}
"""


def test_a_device(follow: Follow) -> None:
    shop = follow("A device")
    catalogue, constants = "src/windtunnel/hardware/catalogue", "src/windtunnel/cost/calibrations"
    shop.create(f"{catalogue}/accelerators/lab-1.yaml", DEVICE)
    shop.create(f"{catalogue}/nodes/lab-node.yaml", NODE)
    shop.create(f"{catalogue}/fabrics/lab-net.yaml", FABRIC)
    shop.append(f"{catalogue}/aliases.yaml", '"bench-one": lab-1\n')
    shop.change("src/windtunnel/hardware/schema.py", '"cpu",\n', '"cpu", "bench",\n')
    shop.create(f"{constants}/bench.yaml", "family: bench\nparent: ampere\n")
    shop.change(f"{constants}/collectives.yaml", "  same_as:\n", "  same_as:\n    bench: ampere\n")
    shop.append("tests/hardware/data/published_figures.csv", "lab-1,bf16_tflops,812,a second test\n")
    with shop.opened() as wt:
        tests = shop.load("tests/hardware/test_catalogue.py")
        tests.test_accelerator_is_complete_and_sourced("lab-1")
        tests.test_node_and_its_fabric("lab-node")
        tests.test_agrees_with_published_figures("lab-1")

        request: dict[str, Any] = {"on": "8xBench One", "tp": 2, "global_batch": 16, "seq": 2048, "micro_batch": 2}
        step = wt.train("llama-3.2-1b", **request)
        assert step.memory_bytes["capacity"] == 60 * 2**30
        assert step.cost_usd_per_step == pytest.approx(1.5 * 8 * step.step_time_s / 3600)
        assert not step.calibrated
        assert any("lab-1 is uncalibrated" in w and "bench family" in w for w in step.warnings)
        assert step.elasticity["scale_out"] > 0  # eight of them are two nodes
        for override in ({"oversubscription": 1}, {"hbm_gbyte_per_s": 4000}, {"bf16_tflops": 1600}):
            assert wt.train("llama-3.2-1b", **request, set=override).step_time_s < step.step_time_s
        # A token needs all weights once: never faster than the memory of the file, and not far from it.
        batch = wt.infer("llama-3.1-8b", on="1xlab-1", batch=1, input=64, output=64)
        least = batch.memory_bytes["weights"] / 2000e9
        assert least < batch.tpot_s < 2 * least

        from windtunnel.cost import load_calibration
        from windtunnel.cost.collectives import load_collective_constants
        from windtunnel.hardware import load_accelerator

        own = load_calibration(load_accelerator("lab-1"))
        parent = load_calibration(load_accelerator("a40"))  # of the parent family, without constants of its own
        assert own.gemm == parent.gemm
        assert load_collective_constants("lab-1", "bench") == load_collective_constants("", "ampere")


SMALL = {
    "hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2,
    "intermediate_size": 1024, "vocab_size": 1000, "max_position_embeddings": 4096, "tie_word_embeddings": False,
}  # fmt: skip
LAYERS = 4 * (2 * 256 * 256 + 2 * 256 * 64 + 3 * 256 * 1024 + 2 * 256)
SMALL_PARAMETERS = 2 * 1000 * 256 + LAYERS + 256


def test_a_model(follow: Follow) -> None:
    shop = follow("A model")
    folder = "src/windtunnel/models/catalogue"
    shop.create(f"{folder}/lab-mini.json", json.dumps({"model_type": "llama", **SMALL}))
    entry = {"config_source": "a test", "published": SMALL_PARAMETERS, "exact": True, "count_source": "a test"}
    shop.append(f"{folder}/catalogue.yaml", yaml.safe_dump({"lab-mini": {**entry, "aliases": ["lab/Mini-Instruct"]}}))
    counts = ",".join([str(SMALL_PARAMETERS)] * 3)
    shop.append("tests/models/data/parameter_counts.csv", f"lab-mini,{counts},exact,a test\n")
    with shop.opened() as wt:
        tests = shop.load("tests/models/test_parameter_counts.py")
        row = next(r for r in tests.COUNTS if r["name"] == "lab-mini")
        tests.test_catalogue_model_has_the_reference_count(row)
        tests.test_published_total_is_met_or_explained("lab-mini")

        step = wt.train("lab/Mini-Instruct", on="1xa100-80gb-sxm", seq=1024, zero=0)
        assert step.model == "lab-mini"
        assert step.memory_bytes["weights"] == 2 * SMALL_PARAMETERS
        batch = wt.infer("mini-instruct", on="1xa100-80gb-sxm", batch=2, input=64, output=64)
        assert batch.memory_bytes["kv_cache"] == 2 * 128 * 4 * (2 * 2 * 32) * 2


# A gated short convolution in the place of attention.
LAYER = '''

@dataclass(frozen=True, slots=True)
class Convolution:
    """A projection to a value and two gates, a filter of ``width`` tokens a channel, a projection back."""

    hidden: int
    width: int

    @property
    def kv_elements_per_token(self) -> int:
        return 0

    @property
    def parameters(self) -> int:
        return (4 * self.hidden + self.width) * self.hidden


Mixer = Attention | LatentAttention | StateSpace | Convolution
'''
READER = '''

def lab_conv(r: Reader) -> Network:
    """Convolutions, with an attention layer wherever ``full_attn_idxs`` says so."""
    size = r.needed("hidden_size", default=1024)
    count = r.layers("num_hidden_layers", default=16)
    heads, width = read_heads(r, size, 16), r.size("conv_L_cache", default=3)
    full = set(r.numbers("full_attn_idxs", 0, count) or ())

    def block(attends: bool) -> Block:
        mixer = attention(size, heads) if attends else Convolution(size, width)
        return Block(mixer, gated_mlp(r, size, 4096), rms(size))

    return causal_lm(
        r,
        hidden=size,
        vocab=r.needed("vocab_size", default=65536),
        blocks=stack((i in full for i in range(count)), block),
        final_norm=Norm(size),
        tied=False,
        max_positions=r.size("max_position_embeddings", default=4096),
    )
'''
LAYER_TREE = '''"""A gated short convolution."""

from __future__ import annotations

from windtunnel.models.network import Convolution
from windtunnel.ops.tree import Node, seq
from windtunnel.ops.values import Value
from windtunnel.parallel.communication import enter, leave
from windtunnel.parallel.linear import linear, unary
from windtunnel.parallel.style import Style


def convolution_layer(m: Convolution, tokens: Value, style: Style) -> Node:
    own = m.hidden / style.layout.tp
    wide = linear("conv.in", tokens, 3 * own, m.hidden, style)
    mix = unary("conv.filter", "elementwise", tokens * own, style, saved=3 * style.act, parameters=m.width * own)
    back = linear("conv.out", tokens, m.hidden, own, style)
    return seq(enter(tokens, m.hidden, style), wide, mix, back, leave(tokens, m.hidden, style), name="conv")
'''
CONVOLUTIONAL = {"model_type": "lab_conv", **SMALL, "num_hidden_layers": 3, "conv_L_cache": 5, "full_attn_idxs": [1]}
CONVOLUTIONAL_PARAMETERS = (
    2 * (4 * 256 * 256 + 5 * 256) + 2 * 256 * 256 + 2 * 256 * 64 + 3 * (3 * 256 * 1024 + 512) + 2 * 1000 * 256 + 256
)


def test_a_model_type(follow: Follow, tmp_path: Path) -> None:
    shop = follow("A model type")
    models, families = "src/windtunnel/models", "src/windtunnel/models/families"
    shop.append(f"{families}/llama.py", READER)
    shop.change(f"{families}/llama.py", "import MLP, Block,", "import MLP, Block, Convolution,")
    shop.change(f"{families}/registry.py", '    "llama": llama.llama,\n',
                '    "llama": llama.llama,\n    "lab_conv": llama.lab_conv,\n')  # fmt: skip
    # A kind of layer that is not there yet.
    shop.change(f"{models}/network.py", "\n\nMixer = Attention | LatentAttention | StateSpace\n", LAYER)
    shop.change(f"{models}/flops.py", "    if isinstance(mixer, StateSpace):\n",
                "    if isinstance(mixer, Convolution):\n        return 4 * mixer.hidden**2\n"
                "    if isinstance(mixer, StateSpace):\n")  # fmt: skip
    shop.change(f"{models}/flops.py", "import MLP, Attention, Block,", "import MLP, Attention, Block, Convolution,")
    shop.create("src/windtunnel/parallel/convolution.py", LAYER_TREE)
    shop.change("src/windtunnel/parallel/block.py", "    if block.cross is not None:\n",
                "    if isinstance(block.mixer, Convolution):\n"
                "        parts.append(convolution_layer(block.mixer, batch.tokens, style))\n"
                "    if block.cross is not None:\n")  # fmt: skip
    shop.change("src/windtunnel/parallel/block.py", "from windtunnel.parallel.linear import",
                "from windtunnel.models.network import Convolution\n"
                "from windtunnel.parallel.convolution import convolution_layer\n"
                "from windtunnel.parallel.linear import")  # fmt: skip
    shop.change("src/windtunnel/scenario/checks.py", "            if isinstance(mixer, StateSpace):\n",
                "            if type(mixer).__name__ == 'Convolution':\n"
                "                divides(mixer.hidden, '{} channels')\n"
                "            if isinstance(mixer, StateSpace):\n")  # fmt: skip
    shop.change("src/windtunnel/serving/memory.py", "    return total * plan.context_copies",
                "        if type(m).__name__ == 'Convolution':\n"
                "            total = total + 2.0 * (m.width - 1) * m.hidden / tp\n"
                "    return total * plan.context_copies")  # fmt: skip
    counted = {"reference": "by hand", "parameters": CONVOLUTIONAL_PARAMETERS, "config": CONVOLUTIONAL}
    shop.append("tests/models/data/reference_counts.jsonl", json.dumps(counted) + "\n")
    config = tmp_path / "config.json"
    config.write_text(json.dumps(CONVOLUTIONAL))
    with shop.opened() as wt:
        tests = shop.load("tests/models/test_parameter_counts.py")
        tests.test_small_variants_have_the_counts_of_the_reference_class("lab_conv")
        tests.test_every_model_type_is_counted_against_something()
        assert "lab_conv" in shop.load("tests/models/test_fuzz.py").CONFIGS

        request: dict[str, Any] = {"on": "2xa100-80gb-sxm", "seq": 512, "micro_batch": 2, "global_batch": 8, "zero": 0}
        step = wt.train(config, **request, dp=2)
        assert step.memory_bytes["weights"] == 2 * CONVOLUTIONAL_PARAMETERS
        assert "conv.filter" in step.explain()
        halves = wt.train(config, **request, tp=2)
        assert halves.time_s["tp_comm"] > 0
        # Three times the forward pass, and attention's backward pass of five products instead of four.
        from windtunnel.models import load_network
        from windtunnel.models.flops import model_flops_per_token

        done = step.tree.totals().flops["bf16"] / (4 * 512)
        assert done == pytest.approx(model_flops_per_token(load_network(str(config)), 512, "causal"), rel=0.03)
        batch = wt.infer(config, on="1xa100-80gb-sxm", batch=1, input=16, output=16)
        assert batch.memory_bytes["kv_cache"] == 32 * (2 * 2 * 32) * 2 + 2 * 2 * 4 * 256
        with pytest.raises(wt.ScenarioError, match="256 channels"):
            wt.train(config, **{**request, "on": "3xa100-80gb-sxm"}, tp=3)
