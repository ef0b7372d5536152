"""Writes docs/techniques/*.md, their pictures and docs/studies.md from the techniques' and the studies' own files.

    python scripts/technique_pages.py [NAME ...] [--workers N] [--no-sweeps]

All studies are run (half a minute on two cores), and the sweeps of the techniques that are named, or of all of them;
with --no-sweeps the figures of the last ones stay. Needs matplotlib (the extra ``plot``).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from joblib import Parallel, delayed

from windtunnel.report.plot_studies import plot_studies, plot_sweep
from windtunnel.report.studies import figure
from windtunnel.report.techniques import example
from windtunnel.scenario.registry import describe, technique_names
from windtunnel.studies import load_study, run_studies, study_names
from windtunnel.studies.study import swept

DOCS = Path(__file__).resolve().parents[1] / "docs"
SWEPT = "## Where it helps, and where it stops"
REWRITES = {
    "model": "the model (another network)",
    "step": "the step (another plan, engine or tree of operators)",
    "policy": "the policy (what is asked of the deployment or of the run)",
}

STUDIES = """\
# Studies

A study is a paper's claim, run: the setup as far as it is stated, the baseline as it was, the technique switched on,
and the predicted figure beside the published one. `windtunnel study run --all` prints this table; `windtunnel study
run NAME` adds the further claims, what was assumed, and why a claim is missed.

**How to read it.** A ratio r is *reproduced* if ln(predicted)/ln(r) lies in [0.75, 1.25] or the prediction lies in the
published range, and shows the *direction* from 0.1 on; an absolute quantity is reproduced within 25 %. A claim "up to"
is compared with the largest value over the range that the paper swept. Every figure of a setup comes from the paper,
the catalogue, a calibration with other measurements, or is named as an assumption (a test holds that); none exists to
meet a claim. What a paper measured also has what nobody stated: versions, warm-up, luck.

