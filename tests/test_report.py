"""The report and the targets: complete, self-contained, honest about shortfalls, silent about text."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import tables
from PIL import Image, PngImagePlugin

from saferlrm.errors import SaferlrmError
from saferlrm.profile import load_profile
from saferlrm.report import Result, _judge, build_report, read_results, render
from saferlrm.store import Store, write_json
from saferlrm.targets import NOT_MEASURED, TARGETS, shortfalls, targets

EVALUATION = tables.evaluation(size=60)


def _all(method: str, suite: str, mode: str, **values: bool) -> pd.DataFrame:
    """The made-up evaluation with every outcome of one method, suite and mode set."""
    table = EVALUATION.copy()
    rows = (table["method"] == method) & (table["suite"] == suite) & (table["mode"] == mode)
    for column, value in values.items():
        table.loc[rows, column] = value
    return table


def _row(goals: pd.DataFrame, metric: str, suite: str, mode: str = "on", about: str = "PreSafe") -> pd.Series:
    found = goals[
        (goals["metric"] == metric)
        & (goals["suite"] == suite)
        & (goals["mode"] == mode)
        & (goals["about"] == about)
    ]
    assert len(found) == 1
    return found.iloc[0]


def test_every_target_is_measured_with_interval_and_n() -> None:
    goals = targets(EVALUATION)
    assert len(goals) == len(TARGETS)
    assert goals["met"].notna().all()
    assert (goals["low"] <= goals["value"] + 1e-9).all()
    assert (goals["value"] <= goals["high"] + 1e-9).all()
    assert (goals["n"] > 0).all()
    about = goals["about"] == "PreSafe"
    assert goals.loc[about, "control"].notna().all()
    assert goals.loc[~about, "control"].isna().all()


def test_a_target_is_met_or_missed_by_its_value() -> None:
    met = targets(_all("presafe", "harmful_unseen", "on", attack_success=False, refused=True))
    missed = targets(_all("presafe", "harmful_unseen", "on", attack_success=True, refused=False))
    assert _row(met, "attack_success", "harmful_unseen")["met"]
    row = _row(missed, "attack_success", "harmful_unseen")
    assert not row["met"]
    assert row["verdict"] == "missed"
    assert row["value"] == 1.0
    assert any("attack success on harmful_unseen (thinking on) is 1.000" in s for s in shortfalls(missed))


def test_zero_of_sixty_is_met_but_its_interval_is_not_hidden() -> None:
    goals = targets(_all("presafe", "harmful_unseen", "on", attack_success=False, refused=True))
    row = _row(goals, "attack_success", "harmful_unseen")
    assert row["high"] > 0.037
    assert row["verdict"] == "met, but the interval crosses the bound"
    assert any("crosses the bound" in sentence for sentence in shortfalls(goals))


def test_accuracy_is_compared_with_the_model_before_alignment() -> None:
    before = EVALUATION[(EVALUATION["method"] == "before")]
    copies = [before.assign(method=method, seed=seed) for method in ("sft", "presafe") for seed in range(2)]
    row = _row(targets(pd.concat([before, *copies])), "accuracy_change", "reasoning")
    assert row["value"] == 0
    assert row["met"]


def test_what_was_not_evaluated_is_named_and_not_met() -> None:
    goals = targets(EVALUATION[(EVALUATION["method"] == "before") & (EVALUATION["suite"] != "benign")])
    missing = goals[goals["verdict"] == NOT_MEASURED]
    assert set(missing["about"]) == {"the organism", "PreSafe"}
    assert missing["met"].isna().all()
    assert sum("was not measured" in sentence for sentence in shortfalls(goals)) == len(missing)


class _Page(HTMLParser):
    """Collects what matters of a page: addresses, alt texts, open tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.alts: list[str | None] = []
        self.ids: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.links += [found[name] or "" for name in ("src", "href") if name in found]
        if tag == "img":
            self.alts.append(found.get("alt"))
        if "id" in found:
            self.ids.append(str(found["id"]))
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def _study(folder: Path) -> SimpleNamespace:
    """The part of a study that a report reads, with results, a figure and one finished stage."""
    for name, table in (
        (
            "rates",
            pd.DataFrame({"suite": ["a<b"], "rate": [0.123456], "low": [0.1], "high": [None], "n": [60]}),
        ),
        ("examples", EVALUATION[["prompt_id", "thought", "answer", "topic"]].head(3)),
        ("long", pd.DataFrame({"i": range(500)})),
    ):
        rows = table.astype(object).where(table.notna(), None).to_dict("records")
        write_json(
            folder / "results" / f"{name}.json", {"name": name, "evidence": {"model": "abc"}, "rows": rows}
        )
    write_json(folder / "results" / "timings.json", {"organism": {}})
    (folder / "figures").mkdir()
    described = PngImagePlugin.PngInfo()
    described.add_text("Description", 'Dots & "bars" of safety')
    Image.new("RGB", (20, 10), "white").save(folder / "figures" / "overview.png", pnginfo=described)
    Image.new("RGB", (20, 10), "white").save(folder / "figures" / "plain_one.png")
    store = Store(folder / "store")
    store.load_or_compute(
        "scorecard", {"a": 1}, {}, lambda path: (path / "x").write_text("x") and None, "code"
    )
    profile = load_profile("smoke")
    return SimpleNamespace(out=folder, profile=profile, store=store, evaluation=lambda: EVALUATION)


