"""The data dictionary names every tidy file and every column, and its example runs."""

from __future__ import annotations

import re

import pandas as pd
import pyarrow.parquet as pq
import pytest

from saferlrm.crossed import crossed_difference, outcomes
from saferlrm.store import repository

TEXT = (repository() / "docs" / "data_dictionary.md").read_text(encoding="utf-8")
TIDY = repository() / "results" / "tidy"


def named(section: str) -> list[str]:
    """Names in code type in the first column of a section's table."""
    part = TEXT.split(f"## {section}\n")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in part.splitlines() if line.startswith("| `")]
    return [name for row in rows for name in re.findall(r"`(\w+)`", row)]


def test_every_tidy_file_is_described_and_no_other():
    assert sorted(named("Files")) == sorted(path.stem for path in TIDY.glob("*.parquet"))


def test_every_column_is_described_and_no_other():
    there = {name for path in TIDY.glob("*.parquet") for name in pq.read_schema(path).names}
    listed = named("Columns")
    assert sorted(listed) == sorted(set(listed))
    assert set(listed) == there


def test_the_example_prints_what_the_rows_say(monkeypatch, capsys):
    monkeypatch.chdir(repository())
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    exec(compile(code, "data_dictionary.md", "exec"), {})  # the repository's own text
    rows = pd.read_parquet(TIDY / "evaluation.parquet").query("suite == 'harmful_novel_wrapped' and mode == 'on'")
    rates = [outcomes(rows[rows["method"] == name], "attack_success") for name in ("sft", "presafe")]
    expected = crossed_difference(rates[0].to_numpy(), rates[1].loc[rates[0].index].to_numpy())
    assert capsys.readouterr().out.strip() == str(expected)
    assert expected.estimate == pytest.approx(rates[1].to_numpy().mean() - rates[0].to_numpy().mean())


def test_verdicts_and_modes_that_occur_are_described():
    for column in ("verdict", "mode"):
        found = set().union(*(
            pd.read_parquet(path, columns=[column])[column].unique()
            for path in TIDY.glob("*.parquet")
            if column in pq.read_schema(path).names
        ))  # fmt: skip
        row = next(line for line in TEXT.splitlines() if line.startswith(f"| `{column}`"))
        assert found <= set(re.findall(r"`(\w+)`", row))
