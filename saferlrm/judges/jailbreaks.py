"""Judges against people on another question than refusal: was the model jailbroken?

JailbreakBench (arXiv 2404.01318) published 300 answers to jailbreak prompts, each with the votes of three people and
with what several automatic judges said. A judge of refusals answers another question. An answer that does not refuse
and yet gives nothing of use (off the topic, empty, a story that avoids the matter) is no jailbreak, so such a judge is
expected to raise more false alarms here than judges that read what was asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import cohen_kappa_score

from saferlrm.errors import SaferlrmError
from saferlrm.generate import Answer
from saferlrm.judges.calibration import MATCHER, RULES, _kappas, _spread
from saferlrm.judges.rules import RuleJudge, string_match
from saferlrm.judges.types import Judge
from saferlrm.stats import wilson
from saferlrm.suites import published, reading
from saferlrm.suites.types import Prompt

DATA = "jailbreakbench_judge_comparison"
PUBLISHED = {
    "gpt4_cf": "GPT-4",
    "harmbench_cf": "HarmBench classifier",
    "llamaguard1_cf": "Llama Guard",
    "llamaguard2_cf": "Llama Guard 2",
    "llama3_cf": "Llama-3-70B",
}
_TEXT = ("goal", "prompt", "target_response", "human_majority")


def jailbreak_votes(folder: str | Path) -> pd.DataFrame:
    """The published answers with people's and judges' votes, from a local copy of ``data/judge-comparison.csv``.

    Returns:
        The published columns, those of votes (``human_majority`` and ``*_cf``) as booleans, missing where a judge gave
        none.

    Raises:
        SaferlrmError: no such file, or one without the published columns or with other votes than 0 and 1.
    """
    one = published.get(DATA)
    table = reading.read(reading.find_local(DATA, published._stems(one), Path(folder).expanduser(), {}))
    for name in _TEXT:
        if name not in table:
            raise SaferlrmError(f"{DATA} has no column {name!r} (it has {', '.join(map(str, table))}); see its source")
    for name in ["human_majority", *_judges_in(table)]:
        votes = pd.to_numeric(table[name].replace("", np.nan), errors="coerce")
        odd = table[name][~votes.isin([0, 1]) & table[name].replace("", np.nan).notna()]
        if len(odd) or (name == "human_majority" and votes.isna().any()):
            raise SaferlrmError(f"{DATA}: {name} holds {odd.iloc[0]!r}, not 0 or 1" if len(odd) else f"{name} has gaps")
        table[name] = votes.astype("boolean")
    return table


def jailbreak_judges(folder: str | Path, judges: Mapping[str, Judge] | None = None) -> pd.DataFrame:
    """Judges against the majority of people on *jailbroken or not*.

    Ours read the answer to the goal. What they call an attack success is a jailbreak; a partial refusal is none.

    Args:
        judges: further judges by name, beside the refusal rules, the string matcher and those in the file.

    Returns:
        A row for each judge: ``judge``, ``asks`` (``refused?`` or ``jailbroken?``), ``n``, ``n_unjudged`` (left out),
        ``jailbroken`` (share by people), and, with 95 % intervals (``_low``, ``_high``), ``accuracy``, ``kappa``,
        ``false_negative`` (jailbreaks that it missed) and ``false_positive`` (other answers that it called so).
    """
    votes = jailbreak_votes(folder)
    prompts = [Prompt(f"{DATA}-{i}", goal, DATA, True) for i, goal in enumerate(votes["goal"].astype(str))]
    texts = votes["target_response"].fillna("").astype(str)
    answers = [Answer(p.text, "off", "", text, True, 0, 0, False) for p, text in zip(prompts, texts, strict=True)]

    def said(judge: Judge) -> pd.Series:
        found = [j.attack_success(p) for j, p in zip(judge(prompts, answers), prompts, strict=True)]
        return pd.Series(found, votes.index, dtype="boolean")

    calls = {(RULES, "refused?"): said(RuleJudge())}
    calls[MATCHER, "refused?"] = texts.map(lambda text: string_match(text) == "compliance").astype("boolean")
    calls |= {(name, "jailbroken?"): said(judge) for name, judge in (judges or {}).items()}
    calls |= {(PUBLISHED.get(name, name), "jailbroken?"): votes[name] for name in _judges_in(votes)}
    return pd.DataFrame(
        [
            {"judge": name, "asks": asks} | _agreement(votes["human_majority"], called)
            for (name, asks), called in calls.items()
        ]
    )


def _judges_in(table: pd.DataFrame) -> list[str]:
    return [str(name) for name in table if str(name).endswith("_cf")]


def _agreement(people: pd.Series, called: pd.Series, resamples: int = 1000, seed: int = 0) -> dict[str, float]:
    judged = called.notna()
    truth, said = people[judged].to_numpy(bool), called[judged].to_numpy(bool)
    found: dict[str, float] = {"n": len(truth), "n_unjudged": int((~judged).sum()), "jailbroken": float(people.mean())}
    if not len(truth):
        return found
    wrong = truth != said
    found |= _spread("accuracy", wilson(int((~wrong).sum()), len(wrong)))
    drawn = np.random.default_rng(seed).integers(0, len(truth), (resamples, len(truth)))
    cells = truth * 2 + said
    tables = np.stack([np.bincount(cells[row], minlength=4) for row in drawn]).reshape(-1, 2, 2)
    low, high = np.nanquantile(_kappas(tables), [0.025, 0.975])
    found |= {"kappa": float(cohen_kappa_score(truth, said)), "kappa_low": float(low), "kappa_high": float(high)}
    for name, among in (("false_negative", truth), ("false_positive", ~truth)):
        if among.any():
            found |= _spread(name, wilson(int(wrong[among].sum()), int(among.sum())))
    return found
