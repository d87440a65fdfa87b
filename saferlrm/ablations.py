"""What the tables of the controls and the sweeps say: rates, and differences with corrected p-values."""

from __future__ import annotations

import pandas as pd

from saferlrm import conditions
from saferlrm.align.methods import METHODS
from saferlrm.conditions import FEW
from saferlrm.crossed import contrasts, crossed_rates, holm

METRIC_SUITES = {
    "attack_success": ("harmful_unseen", "harmful_novel_wrapped", "scary_contrast"),
    "refused": ("safe_but_scary", "benign_novel_wrapped"),
    "correct": ("reasoning",),
}
PAIRS = [("sft", name) for name in conditions.CONTROLS if name != "sft"]
CAUSES = [(name, "presafe") for name in ("detached", "shuffled", "random", "gold", "hard")]
CAUSES += [(name, "presafe_decisions") for name in ("detached_decisions", "shuffled_decisions")]
SHARED = "sweep:lambda"  # the sweep whose λ = 0 has the profile's settings


def control_rates(rows: pd.DataFrame) -> pd.DataFrame:
    """Rates of every control, with intervals over prompts and seeds.

    Columns ``group``, ``suite``, ``mode``, ``condition``, ``method``, ``metric``, ``rate``, ``low``, ``high``, ``n``
    (prompts), ``seeds``.
    """
    by = ("group", "suite", "mode", "condition", "method")
    found = [crossed_rates(rows[rows["suite"].isin(suites)], metric, by) for metric, suites in METRIC_SUITES.items()]
    return pd.concat(found, ignore_index=True)


def control_differences(rows: pd.DataFrame) -> pd.DataFrame:
    """Every control against plain fine-tuning, and PreSafe against the controls that would explain it away.

    Rows of :func:`saferlrm.crossed.contrasts`, paired over prompts and seeds. A question is a pair of methods on one
    alignment set (``group``); p-values are corrected by Holm's method for all suites and metrics of a question.
    """
    names = {one.name: f"{METHODS[one.method].label}{' (few)' if one.few else ''}" for one in conditions.controls()[1:]}
    by, found = ("group", "suite", "mode"), []
    pairs = [(one + end, two + end) for end in ("", f"/{FEW}") for one, two in PAIRS + CAUSES]
    for metric, suites in METRIC_SUITES.items():
        found.append(contrasts(rows[rows["suite"].isin(suites)], metric, pairs, by, names))
    table = pd.concat(found, ignore_index=True)
    return table.assign(p_holm=table.groupby(["group", "before", "after"])["p"].transform(holm))


def control_table(rows: pd.DataFrame, name: str) -> pd.DataFrame:
    """Rates of the light card in every condition of ``rows``, and the difference of ``name`` to plain fine-tuning."""
    plain = f"sft/{FEW}" if name.endswith(f"/{FEW}") else "sft"
    found = []
    for metric, suites in METRIC_SUITES.items():
        part = rows[rows["suite"].isin(suites) & (rows["mode"] != "off")]
        table = crossed_rates(part, metric, ("suite", "mode", "condition"))
        table["text"] = [f"{r.rate:.3f} [{r.low:.3f}, {r.high:.3f}]" for r in table.itertuples()]
        wide = table.pivot(index=["metric", "suite", "mode"], columns="condition", values="text").reset_index()
        if name != plain:
            gap = contrasts(part, metric, [(plain, name)])
            gap["minus λ = 0"] = [f"{r.difference:+.3f} [{r.low:+.3f}, {r.high:+.3f}]" for r in gap.itertuples()]
            wide = wide.merge(gap[["suite", "mode", "minus λ = 0"]], how="left")
        found.append(wide)
    return pd.concat(found, ignore_index=True).fillna("")


def sweep_differences(rows: pd.DataFrame) -> pd.DataFrame:
    """PreSafe minus plain fine-tuning at each value of every sweep; exploratory, not corrected.

    Where a sweep changes the head alone, plain fine-tuning has no such setting, and every value is compared with the
    one run of λ = 0 at the profile's settings, which the sweep of λ holds (``shared``). Paired over prompts and seeds.

    Rows of :func:`saferlrm.crossed.contrasts` with ``sweep``, ``value``, ``level`` and ``shared``.
    """
    found = []
    plain = rows[(rows["group"] == SHARED) & (rows["method"] == "sft")]
    places = rows[["group", "value", "level"]].drop_duplicates()
    for group, value, level in places.itertuples(index=False):
        part = rows[(rows["group"] == group) & (rows["level"] == level)]
        shared = "sft" not in set(part["method"])
        part = pd.concat([part, plain]) if shared and len(plain) else part
        names = {row.method: row.condition for row in part[["method", "condition"]].drop_duplicates().itertuples()}
        if not {"sft", "presafe"} <= set(names):
            continue
        called = {names["sft"]: "λ = 0", names["presafe"]: "PreSafe"}
        for metric, suites in METRIC_SUITES.items():
            chosen = part[part["suite"].isin(suites)]
            table = contrasts(chosen, metric, [(names["sft"], names["presafe"])], names=called)
            found.append(table.assign(sweep=group.partition(":")[2], value=value, level=level, shared=shared))
    return pd.concat(found, ignore_index=True)
