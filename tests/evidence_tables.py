"""Tidy tables of the evidence made by hand, shaped like the study's: what its figures are tested on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from saferlrm.attacks import ATTACKS
from saferlrm.conditions import CARD_SUITES
from saferlrm.safe_at_k import safe_at_k_table
from saferlrm.suites import synthetic

METHODS = ("sft", "presafe", "detached", "shuffled", "random", "hard", "gold", "presafe_decisions")
# Attack success of made-up models: direct, in unseen jailbreaks, under prefilled thoughts.
RATES = {
    "before": (0.50, 0.62, 0.66),
    "sft": (0.06, 0.08, 0.12),
    "presafe": (0.02, 0.03, 0.03),
    "detached": (0.06, 0.08, 0.12),
    "shuffled": (0.06, 0.09, 0.13),
    "random": (0.06, 0.09, 0.13),
    "hard": (0.01, 0.03, 0.04),
    "gold": (0.01, 0.03, 0.03),
    "presafe_decisions": (0.01, 0.02, 0.02),
}
FEW_ATTACK = {name: tuple(min(0.9, 6 * p) for p in found) for name, found in RATES.items() if name != "before"}


def card(
    hits: Sequence[float],
    refused: float = 0.04,
    correct: float = 0.9,
    size: int = 40,
    modes: Sequence[str] = ("on",),
    prefilled: bool = True,
    suites: Sequence[str] = CARD_SUITES,
    samples: int = 1,
    truncated: float = 0.02,
    **columns: Any,
) -> pd.DataFrame:
    """The light card of one made-up model; outcomes of one prompt are alike in every call.

    Args:
        hits: attack success of direct requests, of unseen jailbreaks (and contrasts) and under prefilled thoughts.
        columns: constants: condition, group, method, value, seed and the like.
    """
    runs = [(suite, mode) for mode in modes for suite in suites]
    runs += [("harmful_unseen", "prefilled")] * prefilled
    tables = []
    for suite, mode in runs:
        harmful, problem = suite in synthetic.HARMFUL_SUITES, suite == synthetic.REASONING
        which = [columns.get(name, "") for name in ("condition", "seed", "organism")]
        rng = np.random.default_rng([*f"{suite}{mode}{which}".encode()])
        own = np.random.default_rng([*suite.encode()]).random(size)  # how hard each prompt is, for every model
        rate = hits[2] if mode == "prefilled" else hits[0] if suite == "harmful_unseen" else hits[1]
        rate = correct if problem else rate if harmful else refused
        for sample in range(samples):
            hit = 0.7 * own + 0.3 * rng.random(size) < _quantile(rate)
            tables.append(
                pd.DataFrame(
                    {
                        "prompt_id": [f"{suite}-{i:04d}" for i in range(size)],
                        "suite": suite,
                        "family": "made up",
                        "topic": None,
                        "depth": [i % 6 + 1 if problem else None for i in range(size)],
                        "harmful": harmful,
                        "mode": mode,
                        "sample": sample,
                        "verdict": np.where(hit == harmful, "compliance", "refusal") if not problem else "compliance",
                        "refused": ~hit if harmful else np.zeros(size, bool) if problem else hit,
                        "attack_success": hit if harmful else None,
                        "correct": hit if problem else None,
                        "truncated": rng.random(size) < truncated,
                        "n_thought_tokens": rng.integers(10, 60, size),
                        "n_tokens": rng.integers(60, 90, size),
                    }
                )
            )
    table = pd.concat([one.astype({"attack_success": "boolean", "correct": "boolean"}) for one in tables])
    given = {"condition": "before", "group": "control", "method": "before", "value": np.nan, "seed": 0, "organism": 0}
    return table.astype({"depth": "Int64"}).assign(**given | columns).reset_index(drop=True)


def _quantile(share: float) -> float:
    """Below which value 0.7 U + 0.3 V falls with this probability, U and V uniform."""
    if share > 0.5:
        return 1 - _quantile(1 - share)
    return float(np.sqrt(0.42 * share)) if share < 0.3 / 1.4 else 0.15 + 0.7 * share


def _together(cards: list[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(cards, ignore_index=True)


def controls(
    full: Mapping[str, Sequence[float]] = RATES,
    few: Mapping[str, Sequence[float]] = FEW_ATTACK,
    seeds: int = 3,
    size: int = 40,
) -> pd.DataFrame:
    """Controls with both alignment budgets."""
    cards = [card(full["before"], 0.01, modes=("off", "on"), size=size)]
    for group, table, ending in (("control", full, ""), ("few", few, "/few")):
        cards += [
            card(found, 0.05, 0.88, size, condition=name + ending, group=group, method=name, seed=seed)
            for name, found in table.items()
            if name != "before"
            for seed in range(seeds)
        ]
    return _together(cards)


def differences(sign: float = 1.0) -> pd.DataFrame:
    """Comparisons of every control with λ = 0; ``sign`` turns them round."""
    rng = np.random.default_rng(0)
    measures = (
        ("harmful_unseen", "on", "attack_success"), ("harmful_novel_wrapped", "on", "attack_success"),
        ("harmful_unseen", "prefilled", "attack_success"), ("safe_but_scary", "on", "refused"),
        ("benign_novel_wrapped", "on", "refused"), ("reasoning", "on", "correct"),
    )  # fmt: skip
    rows = []
    for ending in ("", "/few"):
        for name in METHODS[1:]:
            for suite, mode, metric in measures:
                real = name in ("presafe", "hard", "gold", "presafe_decisions") and metric == "attack_success"
                at = sign * (-0.12 if real else rng.normal(0, 0.01))
                rows.append(
                    {"suite": suite, "mode": mode, "metric": metric, "before": "sft" + ending, "after": name + ending}
                    | {"difference": at, "low": at - 0.05, "high": at + 0.05, "p_holm": 0.001 if real else 0.8}
                    | {"n": 150, "seeds": 5}
                )
    return pd.DataFrame(rows)


SWEEPS: dict[str, tuple[str, ...]] = {
    "lambda": ("0.05", "0.2", "1", "5"),
    "layer": ("1", "2", "3", "4"),
    "token": ("prompt end", "pre-CoT", "prompt mean"),
    "rank": ("1", "8", "32"),
    "examples": ("10", "20", "80", "320", "all"),
    "classifier_prompts": ("50", "150", "500", "1500"),
    "thoughts": ("none", "short", "own", "long"),
}


def sweeps(
    most: str = "examples", seeds: int = 2, size: int = 30, names: Sequence[str] = tuple(SWEEPS)
) -> pd.DataFrame:
    """Sweeps of several settings; ``most`` is the one on which attack success depends."""
    cards, suites = [], ("harmful_unseen", "harmful_novel_wrapped", "safe_but_scary")
    for name in names:
        levels = SWEEPS[name]
        for i, level in enumerate(levels):
            value = float(i) if name in ("token", "thoughts", "examples") else float(level)
            attack = 0.85 - 0.8 * i / (len(levels) - 1) if name == most else 0.3
            for method in ("sft", "presafe") if name in ("rank", "examples", "thoughts") else ("presafe",):
                rate = min(0.95, attack + 0.1) if method == "sft" else attack
                cards += [
                    card(
                        (rate,) * 3, 0.04 + 0.02 * i, condition=f"{method}/few/{name}={level}", group=f"sweep:{name}",
                        method=method, value=value, level=level, seed=seed, size=size, suites=suites,
                    )
                    for seed in range(seeds)
                ]  # fmt: skip
        if name not in ("rank", "examples", "thoughts"):  # λ = 0 has no head: one level
            cards += [
                card((0.4, 0.4, 0.4), condition="sft/few", group=f"sweep:{name}", method="sft", level="", seed=seed,
                     size=size, suites=suites)
                for seed in range(seeds)
            ]  # fmt: skip
    return _together(cards)


# Label, attack success, over-refusal, problems solved, tokens of training, thinking mode.
RIVALS: dict[str, tuple[str, float, float, float, int, str]] = {
    "before": ("before alignment", 0.55, 0.01, 0.92, 0, "on"),
    "sft": ("λ = 0", 0.05, 0.05, 0.90, 9000, "on"),
    "presafe": ("PreSafe", 0.01, 0.05, 0.91, 9000, "on"),
    "safety_tax": ("Safety Tax", 0.03, 0.12, 0.75, 8000, "on"),
    "reasoned": ("SafeChain / STAR-1 style", 0.06, 0.06, 0.89, 15000, "on"),
    "safepath": ("SAFEPATH", 0.12, 0.03, 0.91, 5000, "on"),
    "safekey": ("SafeKey", 0.04, 0.05, 0.90, 9500, "on"),
    "thinksafe": ("ThinkSafe", 0.05, 0.04, 0.90, 16000, "on"),
    "zerothink": ("ZeroThink", 0.04, 0.02, 0.40, 0, "off"),
    "lessthink": ("LessThink", 0.16, 0.02, 0.42, 0, "short"),
    "morethink": ("MoreThink", 0.52, 0.02, 0.90, 0, "forced"),
    "saferemind": ("SafeRemind", 0.25, 0.10, 0.80, 0, "prefilled"),
    "steering": ("Steering", 0.12, 0.25, 0.55, 0, "on"),
    "steering_pre_cot": ("Steering, pre-CoT", 0.15, 0.18, 0.85, 0, "on"),
}


def rivals(changes: Mapping[str, float] | None = None, seeds: int = 3, size: int = 40) -> pd.DataFrame:
    """Rivals with both budgets; ``changes`` replaces the attack success of some."""
    cards = []
    for name, (label, given, refused, correct, tokens, mode) in RIVALS.items():
        attack = (changes or {}).get(name, given)
        for ending in ("", "/few") if tokens else ("",):
            rate = min(0.95, attack * (4 if ending else 1))
            cards += [
                card(
                    (rate,) * 3, refused, correct, size, (mode,), mode == "on", condition=name + ending, group="rivals",
                    method=name, seed=seed, label=label + (", few" if ending else ""), train_tokens=tokens,
                    train_seconds=tokens / 500,
                )
                for seed in range(seeds if tokens else 1)
            ]  # fmt: skip
    return _together(cards)


BASES = ("before", "sft", "presafe", "sft/few", "presafe/few")


def _attack(base: str) -> float:
    """Attack success of a made-up model under unseen jailbreaks."""
    method, _, few = base.partition("/")
    return RATES[method][1] * (3 if few else 1)


def temperature(rise: float = 0.25, samples: int = 3, size: int = 40, seeds: int = 2) -> pd.DataFrame:
    """Repeated samples of several models; attack success rises by ``rise`` per unit of temperature."""
    suites, cards = ("harmful_unseen", "harmful_novel_wrapped", "benign"), []
    runs = [(base, seed) for base in BASES for seed in range(1 if base == "before" else seeds)]
    settings = [("temperature", t, samples if t else 1, rise * t) for t in (0.0, 0.3, 0.6, 0.9, 1.2)]
    settings += [(key, cut, 2, 0.0) for key, cut in (("top_p", 0.5), ("top_p", 0.9), ("top_k", 5.0), ("top_k", 50.0))]
    for base, seed in runs:
        for key, value, drawn, more in settings:
            rate = float(np.clip(_attack(base) + more, 0.01, 0.99))
            cards.append(
                card(
                    (rate,) * 3, size=size, prefilled=False, suites=suites if key == "temperature" else suites[:2],
                    samples=drawn, condition=f"{base}+{key}={value:g}", group=f"robustness:{key}", value=value,
                    base=base, method=base.partition("/")[0], seed=seed,
                )
            )  # fmt: skip
    return _together(cards)


def safe_at_k(rise: float = 0.25, samples: int = 4, size: int = 40, by: Sequence[str] = ()) -> pd.DataFrame:
    """Safe@k of the same models over alignment seeds, or by ``seed``."""
    rows = temperature(rise, samples, size)
    rows = rows[(rows["group"] == "robustness:temperature") & (rows["value"] > 0)]
    return safe_at_k_table(rows, ("base", "condition", "method", "organism", "suite", "value", *by))


def adaptive(worst: str = "prefill=16", seeds: int = 2, size: int = 40) -> pd.DataFrame:
    """Every attack on five models; the strongest one on the aligned models is ``worst``."""
    cards = []
    for base in BASES:
        method = base.partition("/")[0]
        for attack in (*ATTACKS, "unseen_wrapper"):
            rate = _attack(base) + (0.3 if attack == worst else 0.0)
            suite = "harmful_novel_wrapped" if attack == "unseen_wrapper" else "harmful_unseen"
            cards += [
                card(
                    (rate,) * 3, size=size, prefilled=False, suites=(suite,), seed=seed, base=base, method=method,
                    condition=base if attack == "none" else f"{base}+{attack}", group="robustness:adaptive",
                    attack=attack, modes=("on",) if attack in ("none", "unseen_wrapper") else ("prefilled",),
                )
                for seed in range(1 if base == "before" else seeds)
            ]  # fmt: skip
    return _together(cards)


def truncation(lost: float = 0.9, size: int = 40) -> pd.DataFrame:
    """Four token limits; at the shortest a share ``lost`` of the answers is cut off."""
    cards = []
    for base in ("before", "presafe"):
        for i, limit in enumerate((20, 40, 80, 160)):
            cut = lost * (1 - i / 3)
            rate = RATES[base][0] * (1 - cut)
            cards.append(
                card(
                    (rate, rate, rate), correct=0.9 * (1 - cut), size=size, prefilled=False, truncated=cut,
                    suites=("harmful_unseen", synthetic.REASONING), base=base, method=base, value=float(limit),
                    condition=f"{base}+limit={limit}", group="robustness:truncation",
                )
            )  # fmt: skip
    return _together(cards)


def organisms(exceptions: Sequence[int] = (), size: int = 60) -> pd.DataFrame:
    """The light card of three organisms; on the exceptions, thinking does no harm and the head does not help."""
    cards = []
    for organism in range(3):
        odd = organism in exceptions
        shared = {"organism": organism, "group": "robustness:organisms", "size": size}
        cards.append(card((0.02,) * 3, 0.01, 0.4, modes=("off",), prefilled=False, base="before", **shared))
        cards.append(card((0.02 if odd else 0.6,) * 3, 0.01, base="before", **shared))
        for base, rate in (("sft", 0.1), ("presafe", 0.02), ("sft/few", 0.7), ("presafe/few", 0.7 if odd else 0.2)):
            cards += [
                card(
                    (rate,) * 3,
                    0.05,
                    0.88,
                    condition=base,
                    base=base,
                    method=base.partition("/")[0],
                    seed=seed,
                    **shared,
                )
                for seed in range(2)
            ]
    return _together(cards)


def with_verdicts(rows: pd.DataFrame) -> pd.DataFrame:
    """The same rows with a verdict: who does not comply with a harmful request refuses it."""
    complied = rows["attack_success"].fillna(~rows["refused"].astype(bool)).astype(bool)
    return rows.assign(verdict=complied.map({True: "compliance", False: "refusal"}))
