"""What a study's own probe makes of a thought, token by token: fitted once, then found in the store.

The fit stands apart (:mod:`saferlrm.thought_probe`), so that its stage does not depend on the code of the study.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from saferlrm.lm import LanguageModel
from saferlrm.probes import Probe
from saferlrm.stats import Interval
from saferlrm.study.base import Base, digest
from saferlrm.thought_probe import ThoughtProbe, Token, fit_thought_probe

PROMPTS = 200  # training prompts at most, half of them harmful


@dataclass(frozen=True)
class Scorer:
    """A probe and the model whose thoughts it reads; call it with a prompt and its thought."""

    probe: ThoughtProbe
    lm: LanguageModel

    def __call__(self, prompt: str, thought: str) -> tuple[Token, ...]:
        return self.probe.tokens(self.lm, prompt, thought)


def thought_probe(study: Base) -> ThoughtProbe:
    """The probe of a study's model before alignment: fitted once in seconds, then found in the store."""
    p = study.profile
    every = study.probe_prompts()
    prompts = [one for label in (True, False) for one in [p for p in every if bool(p.harmful) == label][: PROMPTS // 2]]

    def build(folder: Path) -> None:
        said = study.answers(prompts, "on", "thoughts to probe")
        found = fit_thought_probe(study.load(), prompts, [reply.thought for reply in said], p.decoding.batch_size)
        record = {
            "layer": found.layer,
            "of_thoughts": asdict(found.of_thoughts),
            "of_tokens": found.of_tokens,
            "probe": asdict(found.probe) | {"direction": found.probe.direction.tolist()},
        }
        (folder / "probe.json").write_text(json.dumps(record))

    settings = {
        "model": study.model_key,
        "prompts": digest(prompt.text for prompt in prompts),
        "dtype": p.dtype,
        "decoding": asdict(study.decoding()),
    }
    modules = ("saferlrm.thought_probe", "saferlrm.activations", "saferlrm.probes", "saferlrm.generate")
    folder = study.stage("thought_scores", settings, {}, build, *modules).path
    record = json.loads((folder / "probe.json").read_text())
    probe = Probe(**record["probe"] | {"direction": np.array(record["probe"]["direction"])})
    return ThoughtProbe(probe, record["layer"], Interval(**record["of_thoughts"]), record["of_tokens"])


def scorer(study: Base, lm: LanguageModel | None = None) -> Scorer | None:
    """What scores thoughts of a study's model; ``None`` where a server has the weights, which tells no states.

    Args:
        lm: the model before alignment, if it is loaded already.
    """
    if study.profile.server.url is not None:
        return None
    return Scorer(thought_probe(study), lm or study.load())
