"""The tables of docs/results.md: written from `results/` and `benchmarks/results/`, never by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd

from saferlrm import claims
from saferlrm.errors import SaferlrmError
from saferlrm.store import repository
from saferlrm.verdicts import number

PAGE = "docs/results.md"
OPEN = "<!-- results: written by `saferlrm report --readme`, compared by tests/test_readme.py -->"
CLOSE = "<!-- /results -->"


def results_section(root: Path) -> str:
    """The section between the page's marks, from the files below ``root``.

    Raises:
        SaferlrmError: the study has not been run there.
    """
    path = root / "results" / "06_targets.json"
    if not path.is_file():
        raise SaferlrmError(f"{path} does not exist; run the study first: saferlrm run")
    parts = [
        "Targets were fixed before anything was measured. Intervals are 95 %, over prompts; λ = 0 is the same "
        "training without the auxiliary head.",
        _targets(_rows(path)),
    ]
    ledger = root / "results" / "10_claims.json"
    if ledger.is_file():
        parts += _claims(_rows(ledger))
    parts += _sentences(root / "results")
    scores, controls = (
        root / "results" / f"{name}.json" for name in ("04_classifier_scores", "07_control_differences")
    )
    if scores.is_file() and controls.is_file():
        parts.append(_classifier(_rows(scores), _rows(controls)))
    seeds = root / "results" / "growth_seeds.json"
    if seeds.is_file():
        parts += ["The organisms, grown from three seeds; all ship, the first is the default:", _growth(_rows(seeds))]
    card = root / "results" / "09_organisms_card.json"
    if card.is_file():
        found = _rows(card)
        sizes = " to ".join(str(n) for n in sorted({found["n"].min(), found["n"].max()}))
        parts += [
            f"What alignment does on each of them, thinking on ({sizes} prompts a rate, the first of those in the "
            "tables above, so rates differ from them within their intervals):",
            _organisms(found),
        ]
    timings = root / "results" / "timings.json"
    if timings.is_file():
        parts += ["Time and peak memory of `make study` after installation, on two CPU cores:", _timings(timings)]
    benchmarks = _benchmarks(root / "benchmarks" / "results")
    if benchmarks:
        parts += ["Speed, each ratio measured in one run by a script in `benchmarks/`:", benchmarks]
    return "\n\n".join(parts)


def update_results(root: Path | None = None) -> Path:
    """Rewrites the section in ``docs/results.md``, leaving the rest as it is."""
    root = root or repository()
    page = root / PAGE
    text = page.read_text(encoding="utf-8")
    if OPEN not in text or CLOSE not in text:
        raise SaferlrmError(f"{page} lacks the marks around its results; put back {OPEN} and {CLOSE}")
    before, rest = text.split(OPEN, 1)
    after = rest.split(CLOSE, 1)[1]
    temporary = page.with_suffix(".part")
    temporary.write_text(f"{before}{OPEN}\n{results_section(root)}\n{CLOSE}{after}", encoding="utf-8")
    temporary.replace(page)
    return page


def _rows(path: Path) -> pd.DataFrame:
    return pd.DataFrame(json.loads(path.read_text(encoding="utf-8"))["rows"])


def _table(header: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows])


def _interval(value: float, low: float, high: float) -> str:
    """A value with its interval; what has no upper end was saved without one, because JSON knows no infinity."""
    if math.isnan(low):
        return "not measured"
    value, high = (math.inf if math.isnan(end) else end for end in (value, high))
    return f"{number(value)} [{number(low)}, {number(high)}]"


def _targets(rows: pd.DataFrame) -> str:
    made = []
    for row in rows.itertuples():
        what = f"{row.about}: {row.metric.replace('_', ' ')}, {row.suite.replace('_', ' ')}, thinking {row.mode}"
        control = "" if pd.isna(row.control) else _interval(row.control, row.control_low, row.control_high)
        made.append((what, row.target, _interval(row.value, row.low, row.high), row.n, row.verdict, control))
    return _table(("what", "target", "measured", "n", "verdict", "λ = 0"), made)


def _claims(rows: pd.DataFrame) -> list[str]:
    """How many claims hold, and what the ledger says of the question that the study is about."""
    counts = rows["verdict"].value_counts()
    told = "; ".join(f"{verdict}: {count}" for verdict, count in counts.items())
    heads = claims.parts(rows)["head"][0]
    made = [
        (row.claim, _interval(row.value, row.low, row.high), row.rule, _verdict(row.verdict, row.still_open))
        for row in heads.itertuples()
    ]
    gains = rows[rows["id"].isin([claim.id for claim in claims.HEAD_GAINS])]
    most = max(0.0, -100 * gains["low"].min())
    beside = rows[rows["control_verdict"] != ""]
    same = beside[beside["verdict"] == beside["control_verdict"]]
    control = [
        (row.claim, row.rule, _interval(row.value, row.low, row.high), _verdict(row.verdict, row.still_open),
         _interval(row.control_value, row.control_low, row.control_high),
         _verdict(row.control_verdict, row.control_still_open))
        for row in beside.itertuples()
    ]  # fmt: skip
    out_of_reach = rows[rows["note"] != ""]
    return [
        f"[The ledger](../notebooks/10_claims_ledger.ipynb) judges {len(rows)} claims by rules fixed in the code: "
        f"{told}. Does the head help beyond plain fine-tuning, and why? "
        "(differences of attack success, over prompts and seeds)",
        _table(("claim", "measured", "bound", "verdict"), made),
        f"On the default organism no gain of the head beyond {most:.1f} points, against the same training without it, "
        f"is within any of the {len(gains)} intervals; which gains are excluded the single intervals say.",
        f"Headlines about PreSafe against the model before alignment, and the same rule on λ = 0: {len(same)} of "
        f"{len(beside)} verdicts are the same, so what they show is alignment and not the head.",
        _table(("claim", "bound", "PreSafe", "verdict", "λ = 0", "verdict"), control),
        "Of a claim of several parts (suites, organisms) the part furthest from holding is shown, of those with its "
        "verdict. "
        f"{len(out_of_reach)} of the claims that do not hold or stay open could not have held with so many prompts and "
        f"seeds, whatever the result: {', '.join(f'`{name}`' for name in out_of_reach['id'])}.",
    ]


def _verdict(verdict: str, still_open: str) -> str:
    return f"{verdict}: {still_open}" if still_open else verdict


def _classifier(scores: pd.DataFrame, controls: pd.DataFrame) -> str:
    """What the head's teacher is worth on unseen prompts, and what other labels in its place changed."""
    bert = scores[scores["model"] == "BERT"].set_index("group")
    told = ", ".join(
        f"{said} {_interval(*bert.loc[group, ['auroc', 'auroc_low', 'auroc_high']])}"
        for group, said in (("direct", "direct requests"), ("novel_wrapped", "jailbreaks"), ("scary", "scary pairs"))
        if group in bert.index
    )
    words = []
    for name, said in (("gold", "gold labels"), ("hard", "hard decisions")):
        part = controls[
            (controls["before"].str.partition("/")[0] == name) & controls["after"].str.startswith("presafe")
        ]
        if len(part):
            most = 100 * part[["low", "high"]].abs().to_numpy().max()
            decided = int((part["p_holm"] < 0.05).sum())
            words.append(f"{said}, {decided} of {len(part)} differences decided, none beyond {most:.0f} points")
    return (
        f"The classifier that teaches the head ranks unseen prompts by the model's decision with an AUROC of {told}. "
        f"Other labels in its place, against PreSafe after Holm's correction: {'; '.join(words)}."
    )


