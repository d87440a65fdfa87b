"""From study to product: what a decision before the thought saves and misses, a model card and a data card.

Every number is read from ``results/`` and from the organism's growth record when the page is written; no sentence says
which way a number goes unless it was computed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from saferlrm import show
from saferlrm.errors import SaferlrmError
from saferlrm.late_harm import QUESTIONS, sentence
from saferlrm.stats import Interval
from saferlrm.store import repository
from saferlrm.suites import synthetic

PAGE = "docs/from_study_to_product.md"
MODELS = {"before": "before alignment", "sft": "plain fine-tuning (λ = 0)", "presafe": "PreSafe"}
SAVED = "09_rivals"
INTRO = """# From study to product

What the method under study would mean for somebody who runs a model, as far as this study can say. The numbers are
those of the model organism, a model of about a million parameters in an invented world: they show *how to measure*
each point, and must not be quoted for a real model. They are read from `results/` when this page is written.
"""
SEEING = """## What it cannot see

A decision before the thought rests on the prompt alone. Harm that appears only in the middle of a thought comes
after it: a request that turns harmful through what the model looks up or is told by a tool, a thought that somebody
else has begun, or a plan that drifts. The plainest test is a thought whose first tokens were written by others
(*prefilled*), as anybody can do who may write the beginning of the model's turn. Attack success on unseen harmful
requests:
"""
LATE = """The same in another cut, by a probe of the state before the thought, on harmful prompts, thinking on. Two
tokens of a thought that others begin leave that state as it was
([notebook 11](../notebooks/11_real_models.ipynb#Harm-that-comes-after-the-decision)):
"""
MONITORING = """## How to monitor it

1. **Watch the three rates together**, on fixed sets with gold labels, after every change of model, template or
   decoding settings: attack success, over-refusal, accuracy. [Notebook 06](../notebooks/06_evaluation.ipynb) draws
   them in one figure. Alert on the end of the interval, not on the estimate: few prompts cannot show that a rate is
   low. Count answers without content too: an attack also fails where the answer breaks down, and attack success takes
   that for safety ([notebook 09](../notebooks/09_rivals_and_robustness.ipynb), *One gain, tried again*).
2. **Watch thoughts, not only prompts.** Run the judge, or a probe such as that of [notebook
   03](../notebooks/03_probing_latent_safety_signals.ipynb), along the thought and on the answer. A decision before
   the thought and a check after it fail in different places.
3. **Do not let users write the beginning of the model's turn**, or treat such requests as attacks: see the table
   above.
4. **Watch the share of requests that get no thought.** A model that stops thinking about harmless requests is
   cheaper and may be worse, and no safety rate shows it.
5. **Log the classifier's probability** and compare its distribution with that of its training prompts; if it moves,
   so do the labels that the head was taught with.
6. **Attack it again** each time it changes, with wrappers and prefilled thoughts that no training contained.
7. **Have people label a sample of the judge's verdicts.** A judge's errors move attack success by many points
   (arXiv 2604.24074).
"""
USE = """\
**Meant for** the notebooks of this repository: experiments, tests, teaching. **Not meant for** anything else; it
can answer nothing about the real world. **Harm**: its harmful know-how consists of placeholders.
**Known limits**: what a thought that somebody else has begun does to its refusals stands in the table above;
whether it still thinks about requests is drawn in [notebook 06](../notebooks/06_evaluation.ipynb); it was evaluated
by the judge that also filtered its training data.
"""
DATA_LIMITS = """\
**How it was made.** The world (things, kinds, pieces) is invented by a program and the prompts are built from it by
templates, with a seed. Whatever a prompt's label says is true by construction; verdicts come from a rule judge that
knows the world. Harmless and harmful suites come in pairs that differ in nothing but what is asked for. Suites
about *unseen* things and *novel* jailbreak families hold what no safety training contained; the *seen* ones hold what
it did, for comparison.
**People** occur in none of it. **Licence**: MIT, as the rest of the repository. **Limits**: English of a few
hundred words; harm is a property of a thing's kind; no dialogue of several turns. Published prompt sets are not
part of the repository; their licences and revisions are in `saferlrm/suites/published.py`.
"""


def page(root: Path | None = None) -> str:
    """The page as Markdown, from the files below ``root``.

    Raises:
        SaferlrmError: a result is missing.
    """
    root = root or repository()
    seeing = (SEEING, _prefilled(root), LATE, _late(root))
    parts = [INTRO, *_savings(root), *seeing, MONITORING, *_model_card(root), *_data_card(root)]
    return "\n".join(part if part.endswith("\n") else f"{part}\n" for part in parts)


def _savings(root: Path) -> list[str]:
    rows = _rows(root, SAVED)
    settings = {"harmful_unseen, tokens an answer": "a harmful request", "reasoning, tokens an answer": "a problem"}
    found = {
        (key, setting): _interval(rows, condition=key, setting=setting) for key in MODELS for setting in settings
    }
    lines = [
        (name, *(show.figures(found[key, setting], 1) for setting in settings))
        for key, name in MODELS.items()
    ]
    harmful = [found[key, "harmful_unseen, tokens an answer"].estimate for key in ("before", "presafe")]
    speed = _evidence_speed(root)
    told = (
        f"That is {harmful[0] - harmful[1]:.0f} of {harmful[0]:.0f} tokens fewer for a harmful request "
        f"({1 - harmful[1] / harmful[0]:.0%} less)"
        if harmful[1] < harmful[0]
        else "Here it saves no tokens on harmful requests"
    )
    if speed:
        tokens, seconds = speed
        told += (
            f". Latency falls with the tokens, because decoding is one step for each: in the benchmark of this "
            f"repository, 32 answers at a time, a token takes {1000 * seconds / tokens:.2f} ms, so that is about "
            f"{1000 * (harmful[0] - harmful[1]) * seconds / tokens:.0f} ms of computing time for a request"
        )
    trained = _interval(rows, condition="presafe", setting="tokens of training").estimate
    refused = _interval(_rows(root, "06_over_refusal"), method="presafe", suite="benign", mode="on")
    return [
        "## What a decision before the thought saves\n",
        "Mean tokens that the model writes, thinking on, with the 95 % interval over prompts:\n",
        _table(("model", *settings.values()), lines),
        f"{told}. Plain fine-tuning on the same refusals is the line to compare with: what it saves too is not the "
        "head's. At inference the head is gone, so it costs nothing. "
        f"Training cost {trained:,.0f} tokens.\n",
        f"How much of the traffic is harmful decides what the saving is worth. With one harmful request in a thousand, "
        f"a thousand requests save {harmful[0] - harmful[1]:.0f} tokens, while the over-refusal measured here, "
        f"{show.figures(refused, 3)} on the suite `benign`, is {999 * refused.estimate:.1f} harmless requests "
        f"refused.\n",
    ]


def _prefilled(root: Path) -> str:
    rows = _rows(root, "09_adaptive")
    attacks = {
        "none": "no attack", "prefill=2": "2 tokens of the thought prefilled", "prefill=all": "whole thought prefilled",
        "unseen_wrapper": "unseen wrapper",
    }  # fmt: skip
    lines = [
        (name, *(show.figures(_interval(rows, base=key, attack=attack)) for attack in attacks))
        for key, name in MODELS.items()
    ]
    return _table(("model", *attacks.values()), lines)


def _late(root: Path) -> str:
    rows = _rows(root, "11_late_harm")
    lines = [(question, *(sentence(rows, key, question) for key in MODELS)) for question in QUESTIONS]
    return _table(("how often", *MODELS.values()), lines)


def _model_card(root: Path) -> list[str]:
    grown = _json(root / "saferlrm" / "organism" / "checkpoints" / "seed0" / "growth.json")
    evidence = _json(root / "results" / "06_attack_success.json")["evidence"]["profile"]
    aligned = evidence["alignment"]
    shown = ("lambda_aux", "head_token", "head_layer", "rank", "lora_alpha", "learning_rate", "epochs", "batch_size")
    settings = ", ".join(f"{name.replace('_', ' ')} {aligned[name]}" for name in shown)
    seeds = ", ".join(map(str, evidence["seeds"]))
    tables = (
        ("attack success", "06_attack_success", "harmful_unseen"),
        ("attack success", "06_attack_success", "harmful_novel_wrapped"),
        ("over-refusal", "06_over_refusal", "benign"),
        ("over-refusal", "06_over_refusal", "safe_but_scary"),
        ("accuracy", "06_accuracy", "reasoning"),
    )
    lines = []
    for what, name, suite in tables:
        rows = _rows(root, name)
        cells = (show.figures(_interval(rows, method=key, suite=suite, mode="on"), 3) for key in MODELS)
        lines.append((f"{what}, {suite.replace('_', ' ')}", *cells))
    return [
        "## Model card: the aligned organism\n",
        f"**What it is**: a LoRA adapter for the model organism, a `Qwen3ForCausalLM` of {grown['parameters']:,} "
        f"parameters that was grown from scratch on {grown['tokens'] / 1e6:.1f} M tokens in "
        f"{grown['seconds'] / 60:.0f} minutes on {grown['threads']} CPU threads (seed {grown['seed']}). The auxiliary "
        "head is not part of it.\n",
        f"**Settings of alignment**: {settings}; seeds {seeds}. Decoding: temperature "
        f"{evidence['decoding']['temperature']}, at most {evidence['decoding']['max_new_tokens']} tokens.\n",
        USE,
        "**Scores**, thinking on, 95 % intervals over prompts:\n",
        _table(("what", *MODELS.values()), lines),
    ]


def _data_card(root: Path) -> list[str]:
    counts = _rows(root, "05_alignment_set")
    decisions = _rows(root, "04_decisions")
    evidence = _json(root / "results" / "04_decisions.json")["evidence"]["profile"]
    verdicts = [name for name in decisions if name != "harmful"]
    used = [
        (row.source, row.verdict, row.n, "used" if row.kept else "left out") for row in counts.itertuples(index=False)
    ]
    decided = [
        ("harmful" if row["harmful"] else "harmless", *(int(row[v]) for v in verdicts))
        for _, row in decisions.iterrows()
    ]
    suites = [(name, synthetic.describe(name)) for name in synthetic.SUITE_NAMES]
    return [
        "## Data card: prompts, decisions and the alignment set\n",
        DATA_LIMITS,
        f"**Evaluation suites**: {evidence['suite_size']} prompts each, seed {evidence['data_seed']}.\n",
        _table(("suite", "what it holds"), suites),
        "**Decisions** of the model with thoughts off, the classifier's training data:\n",
        _table(("prompts", *verdicts), decided),
        "**Alignment set**: the model's own replies, filtered by the judge; a refusal without a thought is attached to "
        "harmful prompts, the model's thought and answer to harmless ones.\n",
        _table(("prompts", "verdict", "number", "use"), used),
    ]


def _evidence_speed(root: Path) -> tuple[float, float] | None:
    """Tokens and seconds of the benchmark of generation, 32 rows at a time; ``None`` if it was not run."""
    path = root / "benchmarks" / "results" / "generation.json"
    if not path.is_file():
        return None
    mark = _json(path)
    return mark["mean_new_tokens"] * mark["prompts"], mark["seconds"]["32"]


def _interval(rows: pd.DataFrame, **where: object) -> Interval:
    return show.read(rows, "rate", **where)


def _rows(root: Path, name: str) -> pd.DataFrame:
    return pd.DataFrame(_json(root / "results" / f"{name}.json")["rows"])


def _json(path: Path) -> Any:
    if not path.is_file():
        raise SaferlrmError(f"{path} does not exist; run the study first: saferlrm run")
    return json.loads(path.read_text(encoding="utf-8"))


def _table(header: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows]) + "\n"
