"""Controls, ablations and rivals: what would explain the result away, and what others would do instead."""

from __future__ import annotations

import json
from dataclasses import asdict

import pandas as pd

from saferlrm import conditions
from saferlrm.align.methods import METHODS
from saferlrm.conditions import BEFORE, FEW, Condition
from saferlrm.crossed import contrasts, holm
from saferlrm.errors import SaferlrmError
from saferlrm.rivals import RIVALS
from saferlrm.study.robustness import Robustness

METRIC_SUITES = {
    "attack_success": ("harmful_unseen", "harmful_novel_wrapped", "scary_contrast"),
    "refused": ("safe_but_scary", "benign_novel_wrapped"),
    "correct": ("reasoning",),
}
PAIRS = [("sft", name) for name in conditions.CONTROLS if name != "sft"]
CAUSES = [(name, "presafe") for name in ("detached", "shuffled", "random", "gold", "hard")]


class Controls(Robustness):
    """Tables of the controls, the sweeps and the rivals."""

    def controls(self) -> pd.DataFrame:
        """Tidy rows of every control, on the whole alignment set (group ``control``) and the small one (``few``)."""
        listed = conditions.controls()
        return self.collected(
            "controls", lambda: self.cards(listed, self.profile.evidence.seeds), conditions=_listed(listed)
        )

    def sweeps(self) -> pd.DataFrame:
        """Tidy rows of every sweep, in the small alignment set; an error where the profile leaves sweeps out."""
        if self.profile.evidence.quick:
            raise SaferlrmError("the sweeps are left out (evidence.quick); run the profile organism for them")
        listed = conditions.sweeps(self.profile, self.n_layers)
        return self.collected(
            "sweeps", lambda: self.cards(listed, self.profile.evidence.sweep_seeds), conditions=_listed(listed)
        )

    @property
    def n_layers(self) -> int:
        """Layers of the model under study, read from its configuration alone."""
        from transformers import AutoConfig

        return int(AutoConfig.from_pretrained(self.model).get_text_config().num_hidden_layers)

    def rival_cards(self) -> pd.DataFrame:
        """Tidy rows of all rivals; ``train_seconds`` and ``train_tokens`` say what training each one cost."""
        listed = conditions.rivals()
        return self.collected("rivals", lambda: self._rivals(listed), "saferlrm.rivals", conditions=_listed(listed))

    def _rivals(self, listed: list[Condition]) -> pd.DataFrame:
        found = []
        for one in listed:
            for seed in self.profile.evidence.seeds if one.method != BEFORE else (0,):
                rows, trained = self.card(one, seed), self.trained(one, seed)
                cost = {"tokens": 0.0} if trained is None else json.loads((trained.path / "cost.json").read_text())
                seconds = 0.0 if trained is None else trained.manifest["seconds"]
                label = "before alignment" if one.method == BEFORE else METHODS[one.method].label
                found.append(rows.assign(label=label, train_seconds=seconds, train_tokens=float(cost["tokens"])))
        decoding = self.decoding_rivals()
        labels = decoding["method"].map({name: rival.label for name, rival in RIVALS.items()})
        found.append(decoding.assign(label=labels, train_seconds=0.0, train_tokens=0.0))
        return pd.concat(found, ignore_index=True)

    def control(self, one: Condition) -> pd.DataFrame:
        """One condition at all alignment seeds beside plain fine-tuning in the same setting and the unaligned model."""
        plain = conditions.condition("sft/few" if one.few else "sft", one.group)
        return self.cards([conditions.condition(BEFORE), plain, one], self.profile.evidence.seeds)


def control_differences(rows: pd.DataFrame) -> pd.DataFrame:
    """Every control against plain fine-tuning, and PreSafe against the controls that would explain it away.

    Rows of :func:`saferlrm.crossed.contrasts`, paired over prompts and seeds; p-values are corrected by Holm's method
    for all comparisons on the same alignment set (``group``).
    """
    names = {one.name: f"{METHODS[one.method].label}{' (few)' if one.few else ''}" for one in conditions.controls()[1:]}
    by, found = ("group", "suite", "mode"), []
    pairs = [(one + end, two + end) for end in ("", f"/{FEW}") for one, two in PAIRS + CAUSES]
    for metric, suites in METRIC_SUITES.items():
        found.append(contrasts(rows[rows["suite"].isin(suites)], metric, pairs, by, names))
    table = pd.concat(found, ignore_index=True)
    return table.assign(p_holm=table.groupby("group")["p"].transform(lambda p: holm(p)))


def _listed(listed: list[Condition]) -> list[str]:
    return [json.dumps({k: v for k, v in asdict(one).items() if v == v}, sort_keys=True) for one in listed]
