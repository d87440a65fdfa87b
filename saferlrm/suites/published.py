"""Published data sets: a registry with licence, citation, pinned revision and row count, and loading by name.

Whatever its source, a set becomes rows with the same columns, and is refused in one line if it is not what the
registry says. The text of harmful prompts stays where the user keeps it: nothing of it is part of this package.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from saferlrm.errors import SaferlrmError
from saferlrm.profile import DataSettings
from saferlrm.store import say
from saferlrm.suites import reading

COLUMNS = ("id", "prompt", "category", "level", "answer", "response", "label")
_OPTIONAL = ("id", "category", "level")  # copies of a set often lack them
Names = tuple[str, ...]  # what a column is called in the set and its copies, in whatever case


@dataclass(frozen=True)
class DataSet:
    """One data set as its authors published it.

    Attributes:
        name: what profiles call it.
        hub: repository on the model hub, or ``owner/name`` of the code repository where ``url`` leads.
        file: path of the file in the repository; ``None`` leaves finding it to ``datasets`` (``config``, ``split``).
        revision: the commit that is read. ``pinned`` is false where it is a branch: no commit could be confirmed.
        licence, citation: of the data; the citation is an arXiv id where there is one.
        rows: rows after ``where``; fewer are an error.
        harmful: whether a safe model refuses its prompts; ``None``: problems with gold answers.
        columns: by the name in ``COLUMNS``, the set's own names; a copy may lack ``id`` (rows are numbered),
            ``category`` and ``level``.
        where: a column and the value that its rows must have.
        gold: how the gold answer stands in its column: ``whole``, after ``####``, or the right one of four
            ``choices``, which then become part of the prompt.
        gated: the hub asks for a login and consent.
        url: a file on the web, ``{revision}`` filled in; for sets that are not on the hub.
        local: paths without suffix under which a local copy may stand, besides ``name``.
    """

    name: str
    hub: str
    file: str | None
    revision: str
    licence: str
    citation: str
    rows: int
    harmful: bool | None
    columns: Mapping[str, Names]
    config: str | None = None
    split: str = "train"
    where: tuple[str, str] | None = None
    gold: str | None = None
    choices: Names = ()
    gated: bool = False
    pinned: bool = True
    url: str | None = None
    local: Names = ()


_JBB = {
    "hub": "JailbreakBench/JBB-Behaviors",
    "revision": "886acc352a31533ffbcf4ef22c744658688086fc",
    "licence": "MIT",
    "citation": "2404.01318",
}
_JBB_COLUMNS = {"id": ("Index", "Unnamed: 0"), "prompt": ("Goal",), "category": ("Category",)}
# 450 prompts: 250 safe ones of 10 types, 200 unsafe contrasts of 8.
_XSTEST = {
    "hub": "Paul/XSTest",
    "file": "xstest_prompts.csv",
    "revision": "f600c994b256f12867dfa5b3eb3d545a3e62f8b5",
    "licence": "CC-BY-4.0",
    "citation": "2308.01263",
    "columns": {"id": ("id",), "prompt": ("prompt",), "category": ("type",)},
    "local": ("xstest_prompts", "xstest/xstest_prompts", "xstest_v2_prompts", "xstest"),
}
# The set is gated; the revision is the one that its users report, with both files.
_WILD: dict[str, Any] = {
    "hub": "allenai/wildjailbreak",
    "revision": "5ddc12a7894f842b0619b8e1c7ee496b198af009",
    "licence": "ODC-BY",
    "citation": "2406.18510",
    "gated": True,
}
_WILD_TRAIN = {"file": "train/train.tsv", "config": "train", "columns": {"prompt": ("vanilla",)}, "rows": 50_050}
_WILD_EVAL = {"file": "eval/eval.tsv", "config": "eval", "columns": {"prompt": ("adversarial",)}}
_DIRECTION = {
    "hub": "andyrdt/refusal_direction",
    "file": None,
    "revision": "9d852fae1a9121c78b29142de733cb1340770cc3",
    "citation": "2406.11717",
    "columns": {"prompt": ("instruction",), "category": ("category",)},
}
_RAW = "https://raw.githubusercontent.com"


def _direction(part: str, rows: int, harmful: bool, licence: str) -> DataSet:
    return DataSet(
        f"refusal_direction_{part}", rows=rows, harmful=harmful, licence=licence, **_DIRECTION,
        url=f"{_RAW}/andyrdt/refusal_direction/{{revision}}/dataset/splits/{part}.json",
        local=(f"refusal_direction/{part}", f"dataset/splits/{part}"),
    )  # fmt: skip


def _wild(kind: str, base: dict[str, Any], **more: Any) -> DataSet:
    return DataSet(
        f"wildjailbreak_{kind}", **_WILD, **base, **more, harmful=kind.endswith("harmful"),
        where=("data_type", kind), local=(f"wildjailbreak/{base['config']}", base["file"]),
    )  # fmt: skip


DATASETS: dict[str, DataSet] = {
    one.name: one
    for one in (
        DataSet(
            "jailbreakbench_harmful", **_JBB, file="data/harmful-behaviors.csv", rows=100, harmful=True,
            config="behaviors", split="harmful", columns=_JBB_COLUMNS,
            local=("jailbreakbench/harmful", "harmful-behaviors", "data/harmful-behaviors"),
        ),
        DataSet(
            "jailbreakbench_benign", **_JBB, file="data/benign-behaviors.csv", rows=100, harmful=False,
            config="behaviors", split="benign", columns=_JBB_COLUMNS,
            local=("jailbreakbench/benign", "benign-behaviors", "data/benign-behaviors"),
        ),
        DataSet(
            "jailbreakbench_judge_comparison", **_JBB, file="data/judge-comparison.csv", rows=300, harmful=True,
            config="judge_comparison", split="test",
            columns={
                "id": ("Index", "Unnamed: 0"), "prompt": ("prompt",), "response": ("target_response",),
                "label": ("human_majority",),
            },
            local=("jailbreakbench/judge_comparison", "judge-comparison", "data/judge-comparison"),
        ),
        DataSet(
            "strongreject", hub="alexandrasouly/strongreject", file=None,
            revision="f7cad6c17e624e21d8df2278e918ae1dddb4cb56", licence="MIT", citation="2402.10260", rows=313,
            harmful=True, columns={"prompt": ("forbidden_prompt", "prompt"), "category": ("category",)},
            url=f"{_RAW}/alexandrasouly/strongreject/{{revision}}/strongreject_dataset/strongreject_dataset.csv",
            local=("strongreject/strongreject_dataset", "strongreject_dataset"),
        ),
        _wild("vanilla_harmful", _WILD_TRAIN),
        _wild("vanilla_benign", _WILD_TRAIN),
        _wild("adversarial_harmful", _WILD_EVAL, rows=2000),
        _wild("adversarial_benign", _WILD_EVAL, rows=210),
        DataSet(
            # Of 400 behaviours the 200 standard ones: the others need a context or are about copyright.
            "harmbench", hub="centerforaisafety/HarmBench", file=None,
            revision="8e1604d1171fe8a48d8febecd22f600e462bdcdd", licence="MIT", citation="2402.04249", rows=200,
            harmful=True, where=("FunctionalCategory", "standard"),
            columns={"id": ("BehaviorID",), "prompt": ("Behavior",), "category": ("SemanticCategory",)},
            url=f"{_RAW}/centerforaisafety/HarmBench/{{revision}}/data/behavior_datasets/"
            "harmbench_behaviors_text_all.csv",
            local=("harmbench/harmbench_behaviors_text_all", "harmbench_behaviors_text_all"),
        ),
        DataSet("xstest_safe", **_XSTEST, rows=250, harmful=False, where=("label", "safe")),
        DataSet("xstest_unsafe", **_XSTEST, rows=200, harmful=True, where=("label", "unsafe")),
        DataSet(
            "orbench_hard", hub="bench-llm/or-bench", file="or-bench-hard-1k.csv", config="or-bench-hard-1k",
            revision="e36d8b80e81837c8a8f264bbb2a49f1b32c7e272", licence="CC-BY-4.0", citation="2405.20947",
            rows=1319, harmful=False, columns={"prompt": ("prompt",), "category": ("category",)},
            local=("or-bench-hard-1k", "orbench/or-bench-hard-1k"),
        ),
        DataSet(
            "gsm8k", hub="openai/gsm8k", file="main/test-00000-of-00001.parquet", config="main", split="test",
            revision="cc7b047b6e5bb11b4f1af84efc572db110a51b3c", licence="MIT", citation="2110.14168", rows=1319,
            harmful=None, columns={"prompt": ("question",), "answer": ("answer",)}, gold="####",
            local=("gsm8k/test", "gsm8k/gsm8k", "main/test-00000-of-00001"),
        ),
        DataSet(
            "math500", hub="HuggingFaceH4/MATH-500", file="test.jsonl", split="test",
            revision="6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be", licence="MIT", citation="2305.20050", rows=500,
            harmful=None,
            columns={
                "id": ("unique_id",), "prompt": ("problem",), "category": ("subject",), "level": ("level",),
                "answer": ("answer",),
            },
            gold="whole", local=("math500/math500", "math500/test", "MATH-500/test"),
        ),
        DataSet(
            # The 30 problems of both papers. The hub declares no licence; the problems are the MAA's.
            "aime2024", hub="HuggingFaceH4/aime_2024", file="data/train-00000-of-00001.parquet",
            revision="2fe88a2f1091d5048c0f36abc874fb997b3dd99a", licence="none declared (MAA)",
            citation="AIME 2024 I and II", rows=30, harmful=None,
            columns={"id": ("id",), "prompt": ("problem",), "answer": ("answer",)}, gold="whole",
            local=("aime2024/train", "aime_2024"),
        ),
        DataSet(
            "gpqa_diamond", hub="Idavidrein/gpqa", file="gpqa_diamond.csv", config="gpqa_diamond",
            revision="633f5ee89ab8ad4522a9f850766b73f62147ffdd", licence="CC-BY-4.0", citation="2311.12022", rows=198,
            harmful=None, gated=True, gold="choices",
            columns={"id": ("Record ID",), "prompt": ("Question",), "category": ("High-level domain",)},
            choices=("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3"),
            local=("gpqa/gpqa_diamond",),
        ),
        _direction("harmful_train", 260, True, "Apache-2.0"),
        _direction("harmful_val", 39, True, "Apache-2.0"),
        _direction("harmless_train", 18_793, False, "CC-BY-NC-4.0 (Alpaca)"),
        _direction("harmless_val", 6264, False, "CC-BY-NC-4.0 (Alpaca)"),
        DataSet(
            # Neither the path nor a commit with the data could be confirmed.
            "star1", hub="UCSC-VLAA/STAR-1", file=None, revision="main", pinned=False, licence="Apache-2.0",
            citation="2504.01903", rows=1000, harmful=True,
            columns={
                "id": ("id",), "prompt": ("question",), "category": ("category",), "response": ("response",),
            },
            local=("star1/STAR-1", "STAR-1"),
        ),
    )
}  # fmt: skip


def get(name: str) -> DataSet:
    """The registry's entry; an unknown name is an error that lists them all."""
    if name not in DATASETS:
        raise SaferlrmError(f"unknown data set {name!r}; choose one of {', '.join(DATASETS)}")
    return DATASETS[name]


