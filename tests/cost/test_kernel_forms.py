"""What the forms of kernel prices say: tiles, waves, split inner dimensions, casts, split keys, pieces of prompts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.cost.attention import attention_kernel, decode_kernel
from windtunnel.cost.calibration import Attention, Decode, Gemm, load_calibration
from windtunnel.cost.gemm import gemm_kernel
from windtunnel.cost.kernels import Rates
from windtunnel.cost.runtime import Runtime
from windtunnel.hardware import parse_cluster
from windtunnel.ops import build

CLUSTER = parse_cluster("1xh100-sxm")
RATES = Rates.of(CLUSTER, load_calibration(CLUSTER.accelerator), Runtime(graphs=True))
UNITS = int(CLUSTER.accelerator.compute_units)
PLAIN = {"fixed_s": 0.0, "compute": 0.8, "bandwidth": 0.9}
sizes = st.integers(1, 20_000)


def product(entry: Gemm, m: float, n: float, k: float, dtype: str = "bf16", weight: float = 2.0) -> float:
    op = build.gemm("x", m, n, k, dtype=dtype, weight=weight, act=2.0)
    return float(gemm_kernel(RATES, {"bf16": entry, dtype: entry})(op).seconds)


def decoding(entry: Decode, sequences: int, length: int, heads: int = 32, kv_heads: int = 8) -> float:
    op = build.attention_decode(
        "x", sequences=sequences, context=sequences * length, heads=heads, kv_heads=kv_heads, head_dim=128,
        v_head_dim=128, dtype="bf16", act=2.0, kv_bytes_per_token=kv_heads * 512.0,
    )  # fmt: skip
    return float(decode_kernel(RATES, {"default": entry}, "default")(op).seconds)


def prompts(entry: Attention, count: int, length: int) -> float:
    op = build.attention(
        "x", tokens=count * length, pairs=count * length * (length + 1) / 2, context=count * length, heads=32,
        kv_heads=8, head_dim=128, v_head_dim=128, dtype="bf16", act=2.0,
    )  # fmt: skip
    return float(attention_kernel(RATES, {"x": entry}, "x")(op).seconds)


@given(sizes, sizes, sizes)
def test_one_more_kind_of_tile_is_never_slower(m, n, k):
    few = Gemm(**PLAIN, tiles=((128, 128),), wave=1.0, load=2.0)
    more = few.model_copy(update={"tiles": ((128, 128), (64, 64))})
    assert product(more, m, n, k) <= product(few, m, n, k) * (1 + 1e-12)


def test_a_tile_too_many_takes_a_wave_of_its_own():
    entry = Gemm(**PLAIN, tiles=((128, 128),), wave=1.0, power=8)
    assert UNITS == 12 * 11
    one, two = (product(entry, 12 * 128, columns, 8192) for columns in (11 * 128, 11 * 128 + 1))
    assert two / one == pytest.approx(2.0, rel=0.05)
    lone = entry.model_copy(update={"alone": 2.0})
    assert product(lone, 12 * 128, 11 * 128 + 1, 8192) < 0.6 * two


def test_idle_units_share_a_deep_product():
    entry = Gemm(**PLAIN, tiles=((64, 64),))
    split = entry.model_copy(update={"split_k": 256.0, "split_s": 2e-6})
    assert product(split, 64, 64, 65536) < 0.2 * product(entry, 64, 64, 65536)
    assert product(split, 8192, 8192, 8192) == pytest.approx(product(entry, 8192, 8192, 8192))


@given(sizes)
def test_rows_choose_the_tile_where_they_do(m):
    tiles = ((64, 64), (64, 128), (128, 128))
    entry = Gemm(**PLAIN, tiles=tiles, up_to=(64, 128))
    alone = Gemm(**PLAIN, tiles=(tiles[0 if m <= 64 else 1 if m <= 128 else 2],))
    assert product(entry, m, 4096, 4096) == product(alone, m, 4096, 4096)


def test_limits_belong_to_tiles():
    with pytest.raises(ValueError, match="up_to"):
        Gemm(**PLAIN, tiles=((64, 64), (128, 128)), up_to=(64, 128))


def test_inputs_are_narrowed_where_weights_are_narrow():
    entry = Gemm(**PLAIN)
    cast = entry.model_copy(update={"cast": 0.5})
    assert product(cast, 8192, 128, 8192, "fp8", 1.0) > 1.3 * product(entry, 8192, 128, 8192, "fp8", 1.0)
    for dtype in ("bf16", "fp8"):  # training's wide weights come with casts of their own
        assert product(cast, 8192, 128, 8192, dtype, 2.0) == product(entry, 8192, 128, 8192, dtype, 2.0)


def test_keys_of_one_long_sequence_are_split():
    entry = Decode(fixed_s=0.0, compute=0.5, bandwidth=0.9, draw=1.2)
    split = entry.model_copy(update={"block": 128.0, "combine_s": 4e-6})
    long = 131_072
    bytes_s = long * 8 * 512.0 / CLUSTER.accelerator.hbm.bandwidth_bytes_per_s
    assert decoding(split, 1, long) < 1.3 * bytes_s
    assert decoding(entry, 1, long) > 8 * bytes_s
    unsplit = split.model_copy(update={"split_from": 2})
    assert decoding(unsplit, 1, long, heads=8) > 8 * bytes_s  # one query head a KV head
    assert decoding(unsplit, 1, long) == decoding(split, 1, long)
    assert decoding(split, 1, 64) == decoding(entry, 1, 64)  # less than a block


def test_grouped_queries_of_several_sequences_are_put_in_order():
    entry = Decode(fixed_s=0.0, compute=0.5, bandwidth=0.9)
    ordered = entry.model_copy(update={"regroup_s": 6e-6})
    assert decoding(ordered, 4, 512) - decoding(entry, 4, 512) == pytest.approx(6e-6)
    assert decoding(ordered, 1, 512) == decoding(entry, 1, 512)
    assert decoding(ordered, 4, 512, heads=8) == decoding(entry, 4, 512, heads=8)


def test_short_prompts_have_tiles_of_their_own():
    entry = Attention(fixed_s=0.0, compute=0.7, bandwidth=0.8)
    tiles = entry.model_copy(update={"tile_s": 2e-6})
    many = prompts(tiles, 1024, 16) - prompts(entry, 1024, 16)
    one = prompts(tiles, 1, 16 * 1024) - prompts(entry, 1, 16 * 1024)
    assert many > 5 * one > 0


def test_one_long_prompt_lasts_as_long_as_its_longest_tile():
    slow = Attention(fixed_s=0.0, compute=0.7, bandwidth=0.8, alone=0.5)
    fast = slow.model_copy(update={"alone": 2.0})
    assert prompts(slow, 1, 512) > 1.2 * prompts(fast, 1, 512)
    assert prompts(slow, 64, 4096) == pytest.approx(prompts(fast, 64, 4096), rel=0.01)


SCRIPT = Path(__file__).parents[2] / "scripts" / "calibrate.py"


def calibrate(*options: str) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "WINDTUNNEL_DATA"}
    command = [sys.executable, str(SCRIPT), *options]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout


def test_calibrating_without_data_says_so():
    assert "not available" in calibrate()


def test_a_device_is_calibrated_again_to_the_same_constants():
    data = os.environ.get("WINDTUNNEL_DATA")
    if not data or not Path(data, "k3_llmcompass").is_dir():
        pytest.skip("measurement tables not available (WINDTUNNEL_DATA)")
    line = next(each for each in calibrate("--data", data, "--only", "mi210").splitlines() if "gemm.bf16" in each)
    fitted = dict(part.split("=") for part in line.split() if "=" in part)
    shipped = load_calibration(parse_cluster("1xmi210").accelerator).gemm["bf16"]
    assert float(fitted["compute"]) == pytest.approx(shipped.compute, rel=0.01)
