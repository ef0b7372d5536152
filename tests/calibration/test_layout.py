"""The table of kernels: what is read, and what is said of what is not."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.calibration.layout import KERNELS, is_kernel_table, read_table
from windtunnel.errors import ScenarioError

GEMM = "kernel,dtype,m,n,k,seconds\ngemm,bf16,16,4096,4096,1e-5\n"


def written(folder: Path, text: str, name: str = "kernels.csv") -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


def test_rows_of_several_kernels(tmp_path: Path) -> None:
    text = (
        "Kernel,dtype,m,n,k,bytes,seconds,weight_dtype\n"
        "gemm,bf16,16,4096,4096,,1e-5,\n"
        "norm,,,,,1e6,3e-6,\n"
        "GEMM,bf16,32,4096,4096,,2e-5,int4\n"
        "gemm,bf16,64,4096,4096,,3e-5,bf16\n"
    )
    table = read_table(written(tmp_path, text))
    found = {(s.kernel, s.weight): s for s in table.samples}
    assert set(found) == {("gemm", "bf16"), ("gemm", "int4"), ("norm", "")}
    assert found["gemm", "bf16"].columns["m"].tolist() == [16, 64]
    assert found["gemm", "bf16"].seconds.tolist() == [1e-5, 3e-5]
    assert found["norm", ""].columns["cold_bytes"].tolist() == [0.0]
    assert table.rows == 4


def test_parquet_is_the_same(tmp_path: Path) -> None:
    csv = read_table(written(tmp_path, GEMM))
    path = tmp_path / "kernels.parquet"
    pl.read_csv(GEMM.encode()).write_parquet(path)
    assert is_kernel_table(str(path))
    parquet = read_table(str(path))
    assert csv.samples[0].columns.keys() == parquet.samples[0].columns.keys()
    assert all(np.array_equal(csv.samples[0].columns[k], parquet.samples[0].columns[k]) for k in ("m", "n", "k"))


def test_rows_of_other_devices_are_left_out(tmp_path: Path) -> None:
    rows = [f"gemm,bf16,{m},8,8,1e-5,{device}\n" for m, device in ((1, "H100"), (2, "a100"), (3, ""))]
    text = "".join(["kernel,dtype,m,n,k,seconds,device\n", *rows])
    table = read_table(written(tmp_path, text), "h100-sxm")
    assert table.samples[0].columns["m"].tolist() == [1, 3]
    assert table.left_out == 1
    text = text.replace(",\n", ",a100\n")
    with pytest.raises(ScenarioError, match=r"no row of l40s; it has H100, a100"):
        read_table(written(tmp_path, text), "l40s")


def test_defaults_are_other_columns(tmp_path: Path) -> None:
    text = (
        "kernel,dtype,tokens,pairs,context,heads,kv_heads,head_dim,v_head_dim,seconds\n"
        "attention,bf16,10,55,10,4,2,64,,1e-5\nattention,bf16,10,55,10,4,2,64,32,1e-5\n"
    )
    assert read_table(written(tmp_path, text)).samples[0].columns["v_head_dim"].tolist() == [64, 32]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kernel,dtype,m,n,seconds\ngemm,bf16,1,2,1e-5\n", ["no column 'k'", "gemm need m, n, k"]),
        ("kernel,dtype,m,n,k\ngemm,bf16,1,2,3\n", ["no column 'seconds'"]),
        ("dtype,m,n,k,seconds\nbf16,1,2,3,1\n", ["no column 'kernel'"]),
        (GEMM + "gemm,bf16,16,4096,four,1e-5\n", ["line 3", "k is 'four'", "a number"]),
        (GEMM + "gemm,bf16,16,4096,,1e-5\n", ["line 3", "k is empty"]),
        (GEMM + "gemm,bf16,16,4096,4096,-1e-5\n", ["line 3", "seconds is -1e-05", "above 0"]),
        (GEMM + "gemm,bf16,16,4096,4096,nan\n", ["line 3", "seconds is 'nan'"]),
        (GEMM + "gemm,bf16,0,4096,4096,1e-5\n", ["line 3", "m is 0"]),
        (GEMM + "gem,bf16,16,4096,4096,1e-5\n", ["line 3", "'gem'", "gemm"]),
        (GEMM + "gemm,float,16,4096,4096,1e-5\n", ["line 3", "dtype of gemm is 'float'", "bf16"]),
        (GEMM + "gemm,,16,4096,4096,1e-5\n", ["line 3", "dtype of gemm is ''", "bf16"]),
        ("kernel,bytes,seconds\nnorm,,1e-5\n", ["line 2", "norm needs bytes or cold_bytes"]),
        ("kernel,bytes,cold_bytes,seconds\nnorm,-4,9,1e-5\n", ["line 2", "bytes is -4", "at least 0"]),
        ("kernel,seconds\ncopy,1e-5\n", ["line 2", "copy needs pcie_bytes or nvme_bytes"]),
        ("kernel,dtype,variant,sequences,context,heads,kv_heads,head_dim,seconds\n"
         "attention_decode,bf16,flash9,1,1,1,1,64,1e-5\n", ["line 2", "variant", "'flash9'", "flash2"]),
        ("kernel,seconds\n", ["has no rows"]),
        ("kernel,Kernel,seconds\na,b,1\n", ["two columns"]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(tmp_path: Path, text: str, said: list[str]) -> None:
    with pytest.raises(ScenarioError) as caught:
        read_table(written(tmp_path, text))
    message = str(caught.value)
    assert "\n" not in message
    assert "kernels.csv" in message
    assert all(part in message for part in said), message


def test_files_that_are_none(tmp_path: Path) -> None:
    for path in (str(tmp_path), str(tmp_path / "none.csv")):
        with pytest.raises(ScenarioError, match="no file"):
            read_table(path)
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 and no more")
    with pytest.raises(ScenarioError, match="cannot read"):
        read_table(str(broken))
    assert not is_kernel_table(str(broken))


def test_what_is_meant_as_a_table_is_known(tmp_path: Path) -> None:
    assert is_kernel_table(written(tmp_path, GEMM))
    assert is_kernel_table(written(tmp_path, "kernel,dtype,m\n"))  # its error will say what is missing
    assert not is_kernel_table(written(tmp_path, '{"kernel": 1, "seconds": 2}\n', "a.json"))
    assert not is_kernel_table(written(tmp_path, "request,ttft,tpot\n1,2,3\n"))
    assert not is_kernel_table(str(tmp_path / "none.csv"))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_table_or_an_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("bytes") / "kernels.csv"
    for start in (b"", b"kernel,seconds\n", b"kernel,bytes,seconds\nnorm,"):
        path.write_bytes(start + data)
        with suppress(ScenarioError):  # anything else is a bug
            assert read_table(str(path)).rows > 0


def test_every_kernel_is_priced() -> None:
    from windtunnel.calibration.forms import CHOICES, FREE, PRICES

    assert {kind.section for kind in KERNELS.values()} == set(PRICES) == set(FREE) == set(CHOICES)