def test_the_report_is_one_self_contained_page(tmp_path: Path) -> None:
    path = build_report(_study(tmp_path))
    assert path == tmp_path / "report.html"
    text = path.read_text(encoding="utf-8")
    page = _Page(text)
    assert page.open == []
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in page.links)
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert not re.search(r"@import|url\(|<script|https?://", text)
    assert page.alts == ['Dots & "bars" of safety', "plain one"]
    assert "prefers-color-scheme: dark" in text
    assert not list(tmp_path.glob(".report*"))


def test_the_report_says_what_was_run_what_was_found_and_what_falls_short(tmp_path: Path) -> None:
    text = build_report(_study(tmp_path)).read_text(encoding="utf-8")
    for words in (
        "Targets",
        "What falls short",
        "a&lt;b",
        "0.1235",
        "rates",
        "profile",
        "smoke",
        "torch",
        "scorecard",
    ):
        assert words in text, words
    assert "The first 200 of 500 rows" in text
    for sentence in shortfalls(targets(EVALUATION)):
        assert sentence.split("(")[0].replace("<", "&lt;") in text


def test_the_report_shows_no_thought_and_no_answer(tmp_path: Path) -> None:
    text = build_report(_study(tmp_path)).read_text(encoding="utf-8")
    assert "SECRET" not in text
    assert "harmful_seen-0000" in text  # the rest of that table is there


def test_saved_targets_are_shown_as_they_were_saved(tmp_path: Path) -> None:
    study = _study(tmp_path)
    goals = targets(EVALUATION)
    rows = goals.astype(object).where(goals.notna(), None).to_dict("records")
    write_json(tmp_path / "results" / "targets.json", {"name": "targets", "evidence": {}, "rows": rows})
    fresh = render({"name": "smoke"}, goals, [], [], [], pd.DataFrame())
    study.evaluation = None  # it must not be asked
    table = re.search(
        r"<h2 id=\"targets\">.*?</table>", build_report(study).read_text(encoding="utf-8"), re.S
    )[0]
    assert table == re.search(r"<h2 id=\"targets\">.*?</table>", fresh, re.S)[0]


def test_a_study_without_results_and_a_broken_result_are_said_in_one_line(tmp_path: Path) -> None:
    study = _study(tmp_path / "full")
    study.out = tmp_path / "empty"
    with pytest.raises(SaferlrmError, match=r"no results in .* saferlrm run --profile smoke"):
        build_report(study)
    (tmp_path / "full" / "results" / "rates.json").write_text("{half")
    with pytest.raises(SaferlrmError, match=r"rates\.json is not valid JSON .* delete it"):
        read_results(tmp_path / "full" / "results")


def test_a_second_report_replaces_the_first_and_is_equal_to_it(tmp_path: Path) -> None:
    study = _study(tmp_path)
    first = build_report(study).read_text(encoding="utf-8")
    assert build_report(study).read_text(encoding="utf-8") == first


def test_the_report_shows_every_claim_with_its_verdict_in_the_ledgers_order() -> None:
    claims = [
        {"claim": f"Claim {i} <b>.", "source": "PreSafe", "grounding": "abstract", "metric": "a rate",
         "rule": "at most 0.05", "why": f"It is 0.{i}.", "verdict": verdict,
         "note": "cannot hold with n = 9" * (i == 2), "control_verdict": "holds" * (i == 1), "control_value": 0.25,
         "control_low": 0.125, "control_high": 0.5}
        for i, verdict in enumerate(("does not hold", "holds", "cannot be decided here", "does not hold"))
    ]  # fmt: skip
    saved = Result("10_claims", pd.DataFrame(claims), {})
    page = render({"name": "smoke"}, targets(EVALUATION), [saved], [], [], pd.DataFrame())
    section = re.search(r"<h2 id=\"claims\">.*?</table>", page, re.S)[0]
    assert "4 claims: 2 does not hold, 1 holds, 1 cannot be decided here" in section
    assert re.findall(r"Claim (\d) &lt;b&gt;\.", section) == ["0", "1", "2", "3"]
    assert section.count('class="missed"') == 2
    assert "It is 0.2. Cannot hold with n = 9." in section
    assert section.count("0.250 [0.125, 0.500]: holds") == 1
    assert section.count("<td>–</td>") == 3
    without = render({"name": "smoke"}, targets(EVALUATION), [], [], [], pd.DataFrame())
    assert "The ledger was not computed yet" in without


def test_the_report_names_the_judge_of_its_profile() -> None:
    own = _judge(load_profile("organism").model_dump(mode="json"))
    assert own.startswith("rules of the synthetic world")
    real = _judge(load_profile("gpu", **{"judge.model": "a/folder"}).model_dump(mode="json"))
    assert "llama-guard" in real.lower().replace("_", "-")
    assert "a/folder" in real
