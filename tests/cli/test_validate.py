"""``windtunnel validate`` as a user calls it."""

from __future__ import annotations

import json

import pytest

from windtunnel.cli import main


def test_json_has_the_contracts_fields(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "megatron-2021", "--json"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)["datasets"]
    assert (entry["name"], entry["kind"]) == ("megatron-2021", "train")
    assert entry["rows"] == entry["metrics"]["step_time_s"]["rows"] > 0
    assert 0 < entry["median_ape"] < entry["p90_ape"]
    assert abs(entry["bias"]) < 1
    assert {"label", "measured", "predicted", "error"} <= set(entry["worst"][0])


def test_report_names_errors_and_worst_rows(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "megatron-2021"]) == 0
    text = capsys.readouterr().out
    assert "megatron-2021" in text
    assert "step time" in text
    assert "runs said not to fit" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["megatron-2012"], "megatron-2021"),
        (["--data", "/no/such/folder"], "'/no/such/folder' does not exist"),
        (["--workers", "0"], "workers=0"),
    ],
)
def test_wrong_requests(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert len(err.splitlines()) == 1
