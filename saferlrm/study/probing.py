"""Probes of the latent safety signal, before the chain of thought and along it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pandas as pd

from saferlrm.activations import extract
from saferlrm.probes import probe_table
from saferlrm.study.base import Base, digest
from saferlrm.suites import synthetic

THOUGHT_SHARES = (0, 0.2, 0.4, 0.6, 0.8, 1)


class Probing(Base):
    """Stages that read hidden states."""

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
        train = self.probe_prompts()
        prompts = train + [
            prompt for pair in synthetic.CONTRASTS.values() for suite in pair for prompt in suites[suite]
        ]
        index = {prompt.id: i for i, prompt in enumerate(prompts)}
        tests = {
            name: [index[prompt.id] for suite in pair for prompt in suites[suite]]
            for name, pair in synthetic.CONTRASTS.items()
        }

        def build(folder: Path) -> None:
            (folder / "work").mkdir(exist_ok=True)
            lm, texts = self.load(), [prompt.text for prompt in prompts]
            layers = list(range(lm.n_layers + 1)) if p.probe.layers == "all" else list(p.probe.layers)
            said = [reply.thought for reply in self.answers(prompts, "on", "thoughts to probe")] if thoughts else None
            states = extract(
                lm, texts, positions, said, layers=layers, batch_size=p.decoding.batch_size,
                out=folder / "work" / "states.npy", progress="hidden states",
            )  # fmt: skip
            table = probe_table(
                states, [prompt.harmful for prompt in prompts], range(len(train)), tests, positions, layers,
                texts=None if thoughts else texts, n_shuffles=5 if thoughts else 20, progress="probes",
            )  # fmt: skip
            table.to_parquet(folder / "probes.parquet", index=False)

        settings = {
            "model": self.model_key,
            "probe": p.probe.model_dump(mode="json"),
            "prompts": digest(prompt.text for prompt in prompts),
            "dtype": p.dtype,
            "decoding": asdict(self.decoding()) if thoughts else None,
        }
        path = self.stage(
            stage, settings, {}, build, "saferlrm.activations", "saferlrm.probes", "saferlrm.generate"
        ).path
        table = pd.read_parquet(path / "probes.parquet")
        names = {"logistic": "probe", "shuffled_labels": "shuffled"}
        return table.rename(columns={"suite": "group", "probe": "control"}).replace({"control": names})
