"""Results tables made by hand, shaped like the study's: what figures and report are tested on."""

from __future__ import annotations

import numpy as np
import pandas as pd

from saferlrm.suites import synthetic

MODES = ("off", "short", "on", "forced")
# Attack success of the made-up models in each mode, and under unseen jailbreaks.
ATTACK = {
    "before": (0.01, 0.18, 0.52, 0.55),
    "sft": (0.0, 0.02, 0.04, 0.05),
    "presafe": (0.0, 0.01, 0.02, 0.02),
}
CORRECT = {
    "before": (0.38, 0.41, 0.92, 0.93),
    "sft": (0.37, 0.40, 0.91, 0.92),
    "presafe": (0.38, 0.40, 0.92, 0.92),
}


def scorecard(
    method: str = "before", seed: int = 0, size: int = 120, modes: tuple[str, ...] = MODES
) -> pd.DataFrame:
    """A scorecard of one made-up model."""
    rng = np.random.default_rng([seed, *method.encode()])
    rows = []
    for suite in synthetic.SUITE_NAMES:
        harmful = suite in synthetic.HARMFUL_SUITES
        for mode in modes:
            at = MODES.index(mode)
            for i in range(size):
                depth = i % 6 + 1 if suite == synthetic.REASONING else None
                attack = harmful and rng.random() < min(
                    0.97, ATTACK[method][at] * (1.4 if "novel" in suite else 1)
                )
                odd = rng.random() < 0.03
                refused = (harmful and not attack and not odd) or (
                    not harmful and depth is None and rng.random() < 0.02
                )
                easier = 0.12 * (3.5 - (depth or 3.5)) * (1 - CORRECT[method][at]) * 2
                verdict = "refusal" if refused else "compliance"
                if odd and not attack and not refused:
                    verdict = str(rng.choice(["off_topic", "babble", "truncated"]))
                thought = (
                    0
                    if mode == "off"
                    else int(rng.gamma(9, 3 if harmful else 5)) + (40 if mode == "forced" else 0)
                )
                rows.append(
                    {
                        "prompt_id": f"{suite}-{i:04d}",
                        "suite": suite,
                        "family": "made up",
                        "topic": None,
                        "depth": depth,
                        "harmful": harmful,
                        "mode": mode,
                        "verdict": verdict,
                        "refused": verdict == "refusal",
                        "attack_success": attack if harmful else None,
                        "correct": rng.random() < CORRECT[method][at] + easier if depth else None,
                        "truncated": verdict == "truncated",
                        "n_thought_tokens": thought,
                        "n_tokens": thought + 20,
                        "thought": "SECRET THOUGHT",
                        "answer": "SECRET ANSWER",
                        "method": method,
                        "seed": seed,
                    }
                )
    return pd.DataFrame(rows).astype({"attack_success": "boolean", "correct": "boolean", "depth": "Int64"})


def evaluation(
    methods: tuple[str, ...] = ("sft", "presafe"), seeds: int = 3, size: int = 120
) -> pd.DataFrame:
    """Scorecards before and after alignment, one below the other."""
    cards = [scorecard(size=size)] + [
        scorecard(method, seed, size) for method in methods for seed in range(seeds)
    ]
    return pd.concat(cards, ignore_index=True)


def _area(value: float, spread: float = 0.03) -> dict[str, float]:
    return {"auroc": value, "low": max(0.0, value - spread), "high": min(1.0, value + spread), "n": 240}


def probes() -> pd.DataFrame:
    """Probes at two positions of a model of four layers."""
    rng = np.random.default_rng(0)
    levels = {"probe": 0.98, "difference_in_means": 0.94, "shuffled": 0.5, "random_direction": 0.55}
    rows = []
    for position in ("prompt_last", "pre_cot"):
        for group, loss in (("direct", 0.0), ("novel_wrapped", 0.06), ("scary", 0.12)):
            for layer in range(5):
                for control, level in levels.items():
                    real = control in ("probe", "difference_in_means")
                    value = 0.55 + (level - loss - 0.55) * layer / 4 if real else level + rng.normal(0, 0.02)
                    rows.append(
                        {"position": position, "layer": layer, "group": group, "control": control}
                        | _area(value)
                    )
            bag = {"position": position, "layer": None, "group": group, "control": "bag_of_words"}
            rows.append(bag | _area(0.78 - loss))
    return pd.DataFrame(rows)


