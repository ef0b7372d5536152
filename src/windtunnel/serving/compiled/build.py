"""Compiles the loop with the system's C compiler, once, and keeps it in the user's cache folder.

What is kept is named after all that it was made from, and after its own content, so that it is found without running
anything, is never out of date, and shows when it has been damaged.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from threading import Thread
from typing import NamedTuple

from windtunnel.serving import histogram, knots, rules, tally
from windtunnel.serving.outcome import PS, Status
from windtunnel.serving.replica import NEVER
from windtunnel.serving.step_cost import MIX_BITS

HERE = Path(__file__).parent
FLAGS = ("-std=c11", "-shared", "-fPIC", "-ffp-contract=off")
"""Not for this machine only, and without anything that would round otherwise than Python does."""

FAST, QUICK = "-O2", "-O0"
"""How well it is compiled: for a million requests, or in a sixth of a second for some thousands."""

PROMPT_CELLS = tally.SIZES.index(1 << 40) + 1
"""Cells of iterations with prompts: sizes of up to 2^40 tokens have their own."""

SECONDS = 300
"""How long a compiler may take (zig compiles its own library first)."""


class Built(NamedTuple):
    """The compiled loop, or why there is none."""

    path: Path | None
    reason: str = ""


def available(compile: bool = True, quick: bool = False) -> bool:
    """Whether the loop is already built or, with ``compile``, can be: it is built then. ``quick``: one that has been
    built quickly will do."""
    return (build(quick) if compile else find(quick)).path is not None


_fast: dict[tuple[object, ...], Built] = {}
"""The fast loop as it was found, by what it was found with: it is looked for with every engine that is made."""


def find(quick: bool = True) -> Built:
    """The loop if it has been built before, the fast one rather than the quick one; runs nothing."""
    found = next(iter(_fast.items()), None)
    if found is not None and found[0] == _circumstances(found[1].path):
        return found[1]
    _fast.clear()
    return _find(quick)


def _circumstances(path: Path | None) -> tuple[object, ...]:
    """What decides which file is found, and whether it is still the same."""
    named = tuple(os.environ.get(name) for name in ("CC", "PATH", "HOME", "XDG_CACHE_HOME", "TMPDIR"))
    try:
        about = None if path is None else path.stat()
    except OSError:
        about = None
    return (*named, path, None if about is None else (about.st_size, about.st_mtime_ns, about.st_mode))


def _find(quick: bool) -> Built:
    if sys.maxsize < 1 << 32:
        return Built(None, "the compiled loop needs a 64-bit Python")
    for level in (FAST, QUICK)[: 1 + quick]:
        for folder in _folders(make=False):
            for compiler in _compilers():
                for path in folder.glob(f"loop-{_key(compiler, level)}-*{_suffix()}"):
                    if _digest(path) == path.stem.rsplit("-", 1)[1] and not _trouble(path):
                        built = Built(path)
                        if level == FAST:
                            _fast[_circumstances(path)] = built
                        return built
    return Built(None, "it has not been built yet")


_under_way: list[Thread] = []
"""Where the loop is being built in the background."""


def begin(quick: bool) -> None:
    """Start building the loop, if need be, while there is other work to do; :func:`build` waits for it."""
    if not _under_way and find(quick).path is None:
        _under_way.append(Thread(target=_build, args=(quick,), daemon=True))
        _under_way[0].start()


def build(quick: bool = False) -> Built:
    """The loop, built if need be; never raises."""
    while _under_way:
        _under_way[0].join()
        _under_way.clear()
    return _build(quick)


def _build(quick: bool) -> Built:
    found = find(quick)
    if found.path is not None or sys.maxsize < 1 << 32:
        return found
    reasons = []
    for folder in _folders(make=True):
        for compiler in _compilers():
            built = _compile(compiler, folder, QUICK if quick else FAST)
            if built.path is not None:
                return built
            reasons.append(built.reason)
        if not reasons:
            return Built(None, "no C compiler was found (CC names one; pip install ziglang brings one)")
    return Built(None, next(iter(reasons), "no folder of this user's own to keep it in (XDG_CACHE_HOME names one)"))


def definitions() -> Mapping[str, int]:
    """The constants that C takes from the Python modules."""
    axes = {
        "TOKENS": knots.TOKENS, "PROMPT": knots.PROMPT, "SEQUENCES": knots.SEQUENCES, "CONTEXT": knots.CONTEXT,
        "KEYS": knots.KEYS, "STATES": knots.STATES, "SIZES": tally.SIZES,
    }  # fmt: skip
    ended = (Status.COMPLETED, Status.TOO_LONG, Status.QUEUE_FULL, Status.TIMED_OUT)
    return {
        **{f"{name}_DENSE": axis.dense for name, axis in axes.items()},
        **{f"{name}_MANTISSA": axis.mantissa for name, axis in axes.items()},
        **{status.name: int(status) for status in ended},
        "NEVER": NEVER,
        "PICOSECONDS": PS,
        "MIX_BITS": MIX_BITS,
        "GAP_BITS": histogram.BITS,
        "GAP_BINS": histogram.BINS,
        "COLUMNS": tally.COLUMNS,
        "PROMPT_CELLS": PROMPT_CELLS,
        "REASONS": len(tally.BLOCKED),
        "SAMPLES": tally.SAMPLES,
        "FIRST_GAP": tally.FIRST_GAP,
        "PROMPT_CHARGE": rules.PROMPT_CHARGE,
        "OUTPUT_CHARGE": rules.OUTPUT_CHARGE,
    }


def command(compiler: list[str], target: Path, level: str = FAST) -> list[str]:
    """What compiles the loop."""
    constants = [f"-D{name}=INT64_C({value})" for name, value in definitions().items()]
    return [*compiler, level, *FLAGS, *constants, "-o", str(target), str(HERE / "loop.c")]


def _compile(compiler: list[str], folder: Path, level: str) -> Built:
    temporary: Path | None = None
    try:
        handle, name = tempfile.mkstemp(prefix="making-", suffix=_suffix(), dir=folder)
        os.close(handle)
        temporary = Path(name)
        ran = subprocess.run(
            command(compiler, temporary, level), stdin=subprocess.DEVNULL, capture_output=True, text=True,
            errors="replace", timeout=SECONDS, check=False,
        )  # fmt: skip
        if ran.returncode:
            lines = [line for line in ran.stderr.splitlines() if "error" in line] or ran.stderr.splitlines()
            return Built(None, f"{compiler[0]} failed: {lines[0].strip()[:200] if lines else ran.returncode}")
        if trouble := _trouble(temporary):
            return Built(None, f"what {compiler[0]} made cannot be loaded: {trouble[:200]}")
        path = folder / f"loop-{_key(compiler, level)}-{_digest(temporary)}{_suffix()}"
        os.replace(temporary, path)  # other processes see all of it or nothing
        return Built(path)
    except (OSError, subprocess.SubprocessError) as error:
        return Built(None, f"{compiler[0]} failed: {str(error)[:200]}")
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _compilers() -> Iterator[list[str]]:
    """Commands that may compile, the first to be tried first."""
    try:
        named = shlex.split(os.environ.get("CC", ""))
    except ValueError:  # an unclosed quotation
        named = []
    for words in (named, ["cc"], ["gcc"], ["clang"]):
        if words and (path := shutil.which(words[0])):
            yield [path, *words[1:]]
    if importlib.util.find_spec("ziglang") is not None:
        yield [sys.executable, "-m", "ziglang", "cc"]


def _key(compiler: list[str], level: str) -> str:
    """A name for all that decides what comes out: sources, constants, compiler, machine."""
    # Asking a compiler for its version takes longer than looking at its file, which is another with each version.
    file = Path(compiler[0]).resolve()
    if "ziglang" in compiler and (spec := importlib.util.find_spec("ziglang")) and spec.origin:
        file = Path(spec.origin)
    try:
        identity = f"{file} {file.stat().st_size} {file.stat().st_mtime_ns}"
    except OSError:
        identity = str(file)
    made = hashlib.sha256(f"{command(compiler, Path(), level)} {identity} {platform.machine()} {sys.platform}".encode())
    for source in sorted([*HERE.glob("*.c"), *HERE.glob("*.h")]):
        made.update(source.read_bytes())
    return made.hexdigest()[:16]


def _digest(path: Path) -> str:
    """Of a file's content; empty if it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError:
        return ""


