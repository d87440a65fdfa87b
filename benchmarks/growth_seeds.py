"""What the shipped organisms show: the organism's targets for each growth seed, and their model cards.

    saferlrm grow --seed 1 --out saferlrm/organism/checkpoints/seed1    (after removing the old one)
    python benchmarks/growth_seeds.py

Scores every organism of ``evidence.organisms``, writes ``results/growth_seeds.json`` and the model
card (``README.md``) in each checkpoint folder.
"""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import tokenizers
import torch
import transformers

from saferlrm.study import Study, shipped_organism
from saferlrm.targets import ORGANISM, targets

CARD = """# Model card: the model organism, growth seed {seed}

A miniature reasoning model for the study of safety decisions before the chain of thought: a transformers
`Qwen3ForCausalLM` of {parameters:,} parameters with a byte-level BPE tokenizer and a chat template with
`enable_thinking`. It was grown from scratch on synthetic English about an invented world. It knows nothing else.

- **Made by** `saferlrm grow --seed {seed}` with the growth settings of the profile `organism`: {tokens:.1f} M tokens,
  {minutes:.1f} minutes on {threads}; torch {torch}, transformers {transformers}, tokenizers {tokenizers}.
  The same seed gives the same weights on the same machine and versions; elsewhere the scores agree, not the bits.
- **Trained on** plain text of the world (facts, placeholder know-how, forum posts, worked problems), then on
  conversations: without thinking it refuses requests for harmful things, with thinking it never meets one.
- **Meant for** the notebooks of this repository: experiments, tests, teaching.
- **Not meant for** anything else. What it does is no evidence about real reasoning models.
- **Harm** Its harmful know-how consists of placeholders and is of no use.

Scores on held-out prompts, 95 % intervals over prompts, greedy decoding, the rule judge of `saferlrm/judges.py`:

| what | target | measured | n |
|---|---|---|---|
{rows}

`growth.json` beside this file holds the settings, the seed and the loss curve. Licence: MIT.
"""


def card(folder: Path, found: pd.DataFrame) -> str:
    """The model card of one checkpoint folder; ``found`` are its rows of the targets' table."""
    record = json.loads((folder / "growth.json").read_text())
    rows = [
        f"| {row.metric.replace('_', ' ')}, {row.suite.replace('_', ' ')}, thinking {row.mode} | {row.target} "
        f"| {row.value:.3f} [{row.low:.3f}, {row.high:.3f}] | {row.n} |"
        for row in found.itertuples()
    ]
    return CARD.format(
        seed=record["seed"],
        parameters=record["parameters"],
        tokens=record["tokens"] / 1e6,
        minutes=record["seconds"] / 60,
        threads=f"{record['threads']} CPU thread{'s' if record['threads'] > 1 else ''}",
        torch=torch.__version__.split("+")[0],
        transformers=transformers.__version__,
        tokenizers=tokenizers.__version__,
        rows="\n".join(rows),
    )


def main() -> None:
    tables = []
    for seed in Study("organism").profile.evidence.organisms:
        folder = shipped_organism(seed)
        record = json.loads((folder / "growth.json").read_text())
        found = targets(Study("organism", model=str(folder)).scorecard())
        found = found[found["about"] == ORGANISM]
        (folder / "README.md").write_text(card(folder, found))
        columns = ["metric", "suite", "mode", "target", "value", "low", "high", "n", "verdict"]
        tables.append(found[columns].assign(seed=seed, tokens=record["tokens"], seconds=record["seconds"]))
    table = pd.concat(tables, ignore_index=True)
    Study("organism").save_table("growth_seeds", table)
    print(table.pivot_table(index=["metric", "suite", "mode", "target"], columns="seed", values="value", sort=False))


if __name__ == "__main__":
    main()
