"""The direction that the probe reads, as a direction to push along: is what can be read also used?

A difference of means (:func:`saferlrm.causal.refusal_directions`) and a probe's weights are two directions. Where the
first tells harmful from harmless prompts hardly better than chance, pushing along it says nothing about what the second
reads. So the same interventions are made along the probe's own weights, with the length of the other as the unit (as
Li et al., arXiv 2306.03341, push along a probe's weights at inference).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from saferlrm.causal import _block_outputs, refusal_directions
from saferlrm.lm import LanguageModel
from saferlrm.probes import fit_probe
from saferlrm.stats import auroc
from saferlrm.steering import Direction
from saferlrm.suites.types import Prompt


def probe_directions(
    lm: LanguageModel,
    train: Sequence[Prompt],
    alike: Sequence[Prompt],
    held_out: Mapping[str, Sequence[Prompt]],
    batch_size: int = 64,
    seed: int = 0,
) -> tuple[dict[int, Direction], pd.DataFrame]:
    """Weights of logistic probes for harm at the last token before the thought, by layer from 1.

    Fitted, as everything that :func:`saferlrm.steering.steer` changes, to the outputs of the blocks.

    Args:
        train: prompts that the probes learn from; ``alike``: those that the refusal direction is learned from.
        held_out: prompts by group on which both directions are scored.
        seed: of the folds that choose the penalty.

    Returns:
        The directions, from harmless to harmful, each with the length of the refusal direction of its layer; and how
        well the projections on both tell harmful from harmless held-out prompts: ``layer``, ``direction`` (``probe``,
        ``refusal``), ``group``, ``auroc``, ``low``, ``high``, ``n``.
    """
    means = refusal_directions(lm, alike, "on", batch_size)
    states, y = _read(lm, train, batch_size)
    tests = {name: _read(lm, prompts, batch_size) for name, prompts in held_out.items()}
    found, rows = {}, []
    for layer, mean in means.items():
        weights = fit_probe(states[:, layer - 1], y, seed=seed).direction
        found[layer] = Direction(weights / np.linalg.norm(weights), mean.norm)
        for name, direction in (("probe", found[layer]), ("refusal", mean)):
            for group, (held, labels) in tests.items():
                score = auroc(labels, held[:, layer - 1] @ direction.unit)
                ends = {"auroc": score.estimate, "low": score.low, "high": score.high, "n": score.n}
                rows.append({"layer": layer, "direction": name, "group": group} | ends)
    return found, pd.DataFrame(rows)


def _read(lm: LanguageModel, prompts: Sequence[Prompt], batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """States [prompts, layers, hidden size] and whether each prompt is harmful."""
    states = _block_outputs(lm, [prompt.text for prompt in prompts], "on", batch_size)
    return states.astype(np.float64), np.array([prompt.harmful for prompt in prompts])