def _trouble(path: Path) -> str:
    """Why a library cannot be loaded; empty if it can be. (Nothing that lies on some file systems can be run.)"""
    try:
        ctypes.CDLL(str(path))
    except OSError as error:
        return str(error) or "unknown reason"
    return ""


def _suffix() -> str:
    return ".dll" if sys.platform == "win32" else ".so"


def _folders(make: bool) -> Iterator[Path]:
    """Folders to keep what is built in: the user's cache folder, else one in the system's folder for temporary files.

    What lies there is run, so nobody else may be able to write to it.
    """
    named = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(named) if os.path.isabs(named) else Path(os.path.expanduser("~"), ".cache")
    user = os.getuid() if hasattr(os, "getuid") else 0
    for where, name in ((lambda: base, "windtunnel"), (tempfile.gettempdir, f"windtunnel-{user}")):
        try:
            folder = Path(where(), name)
            if make:
                folder.parent.mkdir(parents=True, exist_ok=True)
                folder.mkdir(mode=0o700, exist_ok=True)
            about = folder.lstat()
        except OSError:
            continue
        own = not hasattr(os, "getuid") or (about.st_uid == user and not about.st_mode & 0o022)
        if own and stat.S_ISDIR(about.st_mode) and (not make or os.access(folder, os.W_OK)):
            yield folder
