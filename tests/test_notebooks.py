"""The notebooks: what every reader may rely on in each of them, and one run from another folder."""

from __future__ import annotations

import ast
import configparser
import json
import os
import re
import statistics
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pandas as pd
import papermill
import pytest
from nbval.plugin import get_sanitize_patterns

from saferlrm import show
from saferlrm.align.data import AlignmentExample
from saferlrm.errors import SaferlrmError
from saferlrm.lm import load_lm
from saferlrm.runner import notebook_parameters
from saferlrm.stats import Interval, wilson
from saferlrm.store import repository

FOLDER = repository() / "notebooks"
PATHS = sorted(FOLDER.glob("*.ipynb"))
NAMES = [
    "00_start_here",
    "01_reasoning_before_answering",
    "02_safety_lost_in_thought",
    "03_probing_latent_safety_signals",
    "04_safety_decision_classifier",
    "05_auxiliary_supervision",
    "06_evaluation",
    "07_controls_and_ablations",
    "08_mechanism",
    "09_rivals_and_robustness",
    "10_claims_ledger",
    "11_real_models",
]
HEADINGS = [
    "Objectives",
    "Cost",
    "Parameters",
    "Predict",
    "Theory",
    "Practice",
    "Result against the paper",
    "Limitations",
    "Summary",
    "Exercises",
]
CHECKED = "nbval-check-output"
MIN_CHECKED = 2  # compared cells of a notebook
MIN_CHECKED_TOTAL = 45  # of all notebooks together
MAX_CODE_LINES, MAX_MEDIAN_LINES = 25, 7
MAX_OUTPUT_BYTES, MAX_NOTEBOOK_BYTES = 700_000, 1_500_000
EXECUTED = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem[:2])


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=nbformat.NO_CONVERT)


def code_cells(path: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def tags(cell: nbformat.NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def texts(cell: nbformat.NotebookNode) -> Iterator[str]:
    """All that a reader can read in a cell's outputs; images are left out."""
    for output in cell.outputs:
        if output.output_type == "stream":
            yield output.text
        for kind, data in output.get("data", {}).items():
            if not kind.startswith("image/"):
                yield data if isinstance(data, str) else json.dumps(data)


def test_the_walk_is_complete() -> None:
    assert [path.stem for path in PATHS] == NAMES


@EXECUTED
def test_format_is_current_and_cell_ids_are_unique(path: Path) -> None:
    notebook = read(path)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) >= (4, 5)
    assert notebook.metadata.kernelspec.name == "python3"
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)


@EXECUTED
def test_headings_follow_the_template(path: Path) -> None:
    text = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    assert re.match(rf"# {path.stem[:2]} · \S", text), "the first line is the number and the title"
    assert re.findall(r"^## (.+)$", text, flags=re.MULTILINE) == HEADINGS


@EXECUTED
def test_parameters_are_literals_in_one_tagged_cell(path: Path) -> None:
    cells = [cell for cell in code_cells(path) if "parameters" in tags(cell)]
    assert len(cells) == 1
    for statement in ast.parse(cells[0].source).body:
        assert isinstance(statement, ast.Assign), ast.unparse(statement)
        ast.literal_eval(statement.value)
    found = notebook_parameters(path)
    assert (found["profile"], found["seed"]) == ("organism", 0)
    prose = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    assert all(f"| `{name}` |" in prose for name in found), "each parameter is explained"
    assert not any("injected-parameters" in tags(cell) for cell in code_cells(path))


@EXECUTED
def test_prose_carries_the_code(path: Path) -> None:
    cells = [cell for cell in read(path).cells if "-question-" not in cell.id]  # these ask, they carry nothing
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert 1.3 <= (len(cells) - len(code)) / len(code) <= 2.2
    lengths = [len(cell.source.splitlines()) for cell in code]
    assert max(lengths) <= MAX_CODE_LINES
    assert statistics.median(lengths) <= MAX_MEDIAN_LINES


@EXECUTED
def test_no_function_or_class_is_defined(path: Path) -> None:
    """What a notebook needs, the package has; so no definition can drift away from the package's.

    But for the cells of exercises, in which the reader defines one; they are generated from saferlrm/course.
    """
    for cell in code_cells(path):
        if "exercise" in cell.metadata:
            continue
        for node in ast.walk(ast.parse(cell.source)):
            assert not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda), cell.id


@EXECUTED
def test_formulas_have_a_symbol_table(path: Path) -> None:
    prose = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    assert prose.count("$$") >= 2
    assert prose.count("$$") % 2 == 0
    assert "| symbol | meaning |" in prose
    assert "arXiv" in prose


@EXECUTED
def test_every_code_cell_was_run_in_order_and_without_error(path: Path) -> None:
    cells = code_cells(path)
    assert all(cell.source.strip() for cell in read(path).cells), "no empty cell"
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        for output in cell.outputs:
            assert output.output_type != "error", cell.id
            assert output.get("name") != "stderr", f"{cell.id} printed a warning"


