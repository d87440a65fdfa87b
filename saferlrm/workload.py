"""How much a whole study trains and samples, counted from its settings before anything runs.

Counted are the adapters, each once although several notebooks use it, and the answers of the decisions, the alignment
set and the scorecards. Probes, attacks, samples at other temperatures and decoding-time rivals come on top: they need
no adapter, and a fraction of the answers. So the sums are lower bounds.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pandas as pd

from saferlrm.architectures import Architecture
from saferlrm.conditions import BEFORE, CARD_SUITES, Condition, condition, controls, rivals, sweeps
from saferlrm.estimate import GIB, Estimate, states_bytes
from saferlrm.judge_size import judge_bytes
from saferlrm.profile import Profile
from saferlrm.study.controls import SWEPT_PROMPTS
from saferlrm.suites.synthetic import SUITE_NAMES

# What docs/gpu_server.md begins with; a test compares them. Two seeds are the fewest that the evidence takes.
BEGIN_SMALL: dict[str, Any] = {
    "suite_size": 50,
    "seeds": (0,),
    "modes": ("off", "on"),
    "alignment.n_harmful": 500,
    "alignment.n_benign": 300,
    "alignment.n_decision": 500,
    "evidence.quick": True,
    "evidence.suite_size": 50,
    "evidence.seeds": (0, 1),
    "evidence.sweep_seeds": (0, 1),
}


def workload(profile: Profile, arch: Architecture, made: Estimate | None = None) -> pd.DataFrame:
    """Adapters, answers and hours of each notebook that trains or samples much.

    Args:
        made: an estimate of the same profile, for hours; without it they are missing.

    Returns:
        ``notebook``, ``adapters`` (not trained by an earlier one), ``passes`` (examples these see, in thousands),
        ``answers``, ``hours``; the last row is the sum.
    """
    p, e, done, rows = profile, profile.evidence, set[object](), []
    card = (len(CARD_SUITES) + 1) * e.suite_size  # and once with the thought begun
    whole = len(SUITE_NAMES) * p.suite_size
    scored = [(condition(name), p.seeds) for name in ("sft", "presafe")]

    def add(notebook: str, runs: Iterable[tuple[Condition, Iterable[int]]], answers: int, each: int) -> None:
        trained, examples, asked = 0, 0, answers
        for one, seeds in runs:
            for seed in [0] if one.method == BEFORE else seeds:
                key = _key(one, profile, seed)
                if (key, each) not in done:  # a card is stored, whichever notebook asks for it
                    done.add((key, each))
                    asked += each
                if one.method != BEFORE and key not in done:
                    done.add(key)
                    trained, examples = trained + 1, examples + _examples(one, profile)
        rows.append((notebook, trained, examples / 1000, asked))

    add("02", [], len(p.modes) * whole, 0)
    add("04", [], p.classifier.n_prompts, 0)
    add("05", scored, p.alignment.n_harmful + p.alignment.n_benign, 0)
    add("06", scored, 0, len(p.modes) * whole)
    # The whole alignment set takes long and the controls hardly differ on it: fewer seeds.
    add("07, controls", [(one, e.seeds if one.few else e.sweep_seeds) for one in controls()], 0, card)
    if not e.quick:
        swept = (len(CARD_SUITES) + 1) * min(SWEPT_PROMPTS, e.suite_size)
        add("07, sweeps", [(one, e.sweep_seeds) for one in sweeps(p, arch.layers)], 0, swept)
    add("09, rivals", [(one, e.sweep_seeds) for one in rivals()], 0, card)
    table = pd.DataFrame(rows, columns=["notebook", "adapters", "passes", "answers"])
    table["hours"] = float("nan") if made is None else _hours(table, profile, made)
    total = {"notebook": "all", **table.drop(columns="notebook").sum(skipna=False).to_dict()}
    table = pd.concat([table, pd.DataFrame([total])], ignore_index=True)
    return table.astype({"adapters": int, "answers": int})


def disk(profile: Profile, arch: Architecture, adapters: int) -> str:
    """What a whole study keeps on disk, in words: in the hub's cache and in the store.

    Adapters are float32, and the one that trains has a checkpoint with two moments of its weights beside it. Data sets
    (some hundred MB) and answers (some MB) are left out.
    """
    one, judge = 4 * arch.adapter_parameters(profile.alignment.rank), judge_bytes(profile)
    prompts = profile.alignment.n_harmful + profile.alignment.n_benign
    kept = adapters * one + 3 * one + states_bytes(arch, prompts)
    graded = "a judge of unknown size" if judge is None else f"the judge {judge / GIB:.0f} GiB"
    return (
        f"disk: in the hub's cache (HF_HOME) the model {arch.parameters * 2 / GIB:.0f} GiB and {graded}; in the store "
        f"(SAFERLRM_HOME) {kept / GIB:.0f} GiB: {adapters} adapters of {one / 2**20:.0f} MiB, one checkpoint, states"
    )


def small(profile: Profile) -> Profile:
    """The profile with the settings of a first, small run, :data:`BEGIN_SMALL`."""
    for name, value in BEGIN_SMALL.items():
        section, _, field = name.rpartition(".")
        changed = getattr(profile, section).model_copy(update={field: value}) if section else value
        profile = profile.model_copy(update={section or field: changed})
    return profile


def _key(one: Condition, profile: Profile, seed: int) -> str:
    """What makes two conditions the same training: method, settings and seed."""
    settings = {name: section.model_dump(mode="json") for name, section in one.settings(profile).items()}
    return json.dumps([one.method, settings, seed], sort_keys=True)


def _examples(one: Condition, profile: Profile) -> int:
    """Examples that go through the model while one adapter trains."""
    a = one.settings(profile).get("alignment", profile.alignment)
    harmful = a.n_harmful if a.subset_harmful is None else a.subset_harmful
    benign = a.n_benign if a.subset_benign is None else a.subset_benign
    return (harmful + benign) * a.epochs


def _hours(table: pd.DataFrame, profile: Profile, made: Estimate) -> pd.Series:
    times = {line.what.split(",")[0].split(" of ")[0]: line.value for line in made.lines if line.unit == "hours"}
    a = profile.alignment
    seen = _examples(condition("sft"), profile) if a.n_harmful + a.n_benign else 1
    return table["passes"] * 1000 / seen * times["one adapter"] + table["answers"] / 1000 * times["1000 answers"]
