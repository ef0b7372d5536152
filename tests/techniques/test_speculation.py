"""Speculative decoding, SmartSpec and Medusa: neutral, ideal, and within physics."""

from __future__ import annotations

import pytest

from windtunnel.errors import ScenarioError
from windtunnel.scenario.registry import technique_class
from windtunnel.serving.compiled.build import available
from windtunnel.studies.ask import infer, simulate

ASKED = {"model": "llama-3.1-8b", "on": "1xa100-80gb-sxm", "input": 300, "output": 100, "batch": 4}
SERVED = {
    "model": "llama-3.1-8b", "on": "1xa100-80gb-sxm", "rate": 4.0, "requests": 60, "input_length": "300",
    "output_length": "50",
}  # fmt: skip
NAMES = ("speculative-decoding", "smartspec", "medusa")


@pytest.mark.parametrize("name", NAMES)
def test_neutral_parameters_change_nothing(name: str) -> None:
    neutral = technique_class(name).about.neutral
    text = name + ":" + ",".join(f"{k}={v}" for k, v in neutral.items())
    one, other = infer(**ASKED), infer(**ASKED, techniques=[text])
    assert (one.ttft_s, one.tpot_s, one.e2e_s, one.memory_bytes) == (
        other.ttft_s, other.tpot_s, other.e2e_s, other.memory_bytes,
    )  # fmt: skip
    assert simulate(**SERVED).e2e_s == simulate(**SERVED, techniques=[text]).e2e_s


@pytest.mark.parametrize("name", NAMES)
def test_the_event_loop_and_the_tree_say_the_same(name: str) -> None:
    """One request alone is the batch of one."""
    alone = {"model": ASKED["model"], "on": ASKED["on"], "techniques": [name]}
    tree = infer(**alone, input=300, output=100)
    loop = simulate(**alone, rate=1e-3, requests=1, input_length="300", output_length="100")
    assert loop.tpot_s["mean"] == pytest.approx(tree.tpot_s, rel=0.005)


@pytest.mark.skipif(not available(compile=True, quick=True), reason="no C compiler")
@pytest.mark.parametrize("name", NAMES)
def test_both_loops_give_the_same_times(name: str) -> None:
    for engine in ("vllm", "vllm@2024"):
        one, other = (simulate(**SERVED, engine=engine, techniques=[name], loop=x) for x in ("python", "compiled"))
        assert (one.ttft_s, one.tpot_s, one.e2e_s) == (other.ttft_s, other.tpot_s, other.e2e_s)


def test_nothing_accepted_is_slower_than_no_speculation_and_smartspec_sees_it() -> None:
    plain = infer(**ASKED).tpot_s
    assert infer(**ASKED, techniques=["speculative-decoding:acceptance=0"]).tpot_s > plain
    assert infer(**ASKED, techniques=["smartspec:acceptance=0"]).tpot_s == pytest.approx(plain)


def test_never_below_reading_the_weights_once_for_all_tokens_of_a_pass() -> None:
    least = 2 * 8.03e9 / 2.039e12
    for k in (1, 4, 16):
        found = infer(**ASKED, techniques=[f"speculative-decoding:tokens={k},acceptance=1"]).tpot_s
        assert found > least / (k + 1)
    assert infer(**ASKED, techniques=["medusa:tokens=6"]).tpot_s > least / 6


def test_more_is_accepted_sooner() -> None:
    found = [infer(**ASKED, techniques=[f"speculative-decoding:acceptance={a}"]).tpot_s for a in (0.2, 0.5, 0.8, 1)]
    assert found == sorted(found, reverse=True)


def test_smartspec_beats_every_fixed_length_at_every_load() -> None:
    for batch in (1, 64, 256):
        asked = {**ASKED, "batch": batch, "engine": "vllm@2024"}
        fixed = [
            infer(**asked, techniques=[f"speculative-decoding:tokens={k},acceptance=0.7"]).tpot_s for k in (1, 3, 6)
        ]
        assert infer(**asked, techniques=["smartspec:most=6"]).tpot_s <= min(fixed) * (1 + 1e-9)


def test_the_draft_takes_memory() -> None:
    plain, drafted = infer(**ASKED), infer(**ASKED, techniques=["speculative-decoding:draft=llama-3.2-1b"])
    assert drafted.memory_bytes["weights"] - plain.memory_bytes["weights"] == pytest.approx(2 * 1.236e9, rel=0.01)
    assert drafted.memory_bytes["kv_cache"] > plain.memory_bytes["kv_cache"]
    assert drafted.kv_capacity_tokens < plain.kv_capacity_tokens
    served = [simulate(**SERVED, techniques=t).memory_bytes["kv_cache"] for t in ([], ["medusa"])]
    assert served[1] < served[0]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"techniques": ["medusa", "smartspec"]}, "both decide speculation"),
        ({"on": "2xa100-80gb-sxm", "pp": 2, "techniques": ["medusa"]}, "pipeline"),
        ({"model": "mamba2-2.7b", "techniques": ["smartspec"]}, "recurrent"),
        ({"techniques": ["speculative-decoding:draft_tp=2"]}, "draft_tp=2"),
        ({"techniques": ["medusa:heads=2,tokens=4"]}, "tokens=4"),
        ({"techniques": ["smartspec:draft=opt-125m"]}, "vocabulary"),
        ({"techniques": ["smartspec:acceptance=1.5"]}, "acceptance"),
    ],
)
def test_what_cannot_be(asked: dict[str, object], said: str) -> None:
    with pytest.raises(ScenarioError, match=said):
        infer(**{**ASKED, **asked})