def registry() -> pd.DataFrame:
    """One row for each data set: where it comes from, under which licence, and how many rows it must have."""
    shown = ("name", "hub", "revision", "pinned", "gated", "licence", "citation", "rows", "harmful")
    return pd.DataFrame([{key: asdict(one)[key] for key in shown} for one in DATASETS.values()])


def load(
    name: str | DataSet,
    folder: str | Path | None = None,
    files: Mapping[str, str] | None = None,
    allow_fewer: bool = False,
) -> pd.DataFrame:
    """The rows of a data set, from the hub or from a local copy.

    Args:
        name: of the data set, or an entry of one's own.
        folder: with local copies: ``<name>.csv`` (``.tsv``, ``.json``, ``.jsonl``, ``.parquet``), a folder ``<name>``
            with one such file, or the names under which the sets' authors distribute them. ``None`` reads the hub.
        files: exact paths by name of the set, where the names are others; they take precedence.
        allow_fewer: fewer rows than the registry's are said, not refused.

    Returns:
        One row each, with all of ``COLUMNS`` as text, ``None`` where the set has none; ``level`` is a whole number.

    Raises:
        SaferlrmError: the set cannot be had, or is not what the registry says, in one line.
    """
    one = name if isinstance(name, DataSet) else get(name)
    files = files or {}
    if folder is not None or one.name in files:
        root = None if folder is None else Path(folder).expanduser()
        rows = reading.read(reading.find_local(one.name, _stems(one), root, files))
    elif one.url is not None:
        rows = reading.read(reading.fetch(one.name, one.url.format(revision=one.revision)), Path(one.url).suffix)
    elif one.file is not None:
        rows = reading.read(reading.download(one.name, one.hub, one.file, one.revision, one.gated))
    else:
        rows = reading.load_repository(one.name, one.hub, one.config, one.split, one.revision)
    return _standard(one, rows, allow_fewer)


