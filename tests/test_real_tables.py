"""Tables about real models: costs, modes of the families, what was kept, corrections, and lines for bad input."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from shared_data import FOLDER, needs_rows
from tiny import PLAIN_TEMPLATE, R1_OLD_TEMPLATE, R1_TEMPLATE, merging_tokenizer, tiny_tokenizer

import saferlrm
from saferlrm import real_tables, show
from saferlrm.chat import THINKING_MODES, ChatFormat
from saferlrm.complaints import complaints
from saferlrm.errors import SaferlrmError
from saferlrm.judges.calibration import RULES, JudgeError, verdicts, xstest_labels
from saferlrm.judges.rules import RuleJudge
from saferlrm.lm import load_lm
from saferlrm.profile import load_profile
from saferlrm.store import repository
from saferlrm.study import Study
from saferlrm.suites import published


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.setenv("SAFERLRM_OUT", str(tmp_path / "out"))
    return Study("smoke")


@pytest.mark.parametrize(
    ("family", "tokenizer"),
    [
        ("Qwen3", tiny_tokenizer),
        ("DeepSeek-R1-Distill, Skywork-OR1", lambda: merging_tokenizer(R1_TEMPLATE)),
        ("DeepSeek-R1-Distill, Skywork-OR1", lambda: merging_tokenizer(R1_OLD_TEMPLATE)),
        ("models that only write the tags", lambda: merging_tokenizer(PLAIN_TEMPLATE)),
    ],
)
def test_prefixes_of_the_families_are_those_of_their_templates(family: str, tokenizer) -> None:
    style, prefixes = real_tables.FAMILIES[family]
    chat = ChatFormat.detect(tokenizer())
    assert style.startswith(f"`{chat.style}`")
    assert {mode: chat.prefix(mode) for mode in THINKING_MODES} == prefixes


def test_costs_have_a_column_for_each_model_and_name_what_does_not_fit(tmp_path: Path) -> None:
    gpu, models = load_profile("gpu"), ["Qwen3-8B", "DeepSeek-R1-Distill-Qwen-14B"]
    table = real_tables.costs(models, gpu)
    assert set(table["basis"].str.split().str[0]) <= {"exact", "estimated", "measured"}
    grid = real_tables.cost_grid(table)
    assert list(grid)[1:] == ["Qwen3-8B", "DeepSeek-R1-Distill-Qwen-14B"]
    assert not grid.isna().any(axis=None)
    assert grid.set_index("").loc["model: parameters, billion"].tolist() == ["8.19", "14.8"]
    unknown = load_profile("gpu", **{"judge.model": str(tmp_path / "gone")})
    grid = real_tables.cost_grid(real_tables.costs(models, unknown))
    assert grid.set_index("").loc["model: judge, kept loaded, GiB"].tolist() == ["?", "?"]
    advice = real_tables.over_budget(["Qwen/Qwen3-8B", "Qwen/Qwen3-14B"], gpu)
    assert advice["Qwen3-8B"] == ()
    assert any("alignment.micro_batch" in line for line in advice["Qwen3-14B"])


def test_every_registered_set_is_shown() -> None:
    table = real_tables.data_sets()
    assert table["data set"].tolist() == list(published.DATASETS)
    assert (table["licence"].str.len() > 0).all()
    shown = table.set_index("data set")[["gated", "revision"]]
    assert shown.loc["wildjailbreak_vanilla_harmful"].tolist() == ["yes", "5ddc12a7894f"]
    assert shown.loc["star1"].tolist() == ["", "main (not pinned)"]


def test_what_was_computed_is_read_and_a_missing_folder_is_said(study: Study, tmp_path: Path) -> None:
    for read in (real_tables.judges, real_tables.classifiers, real_tables.overlaps):
        assert len(read(study)) > 5
        with pytest.raises(SaferlrmError, match=r"no folder 'nowhere' .* recompute = False"):
            read(study, str(tmp_path / "nowhere")[-7:], recompute=True)
    assert not (tmp_path / "out").exists()  # what was only read is not written
    with pytest.raises(SaferlrmError, match=r"results/11_none\.json cannot be read"):
        real_tables.kept("11_none")


@needs_rows
def test_judges_computed_anew_are_the_kept_ones(study: Study, tmp_path: Path) -> None:
    anew, once = real_tables.judges(study, str(FOLDER), recompute=True), real_tables.judges(study)
    names = ["judge", "model", "prompts", "n", "accuracy", "binary_accuracy"]
    pd.testing.assert_frame_equal(anew[names], once[names], atol=1e-6)
    assert (tmp_path / "out" / "results" / "11_judge_calibration.json").is_file()


@needs_rows
@pytest.mark.parametrize(("model", "prompts"), [("llama2new", "all"), ("mistralinstruct", "unsafe")])
def test_errors_are_recovered_from_the_table_as_they_were_counted(study: Study, model: str, prompts: str) -> None:
    labelled = xstest_labels(FOLDER / "xstest")
    labelled = labelled[(labelled["model"] == model) & (labelled["unsafe"] | (prompts == "all"))]
    said = verdicts(RuleJudge(), labelled)
    counted = JudgeError.of(labelled["label"] == "compliance", said == "compliance")
    assert real_tables.attack_error(real_tables.judges(study), RULES, model, prompts) == counted


def test_errors_that_cannot_be_known_are_refused(study: Study) -> None:
    judged = real_tables.judges(study)
    with pytest.raises(SaferlrmError, match="do not show both errors"):
        real_tables.attack_error(judged, RULES, "llama2new", "unsafe")
    with pytest.raises(SaferlrmError, match="0 rows are nobody on llama2new"):
        real_tables.attack_error(judged, "nobody", "llama2new")


def test_a_correction_below_the_false_alarms_does_not_pass_for_certainty() -> None:
    table = real_tables.corrections(JudgeError(124, 128, 55, 72), [11, 150], 300)
    assert table["does it fit"].tolist() == ["no: false alarms alone would be 0.236", "yes"]
    assert table["corrected"].iloc[0].startswith("0.000")


def test_answers_are_right_wrong_or_unsure() -> None:
    table = real_tables.checked_answers([(r"\boxed{\frac{1}{2}}", "0.5"), ("The answer is 41.", "42"), ("Many.", "40")])
    assert table["verdict"].tolist() == ["right", "wrong", "unsure"]
    assert table["why"].tolist()[:2] == ["", ""]
    assert table["why"].iloc[2]


def test_bad_input_is_one_line_that_names_no_place_of_this_machine(tiny_lm_folder: Path, capsys) -> None:
    table = complaints(load_lm(tiny_lm_folder))
    assert not table["the line"].str.contains(r"\n|/tmp/|it works here").any()
    assert table["the line"].is_unique
    for what, line in (("renamed", "no column prompt"), ("encoding", "not UTF-8"), ("text", "no prompt")):
        assert line in table.loc[table["what goes wrong"].str.contains(what), "the line"].iloc[0]
    assert capsys.readouterr() == ("", "")


def test_lines_that_the_notebook_quotes_stand_in_the_code() -> None:
    """Quotations between backticks in the table of bad input, cut at what stands for names and numbers."""
    notebook = nbformat.read(repository() / "notebooks" / "11_real_models.ipynb", as_version=4)
    table = next(cell.source for cell in notebook.cells if cell.id == "bad-text")
    folder = Path(saferlrm.__file__).parent
    # Adjacent pieces of a message and values in braces are one text.
    code = "\n".join(path.read_text(encoding="utf-8") for path in folder.rglob("*.py"))
    code = re.sub(r"\"\s*\n\s*f?\"", "", code)
    quoted = [line.split("|")[2] for line in table.splitlines() if line.startswith("| ") and "`" in line.split("|")[2]]
    quoted = [line for line in quoted if not line.strip().startswith("no line")]
    assert len(quoted) >= 8
    for line in quoted:
        for piece in re.search(r"`(.+)`", line).group(1).split("…"):
            assert piece.strip() in code, piece


def test_the_notebook_shows_what_every_notebook_costs_whole_and_begun_small() -> None:
    table = real_tables.workloads("Qwen/Qwen3-8B", load_profile("gpu")).set_index("notebook")
    assert table.loc["07, sweeps", "begun small: hours"] == "–"  # left out of a small beginning
    assert int(table.loc["all", "begun small: adapters"]) < int(table.loc["all", "whole: adapters"]) / 3
    notebook = nbformat.read(repository() / "notebooks" / "11_real_models.ipynb", as_version=4)
    cell = next(cell for cell in notebook.cells if cell.id == "costs-check-2")
    shown = show.markdown_table(real_tables.workloads("DeepSeek-R1-Distill-Qwen-7B", load_profile("gpu"))).data
    assert cell.outputs[-1]["data"]["text/markdown"] == shown
