"""Another model in a profile: named, checked, kept apart, and handed to every notebook."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
import papermill
import pytest
from test_cli import saferlrm_command
from test_runner import write_notebook

from saferlrm.errors import SaferlrmError
from saferlrm.model_choice import find_model, model_settings
from saferlrm.profile import as_yaml, load_profile
from saferlrm.runner import check_parameters, notebook_parameters, run_notebooks
from saferlrm.store import Store, repository
from saferlrm.study import Study

NOTEBOOKS = sorted((repository() / "notebooks").glob("*.ipynb"))
PARAMETERS = 'profile = "organism"\nmodel = ""\nseed = 0'


def test_nothing_changes_without_a_model_or_with_the_profile_s_own(tiny_lm_folder: Path, tmp_path: Path) -> None:
    assert model_settings("gpu") == model_settings("gpu", " ") == model_settings("gpu", "Qwen/Qwen3-8B") == {}
    assert model_settings("smoke", "organism") == {}
    (tmp_path / "own.yaml").write_text(as_yaml(load_profile("smoke", model=str(tiny_lm_folder), name="own")))
    assert model_settings(str(tmp_path / "own.yaml"), f"{tiny_lm_folder}/") == {}


def test_results_of_two_models_never_meet(tiny_lm_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SAFERLRM_OUT")
    outs = {Study("gpu").out, Study("organism").out}
    names = ["Qwen/Qwen3-0.6B", "Qwen/Qwen3-0-6B", "other/Qwen3-0.6B", str(tiny_lm_folder), "organism"]
    names += [f"{'long' * 20}/{end}" for end in ("a", "b")]
    for name in names:
        study = Study("gpu", **model_settings("gpu", name))
        assert study.profile.model == name
        assert study.out.parent == repository() / "runs"
        outs.add(study.out)
    assert len(outs) == 2 + len(names)
    assert Study("gpu", **model_settings("gpu", "Qwen/Qwen3-0.6B")).out.name == "gpu-Qwen--Qwen3-0_6B"
    # Also of the study as declared: with another model its results must not replace those that ship.
    assert Study("organism", **model_settings("organism", str(tiny_lm_folder))).out != repository()


def test_what_is_stored_does_not_depend_on_the_name(tiny_lm_folder: Path, tmp_path: Path) -> None:
    few = {"classifier.n_prompts": 20, "decoding.max_new_tokens": 33}
    by_choice = Study("smoke", Store(tmp_path), **model_settings("smoke", str(tiny_lm_folder)), **few)
    by_profile = Study("smoke", Store(tmp_path), model=str(tiny_lm_folder), name="mine", **few)
    by_choice.decisions()
    (kept,) = (tmp_path / "decisions").iterdir()
    by_profile.decisions()
    assert list((tmp_path / "decisions").iterdir()) == [kept]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("/nowhere/model", "is neither a folder nor a name on the hub"),
        ("./model", "is neither a folder nor a name on the hub"),
        ("a model", "is neither a folder nor a name on the hub"),
        ("a/b/c", "is neither a folder nor a name on the hub"),
        (__file__, "is a file"),
        (str(Path(__file__).parent), "has no config.json"),
        (8, "as text, not 8"),
    ],
)
def test_what_can_be_no_model_is_refused_in_one_line(model: str, message: str) -> None:
    for check in (find_model, lambda name: model_settings("gpu", name)):
        with pytest.raises(SaferlrmError, match=message) as problem:
            check(model)
        assert "\n" not in str(problem.value)


def test_a_misspelt_name_gets_a_hint_and_the_hub_s_answer() -> None:
    with pytest.raises(SaferlrmError, match=r"did you mean Qwen/Qwen3-14B\?.*there is no folder Qwen/Qwen3-14") as said:
        find_model("Qwen/Qwen3-14", ask_hub=True)
    assert "\n" not in str(said.value)
    with pytest.raises(SaferlrmError, match=r"did you mean Qwen/Qwen3-8B\?"):
        find_model("Qwen3-8B", ask_hub=True)
    assert find_model("Qwen/Qwen3-14") == "Qwen/Qwen3-14"  # the hub is asked only where that is wanted


def test_the_runner_hands_over_whole_paths_and_keeps_models_apart(
    tiny_lm_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAFERLRM_RESULTS", str(tmp_path / "results"))
    monkeypatch.setattr("saferlrm.runner.repository", lambda: tmp_path)
    monkeypatch.chdir(tiny_lm_folder.parent)
    (tmp_path / "mine.yaml").write_text(as_yaml(load_profile("smoke", name="mine")))
    show = "from saferlrm.profile import load_profile\nprint(load_profile(profile).name, model)"
    source = write_notebook(tmp_path / "notebooks", "00_first", show, parameters=PARAMETERS)
    profile = os.path.relpath(tmp_path / "mine.yaml")
    assert check_parameters(source, profile, {"model": ""}) == {"profile": str(tmp_path / "mine.yaml"), "model": ""}
    outs = set()
    for model in ("", tiny_lm_folder.name):
        (run,) = run_notebooks(profile, parameters={"model": model})
        text = nbformat.read(run.path, as_version=4).cells[-1].outputs[0].text
        assert text == f"mine {tiny_lm_folder.resolve() if model else ''}\n"
        outs.add(run.path.parent)
    first, second = sorted(outs)
    assert first == tmp_path / "runs" / "mine"
    assert second.name.startswith(f"mine-{tiny_lm_folder.name}")
    with pytest.raises(SaferlrmError, match="did you mean"):
        run_notebooks("gpu", parameters={"model": "Qwen/Qwen3-8"})
    with pytest.raises(SaferlrmError, match="is neither a folder nor"):
        check_parameters(source, "gpu", {"model": "/nowhere"})


def test_the_command_line_takes_a_model(tiny_lm_folder: Path, tmp_path: Path) -> None:
    places = {"SAFERLRM_RESULTS": str(tmp_path / "results"), "SAFERLRM_HOME": str(tmp_path / "store")}
    write_notebook(tmp_path / "nb", "00_first", "print(profile, model)", parameters=PARAMETERS)
    command = ["run", "--profile", "smoke", "--notebooks", tmp_path / "nb", "--out", tmp_path / "out"]
    status, out, err = saferlrm_command(*command, "--model", tiny_lm_folder, **places)
    assert status == 0, err
    assert f"profile smoke-{tiny_lm_folder.name}" in out
    assert f"smoke {tiny_lm_folder}" in (tmp_path / "out" / "00_first.ipynb").read_text()
    for wrong in (["--model", "/nowhere"], ["-p", "model=/nowhere"]):
        assert saferlrm_command(*command, *wrong, **places)[::2] == (
            2,
            "error: model: /nowhere is neither a folder nor a name on the hub; give a folder saved by save_pretrained, "
            "or a name such as Qwen/Qwen3-8B\n",
        )
    for command in (["stage", "organism"], ["control", "presafe"], ["status"], ["report"]):
        status, _, err = saferlrm_command(*command, "--profile", "smoke", "--model", "/nowhere", **places)
        assert (status, err.count("\n")) == (2, 1)
        assert "/nowhere is neither" in err


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem[:2])
def test_every_notebook_hands_the_model_to_its_study_and_keeps_the_name(path: Path) -> None:
    assert notebook_parameters(path)["model"] == ""
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    (made,) = [line for source in cells for line in source.splitlines() if "Study(" in line]
    assert made.startswith("study = Study(profile, data_seed=seed, **model_settings(profile, model)")
    bound = [line for source in cells[1:] for line in source.splitlines() if line.startswith(("model =", "for model"))]
    assert not bound, "a cell that is run twice would study something else"


def test_papermill_alone_runs_a_notebook_on_a_local_model(
    tiny_lm_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_lm_folder.parent)
    monkeypatch.setenv("SAFERLRM_OUT", str(tmp_path / "out"))
    monkeypatch.setenv("SAFERLRM_HOME", str(tmp_path / "store"))
    done = papermill.execute_notebook(
        str(repository() / "notebooks" / "02_safety_lost_in_thought.ipynb"),
        str(tmp_path / "done.ipynb"),
        parameters={"profile": "smoke", "model": tiny_lm_folder.name},
        kernel_name="python3",
        progress_bar=False,
    )
    cells = [cell for cell in done.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells)
    assert not any(output.get("name") == "stderr" for cell in cells for output in cell.outputs)
    study = Study("smoke", Store(tmp_path / "store"), **model_settings("smoke", str(tiny_lm_folder)))
    evidence = (tmp_path / "out" / "results" / "02_attack_success.json").read_text()
    assert study.model_key in evidence
    assert f'"model": "{tiny_lm_folder}"' in evidence
