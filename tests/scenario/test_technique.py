"""Techniques by name: what is read, refused, and what a rewrite reaches."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import pytest

from windtunnel.engine import infer, simulate, train
from windtunnel.errors import ScenarioError
from windtunnel.models.network import Network
from windtunnel.ops.tree import Node, Repeat
from windtunnel.scenario import registry
from windtunnel.scenario.engines import ServeEngine, TrainEngine
from windtunnel.scenario.files import read_scenario, save_scenario
from windtunnel.scenario.options import InferOptions, Options, TrainOptions, read_options
from windtunnel.scenario.provenance import Given, assumption, paper, plain
from windtunnel.scenario.simulate_options import SimulateOptions
from windtunnel.scenario.technique import About, ServeSetting, Technique, TrainSetting, parameter
from windtunnel.scenario.train import train_scenario

TRAIN = {"model": "llama-3.1-8b", "on": "8xh100-sxm", "seq": 2048, "global_batch": 8}
SERVE = {"model": "llama-3.1-8b", "on": "1xh100-sxm"}


class Toy(Technique):
    """Every rewrite at once, each with a switch."""

    name: ClassVar[str] = "toy"
    about: ClassVar[About] = About(
        seed="P000", title="A toy", source="", summary="Nothing real.", rewrites=("model", "step", "policy"),
        commands=("train", "infer", "simulate"), decides=("everything",),
    )  # fmt: skip
    layers: int = parameter(assumption(0, "a test"), "layers that are left out", ge=0, le=8)
    zero: int = parameter(assumption(-1, "a test"), "ZeRO stage that is asked for")
    twice: bool = parameter(assumption(False, "a test"), "every layer runs twice")
    host_s: float = parameter(paper(0.0, "section 1"), "host seconds a step", ge=0)

    def request(self, options: Options) -> Options:
        return options if self.zero < 0 else self.ask(options, zero=self.zero)

    def model(self, network: Network) -> Network:
        return replace(network, blocks=network.blocks[: len(network.blocks) - self.layers])

    def engine(self, engine: TrainEngine | ServeEngine) -> TrainEngine | ServeEngine:
        return engine.model_copy(update={"host_s_per_step": engine.host_s_per_step + self.host_s})

    def train(self, setting: TrainSetting) -> TrainSetting:
        return replace(setting, plan=replace(setting.plan, rewrites=self._rewrites()))

    def serve(self, setting: ServeSetting) -> ServeSetting:
        return replace(setting, plan=replace(setting.plan, rewrites=self._rewrites()))

    def _rewrites(self) -> tuple[object, ...]:
        def again(tree: Node) -> Node:
            return Repeat(2, tree)

        return (again,) if self.twice else ()


class Other(Toy):
    name: ClassVar[str] = "other"


class Serving(Technique):
    name: ClassVar[str] = "serving"
    about: ClassVar[About] = About(
        seed="P000", title="", source="", summary="", rewrites=("policy",), commands=("infer",)
    )


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {c.name: c for c in (Toy, Other, Serving)}
    found = registry.technique_class
    monkeypatch.setattr(registry, "technique_class", lambda name: known[name] if name in known else found(name))
    registry.read_technique.cache_clear()
    registry._used.cache_clear()


def asked(kind: type[Options], base: dict[str, object], *techniques: str) -> Options:
    return read_options(kind, {**base, **({"with": list(techniques)} if techniques else {})})


def seconds(*techniques: str) -> float:
    return train(asked(TrainOptions, TRAIN, *techniques)).step_time_s


def test_a_technique_that_changes_nothing_changes_nothing() -> None:
    for kind, base, run in ((TrainOptions, TRAIN, train), (InferOptions, SERVE, infer)):
        without, with_ = (run(asked(kind, base, *t)).to_dict() for t in ((), ("toy",)))
        assert with_["plan"].pop("with") == ["toy"]
        assert with_ == without


def test_each_rewrite_reaches_the_answer() -> None:
    assert seconds("toy:layers=8") < seconds()
    assert seconds("toy:twice=true") > 1.5 * seconds()
    assert seconds("toy:host_s=1") > seconds() + 0.5
    scenario = train_scenario(asked(TrainOptions, TRAIN, "toy:zero=2"))
    assert (scenario.plan.zero, scenario.options.zero) == (2, 2)


def test_a_rewritten_layer_is_rewritten_in_both_passes() -> None:
    """Twice a layer is twice its forward and its backward pass: model FLOPs stay, time doubles but for the rest."""
    one, two = (train(asked(TrainOptions, TRAIN, *t)) for t in ((), ("toy:twice=true",)))
    rest = one.time_s["optimizer"] + one.time_s["dp_comm"]
    assert two.time_s["compute"] == pytest.approx(2 * one.time_s["compute"], rel=0.02)
    assert two.step_time_s < 2 * one.step_time_s + rest


def test_serving_layers_are_rewritten_in_infer_and_in_simulate() -> None:
    once, twice = (infer(asked(InferOptions, SERVE, *t)) for t in ((), ("toy:twice=true",)))
    assert twice.tpot_s > 1.6 * once.tpot_s
    work = {**SERVE, "rate": 2, "requests": 50, "input_length": "512", "output_length": "64"}
    once_s, twice_s = (simulate(asked(SimulateOptions, work, *t)) for t in ((), ("toy:twice=true",)))
    assert twice_s.tpot_s["mean"] > 1.6 * once_s.tpot_s["mean"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nothing", "unknown technique 'nothing'"),
        ("toy:size=3", "unknown parameter of toy: 'size'"),
        ("toy:layers=many", "technique toy: layers='many'"),
        ("toy:layers=9", "less than or equal to 8"),
        ("toy:layers", "accepted: name:key=value"),
        ("serving", "serving changes infer; it does nothing in train"),
        ("toy:zero=2 ", "toy sets zero=2; leave out zero=1"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(text: str, said: str) -> None:
    with pytest.raises(ScenarioError, match=said.replace("(", r"\(")) as caught:
        train(asked(TrainOptions, {**TRAIN, "zero": 1}, text))
    assert "\n" not in str(caught.value)


def test_two_that_decide_the_same_refuse_each_other() -> None:
    with pytest.raises(ScenarioError, match="toy and other both decide everything; leave one out"):
        train(asked(TrainOptions, TRAIN, "toy", "other"))
    with pytest.raises(ScenarioError, match="toy is given twice"):
        train(asked(TrainOptions, TRAIN, "toy", "toy:layers=1"))


def test_a_saved_scenario_has_its_techniques(tmp_path) -> None:
    options = asked(TrainOptions, TRAIN, "toy:layers=2")
    save_scenario(options, "train", tmp_path / "a.yaml")
    assert "with:\n- toy:layers=2" in (tmp_path / "a.yaml").read_text()
    assert read_scenario(tmp_path / "a.yaml") == ("train", options)


def test_one_technique_is_a_list_of_one() -> None:
    assert read_options(TrainOptions, {**TRAIN, "with": "toy"}).techniques == ["toy"]
    assert read_options(TrainOptions, {**TRAIN, "techniques": ["toy"]}).techniques == ["toy"]


def test_a_figure_says_where_it_comes_from() -> None:
    assert registry.describe("toy")["parameters"]["host_s"] == {
        "default": 0.0, "meaning": "host seconds a step", "provenance": "paper", "note": "section 1",
    }  # fmt: skip
    assert plain({"a": [paper(1, "x")], "b": Given((2.0, 3.0), "catalogue", "y")}) == {"a": [1], "b": (2.0, 3.0)}
    with pytest.raises(ValueError, match="say where it stands"):
        assumption(1, " ")
