"""The scorecard of the rivals: what each one is, what it reaches, what it costs, and which of them are apart."""

from __future__ import annotations

from itertools import combinations

import pandas as pd

from saferlrm.ablations import METRIC_SUITES
from saferlrm.align.methods import METHODS
from saferlrm.align.methods import RIVALS as TRAINED
from saferlrm.conditions import FEW
from saferlrm.crossed import contrasts, crossed_rates
from saferlrm.rivals import RIVALS
from saferlrm.suites.synthetic import BENIGN_SUITES, REASONING


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
        rows: tidy rows with ``verdict``, ``label`` and ``train_tokens``. The model before alignment counts with
            thinking on, a rival that is a thinking mode with its own.

    Returns:
        ``condition``, ``label``, ``setting`` (suite and whether the thought was prefilled), ``metric``, ``rate`` (or
        mean), ``low``, ``high``, ``n`` (prompts), ``seeds``. The metric ``answered`` is the share of harmless requests
        with a complying verdict; what is missing from 1 is refused, babble, cut off or about something else.
    """
    part = _own_mode(rows)
    by, found = ("condition", "label", "suite", "mode"), []
    for metric, suites in METRIC_SUITES.items():
        table = crossed_rates(part[part["suite"].isin(suites)], metric, by)
        prefilled = table["mode"] == "prefilled"
        found.append(table.assign(setting=table["suite"].where(~prefilled, table["suite"] + ", prefilled")))
    # Who babbles refuses nothing and answers nothing: a rate of refusals does not see that.
    harmless = part[part["suite"].isin(BENIGN_SUITES)]
    table = crossed_rates(harmless.assign(answered=harmless["verdict"] == "compliance"), "answered", by)
    prefilled = table["mode"].eq("prefilled").map({True: ", prefilled", False: ""})
    found.append(table.assign(setting=table["suite"] + prefilled + ", answered"))
    # A rival that begins the thought has no other mode; of all others the thought that is their own is counted.
    own = part.groupby("condition")["mode"].transform(lambda modes: (modes != "prefilled").any())
    asked = part[part["suite"].isin(("harmful_unseen", REASONING)) & ~(own & (part["mode"] == "prefilled"))]
    table = crossed_rates(asked, "n_tokens", by)
    found.append(table.assign(setting=table["suite"] + ", tokens an answer"))
    # Tokens and no seconds: these depend on what else the machine had to do.
    trained = part.groupby(["condition", "label", "seed"], sort=False)["train_tokens"].first()
    trained = trained.groupby(["condition", "label"], sort=False).agg(rate="mean", seeds="size").reset_index()
    found.append(
        trained.assign(
            setting="tokens of training", metric="train_tokens", low=trained["rate"], high=trained["rate"], n=0
        )
    )
    table = pd.concat(found, ignore_index=True)
    order = {name: i for i, name in enumerate(part["condition"].unique())}
    table = table.sort_values("condition", key=lambda names: names.map(order), kind="stable", ignore_index=True)
    return table[["condition", "label", "setting", "metric", "rate", "low", "high", "n", "seeds"]]


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
