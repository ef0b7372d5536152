"""The same code on a Ray cluster of two nodes, both on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from windtunnel.errors import ScenarioError
from windtunnel.planning import fan_out
from windtunnel.planning.points import Found, Text
from windtunnel.planning.store import Store

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason='needs Ray: pip install "windtunnel[ray]"')


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes of one core each, which this process is connected to."""
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def squares() -> Callable[[int, int], Any]:
    """An ``evaluate`` that workers get by value, since they cannot import this file."""

    def evaluate(shared: int, chunk: int) -> Any:
        import numpy as np

        from windtunnel.errors import ScenarioError
        from windtunnel.planning.points import Text

        if chunk == 99:
            raise ScenarioError("tp=3 does not divide 8 heads")
        n = np.arange(chunk)
        table = {"x": n * n / shared, "even": n % 2 == 0, "text": Text((n % 2).astype(np.int8), ("a", "b"))}
        return table, {"sum": int(n.sum())}

    return evaluate


def plain(results: Iterator[Found]) -> dict[str, Any]:
    """What can be compared, by key."""
    return {
        found.key: (found.summary, {
            name: column.values().tolist() if isinstance(column, Text) else (column.dtype, column.tolist())
            for name, column in found.table.items()
        })
        for found in results
    }  # fmt: skip


def test_two_nodes_give_what_one_process_gives(cluster: Any, tmp_path: Path) -> None:
    import ray

    alone = plain(fan_out.run(squares(), 3, range(30), str))
    with Store.open(tmp_path / "s.duckdb", "train", {}) as store:
        assert plain(fan_out.run(squares(), 3, range(20), str, workers="ray", store=store)).items() <= alone.items()
        assert plain(fan_out.run(squares(), 3, range(30), str, workers="ray", store=store)) == alone
    assert ray.is_initialized(), "a cluster that was there is left there"


def test_both_nodes_work(cluster: Any, tmp_path: Path) -> None:
    """Two chunks that wait for each other are evaluated at once, and each node has one core."""

    def evaluate(shared: Any, chunk: int) -> Any:
        import time

        import ray

        (shared / str(chunk)).touch()
        deadline = time.monotonic() + 60
        while not (shared / str(1 - chunk)).exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        return {}, {"node": ray.get_runtime_context().get_node_id()}

    results = fan_out.run(evaluate, tmp_path, range(2), str, workers="ray")
    assert len({found.summary["node"] for found in results}) == 2


def test_an_error_comes_as_itself(cluster: Any) -> None:
    with pytest.raises(ScenarioError) as caught:
        list(fan_out.run(squares(), 3, [*range(6), 99], str, workers="ray"))
    assert type(caught.value) is ScenarioError
    assert str(caught.value) == "tp=3 does not divide 8 heads"


def test_a_node_of_another_version_is_refused(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("windtunnel.planning.pools.version", lambda: "0.0.9")
    with pytest.raises(ScenarioError, match=r"a node of the Ray cluster has windtunnel .*; install 0\.0\.9 there"):
        list(fan_out.run(squares(), 3, range(6), str, workers="ray"))


def test_a_cluster_is_found_by_its_address(cluster: Any) -> None:
    script = """
import ray
from windtunnel.planning import fan_out
nodes = lambda shared, chunk: ({}, {"cores": ray.cluster_resources()["CPU"]})
print({found.summary["cores"] for found in fan_out.run(nodes, 0, range(4), str, workers="ray")})
"""
    environment = os.environ | {"RAY_ADDRESS": cluster.address}
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, env=environment)
    assert (ran.stdout, ran.returncode) == ("{2.0}\n", 0), ran.stderr
    assert ran.stderr == ""


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1:99999", "junk"])
def test_a_cluster_that_is_not_there_is_said_at_once(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with pytest.raises(ScenarioError, match="cannot reach or start a Ray cluster: .*" + address):
        list(fan_out.run(squares(), 3, range(6), str, workers="ray"))


def test_no_more_than_one_chunk_per_core_is_evaluated_and_not_committed(cluster: Any, tmp_path: Path) -> None:
    log = tmp_path / "begun"

    def evaluate(shared: int, chunk: int) -> Any:
        with open(log, "a") as stream:
            stream.write(f"{chunk}\n")
        return {"x": np.arange(3.0)}, {}

    with Store.open(tmp_path / "s.duckdb", "train", {}) as store:
        for _ in fan_out.run(evaluate, 0, range(20), str, workers="ray", store=store):
            assert len(log.read_text().split()) - len(store.keys) <= 2


def test_plan_train_gives_the_same_answer_on_two_nodes(cluster: Any) -> None:
    from windtunnel.planning import plan_train
    from windtunnel.scenario.options import read_options
    from windtunnel.scenario.plan_options import PlanTrainOptions

    asked = {
        "model": "llama-3.1-8b", "on": "16xh100-sxm", "global_batch": 32, "seq": 4096, "tp": "1,2", "pp": "1,2",
        "cp": "1", "micro_batch": "1,2", "zero": "1,3", "hsdp": "off",
    }  # fmt: skip
    alone, there = (plan_train(read_options(PlanTrainOptions, {**asked, "workers": w})).to_dict() for w in ("1", "ray"))
    for field in ("best", "pareto", "evaluated", "feasible", "why_not", "obvious"):
        assert there[field] == alone[field]
