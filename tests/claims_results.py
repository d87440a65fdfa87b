"""Results folders made by hand, in which every claim can be made to hold or to fail."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import norm

from saferlrm.confirmation import LONGER_LIMIT
from saferlrm.suites.synthetic import HARMFUL_SUITES, REASONING, SUITE_NAMES

SIZE = 400  # prompts a suite; with fewer no loss of a point can be excluded
CONTROLS = ("sft", "presafe", "detached", "shuffled", "random")


@dataclass
class World:
    """Made-up models: what they do, as rates and mean lengths. The defaults are as the paper says it is.

    ``attack``: by model and mode; ``few``: by control in the small alignment set; ``hotter``: added to attack success
    at the highest temperature; ``thought``, ``tokens``: by model; ``area``: AUROC of probe and classifier.
    """

    attack: dict[tuple[str, str], float] = field(
        default_factory=lambda: {
            ("before", "off"): 0.0, ("before", "on"): 0.6, ("sft", "off"): 0.0, ("sft", "on"): 0.005,
            ("presafe", "off"): 0.0, ("presafe", "on"): 0.0,
        }
    )  # fmt: skip
    full: dict[str, float] = field(default_factory=lambda: dict.fromkeys(CONTROLS, 0.3) | {"presafe": 0.0})
    few: dict[str, float] = field(default_factory=lambda: dict.fromkeys(CONTROLS, 0.4) | {"presafe": 0.1})
    solved: dict[str, float] = field(default_factory=lambda: {"before": 0.5, "sft": 0.5, "presafe": 0.5})
    over_refusal: float = 0.05
    hotter: float = 0.2
    thought: dict[str, float] = field(default_factory=lambda: {"before": 40.0, "sft": 40.0, "presafe": 40.0})
    tokens: dict[str, float] = field(default_factory=lambda: {"before": 80.0, "sft": 30.0, "presafe": 30.0})
    area: float = 0.97
    seeds: int = 3
    organisms: int = 3
    size: int = SIZE


def answered(
    rate: float, who: dict[str, object], suite: str, mode: str, size: int, thought: float = 40.0, tokens: float = 80.0
) -> pd.DataFrame:
    """Rows of one model, seed, suite and mode; what is hard for one model is hard for all."""
    hard = (np.random.default_rng([*suite.encode()]).permutation(size) + 0.5) / size
    yes = pd.array(hard < rate, "boolean")
    harmful, problems = suite in HARMFUL_SUITES, suite == REASONING
    absent = pd.array([pd.NA] * size, "boolean")
    return pd.DataFrame(
        {
            "prompt_id": [f"{suite}-{i}" for i in range(size)], "suite": suite, "mode": mode, "harmful": harmful,
            "attack_success": yes if harmful else absent, "correct": yes if problems else absent,
            "refused": (~yes if harmful else yes if not problems else pd.array([False] * size)).astype(bool),
            "n_thought_tokens": thought * (0.5 + hard), "n_tokens": tokens * (0.5 + hard), "sample": 0,
        }
    ).assign(**who)  # fmt: skip


def evaluation(world: World) -> pd.DataFrame:
    """Before and after alignment, every suite, thinking off and on."""
    rows = []
    for method in ("before", "sft", "presafe"):
        for seed in range(1 if method == "before" else world.seeds):
            for suite in SUITE_NAMES:
                for mode in ("off", "on"):
                    rate = world.attack[method, mode] if suite in HARMFUL_SUITES else world.over_refusal
                    rate = world.solved[method] if suite == REASONING else rate
                    who = {"method": method, "seed": seed}
                    lengths = world.thought[method], world.tokens[method]
                    rows.append(answered(rate, who, suite, mode, world.size, *lengths))
    return pd.concat(rows, ignore_index=True)


def controls(world: World) -> pd.DataFrame:
    """Every control on both alignment sets, thinking on and with a prefilled thought."""
    rows = []
    for end, rates in (("", world.full), ("/few", world.few)):
        for method, rate in rates.items():
            for seed in range(world.seeds):
                who = {"condition": method + end, "method": method, "seed": seed}
                for suite, mode in (
                    ("harmful_unseen", "on"), ("harmful_novel_wrapped", "on"), ("harmful_unseen", "prefilled")
                ):  # fmt: skip
                    rows.append(answered(rate, who, suite, mode, world.size))
    return pd.concat(rows, ignore_index=True)


def confirmation(world: World) -> pd.DataFrame:
    """The small alignment set again, on fresh seeds of one organism; the token limit changes nothing."""
    rows = []
    for method, rate in world.few.items():
        for seed in range(3, 3 + world.seeds):
            for end in ("", f"+limit={LONGER_LIMIT}") if method in ("sft", "presafe") else ("",):
                who = {"condition": f"{method}/few{end}", "method": method, "seed": seed}
                for suite in ("harmful_unseen", "harmful_novel_wrapped"):
                    rows.append(answered(rate, who, suite, "on", world.size))
    return pd.concat(rows, ignore_index=True)


def further_organisms(world: World) -> pd.DataFrame:
    """The small alignment set on organisms of other growth seeds."""
    rows = []
    for organism in range(3, 3 + world.organisms):
        for method in ("sft", "presafe"):
            for seed in range(world.seeds):
                who = {"condition": f"{method}/few", "method": method, "seed": seed, "organism": organism}
                for suite in ("harmful_unseen", "harmful_novel_wrapped"):
                    rows.append(answered(world.few[method], who, suite, "on", world.size))
    return pd.concat(rows, ignore_index=True)


def temperature(world: World) -> pd.DataFrame:
    """Two temperatures, two values of top-p and two of top-k."""
    rows = []
    for base in ("before", "presafe"):
        for seed in range(1 if base == "before" else world.seeds):
            for setting, values in (("temperature", (0.0, 1.2)), ("top_p", (0.5, 0.9)), ("top_k", (5.0, 50.0))):
                for value in values:
                    rate = world.attack[base, "on"] + world.hotter * (value == max(values))
                    who = {"base": base, "seed": seed, "group": f"robustness:{setting}", "value": value}
                    for suite in ("harmful_unseen", "harmful_novel_wrapped"):
                        rows.append(answered(rate, who, suite, "on", world.size))
    return pd.concat(rows, ignore_index=True)


def organisms(world: World) -> pd.DataFrame:
    """Every organism before alignment and aligned with both alignment sets."""
    rows = []
    rates = {("before", "off"): world.attack["before", "off"], ("before", "on"): world.attack["before", "on"]}
    rates |= {(base, "on"): world.attack[base, "on"] for base in ("sft", "presafe")}
    rates |= {(f"{base}/few", "on"): world.few[base] for base in ("sft", "presafe")}
    rates |= {(f"{base}_decisions/few", "on"): world.few[base] for base in ("detached", "presafe")}
    for organism in range(world.organisms):
        for (base, mode), rate in rates.items():
            for seed in range(1 if base == "before" else min(2, world.seeds)):
                who = {"base": base, "seed": seed, "organism": organism}
                for suite in ("harmful_unseen", "harmful_novel_wrapped"):
                    rows.append(answered(rate, who, suite, mode, world.size))
                if mode == "on":
                    like = base.partition("/")[0].partition("_")[0].replace("detached", "sft")
                    rows.append(answered(world.solved[like], who, REASONING, mode, world.size))
                    lengths = world.thought[like], world.tokens[like]
                    rows.append(answered(world.over_refusal, who, "safe_but_scary", mode, world.size, *lengths))
    return pd.concat(rows, ignore_index=True)


def classifiers(world: World) -> pd.DataFrame:
    """Every organism's classifier, whose score is above that of a random refused prompt with the world's AUROC."""
    shift = norm.ppf(world.area) * np.sqrt(2)
    score = np.concatenate([norm.ppf((np.arange(world.size) + 0.5) / world.size) + at for at in (shift, 0.0)])
    rows = pd.DataFrame({"refused": np.repeat([True, False], world.size), "p_refuse": score})
    rows["prompt_id"] = [f"p{i}" for i in range(len(rows))]
    parts = [
        rows.assign(group=group, organism=organism)
        for group in ("direct", "novel_wrapped")
        for organism in range(world.organisms)
    ]
    return pd.concat(parts, ignore_index=True)


def probes(world: World) -> list[dict[str, object]]:
    """Probes at the last token before the chain of thought, two layers, and a bag of words."""
    rows: list[dict[str, object]] = []
    for group in ("direct", "novel_wrapped"):
        for layer in (0, 4):
            area = world.area if layer else 0.5
            rows.append({"group": group, "position": "pre_cot", "layer": layer, "control": "probe", "auroc": area})
        rows.append({"group": group, "position": None, "layer": None, "control": "bag_of_words", "auroc": 0.55})
    return [row | {"low": row["auroc"] - 0.02, "high": row["auroc"] + 0.02, "n": 2 * world.size} for row in rows]


def classifier(world: World) -> list[dict[str, object]]:
    """The encoder and its baseline."""
    return [
        {"model": model, "group": group, "n": world.size, "accuracy": area - 0.1, "auroc": area,
         "auroc_low": area - 0.02, "auroc_high": area + 0.02}
        for model, area in (("BERT", world.area), ("TF-IDF + logistic regression", world.area - 0.1))
        for group in ("all", "novel_wrapped")
    ]  # fmt: skip


def write(folder: Path, world: World) -> Path:
    """A results folder of that world."""
    (folder / "tidy").mkdir(parents=True)
    for name, make in TABLES.items():
        make(world).to_parquet(folder / "tidy" / f"{name}.parquet", index=False)
    evidence = {"profile": {"classifier": {"n_prompts": 1500}}}
    for name, rows in (("03_probes", probes(world)), ("04_classifier_scores", classifier(world))):
        (folder / f"{name}.json").write_text(json.dumps({"name": name, "evidence": evidence, "rows": rows}))
    return folder


TABLES = {
    "evaluation": evaluation, "controls": controls, "temperature": temperature, "organisms": organisms,
    "classifier": classifiers, "confirmation": confirmation,
    "further_organisms": further_organisms,
}  # fmt: skip
