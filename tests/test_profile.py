"""Profiles: every setting declared, typed and bounded; a mistake is one line that says what to do."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from saferlrm.errors import SaferlrmError
from saferlrm.profile import AlignmentSettings, Profile, as_yaml, load_profile, profile_names
from saferlrm.profile_text import profile_text


@pytest.mark.parametrize("name", ["smoke", "organism", "quick", "gpu"])
def test_shipped_profiles_load_and_spell_out_every_setting(name: str) -> None:
    assert name in profile_names()
    written = yaml.safe_load((resources.files("saferlrm") / "profiles" / f"{name}.yaml").read_text())

    def check(model: type[BaseModel], values: dict) -> None:
        assert set(values) == set(model.model_fields), model.__name__
        for key, field in model.model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                check(field.annotation, values[key])

    check(Profile, written)
    assert load_profile(name).name == name


def test_the_study_is_large_enough_for_its_claims() -> None:
    profile = load_profile("organism")
    assert profile.suite_size >= 300
    assert len(profile.seeds) >= 3
    assert profile.classifier.n_prompts == 1500
    assert set(profile.modes) == {"off", "short", "on", "forced"}


def test_overrides_are_dotted_and_leave_the_rest_alone() -> None:
    profile = load_profile("smoke", **{"alignment.lambda_aux": 0.7, "seeds": (3, 4), "model": Path("/x/y")})
    assert profile.alignment.lambda_aux == 0.7
    assert profile.seeds == (3, 4)
    assert profile.model == "/x/y"
    assert profile.alignment.rank == load_profile("smoke").alignment.rank


def test_settings_cannot_be_changed_after_loading() -> None:
    with pytest.raises(ValidationError):
        load_profile("smoke").suite_size = 5


def test_yaml_returns_the_same_profile(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(as_yaml(load_profile("smoke", **{"alignment.rank": 2})))
    assert load_profile(path) == load_profile("smoke", **{"alignment.rank": 2})


def test_settings_classes_work_on_their_own() -> None:
    assert AlignmentSettings(lambda_aux=0.0).lambda_aux == 0
    with pytest.raises(ValidationError):
        AlignmentSettings(lambda_aux=-0.1)


BAD = [
    ({"alignment.lamda_aux": 1}, r"unknown setting 'alignment.lamda_aux' \(did you mean 'lambda_aux'\?\)"),
    ({"suite_sze": 10}, r"unknown setting 'suite_sze' \(did you mean 'suite_size'\?\)"),
    ({"nothing.at.all": 1}, "unknown setting 'nothing'"),
    ({"suite_size.x": 1}, "'suite_size' has no settings of its own"),
    ({"alignment.lambda_aux": -1}, r"alignment.lambda_aux = -1 is not allowed: .* >= 0 and <= 100"),
    ({"alignment.lambda_aux": float("nan")}, "alignment.lambda_aux = nan is not allowed"),
    ({"alignment.rank": 0}, "alignment.rank = 0 is not allowed: .* >= 1"),
    ({"alignment.rank": 1.5}, "alignment.rank = 1.5 is not allowed: it must be a whole number"),
    ({"alignment.rank": "8"}, "alignment.rank = '8' is not allowed: it must be a whole number"),
    ({"alignment.head_token": "first"}, "alignment.head_token = 'first' .* 'pre_cot'"),
    ({"alignment.detach_head": 1}, "alignment.detach_head = 1 is not allowed"),
    ({"alignment.n_harmful": 0, "alignment.n_benign": 0}, "n_harmful . n_benign must be at least 1"),
    ({"decoding.temperature": 2.5}, "decoding.temperature = 2.5 is not allowed: .* >= 0 and <= 2"),
    ({"decoding.top_p": 0}, "decoding.top_p = 0 is not allowed: .* > 0 and <= 1"),
    ({"decoding.forced_thought_tokens": 0}, "mode 'forced' needs"),
    ({"modes": ["of"]}, "modes = 'of' is not allowed: should be 'off'"),
    ({"modes": []}, "modes needs at least one value"),
    ({"seeds": [0, 0]}, "must not repeat"),
    ({"seeds": [-1]}, "seeds = -1 is not allowed"),
    ({"seeds": 3}, "seeds = 3 is not allowed"),
    ({"probe.layers": "last"}, "should be 'all' or a list of layer numbers"),
    ({"growth.vocab_size": 10}, "growth.vocab_size = 10 is not allowed"),
    ({"device": "tpu"}, "device = 'tpu' is not allowed"),
    ({"model": ""}, "model = '' is not allowed"),
    ({"model": object()}, "a value of type object cannot be a setting"),
    ({"alignment": 3}, "alignment = 3 is not allowed"),
]


@pytest.mark.parametrize(("overrides", "message"), BAD, ids=[next(iter(case[0])) for case in BAD])
def test_a_bad_setting_is_one_line_with_key_value_and_range(overrides: dict, message: str) -> None:
    with pytest.raises(SaferlrmError, match=message) as caught:
        load_profile("smoke", **overrides)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "organsim",
            r"unknown profile 'organsim' \(did you mean 'organism'\?\); choose gpu, organism, quick, smoke",
        ),
        ("", "unknown profile ''"),
        ("../smoke", "unknown profile"),
        ("missing.yaml", "profile file 'missing.yaml' does not exist"),
    ],
)
def test_an_unknown_profile_is_refused_with_the_choices(name: str, message: str) -> None:
    with pytest.raises(SaferlrmError, match=message):
        load_profile(name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "not valid YAML"),
        ("- 1", "must be a mapping"),
        ("model: organism", "setting 'name' is missing"),
    ],
)
def test_a_profile_file_with_mistakes_is_explained(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(SaferlrmError, match=message) as caught:
        load_profile(path)
    assert "\n" not in str(caught.value)


def test_a_short_file_for_a_real_model_does_not_get_the_organism_s_settings(tmp_path: Path) -> None:
    path = tmp_path / "r1.yaml"
    path.write_text("name: r1\nmodel: deepseek-ai/DeepSeek-R1-Distill-Qwen-7B\nsuite_size: 50\n")
    with pytest.raises(SaferlrmError, match=r"dtype, .*data.* missing.*saferlrm profile gpu > r1.yaml") as caught:
        load_profile(path)
    assert "\n" not in str(caught.value)
    real = yaml.safe_load(as_yaml(load_profile("gpu", model="org/real")))
    real["decoding"] = {"temperature": 0.6, "top_p": 0.95}
    path.write_text(yaml.safe_dump(real))
    with pytest.raises(SaferlrmError, match=r"decoding.max_new_tokens"):
        load_profile(path)
    # What is the same for both, and what only an organism is grown with, may be left out.
    real = yaml.safe_load(as_yaml(load_profile("gpu", model="org/real")))
    del real["growth"], real["server"], real["seeds"]
    path.write_text(yaml.safe_dump(real))
    assert load_profile(path).model == "org/real"
    path.write_text("name: mine\nsuite_size: 50\n")
    assert load_profile(path).model == "organism"
    with pytest.raises(SaferlrmError, match="missing"):
        load_profile(path, model="org/real")
    weights = tmp_path / "weights"
    weights.mkdir()
    assert load_profile(path, model=str(weights)).suite_size == 50
    with (weights / "model.safetensors").open("wb") as file:
        file.truncate(1_000_000_000)
    with pytest.raises(SaferlrmError, match="missing"):
        load_profile(path, model=str(weights))


def test_a_relative_path_is_also_looked_for_in_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saferlrm.profile.repository", lambda: tmp_path)
    (tmp_path / "mine.yaml").write_text(as_yaml(load_profile("smoke", name="mine")))
    assert load_profile("mine.yaml").name == "mine"


def test_bad_yaml_is_placed_in_its_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nseeds: [0\nmodel: x\n")
    with pytest.raises(SaferlrmError, match=r"mine.yaml' is not valid YAML: .* line \d") as caught:
        load_profile(path)
    assert "unicode string" not in str(caught.value)


def test_a_shipped_profile_is_printed_with_its_comments() -> None:
    text = profile_text("gpu", **{"name": "mine", "alignment.micro_batch": 3, "modes": ["off", "on"]})
    assert text.startswith("# The same study on a real reasoning model")
    assert "micro_batch: 3           # of these so many at once" in text or "micro_batch: 3" in text
    changed = load_profile("gpu", **{"name": "mine", "alignment.micro_batch": 3, "modes": ["off", "on"]})
    assert Profile.model_validate_json(json.dumps(yaml.safe_load(text))) == changed
    assert text.count("#") == profile_text("gpu").count("#") > 10
    assert "#" not in profile_text("gpu", data=load_profile("organism").data)  # a section has no line of its own


def test_quick_is_the_organism_study_with_less_of_everything_that_it_marks() -> None:
    quick, full = load_profile("quick").model_dump(), load_profile("organism", name="quick").model_dump()
    marked = {
        "evidence": {"seeds", "sweep_seeds", "suite_size", "organisms", "temperatures", "samples", "quick"},
        "alignment": {"n_harmful", "n_benign"},
        "classifier": {"n_prompts"},
    }
    assert {name for name in full if quick[name] != full[name]} == {*marked, "seeds", "suite_size"}
    for section, names in marked.items():
        assert {name for name in full[section] if quick[section][name] != full[section][name]} == names
    text = (resources.files("saferlrm") / "profiles" / "quick.yaml").read_text()
    assert text.count("# *") == sum(map(len, marked.values())) + 2
    for name in ("seeds", "sweep_seeds", "organisms", "temperatures"):
        assert set(quick["evidence"][name]) < set(full["evidence"][name])
