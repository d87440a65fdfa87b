"""Did the treatment take? What the head learned, what it did to the weights, and how many answers it changed.

A null says little where nothing was done. Before two trainings are compared, these three numbers say how far apart
they are: whether the auxiliary head came to know its labels, how far the adapters differ (beside how far two seeds of
one training differ), and in how many answers the outcome does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file
from scipy.stats import entropy
from torch import Tensor

LAST = 0.2  # share of the logged steps, at the end, over which the head's loss is averaged


def head_learned(history: pd.DataFrame, soft_labels: np.ndarray) -> dict[str, float]:
    """How well the head agrees with its labels at the end of training, between no knowledge and a copy.

    Args:
        history: logged steps of one run, with ``aux_loss`` and ``head_accuracy``.
        soft_labels: probabilities of refusal [examples] that it was taught; below 0 is no label.

    Returns:
        In nats an example: ``first`` logged loss, ``last`` (mean over the last fifth of the steps), ``constant`` (the
        best loss of a head that gives every example the same probability), ``copy`` (the loss of the labels themselves,
        which is the least); ``accuracy`` of its side of 1/2 at the end, and ``majority``, that of the larger side.
    """
    q = np.asarray(soft_labels, float)
    q = q[q >= 0]
    tail = history.tail(max(1, round(LAST * len(history))))
    refuse = float((q > 0.5).mean())
    return {
        "first": float(history["aux_loss"].iloc[0]),
        "last": float(tail["aux_loss"].mean()),
        "constant": float(entropy([q.mean(), 1 - q.mean()])),
        "copy": float(entropy(np.stack([q, 1 - q])).mean()),
        "accuracy": float(tail["head_accuracy"].mean()),
        "majority": max(refuse, 1 - refuse),
    }


def update_distances(adapters: Mapping[tuple[str, int], Path]) -> pd.DataFrame:
    """How far the updates of the weights, B A alpha / r of every layer, lie from each other.

    Args:
        adapters: LoRA adapters by method and alignment seed, in the order in which they are to be compared.

    Returns:
        One row a pair of methods with one seed, and a pair of seeds of the first method: ``before``, ``after``,
        ``seed``, ``other_seed``, ``distance`` (norm of the difference over the norm of ``before``), ``cosine``.
    """
    updates = {key: _update(Path(folder)) for key, folder in adapters.items()}
    first, rows = next(iter(adapters))[0], []
    for i, ((method, seed), one) in enumerate(updates.items()):
        for (other, other_seed), two in list(updates.items())[i + 1 :]:
            if method == first and ((method == other) != (seed == other_seed)):
                distance = float((two - one).norm() / one.norm())
                cosine = float(torch.cosine_similarity(one, two, dim=0))
                row = {"before": method, "after": other, "seed": seed, "other_seed": other_seed}
                rows.append(row | {"distance": distance, "cosine": cosine})
    return pd.DataFrame(rows, columns=["before", "after", "seed", "other_seed", "distance", "cosine"])


def answers_that_differ(
    rows: pd.DataFrame, before: str, after: str, metric: str = "attack_success", by: Sequence[str] = ("suite", "mode")
) -> pd.DataFrame:
    """In how many answers two conditions come to another outcome, prompt by prompt and seed by seed.

    Args:
        rows: tidy rows with ``condition``, ``prompt_id``, ``seed``, the metric and the grouping columns.

    Returns:
        The grouping columns and ``answers`` that both gave, ``fewer`` (only ``before`` has the outcome) and ``more``
        (only ``after`` has it). Seeds of one condition alone are left out.
    """
    key = [*by, "prompt_id", "seed"]
    found = rows[rows["condition"].isin([before, after]) & rows[metric].notna()]
    wide = found.astype({metric: float}).pivot_table(index=key, columns="condition", values=metric, observed=True)
    wide = wide.dropna() if {before, after} <= set(wide) else wide.reindex(columns=[before, after]).dropna()
    gap = (wide[after] - wide[before]).rename("gap").reset_index()
    table = gap.groupby(list(by), sort=False, observed=True)["gap"].agg(
        answers="size", fewer=lambda g: int((g < 0).sum()), more=lambda g: int((g > 0).sum())
    )
    return table.reset_index()


def read_history(folder: str | Path) -> pd.DataFrame:
    """The logged steps of an aligned model's folder."""
    return pd.DataFrame(json.loads((Path(folder) / "history.json").read_text(encoding="utf-8")))


def _update(folder: Path) -> Tensor:
    weights = load_file(folder / "adapter_model.safetensors")
    settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    scale = settings["lora_alpha"] / settings["r"]
    down = sorted(name for name in weights if ".lora_A." in name)
    parts = [weights[name.replace(".lora_A.", ".lora_B.")].float() @ weights[name].float() for name in down]
    return scale * torch.cat([part.flatten() for part in parts])
