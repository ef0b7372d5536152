"""Where chunks are evaluated: processes of this machine, or the machines of a Ray cluster."""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import signal
import socket
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol

from windtunnel.errors import ScenarioError
from windtunnel.planning.points import Found, found
from windtunnel.planning.store_file import one_line, version

ORPHAN_S = 0.5
"""How often a worker looks whether the process that it works for still is there."""


class Pool(Protocol):
    """``workers`` chunks are given to it at a time."""

    workers: int

    def submit(self, key: str, chunk: Any) -> Future[Found]:
        """Have a chunk evaluated."""

    def result(self, future: Future[Found]) -> Found:
        """What a finished one gave; what ``evaluate`` raised comes as it was raised."""

    def stop(self, *, now: bool) -> None:
        """End the workers; ``now``: what still runs is given up."""


class LocalPool:
    """Processes of this machine: joblib's executor, which starts them afresh instead of by fork."""

    def __init__(self, work: tuple[Any, Any], workers: int) -> None:
        from joblib.externals.loky import ProcessPoolExecutor

        self.workers = workers
        self._started = False
        self._running: set[Future[Found]] = set()
        # The workers are the parallelism: each computes on one thread.
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        self._executor = ProcessPoolExecutor(
            workers, initializer=_begin, initargs=(work, os.getpid()), env=threads | {"POLARS_MAX_THREADS": "1"}
        )

    def submit(self, key: str, chunk: Any) -> Future[Found]:
        # The first chunk starts the processes.
        with self._ended_in_one_line(), nullcontext() if self._started else _no_interrupt():
            future: Future[Found] = self._executor.submit(_evaluate_here, key, chunk)
        self._started = True
        self._running.add(future)
        return future

    def result(self, future: Future[Found]) -> Found:
        self._running.remove(future)
        with self._ended_in_one_line():
            return future.result()

    @contextmanager
    def _ended_in_one_line(self) -> Iterator[None]:
        """A worker that is gone, which is found out when work is given or when it should be done."""
        from joblib.externals.loky import BrokenProcessPool

        try:
            yield
        except BrokenProcessPool:
            raise ScenarioError(
                f"a worker process was ended from outside, or the {self.workers} of them have no memory left; "
                "try fewer workers"
            ) from None

    def stop(self, *, now: bool) -> None:
        # The executor stumbles over a chunk that it has not passed on yet; it takes a moment, from the submission.
        patience = time.monotonic() + 2
        while time.monotonic() < patience and not all(f.running() or f.done() for f in self._running):
            time.sleep(0.001)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # without pgrep the workers are ended all the same, their children are not
            self._executor.shutdown(wait=True, kill_workers=now)


class RayPool:
    """Tasks on a Ray cluster, as many at a time as it has cores."""

    def __init__(self, work: tuple[Any, Any]) -> None:
        try:
            import ray
            from ray import cloudpickle
        except ImportError:
            raise ScenarioError('ray is not installed; pip install "windtunnel[ray]"') from None
        self._ray = ray
        self._ours = not ray.is_initialized()
        if self._ours:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody is told of the use of this package
            try:
                _reach(os.environ.get("RAY_ADDRESS", ""))
                ray.init(include_dashboard=False, log_to_driver=False, logging_level="error")
            except Exception as error:  # whatever the connection failed with
                raise ScenarioError(f"cannot reach or start a Ray cluster: {one_line(error)}") from None
        self.workers = max(1, int(ray.cluster_resources().get("CPU", 1)))
        text = cloudpickle.dumps(work)
        # In a list the reference stays one: a worker fetches what it stands for when it meets it first.
        self._work = (hashlib.sha256(text).hexdigest(), version(), [ray.put(text)])
        self._task = ray.remote(_evaluate_there)
        self._running: dict[Future[Found], Any] = {}

    def submit(self, key: str, chunk: Any) -> Future[Found]:
        reference = self._task.remote(*self._work, key, chunk)
        future: Future[Found] = reference.future()
        self._running[future] = reference
        return future

    def result(self, future: Future[Found]) -> Found:
        del self._running[future]
        try:
            return future.result()
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except self._ray.exceptions.RayError as error:
            raise ScenarioError(f"a worker of the Ray cluster was lost: {one_line(error)}") from None

    def stop(self, *, now: bool) -> None:
        if self._ours:
            self._ray.shutdown()
            return
        for reference in self._running.values():  # none is left when all is well
            self._ray.cancel(reference, force=now)


def _reach(address: str) -> None:
    """Ray tries for minutes to reach a cluster that is not there.

    Raises:
        OSError: nobody answers at HOST:PORT. Other addresses are left to Ray.
    """
    host, _, port = address.rpartition(":")
    if re.fullmatch(r"[\w.-]+", host) and port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except (OSError, OverflowError) as error:
            raise OSError(f"RAY_ADDRESS={address}: {error}") from None


_held: tuple[str, Any] = ("", None)
"""In a worker: what it works on, as (digest, (evaluate, shared))."""


def _begin(work: tuple[Any, Any], parent: int) -> None:
    """The start of a local worker."""
    global _held
    _held = ("", work)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # for one that starts later, in place of another
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    """End this process when its parent is gone: one that was killed cannot say so."""
    while os.getppid() == parent:
        time.sleep(ORPHAN_S)
    os._exit(1)


def _evaluate_here(key: str, chunk: Any) -> Found:
    evaluate, shared = _held[1]
    return found(key, *evaluate(shared, chunk))


def _evaluate_there(digest: str, ours: str, work: list[Any], key: str, chunk: Any) -> Found:
    import ray

    global _held
    if version() != ours:
        raise ScenarioError(f"a node of the Ray cluster has windtunnel {version()}; install {ours} there")
    if _held[0] != digest:
        _held = (digest, pickle.loads(ray.get(work[0])))
    return _evaluate_here(key, chunk)


@contextmanager
def _no_interrupt() -> Iterator[None]:
    """Ctrl-C goes to all processes of a terminal; those that start here never see it, and are ended by this one."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is None:  # it cannot be set, or set back
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # which a process hands down, as it does not a handler
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
