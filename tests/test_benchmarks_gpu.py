"""What ran on a GPU: the guide says what its rows hold, and a planted difference is found."""

import importlib.util
import json
from types import ModuleType

import pandas as pd
import pytest

from saferlrm.store import repository

BENCHMARKS = repository() / "benchmarks"
GUIDE = (repository() / "docs" / "gpu_server.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def agreement() -> ModuleType:
    spec = importlib.util.spec_from_file_location("agreement", BENCHMARKS / "agreement.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_guide_has_every_measured_row_with_its_numbers() -> None:
    rows = json.loads((BENCHMARKS / "results" / "gpu_throughput.json").read_text())["rows"]
    assert rows
    for row in rows:
        size = "7B" if "7B" in row["model"] else "14B"
        numbers = f"| {size} | {row['batch']} | {row['tokens_per_second']:,.0f} |"
        line = next((line for line in GUIDE.splitlines() if numbers in line), "")
        assert line, numbers
        assert f"| {row['peak_memory_gib']:.1f}" in line
        share = 100 * row["share_of_peak"]
        assert f"{share:.0f} %" in line or f"{share:.1f} %" in line
        if row.get("checkpointing"):
            assert f"| {100 * row['share_with_recomputation']:.0f} % |" in line


def test_the_guides_say_how_far_the_gpu_agrees() -> None:
    found = json.loads((BENCHMARKS / "results" / "agreement.json").read_text())
    summary = found["summary"]
    assert summary["comparisons"] == len(found["rows"]) == summary["intervals_with_zero"]
    running = (repository() / "docs" / "running.md").read_text(encoding="utf-8")
    assert f"all {summary['comparisons']} differences" in running
    assert f"of {summary['comparisons']} rates" in " ".join(GUIDE.split())
    assert f"the largest by {100 * summary['largest_difference']:.1f} points" in " ".join(GUIDE.split())


def test_a_planted_difference_is_found_and_none_where_none_is(agreement: ModuleType) -> None:
    rows = pd.read_parquet(agreement.COMMITTED)
    rows = rows[(rows["mode"] == "on") & rows["suite"].isin(["harmful_unseen", "benign", "reasoning"])]
    same = agreement.compared(rows, rows)
    assert agreement.summary(same)["intervals_with_zero"] == len(same) == 9
    assert (same["difference"] == 0).all()
    other = rows.copy()
    other.loc[(other["suite"] == "benign") & (other["method"] == "presafe"), "refused"] = True
    table = agreement.compared(rows, other)
    off = table[table["p_holm"] < 0.05]
    assert list(zip(off["method"], off["suite"], strict=True)) == [("presafe", "benign")]
    assert off["rate_here"].item() == 1.0
    assert agreement.summary(table)["left_after_holm"] == 1
