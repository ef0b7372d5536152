"""CacheGen (arXiv 2310.07240): loading long contexts as bitstreams, against 8-bit KV caches and against text."""

from __future__ import annotations

from windtunnel.scenario.provenance import assumption, catalogue, paper
from windtunnel.studies.ask import infer
from windtunnel.studies.study import Claim, Setup, Study, Sweep

SETUP = Setup(
    models=catalogue(
        (("llama-3.1-8b", 1, "fp16"), ("codellama-34b", 4, "fp16"), ("llama-2-70b", 4, "w4a16")),
        "the paper's Llama-34B and Llama-70B, and for its Mistral-7B of long contexts a model with the same cache (the "
        "catalogue's has a window); on as many A40s as hold them",
    ),
    on=paper("{}xa40", "section 7.1: a server with four NVIDIA A40"),
    engine=assumption("transformers", "the authors' code calls Hugging Face Transformers"),
    tokens=paper(9400, "table 2: LongChat's median context"),
    output=assumption(2, "the delay ends with the first token"),
    technique=paper("cachegen:bandwidth_gbit_per_s={}", "section 7.2: 3 Gbit/s; bitstreams 8 times smaller than fp16"),
    quantised=paper(
        "cachegen:bandwidth_gbit_per_s={},ratio=2,text=false,decode_gbyte_per_s=1000000",
        "section 7.1: the baseline sends the cache in 8 bits; widening it takes no time worth counting",
    ),
    bandwidth=paper(3.0, "section 7.2: 3 Gbit/s"),
    bandwidths=assumption((0.05, 0.2, 0.8, 3.0, 12.0, 50.0, 200.0, 800.0), "from a slow line to a fast fabric"),
)


def delay(case: tuple[str, int, str], technique: str) -> float:
    """Seconds to the first token of an answer."""
    model, tp, precision = case
    return infer(
        model=model, on=SETUP.on.format(tp), tp=tp, precision=precision, engine=SETUP.engine, input=SETUP.tokens,
        output=SETUP.output, techniques=[technique] if technique else [],
    ).ttft_s  # fmt: skip


def over_quantised(case: tuple[str, int, str], bandwidth: float) -> float:
    """Delay with 8-bit caches over that with CacheGen."""
    return delay(case, SETUP.quantised.format(bandwidth)) / delay(case, SETUP.technique.format(bandwidth))


def over_text(case: tuple[str, int, str], bandwidth: float) -> float:
    """Delay of computing the context over that with CacheGen."""
    return delay(case, "") / delay(case, SETUP.technique.format(bandwidth))


def over_both(bandwidth: float) -> float:
    """Delay of the quicker of the two over that with CacheGen, for the first model."""
    case, *_ = SETUP.models
    return min(over_quantised(case, bandwidth), over_text(case, bandwidth))


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


STUDY = Study(
    name="cachegen",
    seed="P120",
    title="CacheGen: Fast Context Loading for Language Model Applications",
    technique="cachegen",
    setup=SETUP,
    setup_stated=False,
    claim=Claim(
        metric="delay of fetching and processing contexts with 8-bit caches over that with CacheGen, mean of models",
        published=paper((2.7, 3.0), "abstract: reduces the total delay by 2.7-3x"),
        kind="ratio",
        predict=lambda: mean([over_quantised(case, SETUP.bandwidth) for case in SETUP.models]),
        why=(
            "On the high side: here the link alone bounds the baseline, and decoding hides behind the transfer but for "
            "its last piece; the paper's figures hold what its pipeline and its adaptation to the link leave."
        ),
    ),
    also=(
        Claim(
            metric="delay of computing contexts from text over that with CacheGen, mean of models",
            published=paper(None, "abstract: compared with recent methods, without a number for text alone"),
            kind="ratio",
            predict=lambda: mean([over_text(case, SETUP.bandwidth) for case in SETUP.models]),
        ),
    ),
    sweep=Sweep(
        variable="bandwidth of the store's link in Gbit/s",
        values=SETUP.given["bandwidths"],
        gain=over_both,
        metric="delay with the better of 8-bit caches and text, over that with CacheGen",
    ),
)