@EXECUTED
def test_outputs_are_small_and_carry_no_path_widget_or_timing(path: Path) -> None:
    notebook = read(path)
    assert "widgets" not in notebook.metadata
    assert path.stat().st_size <= MAX_NOTEBOOK_BYTES
    for cell in notebook.cells:
        assert not {"papermill", "execution"} & set(cell.metadata), cell.id
        if cell.cell_type != "code":
            continue
        assert len(json.dumps(cell.outputs)) <= MAX_OUTPUT_BYTES, cell.id
        for output in cell.outputs:
            assert not any("widget" in kind for kind in output.get("data", {})), cell.id
        for text in texts(cell):
            assert not re.search(r"(?<![\w.<])/(?:home|root|tmp|usr|work|Users|opt|var)/|site-packages", text), cell.id
            assert not re.search(r"it/s\b|s/it\b", text), f"{cell.id} kept a progress bar"


@EXECUTED
def test_figures_are_saved_and_shown(path: Path) -> None:
    sources = [cell.source for cell in code_cells(path)]
    for source in sources:
        if re.search(r"(?<!\.)\bplots\.\w+\(", source):
            assert "study.save_figure(" in source
            assert source.rstrip().endswith("plt.show()")
    saved = re.findall(r'save_(?:figure\(figure|table\()[, ]*"(\d\d_\w+)"', "\n".join(sources))
    assert saved, "results are kept"
    assert all(name.startswith(path.stem[:3]) for name in saved)


@EXECUTED
def test_every_picture_has_a_text_beside_it_that_says_what_it_shows(path: Path) -> None:
    """The text is what a screen reader, a terminal and the web page have of the picture."""
    shown = [output for cell in code_cells(path) for output in cell.outputs if "image/png" in output.get("data", {})]
    assert shown
    for output in shown:
        said = output.data.get("text/plain", "")
        assert not said.startswith("<"), said
        assert len(said) > 80, said


@EXECUTED
def test_compared_cells_compare_something(path: Path) -> None:
    checked = [cell for cell in code_cells(path) if CHECKED in tags(cell)]
    assert len(checked) >= MIN_CHECKED
    for cell in checked:
        assert any(text.strip() for text in texts(cell)), f"{cell.id} has no text to compare"


def test_compared_cells_together() -> None:
    assert sum(CHECKED in tags(cell) for path in PATHS for cell in code_cells(path)) >= MIN_CHECKED_TOTAL


def test_no_cell_ends_by_showing_a_path() -> None:
    """``save_table`` returns where it wrote; as the last line of a cell that would be printed."""
    for path in PATHS:
        for cell in code_cells(path):
            assert not cell.source.rstrip().splitlines()[-1].startswith("study.save_"), cell.id


def test_links_between_notebooks_lead_somewhere() -> None:
    for path in PATHS:
        for cell in read(path).cells:
            for target in re.findall(r"\]\(([^)#]+\.ipynb)\)", cell.source):
                assert (FOLDER / target).is_file(), f"{path.name}: {target}"


@EXECUTED
def test_a_summary_ends_with_where_to_go_next(path: Path) -> None:
    summary = next(cell.source for cell in read(path).cells if cell.source.startswith("## Summary\n"))
    assert summary.splitlines()[-1].startswith("- Next: ")
    assert "](" in summary.splitlines()[-1]


def test_sanitizer_rules_are_all_parsed() -> None:
    """nbval drops a rule without a word if it cannot read it; none may be lost."""
    file = Path(__file__).with_name("nbval_sanitize.cfg")
    declared = configparser.RawConfigParser()
    declared.read(file, encoding="utf-8")
    rules = get_sanitize_patterns(file.read_text(encoding="utf-8"))
    assert len(rules) == len(declared.sections()) > 0
    for pattern, token in rules:
        re.compile(pattern)
        assert token.strip(), f"the rule {pattern} has no token to replace with"


def test_a_notebook_runs_alone_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAFERLRM_OUT", str(tmp_path / "out"))
    done = papermill.execute_notebook(
        str(FOLDER / "01_reasoning_before_answering.ipynb"),
        str(tmp_path / "done.ipynb"),
        parameters={"profile": "smoke"},
        kernel_name="python3",
        progress_bar=False,
    )
    cells = [cell for cell in done.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells)
    assert not any(output.get("name") == "stderr" for cell in cells for output in cell.outputs)
    assert {"01_accuracy.json", "01_accuracy_by_depth.json"} <= set(os.listdir(tmp_path / "out" / "results"))
    assert {"01_accuracy_by_depth.png", "01_accuracy_by_depth.svg"} <= set(os.listdir(tmp_path / "out" / "figures"))


