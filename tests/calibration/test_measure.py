"""``calibrate --measure`` on the machine that the tests run on, and the small transformer that it runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from windtunnel.calibration.clock import Clock, load_torch, repeats
from windtunnel.calibration.decoder import Decoder, Sizes, decode_attention, rms_norm, rotate, rotation
from windtunnel.hardware import parse_cluster
from windtunnel.models import load_network

torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra torch)")

TINY = Sizes(hidden=128, layers=2, heads=4, kv_heads=2, intermediate=256, vocab=512, head_dim=32)


def test_it_predicts_what_it_then_runs(calibrate: Callable[..., Any], tmp_path: Path) -> None:
    """The one ground truth that is always at hand. Bounds are wide: other work runs on this machine meanwhile."""
    out = tmp_path / "here.yaml"
    before = torch.get_num_threads()
    try:
        # On one thread the processor's time counts, so that what else runs here does not matter much.
        ran = calibrate("--measure", "--quick", "--threads", "1", "--out", str(out), "--json")
    finally:
        torch.set_num_threads(before)
    assert ran.code == 0, ran.err
    found = ran.json()
    check = found["check"]
    assert check["shapes"] == len(check["rows"]) >= 10
    assert {row["phase"] for row in check["rows"]} == {"prefill", "decode", "train"}
    assert check["median_error"] < 0.6, check
    assert all(row["measured_s"] > 0 and row["predicted_s"] > 0 for row in check["rows"])
    fitted = {family["family"] for family in found["families"]}
    assert fitted >= {"gemm", "attention", "attention_backward", "attention_decode", "pointwise", "copies"}
    # What was written answers as what was checked.
    cluster = parse_cluster(found["cluster_file"])
    assert cluster.accelerator.compute_units == found["threads"] == 1
    asked = ("gpt2", "--on", found["cluster_file"], "--calibration", str(out), "--precision", "fp32")
    shown = calibrate(*asked, "--engine", "pytorch", "--seq", "256", "--json", command="train").json()
    work = 6 * 124e6 * 256
    assert work / float(cluster.accelerator.peak_flops["fp32"]) < shown["step_time_s"] < 1000


def test_the_decoder_is_the_network_that_is_priced(tmp_path: Path) -> None:
    from windtunnel.calibration.selfcheck import write_config

    made = Decoder(torch, TINY, device="cpu", dtype=torch.float32)
    network = load_network(write_config(TINY, "fp32", str(tmp_path)))
    assert network.total_parameters == sum(p.numel() for p in made.parameters())
    assert network.dtype == "fp32"


def test_decoding_gives_what_the_whole_prompt_gives() -> None:
    """The cache, the folded queries and the rotation's positions are right: times are of the real computation."""
    made = Decoder(torch, TINY, device="cpu", dtype=torch.float32)
    tokens = torch.randint(0, TINY.vocab, (3, 9))
    with torch.no_grad():
        whole = made.forward(tokens)
        caches = made.cache(3, 16)
        steps = [made.step(tokens[:, i : i + 1], caches, i) for i in range(9)]
    assert torch.allclose(torch.cat(steps, dim=1), whole, atol=1e-5)
    assert torch.allclose(made.forward(tokens, last=True), whole[:, -1:], atol=1e-5)


def test_training_lowers_the_loss() -> None:
    made = Decoder(torch, TINY, device="cpu", dtype=torch.float32)
    optimizer = torch.optim.AdamW(made.parameters(), lr=3e-3, fused=True)
    tokens = torch.randint(0, TINY.vocab, (2, 16))
    losses = []
    for _ in range(8):
        loss = made.loss(tokens, tokens)
        loss.backward()
        assert all(p.grad is not None for p in made.parameters())
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_pieces_against_plain_formulas() -> None:
    x, weight = torch.randn(2, 5, 64), torch.randn(64)
    expected = x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-5) * weight
    assert torch.allclose(rms_norm(torch, x, weight), expected, atol=1e-5)
    heads = torch.randn(2, 5, 3, 64)
    turned = rotate(torch, heads, rotation(torch, 64, 64, "cpu", torch.float32), 7)
    assert torch.allclose(turned.norm(dim=-1), heads.norm(dim=-1), atol=1e-4)  # a rotation
    q, k, v = torch.randn(2, 6, 1, 32), torch.randn(2, 3, 11, 32), torch.randn(2, 3, 11, 32)
    scores = torch.einsum("bhqd,bhkd->bhqk", q, k.repeat_interleave(2, 1)) / np.sqrt(32)
    expected = (scores.softmax(-1) @ v.repeat_interleave(2, 1)).transpose(1, 2).flatten(2)
    assert torch.allclose(decode_attention(torch, q, k, v), expected, atol=1e-5)


def test_the_clock_sees_how_long_a_call_takes() -> None:
    clock = Clock(load_torch(), "cpu")
    kernels, runs = repeats(clock, [lambda: time.sleep(2e-3)], [lambda: time.sleep(4e-3)], 5)
    for (seconds,), expected in ((kernels, 2e-3), (runs, 4e-3)):
        assert len(seconds) == 5
        assert expected <= min(seconds)


def test_on_one_thread_only_the_processors_time_counts() -> None:
    def wait_and_work() -> None:
        time.sleep(20e-3)
        end = time.process_time() + 2e-3
        while time.process_time() < end:
            pass

    _, (seconds,) = repeats(Clock(load_torch(), "cpu", alone=True), [], [wait_and_work], 3)
    assert 2e-3 <= min(seconds) < 15e-3


def test_a_cuda_device_that_is_not_there(calibrate: Callable[..., Any]) -> None:
    if torch.cuda.is_available():
        pytest.skip("a CUDA device is here")
    ran = calibrate("--measure", "--device", "cuda")
    assert ran.code == 2
    assert "finds no CUDA device" in ran.err
