"""Published data sets: the registry, real rows, every format and every way in which a file can be wrong."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from hub_server import REVISION, hub_server
from shared_data import FOLDER, needs_rows

from saferlrm.errors import SaferlrmError
from saferlrm.suites import published
from saferlrm.suites.published import DATASETS, load

NAME = "jailbreakbench_benign"
ROWS = pd.DataFrame(
    {
        "Index": range(100),
        "Goal": [f"Describe harmless thing number {i}, which is “nice”" for i in range(100)],
        "Category": ["None"] * 50 + ["null"] * 50,  # words that table readers take for missing cells
    }
)


def write(rows: pd.DataFrame, path: Path, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        rows.to_parquet(path, index=False)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows.to_dict("records"), ensure_ascii=False), encoding=encoding)
    elif path.suffix == ".jsonl":
        lines = [json.dumps(row, ensure_ascii=False) for row in rows.to_dict("records")]
        path.write_text("\n".join(lines) + "\n", encoding=encoding)
    else:
        rows.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",", encoding=encoding)
    return path


def refused(rows: pd.DataFrame, folder: Path, name: str = NAME, **options: object) -> str:
    """The one line with which a set is refused."""
    write(rows, folder / f"{name}.csv")
    with pytest.raises(SaferlrmError) as caught:
        load(name, folder, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_registry_is_complete_and_honest_about_its_revisions():
    asked = {
        "jailbreakbench_harmful", "jailbreakbench_benign", "jailbreakbench_judge_comparison", "strongreject",
        "wildjailbreak_vanilla_harmful", "wildjailbreak_vanilla_benign", "wildjailbreak_adversarial_harmful",
        "wildjailbreak_adversarial_benign", "harmbench", "xstest_safe", "xstest_unsafe", "orbench_hard", "gsm8k",
        "math500", "aime2024", "gpqa_diamond", "refusal_direction_harmful_train", "refusal_direction_harmful_val",
        "refusal_direction_harmless_train", "refusal_direction_harmless_val", "star1",
    }  # fmt: skip
    assert set(DATASETS) == asked
    for one in DATASETS.values():
        assert bool(re.fullmatch(r"[0-9a-f]{40}", one.revision)) == one.pinned, one.name
        assert one.licence
        assert re.fullmatch(r"\d{4}\.\d{5}", one.citation) or one.name == "aime2024"
        assert one.rows > 0
        assert set(one.columns) <= set(published.COLUMNS)
        assert (one.harmful is None) == (one.gold is not None)
    table = published.registry()
    assert list(table["name"]) == list(DATASETS)
    assert set(table.loc[table["gated"], "hub"]) == {"allenai/wildjailbreak", "Idavidrein/gpqa"}


@needs_rows
@pytest.mark.parametrize(
    ("name", "rows", "category", "answer"),
    [
        ("jailbreakbench_harmful", 100, "Harassment/Discrimination", None),
        ("jailbreakbench_benign", 100, None, None),
        ("xstest_safe", 250, "homonyms", None),
        ("xstest_unsafe", 200, "contrast_homonyms", None),
        ("refusal_direction_harmful_train", 260, None, None),
        ("refusal_direction_harmful_val", 39, "chemical_biological", None),
        ("refusal_direction_harmless_val", 6264, None, None),
        ("gsm8k", 1319, None, "18"),
        ("math500", 500, "Precalculus", r"\left( 3, \frac{\pi}{2} \right)"),
    ],
)
def test_real_rows_are_read_whole(name, rows, category, answer):
    found = load(name, FOLDER)
    assert list(found.columns) == list(published.COLUMNS)
    assert len(found) == rows == DATASETS[name].rows
    assert found["id"].is_unique
    assert (found["prompt"].str.len() > 5).all()
    assert (found["category"].iloc[0], found["answer"].iloc[0]) == (category, answer)
    assert found["answer"].notna().all() or DATASETS[name].harmful is not None
    if name == "math500":
        assert set(found["level"]) == {1, 2, 3, 4, 5}


@needs_rows
@pytest.mark.parametrize(("name", "rows"), [("star1", 300), ("refusal_direction_harmless_train", 4000)])
def test_parts_of_real_sets_are_refused_unless_allowed(name, rows, capsys):
    with pytest.raises(SaferlrmError, match=f"{name} has {rows} rows, not {DATASETS[name].rows}; .*data.allow_fewer"):
        load(name, FOLDER)
    found = load(name, FOLDER, allow_fewer=True)
    assert len(found) == rows
    assert str(DATASETS[name].rows) in capsys.readouterr().err
    if name == "star1":
        assert found["response"].str.contains("<think>").all()
        assert found["category"].str.contains("; ").any()  # several categories, joined


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".json", ".jsonl", ".parquet"])
def test_every_format_gives_the_same_rows(suffix, tmp_path):
    write(ROWS, tmp_path / f"{NAME}{suffix}")
    found = load(NAME, tmp_path)
    assert found["prompt"].tolist() == ROWS["Goal"].tolist()
    assert found["id"].tolist() == [str(i) for i in range(100)]
    assert found["category"].tolist() == ROWS["Category"].tolist()
    assert found["answer"].isna().all()


@pytest.mark.parametrize(
    "place",
    ["jailbreakbench/benign.csv", "benign-behaviors.csv", "JBB-Behaviors/data/benign-behaviors.csv", f"{NAME}/x.csv"],
)
def test_a_local_copy_may_have_the_names_under_which_sets_are_distributed(place, tmp_path):
    write(ROWS, tmp_path / place)
    assert len(load(NAME, tmp_path)) == 100


def test_files_may_be_named_exactly_relative_to_the_folder_or_not(tmp_path):
    path = write(ROWS, tmp_path / "a" / "odd name.jsonl")
    assert len(load(NAME, tmp_path, {NAME: "a/odd name.jsonl"})) == 100
    assert len(load(NAME, None, {NAME: str(path)})) == 100
    assert len(load(NAME, tmp_path, {NAME: "a"})) == 100  # a folder with this file alone
    with pytest.raises(SaferlrmError, match=r"looked for .*nowhere\.csv"):
        load(NAME, tmp_path, {NAME: "nowhere.csv"})


def test_a_missing_folder_a_missing_file_and_two_files_are_said(tmp_path):
    with pytest.raises(SaferlrmError, match="is no folder"):
        load(NAME, tmp_path / "none")
    with pytest.raises(SaferlrmError, match=r"no local file of jailbreakbench_benign .*data\.files"):
        load(NAME, tmp_path)
    for suffix in (".csv", ".json"):
        write(ROWS, tmp_path / f"{NAME}{suffix}")
    with pytest.raises(SaferlrmError, match=r"2 files may be jailbreakbench_benign .*name one in data\.files"):
        load(NAME, tmp_path)
    with pytest.raises(SaferlrmError, match="unknown data set 'advbench'; choose one of"):
        load("advbench")


@pytest.mark.parametrize("suffix", [".csv", ".json", ".jsonl"])
def test_a_byte_order_mark_is_not_part_of_the_first_column(suffix, tmp_path):
    write(ROWS, tmp_path / f"{NAME}{suffix}", "utf-8-sig")
    assert load(NAME, tmp_path)["prompt"].tolist() == ROWS["Goal"].tolist()


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_other_encodings_are_refused_with_the_place_of_the_first_byte(suffix, tmp_path):
    write(ROWS, tmp_path / f"{NAME}{suffix}", "cp1252")
    with pytest.raises(SaferlrmError, match=r"is not UTF-8 \(byte 0x93 in line [12]\); .*iconv -f cp1252"):
        load(NAME, tmp_path)
    write(ROWS, tmp_path / f"{NAME}{suffix}", "utf-16")
    with pytest.raises(SaferlrmError, match="is UTF-16"):
        load(NAME, tmp_path)


def test_lines_in_two_encodings_are_refused(tmp_path):
    path = write(ROWS, tmp_path / f"{NAME}.csv")
    path.write_bytes(path.read_bytes() + "100,a caf\xe9,x\n".encode("cp1252"))
    with pytest.raises(SaferlrmError, match=r"byte 0xe9 in line 102"):
        load(NAME, tmp_path)


def test_renamed_columns_are_named_together_with_what_is_there(tmp_path):
    said = refused(ROWS.rename(columns={"Goal": "text"}), tmp_path)
    assert said.startswith("jailbreakbench_benign has no column Goal (it has Index, text, Category)")
    assert "has no column label" in refused(ROWS.rename(columns={"Goal": "prompt"}), tmp_path, "xstest_safe")


def test_too_few_rows_and_none_are_refused_and_more_are_said(tmp_path, capsys):
    assert "has 99 rows, not 100" in refused(ROWS[:99], tmp_path)
    for allow_fewer in (False, True):
        said = refused(ROWS[:0], tmp_path, allow_fewer=allow_fewer)
        assert said == "jailbreakbench_benign.csv is empty: it has no rows; replace it"
    (tmp_path / f"{NAME}.csv").write_bytes(b"")
    with pytest.raises(SaferlrmError, match="is empty; replace it"):
        load(NAME, tmp_path)
    more = pd.concat([ROWS, ROWS[:1].assign(Index=100)])
    write(more, tmp_path / f"{NAME}.csv")
    assert len(load(NAME, tmp_path)) == 101
    assert "has 101 rows; the registry says 100" in capsys.readouterr().err
    labelled = ROWS.rename(columns={"Goal": "prompt"}).assign(label="unsafe")
    assert refused(labelled, tmp_path, "xstest_safe") == (
        "xstest_safe is empty: no row with label = safe; replace the file"
    )


def test_duplicate_ids_missing_and_blank_texts_are_refused_with_their_row(tmp_path):
    assert "has 1 duplicate ids (first: 3)" in refused(ROWS.assign(Index=[*range(99), 3]), tmp_path)
    for nothing in (None, float("nan"), "   "):
        goals = ROWS["Goal"].astype(object).where(ROWS.index != 17, nothing)
        assert "1 of 100 rows have no prompt (first: row 17)" in refused(ROWS.assign(Goal=goals), tmp_path)
    write(ROWS.assign(Goal=ROWS["Goal"].where(ROWS.index != 17)), tmp_path / "p" / f"{NAME}.parquet")
    with pytest.raises(SaferlrmError, match=r"no prompt \(first: row 17\)"):
        load(NAME, tmp_path / "p")


def test_a_malformed_file_is_refused(tmp_path):
    (tmp_path / f"{NAME}.jsonl").write_text('{"Goal": "x"}\n{"Goal": \n')
    with pytest.raises(SaferlrmError, match=r"cannot read jailbreakbench_benign.jsonl"):
        load(NAME, tmp_path)
    (tmp_path / f"{NAME}.jsonl").rename(tmp_path / f"{NAME}.parquet")
    with pytest.raises(SaferlrmError, match=r"cannot read jailbreakbench_benign.parquet"):
        load(NAME, tmp_path)


def test_gold_answers_of_each_kind_become_one(tmp_path):
    solutions = ["1+1=<<1+1=2>>2\n#### 2", "x\n#### 1,000"]
    write(pd.DataFrame({"question": ["One and one?", "Many?"], "answer": solutions}), tmp_path / "gsm8k.jsonl")
    assert load("gsm8k", tmp_path, allow_fewer=True)["answer"].tolist() == ["2", "1000"]
    choices = {"Correct Answer": "right", **{f"Incorrect Answer {i}": f"wrong {i}" for i in (1, 2, 3)}}
    row = {"Question": "Which?", "High-level domain": "Physics"} | choices
    write(pd.DataFrame([row | {"Record ID": f"r{i}"} for i in range(8)]), tmp_path / "gpqa_diamond.csv")
    found = load("gpqa_diamond", tmp_path, allow_fewer=True)
    for row in found.itertuples():
        assert f"\n{row.answer}) right\n" in row.prompt
    assert len(set(found["answer"])) > 1
    assert found["prompt"].tolist() == load("gpqa_diamond", tmp_path, allow_fewer=True)["prompt"].tolist()


SCRIPT = """
import dataclasses, json, sys, time
time.sleep = lambda seconds: None  # the hub's client waits 23 seconds in all between its tries
from saferlrm.errors import SaferlrmError
from saferlrm.suites import published
plain = published.get("jailbreakbench_benign")
found = {}
for case, changes in json.loads(sys.argv[1]).items():
    try:
        found[case] = published.load(dataclasses.replace(plain, **changes)).to_dict("records")
    except SaferlrmError as error:
        found[case] = str(error)
