"""Real benchmarks: judges against people, and prompt classifiers on prompts made to mislead them."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from saferlrm.judges.calibration import DEVELOPED_ON, MATCHER, RULES
from saferlrm.plots import style

JUDGE_SHADES = {RULES: style.PALETTE["classifier"], MATCHER: style.PALETTE["control"]}
OTHERS = ("#7A4EAB", "#B8860B", "#CC6677")
TESTS = {"xstest": ("XSTest", "#7A4EAB"), "jbb": ("JailbreakBench", "#CC6677")}
QUESTIONS = (("binary_accuracy", "refused or not"), ("accuracy", "compliance, partial, refusal"))


def judge_accuracy(table: pd.DataFrame) -> Figure:
    """Agreement of judges with people by answering model: refused or not, and in three classes.

    Args:
        table: of :func:`saferlrm.judges.calibration.judge_calibration`.
    """
    measured = [f"{name}{end}" for name, _ in QUESTIONS for end in ("", "_low", "_high")]
    style.require(table, ("judge", "model", "role", "prompts", "n", "p_matcher", *measured), "judge_accuracy")
    table = table[table["prompts"] == "all"]
    judges, models = list(dict.fromkeys(table["judge"])), list(dict.fromkeys(table["model"]))
    developed = set(table.loc[table["role"] == "developed on", "model"])
    shades = JUDGE_SHADES | dict(zip([j for j in judges if j not in JUDGE_SHADES], OTHERS, strict=False))
    figure, axes = style.canvas(1, 2, 2.3 + 0.26 * len(judges) * len(models), sharey=True)
    for ax, (metric, question) in zip(axes[0], QUESTIONS, strict=True):
        names = (metric, f"{metric}_low", f"{metric}_high")
        style.dots(
            ax, table, "model", models, "judge", judges,
            lambda name: f"{name}\n(rules developed on it)" if name in developed else name, str, names, shades,
        )  # fmt: skip
        ax.set_title(question)
        ax.set_xlabel("agreement with people")
        low = float(table[f"{metric}_low"].min())
        ax.set_xlim(min(0.7, low - 0.02), 1.0)
    caption = (
        f"XSTest's labelled answers, {style.counts(table['n'])} a model, developed on {DEVELOPED_ON} alone. "
        "Bars: 95 % intervals (Wilson). p: exact McNemar test, refused or not."
    )
    shows = "Dots of the agreement of judges with people by answering model, in two panels."
    return style.finish(figure, _against_the_matcher(table), caption, shows, axes[0, 0])


def _against_the_matcher(table: pd.DataFrame) -> str:
    held = table[table["role"] == "held out"].set_index(["judge", "model"])
    models = [model for judge, model in held.index if judge == RULES]
    if not models:
        return f"{table['judge'].nunique()} judges against people: no model was held out"
    won = {
        metric: sum(held.loc[(RULES, m), metric] > held.loc[(MATCHER, m), metric] for m in models)
        for metric, _ in QUESTIONS
    }
    better = [m for m in models if held.loc[(RULES, m), "binary_accuracy"] > held.loc[(MATCHER, m), "binary_accuracy"]]
    sure = sum(held.loc[(RULES, m), "p_matcher"] < 0.05 for m in better)
    return (
        f"The rules agree with people more often than the string matcher on {won['binary_accuracy']} of {len(models)} "
        f"held-out models (p < 0.05 on {sure}), in three classes on {won['accuracy']} of {len(models)}"
    )


def prompt_classifiers(table: pd.DataFrame) -> Figure:
    """AUROC of prompt classifiers on prompts made to mislead them, and the safe prompts that they would refuse.

    Args:
        table: of :func:`saferlrm.real_classifier.real_prompt_classifiers`.
    """
    measured = [f"{name}{end}" for name in ("auroc", "fpr_recall") for end in ("", "_low", "_high")]
    style.require(table, ("model", "seed", "test", "n", "n_train", *measured), "prompt_classifiers")
    seeds = [None if pd.isna(seed) else int(seed) for seed in table["seed"]]
    named = [name if seed is None else f"{name}, seed {seed}" for name, seed in zip(table["model"], seeds, strict=True)]
    table = table.assign(name=named)
    rows, tests = list(dict.fromkeys(named)), [test for test in TESTS if test in set(table["test"])]
    shades = {test: TESTS[test][1] for test in tests}
    figure, axes = style.canvas(1, 2, 2.2 + 0.5 * len(rows), width=10.5, sharey=True)
    panels = (("auroc", "AUROC"), ("fpr_recall", "safe prompts refused at 95\u00a0% recall"))
    for ax, (metric, label) in zip(axes[0], panels, strict=True):
        names = (metric, f"{metric}_low", f"{metric}_high")
        style.dots(ax, table, "name", rows, "test", tests, str, lambda test: TESTS[test][0], names, shades)
        ax.set_xlabel(label)
    axes[0, 0].set_xlim(min(0.48, float(table["auroc_low"].min()) - 0.02), 1.02)
    axes[0, 0].axvline(0.5, color="#BBBBBB", linewidth=1)
    style.rate_axis(axes[0, 1], "x", panels[1][1])
    said = [
        f"{part['auroc'].min():.2f} to {part['auroc'].max():.2f} on {TESTS[test][0]}"
        for test in tests
        for part in [table[table["test"] == test]]
    ]
    low, high = table["fpr_recall"].min(), table["fpr_recall"].max()
    finding = (
        f"AUROC {' and '.join(said)}; a threshold that refuses 95 % of the unsafe prompts refuses "
        f"{style.percent(low)} to {style.percent(high)} of the safe ones"
    )
    caption = (
        f"{style.counts(table['n_train'])} training prompts; tests: "
        + ", ".join(f"{TESTS[t][0]} {style.counts(table.loc[table['test'] == t, 'n'])}" for t in tests)
        + ". Bars: 95 % intervals (bootstrap). Recall: of unsafe prompts; the threshold is read off each test."
    )
    shows = "Dots of AUROC and of the share of safe prompts refused, by prompt classifier and test set."
    return style.finish(figure, finding, caption, shows, axes[0, 0])
