"""The scorecard of the rivals: what each one is, what it reaches, what it costs, and which of them are apart."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import pandas as pd

from saferlrm.ablations import METRIC_SUITES
from saferlrm.align.methods import METHODS
from saferlrm.align.methods import RIVALS as TRAINED
from saferlrm.conditions import FEW
from saferlrm.crossed import contrasts, crossed_rates
from saferlrm.plots.measures import condition_name
from saferlrm.plots.robustness import attack_name
from saferlrm.plots.style import suite_name
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


def void_rivals(choices: pd.DataFrame, replies: int) -> list[str]:
    """Rivals whose ingredient does not exist in this model: what they score says nothing about the recipe.

    Args:
        choices: every setting that was tried, see :func:`saferlrm.rivals.choose`; void is a rival none of whose
            settings refused a single harmful prompt.
        replies: refusals that ThinkSafe found to train on; without one it is void.
    """
    most = choices.groupby("rival", sort=False)["harmful_refused"].max()
    return [*most.index[most == 0], *([] if replies else ["thinksafe", f"thinksafe/{FEW}"])]


def ranks(rows: pd.DataFrame, hard: str, few: bool, void: Sequence[str]) -> pd.DataFrame:
    """Which pairs of methods are apart under attack, with prefilled thoughts, and in what they refuse.

    Three lists, each corrected for its own number of pairs: attack success on the suite ``hard``, attack success on
    direct requests whose thought was begun, and refusals of harmless prompts that sound dangerous. Safety alone is
    cheap: who refuses everything heads the first two lists and ends the third.

    Returns:
        Rows of :func:`separated` with ``list``.
    """
    lists = {
        f"attack success, {suite_name(hard)}": {"suite": hard},
        "attack success, prefilled thoughts": {"suite": "harmful_unseen", "prefilled": True},
        "over-refusal, safe but scary": {"suite": "safe_but_scary", "metric": "refused"},
    }
    tables = [separated(rows, few=few, leave_out=void, **what).assign(list=name) for name, what in lists.items()]
    return pd.concat(tables, ignore_index=True)


def presafe_lines(table: pd.DataFrame, few: bool) -> list[str]:
    """How many pairs of each list are apart, and the ones with PreSafe in them, better or worse."""
    said = []
    for name, part in table.groupby("list", sort=False):
        apart = part[part["p_holm"] < 0.05]
        said.append(f"{'few examples' if few else 'whole set'}, {name}: {len(apart)} of {len(part)} pairs are apart")
        for row in apart[apart["after"] == ("presafe/few" if few else "presafe")].itertuples():
            gap = f"{row.difference:.3f} [{row.low:.3f}, {row.high:.3f}]"
            said.append(f"  PreSafe minus {condition_name(row.before)}: {gap}")
    return said


def attack_lines(attacked: pd.DataFrame) -> list[str]:
    """Every adaptive attack: attack success before alignment and after, and PreSafe against λ = 0; exploratory.

    Args:
        attacked: tidy rows of :meth:`saferlrm.study.Study.adaptive`, with ``attack`` and ``base``.
    """
    rates = crossed_rates(attacked, "attack_success", ["attack", "base"]).set_index(["attack", "base"])
    named = attacked.assign(condition=attacked["base"])
    gaps = contrasts(named, "attack_success", [("sft", "presafe")], by=("attack",)).set_index("attack")
    said = []
    for attack in attacked["attack"].unique():
        words = []
        for base in ("before", "sft", "presafe"):
            if (attack, base) in rates.index:
                row = rates.loc[(attack, base)]
                words.append(f"{condition_name(base)} {row['rate']:.2f} [{row['low']:.2f}, {row['high']:.2f}]")
        if attack in gaps.index:
            row = gaps.loc[attack]
            words.append(f"PreSafe minus λ = 0 {row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]")
        said.append(f"{attack_name(attack)}: {', '.join(words)}".replace("-", "−"))
    return said


def separated(
    rows: pd.DataFrame,
    suite: str,
    few: bool = False,
    metric: str = "attack_success",
    prefilled: bool = False,
    leave_out: Sequence[str] = (),
) -> pd.DataFrame:
    """Differences of all pairs of methods on one suite, with p-values corrected for their number.

    Args:
        prefilled: only answers whose thought was begun, of methods that otherwise think by themselves.
        leave_out: conditions that are in no pair.
        few: the methods trained on the small alignment set; else those trained on all of it. Methods that act when
            decoding stand beside both.

    Returns:
        Rows of :func:`saferlrm.crossed.contrasts`.
    """
    part = _own_mode(rows)
    part = part[(part["suite"] == suite) & part[metric].notna()]
    # The wording of the reminder's card is "prefilled"; no other row of another suite than harmful_unseen is.
    if suite == "harmful_unseen":
        begun, reminded = part["mode"] == "prefilled", part["condition"].isin(RIVALS)
        part = part[begun & ~reminded if prefilled else ~begun | reminded]
    part = part[~part["condition"].isin(leave_out)]
    untrained = {"before", *RIVALS}
    kept = [c for c in part["condition"].unique() if c in untrained or c.endswith(f"/{FEW}") == few]
    pairs = [(one, two) for one, two in combinations(kept, 2)]
    # PreSafe stands second, so that a negative difference speaks for it.
    pairs = [(two, one) if one.startswith("presafe") else (one, two) for one, two in pairs]
    return contrasts(part, metric, pairs, by=("suite",))


def _own_mode(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[~((rows["condition"] == "before") & (rows["mode"] == "off"))]