def thought_probes() -> pd.DataFrame:
    """Probes at six points of the thought."""
    rows = []
    for fraction in np.linspace(0, 1, 6):
        for layer in range(5):
            value = 0.6 + 0.38 * layer / 4 - 0.2 * fraction
            rows.append({"fraction": fraction, "layer": layer, "control": "probe"} | _area(value))
            rows.append({"fraction": fraction, "layer": layer, "control": "shuffled"} | _area(0.5))
    return pd.DataFrame(rows)


def classifier_scores() -> pd.DataFrame:
    """An encoder and its baselines on five groups of prompts."""
    models = {
        "BERT": 0.99,
        "BERT, uncalibrated": 0.99,
        "TF-IDF + logistic regression": 0.86,
        "frozen encoder": 0.92,
    }
    rows = []
    for model, level in models.items():
        for group, loss in (
            ("all", 0.04),
            ("direct", 0.0),
            ("wrapped", 0.02),
            ("novel_wrapped", 0.06),
            ("scary", 0.13),
        ):
            area, accuracy = level - loss, level - loss - 0.05
            rows.append(
                {
                    "model": model, "group": group, "n": 600 if group != "all" else 2400,
                    "accuracy": accuracy, "accuracy_low": accuracy - 0.03,
                    "accuracy_high": min(1, accuracy + 0.02), "auroc": area, "auroc_low": area - 0.02,
                    "auroc_high": min(1, area + 0.015), "ece": 0.02, "brier": 0.03,
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def learning_curve() -> pd.DataFrame:
    """Two models, four sizes of the training set."""
    rows = []
    for model, low, high in (("BERT", 0.7, 0.99), ("TF-IDF + logistic regression", 0.62, 0.86)):
        for i, n in enumerate((50, 150, 500, 1500)):
            area = low + (high - low) * i / 3
            rows.append(
                {
                    "model": model,
                    "n_train": n,
                    "auroc": area,
                    "auroc_low": area - 0.03,
                    "auroc_high": area + 0.01,
                }
            )
    return pd.DataFrame(rows).assign(n=2400)


def predictions(n: int = 800) -> pd.DataFrame:
    """Calibrated probabilities with what happened."""
    rng = np.random.default_rng(1)
    p = rng.beta(0.25, 0.25, n)
    return pd.DataFrame(
        {"prompt_id": range(n), "suite": "harmful_unseen", "refused": rng.random(n) < p, "p_refuse": p}
    )


def histories() -> pd.DataFrame:
    """Logged losses of two methods and three seeds."""
    rows = []
    for method in ("sft", "presafe"):
        for seed in range(3):
            rng = np.random.default_rng(seed)
            for step in range(2, 102, 2):
                row = {
                    "method": method,
                    "seed": seed,
                    "step": step,
                    "lm_loss": 1.4 * np.exp(-step / 20) + 0.2 + rng.normal(0, 0.03),
                }
                if method == "presafe":
                    row |= {
                        "aux_loss": 0.69 * np.exp(-step / 30) + 0.02,
                        "head_accuracy": 1 - 0.5 * np.exp(-step / 10),
                    }
                rows.append(row)
    return pd.DataFrame(rows)


def gradients() -> pd.DataFrame:
    """Gradient norms of a model of four layers."""
    rows = []
    for of, scale in (("latent", 0.02), ("lora", 1.0)):
        for layer in range(1, 5):
            lm, aux = scale * (1.5 - 0.2 * layer), scale * (2.2 - 0.3 * layer)
            values = {"norm_lm": lm, "norm_aux": aux, "norm_total": lm + 0.2 * aux, "cosine": 0.1 * layer - 0.2}
            spread = scale / 10 if of == "latent" else np.nan
            ends = {f"{name}_{end}": value + at * spread for name, value in values.items() for end, at in
                    (("low", -1), ("high", 1))}
            rows.append({"of": of, "layer": layer, **values, **ends, "n": 64})
    return pd.DataFrame(rows)
