"""The study on one screen: a graph of stages, each of which computes or loads one artefact.

A stage's key is the hash of its settings, its inputs and its code, so a second run is instant, a killed run resumes,
and another machine that shares the store finds what is there. Notebooks call these methods and explain.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from saferlrm import lm as language_models
from saferlrm.activations import extract
from saferlrm.align import methods
from saferlrm.align.data import AlignmentExample
from saferlrm.align.gradient import safety_gradient
from saferlrm.align.trainer import align
from saferlrm.chat import ThinkingMode
from saferlrm.classifier import predict, train_classifier
from saferlrm.classifier_report import learning_curve, report_classifier
from saferlrm.errors import SaferlrmError
from saferlrm.evaluate import scorecard
from saferlrm.generate import Decoding, answer
from saferlrm.judges import judge
from saferlrm.lm import LanguageModel
from saferlrm.probes import probe_table
from saferlrm.profile import GrowthSettings, Profile, load_profile
from saferlrm.store import Artefact, Store, code_fingerprint, explain_write_errors, file_hash, repository, write_json
from saferlrm.suites import synthetic
from saferlrm.suites.types import Prompt

BEFORE = "before"
THOUGHT_SHARES = (0, 0.2, 0.4, 0.6, 0.8, 1)
_REPORT = "saferlrm.classifier_report"


class Study:
    """One profile's study.

    Args:
        profile: a profile or the name of one.
        store: where finished stages live; the checkout's own store by default.
        overrides: dotted settings that differ from the profile, e.g. ``**{"alignment.lambda_aux": 0.5}``.
    """

    def __init__(self, profile: Profile | str = "organism", store: Store | None = None, **overrides: Any) -> None:
        if isinstance(profile, Profile) and overrides:
            raise SaferlrmError("give overrides with a profile's name, not with a loaded profile")
        self.profile = profile if isinstance(profile, Profile) else load_profile(profile, **overrides)
        self.store = store or Store.default()

    # -- the model and its prompts -------------------------------------------------------------------------------

    def organism(self, seed: int | None = None) -> Path:
        """Checkpoint folder of the model organism: the one that ships if its settings are the profile's, else grown."""
        growth = self.profile.growth
        if seed is not None:
            growth = growth.model_copy(update={"seed": seed})
        shipped = shipped_organism()
        if (shipped / "growth.json").is_file():
            record = json.loads((shipped / "growth.json").read_text())
            if GrowthSettings.model_validate(record["settings"]) == growth:
                return shipped

        def build(folder: Path) -> None:
            from saferlrm.organism.grow import grow

            grow(growth.seed, folder, growth)

        return self._stage("organism", growth.model_dump(mode="json"), {}, build, "saferlrm.organism.grow").path

    @cached_property
    def model(self) -> str:
        """Folder or hub name of the model under study."""
        return str(self.organism()) if self.profile.model == "organism" else self.profile.model

    @cached_property
    def model_key(self) -> str:
        """What identifies the model's weights: the hash of a folder's configuration and weights, or the hub name."""
        folder = Path(self.model)
        if not folder.is_dir():
            return self.model
        files = sorted(
            p for p in folder.iterdir() if p.suffix in {".json", ".safetensors", ".jinja"} and p.name != "growth.json"
        )
        return hashlib.sha256("".join(f"{p.name}:{file_hash(p)}" for p in files).encode()).hexdigest()

    def lm(self, method: str = BEFORE, seed: int | None = None) -> LanguageModel:
        """The model before alignment, or aligned by ``method`` with ``seed``."""
        adapter = None if method == BEFORE else self.aligned(method, seed).path / "adapter"
        return language_models.load_lm(self.model, adapter, dtype=self.profile.dtype, device=self.profile.device)

    def suites(self) -> dict[str, list[Prompt]]:
        """All evaluation suites."""
        p = self.profile
        return {name: synthetic.build_suite(name, p.suite_size, p.data_seed) for name in synthetic.SUITE_NAMES}

    # -- evaluation ----------------------------------------------------------------------------------------------

    def decoding(self, max_new_tokens: int | None = None) -> Decoding:
        """The profile's decoding settings, the same for every mode and method."""
        d = self.profile.decoding
        return Decoding(
            max_new_tokens=max_new_tokens or d.max_new_tokens,
            temperature=d.temperature,
            top_p=d.top_p,
            top_k=d.top_k,
            forced_thought_tokens=d.forced_thought_tokens,
        )

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

        artefact = self._stage("scorecard", settings, aligned, build, "saferlrm.evaluate", "saferlrm.suites.synthetic")
        table = pd.read_parquet(artefact.path / "scorecard.parquet")
        return table.assign(method=method, seed=0 if seed is None else seed)

    def evaluation(self, names: tuple[str, ...] = ("sft", "presafe")) -> pd.DataFrame:
        """Scorecards before alignment and of every method and alignment seed, one below the other."""
        cards = [self.scorecard()]
        cards += [self.scorecard(name, seed) for name in names for seed in self.profile.seeds]
        return pd.concat(cards, ignore_index=True)

    # -- probes --------------------------------------------------------------------------------------------------

    def probes(self) -> pd.DataFrame:
        """AUROC of probes for harm and of their controls, before the chain of thought, layer by layer.

        Probes learn from training prompts and are scored on the contrasts of the evaluation suites. Columns ``group``,
        ``position``, ``layer``, ``control`` (``probe``, ``difference_in_means``, ``shuffled``, ``random_direction``,
        ``bag_of_words``), ``auroc``, ``low``, ``high``, ``n``.
        """
        return self._probe("probes", ("prompt_last", "pre_cot"), thoughts=False)

    def thought_probes(self) -> pd.DataFrame:
        """The same along the model's own chain of thought: ``fraction`` 0 is its first token, 1 its last."""
        table = self._probe("thought_probes", tuple(f"thought:{share:g}" for share in THOUGHT_SHARES), thoughts=True)
        return table.assign(fraction=table["position"].str.partition(":")[2].replace("", None).astype(float))

    def _probe(self, stage: str, positions: tuple[str, ...], thoughts: bool) -> pd.DataFrame:
        p, suites = self.profile, self.suites()
        half = p.probe.n_train // 2
        train = synthetic.training_prompts(p.probe.n_train - half, half, p.data_seed, "probe")
        prompts = train + [prompt for pair in synthetic.CONTRASTS.values() for suite in pair for prompt in suites[suite]]
        index = {prompt.id: i for i, prompt in enumerate(prompts)}
        tests = {
            name: [index[prompt.id] for suite in pair for prompt in suites[suite]]
            for name, pair in synthetic.CONTRASTS.items()
        }

        def build(folder: Path) -> None:
            (folder / "work").mkdir(exist_ok=True)
            lm, texts = self.lm(), [prompt.text for prompt in prompts]
            layers = list(range(lm.n_layers + 1)) if p.probe.layers == "all" else list(p.probe.layers)
            said = [reply.thought for reply in self._answers(prompts, "on", "thoughts to probe")] if thoughts else None
            states = extract(
                lm, texts, positions, said, layers=layers, batch_size=p.decoding.batch_size, out=folder / "work" / "states.npy",
                progress="hidden states",
            )  # fmt: skip
            table = probe_table(
                states, [prompt.harmful for prompt in prompts], range(len(train)), tests, positions, layers,
                texts=None if thoughts else texts, n_shuffles=5 if thoughts else 20, progress="probes",
            )  # fmt: skip
            table.to_parquet(folder / "probes.parquet", index=False)

        settings = {
            "model": self.model_key,
            "probe": p.probe.model_dump(mode="json"),
            "prompts": _digest(prompt.text for prompt in prompts),
            "dtype": p.dtype,
            "decoding": asdict(self.decoding()) if thoughts else None,
        }
        path = self._stage(stage, settings, {}, build, "saferlrm.activations", "saferlrm.probes", "saferlrm.generate").path
        table = pd.read_parquet(path / "probes.parquet")
        names = {"logistic": "probe", "shuffled_labels": "shuffled"}
        return table.rename(columns={"suite": "group", "probe": "control"}).replace({"control": names})

    # -- the classifier ------------------------------------------------------------------------------------------

    def decisions(self) -> pd.DataFrame:
        """What the model does without thinking, prompt by prompt: the classifier's training set.

        Columns ``prompt_id``, ``text``, ``harmful``, ``family``, ``verdict``, ``refused``, ``answer``.
        """
        n = self.profile.classifier.n_prompts
        prompts = synthetic.training_prompts(n - n // 2, n // 2, self.profile.data_seed, "classifier")
        return self._decide("decisions", prompts, {"n_prompts": n})

    def test_decisions(self) -> pd.DataFrame:
        """The same on the evaluation suites, problems left out: what the classifier is judged on."""
        prompts = [p for name, suite in self.suites().items() if name != synthetic.REASONING for p in suite]
        return self._decide("test_decisions", prompts, {"suite_size": self.profile.suite_size})

    def classifier(self) -> Path:
        """Folder of the fine-tuned encoder and its temperature."""
        train = self.decisions()

        def build(folder: Path) -> None:
            train_classifier(train["text"], train["refused"], self.profile.classifier, folder, self.profile.seeds[0])

        return self._stage("classifier", self._classifier_settings(), {}, build, "saferlrm.classifier").path

    def classifier_scores(self) -> pd.DataFrame:
        """The classifier and its baselines on unseen prompts, group by group: accuracy, AUROC, calibration."""
        return self._classifier_tables()["scores"]

    def classifier_predictions(self) -> pd.DataFrame:
        """Calibrated p(refuse) and the model's own decision for each evaluation prompt."""
        return self._classifier_tables()["predictions"]

    def learning_curve(self) -> pd.DataFrame:
        """Scores on unseen prompts against the number of prompts the classifier learned from."""
        train, test = self.decisions(), self._grouped_decisions()
        n = len(train)
        sizes = sorted({max(20, n // 30), max(20, n // 10), max(20, n // 3), n})

        def build(folder: Path) -> None:
            table = learning_curve(
                (train["text"], train["refused"]), (test["text"], test["refused"]), self.profile.classifier, sizes,
                folder / "work", self.profile.seeds[0],
            )  # fmt: skip
            table.to_parquet(folder / "curve.parquet", index=False)

        settings = self._classifier_settings() | {"test": _digest(test["text"]), "sizes": sizes}
        return pd.read_parquet(self._stage("learning_curve", settings, {}, build, _REPORT).path / "curve.parquet")

    def _grouped_decisions(self) -> pd.DataFrame:
        groups = {suite: name for name, pair in synthetic.CONTRASTS.items() for suite in pair}
        test = self.test_decisions()
        return test.assign(group=test["suite"].map(groups)).dropna(subset="group").reset_index(drop=True)

    def _classifier_settings(self) -> dict[str, Any]:
        train = self.decisions()
        return {
            "classifier": self.profile.classifier.model_dump(mode="json"),
            "train": _digest([*train["text"], *map(str, train["refused"])]),
            "seed": self.profile.seeds[0],
        }

    def _classifier_tables(self) -> dict[str, pd.DataFrame]:
        train, test = self.decisions(), self._grouped_decisions()

        def build(folder: Path) -> None:
            model = self.classifier()
            table = report_classifier(
                model,
                (train["text"], train["refused"]),
                (test["text"], test["refused"]),
                self.profile.classifier,
                test["group"],
            )
            table.to_parquet(folder / "scores.parquet", index=False)
            found = test.assign(p_refuse=predict(model, test["text"]))
            found.drop(columns=["answer", "text"]).to_parquet(folder / "predictions.parquet", index=False)

        settings = self._classifier_settings() | {"test": _digest([*test["text"], *map(str, test["refused"])])}
        path = self._stage("classifier_report", settings, {}, build, _REPORT).path
        return {name: pd.read_parquet(path / f"{name}.parquet") for name in ("scores", "predictions")}

    def soft_labels(self) -> np.ndarray:
        """The classifier's p(refuse) for each example of the alignment set."""
        examples, _ = self.alignment_set()
        prompts = [example.prompt for example in examples]

        def build(folder: Path) -> None:
            pd.DataFrame({"id": [e.id for e in examples], "p_refuse": predict(self.classifier(), prompts)}).to_parquet(
                folder / "labels.parquet", index=False
            )

        settings = self._classifier_settings() | {"prompts": _digest(prompts)}
        path = self._stage("soft_labels", settings, {}, build, "saferlrm.classifier").path
        return pd.read_parquet(path / "labels.parquet")["p_refuse"].to_numpy()

    def _decide(self, stage: str, prompts: list[Prompt], settings: dict[str, Any]) -> pd.DataFrame:
        settings = settings | {
            "model": self.model_key,
            "data_seed": self.profile.data_seed,
            "decoding": asdict(self.decoding()),
            "dtype": self.profile.dtype,
        }

        def build(folder: Path) -> None:
            replies = self._answers(prompts, "off", "decisions without thinking")
            rows = [
                {
                    "prompt_id": p.id, "suite": p.suite, "text": p.text, "harmful": p.harmful, "family": p.family,
                    "verdict": (j := judge(p, r.answer, r.truncated)).verdict, "refused": j.refused, "answer": r.answer,
                }
                for p, r in zip(prompts, replies, strict=True)
            ]  # fmt: skip
            pd.DataFrame(rows).to_parquet(folder / "decisions.parquet", index=False)

        artefact = self._stage(
            stage, settings, {}, build, "saferlrm.judges", "saferlrm.generate", "saferlrm.suites.synthetic"
        )
        return pd.read_parquet(artefact.path / "decisions.parquet")

    # -- alignment -----------------------------------------------------------------------------------------------

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
            "n_decision": a.n_decision,
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

        path = self._alignment_stage(settings, build).path
        examples = [AlignmentExample(**row) for row in json.loads((path / "examples.json").read_text())]
        return examples, pd.read_parquet(path / "counts.parquet")

    def _alignment_stage(self, settings: dict[str, Any], build: Callable[[Path], None]) -> Artefact:
        return self._stage(
            "alignment_set", settings, {}, build, "saferlrm.judges", "saferlrm.generate", "saferlrm.suites.synthetic"
        )

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
            replies = self._answers(group, mode, f"alignment answers ({source})")
            verdicts = [judge(p, r.answer, r.truncated).verdict for p, r in zip(group, replies, strict=True)]
            kept = [
                AlignmentExample(p.id, p.text, None if source == "harmful" else r.thought, r.answer, None, source)
                for p, r, v in zip(group, replies, verdicts, strict=True)
                if v == wanted
            ][:n]
            if len(kept) < n:
                raise SaferlrmError(
                    f"only {len(kept)} of {len(group)} {source} prompts got a usable answer but alignment.n_{source} is {n}; lower it"
                )
            examples += kept
            for verdict in sorted(set(verdicts)):
                counts.append(
                    {"source": source, "verdict": verdict, "n": verdicts.count(verdict), "kept": verdict == wanted}
                )
        if a.n_decision:
            half = a.n_decision // 2
            extra = synthetic.training_prompts(a.n_decision - half, half, self.profile.data_seed, "decision")
            examples += [AlignmentExample(p.id, p.text, None, None, None, "decision") for p in extra]
        return examples, pd.DataFrame(counts)

    def labels(self) -> methods.LabelSources:
        """Every kind of label the head can learn, in the order of the alignment set."""
        examples, _ = self.alignment_set()
        gold = np.array([float("harmful" in example.id) for example in examples])
        return methods.LabelSources(soft=self.soft_labels(), decisions=None, gold=gold)

    def aligned(self, method: str, seed: int | None = None) -> Artefact:
        """The adapter of one method and seed (``adapter/``, which peft alone loads) and its training history."""
        seed = self.profile.seeds[0] if seed is None else seed
        examples, _ = self.alignment_set()
        labelled, settings = methods.prepare(method, examples, self.labels(), self.profile.alignment, seed)
        digest = _digest([asdict(e) for e in labelled])

        def build(folder: Path) -> None:
            align(self.model, labelled, settings, seed, folder, dtype=self.profile.dtype, device=self.profile.device)

        declared = {
            "method": method,
            "seed": seed,
            "model": self.model_key,
            "examples": digest,
            "alignment": settings.model_dump(mode="json"),
        }
        return self._stage("aligned", declared, {}, build, "saferlrm.align.trainer")

    def history(self, method: str, seed: int | None = None) -> pd.DataFrame:
        """Losses of an alignment run, one row per logging step."""
        return pd.DataFrame(json.loads((self.aligned(method, seed).path / "history.json").read_text()))

    def gradients(self, n_examples: int = 64) -> pd.DataFrame:
        """Norm and cosine of the language-modelling and the safety gradient, layer by layer, at the start of alignment."""
        examples, _ = self.alignment_set()
        labelled, settings = methods.prepare(
            "presafe", examples, self.labels(), self.profile.alignment, self.profile.seeds[0]
        )
        rng = np.random.default_rng(self.profile.data_seed)
        few = [labelled[i] for i in sorted(rng.permutation(len(labelled))[:n_examples])]
        digest = _digest([asdict(e) for e in few])

        def build(folder: Path) -> None:
            safety_gradient(self.lm(), few, settings).to_parquet(folder / "gradients.parquet", index=False)

        declared = {"model": self.model_key, "examples": digest, "alignment": settings.model_dump(mode="json")}
        path = self._stage("gradients", declared, {}, build, "saferlrm.align.gradient").path
        return pd.read_parquet(path / "gradients.parquet")

    # -- results -------------------------------------------------------------------------------------------------

    @cached_property
    def out(self) -> Path:
        """Where results and figures go: the checkout for the study as declared, ``runs/<profile>`` for any other.

        So a run with other settings never overwrites the results that the README reports. ``SAFERLRM_OUT`` overrides.
        """
        if os.environ.get("SAFERLRM_OUT"):
            return Path(os.environ["SAFERLRM_OUT"]).expanduser()
        declared = self.profile == load_profile("organism")
        return repository() if declared else repository() / "runs" / self.profile.name

    def save_table(self, name: str, table: pd.DataFrame) -> Path:
        """Writes a results table to ``results/<name>.json``: its rows, and what they were computed with."""
        path = self.out / "results" / f"{name}.json"
        evidence = {"profile": self.profile.model_dump(mode="json"), "model": self.model_key}
        with explain_write_errors(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(
                path,
                {
                    "name": name,
                    "evidence": evidence,
                    "rows": json.loads(table.to_json(orient="records", double_precision=6)),
                },
            )
        return path

    def save_figure(self, figure: Figure, name: str) -> None:
        """Writes a figure to ``figures/<name>.png`` and ``.svg``."""
        folder = self.out / "figures"
        with explain_write_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for suffix in ("png", "svg"):
                part = folder / f".{name}.{os.getpid()}.{suffix}"
                # No date and no random ids in the file: equal results give equal files.
                with matplotlib.rc_context({"svg.hashsalt": name}):
                    figure.savefig(
                        part, dpi=150, bbox_inches="tight", metadata={"Date": None} if suffix == "svg" else None
                    )
                os.replace(part, folder / f"{name}.{suffix}")

    # -- helpers -------------------------------------------------------------------------------------------------

    def _answers(self, prompts: list[Prompt], mode: ThinkingMode, progress: str) -> list[Any]:
        batch = self.profile.decoding.batch_size
        return answer(self.lm(), [p.text for p in prompts], mode, self.decoding(), batch, progress=progress)

    def _stage(
        self,
        stage: str,
        settings: dict[str, Any],
        inputs: dict[str, Artefact],
        build: Callable[[Path], None],
        *modules: str,
    ) -> Artefact:
        code = hashlib.sha256("".join(code_fingerprint(module) for module in modules).encode()).hexdigest()
        return self.store.load_or_compute(stage, settings, inputs, build, code)


def _digest(values: Iterable[Any]) -> str:
    """Hash of JSON values: what identifies a set of prompts or examples in a stage's key."""
    return hashlib.sha256(json.dumps(list(values)).encode()).hexdigest()


def shipped_organism() -> Path:
    """Folder of the checkpoint that ships with the package."""
    return Path(str(resources.files("saferlrm") / "organism" / "checkpoint"))