print(json.dumps(found))
"""


def elsewhere(endpoint: str, home: Path, cases: dict[str, dict[str, object]], **environment: str) -> dict:
    """What loading entries with these changes gives in a process whose hub is ``endpoint``."""
    offline = {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_ENDPOINT": endpoint, "HF_HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(cases)],
        env={k: v for k, v in os.environ.items() if k != "HF_TOKEN"} | offline | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_hub_gives_the_rows_of_a_local_copy_and_its_refusals_one_line_each(tmp_path):
    path = write(ROWS, tmp_path / "data" / f"{NAME}.csv")
    with hub_server({"x.csv": path.read_bytes()}) as address:
        there = {"hub": "open/set", "file": "x.csv", "revision": REVISION}
        cases = {
            "good": there,
            "gated": there | {"hub": "gated/set", "gated": True},
            "hidden": there | {"hub": "missing/set", "gated": True},
            "missing": there | {"hub": "missing/set"},
            "revision": there | {"revision": "f" * 40},
            "file": there | {"file": "y.csv"},
            "broken": there | {"hub": "broken/set"},
            "web": there | {"file": None, "url": f"{address}/web/{{revision}}/x.csv"},
            "web_gone": there | {"file": None, "url": f"{address}/web/{{revision}}/y.csv"},
            "searched": there | {"file": None, "hub": "missing/set"},
        }
        found = elsewhere(address, tmp_path / "home", cases)
    local = json.loads(json.dumps(load(NAME, path.parent).to_dict("records")))
    assert found["good"] == found["web"] == local
    said = {case: line for case, line in found.items() if isinstance(line, str)}
    for case, words in {
        "gated": "accept the terms of the data set gated/set on the hub, then run 'hf auth login' or set HF_TOKEN",
        "hidden": "gated: accept the terms of the data set missing/set",
        "missing": "the hub has no data set missing/set, or hides it",
        "revision": "revision ffffffffffff of open/set is gone from the hub",
        "file": "open/set has no file y.csv at revision 0123456789ab",
        "broken": "the model hub failed for jailbreakbench_benign",
        "web_gone": "the file of jailbreakbench_benign is gone from http",
        "searched": "missing/set",
    }.items():
        assert words in said.pop(case, ""), (case, found[case])
        assert "\n" not in found[case]
        assert "data.folder" in found[case]
    assert not said


def test_an_unreachable_hub_is_one_line_and_the_cache_is_enough_without_it(tmp_path):
    path = write(ROWS, tmp_path / "data" / f"{NAME}.csv")
    there = {"hub": "open/set", "file": "x.csv", "revision": REVISION}
    with hub_server({"x.csv": path.read_bytes()}) as address:
        first = elsewhere(address, tmp_path / "home", {"good": there})
    closed = {"good": there, "never": there | {"file": "y.csv"}, "web": {"file": None, "url": f"{address}/x.csv"}}
    found = elsewhere(address, tmp_path / "home", closed)
    assert found["good"] == first["good"]
    assert "cannot reach the model hub for jailbreakbench_benign (open/set)" in found["never"]
    assert "cannot fetch jailbreakbench_benign from http" in found["web"]
    offline = elsewhere(address, tmp_path / "home", closed, HF_HUB_OFFLINE="1")
    assert offline["good"] == first["good"]
    assert "cannot reach the model hub" in offline["never"]


def test_an_entry_of_ones_own_is_loaded_like_the_others(tmp_path):
    write(ROWS, tmp_path / "mine.csv")
    mine = replace(DATASETS[NAME], name="mine", rows=100)
    assert len(load(mine, tmp_path)) == 100
