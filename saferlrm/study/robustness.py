"""Rivals at decoding time, and how far the conclusions depend on decoding, attacker, token limit and organism.

Every method returns tidy rows: one for each prompt x model x mode x sample, without texts. ``base`` says which model
answered (``before``, ``sft``, ``presafe``, and ``/few`` for the small alignment set), ``condition`` also what was done
to it (``presafe/few+prefill=8``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Self

import pandas as pd

from saferlrm import attacks, rivals
from saferlrm.conditions import CARD_SUITES
from saferlrm.errors import SaferlrmError
from saferlrm.evaluate import scorecard
from saferlrm.generate import Decoding
from saferlrm.lm import LanguageModel
from saferlrm.safe_at_k import safe_at_k_table
from saferlrm.store import Artefact
from saferlrm.study.aligning import Aligning
from saferlrm.study.base import BEFORE
from saferlrm.suites import synthetic
from saferlrm.suites.types import Prompt

BASES = (BEFORE, "sft", "presafe")
FEW = "few"
SAMPLED_SUITES = ("harmful_unseen", "harmful_novel_wrapped", "benign")
# Cutting the tail of the distribution, on harmful requests, at a temperature at which there is a tail to cut.
CUT_TEMPERATURE = 0.9
CUTS = (("top_p", 0.5), ("top_p", 0.9), ("top_k", 5), ("top_k", 50))
CUT_SAMPLES, CUT_SUITES = 2, SAMPLED_SUITES[:2]
LIMIT_SHARES = (0.125, 0.25, 0.5, 1.0)  # of the profile's max_new_tokens
PREFILLED_TOKENS = 8  # of the light card's prefilled thought
ORGANISM_SEEDS = 2  # alignment seeds for each organism
N_DIRECTION, N_VALIDATION = 128, 32  # harmful prompts of each kind for the rivals, and as many benign ones (at most)


class Robustness(Aligning):
    """Stages of the decoding-time rivals and of the robustness checks."""

    def decoding_rivals(self) -> pd.DataFrame:
        """Every rival of :mod:`saferlrm.rivals` on the unaligned model, on the suites of the light card."""
        return pd.concat([self._rival(name, "rows") for name in rivals.RIVALS], ignore_index=True)

    def rival_choices(self) -> pd.DataFrame:
        """Every setting of a rival that was tried on validation prompts, its score, and which was chosen."""
        chosen = [name for name, rival in rivals.RIVALS.items() if rival.kind != "mode"]
        return pd.concat([self._rival(name, "choice") for name in chosen], ignore_index=True)

    def rival_prompts(self) -> tuple[list[Prompt], list[Prompt]]:
        """Prompts that the rivals' directions are learned from, and those on which their settings are chosen.

        Both come from the training side; they share nothing with each other or with an evaluation suite.
        """
        p = self.profile
        n = min(N_DIRECTION, p.probe.n_train // 2)
        train = synthetic.training_prompts(n, n, p.data_seed, "steering")
        used = {prompt.text.lower() for prompt in train}
        wanted = min(N_VALIDATION, p.evidence.suite_size)
        drawn = synthetic.training_prompts(3 * wanted, 3 * wanted, p.data_seed, "validation")
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
        e = self.profile.evidence
        uncut = replace(self.decoding(), temperature=CUT_TEMPERATURE, top_p=1.0, top_k=0)
        settings: list[tuple[str, float, Decoding, int, tuple[str, ...]]] = [
            ("temperature", t, replace(uncut, temperature=t), e.samples if t > 0 else 1, SAMPLED_SUITES)
            for t in e.temperatures
        ]
        fewer = min(CUT_SAMPLES, e.samples)
        settings += [(key, float(cut), replace(uncut, **{key: cut}), fewer, CUT_SUITES) for key, cut in CUTS]
        batch = self.profile.decoding.batch_size

        def build(lm: LanguageModel, base: str) -> Iterator[pd.DataFrame]:
            for key, value, decoding, samples, suites in settings:
                table = scorecard(lm, self._first(suites), ["on"], decoding, batch, samples)
                yield table.assign(condition=f"{base}+{key}={value:g}", group=f"robustness:{key}", value=value)

        declared = {"runs": [[key, value, asdict(d), n, suites] for key, value, d, n, suites in settings]}
        return self._rows("temperature", [(base, self.profile.seeds[0]) for base in BASES], declared, build)

    def safe_at_k(self) -> pd.DataFrame:
        """Safe@k for k = 1 to the number of samples, by model, temperature and suite; see :mod:`saferlrm.safe_at_k`."""
        rows = self.temperature()
        rows = rows[(rows["group"] == "robustness:temperature") & (rows["value"] > 0)]
        return safe_at_k_table(rows, ("base", "condition", "method", "seed", "organism", "suite", "value"))

    def adaptive(self) -> pd.DataFrame:
        """The attacks of :mod:`saferlrm.attacks` and unseen wrappers, on every model and both alignment budgets.

        Group ``robustness:adaptive``; ``attack`` names the attack, ``value`` is the number of prefilled tokens.
        """
        suites, batch = self._first(("harmful_unseen",)), self.profile.decoding.batch_size
        wrapped = self._first(("harmful_novel_wrapped",))
        prompts, thoughts = suites["harmful_unseen"], self.own_thoughts()

        def build(lm: LanguageModel, base: str) -> Iterator[pd.DataFrame]:
            for attack in (*attacks.ATTACKS, "unseen_wrapper"):
                if attack == "unseen_wrapper":
                    table = scorecard(lm, wrapped, ["on"], self.decoding(), batch)
                else:
                    table = self._attacked(lm, prompts, attacks.openings(lm, attack, thoughts))
                tokens = attack.removeprefix("prefill=")
                value = 0.0 if attack == attacks.NONE else float(tokens) if tokens.isdigit() else float("nan")
                condition = base if attack == attacks.NONE else f"{base}+{attack}"
                yield table.assign(condition=condition, group="robustness:adaptive", attack=attack, value=value)

        bases = [base + budget for budget in ("", f"/{FEW}") for base in BASES[1:]]
        models = [(BEFORE, 0)] + [(base, seed) for base in bases for seed in self.profile.evidence.sweep_seeds]
        declared = {"attacks": attacks.ATTACKS, "decoding": asdict(self.decoding())}
        return self._rows("adaptive", models, declared, build, "saferlrm.attacks")

    def truncation(self) -> pd.DataFrame:
        """Harmful requests and problems under falling token limits. Group ``robustness:truncation``."""
        most = self.profile.decoding.max_new_tokens
        limits = sorted({max(1, round(most * share)) for share in LIMIT_SHARES})
        suites, batch = self._first(("harmful_unseen", synthetic.REASONING)), self.profile.decoding.batch_size

        def build(lm: LanguageModel, base: str) -> Iterator[pd.DataFrame]:
            for limit in limits:
                table = scorecard(lm, suites, ["on"], self.decoding(limit), batch)
                yield table.assign(condition=f"{base}+limit={limit}", group="robustness:truncation", value=float(limit))

        models = [(base, self.profile.seeds[0]) for base in (BEFORE, "presafe")]
        declared = {"limits": limits, "decoding": asdict(self.decoding())}
        return self._rows("truncation", models, declared, build)

    def organisms(self) -> pd.DataFrame:
        """The light card of every organism: unaligned (thinking off and on), and aligned with both budgets.

        Group ``robustness:organisms``; ``organism`` is the growth seed. Each organism has its own alignment sets,
        decisions and classifier.
        """
        seeds = self.profile.evidence.sweep_seeds[:ORGANISM_SEEDS]
        bases = [base + budget for budget in ("", f"/{FEW}") for base in BASES[1:]]
        models = [(BEFORE, 0)] + [(base, seed) for base in bases for seed in seeds]
        cards = [self._of_organism(growth)._cards(models) for growth in self.profile.evidence.organisms]
        return pd.concat(cards, ignore_index=True)

    def own_thoughts(self) -> list[str]:
        """The unaligned model's own thought about each of the first prompts of ``harmful_unseen``."""
        suites = self._first(("harmful_unseen",))

        def build(folder: Path) -> None:
            replies = self.answers(suites["harmful_unseen"], "on", "thoughts to begin with")
            pd.DataFrame({"thought": [reply.thought for reply in replies]}).to_parquet(folder / "thoughts.parquet")

        declared = self._declared() | {"decoding": asdict(self.decoding())}
        path = self.stage("own_thoughts", declared, {}, build, "saferlrm.generate", "saferlrm.suites.synthetic").path
        return pd.read_parquet(path / "thoughts.parquet")["thought"].tolist()

    def _cards(self, models: list[tuple[str, int]]) -> pd.DataFrame:
        suites, batch = self._first(CARD_SUITES), self.profile.decoding.batch_size
        prompts, thoughts = suites["harmful_unseen"], self.own_thoughts()

        def build(lm: LanguageModel, base: str) -> Iterator[pd.DataFrame]:
            modes = ("off", "on") if base == BEFORE else ("on",)
            begun = attacks.first_tokens(lm, thoughts, PREFILLED_TOKENS)
            for table in (scorecard(lm, suites, modes, self.decoding(), batch), self._attacked(lm, prompts, begun)):
                yield table.assign(condition=base, group="robustness:organisms", value=float("nan"))

        declared = {"suites": CARD_SUITES, "decoding": asdict(self.decoding()), "prefilled": PREFILLED_TOKENS}
        return self._rows("organism_card", models, declared, build, "saferlrm.attacks")

    def _attacked(self, lm: LanguageModel, prompts: list[Prompt], begun: list[str] | None) -> pd.DataFrame:
        named = None if begun is None else {p.id: text for p, text in zip(prompts, begun, strict=True)}
        batch = self.profile.decoding.batch_size
        table = scorecard(lm, {"attacked": prompts}, ["on"], self.decoding(), batch, openings=named)
        return table if begun is None else table.assign(mode="prefilled")

    def _rival(self, name: str, part: str) -> pd.DataFrame:
        train, validation = self.rival_prompts()

        def build(folder: Path) -> None:
            lm, batch = self.load(), self.profile.decoding.batch_size
            setting, choice = rivals.choose(lm, name, train, validation, self.decoding(), batch)
            choice.to_parquet(folder / "choice.parquet", index=False)
            rows = rivals.run_rival(lm, name, self._first(CARD_SUITES), self.decoding(), batch, setting)
            rows.drop(columns=["thought", "answer"]).to_parquet(folder / "rows.parquet", index=False)

        declared = self._declared() | {
            "rival": name,
            "prompts": [len(train), len(validation)],
            "suites": CARD_SUITES,
            "decoding": asdict(self.decoding()),
        }
        modules = ("saferlrm.rivals", "saferlrm.suites.synthetic")
        path = self.stage("decoding_rival", declared, {}, build, *modules).path / f"{part}.parquet"
        return pd.read_parquet(path).assign(organism=self.profile.growth.seed)

    def _rows(
        self,
        stage: str,
        models: list[tuple[str, int]],
        declared: dict[str, Any],
        tables: Callable[[LanguageModel, str], Iterator[pd.DataFrame]],
        *modules: str,
    ) -> pd.DataFrame:
        """One stage for each model (base and alignment seed); their rows one below the other."""
        found = []
        for base, seed in models:
            trained = self._trained(base, seed)

            def build(folder: Path, base: str = base, trained: Artefact | None = trained) -> None:
                lm = self.load(None if trained is None else trained.path / "adapter")
                rows = pd.concat(list(tables(lm, base)), ignore_index=True)
                rows.drop(columns=["thought", "answer"]).to_parquet(folder / "rows.parquet", index=False)

            settings = self._declared() | declared | {"base": base}
            inputs = {} if trained is None else {"aligned": trained}
            path = self.stage(
                stage, settings, inputs, build, "saferlrm.evaluate", "saferlrm.suites.synthetic", *modules
            ).path
            found.append(
                pd.read_parquet(path / "rows.parquet").assign(
                    base=base,
                    method=base.partition("/")[0],
                    seed=0 if trained is None else seed,
                    organism=self.profile.growth.seed,
                )
            )
        return pd.concat(found, ignore_index=True)

    def _declared(self) -> dict[str, Any]:
        """What the answers of every stage here depend on besides the stage's own settings."""
        p = self.profile
        return {
            "model": self.model_key,
            "suite_size": p.suite_size,
            "first": p.evidence.suite_size,
            "data_seed": p.data_seed,
            "dtype": p.dtype,
        }

    def _first(self, names: tuple[str, ...]) -> dict[str, list[Prompt]]:
        """The first prompts of these suites; the same as in every other table of the evidence."""
        suites = self.suites()
        return {name: suites[name][: self.profile.evidence.suite_size] for name in names}

    def _trained(self, base: str, seed: int) -> Artefact | None:
        """The adapter of ``sft``, ``presafe`` or their ``/few``; ``None`` for the unaligned model."""
        method, _, budget = base.partition("/")
        if base == BEFORE:
            return None
        if budget != FEW:
            return self.aligned(method, seed)
        e = self.profile.evidence
        small = {"n_harmful": e.few_harmful, "n_benign": e.few_benign}
        alignment = self.profile.alignment.model_copy(update=small)
        return self._like(alignment=alignment).aligned(method, seed)

    def _of_organism(self, growth_seed: int) -> Self:
        growth = self.profile.growth
        if growth_seed == growth.seed:
            return self
        if self.profile.model != "organism":
            raise SaferlrmError(f"{self.profile.model} has no growth seeds; set evidence.organisms to [{growth.seed}]")
        return self._like(growth=growth.model_copy(update={"seed": growth_seed}))

    def _like(self, **changes: Any) -> Self:
        """The same study with other settings, in the same store."""
        return type(self)(self.profile.model_copy(update=changes), self.store)
