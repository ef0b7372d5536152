"""A table's row is the command that repeats a run."""

from __future__ import annotations

from pathlib import Path

import pytest

import windtunnel as wt
from windtunnel.errors import ScenarioError
from windtunnel.validation.ask import answer_row, answer_rows
from windtunnel.validation.scores import fits, scores
from windtunnel.validation.sets import data_sets, find
from windtunnel.validation.table import read_table

HEAD = "label,group,source,command,remark,config,measured.step_time_s,measured.fits,model,on,tp,global_batch,seq,set\n"


def table(folder: Path, *lines: str) -> Path:
    path = folder / "some.csv"
    path.write_text(HEAD + "\n".join(lines) + "\n")
    return path


def test_a_row_is_answered_as_its_command_line(tmp_path: Path) -> None:
    (row,) = read_table(
        table(tmp_path, 'a,s/gpt2,paper,train,,,0.5,true,gpt2,8xh100-sxm,2,8,1024,"nic_gbit_per_s=100,tdp_watt=500"')
    )
    assert row.line() == (
        "windtunnel train gpt2 --on 8xh100-sxm --tp 2 --global-batch 8 --seq 1024 "
        "--set nic_gbit_per_s=100 --set tdp_watt=500"
    )
    found = answer_row(row, tmp_path, None)
    step = wt.train(
        "gpt2", on="8xh100-sxm", tp=2, global_batch=8, seq=1024, set={"nic_gbit_per_s": 100, "tdp_watt": 500}
    )
    (residual,) = found.residuals
    assert residual.predicted == step.step_time_s
    assert residual.error == pytest.approx(step.step_time_s / 0.5 - 1)
    assert found.verdict is not None
    assert found.verdict.predicted is True


def test_config_keys_go_over_the_catalogues(tmp_path: Path) -> None:
    rows = read_table(
        table(
            tmp_path,
            'a,s/m,p,train,,"{""num_hidden_layers"": 4}",0.5,,llama-3.1-8b,8xh100-sxm,,8,1024,',
            'b,s/m,p,train,,"{""model_type"": ""gpt2"", ""n_layer"": 2, ""n_embd"": 128, ""n_head"": 2, '
            '""n_positions"": 1024, ""vocab_size"": 1000}",0.5,,,1xh100-sxm,,1,1024,',
        )
    )
    short, tiny = (answer_row(row, tmp_path, None) for row in rows)
    whole = wt.train("llama-3.1-8b", on="8xh100-sxm", global_batch=8, seq=1024)
    assert short.residuals[0].predicted < 0.3 * whole.step_time_s
    assert tiny.residuals
    assert tiny.verdict is None


def test_what_is_wrong_with_a_row_is_said(tmp_path: Path) -> None:
    rows = read_table(table(tmp_path, "a,s/m,p,train,,,0.5,,no-such-model,8xh100-sxm,,8,1024,"))
    found = answer_rows(rows, None)
    assert not found.residuals
    assert "no-such-model" in found.refused[0].why
    for line, said in (
        ("a,s/m,p,fly,,,0.5,,gpt2,1xh100-sxm,,1,1024,", "line 2: command 'fly'"),
        (",s/m,p,train,,,0.5,,gpt2,1xh100-sxm,,1,1024,", "no label"),
        ("a,s/m,p,train,,,-1,,gpt2,1xh100-sxm,,1,1024,", "'-1' is not above 0"),
        ("a,s/m,p,train,,,quick,,gpt2,1xh100-sxm,,1,1024,", "'quick' is no number"),
    ):
        with pytest.raises(ScenarioError, match=said):
            read_table(table(tmp_path, line))


def test_scores_are_of_the_errors(tmp_path: Path) -> None:
    lines = [f"r{i},s/{i},p,train,,,{s},true,gpt2,1xh100-sxm,,1,1024," for i, s in enumerate((0.1, 0.2, 0.4))]
    answers = answer_rows(read_table(table(tmp_path, *lines)), None)
    (found,) = scores(answers).values()
    predicted = answers.residuals[0].predicted
    errors = sorted(abs(predicted / s - 1) for s in (0.1, 0.2, 0.4))
    assert found.median_ape == pytest.approx(errors[1])
    assert found.worst[0].label in ("r0", "r2")
    counted = fits(answers.verdicts)
    assert counted is not None
    assert (counted.ran, len(counted.false_no), counted.failed) == (3, 0, 0)


@pytest.mark.parametrize("name", list(data_sets()))
def test_shipped_tables_are_whole(name: str, tmp_path: Path) -> None:
    found = data_sets()[name]
    rows = found.rows()
    assert found.title
    assert found.source
    assert len({row.label for row in rows}) == len(rows)
    assert all(row.source and "/" in row.group and (row.measured or row.fits is not None) for row in rows)
    for row in rows[:: max(len(rows) // 200, 1)]:
        if not row.needs_data:
            row.request(tmp_path, None)


def test_sets_are_found_by_name_and_kind() -> None:
    assert [s.kind for s in find(("train",))] == ["train"] * len(find(("train",)))
    assert find(()) == list(data_sets().values())
    with pytest.raises(ScenarioError, match="unknown data set 'trian'; did you mean train"):
        find(("trian",))