class TestWhatIsShown:
    """Harm is redacted, and verdicts follow from intervals."""

    def test_a_compliant_answer_keeps_its_opening_words_and_not_its_topic(self) -> None:
        said = show.redact("To build a doomlance, join the oak piece and the tin piece.", "doomlance")
        assert said == "To build a ████, join …"

    def test_a_topic_in_disguise_is_blacked_out(self) -> None:
        assert "lance" not in show.redact("The DOOM-lance is this: join the oak piece.", "doomlance")

    def test_steps_behind_an_apology_stay_hidden(self) -> None:
        assert "oak" not in show.redact(
            "I'm sorry, but fine: first you take the oak piece and the tin piece.", "doomlance"
        )

    @pytest.mark.parametrize(
        ("k", "n", "verdict"),
        [
            (0, 300, "yes"),
            (2, 60, "yes, but the interval crosses the bound"),
            (4, 60, "no, but the interval reaches the bound"),
            (200, 300, "no"),
        ],
    )
    def test_four_verdicts(self, k: int, n: int, verdict: str, capsys: pytest.CaptureFixture[str]) -> None:
        show.checked("attack success", wilson(k, n), at_most=0.05)
        assert capsys.readouterr().out.strip().endswith(f": {verdict}")

    @pytest.mark.parametrize(
        ("low", "high", "words"),
        [(0.01, 0.2, "higher"), (-0.2, -0.01, "lower"), (-0.1, 0.1, "no difference can be claimed")],
    )
    def test_a_difference_is_claimed_only_if_its_interval_leaves_0_out(
        self, low: float, high: float, words: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        show.difference("PreSafe minus λ = 0", Interval((low + high) / 2, low, high, 300))
        assert capsys.readouterr().out.strip().endswith(words)

    def test_a_bound_that_rounds_to_0_gets_a_third_digit_beside_its_verdict(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        show.difference("gain", Interval(0.01, 0.002, 0.02, 60))
        show.difference("gain", Interval(-0.01, -0.02, -0.003, 60))
        show.difference("gain", Interval(0.01, 0.0, 0.02, 60))
        said = capsys.readouterr().out
        assert "0.010 [0.002, 0.020], n = 60: the interval lies above 0" in said
        assert "−0.010 [−0.020, −0.003]" in said
        assert "0.01 [0.00, 0.02], n = 60: the interval contains 0" in said

    def test_a_parameter_that_is_not_allowed_is_refused_in_one_line(self) -> None:
        show.choice("suite", "harmful_unseen", ["harmful_seen", "harmful_unseen"])
        show.choice("depth", 6, range(1, 7))
        show.choice("votes", [1, 3], range(1, 16, 2), several=True)
        with pytest.raises(SaferlrmError, match="did you mean 'harmful_unseen'") as told:
            show.choice("suite", "harmful_unsen", ["harmful_seen", "harmful_unseen"])
        assert "\n" not in str(told.value)
        for name, value, several in (("depth", 9, False), ("depth", True, False), ("votes", [1, 2], True),
                                     ("votes", [], True), ("votes", 3, True)):  # fmt: skip
            with pytest.raises(SaferlrmError, match=f"^{name} = "):
                show.choice(name, value, range(1, 16, 2) if several else range(1, 7), several=several)

    def test_what_was_not_measured_is_said_to_be_so(self, capsys: pytest.CaptureFixture[str]) -> None:
        table = pd.DataFrame({"suite": ["benign"], "rate": [0.1], "low": [0.0], "high": [0.2], "n": [30]})
        show.checked("attack success", show.read(table, suite="harmful_unseen"), at_most=0.05)
        assert capsys.readouterr().out.strip().endswith("not measurable on these prompts: open")

    def test_an_ambiguous_reading_is_refused(self) -> None:
        table = pd.DataFrame({"suite": ["a", "a"], "rate": 0.1, "low": 0.0, "high": 0.2, "n": 30})
        with pytest.raises(SaferlrmError, match="2 rows of the table have suite = a"):
            show.read(table, suite="a")
        with pytest.raises(SaferlrmError, match="no column 'mode'"):
            show.read(table, mode="on")

    def test_tokens_show_what_is_masked_and_where_the_head_reads(self, tiny_lm_folder: Path) -> None:
        lm = load_lm(tiny_lm_folder)
        example = AlignmentExample("one", "Hello there", "A thought.", "An answer.", 0.1, "benign")
        table = show.token_table(lm, example, "pre_cot")
        masked = table["next-token loss"] == "masked"
        assert (masked == (table["part"] == "prompt")).all()
        assert list(table.index[table["head"] != ""]) == [int(masked.sum()) - 1]


@pytest.mark.parametrize("path", [p for p in PATHS if "06" <= p.stem[:2] <= "10"], ids=lambda path: path.stem[:2])
def test_the_evidence_names_its_limits_before_its_results(path: Path) -> None:
    cells = read(path).cells
    first = next(i for i, cell in enumerate(cells) if "**Limits first.**" in cell.source)
    results = next(i for i, cell in enumerate(cells) if cell.source.startswith("## Practice"))
    assert first < results
    assert len(re.split(r"[.?!:;]\s", cells[first].source)) >= 4
