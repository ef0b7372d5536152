"""A trace that PyTorch itself records here, beside a prediction of the same block."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from windtunnel import engine
from windtunnel.hardware import parse_cluster
from windtunnel.scenario.options import TrainOptions, read_options
from windtunnel.validation.profile import against, read_trace

WIDTH, HIDDEN, VOCABULARY, HEADS, LAYERS, SEQ = 64, 192, 256, 2, 2, 32


def record(path: Path) -> None:
    """Four training steps of a small llama-like network, the first of them as the profiler's own warm-up."""
    torch: Any = pytest.importorskip("torch", reason="PyTorch is not installed: no trace can be recorded")
    functional, nn = torch.nn.functional, torch.nn
    nets = {
        "embedding": nn.Embedding(VOCABULARY, WIDTH), "head": nn.Linear(WIDTH, VOCABULARY, bias=False),
        "final": nn.RMSNorm(WIDTH),
    }  # fmt: skip
    for i in range(LAYERS):
        for name, n, k in (("qkv", 3 * WIDTH, WIDTH), ("out", WIDTH, WIDTH), ("up", 2 * HIDDEN, WIDTH),
                           ("down", WIDTH, HIDDEN)):  # fmt: skip
            nets[f"{name}{i}"] = nn.Linear(k, n, bias=False)
        nets[f"before{i}"], nets[f"between{i}"] = nn.RMSNorm(WIDTH), nn.RMSNorm(WIDTH)
    optimizer = torch.optim.AdamW([p for net in nets.values() for p in net.parameters()])
    tokens = torch.randint(0, VOCABULARY, (1, SEQ))

    def step() -> None:
        x = nets["embedding"](tokens)
        for i in range(LAYERS):
            q, k, v = nets[f"qkv{i}"](nets[f"before{i}"](x)).view(1, SEQ, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
            seen = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + nets[f"out{i}"](seen.transpose(1, 2).reshape(1, SEQ, WIDTH))
            gate, up = nets[f"up{i}"](nets[f"between{i}"](x)).chunk(2, -1)
            x = x + nets[f"down{i}"](functional.silu(gate) * up)
        loss = functional.cross_entropy(nets["head"](nets["final"](x))[0], tokens[0])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    profiler = torch.profiler
    with profiler.profile(
        activities=[profiler.ProfilerActivity.CPU], record_shapes=True,
        schedule=profiler.schedule(wait=0, warmup=1, active=3),
        on_trace_ready=lambda p: p.export_chrome_trace(str(path)),
    ) as recording:  # fmt: skip
        for _ in range(4):
            step()
            recording.step()


def test_shapes_of_a_recorded_step_are_those_of_the_plan(tmp_path: Path) -> None:
    record(tmp_path / "t.json")
    config = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": WIDTH, "vocab_size": VOCABULARY,
        "intermediate_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "hidden_act": "silu",
        "num_key_value_heads": HEADS, "tie_word_embeddings": False, "max_position_embeddings": 4096,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    on = "1xxeon-8480"
    given = {"model": str(tmp_path / "config.json"), "on": on, "seq": SEQ, "micro_batch": 1, "global_batch": 1,
             "precision": "fp32", "engine": "fsdp"}  # fmt: skip
    options = read_options(TrainOptions, given)
    assert isinstance(options, TrainOptions)
    trace = read_trace(tmp_path / "t.json")
    found = against(trace, engine.train(options).tree, parse_cluster(on))
    assert (found["step"]["trace_of"], found["step"]["steps"], found["step"]["dropped_steps"]) == ("cpu", 2, 1)
    # Every product, forward and backward, is there as often as the plan has it.
    assert len(found["gemms"]) >= 9
    for row in found["gemms"]:
        assert row["measured_runs"] == pytest.approx(row["predicted_runs"]), row
        assert row["ratio"] > 0
    kinds = {row["kind"]: row for row in found["kinds"]}
    for kind in ("gemm", "attention", "attention_backward", "norm", "activation", "optimizer", "cross_entropy"):
        assert kinds[kind]["measured_s"] > 0, kind
        assert kinds[kind]["predicted_s"] > 0, kind
    assert kinds["gemm"]["measured_kernels"] == 3 * (4 * LAYERS + 1)
    whole = sum(row["measured_s"] for row in found["kinds"])
    assert sum(row["seconds"] for row in found["other"]) < 0.02 * whole
    # A thread runs one operator at a time: own times add up to what it was busy with.
    assert whole == pytest.approx(found["step"]["measured"]["busy_s"], rel=1e-3)
