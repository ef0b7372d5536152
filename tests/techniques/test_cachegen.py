"""CacheGen: neutral, ideal, and within physics."""

from __future__ import annotations

import pytest

from windtunnel.errors import ScenarioError
from windtunnel.studies.ask import infer, simulate

ASKED = {"model": "llama-3.1-8b", "on": "1xa100-80gb-sxm", "input": 8000, "output": 50}
CACHE = 8000 * 0.99 * 32 * 2 * 8 * 128 * 2.0
SESSIONS = {
    "model": "llama-3.1-8b", "on": "1xa100-80gb-sxm", "arrivals": "sessions:turns=4,think=5", "requests": 80,
    "rate": 2.0, "input_length": "2000", "output_length": "20", "kv_blocks": 2000, "prefix_cache": True,
}  # fmt: skip


def delay(**parameters: object) -> float:
    text = "cachegen:" + ",".join(f"{k}={v}" for k, v in parameters.items())
    return infer(**ASKED, techniques=[text]).ttft_s


def test_a_store_of_nothing_changes_nothing() -> None:
    assert delay(share=0) == infer(**ASKED).ttft_s
    one, other = simulate(**SESSIONS), simulate(**SESSIONS, techniques=["cachegen:share=0"])
    assert (one.ttft_s, one.e2e_s) == (other.ttft_s, other.e2e_s)


def test_a_fast_store_leaves_the_questions_own_prefill() -> None:
    found = delay(bandwidth_gbit_per_s=1e6, decode_gbyte_per_s=1e9, ratio=1000)
    own = infer(**{**ASKED, "input": 80}).ttft_s
    assert own < found < own + 0.015  # it attends to the context, too


def test_a_slow_store_is_passed_by() -> None:
    assert delay(bandwidth_gbit_per_s=0.01) == infer(**ASKED).ttft_s
    assert delay(bandwidth_gbit_per_s=0.01, text="false") > 10


@pytest.mark.parametrize("ratio", [1, 2, 8])
def test_never_faster_than_the_link(ratio: int) -> None:
    sent = CACHE / ratio * 8 / 3e9
    found = delay(ratio=ratio, text="false")
    assert sent < found < sent + CACHE / 5e9 + 0.05


def test_decoding_hides_behind_the_transfer_but_for_a_piece() -> None:
    whole, pieces = delay(piece_tokens=1_000_000), delay(piece_tokens=500)
    assert pieces < whole
    assert whole - pieces == pytest.approx(CACHE / 5e9 * 15 / 16, rel=0.02)


def test_requests_share_the_link() -> None:
    text = ["cachegen:text=false,decode_gbyte_per_s=1e6"]
    one, four = (infer(**ASKED, batch=b, techniques=text).ttft_s for b in (1, 4))
    assert four - one > 3 * CACHE / 8 * 8 / 3e9


def test_the_answer_decodes_over_the_whole_context() -> None:
    assert infer(**ASKED, techniques=["cachegen"]).tpot_s == pytest.approx(infer(**ASKED).tpot_s)


def test_windows_are_as_long_as_ever() -> None:
    asked = {**ASKED, "model": "gemma-2-9b", "input": 7000}
    assert infer(**asked, techniques=["cachegen"]).tpot_s == pytest.approx(infer(**asked).tpot_s)


def test_in_a_simulation_compressed_blocks_come_up_sooner_and_more_of_them_fit() -> None:
    found = [simulate(**SESSIONS, techniques=[f"cachegen:text=false,ratio={r}"]).ttft_s["mean"] for r in (1, 2, 8)]
    assert found == sorted(found, reverse=True)
    hits = [
        simulate(**SESSIONS, cache_tiers="remote:1GB", techniques=[f"cachegen:text=0,ratio={r}"]).kv_cache["hit_rate"]
        for r in (1, 8)
    ]
    assert hits[0] < hits[1]


def test_in_a_simulation_a_slow_store_is_passed_by() -> None:
    slow = "cachegen:bandwidth_gbit_per_s=0.01"
    without = simulate(**SESSIONS)
    assert simulate(**SESSIONS, techniques=[slow]).ttft_s == without.ttft_s
    assert simulate(**SESSIONS, techniques=[slow + ",text=false"]).ttft_s["mean"] > 10 * without.ttft_s["mean"]
    fast = simulate(**SESSIONS, techniques=["cachegen:bandwidth_gbit_per_s=50,decode_gbyte_per_s=50"])
    assert fast.kv_cache["hit_rate"] > without.kv_cache["hit_rate"]


@pytest.mark.parametrize("ratio", [2, 8])
def test_both_loops_in_python_agree(ratio: int) -> None:
    one, other = (simulate(**SESSIONS, techniques=[f"cachegen:ratio={ratio}"], loop=x) for x in ("python", "naive"))
    assert (one.ttft_s, one.e2e_s, one.kv_cache) == (other.ttft_s, other.e2e_s, other.kv_cache)


def test_what_cannot_be() -> None:
    with pytest.raises(ScenarioError, match="no remote tier"):
        simulate(**SESSIONS, cache_tiers="host:10GB", techniques=["cachegen"])
    with pytest.raises(ScenarioError, match="recurrent"):
        infer(**{**ASKED, "model": "mamba2-2.7b"}, techniques=["cachegen"])
    with pytest.raises(ScenarioError, match="ratio"):
        infer(**ASKED, techniques=["cachegen:ratio=0.5"])
