"""Tables about real models and real benchmarks: cost, thinking modes of the families, judges, classifiers, overlap.

What needs rows of the benchmarks is read from ``results/`` of the checkout, where it was computed once, or computed
anew where the rows are at hand (``recompute``). No row of a benchmark is part of this package.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from saferlrm.architectures import architecture
from saferlrm.chat import ChatFormat, ThinkingMode
from saferlrm.errors import SaferlrmError
from saferlrm.estimate import Hardware, estimate
from saferlrm.maths import explain
from saferlrm.profile import Profile
from saferlrm.store import repository
from saferlrm.suites import published
from saferlrm.suites.overlap import find_overlap, report
from saferlrm.suites.types import Prompt
from saferlrm.workload import small, workload

if TYPE_CHECKING:
    from saferlrm.judges.calibration import JudgeError
    from saferlrm.study import Study

# What the modes put in a model's mouth, by family; tests compare this with the families' template behaviour.
_SHORT = f"<think>\n{ChatFormat.SHORT_THOUGHT}\n</think>\n\n"
FAMILIES: dict[str, tuple[str, dict[ThinkingMode, str]]] = {
    "Qwen3": (
        "`switch`: the template takes `enable_thinking`",
        {"off": "<think>\n\n</think>\n\n", "short": _SHORT, "on": "", "forced": ""},
    ),
    "DeepSeek-R1-Distill, Skywork-OR1": (
        "`opens`: the template opens the thought itself",
        {"off": "<think>\n\n</think>\n\n", "short": _SHORT, "on": "<think>\n", "forced": "<think>\n"},
    ),
    "models that only write the tags": (
        "`tags`: the template knows of no thoughts",
        {"off": "<think>\n\n</think>\n\n", "short": _SHORT, "on": "", "forced": ""},
    ),
}
# Training sets and the sets that they must not share prompts with.
TRAINING = ("refusal_direction_harmful_train", "refusal_direction_harmless_train")
EVALUATION = (
    "refusal_direction_harmful_val",
    "jailbreakbench_harmful",
    "jailbreakbench_benign",
    "xstest_safe",
    "xstest_unsafe",
    "gsm8k",
    "math500",
)


def costs(models: Sequence[str], profile: Profile, hardware: Hardware | None = None) -> pd.DataFrame:
    """:func:`saferlrm.estimate.estimate` of several models: ``model``, ``group``, ``what``, ``value``, ``unit``,
    ``basis``.
    """
    rows = []
    for name in models:
        for line in estimate(architecture(name), profile, hardware).lines:
            rows.append(
                {
                    "model": name.rpartition("/")[2],
                    "group": line.group,
                    "what": line.what,
                    "value": line.value,
                    "unit": line.unit,
                    "basis": line.basis,
                }
            )
    return pd.DataFrame(rows)


def cost_grid(table: pd.DataFrame) -> pd.DataFrame:
    """The sums of :func:`costs` with a column for each model, fit to be shown; parts of the memory are left out."""
    memory = table["group"].str.startswith(("alignment", "sampling"))
    kept = table[~memory | table["what"].str.match("in all|largest")]
    rows = []
    for (group, what, unit), part in kept.groupby(["group", "what", "unit"], sort=False):
        values = part.set_index("model")["value"]
        cells = {model: f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for model, value in values.items()}
        cells = {model: "?" if cell == "nan" else cell for model, cell in cells.items()}
        rows.append({"": f"{group}: {what}" + (f", {unit}" if unit else "")} | cells)
    return pd.DataFrame(rows)


def workloads(model: str, profile: Profile, hardware: Hardware | None = None) -> pd.DataFrame:
    """Adapters, answers and hours of each notebook, at least, for the whole study and for a small beginning.

    :func:`saferlrm.workload.workload`, fit to be shown; hours are of one card.
    """
    arch, columns = architecture(model), {}
    for title, one in (("whole", profile), ("begun small", small(profile))):
        table = workload(one, arch, estimate(arch, one, hardware)).set_index("notebook")
        columns[f"{title}: adapters"] = table["adapters"].astype(str)
        columns[f"{title}: answers"] = table["answers"].map("{:,}".format)
        columns[f"{title}: hours"] = table["hours"].map(lambda n: f"{n:.1f}" if n < 9.95 else f"{n:.0f}")
    return pd.DataFrame(columns).reindex(columns["whole: hours"].index).fillna("–").reset_index()


def over_budget(
    models: Sequence[str], profile: Profile, hardware: Hardware | None = None
) -> dict[str, tuple[str, ...]]:
    """What does not fit the hardware, and the setting to change, by model; empty where all fits."""
    return {name.rpartition("/")[2]: estimate(architecture(name), profile, hardware).advice for name in models}


def thinking_modes(chat: ChatFormat, modes: Iterable[ThinkingMode]) -> pd.DataFrame:
    """What each mode puts in this model's mouth, as Python writes it."""
    return pd.DataFrame([{"thinking": mode, "the model's turn begins with": repr(chat.prefix(mode))} for mode in modes])


