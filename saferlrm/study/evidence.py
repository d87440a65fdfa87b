"""What the controls, the rivals, the robustness checks and the mechanism share: conditions, light cards, prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self, TypeVar

import pandas as pd

from saferlrm import attacks
from saferlrm.conditions import BEFORE, CARD_SUITES, PREFILLED_TOKENS, Condition, condition
from saferlrm.errors import SaferlrmError
from saferlrm.evaluate import scorecard
from saferlrm.lm import LanguageModel
from saferlrm.store import Artefact
from saferlrm.study.scorecards import Scorecards
from saferlrm.suites.types import Prompt

C = TypeVar("C", Condition, str)
# Everything that a row of the evidence can depend on besides settings.
CODE = (
    "saferlrm.align.methods",
    "saferlrm.align.run",
    "saferlrm.attacks",
    "saferlrm.classifier",
    "saferlrm.conditions",
    "saferlrm.evaluate",
    "saferlrm.self_refusals",
    "saferlrm.suites.synthetic",
)


class Evidence(Scorecards):
    """Conditions and their cards: every prompt of the light card's suites, answered and judged."""

    def cards(self, conditions: Sequence[Condition], seeds: Sequence[int]) -> pd.DataFrame:
        """Light cards, one below the other; ``before`` has no seeds and is answered once."""
        pairs = runs(conditions, seeds)
        if self._workers(pairs) > 1:  # what the cards share is computed once, here
            self.own_thoughts()
            for one in {one.name: one for one, _ in pairs if one.method != BEFORE}.values():
                self.of(one).sources(one.method)
        return pd.concat(self.side_by_side("card", pairs), ignore_index=True)

    def card(self, one: Condition, seed: int) -> pd.DataFrame:
        """Tidy rows of one condition and alignment seed, without texts.

        Thinking on (before alignment also off) on the suites of the light card, and ``prefilled``: thoughts about
        ``harmful_unseen`` that begin with the first tokens of the unaligned model's own.
        """
        trained = self.trained(one, seed)
        suites, batch = self.first(CARD_SUITES), self.profile.decoding.batch_size

        def build(folder: Path) -> None:
            lm = self.loaded(trained)
            begun = attacks.first_tokens(lm, self.own_thoughts(), PREFILLED_TOKENS)
            modes = ("off", "on") if one.method == BEFORE else ("on",)
            rows = [
                scorecard(lm, suites, modes, self.decoding(), batch, judge=self.judge()),
                self.attacked(lm, suites["harmful_unseen"], begun),
            ]
            tidy(pd.concat(rows)).to_parquet(folder / "rows.parquet", index=False)

        settings = {"suites": CARD_SUITES, "prefilled": PREFILLED_TOKENS}
        modules = ("saferlrm.attacks", "saferlrm.evaluate", "saferlrm.suites.synthetic")
        path = self.stage_of_model("card", settings, trained, build, *modules).path
        return pd.read_parquet(path / "rows.parquet").assign(
            condition=one.name, group=one.group, method=one.method, value=one.value, level=one.level,
            seed=0 if trained is None else seed, organism=self.profile.growth.seed,
        )  # fmt: skip

    def trained(self, one: Condition | str, seed: int) -> Artefact | None:
        """The adapter of a condition, or of the condition of a name; ``None`` for the unaligned model."""
        one = _named(one)
        return None if one.method == BEFORE else self.of(one).aligned(one.method, seed)

    def loaded(self, trained: Artefact | None) -> LanguageModel:
        """The model of an artefact of :meth:`trained`; ``None`` is the unaligned one."""
        return self.load(None if trained is None else trained.path / "adapter")

    def stage_of_model(
        self,
        name: str,
        settings: dict[str, Any],
        trained: Artefact | None,
        build: Callable[[Path], None],
        *modules: str,
        **inputs: Artefact,
    ) -> Artefact:
        """A stage of one model: what it declares besides :meth:`declared`, and the adapter that it reads."""
        if trained is not None:
            inputs["aligned"] = trained
        return self.stage(name, self.declared() | settings, inputs, build, *modules)

    def of(self, one: Condition) -> Self:
        """The same study with the settings of a condition."""
        return self.like(**one.settings(self.profile))

    def like(self, **changes: Any) -> Self:
        """The same study with other sections of the profile, in the same store."""
        return type(self)(self.profile.model_copy(update=changes), self.store) if changes else self

    def of_organism(self, growth_seed: int) -> Self:
        """The same study of the organism of another growth seed."""
        growth = self.profile.growth
        if growth_seed == growth.seed:
            return self
        if self.profile.model != "organism":
            raise SaferlrmError(f"{self.profile.model} has no growth seeds; set evidence.organisms to [{growth.seed}]")
        return self.like(growth=growth.model_copy(update={"seed": growth_seed}))

    def first(self, names: Sequence[str]) -> dict[str, list[Prompt]]:
        """The first prompts of these suites; the same in every table of the evidence."""
        suites = self.suites()
        return {name: suites[name][: self.profile.evidence.suite_size] for name in names}

    def own_thoughts(self) -> list[str]:
        """The unaligned model's own thought about each of the first prompts of ``harmful_unseen``."""
        prompts = self.first(("harmful_unseen",))["harmful_unseen"]

        def build(folder: Path) -> None:
            replies = self.answers(prompts, "on", "thoughts to begin with")
            pd.DataFrame({"thought": [reply.thought for reply in replies]}).to_parquet(folder / "thoughts.parquet")

        path = self.stage(
            "own_thoughts", self.declared(), {}, build, "saferlrm.generate", "saferlrm.suites.synthetic"
        ).path
        return pd.read_parquet(path / "thoughts.parquet")["thought"].tolist()

    def attacked(self, lm: LanguageModel, prompts: list[Prompt], begun: Sequence[str] | None) -> pd.DataFrame:
        """Answers to prompts whose thought has begun with a text each; ``None`` leaves the thoughts to the model."""
        named = None if begun is None else {p.id: text for p, text in zip(prompts, begun, strict=True)}
        batch = self.profile.decoding.batch_size
        table = scorecard(lm, {"attacked": prompts}, ["on"], self.decoding(), batch, openings=named, judge=self.judge())
        return table if begun is None else table.assign(mode="prefilled")

    def declared(self) -> dict[str, Any]:
        """What the answers of every stage of the evidence depend on besides the stage's own settings."""
        p = self.profile
        return {
            "model": self.model_key,
            "suite_size": p.suite_size,
            "first": p.evidence.suite_size,
            **self.data_key,
            "dtype": p.dtype,
            "decoding": asdict(self.decoding()),
        } | self.judged_by()

    def collected(self, name: str, build: Callable[[], pd.DataFrame], *modules: str, **settings: Any) -> pd.DataFrame:
        """A whole table of the evidence as one stage, which ships without the hundred adapters behind it.

        Its key therefore declares all that its parts depend on: the profile, the organisms, the code.
        """
        p = self.profile
        organisms = {} if p.model != "organism" else {s: self.of_organism(s).model_key for s in p.evidence.organisms}
        sections = ("alignment", "classifier", "evidence", "probe")
        declared = self.declared() | settings | {"seeds": p.seeds, "organisms": organisms}
        declared |= {section: getattr(p, section).model_dump(mode="json") for section in sections}
        # Leaving the sweeps out changes no other table.
        for changes_nothing in ("quick", "workers"):
            declared["evidence"].pop(changes_nothing)

        def write(folder: Path) -> None:
            build().to_parquet(folder / "rows.parquet", index=False, compression="zstd")

        return pd.read_parquet(self.stage(name, declared, {}, write, *CODE, *modules).path / "rows.parquet")


def runs(listed: Sequence[C], seeds: Sequence[int]) -> list[tuple[C, int]]:
    """Conditions, or names of conditions, with each alignment seed; ``before`` has none and stands there once."""
    return [(one, seed) for one in listed for seed in (seeds if _named(one).method != BEFORE else (0,))]


def _named(one: Condition | str) -> Condition:
    return condition(one) if isinstance(one, str) else one


def tidy(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows without texts: what is stored and shared of a scorecard."""
    return rows.drop(columns=["thought", "answer"])
