"""One iteration of a serving engine, priced: what papers that look inside an engine measure."""

from __future__ import annotations

from typing import Any

from windtunnel.cost import load_calibration, make_pricer
from windtunnel.cost.runtime import runtime_of
from windtunnel.ops.fold import Evaluation
from windtunnel.ops.values import Value
from windtunnel.parallel.iteration import iteration
from windtunnel.scenario.batch import Batch, causal_pairs, tokens_seen
from windtunnel.scenario.options import InferOptions, read_options
from windtunnel.scenario.serve import infer_scenario


def iteration_s(*, prompt: int = 0, before: int = 0, decodes: int = 0, context: int = 0, **options: Any) -> float:
    """Seconds of an iteration with ``prompt`` tokens of one prompt, of which ``before`` were there already, and
    ``decodes`` that each see ``context`` tokens. ``options``: of ``windtunnel infer``.

    Raises:
        ScenarioError: the options are wrong.
    """
    scenario = infer_scenario(read_options(InferOptions, options))
    network, cluster = scenario.network, scenario.cluster
    pieces = min(prompt, 1)

    def view(window: int | None) -> tuple[Value, Value, Value]:
        keys = prompt + tokens_seen(before + 1.0, window) - 1.0
        return causal_pairs(prompt, before, window), keys * pieces, decodes * tokens_seen(float(context), window)

    whole = view(None)
    batch = Batch(
        tokens=float(prompt + decodes),
        sequences=float(pieces + decodes),
        prefill_tokens=float(prompt),
        prefill_pairs=whole[0],
        prefill_context=whole[1],
        decode_sequences=float(decodes),
        decode_context=whole[2],
        windows={w: view(w) for w in network.views},
        sequences_in_prefill=float(pieces),
    )
    calibration = load_calibration(cluster.accelerator, scenario.options.calibration)
    price = make_pricer(cluster, runtime_of(scenario.engine), calibration)
    return float(Evaluation(iteration(network, scenario.plan, scenario.engine, batch).tree, price).seconds())
