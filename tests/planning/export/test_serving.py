"""Serving plans as vLLM, SGLang and TensorRT-LLM read them."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import windtunnel as wt
from windtunnel.errors import ScenarioError
from windtunnel.planning.export import EXPORTS, export

STARTS = {"vllm": "serve", "sglang": "sglang.launch_server", "tensorrt-llm": "$MODEL"}
SERVING = sorted(STARTS)

BASE: dict[str, Any] = {
    "tp": 1, "pp": 1, "dp": 1, "ep": 1, "replicas": 1, "precision": "bf16", "kv_precision": "bf16",
    "router": "round-robin", "block_size": 16, "memory_utilization": 0.9, "chunk": 8192, "max_batch": 256,
}  # fmt: skip


def plan(tool: str, **changed: Any) -> dict[str, Any]:
    """A plan of the tool's profile."""
    scheduler = "prefill-first" if tool == "sglang" else "chunked"
    reserve = {"reserve": "output"} if tool == "tensorrt-llm" else {}
    return {**BASE, "engine": tool, "scheduler": scheduler, **reserve, **changed}


def written(checks: Any, tool: str, told: dict[str, Any], model: str, on: str, **asked: Any) -> list[Any]:
    """The commands of the launch script, checked against the tool's schema."""
    exported = export(tool, told, {"model": model, "on": on, **asked})
    found = checks.commands(exported.files["launch.sh"], STARTS[tool])
    for command in found:
        options = dict(command.options)
        if tool == "sglang":
            assert options.pop("--model-path") == "$MODEL"
        checks.options(tool, options)
        config = options.get("--kv-transfer-config")
        assert config is None or json.loads(config)["kv_connector"]
    for name, text in exported.files.items():
        if name.endswith(".yaml"):
            checks.fields(tool, yaml.safe_load(text))
    return found


def understood(tool: str, command: Any) -> dict[str, int]:
    """The layout as the tool would understand the command."""

    def number(*names: str) -> int:
        return int(next((command.options[n] for n in names if n in command.options), 1))

    if tool == "vllm":
        tp, dp = number("--tensor-parallel-size"), number("--data-parallel-size")
        ep = tp * dp if "--enable-expert-parallel" in command.options else 1
        return {"tp": tp, "pp": number("--pipeline-parallel-size"), "dp": dp, "ep": ep}
    if tool == "sglang":
        shared = number("--attn-dp-size")
        tp, dp = number("--tp-size") // shared, number("--dp-size") * shared
        return {"tp": tp, "pp": number("--pp-size"), "dp": dp, "ep": number("--ep-size")}
    return {"tp": number("--tp_size"), "pp": number("--pp_size"), "dp": 1, "ep": number("--ep_size")}


