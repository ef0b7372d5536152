"""Damaged configurations: a network or one clear line, never anything else, and never slow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from windtunnel.errors import ScenarioError
from windtunnel.models import catalogue_names, describe, network_from_config
from windtunnel.models.lookup import FOLDER
from windtunnel.models.network import Network
from windtunnel.models.reader import MAX_LAYERS

CONFIGS: dict[str, dict[str, Any]] = {}
for _name in catalogue_names():
    _config = json.loads((FOLDER / f"{_name}.json").read_text(encoding="utf-8"))
    CONFIGS.setdefault(_config["model_type"], _config)
for _line in (Path(__file__).parent / "data" / "reference_counts.jsonl").read_text(encoding="utf-8").splitlines():
    _config = json.loads(_line)["config"]
    CONFIGS.setdefault(_config["model_type"], _config)

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 300),
    st.sampled_from([2**31, 2**31 + 1, 10**9, 10**18, 10**400, -(10**30)]),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(["auto", "full_attention", "M*-E", "float16", "gptq", "llama", "multihead_attention"]),
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def check(config: Any) -> None:
    try:
        network = network_from_config(config, "fuzzed")
    except ScenarioError as error:
        text = str(error)
        assert text
        assert "\n" not in text
        assert len(text) < 4000
        return
    assert isinstance(network, Network)
    assert network.layers <= 2 * MAX_LAYERS
    summary = json.loads(json.dumps(describe(network)))
    assert 0 < summary["active_parameters"] <= summary["total_parameters"]
    assert summary["forward_flops_per_token"]["context_0"] > 0
    assert summary["kv_bytes_per_token"] >= 0


@st.composite
def damaged(draw: st.DrawFn) -> dict[str, Any]:
    """A real configuration with a few keys dropped or replaced, at the top or inside a nested object."""
    config: dict[str, Any] = json.loads(json.dumps(CONFIGS[draw(st.sampled_from(sorted(CONFIGS)))]))
    for _ in range(draw(st.integers(1, 3))):
        target = config
        nested = [v for v in config.values() if isinstance(v, dict)]
        inside: bool = draw(st.booleans())
        if nested and inside:
            target = draw(st.sampled_from(nested))
        keys = sorted(k for k in target if k != "model_type") or ["hidden_size"]
        key = draw(st.sampled_from(keys))
        if draw(st.integers(0, 4)) == 0:
            target.pop(key, None)
        else:
            target[key] = draw(values)
    return config


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(damaged())
def test_damaged_configurations(config: dict[str, Any]) -> None:
    check(config)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(CONFIGS)), st.dictionaries(st.text(max_size=8), values, max_size=5))
def test_nonsense_under_a_known_model_type(model_type: str, config: dict[str, Any]) -> None:
    check({**config, "model_type": model_type})


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(CONFIGS)), st.sampled_from([1, 2, 3, 7, 64, 10_000, 2**31]))
def test_one_size_everywhere(model_type: str, size: int) -> None:
    """Every whole number of a real configuration set to the same value: consistent or refused."""
    config = {k: size if isinstance(v, int) and not isinstance(v, bool) else v for k, v in CONFIGS[model_type].items()}
    check(config)


@settings(max_examples=60, deadline=None)
@given(values)
def test_anything_at_all(value: Any) -> None:
    check(value)