**What to check before relying on one.** Claims are those of the abstracts. What is attributed to a section, table or
figure beyond these was written down from knowledge of the papers, not with each at hand. Some studies have a choice on
which their verdict hangs (a run's length, one limit, an acceptance); their pages name it.
"""


def row(claim: Mapping[str, Any]) -> str:
    verdict = claim["verdict"] or "no number"
    bold = f"**{verdict}**" if verdict == "missed" else verdict
    return f"{cell(claim['metric'])} | {figure(claim['published'])} | {figure(claim['predicted'])} | {bold}"


def cell(text: object) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")


def studies_page(found: Mapping[str, Any]) -> str:
    """The table of all studies, with the reasons of misses."""
    counts = found["verdicts"]
    lines = [STUDIES, "| study | paper | claim | published | predicted | verdict |", "|---|---|---|---:|---:|---|"]
    for s in found["studies"]:
        lines.append(f"| [{s['name']}](techniques/{s['name']}.md) | {s['seed']} | {row(s)} |")
    said = ", ".join(f"{n} {v}" for v, n in counts.items() if n)
    lines += ["", f"In all: {said}.", "", "![Published against predicted](images/studies.svg)", ""]
    lines += ["## Why claims are missed, or only their direction is found", ""]
    for s in found["studies"]:
        for claim in (s, *s["also"]):
            if claim["verdict"] in ("direction", "missed"):
                published, predicted = figure(claim["published"]), figure(claim["predicted"])
                lines.append(f"- **{s['name']}**, {claim['metric']} ({published}; {predicted}): {claim['why']}")
    return "\n".join(lines) + "\n"


def technique_page(name: str, study: Mapping[str, Any] | None) -> str:
    """One technique's page, without its sweep."""
    return "\n".join(_technique(name, study)) + "\n"


def _technique(name: str, study: Mapping[str, Any] | None) -> Iterator[str]:
    t = describe(name)
    yield f"# {name}\n"
    yield f"{t['summary']}\n"
    seed = f", {t['seed']} in the list of published systems" if t["seed"] else ""
    yield f"- **Paper**: {t['title']} ({t['source']}{seed})."
    yield f"- **Rewrites**: {'; '.join(REWRITES[r] for r in t['rewrites'])}."
    yield f"- **For**: {', '.join(f'`{c}`' for c in t['commands'])}."
    if t["decides"]:
        yield f"- **Decides** {'; '.join(t['decides'])}: another technique that decides the same is refused beside it."
    yield "\n## Parameters\n"
    if t["parameters"]:
        yield "| parameter | default | meaning | where the default comes from |\n|---|---:|---|---|"
        for key, p in t["parameters"].items():
            default = "" if p["default"] is None else cell(p["default"])
            yield f"| `{key}` | {default} | {cell(p['meaning'])} | {p['provenance']}: {cell(p['note'])} |"
    else:
        yield "None."
    yield f"\n```sh\nwindtunnel {t['commands'][0]} MODEL --on CLUSTER --with {example(t)}\n```"
    if study is not None:
        yield from _study(study)


def _study(study: Mapping[str, Any]) -> Iterator[str]:
    yield "\n## Against the paper\n"
    yield "| claim | published | predicted | verdict |\n|---|---:|---:|---|"
    for claim in (study, *study["also"]):
        yield f"| {row(claim)} |"
    reasons = [f"- {c['metric']}: {c['why']}" for c in (study, *study["also"]) if c["why"]]
    if reasons:
        yield "\nWhat to know of these figures:\n"
        yield from reasons
    if study["assumptions"]:
        stated = "is stated but for" if study["setup_stated"] else "is not stated;"
        yield f"\nThe setup {stated} what follows, which is assumed:\n"
        yield from (f"- {a}" for a in study["assumptions"])
    yield f"\n```sh\nwindtunnel study run {study['name']}\n```"


def analysis_page(study: Mapping[str, Any]) -> str:
    """The page of a study that is a report of its own."""
    head = [f"# {study['name']}\n", f"{study['title']} ({study['seed']}): an analysis, which switches nothing on."]
    return "\n".join([*head, *_study(study)]) + "\n"


def sweep_section(found: Mapping[str, Any]) -> str:
    """The picture and its figures."""
    values = " | ".join(f"{v:g}" for v in found["values"])
    gains = " | ".join(f"{g:.3g}" for g in found["gain"])
    rule = "|".join(["---"] + ["---:"] * len(found["values"]))
    table = f"| {cell(found['variable'])} | {values} |\n|{rule}|\n| {cell(found['metric'])} | {gains} |"
    picture = f"![{found['metric']} over {found['variable']}](../images/techniques/{found['name']}.svg)"
    return f"\n{SWEPT}\n\n{picture}\n\n{table}\n\nAt 1 it has stopped helping.\n"


def without_sweep(page: str) -> str:
    """A page up to its sweep."""
    return page.partition(f"\n{SWEPT}")[0]


def index_page() -> str:
    lines = ["# Techniques\n", (
        "Published systems that can be switched on with `--with NAME:parameter=value`, several at once, in `train`, "
        "`infer`, `simulate` and `plan`; `plan --try NAME,NAME` searches with each on and off. `windtunnel techniques` "
        "lists them. [How they are built, and how to add one](../technique-guide.md).\n"
    )]  # fmt: skip
    lines += ["| technique | what it does | for | paper |", "|---|---|---|---|"]
    for name in technique_names():
        t = describe(name)
        lines.append(f"| [{name}]({name}.md) | {cell(t['summary'])} | {', '.join(t['commands'])} | {t['seed']} |")
    return "\n".join(lines) + "\n"


def pages(found: Mapping[str, Any]) -> dict[str, str]:
    """Every page by its path below docs, sweeps left out."""
    by_technique: dict[str, Mapping[str, Any]] = {}
    by_seed = {s["seed"]: s["name"] for s in found["studies"]}
    result = {"studies.md": studies_page(found), "techniques/index.md": index_page()}
    for s in found["studies"]:
        if s["technique"] is None:
            result[f"techniques/{s['name']}.md"] = analysis_page(s)
        else:
            by_technique[s["technique"]] = s
    for name in technique_names():
        text = technique_page(name, by_technique.get(name))
        akin = by_seed.get(describe(name)["seed"])
        if name not in by_technique and akin is not None:
            text += f"\nThe study of [{akin}]({akin}.md) says what is claimed of it, and where it helps.\n"
        result[f"techniques/{name}.md"] = text
    return result


def _swept(name: str) -> dict[str, Any]:
    return swept(load_study(name))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--no-sweeps", action="store_true")
    asked = parser.parse_args(arguments)
    found = run_studies(study_names(), workers=asked.workers)
    sweeps = {} if asked.no_sweeps else {
        s["name"]: s
        for s in Parallel(n_jobs=asked.workers)(
            delayed(_swept)(n) for n in study_names() if not asked.names or n in asked.names
        )
    }  # fmt: skip
    (DOCS / "images" / "techniques").mkdir(exist_ok=True)
    (DOCS / "techniques").mkdir(exist_ok=True)
    plot_studies(found["studies"], DOCS / "images" / "studies.svg")
    for path, text in pages(found).items():
        target = DOCS / path
        name = target.stem
        old = target.read_text() if target.exists() else ""
        section = old[len(without_sweep(old)) :]
        if name in sweeps:
            plot_sweep(sweeps[name], DOCS / "images" / "techniques" / f"{name}.svg")
            section = sweep_section(sweeps[name])
        target.write_text(text + section)


if __name__ == "__main__":
    main()