@st.composite
def plans(draw: st.DrawFn) -> tuple[str, str, dict[str, Any]]:
    """(tool, model, plan) of engines that fit 64 accelerators."""
    tool = draw(st.sampled_from(SERVING))
    searched = EXPORTS[tool].searched
    experts = draw(st.booleans())
    model = "mixtral-8x7b" if experts else "llama-3.1-8b"
    tp, pp = draw(st.sampled_from([1, 2, 4, 8])), draw(st.sampled_from([1, 2]))
    dp = draw(st.sampled_from([1, 2])) if tool != "tensorrt-llm" and tp * pp <= 8 else 1
    told = plan(
        tool, tp=tp, pp=pp, dp=dp, ep=draw(st.sampled_from([1, tp * dp])) if experts else 1,
        replicas=draw(st.integers(1, 64 // (tp * pp * dp))),
        precision=draw(st.sampled_from(["bf16", "fp16", "fp8", "w4a16", "nvfp4"])),
        kv_precision=draw(st.sampled_from(searched["kv_precision"])),
        scheduler=draw(st.sampled_from(searched["scheduler"])),
        memory_utilization=draw(st.sampled_from([0.5, 0.9, 1.0])), chunk=draw(st.sampled_from([512, 16384])),
        max_batch=draw(st.sampled_from([1, 1024])), block_size=draw(st.sampled_from([16, 64])),
    )  # fmt: skip
    if draw(st.booleans()):
        told |= {"kv_blocks": 1000, "max_model_len": 4096, "prefix_cache": True}
    return tool, model, told


@given(plans())
def test_what_is_written_is_accepted_and_says_the_plan(checks: Any, drawn: tuple[str, str, dict[str, Any]]) -> None:
    tool, model, told = drawn
    found = written(checks, tool, told, model, "64xh100-sxm")
    layout = {name: told[name] for name in ("tp", "pp", "dp", "ep")}
    assert all(understood(tool, command) == layout for command in found)
    nodes = max(1, told["tp"] * told["pp"] * told["dp"] // 8)
    # mpirun starts an engine of TensorRT-LLM from its first node.
    assert len(found) == told["replicas"] * (1 if tool == "tensorrt-llm" else nodes)


@given(plans())
def test_engines_on_a_node_share_neither_port_nor_device(checks: Any, drawn: tuple[str, str, dict[str, Any]]) -> None:
    tool, model, told = drawn
    text = export(tool, told, {"model": model, "on": "64xh100-sxm"}).files["launch.sh"]
    for part in text.split(";;"):
        found = checks.commands(part, STARTS[tool])
        ports = [c.options["--port"] for c in found]
        assert len(set(ports)) == len(ports)
        words = [w for c in found for w in c.program if w.startswith("CUDA_VISIBLE_DEVICES=")]
        devices = [d for w in words for d in w.partition("=")[2].split(",")]
        assert len(set(devices)) == len(devices)
        assert set(devices) <= {str(i) for i in range(8)}
        assert len(words) in (0, len(found))


@pytest.mark.parametrize("tool", SERVING)
def test_an_engine_over_nodes_is_told_where_they_are(tool: str, checks: Any) -> None:
    told = plan(tool, tp=8, pp=2, replicas=2)
    found = written(checks, tool, told, "llama-3.1-70b", "32xh100-sxm")
    if tool == "tensorrt-llm":
        hosts = [c.program[c.program.index("--host") + 1] for c in found]
        assert hosts == ["${NODES[0]}:8,${NODES[1]}:8", "${NODES[2]}:8,${NODES[3]}:8"]
        assert all(c.program[c.program.index("-n") + 1] == "16" for c in found)
        return
    assert [c.options["--node-rank"] for c in found] == ["0", "1", "0", "1"]
    assert {c.options["--nnodes"] for c in found} == {"2"}
    heads = [c.options["--master-addr" if tool == "vllm" else "--dist-init-addr"] for c in found]
    assert [h.partition(":")[0] for h in heads] == ["${NODES[0]}"] * 2 + ["${NODES[2]}"] * 2


def test_data_parallel_ranks_share_out_over_nodes(checks: Any) -> None:
    found = written(checks, "vllm", plan("vllm", dp=16, ep=16), "deepseek-v3", "16xh200-sxm")
    assert [c.options["--data-parallel-size-local"] for c in found] == ["8", "8"]
    assert [c.options.get("--data-parallel-start-rank") for c in found] == [None, "8"]
    assert ["--headless" in c.options for c in found] == [False, True]


def test_sglang_is_told_of_all_attention_ranks_together(checks: Any) -> None:
    (command,) = written(checks, "sglang", plan("sglang", tp=2, dp=4, ep=8), "mixtral-8x7b", "8xh100-sxm")
    o = command.options
    assert (o["--tp-size"], o["--attn-dp-size"], o["--ep-size"]) == ("8", "4", "8")
    assert (int(o["--chunked-prefill-size"]), int(o["--max-running-requests"])) == (4 * 8192, 4 * 256)


def test_tensorrt_llm_copies_attention_over_ranks(checks: Any) -> None:
    told = plan("tensorrt-llm", dp=8, ep=8)
    exported = export("tensorrt-llm", told, {"model": "mixtral-8x7b", "on": "8xh100-sxm"})
    assert yaml.safe_load(exported.files["engine.yaml"])["enable_attention_dp"] is True
    (command,) = checks.commands(exported.files["launch.sh"], "$MODEL")
    assert (command.options["--tp_size"], command.options["--ep_size"]) == ("8", "8")


@pytest.mark.parametrize("tool", SERVING)
def test_an_answer_of_simulate_is_exported(tool: str, checks: Any) -> None:
    asked = {"model": "llama-3.1-70b", "on": "16xh100-sxm", "chunk": 4096}
    answer = wt.simulate(
        **asked, engine=tool, prefill="2x(tp=4,max-batch=8)", decode="1x(tp=8)", kv_precision="fp8", requests=5,
        rate=2.0, input_length="200", output_length="20",
    )  # fmt: skip
    found = written(checks, tool, answer.plan, **asked)
    assert [understood(tool, c)["tp"] for c in found] == [4, 4, 8]
    most = [c.options[{"vllm": "--max-num-seqs", "sglang": "--max-running-requests"}.get(tool, "--max_batch_size")]
            for c in found]  # fmt: skip
    assert most[:2] == ["8", "8"]
    assert int(most[2]) > 8
    chunk = {"vllm": "--max-num-batched-tokens", "sglang": "--chunked-prefill-size"}.get(tool, "--max_num_tokens")
    assert {c.options[chunk] for c in found} == {"4096"}


@pytest.mark.parametrize("tool", SERVING)
def test_an_answer_of_infer_is_exported(tool: str, checks: Any) -> None:
    asked = {"model": "llama-3.1-70b", "on": "8xh100-sxm"}
    answer = wt.infer(**asked, engine=tool, tp=4, batch=8, input=200, output=20, replicas=2)
    found = written(checks, tool, answer.plan, **asked)
    assert [understood(tool, c)["tp"] for c in found] == [4, 4]


def test_disaggregated_engines_say_their_part(checks: Any) -> None:
    pools = {"prefill": "1x(tp=4)", "decode": "1x(tp=4)", "tp": 4, "replicas": None}
    first, second = written(checks, "vllm", plan("vllm", **pools), "llama-3.1-8b", "8xh100-sxm")
    roles = [json.loads(c.options["--kv-transfer-config"])["kv_role"] for c in (first, second)]
    assert roles == ["kv_producer", "kv_consumer"]
    sides = [w for c in (first, second) for w in c.program if w.startswith("VLLM_NIXL_SIDE_CHANNEL_PORT")]
    assert len(set(sides)) == 2
    found = written(checks, "sglang", plan("sglang", **pools), "llama-3.1-8b", "8xh100-sxm")
    assert [c.options["--disaggregation-mode"] for c in found] == ["prefill", "decode"]


def test_the_server_in_front_of_tensorrt_llm_is_told_of_both_pools(checks: Any) -> None:
    told = plan("tensorrt-llm", prefill="2x(tp=2)", decode="1x(tp=4)", tp=2, replicas=None)
    exported = export("tensorrt-llm", told, {"model": "llama-3.1-8b", "on": "8xh100-sxm"})
    text = exported.files["disaggregated.sh"]
    fields = yaml.safe_load(text[text.index("hostname:") : text.index("END\ntrtllm-serve")])
    checks.fields("tensorrt-llm", fields)
    assert fields["context_servers"] == {"num_instances": 2, "urls": ["${NODES[0]}:8000", "${NODES[0]}:8001"]}
    assert fields["generation_servers"]["urls"] == ["${NODES[0]}:8002"]


@pytest.mark.parametrize(("tool", "changed", "named", "accepted"), [
    ("vllm", {"scheduler": "orca"}, "scheduler=orca", "chunked"),
    ("vllm", {"engine": "sglang"}, "engine=sglang", "vllm"),
    ("vllm", {"tp": 2, "dp": 4, "ep": 2}, "ep=2, tp=2, dp=4", "all tp x dp ranks"),
    ("vllm", {"preemption": "swap"}, "preemption=swap", "recompute"),
    ("vllm", {"kv_precision": "int8"}, "kv_precision=int8", "fp8"),
    ("vllm", {"tp": 8, "pp": 2, "dp": 2}, "dp=2", "at most 8"),
    ("vllm", {"cache_tiers": "host:64GB,nvme:1TB"}, "cache_tiers=", "host:SIZE"),
    ("sglang", {"cache_tiers": "host:64GB"}, "cache_tiers=", "none"),
    ("sglang", {"reserve": "output"}, "reserve=output", "prompt"),
    ("tensorrt-llm", {"scheduler": "prefill-first"}, "scheduler=prefill-first", "chunked"),
    ("tensorrt-llm", {"tp": 2, "dp": 2}, "tp=2, dp=2", "tp=1 or dp=1"),
    ("megatron", {}, "it trains", "serves"),
])  # fmt: skip
def test_what_a_tool_cannot_run_is_refused(tool: str, changed: dict[str, Any], named: str, accepted: str) -> None:
    told = plan(tool if tool in SERVING else "vllm", **changed)
    with pytest.raises(ScenarioError) as raised:
        export(tool, told, {"model": "mixtral-8x7b", "on": "64xh100-sxm"})
    message = str(raised.value)
    assert named in message
    assert accepted in message
    assert "\n" not in message


def test_weights_in_fewer_bits_are_made_or_asked_for(checks: Any) -> None:
    asked = {"model": "llama-3.1-8b", "on": "8xh100-sxm"}
    made = written(checks, "vllm", plan("vllm", precision="fp8"), **asked)[0].options
    assert made["--quantization"] == "fp8"
    assert "--dtype" not in made
    stored = export("vllm", plan("vllm", precision="w4a16"), asked)
    assert "--quantization" not in stored.files["launch.sh"]
    assert any("w4a16" in note for note in stored.notes)
    own = export("vllm", plan("vllm", precision="fp8", ep=8, tp=8), {"model": "deepseek-v3", "on": "8xh200-sxm"})
    assert "--quantization" not in own.files["launch.sh"]
    assert not own.notes


def test_a_host_tier_takes_its_size(checks: Any) -> None:
    asked = {"model": "llama-3.1-8b", "on": "8xh100-sxm"}
    (command,) = written(checks, "vllm", plan("vllm", tp=2, cache_tiers="host:64GiB"), **asked)
    assert command.options["--kv-offloading-size"] == "64.0"
    exported = export("tensorrt-llm", plan("tensorrt-llm", tp=2, cache_tiers="host:64GiB"), asked)
    assert yaml.safe_load(exported.files["engine.yaml"])["kv_cache_config"]["host_cache_size"] == 2**35


@pytest.mark.parametrize("tool", SERVING)
def test_unlike_engines_stand_side_by_side(tool: str, checks: Any) -> None:
    told = plan(tool, fleet="2x(tp=4)+1x(tp=8,max-batch=64)", tp=4, replicas=None)
    found = written(checks, tool, told, "llama-3.1-70b", "16xh100-sxm")
    assert [understood(tool, command)["tp"] for command in found] == [4, 4, 8]
    most = {"vllm": "--max-num-seqs", "sglang": "--max-running-requests"}.get(tool, "--max_batch_size")
    assert [command.options[most] for command in found] == ["256", "256", "64"]


def test_what_is_beside_the_engines_is_noted() -> None:
    told = plan("vllm", replicas=2, autoscale="min=1,max=4", router="least-loaded")
    notes = export("vllm", told, {"model": "llama-3.1-8b", "on": "8xh100-sxm"}).notes
    assert any("least-loaded" in note for note in notes)
    assert any("min=1,max=4" in note for note in notes)
