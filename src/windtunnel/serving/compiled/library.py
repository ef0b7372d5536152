"""What C and Python share, as ctypes: the structures of ``shared.h`` and the functions of ``loop.c``."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, c_double, c_int, c_int8, c_int32, c_int64, c_uint8, c_uint64, c_void_p
from functools import cache
from pathlib import Path

from windtunnel.errors import ScenarioError
from windtunnel.serving.compiled.build import build, find
from windtunnel.serving.tally import BLOCKED

REACHED, PAUSED, FAILED = 0, 1, 2
"""Why the loop came back."""
NO_MEMORY, NO_PRICE = 1, 2
"""What made it fail."""
FCFS, SORTED, FAIR = 0, 1, 2
"""Orders of a queue."""


def _all(kind: type, names: str) -> list[tuple[str, type]]:
    return [(name, kind) for name in names.split()]


class Total(Structure):
    """``struct total``."""

    _fields_ = [("low", c_uint64), ("high", c_uint64)]

    def __int__(self) -> int:
        return (int(self.high) << 64) | int(self.low)


class Request(Structure):
    """``struct request``."""

    _fields_ = [
        *_all(c_int64, "origin arrival last_token units start first finish"),
        *_all(
            c_int32, "input_tokens output_tokens client key prefilled generated epoch next previous preempted replica"
        ),
        ("status", c_int8),
        ("flags", c_uint8),
    ]


class Prices(Structure):
    """``struct prices``."""

    _fields_ = [
        *_all(c_void_p, "base head sends schedule copies issue ends decode waves prompt apart spread"),
        *_all(c_int64, "groups base_rows base_columns head_points decode_rows decode_points"),
        *_all(c_int64, "wave_points prompt_rows prompt_columns spread_points mixed overlapped eager by_decodes"),
    ]


class Settings(Structure):
    """``struct settings``. ``rules``: (window, stop, units) of each view."""

    _fields_ = [
        ("prices", Prices),
        ("rules", c_void_p),
        *_all(
            c_int64, "views budget most_sequences slots ranks block state_units capacity watermark longest swap_units"
        ),
        *_all(c_int64, "front max_queue timeout clients index log_size order"),
        *_all(c_int64, "mixed cut limited gated padded reserve_output delayed one_by_one keep_done"),
        ("swap_s", c_double),
    ]


class Counts(Structure):
    """``struct tally``."""

    _fields_ = [
        *_all(c_int64, "busy iterations batch_sum batch_max events kv_peak"),
        ("blocked", c_int64 * len(BLOCKED)),
        ("kv_integral", Total),
        *_all(c_void_p, "gaps decode_cells prompt_cells"),
        *_all(c_int64, "decode_rows columns sampled logged gap next_sample"),
        *_all(c_void_p, "samples log"),
    ]


class State(Structure):
    """``struct state``: what can be seen of an engine, at its address."""

    _fields_ = [
        *_all(c_int64, "clock in_system owed completed produced"),
        ("queue_integral", Total),
        ("done", c_void_p),
        *_all(c_int64, "done_length done_room"),
        ("tally", Counts),
    ]


class LoadNow(Structure):
    """``struct load``."""

    _fields_ = _all(c_int64, "queued running tokens used")


def load() -> ctypes.CDLL:
    """The compiled loop's functions, of the best that has been built; built if need be.

    Raises:
        ScenarioError: there is no C compiler, or it fails.
    """
    built = find()
    if built.path is None:
        built = build()
    if built.path is None:
        raise ScenarioError(f"the compiled event loop cannot be built: {built.reason}; loop=python needs no compiler")
    return _opened(built.path)


@cache
def _opened(path: Path) -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise ScenarioError(f"the compiled event loop cannot be loaded: {error}; loop=python needs none") from None
    engine = c_void_p
    for name, result, *arguments in (
        ("wt_new", engine, POINTER(Settings), c_void_p),
        ("wt_free", None, engine),
        ("wt_submit", c_int, engine, c_int64, c_void_p, c_void_p, c_int64),
        ("wt_submit_one", c_int, engine, c_int64, c_int64, c_int64),
        ("wt_advance", c_int, engine, c_int64, c_int64),
        ("wt_bound", c_int64, engine),
        ("wt_load", None, engine, POINTER(LoadNow)),
        ("wt_held", c_int64, engine, c_void_p),
        ("wt_pass", None, engine, c_int64),
        ("wt_settle", None, engine),
        ("wt_stop", None, engine, c_int64),
        ("wt_failure", c_int, engine),
        ("wt_sizes", None, POINTER(c_int64)),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    _check(library)
    return library


def _check(library: ctypes.CDLL) -> None:
    """C and Python must agree on what they share."""
    shared = (Request, Settings, State, LoadNow)
    sizes = (c_int64 * len(shared))()
    library.wt_sizes(sizes)
    for kind, size in zip(shared, sizes, strict=True):
        if ctypes.sizeof(kind) != size:
            raise RuntimeError(f"{kind.__name__} has {ctypes.sizeof(kind)} bytes in Python and {size} in C")
