"""Another package's technique, installed as its users would install it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

TOY = """
from dataclasses import replace
from typing import ClassVar
from windtunnel.scenario.provenance import paper
from windtunnel.scenario.technique import About, Technique, parameter


class Half(Technique):
    about: ClassVar[About] = About(
        seed="", title="Half of it", source="a toy", summary="Leaves out layers.", rewrites=("model",),
        commands=("train", "infer", "simulate"),
    )
    share: float = parameter(paper(0.5, "page 1"), "share of the layers that is left", gt=0, le=1)

    def model(self, network):
        return replace(network, blocks=network.blocks[: max(int(self.share * len(network.blocks)), 1)])
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that pip has put the toy package into."""
    folder = tmp_path_factory.mktemp("toy")
    wheel = folder / "halfpkg-1.0-py3-none-any.whl"
    info = "halfpkg-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("halfpkg.py", TOY)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: halfpkg\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(
            f"{info}/entry_points.txt",
            "[windtunnel.techniques]\nhalf = halfpkg:Half\nnone = halfpkg:Nothing\nodd = halfpkg:TOY\n",
        )
        archive.writestr(f"{info}/RECORD", "")
    target = folder / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", str(target)]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True)
    (target / "halfpkg.py").write_text(TOY + "\nTOY = 1\n")
    return target


def windtunnel(installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, [str(installed), *sys.path]))
    command = [sys.executable, "-m", "windtunnel", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})


def test_it_is_listed_and_described(installed: Path) -> None:
    found = json.loads(windtunnel(installed, "techniques", "half", "--json").stdout)
    assert found["name"] == "half"
    assert found["parameters"]["share"]["default"] == 0.5


def test_it_is_switched_on(installed: Path) -> None:
    asked = ["train", "llama-3.1-8b", "--on", "8xh100-sxm", "--seq", "2048", "--global-batch", "8", "--json"]
    whole = json.loads(windtunnel(installed, *asked).stdout)
    half = json.loads(windtunnel(installed, *asked, "--with", "half:share=0.25").stdout)
    assert half["step_time_s"] < 0.5 * whole["step_time_s"]
    assert half["plan"]["with"] == ["half:share=0.25"]


def test_one_that_cannot_be_used_does_not_hide_the_others(installed: Path) -> None:
    ran = windtunnel(installed, "techniques", "--json")
    names = [t["name"] for t in json.loads(ran.stdout)["techniques"]]
    assert "half" in names
    assert {"none", "odd"}.isdisjoint(names)
    assert len(ran.stderr.splitlines()) == 2


@pytest.mark.parametrize(("name", "said"), [("none", "cannot be loaded"), ("odd", "is not a windtunnel Technique")])
def test_one_that_cannot_be_used_is_refused_in_one_line(installed: Path, name: str, said: str) -> None:
    ran = windtunnel(installed, "train", "llama-3.1-8b", "--on", "8xh100-sxm", "--with", name)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert said in ran.stderr
    assert len(ran.stderr.splitlines()) == 1