def families() -> pd.DataFrame:
    """:data:`FAMILIES` as a table."""
    return pd.DataFrame(
        [
            {"family": name, "template": template} | {mode: repr(text) for mode, text in prefixes.items()}
            for name, (template, prefixes) in FAMILIES.items()
        ]
    )


def data_sets() -> pd.DataFrame:
    """The registry of published sets, fit to be shown."""
    table = published.registry()
    kinds = {True: "harmful requests", False: "harmless requests", None: "problems"}
    return pd.DataFrame(
        {
            "data set": table["name"],
            "hub": table["hub"],
            "holds": [kinds[harmful] for harmful in table["harmful"].astype(object)],
            "rows": table["rows"],
            "licence": table["licence"],
            "source": table["citation"],
            "revision": [
                revision[:12] if pinned else f"{revision} (not pinned)"
                for revision, pinned in zip(table["revision"], table["pinned"], strict=True)
            ],
            "gated": table["gated"].map({True: "yes", False: ""}),
        }
    )


def kept(name: str) -> pd.DataFrame:
    """The rows of a results file of the checkout.

    Raises:
        SaferlrmError: no such file, or one without rows.
    """
    path = repository() / "results" / f"{name}.json"
    try:
        return pd.DataFrame(json.loads(path.read_text(encoding="utf-8"))["rows"])
    except (OSError, ValueError, KeyError) as problem:
        raise SaferlrmError(
            f"results/{name}.json cannot be read ({type(problem).__name__}); check it out again or set recompute = True"
        ) from None


def judges(study: Study, folder: str = "data", recompute: bool = False) -> pd.DataFrame:
    """Judges against people, :func:`saferlrm.judges.calibration.judge_calibration`; needs ``xstest/`` in the folder.

    With ``recompute`` a judge of the study that is a model is measured beside the rules.
    """
    from saferlrm.judges.calibration import judge_calibration

    def compute(rows: Path) -> pd.DataFrame:
        wanted = study.profile.judge.kind
        others = {} if wanted == "rules" or study.profile.data.source != "published" else {wanted: study.judge()}
        return judge_calibration(rows / "xstest", others)

    return _kept_or_computed(study, "11_judge_calibration", folder, recompute, compute)


def jailbreak_judges(study: Study, folder: str = "data", recompute: bool = False) -> pd.DataFrame:
    """Judges against people on JailbreakBench's votes, :func:`saferlrm.judges.jailbreaks.jailbreak_judges`.

    Empty where the votes are not in the folder, or were never compared. Many of the answers are jailbreaks that worked,
    so neither they nor their file are part of this package.
    """
    from saferlrm.judges.jailbreaks import DATA
    from saferlrm.judges.jailbreaks import jailbreak_judges as compare

    name = "11_jailbreak_judges"
    if not recompute:
        return kept(name) if (repository() / "results" / f"{name}.json").is_file() else pd.DataFrame()

    def compute(rows: Path) -> pd.DataFrame:
        wanted = study.profile.judge.kind
        others = {} if wanted == "rules" or study.profile.data.source != "published" else {wanted: study.judge()}
        return compare(rows, others)

    try:
        return _kept_or_computed(study, name, folder, recompute, compute)
    except SaferlrmError as problem:
        if f"no local file of {DATA}" in str(problem):
            return pd.DataFrame()
        raise


def jailbreak_grid(table: pd.DataFrame) -> pd.DataFrame:
    """:func:`jailbreak_judges`, fit to be shown; the best agreement first."""
    from saferlrm.show import figures, read

    rates = {"accuracy": "agrees", "false_negative": "missed", "false_positive": "false alarms", "kappa": "kappa"}
    rows = []
    for row in table.sort_values("accuracy", ascending=False).to_dict("records"):
        one = pd.DataFrame([row])
        shown = {said: figures(read(one, name), 2, n=False) for name, said in rates.items()}
        rows.append({"judge": row["judge"], "asks": row["asks"], "answers": row["n"]} | shown)
    return pd.DataFrame(rows)


def classifiers(study: Study, folder: str = "data", recompute: bool = False) -> pd.DataFrame:
    """Prompt classifiers on real prompts, :func:`saferlrm.real_classifier.real_prompt_classifiers`."""
    from saferlrm.real_classifier import real_prompt_classifiers

    return _kept_or_computed(
        study,
        "11_real_classifier",
        folder,
        recompute,
        lambda rows: real_prompt_classifiers(rows, study.profile.classifier, study.profile.seeds),
    )


