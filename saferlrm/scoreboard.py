"""The scorecard of the rivals: what each one is, what it reaches, what it costs, and which of them are apart."""

from __future__ import annotations

from itertools import combinations

import pandas as pd

from saferlrm.ablations import METRIC_SUITES
from saferlrm.align.methods import METHODS
from saferlrm.align.methods import RIVALS as TRAINED
from saferlrm.conditions import FEW
from saferlrm.crossed import contrasts, crossed_rate, outcomes
from saferlrm.rivals import RIVALS
from saferlrm.suites.synthetic import REASONING


def method_card() -> pd.DataFrame:
    """Every rival: ``rival``, ``acts`` (when it decodes or trains), ``source`` (arXiv), ``differs`` in one line."""
    rows = [{"rival": r.label, "acts": "decoding", "source": r.source, "differs": r.differs} for r in RIVALS.values()]
    for name in TRAINED:
        method = METHODS[name]
        rows.append({"rival": method.label, "acts": "training", "source": method.source, "differs": method.differs})
    return pd.DataFrame(rows)


def rival_scores(rows: pd.DataFrame) -> pd.DataFrame:
    """Rates and costs of every rival with intervals over prompts and seeds.

    Args:
        rows: tidy rows with ``label`` and ``train_tokens``. The model before alignment counts with
            thinking on, a rival that is a thinking mode with its own.

    Returns:
        ``condition``, ``label``, ``setting`` (suite and whether the thought was prefilled), ``metric``, ``rate`` (or
        mean), ``low``, ``high``, ``n`` (prompts), ``seeds``.
    """
    found = []
    for condition, part in _own_mode(rows).groupby("condition", sort=False):
        label = part["label"].iloc[0]
        for metric, suites in {**METRIC_SUITES, "n_tokens": ("harmful_unseen", REASONING)}.items():
            chosen = part[part["suite"].isin(suites)]
            for (suite, mode), one in chosen.groupby(["suite", "mode"], sort=False):
                if metric == "n_tokens" and mode == "prefilled" and (chosen["mode"] != "prefilled").any():
                    continue
                wide = outcomes(one, metric)
                interval = crossed_rate(wide.to_numpy())
                words = f"{suite}, {'tokens an answer' if metric == 'n_tokens' else mode}"
                setting = words if mode == "prefilled" or metric == "n_tokens" else suite
                found.append(_row(condition, label, setting, metric, interval.estimate, interval.low, interval.high)
                    | {"n": interval.n, "seeds": wide.shape[1]})  # fmt: skip
        # Tokens and no seconds: these depend on what else the machine had to do.
        value = float(part.groupby("seed")["train_tokens"].first().mean())
        row = _row(condition, label, "tokens of training", "train_tokens", value, value, value)
        found.append(row | {"n": 0, "seeds": part["seed"].nunique()})
    return pd.DataFrame(found)


def separated(rows: pd.DataFrame, suite: str, few: bool = False, metric: str = "attack_success") -> pd.DataFrame:
    """Differences of all pairs of methods on one suite, with p-values corrected for their number.

    Args:
        few: the methods trained on the small alignment set; else those trained on all of it. Methods that act when
            decoding stand beside both.

    Returns:
        Rows of :func:`saferlrm.crossed.contrasts`.
    """
    part = _own_mode(rows)
    part = part[(part["suite"] == suite) & part[metric].notna()]
    # The wording of the reminder's card is "prefilled"; no other row of another suite than harmful_unseen is.
    if suite == "harmful_unseen":
        part = part[(part["mode"] != "prefilled") | part["condition"].isin(RIVALS)]
    untrained = {"before", *RIVALS}
    kept = [c for c in part["condition"].unique() if c in untrained or c.endswith(f"/{FEW}") == few]
    pairs = [(one, two) for one, two in combinations(kept, 2)]
    # PreSafe stands second, so that a negative difference speaks for it.
    pairs = [(two, one) if one.startswith("presafe") else (one, two) for one, two in pairs]
    return contrasts(part, metric, pairs, by=("suite",))


def _own_mode(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[~((rows["condition"] == "before") & (rows["mode"] == "off"))]


def _row(condition: str, label: str, setting: str, metric: str, rate: float, low: float, high: float) -> dict:
    return {
        "condition": condition, "label": label, "setting": setting, "metric": metric,
        "rate": rate, "low": low, "high": high,
    }  # fmt: skip
