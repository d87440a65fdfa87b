"""What a model does when its states are changed: along its refusal direction, and along what its probe reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from saferlrm import causal, mechanism
from saferlrm.conditions import BEFORE, FEW
from saferlrm.probe_steering import probe_directions
from saferlrm.study.mechanism import GROUPS, Mechanism

CAUSAL_CONDITIONS = (BEFORE, "sft", "presafe")
# Thinking mode in which a direction is read, and in which it is tried. The first pair asks whether the pre-CoT state
# decides; the second brings the decision made without thinking there; the last shows that steering works where a
# decision is acted on, and is made on the unaligned model alone.
CAUSAL_MODES = (("on", "on"), ("off", "on"), ("off", "off"))
CAUSAL_SUITES, CAUSAL_PROMPTS, CAUSAL_SEEDS, CAUSAL_LAYERS = ("harmful_unseen", "benign"), 40, 2, 3
CAUSAL_SETTINGS = {"n": CAUSAL_PROMPTS, "suites": CAUSAL_SUITES, "scales": causal.SCALES, "layers": CAUSAL_LAYERS}
# The probe's own direction: with thinking on, where it is read. The last condition is the one in which labels without
# answers make harm more readable. More prompts, because what is seen there is expected to be nothing.
READ_CONDITIONS = (BEFORE, "presafe", f"presafe_decisions/{FEW}")
READ_PROMPTS = 100
READ_SETTINGS = CAUSAL_SETTINGS | {"n": READ_PROMPTS}
CAUSAL_MODULES = ("saferlrm.causal", "saferlrm.mechanism")


class Interventions(Mechanism):
    """Stages in which directions are added to a model's states, or removed."""

    def mechanism_causal(self, conditions: Sequence[str] = CAUSAL_CONDITIONS) -> pd.DataFrame:
        """Tidy rows of the answers with a model's own refusal direction, or a random one, added or removed.

        Group ``mechanism:causal``; columns of :func:`saferlrm.causal.causal`, and ``read`` (thinking mode in which the
        direction was read; ``mode``: in which it was tried), ``base``, ``condition``, ``method``, ``value`` (scale),
        ``seed``, ``organism``.
        """

        def build() -> pd.DataFrame:
            found = self.side_by_side("causal_of", self._models(conditions, CAUSAL_SEEDS))
            rows = pd.concat(found, ignore_index=True)
            done = "+" + rows["intervention"] + ":" + rows["direction"] + "_" + rows["read"] + "@" + rows["where"]
            place = ":layer=" + rows["layer"].astype(str) + ",scale=" + rows["scale"].map("{:g}".format)
            return rows.assign(base=rows["condition"], value=rows["scale"], condition=rows["condition"] + done + place)

        declared = CAUSAL_SETTINGS | {"modes": CAUSAL_MODES, "conditions": list(conditions)}
        return self.collected("mechanism_causal", build, *CAUSAL_MODULES, **declared)

    def causal_of(self, name: str, seed: int) -> pd.DataFrame:
        """:meth:`mechanism_causal` of one condition and alignment seed."""
        trained = self.trained(name, seed)
        pairs = [pair for pair in CAUSAL_MODES if name == BEFORE or "on" in pair]

        def build(folder: Path) -> None:
            prompts = {suite: part[:CAUSAL_PROMPTS] for suite, part in self.first(CAUSAL_SUITES).items()}
            lm, batch, found = self.loaded(trained), self._batch, []
            layers = sorted({round(at) for at in np.linspace(1, lm.n_layers, CAUSAL_LAYERS)})
            alike = self._groups[mechanism.ALIKE]
            for read, mode in pairs:
                directions = causal.refusal_directions(lm, alike, read, batch)
                rows = causal.causal(
                    lm, prompts, directions, self.decoding(), batch, mode, layers, seed=seed, judge=self.judge()
                )
                found.append(rows.assign(read=read))
            pd.concat(found, ignore_index=True).to_parquet(folder / "rows.parquet", index=False)

        settings = CAUSAL_SETTINGS | {"modes": pairs}
        stage = self._stage("mechanism_causal_of_model", settings, trained, build, "saferlrm.causal")
        return self._named(stage, "rows", name, seed)

    def probe_steering(self, conditions: Sequence[str] = READ_CONDITIONS) -> pd.DataFrame:
        """As :meth:`mechanism_causal`, along the weights of the probe that reads harm before the thought.

        The column ``direction`` says ``probe`` instead of ``refusal``, ``read`` says ``probe``; thinking is on.
        """
        return self._steered("rows", conditions)

    def probe_steering_readable(self, conditions: Sequence[str] = READ_CONDITIONS) -> pd.DataFrame:
        """How well the probe's and the refusal direction tell held-out harm: of :func:`probe_directions`, by model."""
        return self._steered("readable", conditions)

    def _steered(self, part: str, conditions: Sequence[str]) -> pd.DataFrame:
        def build() -> pd.DataFrame:
            models = self._models(conditions, CAUSAL_SEEDS)
            found = self.side_by_side("probe_steering_of", [(*model, part) for model in models])
            return pd.concat(found, ignore_index=True)

        modules = ("saferlrm.probe_steering", *CAUSAL_MODULES)
        return self.collected(f"probe_steering_{part}", build, *modules, **READ_SETTINGS, conditions=list(conditions))

    def probe_steering_of(self, name: str, seed: int, part: str) -> pd.DataFrame:
        """:meth:`probe_steering` of one condition and alignment seed, or what its directions tell."""
        trained = self.trained(name, seed)

        def build(folder: Path) -> None:
            prompts = {suite: part[:READ_PROMPTS] for suite, part in self.first(CAUSAL_SUITES).items()}
            lm, batch = self.loaded(trained), self._batch
            groups = {group: self._groups[group] for group in GROUPS}
            train = [*self._groups[mechanism.TRAIN], *self._groups[mechanism.ALIKE]]
            directions, readable = probe_directions(
                lm, train, self._groups[mechanism.ALIKE], groups, batch, self.profile.data_seed
            )
            layers = sorted({round(at) for at in np.linspace(1, lm.n_layers, CAUSAL_LAYERS)})
            rows = causal.causal(
                lm, prompts, directions, self.decoding(), batch, "on", layers, seed=seed, judge=self.judge()
            )
            rows["direction"] = rows["direction"].replace("refusal", "probe")
            rows.assign(read="probe").to_parquet(folder / "rows.parquet", index=False)
            readable.to_parquet(folder / "readable.parquet", index=False)

        stage = self._stage("probe_steering_of_model", READ_SETTINGS, trained, build, "saferlrm.probe_steering")
        rows = self._named(stage, part, name, seed)
        return rows.assign(base=name)