def require_files(data: DataSettings) -> None:
    """Every file that a folder of local copies lacks, said at once.

    Raises:
        SaferlrmError: two or more are missing; a single one is named by :func:`load`.
    """
    root = None if data.folder is None else Path(data.folder).expanduser()
    if root is None or not root.is_dir():
        return
    roles = (data.harmful, data.benign, data.scary, data.scary_contrast, data.reasoning)
    missing = []
    for name in dict.fromkeys(name for role in (*roles, data.train_harmful, data.train_benign) for name in role):
        try:
            reading.find_local(name, _stems(get(name)), root, data.files)
        except SaferlrmError as problem:
            if not str(problem).startswith("no local file of"):
                raise
            missing.append(name)
    if len(missing) > 1:
        raise SaferlrmError(
            f"no local file of {', '.join(missing)} in {root}; add <name>.csv, .tsv, .json, .jsonl or .parquet for "
            "each, or name the files in data.files"
        )


def _stems(one: DataSet) -> list[str]:
    beside = [] if one.file is None else [f"{one.hub.rpartition('/')[2]}/{one.file}", f"{one.name}/{one.file}"]
    return [one.name, *one.local, *beside]


def _standard(one: DataSet, rows: pd.DataFrame, allow_fewer: bool) -> pd.DataFrame:
    """The rows under the names of ``COLUMNS``, checked."""
    if one.where is not None:
        column, value = one.where
        rows = rows[rows[_column(one, rows, (column,))].astype(str).str.strip() == value]
    if rows.empty:
        which = f" with {one.where[0]} = {one.where[1]}" if one.where else ""
        raise SaferlrmError(f"{one.name} is empty: no row{which}; replace the file")
    if len(rows) < one.rows and not allow_fewer:
        raise SaferlrmError(
            f"{one.name} has {len(rows)} rows, not {one.rows}; complete it, or set data.allow_fewer=true"
        )
    if len(rows) != one.rows:
        say(f"note: {one.name} has {len(rows)} rows; the registry says {one.rows}")
    rows = rows.reset_index(drop=True)
    found = pd.DataFrame({name: pd.Series([None] * len(rows), dtype=object) for name in COLUMNS})
    for name, names in one.columns.items():
        source = _column(one, rows, names, name in _OPTIONAL)
        if source is not None:
            found[name] = _texts(rows[source])
    if found["id"].isna().all():
        found["id"] = pd.Series([str(i) for i in range(len(found))], dtype=object)
    _check_texts(one, found)
    twice = found["id"][found["id"].duplicated()]
    if len(twice):
        raise SaferlrmError(f"{one.name} has {len(twice)} duplicate ids (first: {twice.iloc[0]}); mend the file")
    found["level"] = pd.Series([_number(level) for level in found["level"]], dtype=object)
    if one.gold == "####":
        answers = [answer.rpartition("####")[2].strip().replace(",", "") for answer in found["answer"]]
        found["answer"] = pd.Series(answers, dtype=object)
    elif one.gold == "choices":
        options = pd.DataFrame({name: _texts(rows[_column(one, rows, (name,))]) for name in one.choices})
        parts = zip(found["id"], found["prompt"], options.itertuples(index=False, name=None), strict=True)
        asked = [_choices(*part) for part in parts]
        for name, values in zip(("prompt", "answer"), zip(*asked, strict=True), strict=True):
            found[name] = pd.Series(values, dtype=object)
    return found


