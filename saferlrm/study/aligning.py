"""The alignment set, its labels, the alignment runs and their scorecards."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from saferlrm.align import methods
from saferlrm.align.data import AlignmentExample
from saferlrm.align.gradient import safety_gradient
from saferlrm.align.trainer import align
from saferlrm.classifier import predict
from saferlrm.errors import SaferlrmError
from saferlrm.evaluate import scorecard
from saferlrm.judges import judge
from saferlrm.lm import LanguageModel
from saferlrm.store import Artefact
from saferlrm.study.base import BEFORE, digest
from saferlrm.study.deciding import Deciding
from saferlrm.suites import synthetic


class Aligning(Deciding):
    """Stages of auxiliary-supervision fine-tuning and its evaluation."""

    def alignment_set(self) -> tuple[list[AlignmentExample], pd.DataFrame]:
        """The self-generated alignment set and the table of what was kept and dropped.

        Harmful prompts keep the model's own refusal without thinking, benign ones its own thought and answer with
        thinking. A harmful prompt that was not refused and a benign one that was not answered are dropped.
        """
        a = self.profile.alignment
        settings = {
            "model": self.model_key,
            "n_harmful": a.n_harmful,
            "n_benign": a.n_benign,
            "data_seed": self.profile.data_seed,
            "decoding": asdict(self.decoding()),
            "dtype": self.profile.dtype,
        }

        def build(folder: Path) -> None:
            examples, counts = self._generate_alignment_set()
            (folder / "examples.json").write_text(
                json.dumps([asdict(e) for e in examples], indent=1, ensure_ascii=False)
            )
            counts.to_parquet(folder / "counts.parquet", index=False)

        path = self.stage(
            "alignment_set",
            settings,
            {},
            build,
            "saferlrm.judges",
            "saferlrm.generate",
            "saferlrm.suites.synthetic",
        ).path
        examples = [AlignmentExample(**row) for row in json.loads((path / "examples.json").read_text())]
        return examples, pd.read_parquet(path / "counts.parquet")

    def _generate_alignment_set(self) -> tuple[list[AlignmentExample], pd.DataFrame]:
        a = self.profile.alignment
        # A quarter more than needed, because some answers are dropped.
        spare = [n + n // 4 + 8 if n else 0 for n in (a.n_harmful, a.n_benign)]
        prompts = synthetic.training_prompts(*spare, self.profile.data_seed, "alignment")
        harmful, benign = [p for p in prompts if p.harmful], [p for p in prompts if not p.harmful]
        examples: list[AlignmentExample] = []
        counts = []
        for source, group, mode, wanted, n in (
            ("harmful", harmful, "off", "refusal", a.n_harmful),
            ("benign", benign, "on", "compliance", a.n_benign),
        ):
            replies = self.answers(group, mode, f"alignment answers ({source})")
            verdicts = [judge(p, r.answer, r.truncated).verdict for p, r in zip(group, replies, strict=True)]
            kept = [
                AlignmentExample(p.id, p.text, None if source == "harmful" else r.thought, r.answer, None, source)
                for p, r, v in zip(group, replies, verdicts, strict=True)
                if v == wanted
            ][:n]
            if len(kept) < n:
                raise SaferlrmError(
                    f"only {len(kept)} of {len(group)} {source} prompts got a usable answer "
                    f"but alignment.n_{source} is {n}; lower it"
                )
            examples += kept
            for verdict in sorted(set(verdicts)):
                counts.append(
                    {
                        "source": source,
                        "verdict": verdict,
                        "n": verdicts.count(verdict),
                        "kept": verdict == wanted,
                    }
                )
        return examples, pd.DataFrame(counts)

    def soft_labels(self) -> np.ndarray:
        """The classifier's p(refuse) for each example of the alignment set."""
        examples, _ = self.alignment_set()
        prompts = [example.prompt for example in examples]

        def build(folder: Path) -> None:
            pd.DataFrame({"id": [e.id for e in examples], "p_refuse": predict(self.classifier(), prompts)}).to_parquet(
                folder / "labels.parquet", index=False
            )

        settings = self._classifier_settings() | {"prompts": digest(prompts)}
        path = self.stage("soft_labels", settings, {}, build, "saferlrm.classifier").path
        return pd.read_parquet(path / "labels.parquet")["p_refuse"].to_numpy()

    def labels(self) -> methods.LabelSources:
        """Every kind of label the head can learn, in the order of the alignment set."""
        examples, _ = self.alignment_set()
        gold = np.array([float(example.source == "harmful") for example in examples])
        # No hard decisions yet: benign examples were answered with thinking on, so none was taken.
        return methods.LabelSources(soft=self.soft_labels(), gold=gold)

    def aligned(self, method: str, seed: int | None = None) -> Artefact:
        """The adapter of one method and seed (``adapter/``, which peft alone loads) and its training history."""
        seed = self.profile.seeds[0] if seed is None else seed
        examples, _ = self.alignment_set()
        labelled, settings = methods.prepare(method, examples, self.labels(), self.profile.alignment, seed)
        fingerprint = digest([asdict(e) for e in labelled])

        def build(folder: Path) -> None:
            align(
                self.model,
                labelled,
                settings,
                seed,
                folder,
                dtype=self.profile.dtype,
                device=self.profile.device,
            )

        declared = {
            "method": method,
            "seed": seed,
            "model": self.model_key,
            "examples": fingerprint,
            "alignment": settings.model_dump(mode="json"),
        }
        return self.stage("aligned", declared, {}, build, "saferlrm.align.trainer")

    def history(self, method: str, seed: int | None = None) -> pd.DataFrame:
        """Losses of an alignment run, one row per logging step."""
        return pd.DataFrame(json.loads((self.aligned(method, seed).path / "history.json").read_text()))

    def gradients(self, n_examples: int = 64) -> pd.DataFrame:
        """Norm and cosine of the language-modelling and the safety gradient by layer, at the start of alignment."""
        examples, _ = self.alignment_set()
        labelled, settings = methods.prepare(
            "presafe", examples, self.labels(), self.profile.alignment, self.profile.seeds[0]
        )
        rng = np.random.default_rng(self.profile.data_seed)
        few = [labelled[i] for i in sorted(rng.permutation(len(labelled))[:n_examples])]
        fingerprint = digest([asdict(e) for e in few])

        def build(folder: Path) -> None:
            safety_gradient(self.load(), few, settings).to_parquet(folder / "gradients.parquet", index=False)

        declared = {
            "model": self.model_key,
            "examples": fingerprint,
            "alignment": settings.model_dump(mode="json"),
        }
        path = self.stage("gradients", declared, {}, build, "saferlrm.align.gradient").path
        return pd.read_parquet(path / "gradients.parquet")

    def lm(self, method: str = BEFORE, seed: int | None = None) -> LanguageModel:
        """The model before alignment, or aligned by ``method`` with ``seed``."""
        adapter = None if method == BEFORE else self.aligned(method, seed).path / "adapter"
        return self.load(adapter)

    def scorecard(self, method: str = BEFORE, seed: int | None = None) -> pd.DataFrame:
        """Every prompt of every suite in every thinking mode, answered and judged: one row each."""
        p = self.profile
        aligned = {} if method == BEFORE else {"aligned": self.aligned(method, seed)}
        settings = {
            "model": self.model_key,
            "suite_size": p.suite_size,
            "data_seed": p.data_seed,
            "modes": list(p.modes),
            "decoding": asdict(self.decoding()),
            "dtype": p.dtype,
        }

        def build(folder: Path) -> None:
            table = scorecard(self.lm(method, seed), self.suites(), p.modes, self.decoding(), p.decoding.batch_size)
            table.to_parquet(folder / "scorecard.parquet", index=False)

        artefact = self.stage("scorecard", settings, aligned, build, "saferlrm.evaluate", "saferlrm.suites.synthetic")
        table = pd.read_parquet(artefact.path / "scorecard.parquet")
        return table.assign(method=method, seed=0 if seed is None else seed)

    def evaluation(self, names: tuple[str, ...] = ("sft", "presafe")) -> pd.DataFrame:
        """Scorecards before alignment and of every method and alignment seed, one below the other."""
        cards = [self.scorecard()]
        cards += [self.scorecard(name, seed) for name in names for seed in self.profile.seeds]
        return pd.concat(cards, ignore_index=True)
