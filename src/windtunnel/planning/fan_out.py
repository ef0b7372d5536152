"""The chunks of a search evaluated on many processes or machines, and kept in a store as they come.

At most one chunk per worker is evaluated and not yet kept, at any moment: a worker is given its next chunk when the
last one is committed. So at most one chunk per worker is evaluated again after a kill. ``joblib.Parallel`` hands out
the next chunk before this process has seen the last one; that is why joblib's process pool is used here without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from itertools import chain, islice
from types import TracebackType
from typing import Any, Generic, Literal, TypeVar

from windtunnel.errors import ScenarioError
from windtunnel.planning.points import Column, Found, found
from windtunnel.planning.pools import LocalPool, Pool, RayPool
from windtunnel.planning.store import Store

S = TypeVar("S")
C = TypeVar("C")

Evaluate = Callable[[S, C], tuple[Mapping[str, Column], Mapping[str, Any]]]
"""What all chunks share, and a chunk → the chunk's points and a small summary that JSON can hold."""

Workers = int | Literal["ray"]

MOST_WORKERS = 4096


def read_workers(text: str) -> Workers:
    """``--workers``: a number of processes, or ``ray``.

    Raises:
        ScenarioError: anything else.
    """
    if text == "ray":
        return "ray"
    if text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= MOST_WORKERS:
        return int(text)
    shown = text if len(text) <= 80 else text[:77] + "..."
    raise ScenarioError(f"workers={shown}: give a number of processes from 1 to {MOST_WORKERS}, or ray")


class Crew(Generic[S, C]):
    """Workers that evaluate chunks with one ``evaluate`` and one ``shared``, round after round. Used by ``with``.

    ``evaluate`` and ``shared`` are sent to each worker once, and everything must be picklable. ``key`` gives a chunk's
    text, the same in every run of the question and of no other chunk. Processes are started when the first round has
    work for them: with ``workers=1``, one chunk alone, or everything in the store, there is none.

    With ``workers="ray"`` the chunks run as tasks on the Ray cluster that this process is connected to, that
    RAY_ADDRESS names or that runs on this machine, else on one that is started here for the time of the search.
    """

    def __init__(
        self,
        evaluate: Evaluate[S, C],
        shared: S,
        key: Callable[[C], str],
        *,
        workers: Workers = 1,
        store: Store | None = None,
    ) -> None:
        self._work = (evaluate, shared)
        self._key = key
        self._workers = workers
        self._store = store
        self._pool: Pool | None = None

    def run(
        self, chunks: Sequence[C], told: Callable[[Found, int, int], None] | None = None, *, points: bool = True
    ) -> Iterator[Found]:
        """Each chunk's result, as it comes: the stored ones first (without their ``points`` the summaries alone), the
        others in any order.

        Callers must give the same answer for every order and any number of workers. A result is committed before it is
        yielded. ``told`` is called with each, with how many are done and with how many there are.

        Raises:
            ScenarioError: workers cannot be started or were ended from outside, the store cannot be written, or
                ``evaluate`` raised it. Any exception of ``evaluate`` comes as it is.
        """
        by_key = {self._key(chunk): chunk for chunk in chunks}
        if len(by_key) < len(chunks):
            raise ValueError("two chunks have one key")
        stored = by_key.keys() & self._store.keys if self._store else set()
        todo = [(key, chunk) for key, chunk in by_key.items() if key not in stored]
        results = self._evaluated(todo)
        if self._store and stored:
            results = chain(self._store.found(stored, points=points), results)
        for done, result in enumerate(results, 1):
            if told:
                told(result, done, len(by_key))
            yield result

    def _evaluated(self, todo: Sequence[tuple[str, C]]) -> Iterator[Found]:
        pool = self._pool_for(len(todo))
        if pool is None:
            for key, chunk in todo:
                evaluate, shared = self._work
                yield self._kept(found(key, *evaluate(shared, chunk)))
            return
        waiting = iter(todo)
        running: set[Future[Found]] = set()
        try:
            running.update(pool.submit(key, chunk) for key, chunk in islice(waiting, pool.workers))
            while running:
                ready, running = wait(running, return_when=FIRST_COMPLETED)
                for future in ready:
                    result = self._kept(pool.result(future))
                    for key, chunk in waiting:
                        running.add(pool.submit(key, chunk))
                        break
                    yield result
        except BaseException:  # an error, Ctrl-C, or a caller that has had enough: nobody waits for what still runs
            self._stop(now=True)
            raise

    def _pool_for(self, chunks: int) -> Pool | None:
        """What so many chunks are evaluated on; None is this process."""
        if self._workers == "ray":
            if chunks and self._pool is None:
                self._pool = RayPool(self._work)
            return self._pool
        wanted = min(self._workers, chunks)
        if wanted > 1 and (self._pool is None or self._pool.workers < wanted):
            self._stop(now=False)
            self._pool = LocalPool(self._work, wanted)
        return self._pool

    def _kept(self, result: Found) -> Found:
        if self._store:
            self._store.commit(result)
        return result

    def _stop(self, *, now: bool) -> None:
        pool, self._pool = self._pool, None
        if pool:
            pool.stop(now=now)

    def __enter__(self) -> Crew[S, C]:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop(now=error is not None)


def run(
    evaluate: Evaluate[S, C],
    shared: S,
    chunks: Sequence[C],
    key: Callable[[C], str],
    *,
    workers: Workers = 1,
    store: Store | None = None,
    told: Callable[[Found, int, int], None] | None = None,
    points: bool = True,
) -> Iterator[Found]:
    """One round of a :class:`Crew`, which says what is given and raised."""
    with Crew(evaluate, shared, key, workers=workers, store=store) as crew:
        yield from crew.run(chunks, told, points=points)