def _column(one: DataSet, rows: pd.DataFrame, names: Names, optional: bool = False) -> str | None:
    """What the rows call one of these columns, in whatever case."""
    by_lower = {str(column).lower().strip(): column for column in rows.columns}
    for name in names:
        if name.lower() in by_lower:
            return by_lower[name.lower()]
    if optional:
        return None
    raise SaferlrmError(
        f"{one.name} has no column {' or '.join(names)} (it has {', '.join(map(str, rows.columns))}); "
        "rename it, or use the revision that the registry names"
    )


def _texts(cells: pd.Series) -> pd.Series:
    # dtype object, or pandas turns None into NaN
    return pd.Series([_text(value) for value in cells], dtype=object)


def _number(level: str | None) -> int | None:
    """A level as a whole number: "5" and "Level 5" are 5."""
    digits = re.search(r"\d+", level or "")
    return int(digits.group()) if digits else None


def _text(value: Any) -> str | None:
    """A cell as text; lists (of categories) are joined; nothing is ``None``."""
    if isinstance(value, str):
        return value.strip() or None
    if hasattr(value, "__len__"):
        return "; ".join(map(str, value)) or None
    if value is None or pd.isna(value):
        return None
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _check_texts(one: DataSet, found: pd.DataFrame) -> None:
    for name in ("id", "prompt", "answer", "response", "label"):
        blank = found.index[found[name].isna()]
        # A set without the column is one thing, a row without its text another.
        if len(blank) and (name == "prompt" or len(blank) < len(found)):
            raise SaferlrmError(
                f"{one.name}: {len(blank)} of {len(found)} rows have no {name} (first: row {blank[0]}); mend the file"
            )


def _choices(row_id: str, question: str, options: tuple[str, ...]) -> tuple[str, str]:
    """A multiple-choice problem and the letter of its right answer, which stands first in ``options``."""
    order = list(range(len(options)))
    random.Random(row_id).shuffle(order)  # the same order whatever the seed of the study
    lines = [f"{chr(ord('A') + place)}) {options[i]}" for place, i in enumerate(order)]
    text = "\n".join([question, "", *lines, "", "Answer with the letter of the right choice."])
    return text, chr(ord("A") + order.index(0))
