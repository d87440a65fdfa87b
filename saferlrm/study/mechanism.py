"""How alignment works inside the model: probes, shifts of the latent, knowing and saying, gradients."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from saferlrm import causal, mechanism
from saferlrm.align.gradient_path import GradientPath
from saferlrm.align.head import resolve_layer
from saferlrm.align.run import align
from saferlrm.conditions import BEFORE, FEW, condition
from saferlrm.shift_contrasts import with_contrasts
from saferlrm.store import Artefact
from saferlrm.study.base import digest
from saferlrm.study.evidence import Evidence, runs
from saferlrm.suites import synthetic
from saferlrm.suites.types import Prompt

# The last two: labels without answers, and the same examples and steps with the head's gradient cut.
CONDITIONS = (
    BEFORE, "sft", "presafe", "detached", "shuffled", f"sft/{FEW}", f"presafe/{FEW}",
    f"detached_decisions/{FEW}", f"presafe_decisions/{FEW}",
)  # fmt: skip
KNOW_CONDITIONS = (BEFORE, "sft", "presafe", f"sft/{FEW}", f"presafe/{FEW}")
GRADIENT_CONDITIONS = ("presafe", f"presafe/{FEW}")
GROUPS = ("direct", "novel_wrapped")  # held-out contrasts
GRADIENT_EXAMPLES, GRADIENT_POINTS, GRADIENT_SEEDS = 12, 8, 2  # examples of each kind
GRADIENT_SETTINGS = {"n": 2 * GRADIENT_EXAMPLES, "points": GRADIENT_POINTS}


class Mechanism(Evidence):
    """Stages of the mechanism. Alignment seeds are those of the sweeps; the unaligned model is read once."""

    def mechanism_probes(self, conditions: Sequence[str] = CONDITIONS) -> pd.DataFrame:
        """AUROC of probes for harm by layer and token, and the refusal direction, before and after alignment.

        Columns of :func:`saferlrm.mechanism.probe_by_layer`, and ``condition``, ``method``, ``seed``, ``organism``.
        """
        return self._of_models("mechanism_probes", "probes", conditions)

    def mechanism_shift(self, conditions: Sequence[str] = CONDITIONS) -> pd.DataFrame:
        """How far alignment moved the latent along and beside directions of the unaligned model.

        Columns of :func:`saferlrm.shift_contrasts.with_contrasts`: one row for each ``condition`` (with ``method`` and
        ``organism``), ``harmful``, ``layer`` and ``direction``; alignment seeds are pooled.
        """
        aligned = [name for name in conditions if name != BEFORE]

        def build() -> pd.DataFrame:
            rows = self._of_models("mechanism_shifts", "shift", aligned)
            table = with_contrasts(mechanism.shift_table(rows), rows)
            return table.assign(method=table["condition"].str.partition("/")[0], organism=self.profile.growth.seed)

        modules = ("saferlrm.mechanism", "saferlrm.shift_contrasts")
        return self.collected("mechanism_shift", build, *modules, conditions=list(aligned))

    def mechanism_know(self, conditions: Sequence[str] = KNOW_CONDITIONS) -> pd.DataFrame:
        """Whether a model knows of the harm before it thinks, says so in its thought, and refuses; a row a prompt.

        Group ``mechanism:know``; columns of :func:`saferlrm.causal.know_but_dont_say`, and ``condition``, ``method``,
        ``seed``, ``organism``. :func:`saferlrm.causal.know_table` counts them.
        """

        def build() -> pd.DataFrame:
            rows = pd.concat(self.side_by_side("know_of", self._models(conditions)), ignore_index=True)
            return rows.assign(group="mechanism:know")

        modules = ("saferlrm.causal", "saferlrm.mechanism")
        return self.collected("mechanism_know", build, *modules, conditions=list(conditions), groups=GROUPS)

    def know_of(self, name: str, seed: int) -> pd.DataFrame:
        """:meth:`mechanism_know` of one condition and alignment seed."""
        read, trained = self._read(name, seed), self.trained(name, seed)

        def build(folder: Path) -> None:
            suites = self.first([suite for group in GROUPS for suite in synthetic.CONTRASTS[group]])
            p_harm = pd.read_parquet(read.path / "latent.parquet").set_index("prompt_id")["p_harm"].to_dict()
            lm = self.loaded(trained)
            rows = causal.know_but_dont_say(lm, suites, p_harm, self.decoding(), self._batch, self.judge())
            rows.to_parquet(folder / "rows.parquet", index=False)

        settings = {"layer": self._head_layer}
        stage = self._stage("mechanism_know_of_model", settings, trained, build, "saferlrm.causal", read=read)
        return self._named(stage, "rows", name, seed)

    def gradient_path(self, conditions: Sequence[str] = GRADIENT_CONDITIONS) -> pd.DataFrame:
        """Norms, cosine and direction of both gradients along alignment, on the same few examples.

        Columns of :meth:`saferlrm.align.gradient_path.GradientPath.table`, and ``epoch``, ``condition``, ``method``,
        ``seed``, ``organism``. The runs repeat those of :meth:`aligned` and end with the same adapters.
        """

        def build() -> pd.DataFrame:
            models = self._models(conditions, GRADIENT_SEEDS)
            return pd.concat(self.side_by_side("gradient_path_of", models), ignore_index=True)

        modules = ("saferlrm.align.gradient_path", "saferlrm.mechanism")
        return self.collected("gradient_path", build, *modules, **GRADIENT_SETTINGS, conditions=list(conditions))

    def gradient_path_of(self, name: str, seed: int) -> pd.DataFrame:
        """:meth:`gradient_path` of one condition and alignment seed."""
        method, study = condition(name).method, self.of(condition(name))
        labelled, settings = study._prepared(method, seed)
        steps = math.ceil(math.ceil(len(labelled) / settings.batch_size) * settings.epochs)

        def build(folder: Path) -> None:
            token = settings.head_token
            position = token if token in mechanism.POSITIONS else "pre_cot"
            directions = {
                at: vector for (where, at), vector in self._unaligned.differences.items() if where == position
            }
            few = self._gradient_examples()
            watch = GradientPath(self.load(), few, token, directions, max(1, steps // GRADIENT_POINTS))
            # Not in the stage's folder: a run that went on from a checkpoint would lack its first measurements.
            with tempfile.TemporaryDirectory() as work:
                p = self.profile
                align(
                    self.model, labelled, settings, seed, work, dtype=p.dtype, device=p.device, loading=p.loading,
                    callbacks=[watch],
                )  # fmt: skip
            table = watch.table()
            table.assign(epoch=table["step"] / steps * settings.epochs).to_parquet(folder / "rows.parquet", index=False)

        declared = GRADIENT_SETTINGS | {"examples": digest([asdict(example) for example in labelled])}
        declared |= {"alignment": settings.model_dump(mode="json"), "seed": seed}
        stage = self._stage("gradient_path_of_model", declared, None, build, "saferlrm.align.gradient_path")
        return self._named(stage, "rows", name, seed)

    @cached_property
    def _unaligned(self) -> mechanism.Unaligned:
        return mechanism.Unaligned.of(mechanism.read(self.load(), self._groups, self._batch), self.profile.data_seed)

    @property
    def _batch(self) -> int:
        return self.profile.decoding.batch_size

    @cached_property
    def _head_layer(self) -> int:
        """The layer whose state counts as the latent decision: the head's."""
        return resolve_layer(self.profile.alignment.head_layer, self.load().n_layers)

    @cached_property
    def _groups(self) -> dict[str, list[Prompt]]:
        """Training prompts of the probes, and the first prompts of the held-out contrasts."""
        train = self.probe_prompts()
        # Direct requests: harmful and benign ones differ in what is asked for and in nothing else.
        alike = [prompt for prompt in train if prompt.family == "seen"]
        groups = {mechanism.TRAIN: [prompt for prompt in train if prompt.family != "seen"], mechanism.ALIKE: alike}
        for name in GROUPS:
            groups[name] = [prompt for part in self.first(synthetic.CONTRASTS[name]).values() for prompt in part]
        return groups

    def _gradient_examples(self) -> list:
        """The same labelled examples for every run: harmful and benign ones in equal number."""
        labelled, _ = self._prepared("presafe", self.profile.seeds[0])
        order = np.random.default_rng(self.profile.data_seed).permutation(len(labelled))
        return [
            labelled[i]
            for harmful in (True, False)
            for i in [i for i in order if (labelled[i].source == "harmful") == harmful][:GRADIENT_EXAMPLES]
        ]

    def _models(self, conditions: Sequence[str], seeds: int | None = None) -> list[tuple[str, int]]:
        return runs(conditions, self.profile.evidence.sweep_seeds[:seeds])

    def _of_models(self, stage: str, part: str, conditions: Sequence[str]) -> pd.DataFrame:
        """One table of the readings of several models, one below the other."""

        def build() -> pd.DataFrame:
            models = self._models(conditions)
            read = zip(self.side_by_side("_read", models), models, strict=True)
            return pd.concat([self._named(one, part, *model) for one, model in read], ignore_index=True)

        return self.collected(stage, build, "saferlrm.mechanism", conditions=list(conditions), groups=GROUPS)

    def _read(self, name: str, seed: int) -> Artefact:
        """What is measured on the hidden states of one model: ``probes``, ``shift`` and ``latent``."""
        trained = self.trained(name, seed)

        def build(folder: Path) -> None:
            lm = self.loaded(trained)
            reading = mechanism.read(lm, self._groups, self._batch)
            mechanism.probe_by_layer(reading, self._unaligned).to_parquet(folder / "probes.parquet", index=False)
            penalty = self._unaligned.probes["pre_cot", self._head_layer].C
            decided = mechanism.latent_decision(reading, self._head_layer, penalty)
            latent = pd.DataFrame({"prompt_id": list(decided), "p_harm": list(decided.values())})
            latent.to_parquet(folder / "latent.parquet", index=False)
            if trained is not None:
                shift = mechanism.latent_shift(reading, self._unaligned, seed=self.profile.data_seed)
                shift.to_parquet(folder / "shift.parquet", index=False)

        settings = {"prompts": digest(p.text for part in self._groups.values() for p in part)}
        settings |= {"layer": self._head_layer}
        return self._stage("mechanism_of_model", settings, trained, build, "saferlrm.mechanism")

    def _stage(
        self, name: str, settings: dict, trained: Artefact | None, build: Callable, module: str, **inputs: Artefact
    ) -> Artefact:
        """A stage of one model; ``None`` is the unaligned one."""
        settings = settings | {"probe": self.profile.probe.model_dump(mode="json")}
        return self.stage_of_model(name, settings, trained, build, module, "saferlrm.suites.synthetic", **inputs)

    def _named(self, artefact: Artefact, part: str, name: str, seed: int) -> pd.DataFrame:
        return pd.read_parquet(artefact.path / f"{part}.parquet").assign(
            condition=name,
            method=condition(name).method,
            seed=0 if name == BEFORE else seed,
            organism=self.profile.growth.seed,
        )
