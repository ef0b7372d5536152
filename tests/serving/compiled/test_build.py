"""The loop is compiled once and kept; nothing that goes wrong reaches anybody but as a reason."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from windtunnel.errors import ScenarioError
from windtunnel.serving.compiled import build, library

pytestmark = pytest.mark.usefixtures("compiled_loop")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, and nothing to fall back on."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "file").touch()
    monkeypatch.setattr(build.tempfile, "gettempdir", lambda: str(tmp_path / "file"))
    return tmp_path / "cache" / "windtunnel"


def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(build.importlib.util, "find_spec", lambda name: None)


def test_built_once(folder: Path) -> None:
    assert not build.available(compile=False)
    assert "not been built" in build.find().reason
    assert not folder.exists()
    first = build.build()
    assert first.path is not None
    assert first.path.parent == folder
    assert folder.stat().st_mode & 0o077 == 0
    assert ctypes.CDLL(str(first.path)).wt_new
    assert list(folder.iterdir()) == [first.path]
    written = first.path.stat().st_mtime_ns
    assert build.available(compile=False)
    assert build.build() == first
    assert first.path.stat().st_mtime_ns == written


def test_damaged_file_is_built_again(folder: Path) -> None:
    path = build.build().path
    assert path is not None
    whole = path.read_bytes()
    for damaged in (b"", whole + b"more", whole[: len(whole) // 2]):
        path.unlink()
        path.write_bytes(damaged)
        assert not build.available(compile=False)
    built = build.build().path
    assert built is not None
    assert ctypes.CDLL(str(built)).wt_new


def test_other_sources_are_another_library(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert build.build().path is not None
    monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, "-g"))
    assert not build.available(compile=False)


def test_no_compiler(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_compiler(monkeypatch)
    assert not build.available()
    built = build.build()
    assert built.path is None
    assert "no C compiler" in built.reason
    library._opened.cache_clear()
    try:
        with pytest.raises(ScenarioError, match="no C compiler"):
            library.load()
    finally:
        library._opened.cache_clear()


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script stands for a compiler")
@pytest.mark.parametrize("does", ["echo 'loop.c:1: error: wrong' >&2; exit 1", "exit 3", "kill -9 $$"])
def test_compiler_that_fails(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str) -> None:
    no_compiler(monkeypatch)
    fake = tmp_path / "fake-cc"
    fake.write_text(f"#!/bin/sh\n{does}\n")
    fake.chmod(0o755)
    monkeypatch.setenv("CC", str(fake))
    built = build.build()
    assert built.path is None
    assert built.reason.startswith(f"{fake} failed")
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("cc", ["no-such-compiler", "'"])
def test_cc_that_is_none(folder: Path, monkeypatch: pytest.MonkeyPatch, cc: str) -> None:
    """What CC names may be missing; the usual ones are tried then."""
    monkeypatch.setenv("CC", cc)
    assert build.available()


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="no owners and modes here")
def test_folder_that_others_may_write_to(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is run as it is found there, so it is not looked for in such a folder."""
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    assert "no folder of this user's own" in build.build().reason
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(build.tempfile, "gettempdir", lambda: str(tmp_path / "tmp"))
    path = build.build().path
    assert path is not None
    assert path.parent == tmp_path / "tmp" / f"windtunnel-{os.getuid()}"
    assert build.find().path == path


def test_two_processes_at_once(folder: Path) -> None:
    code = "from windtunnel.serving.compiled.library import load; print(load().wt_bound is not None)"
    source = str(Path(build.__file__).parents[3])
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": source}
        )
        for _ in range(2)
    ]
    assert [process.communicate()[0].strip() for process in both] == ["True", "True"]
    names = [path.name for path in folder.iterdir()]
    assert names
    assert not [name for name in names if name.startswith("making-")]


def test_the_wheel_takes_the_sources_along() -> None:
    """They lie beside the code, where the compiler and the package's builder find them."""
    names = {path.name for path in build.HERE.iterdir()}
    assert {"loop.c", "shared.h", "engine.h"} <= names


def test_shared_structures_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    class Smaller(ctypes.Structure):
        _fields_ = (("queued", ctypes.c_int64),)

    loaded = library.load()
    monkeypatch.setattr(library, "LoadNow", Smaller)
    with pytest.raises(RuntimeError, match="Smaller has 8 bytes"):
        library._check(loaded)
