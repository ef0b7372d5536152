"""Exact parameter counts: the catalogue, small variants of every model type, and MPT at every benchmarked length."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from windtunnel.models import catalogue_names, known_model_types, load_network, network_from_config
from windtunnel.models.lookup import entries
from windtunnel.models.network import MoE

DATA = Path(__file__).parent / "data"


def table(name: str) -> list[dict[str, str]]:
    with (DATA / name).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


COUNTS = table("parameter_counts.csv")
VARIANTS = [json.loads(line) for line in (DATA / "reference_counts.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("row", COUNTS, ids=lambda row: row["name"])
def test_catalogue_model_has_the_reference_count(row: dict[str, str]) -> None:
    network = load_network(row["name"])
    assert network.total_parameters == int(row["counted"])
    assert network.active_parameters == int(row["active"])
    assert network.published_parameters == int(row["published"])


@pytest.mark.parametrize("name", catalogue_names())
def test_published_total_is_met_or_explained(name: str) -> None:
    """An exactly published total is reproduced or the catalogue says what differs; a rounded one is within 5 %."""
    network, entry = load_network(name), entries()[name]
    if network.total_parameters != entry.published:
        assert entry.note if entry.exact else network.total_parameters == pytest.approx(entry.published, rel=0.05)


@pytest.mark.parametrize("model_type", sorted({v["config"]["model_type"] for v in VARIANTS}))
def test_small_variants_have_the_counts_of_the_reference_class(model_type: str) -> None:
    for variant in (v for v in VARIANTS if v["config"]["model_type"] == model_type):
        network = network_from_config(variant["config"], "variant")
        assert network.total_parameters == variant["parameters"], variant["config"]


@pytest.mark.parametrize("row", table("mpt_counts.csv"), ids=lambda row: f"{row['model']}-{row['max_seq_len']}")
def test_mpt_count_at_each_benchmarked_length(row: dict[str, str]) -> None:
    """llm-foundry's NumParams: the learned position table grows with the sequence length."""
    folder = Path(load_network.__code__.co_filename).parent / "catalogue"
    config = json.loads((folder / f"mpt-{row['model']}.json").read_text(encoding="utf-8"))
    network = network_from_config({**config, "max_seq_len": int(row["max_seq_len"])}, "mpt")
    assert network.total_parameters == int(row["parameters"])


def test_every_model_type_is_counted_against_something() -> None:
    counted = {v["config"]["model_type"] for v in VARIANTS} | {load_network(n).model_type for n in catalogue_names()}
    assert set(known_model_types()) - counted <= {"gemma3"}  # its text model is gemma3_text, tested in test_config


def test_active_leaves_out_the_unvisited_experts_only() -> None:
    network = load_network("mixtral-8x7b")
    moe = network.blocks[0].ffn
    assert isinstance(moe, MoE)
    idle = len(network.blocks) * (moe.experts - moe.top_k) * moe.expert.parameters
    assert network.total_parameters - network.active_parameters == idle
    assert moe.expert.parameters == 3 * 4096 * 14336
