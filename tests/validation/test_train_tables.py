"""The tables of published training runs: complete, readable, and made by the script that says so."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import pytest

from windtunnel.scenario.options import TrainOptions
from windtunnel.validation.sets import find
from windtunnel.validation.table import FOLDER

SCRIPT = Path(__file__).parents[2] / "scripts" / "validation_tables_train.py"


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("validation_tables_train", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("dataset", find(("train",)), ids=lambda s: s.name)
def test_every_row_is_a_request(dataset: object, tmp_path: Path) -> None:
    rows = dataset.rows()  # type: ignore[attr-defined]
    assert rows
    assert len({r.label for r in rows}) == len(rows)
    for row in rows[:40]:
        assert isinstance(row.request(tmp_path, None), TrainOptions)
        assert row.fits is not None
        assert row.source


def test_the_script_writes_the_shipped_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = os.environ.get("WINDTUNNEL_DATA")
    if data is None or not (Path(data) / "t1_llm_foundry_training").is_dir():
        pytest.skip("the published measurements are not available: set WINDTUNNEL_DATA")
    made = script()
    for name, (make, *_) in made.SETS.items():
        assert made.table(list(make(Path(data)))) == (FOLDER / f"{name}.csv").read_text(), name
