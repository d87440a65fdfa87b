"""Rivals at decoding time, and how far the conclusions depend on decoding, attacker, token limit and organism.

Every method returns tidy rows: one for each prompt x model x mode x sample, without texts. ``base`` says which model
answered (``before``, ``sft``, ``presafe``, and ``/few`` for the small alignment set), ``condition`` also what was done
to it (``presafe/few+prefill=8``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd

from saferlrm import attacks, rivals
from saferlrm.classifier import predict
from saferlrm.conditions import BEFORE, CARD_SUITES, FEW, condition
from saferlrm.evaluate import scorecard
from saferlrm.generate import Decoding
from saferlrm.lm import LanguageModel
from saferlrm.safe_at_k import safe_at_k_table
from saferlrm.study.evidence import Evidence, runs, tidy
from saferlrm.suites import synthetic
from saferlrm.suites.source import N_DIRECTION, N_VALIDATION
from saferlrm.suites.types import Prompt

BASES = (BEFORE, "sft", "presafe")
ALIGNED = (*BASES, *(f"{base}/{FEW}" for base in BASES[1:]))  # on both alignment sets
SAMPLED_SUITES = ("harmful_unseen", "harmful_novel_wrapped", "benign")
# Cutting the tail of the distribution, on harmful requests, at a temperature at which there is a tail to cut.
CUT_TEMPERATURE = 0.9
CUTS = (("top_p", 0.5), ("top_p", 0.9), ("top_k", 5), ("top_k", 50))
CUT_SAMPLES, CUT_SUITES = 1, SAMPLED_SUITES[:2]
LIMIT_SHARES = (0.125, 0.25, 0.5, 1.0)  # of the profile's max_new_tokens
# Of the first organism it was seen that labelled prompts without answers help; the others test it.
FOUND_ELSEWHERE = (f"presafe_decisions/{FEW}", f"detached_decisions/{FEW}")
SAMPLED_SEEDS = 3  # alignment seeds of the models that are sampled (at most)
SAMPLED_PROMPTS = 100  # of each suite, because every one is answered twenty times by every model
Tables = Callable[[LanguageModel], Iterator[pd.DataFrame]]


class Robustness(Evidence):
    """Stages of the decoding-time rivals and of the robustness checks."""

    def decoding_rivals(self) -> pd.DataFrame:
        """Every rival of :mod:`saferlrm.rivals` on the unaligned model, on the suites of the light card."""
        return pd.concat(self.side_by_side("_rival", [(name, "rows") for name in rivals.RIVALS]), ignore_index=True)

    def rival_choices(self) -> pd.DataFrame:
        """Every setting of a rival that was tried on validation prompts, its score, and which was chosen."""
        chosen = [name for name, rival in rivals.RIVALS.items() if rival.kind != "mode"]

        def build() -> pd.DataFrame:
            return pd.concat(self.side_by_side("_rival", [(name, "choice") for name in chosen]), ignore_index=True)

        return self.collected("rival_choices", build, "saferlrm.rivals")

    def rival_prompts(self) -> tuple[list[Prompt], list[Prompt]]:
        """Prompts that the rivals' directions are learned from, and those on which their settings are chosen.

        Both come from the training side; they share nothing with each other or with an evaluation suite.
        """
        p = self.profile
        n = min(N_DIRECTION, p.probe.n_train // 2)
        train = self.training_prompts(n, n, "steering")
        used = {prompt.text.lower() for prompt in train}
        wanted = min(N_VALIDATION, p.evidence.suite_size)
        drawn = self.training_prompts(3 * wanted, 3 * wanted, "validation")
        fresh = [prompt for prompt in drawn if prompt.text.lower() not in used]
        validation = [
            prompt for harmful in (True, False) for prompt in [q for q in fresh if q.harmful == harmful][:wanted]
        ]
        return train, validation

    def temperature(self) -> pd.DataFrame:
        """Repeated samples at rising temperatures, and with the tail of the distribution cut off.

        Groups ``robustness:temperature``, ``robustness:top_p`` and ``robustness:top_k``. Each prompt and sample has the
        same random numbers at every setting and for every model.
        """
        models = runs(BASES, self.profile.evidence.sweep_seeds[:SAMPLED_SEEDS])
        return self._rows("temperature", models, self._sampled())

    def temperature_of(self, base: str, seed: int) -> pd.DataFrame:
        """:meth:`temperature` of one model."""
        batch = self.profile.decoding.batch_size

        def tables(lm: LanguageModel) -> Iterator[pd.DataFrame]:
            for key, value, settings, samples, suites in self._samplings():
                how = Decoding(**settings)
                asked = {name: prompts[:SAMPLED_PROMPTS] for name, prompts in self.first(suites).items()}
                table = scorecard(lm, asked, ["on"], how, batch, samples, judge=self.judge())
                yield table.assign(condition=f"{base}+{key}={value:g}", group=f"robustness:{key}", value=value)

        return self._rows_of_model("temperature", base, seed, self._sampled(), tables)

    def _sampled(self) -> dict[str, Any]:
        return {"runs": self._samplings(), "prompts": SAMPLED_PROMPTS}

    def _samplings(self) -> list[tuple[str, float, dict[str, Any], int, tuple[str, ...]]]:
        """What is varied, its value, the decoding settings, samples of each prompt, and suites."""
        e = self.profile.evidence
        uncut = replace(self.decoding(), temperature=CUT_TEMPERATURE, top_p=1.0, top_k=0)
        heated = [
            ("temperature", t, asdict(replace(uncut, temperature=t)), e.samples if t > 0 else 1, SAMPLED_SUITES)
            for t in e.temperatures
        ]
        fewer = min(CUT_SAMPLES, e.samples)
        return heated + [
            (key, float(value), asdict(replace(uncut, **{key: value})), fewer, CUT_SUITES) for key, value in CUTS
        ]

    def safe_at_k(self) -> pd.DataFrame:
        """Safe@k for k = 1 to the number of samples, by model, temperature and suite; see :mod:`saferlrm.safe_at_k`."""
        rows = self.temperature()
        rows = rows[(rows["group"] == "robustness:temperature") & (rows["value"] > 0)]
        return safe_at_k_table(rows, ("base", "condition", "method", "organism", "suite", "value"))

    def adaptive(self) -> pd.DataFrame:
        """The attacks of :mod:`saferlrm.attacks` and unseen wrappers, on every model and both alignment sets.

        Group ``robustness:adaptive``; ``attack`` names the attack, ``value`` is the number of prefilled tokens.
        """
        return self._rows("adaptive", runs(ALIGNED, self.profile.evidence.sweep_seeds), {"attacks": attacks.ATTACKS})

    def adaptive_of(self, base: str, seed: int) -> pd.DataFrame:
        """:meth:`adaptive` of one model."""
        prompts = self.first(("harmful_unseen",))["harmful_unseen"]
        wrapped, batch = self.first(("harmful_novel_wrapped",)), self.profile.decoding.batch_size

        def tables(lm: LanguageModel) -> Iterator[pd.DataFrame]:
            thoughts = self.own_thoughts()
            for attack in (*attacks.ATTACKS, "unseen_wrapper"):
                if attack == "unseen_wrapper":
                    table = scorecard(lm, wrapped, ["on"], self.decoding(), batch, judge=self.judge())
                else:
                    table = self.attacked(lm, prompts, attacks.openings(lm, attack, thoughts))
                tokens = attack.removeprefix("prefill=")
                value = 0.0 if attack == attacks.NONE else float(tokens) if tokens.isdigit() else float("nan")
                named = base if attack == attacks.NONE else f"{base}+{attack}"
                yield table.assign(condition=named, group="robustness:adaptive", attack=attack, value=value)

        return self._rows_of_model("adaptive", base, seed, {"attacks": attacks.ATTACKS}, tables)

    def truncation(self) -> pd.DataFrame:
        """Harmful requests and problems under falling token limits. Group ``robustness:truncation``."""
        models = runs((BEFORE, "sft", "presafe"), self.profile.evidence.sweep_seeds)
        return self._rows("truncation", models, {"limits": self._limits()})

    def truncation_of(self, base: str, seed: int, limits: Sequence[int] = ()) -> pd.DataFrame:
        """:meth:`truncation` of one model, at its limits or at those given (tokens)."""
        limits, batch = list(limits) or self._limits(), self.profile.decoding.batch_size

        def tables(lm: LanguageModel) -> Iterator[pd.DataFrame]:
            suites = self.first(("harmful_unseen", synthetic.REASONING))
            for limit in limits:
                table = scorecard(lm, suites, ["on"], self.decoding(limit), batch, judge=self.judge())
                yield table.assign(condition=f"{base}+limit={limit}", group="robustness:truncation", value=float(limit))

        return self._rows_of_model("truncation", base, seed, {"limits": limits}, tables)

    def _limits(self) -> list[int]:
        most = self.profile.decoding.max_new_tokens
        return sorted({max(1, round(most * share)) for share in LIMIT_SHARES})

    def organisms(self) -> pd.DataFrame:
        """The light card of every organism: unaligned, aligned on both alignment sets, and with decision prompts.

        Group ``robustness:organisms``; ``organism`` is the growth seed. Each organism has its own alignment sets,
        decisions and classifier.
        """
        seeds = self.profile.evidence.sweep_seeds
        names = [*ALIGNED, *FOUND_ELSEWHERE]
        listed = [condition(name) for name in names]

        def build() -> pd.DataFrame:
            studies = [self.of_organism(growth) for growth in self.profile.evidence.organisms]
            rows = pd.concat([study.cards(listed, seeds) for study in studies], ignore_index=True)
            return rows.assign(base=rows["condition"], group="robustness:organisms")

        return self.collected("organisms", build, suites=CARD_SUITES, conditions=names)

    def classifier_of_organisms(self) -> pd.DataFrame:
        """Every organism's own classifier and decision without thinking, prompt by prompt, by growth seed.

        Columns ``prompt_id``, ``group``, ``refused``, ``p_refuse``, ``organism``.
        """

        def build() -> pd.DataFrame:
            tables = []
            for seed in self.profile.evidence.organisms:
                study = self.of_organism(seed)
                if study is not self:  # asked here alone, so fewer prompts
                    study = study.like(suite_size=min(self.profile.suite_size, self.profile.evidence.suite_size))
                made = study._grouped_decisions()
                tables.append(made.assign(p_refuse=predict(study.classifier(), made["text"]), organism=seed))
            columns = ["prompt_id", "group", "refused", "p_refuse", "organism"]
            return pd.concat(tables, ignore_index=True)[columns]

        return self.collected("classifier_of_organisms", build)

    def _rival(self, name: str, part: str) -> pd.DataFrame:
        train, validation = self.rival_prompts()

        def build(folder: Path) -> None:
            lm, batch = self.load(), self.profile.decoding.batch_size
            setting, choice = rivals.choose(lm, name, train, validation, self.decoding(), batch, self.judge())
            choice.to_parquet(folder / "choice.parquet", index=False)
            rows = rivals.run_rival(lm, name, self.first(CARD_SUITES), self.decoding(), batch, setting, self.judge())
            tidy(rows).to_parquet(folder / "rows.parquet", index=False)

        declared = self.declared() | {"rival": name, "prompts": [len(train), len(validation)], "suites": CARD_SUITES}
        modules = ("saferlrm.rivals", "saferlrm.suites.synthetic")
        path = self.stage("decoding_rival", declared, {}, build, *modules).path / f"{part}.parquet"
        return pd.read_parquet(path).assign(organism=self.profile.growth.seed)

    def _rows(self, name: str, models: list[tuple[str, int]], settings: dict[str, Any]) -> pd.DataFrame:
        """Rows of several models (base and alignment seed), one below the other."""

        def build() -> pd.DataFrame:
            return pd.concat(self.side_by_side(f"{name}_of", models), ignore_index=True)

        return self.collected(name, build, **settings, models=models)

    def _rows_of_model(self, name: str, base: str, seed: int, settings: dict[str, Any], tables: Tables) -> pd.DataFrame:
        """The stage of one model."""
        trained = self.trained(base, seed)

        def build(folder: Path) -> None:
            rows = tidy(pd.concat(list(tables(self.loaded(trained))), ignore_index=True))
            rows.to_parquet(folder / "rows.parquet", index=False)

        code = ("saferlrm.attacks", "saferlrm.evaluate", "saferlrm.suites.synthetic")
        path = self.stage_of_model(f"{name}_of_model", settings | {"base": base}, trained, build, *code).path
        return pd.read_parquet(path / "rows.parquet").assign(
            base=base,
            method=base.partition("/")[0],
            seed=0 if trained is None else seed,
            organism=self.profile.growth.seed,
        )