def overlaps(study: Study, folder: str = "data", recompute: bool = False) -> pd.DataFrame:
    """Training prompts with a twin in an evaluation set: a row for each pair of sets and kind of twin.

    Columns of :func:`saferlrm.suites.overlap.report`, ``training`` and ``n_published``: a copy of a training set may
    hold fewer rows than were published.
    """

    def compute(rows: Path) -> pd.DataFrame:
        asked = {name: _prompts(name, rows) for name in EVALUATION}
        parts = []
        for name in TRAINING:
            prompts = _prompts(name, rows)
            pairs = find_overlap(prompts, asked, study.profile.data.near_duplicate)
            of_all = {"training": name, "n_published": published.get(name).rows}
            parts.append(report(pairs, len(prompts), asked).assign(**of_all))
        return pd.concat(parts, ignore_index=True)

    return _kept_or_computed(study, "11_overlap", folder, recompute, compute)


def overlap_grid(table: pd.DataFrame) -> pd.DataFrame:
    """How many training prompts have a twin, of which kind, a row for each pair of sets that share any."""
    found = table[table["training_prompts"] > 0]
    index = ["training", "n_training", "n_published", "suite", "n_suite"]
    grid = found.pivot_table(index=index, columns="kind", values="training_prompts", fill_value=0)
    grid = grid.reindex(columns=["exact", "normalised", "near"], fill_value=0).astype(int).reset_index()
    grid.columns.name = None
    return grid.rename(columns={"suite": "evaluation", "n_suite": "n_evaluation"})


def attack_error(table: pd.DataFrame, judge: str, model: str, prompts: str = "all") -> JudgeError:
    """How often a judge of :func:`judges` is right about answers that comply, as counts.

    The table holds the rates for refusals; compliance is the other side of it, so its sensitivity is their specificity.

    Raises:
        SaferlrmError: no such row, unjudged answers, or answers of one kind only, from which one rate is unknown.
    """
    from saferlrm.judges.calibration import JudgeError

    part = table[(table["judge"] == judge) & (table["model"] == model) & (table["prompts"] == prompts)]
    if len(part) != 1:
        raise SaferlrmError(f"{len(part)} rows are {judge} on {model} ({prompts} prompts); choose from the table")
    row = part.iloc[0]
    right, refused, passed = (float(row[name]) for name in ("binary_accuracy", "sensitivity", "specificity"))
    if row["n_unjudged"] or pd.isna([refused, passed]).any() or refused == passed:
        raise SaferlrmError(f"the answers of {model} ({prompts} prompts) do not show both errors of {judge}")
    n = int(row["n"])
    n_refused = round(n * (right - passed) / (refused - passed))  # right n = refused r + passed (n - r)
    complied = n - n_refused
    return JudgeError(round(passed * complied), complied, round(refused * n_refused), n_refused)


def corrections(error: JudgeError, counts: Sequence[int], n: int) -> pd.DataFrame:
    """Rates of so many successes in n, as the judge saw them and put right for its errors (Rogan and Gladen).

    ``does it fit``: a judge whose false alarms alone are more than what it saw was calibrated on other answers than
    these. Then the corrected rate is cut at 0, and its narrow interval is no certainty.
    """
    from saferlrm.judges.calibration import corrected_rate
    from saferlrm.show import figures
    from saferlrm.stats import wilson

    alarms = 1 - error.passes / error.negatives
    rows = []
    for k in counts:
        seen = wilson(k, n)
        fits = "yes" if seen.high >= alarms else f"no: false alarms alone would be {alarms:.3f}"
        corrected = figures(corrected_rate(k, n, error), 3, n=False)
        rows.append(
            {
                "seen by the judge": f"{k} of {n}",
                "rate": figures(seen, 3, n=False),
                "corrected": corrected,
                "does it fit": fits,
            }
        )
    return pd.DataFrame(rows)


def checked_answers(pairs: Iterable[tuple[str, str]]) -> pd.DataFrame:
    """What :func:`saferlrm.maths.explain` says to pairs of (answer, gold)."""
    words = {True: "right", False: "wrong", None: "unsure"}
    rows = []
    for answer, gold in pairs:
        found = explain(answer, gold)
        rows.append(
            {
                "answer": f"`{answer}`",
                "gold": f"`{gold}`",
                "compared": f"`{found.answer}`" if found.answer else "",
                "verdict": words[found.verdict],
                "why": found.why,
            }
        )
    return pd.DataFrame(rows)


def _prompts(name: str, folder: Path) -> list[Prompt]:
    rows = published.load(name, folder, allow_fewer=True)  # how many there were stands in the table
    harmful = bool(published.get(name).harmful)
    return [Prompt(f"{name}-{row.id}", row.prompt, name, harmful, None, name) for row in rows.itertuples()]


def _kept_or_computed(
    study: Study, name: str, folder: str, recompute: bool, compute: Callable[[Path], pd.DataFrame]
) -> pd.DataFrame:
    if not recompute:
        return kept(name)
    rows = Path(folder).expanduser()
    if not rows.is_dir():
        raise SaferlrmError(
            f"there is no folder {folder!r} with published rows; set folder, or recompute = False to read "
            f"what is in results/{name}.json"
        )
    table = compute(rows)
    study.save_table(name, table)
    return table
