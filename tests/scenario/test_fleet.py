"""The small languages of deployments."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.errors import ScenarioError
from windtunnel.scenario.fleet import (
    ENGINE_OPTIONS,
    Autoscale,
    CacheTier,
    EngineGroup,
    autoscale,
    cache_tiers,
    fleet,
)
from windtunnel.scenario.simulate_options import SimulateOptions


def test_fleets() -> None:
    assert fleet("2x(tp=4)+1x(tp=8,max-batch=64)") == (
        EngineGroup(2, {"tp": "4"}),
        EngineGroup(1, {"tp": "8", "max_batch": "64"}),
    )
    assert fleet("3") == fleet(" 3 x ()") == (EngineGroup(3, {}),)
    assert fleet("1x(timeout=1e+2)+2") == (EngineGroup(1, {"timeout": "1e+2"}), EngineGroup(2, {}))


def test_engine_options_exist() -> None:
    assert set(ENGINE_OPTIONS) <= set(SimulateOptions.model_fields)


def test_autoscales() -> None:
    assert autoscale("max=8") == Autoscale(1, 8)
    assert autoscale("min=2, max=8,target=0.5,interval=30,metric=kv,from=nvme,delay=20") == Autoscale(
        2, 8, "kv", 0.5, 30.0, "nvme", 20.0
    )
    assert autoscale("max=8,metric=queue").target == 1.0
    assert autoscale("max=8,policy=mine:Scaler").policy == "mine:Scaler"


def test_tiers() -> None:
    assert cache_tiers("host:64GB,nvme:1.5 TB,remote:10TiB") == (
        CacheTier("host", 64 * 10**9),
        CacheTier("nvme", 15 * 10**11),
        CacheTier("remote", 10 * 2**40),
    )


@pytest.mark.parametrize(
    ("read", "text", "said"),
    [
        (fleet, "", "not understood"),
        (fleet, "2x(tp=4", "not understood"),
        (fleet, "2x(tp=4)+", "not understood"),
        (fleet, "0x(tp=4)", "0 engines; 1 to"),
        (fleet, "99999+2", "100001 engines"),
        (fleet, "2x(tpp=4)", "unknown engine option in fleet '2x(tpp=4)': 'tpp'; did you mean"),
        (fleet, "2x(rate=4)", "unknown engine option"),
        (fleet, "2x(max-batch=4,max_batch=5)", "max_batch is given twice"),
        (fleet, "2x(tp)", "'tp' is not a new key=value"),
        (autoscale, "", "max is missing"),
        (autoscale, "min=4,max=2", "min=4 is more than max=2"),
        (autoscale, "max=0", "max='0' is not a whole number from 1"),
        (autoscale, "max=1e3", "max='1e3' is not a whole number from 1"),
        (autoscale, "max=3,maxx=3", "did you mean max"),
        (autoscale, "max=3,metric=gpu", "known: kv, load, queue"),
        (autoscale, "max=3,metric=kv,target=70", "target '70' is not a number above 0 and at most 1"),
        (autoscale, "max=3,interval=0", "interval '0'"),
        (autoscale, "max=3,delay=-1", "delay '-1'"),
        (autoscale, "max=3,from=disk", "known: host, nvme, remote"),
        (autoscale, "max=3,policy=mine", "accepted: module:Class"),
        (cache_tiers, "", "unknown tier"),
        (cache_tiers, "host:64", "not a size"),
        (cache_tiers, "host:64Gb", "not a size"),
        (cache_tiers, "host:-1GB", "not a number above 0"),
        (cache_tiers, "host:..GB", "not a number above 0"),
        (cache_tiers, "nvme:1TB,host:1TB", "host after nvme"),
        (cache_tiers, "host:1TB,host:1TB", "each once"),
    ],
)
def test_errors_name_the_value(read: Callable[[str], object], text: str, said: str) -> None:
    with pytest.raises(ScenarioError) as error:
        read(text)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("read", [fleet, autoscale, cache_tiers])
@given(text=st.one_of(st.text(), st.text(alphabet="0123456789xX()+=,:.-minaxhostGBTe \n", max_size=30)))
def test_any_text_is_read_or_refused(read: Callable[[str], object], text: str) -> None:
    said = ""
    try:
        read(text)
    except ScenarioError as error:
        said = str(error)
    assert "\n" not in said


def test_a_group_names_its_machine_and_figures_of_it() -> None:
    first, second = fleet("2x(tp=4,on=16xh100-sxm,power-cap-watt=400)+1x(tdp_watt=500)")
    assert (first.options, first.on, first.figures) == ({"tp": "4"}, "16xh100-sxm", {"power_cap_watt": "400"})
    assert (second.options, second.on, second.figures) == ({}, None, {"tdp_watt": "500"})
    with pytest.raises(ScenarioError, match="power_cap_wat"):
        fleet("1x(power_cap_wat=3)")