def _sentences(folder: Path) -> list[str]:
    """How safety comes back, and what label-only prompts do: sentences computed from notebooks 06 and 07."""
    from saferlrm.findings import label_only_sentence, thought_sentence  # slow to import

    said = []
    for name, sentence in (
        ("06_thoughts", thought_sentence),
        ("07_control_differences", lambda rows: label_only_sentence(rows, "harmful_novel_wrapped")),
    ):
        path = folder / f"{name}.json"
        if path.is_file() and (text := sentence(_rows(path))):
            said.append(f"- {text}")
    return ["\n".join(said)] if said else []


def _growth(rows: pd.DataFrame) -> str:
    seeds = sorted(rows["seed"].unique())
    made = []
    for (metric, suite, mode, target), part in rows.groupby(["metric", "suite", "mode", "target"], sort=False):
        by_seed = part.set_index("seed")
        cells = [_interval(*by_seed.loc[seed, ["value", "low", "high"]]) for seed in seeds]
        made.append((f"{metric.replace('_', ' ')}, {suite.replace('_', ' ')}, thinking {mode}", target, *cells))
    return _table(("what", "target", *(f"seed {seed}" for seed in seeds)), made)


def _organisms(rows: pd.DataFrame) -> str:
    texts = [_interval(*row) for row in rows[["rate", "low", "high"]].itertuples(index=False)]
    seeds = rows.groupby("label")["seeds"].max()
    wide = rows.assign(text=texts).pivot(index="label", columns="setting", values="text")
    wide = wide.loc[rows["label"].unique(), rows["setting"].unique()]
    named = [(label + (f" ({seeds[label]} seeds)" if seeds[label] > 1 else ""), *cells) for label, *cells in
             wide.itertuples()]  # fmt: skip
    return _table(("model", *wide.columns), named)


def _timings(path: Path) -> str:
    marks = json.loads(path.read_text(encoding="utf-8"))["organism"]
    made = [(name, f"{mark['seconds']:.0f} s", f"{mark['peak_memory_mb']:.0f} MB") for name, mark in marks.items()]
    seconds = sum(mark["seconds"] for mark in marks.values())
    peak = max(mark["peak_memory_mb"] for mark in marks.values())
    return _table(("notebook", "time", "peak memory"), [*made, ("all", f"{seconds / 60:.1f} min", f"{peak:.0f} MB")])


# file, key, what it says, target
_RATIOS = (
    ("growth", "ratio_to_stock", "growing the organism: tokens per second against the stock Trainer in float32", "≥ 2"),
    ("training", "throughput_ratio", "aligning: tokens per second against the stock Trainer, both float32", "≥ 2"),
    ("training", "throughput_ratio_bf16", "the same, ours in bfloat16 against the stock Trainer in float32", "≥ 2"),
    ("training", "step_ratio", "time of a PreSafe step against a λ = 0 step", "≤ 1.05"),
    ("generation", "ratio_32_rows", "greedy decoding against plain `generate`, 32 rows, identical tokens", "≥ 2"),
    ("generation", "ratio_64_rows", "the same with 64 rows in flight", "≥ 2"),
    ("extraction", "forward_ratio", "reading hidden states against a bare forward pass", "≤ 1.1"),
    ("extraction", "extract_ratio", "the same with tokenising and writing them to disk", "≤ 1.1"),
)


def _benchmarks(folder: Path) -> str:
    made = []
    for name, key, what, target in _RATIOS:
        path = folder / f"{name}.json"
        if path.is_file():
            made.append((what, target, f"{json.loads(path.read_text(encoding='utf-8'))[key]:.2f}"))
    return _table(("what", "target", "ratio"), made) if made else ""
