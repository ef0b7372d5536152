"""How functions are compiled: once, kept on disk, without the interpreter.

Numba looks only at a function's own file when it decides whether what it has kept is still good; a change in a file
that the function calls into would go unseen. So what is kept lies in a folder named after all sources of the loop.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TypeVar

import numpy as np
from numba import __version__, config, njit
from numpy.typing import NDArray

Smalls = NDArray[np.int32]

F = TypeVar("F", bound=Callable[..., object])


def compiled(function: F) -> F:
    """The compiled form of a function that works on numbers and arrays alone."""
    others = config.CACHE_DIR
    config.CACHE_DIR = _folder()
    try:
        made: F = njit(cache=True, nogil=True, error_model="numpy")(function)
    finally:
        config.CACHE_DIR = others
    return made


@cache
def _folder() -> str:
    """Where compiled code is kept: the user's cache folder, else the system's temporary one."""
    here = Path(__file__).parent
    digest = hashlib.sha256(__version__.encode())
    for source in sorted([*here.glob("*.py"), *here.parent.glob("*.py")]):
        digest.update(source.read_bytes())
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = Path(base) / "windtunnel" / digest.hexdigest()[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return str(folder)
    except OSError:
        pass
    return os.path.join(tempfile.gettempdir(), f"windtunnel-{os.getuid() if hasattr(os, 'getuid') else 0}", folder.name)
