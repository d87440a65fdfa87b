"""Controls, ablations and rivals: what would explain the result away, and what others would do instead."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from pydantic import ValidationError

from saferlrm import conditions, manipulation
from saferlrm.align.methods import METHODS
from saferlrm.conditions import BEFORE, FEW, Condition
from saferlrm.errors import SaferlrmError
from saferlrm.rivals import RIVALS
from saferlrm.study.evidence import runs
from saferlrm.study.robustness import Robustness

# Plain training and the same with the head; of label-only prompts that with the head detached.
TREATED = (
    ("sft", "presafe"),
    (f"sft/{FEW}", f"presafe/{FEW}"),
    (f"detached_decisions/{FEW}", f"presafe_decisions/{FEW}"),
)
SWEPT_PROMPTS = 50  # of each suite


class Controls(Robustness):
    """Tables of the controls, the sweeps and the rivals."""

    def controls(self) -> pd.DataFrame:
        """Tidy rows of every control, on the whole alignment set (group ``control``) and the small one (``few``).

        On the small one with every seed. The whole one, where controls hardly differ and training takes long, has the
        fewer seeds of the sweeps.
        """
        listed = conditions.controls()
        e = self.profile.evidence

        def build() -> pd.DataFrame:
            few = [one for one in listed if one.few]
            whole = [one for one in listed if not one.few]
            return pd.concat([self.cards(whole, e.sweep_seeds), self.cards(few, e.seeds)], ignore_index=True)

        return self.collected("controls", build, conditions=_listed(listed), seeds_of_whole=e.sweep_seeds)

    def sweeps(self) -> pd.DataFrame:
        """Tidy rows of every sweep, in the small alignment set; an error where the profile leaves sweeps out.

        Sweeps are exploratory: every model of them is asked :data:`SWEPT_PROMPTS` prompts of a suite at most.
        """
        if self.profile.evidence.quick:
            raise SaferlrmError("the sweeps are left out (evidence.quick); run the profile organism for them")
        listed = conditions.sweeps(self.profile, self.n_layers)
        e = self.profile.evidence
        asked = self.like(evidence=e.model_copy(update={"suite_size": min(SWEPT_PROMPTS, e.suite_size)}))
        return self.collected(
            "sweeps", lambda: asked.cards(listed, e.sweep_seeds), conditions=_listed(listed), prompts=SWEPT_PROMPTS
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
        found, seeds = [], self.profile.evidence.sweep_seeds
        self.cards(listed, seeds)
        for one, seed in runs(listed, seeds):
            rows, trained = self.card(one, seed), self.trained(one, seed)
            cost = {"tokens": 0.0} if trained is None else json.loads((trained.path / "cost.json").read_text())
            seconds = 0.0 if trained is None else trained.manifest["seconds"]
            label = "before alignment" if one.method == BEFORE else METHODS[one.method].label
            found.append(rows.assign(label=label, train_seconds=seconds, train_tokens=float(cost["tokens"])))
        decoding = self.decoding_rivals()
        labels = decoding["method"].map({name: rival.label for name, rival in RIVALS.items()})
        found.append(decoding.assign(label=labels, train_seconds=0.0, train_tokens=0.0))
        return pd.concat(found, ignore_index=True)

    def treatment(self) -> pd.DataFrame:
        """Whether the head learned and the weights differ: one row for each of :data:`TREATED` and seed.

        Columns of :func:`saferlrm.manipulation.head_learned`; ``distance`` and ``cosine`` of the update of the weights
        to that of ``plain`` with the same ``seed``, and ``between_seeds``: mean distance of two seeds of ``plain``.
        """

        def build() -> pd.DataFrame:
            rows = []
            for plain, name in TREATED:
                seeds = self.profile.evidence.sweep_seeds
                folders = {(one, seed): self.trained(one, seed).path for one in (plain, name) for seed in seeds}
                apart = manipulation.update_distances({key: path / "adapter" for key, path in folders.items()})
                same = apart[apart["seed"] == apart["other_seed"]].set_index("seed")[["distance", "cosine"]]
                between = apart.loc[apart["seed"] != apart["other_seed"], "distance"].mean()
                for seed in seeds:
                    one = conditions.condition(name)
                    labelled, _ = self.of(one)._prepared(one.method, seed)
                    labels = np.array([-1.0 if e.p_refuse is None else e.p_refuse for e in labelled])
                    learned = manipulation.head_learned(manipulation.read_history(folders[name, seed]), labels)
                    which = {"plain": plain, "condition": name, "seed": seed}
                    rows.append(which | learned | same.loc[seed].to_dict() | {"between_seeds": between})
            return pd.DataFrame(rows)

        return self.collected("treatment", build, pairs=TREATED)

    def control(self, name: str, seeds: Sequence[int] | None = None, **differs: Any) -> pd.DataFrame:
        """One condition at other settings, beside plain fine-tuning at the same settings and the unaligned model.

        Args:
            name: a method, or a method and ``/few``.
            seeds: alignment seeds; those of the controls by default.
            differs: settings of the section ``alignment``, e.g. ``lambda_aux=1.0``.

        Raises:
            SaferlrmError: unknown method or setting, or a value out of range.
        """
        plain = conditions.condition(f"sft/{FEW}" if name.endswith(f"/{FEW}") else "sft", alignment=differs)
        one = conditions.condition(name, alignment=differs)
        listed = {c.name: c for c in (conditions.condition(BEFORE), plain, one)}
        try:
            one.settings(self.profile)
        except ValidationError as problem:
            raise SaferlrmError("; ".join(f"alignment.{e['loc'][0]}: {e['msg']}" for e in problem.errors())) from None
        return self.cards(list(listed.values()), self.profile.evidence.seeds if seeds is None else seeds)


def _listed(listed: list[Condition]) -> list[str]:
    return [json.dumps({k: v for k, v in asdict(one).items() if v == v}, sort_keys=True) for one in listed]
