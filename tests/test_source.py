"""Published sets in the roles of the synthetic suites: complete, disjoint, repeatable, and refused in one line."""

from __future__ import annotations

import itertools
import json
import threading
from collections import Counter
from http.server import ThreadingHTTPServer
from pathlib import Path

import pandas as pd
import pytest
from completions_server import Handler
from shared_data import FOLDER, needs_rows

from saferlrm.errors import SaferlrmError
from saferlrm.generate import Answer
from saferlrm.organism import world
from saferlrm.profile import Profile, load_profile
from saferlrm.store import Store
from saferlrm.study import Study
from saferlrm.study.alignment_set import verdict_or_defect
from saferlrm.suites import overlap, synthetic
from saferlrm.suites.source import PublishedSource, SyntheticSource, published_prompts, source_of

ROLES = ("validation", "steering", "probe", "classifier", "alignment", "decision_only")
SMALL = {
    "harmful": ["jailbreakbench_harmful"],
    "benign": ["jailbreakbench_benign"],
    "scary": ["xstest_safe"],
    "scary_contrast": ["xstest_unsafe"],
    "reasoning": ["gsm8k", "math500"],
    "train_harmful": ["refusal_direction_harmful_train"],
    "train_benign": ["refusal_direction_harmless_val"],
}


def profile(folder: Path, model: Path | str = "organism", **changes: object) -> Profile:
    """The smoke profile on published sets."""
    data = {f"data.{key}": value for key, value in SMALL.items()}
    settings = {"data.source": "published", "data.folder": str(folder), "model": str(model), "device": "cpu"}
    return load_profile("smoke", **(settings | data | changes))


@pytest.fixture(scope="module")
def placeholders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small sets with harmless placeholders: every role works where the real rows are not at hand."""
    folder = tmp_path_factory.mktemp("data")
    things = ["kite", "lamp", "scarf", "flute", "puzzle", "basket", "drum", "quilt", "ladder", "mirror"]
    places = ["attic", "garden", "harbour", "library", "market", "museum", "orchard", "quarry", "stable", "tower"]

    def texts(start: str, n: int) -> list[str]:
        pairs = itertools.islice(itertools.product(range(70), things, places), n)
        # Every word begins with the verb of the set, so that no two sets have a shingle in common.
        words = [(thing, f"{place}{k}", thing + place, str(k)) for k, thing, place in pairs]
        return [" ".join(start + word for word in four) for four in words]

    def write(name: str, **columns: object) -> None:
        pd.DataFrame(columns).to_csv(folder / f"{name}.csv", index=False)

    write("jailbreakbench_harmful", Goal=texts("take", 100), Category="theft")
    write("jailbreakbench_benign", Goal=texts("paint", 100), Category="art")
    labels = ["safe"] * 250 + ["unsafe"] * 200
    write("xstest", id=range(450), prompt=texts("lift", 450), type=["a"] * 225 + ["b"] * 225, label=labels)
    write("gsm8k", question=texts("count", 1319), answer=[f"so #### {i}" for i in range(1319)])
    write("math500", problem=texts("sum", 500), answer="1", level=[i % 5 + 1 for i in range(500)], unique_id=range(500))
    write("refusal_direction_harmful_train", instruction=[*texts("break", 258), *texts("take", 2)])
    write("refusal_direction_harmless_val", instruction=texts("carry", 6264))
    return folder


@pytest.fixture(scope="module", params=["placeholders", "real"])
def published(request: pytest.FixtureRequest, placeholders: Path) -> PublishedSource:
    if request.param == "real" and not FOLDER.is_dir():
        pytest.skip(f"no benchmark rows in {FOLDER}; set SAFERLRM_TEST_DATA")
    return source_of(profile(FOLDER if request.param == "real" else placeholders, suite_size=150))


def test_every_role_of_the_synthetic_suites_is_filled_with_the_right_kind(published):
    suites = published.suites()
    assert tuple(suites) == synthetic.SUITE_NAMES
    for name, prompts in suites.items():
        assert {p.suite for p in prompts} == {name}
        assert {p.harmful for p in prompts} == {name in synthetic.HARMFUL_SUITES}
        assert {p.topic for p in prompts} == {None}
        assert all((p.answer is not None) == (name == synthetic.REASONING) for p in prompts)
    assert {name: len(prompts) for name, prompts in suites.items() if len(prompts) < 100} == {
        name: len(suites[name]) for name in ("harmful_seen", "harmful_rephrased")
    }
    assert len(suites["harmful_unseen"]) == len(suites["benign"]) == 100  # all there are
    assert len(suites["safe_but_scary"]) == len(suites["reasoning"]) == 150  # suite_size is the most
    ids = [p.id for prompts in suites.values() for p in prompts]
    assert len(set(ids)) == len(ids)


def test_reasoning_mixes_its_sets_evenly_and_takes_depth_from_the_level(published):
    problems = published.suites()["reasoning"]
    sets = Counter(p.id.split("-")[1] for p in problems)
    assert sets == {"gsm8k": 75, "math500": 75}
    assert {p.depth for p in problems if "gsm8k" in p.id} == {None}
    assert {p.depth for p in problems if "math500" in p.id} == {1, 2, 3, 4, 5}
    json.dumps([p.depth for p in problems])


def test_wrapped_suites_hold_the_same_requests_in_the_families_they_say(published):
    suites = published.suites()
    for kind, plain in (("harmful", "harmful_unseen"), ("benign", "benign")):
        for suite, split in ((f"{kind}_wrapped", "seen"), (f"{kind}_novel_wrapped", "unseen")):
            assert {p.family for p in suites[suite]} == set(world.WRAPPERS[split])
            wrapped_ids = [p.id.removeprefix(suite) for p in suites[suite]]
            assert wrapped_ids == [p.id.removeprefix(plain) for p in suites[plain]]
            for wrapped, request in zip(suites[suite], suites[plain], strict=True):
                if wrapped.family == "obfuscation":
                    assert wrapped.text != request.text
                    letters = [c for c in wrapped.text.lower() if c.isalnum()]
                    assert letters == [c for c in request.text.lower() if c.isalnum()]
                else:
                    assert request.text in wrapped.text


def test_no_direct_prompt_stands_in_two_suites(published):
    direct = [name for name in synthetic.SUITE_NAMES if "wrapped" not in name]
    words = Counter(overlap.normalise(p.text) for name in direct for p in published.suites()[name])
    assert max(words.values()) == 1


def test_roles_draw_disjoint_prompts_and_none_is_near_a_prompt_of_a_suite(published):
    drawn = {role: published.training_prompts(*(min(n, 40) for n in published.available(role)), role) for role in ROLES}
    sets = {role: {p.id.removeprefix(p.suite) for p in prompts} for role, prompts in drawn.items()}
    for one, two in itertools.combinations(ROLES, 2):
        assert not sets[one] & sets[two], (one, two)
    for role, prompts in drawn.items():
        assert [p.harmful for p in prompts] == sorted((p.harmful for p in prompts), reverse=True)
        assert {p.suite for p in prompts} == {f"{role}_harmful", f"{role}_benign"}
        assert not {p.family for p in prompts} & set(world.WRAPPERS["unseen"])
    wrapped = [p for prompts in drawn.values() for p in prompts if p.family in world.WRAPPERS["seen"]]
    assert 0.15 < len(wrapped) / sum(map(len, drawn.values())) < 0.35
    pool = [p for pool in published.prompts.pools.values() for p in pool]
    assert overlap.find_overlap(pool, published.prompts.suites).empty


def test_a_role_has_the_same_prompts_whatever_the_suites_size_and_the_number_of_decision_prompts(published):
    few = published.training_prompts(10, 10, "alignment")
    folder = published.data.folder
    more = source_of(profile(folder, **{"suite_size": 12, "alignment.n_decision": 4}))
    assert more.training_prompts(20, 12, "alignment")[:10] == few[:10]
    assert more.key() == published.key()
    assert more.suites()["reasoning"] == published.suites()["reasoning"][:12]
    other = source_of(profile(folder, data_seed=1))
    assert other.training_prompts(10, 10, "alignment") != few
    assert other.key() != published.key()


def test_a_copy_under_other_names_and_in_another_format_is_the_same_data(placeholders, tmp_path):
    for path in placeholders.glob("*.csv"):
        rows = pd.read_csv(path, keep_default_na=False)
        rows.to_json(tmp_path / f"copy_of_{path.stem}.jsonl", orient="records", lines=True)
    stems = {"xstest_safe": "xstest", "xstest_unsafe": "xstest"}
    names = [name for part in SMALL.values() for name in part]
    files = {name: f"copy_of_{stems.get(name, name)}.jsonl" for name in names}
    assert source_of(profile(tmp_path, **{"data.files": files})).key() == source_of(profile(placeholders)).key()


def test_the_overlap_report_says_what_was_left_out(published):
    table = published.overlap_report()
    assert list(dict.fromkeys(table["suite"])) == list(synthetic.SUITE_NAMES)
    assert table["left_out"].all()
    found = table[table["suite"] == "harmful_unseen"].set_index("kind")["pairs"]
    assert found.sum() >= 2
    assert set(table["n_training"]) == {260 + 6264}
    left = {harmful: len(pool) for harmful, pool in published.prompts.pools.items()}
    pairs = published.overlap_pairs()
    held = sum(len(published.prompts.suites[name]) for name in ("harmful_seen", "harmful_rephrased"))
    assert 260 + 6264 - held - pairs["training_id"].nunique() == sum(left.values())
    assert published.left_out(True) + published.left_out(False) == pairs["training_id"].nunique()


def test_of_two_harmful_sets_the_last_is_the_rephrased_one(placeholders):
    two = ["jailbreakbench_harmful", "xstest_unsafe"]
    both = {"data.harmful": two, "data.scary_contrast": two[:1]}
    suites = published_prompts(profile(placeholders, **both).data.model_dump_json(), 0).suites
    assert {p.id.split("-")[1] for p in suites["harmful_unseen"]} == {"jailbreakbench_harmful"}
    assert {p.id.split("-")[1] for p in suites["harmful_rephrased"]} == {"xstest_unsafe"}
    assert suites["scary_contrast"] == []  # no prompt stands in two suites


def test_too_few_prompts_wrong_kinds_and_unknown_roles_are_one_line(placeholders):
    source = source_of(profile(placeholders))
    most = source.available("alignment")[0]
    with pytest.raises(SaferlrmError) as caught:
        source.training_prompts(most + 1, 1, "alignment")
    assert str(caught.value) == (
        f"the role alignment needs {most + 1} harmful prompts but refusal_direction_harmful_train leave {most} for it; "
        "lower alignment.n_harmful or name more sets in data.train_harmful"
    )
    with pytest.raises(SaferlrmError, match=r"lower classifier\.n_prompts"):
        source.training_prompts(1, 500, "classifier")
    with pytest.raises(SaferlrmError, match="unknown role 'test'"):
        source.training_prompts(1, 1, "test")
    for setting, names, said in (
        ("harmful", ["jailbreakbench_benign"], "which holds harmless requests, not harmful requests"),
        ("benign", ["gsm8k"], "which holds problems with gold answers, not harmless"),
        ("reasoning", ["xstest_safe"], "not problems with gold answers"),
        ("train_benign", ["no_such_set"], "unknown data set 'no_such_set'"),
        ("scary", [], "data.scary names no data set"),
    ):
        with pytest.raises(SaferlrmError, match=said):
            source_of(profile(placeholders, **{f"data.{setting}": names})).suites()


def test_the_synthetic_source_is_the_synthetic_suites():
    settings = load_profile("smoke")
    source = source_of(settings)
    assert isinstance(source, SyntheticSource)
    assert source.suites() == {name: synthetic.build_suite(name, 12, 0) for name in synthetic.SUITE_NAMES}
    assert source.training_prompts(5, 6, "probe") == synthetic.training_prompts(5, 6, 0, "probe")
    assert source.key() == {"data_seed": 0}
    table = source.overlap_report()
    assert not table["left_out"].any()
    same = table[table["kind"] != "near"].groupby("suite")["pairs"].sum()
    assert same.drop(["reasoning", "harmful_seen"]).eq(0).all()


def test_a_reply_is_dropped_for_what_is_wrong_with_it_before_the_judge_is_believed():
    def reply(closed: bool, truncated: bool) -> Answer:
        return Answer("p", "on", "t", "a", closed, 1, 2, truncated)

    assert verdict_or_defect("refusal", reply(True, False)) == "refusal"
    assert verdict_or_defect("unjudged", reply(True, False)) == "unjudged"
    assert verdict_or_defect("refusal", reply(True, True)) == "truncated"
    assert verdict_or_defect("babble", reply(False, False)) == "unclosed"
    assert verdict_or_defect("babble", reply(False, True)) == "truncated"


@needs_rows
def test_a_study_of_a_local_model_asks_real_benchmarks(tiny_lm_folder, tmp_path):
    study = Study(profile(FOLDER, tiny_lm_folder, **{"decoding.max_new_tokens": 40}), Store(tmp_path))
    assert {len(prompts) for prompts in study.suites().values()} == {12}
    first = study.training_prompts(3, 2, "classifier")[0]
    assert first.id.startswith("classifier_harmful-refusal_direction_harmful_train-")
    assert len(study.probe_prompts()) == 48
    assert study.overlap_report()["pairs"].sum() > 0
    train, validation = study.rival_prompts()
    assert not {p.text for p in train} & {p.text for p in validation}
    assert len(validation) == 16
    assert "data" in study.declared()
    decided = study.decisions()
    assert list(decided["text"]) == [p.text for p in study.training_prompts(30, 30, "classifier")]
    assert study.decisions().equals(decided)


def test_an_alignment_set_that_falls_short_says_why_each_answer_was_dropped(placeholders, tiny_lm_folder, tmp_path):
    changes = {"alignment.n_harmful": 2, "alignment.n_benign": 0, "decoding.max_new_tokens": 40}
    study = Study(profile(placeholders, tiny_lm_folder, **changes), Store(tmp_path))
    with pytest.raises(SaferlrmError) as caught:
        study.alignment_set()
    said = str(caught.value)
    assert said.startswith("only 0 of ")
    assert "harmful prompts got a usable answer but alignment.n_harmful is 2; lower it (dropped: " in said
    assert "truncated" in said
    assert "2 overlapping" in said


def test_a_server_samples_an_alignment_set_of_published_prompts(placeholders, tiny_lm_folder, tmp_path):
    """Prompts that the server's context does not hold are left out; nothing asks for the weights."""

    class Server(Handler):
        log, plan = tmp_path / "log.jsonl", []

    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    changes = {"server.url": f"http://127.0.0.1:{server.server_port}/v1", "server.model": "served"}
    changes |= {"alignment.n_harmful": 0, "alignment.n_benign": 3, "alignment.benign_thoughts": "off"}
    try:
        study = Study(profile(placeholders, tiny_lm_folder, **changes), Store(tmp_path / "store"))
        examples, counts = study.alignment_set()
        again = study.load()
        assert (len(examples), again.limit) == (3, 300)
    finally:
        server.shutdown()
        server.server_close()
    assert {example.source for example in examples} == {"benign"}
    assert dict(zip(counts["verdict"], counts["kept"], strict=True)) == {"compliance": True}
    asked = len(Server.log.read_text().splitlines())
    assert asked == counts["n"].sum()


def test_a_killed_scorecard_goes_on_with_the_suite_at_which_it_stopped(
    placeholders, tiny_lm_folder, tmp_path, monkeypatch, capsys
):
    changes = {"decoding.max_new_tokens": 8, "modes": ["off", "on", "short"]}
    study = Study(profile(placeholders, tiny_lm_folder, suite_size=4, **changes), Store(tmp_path))
    first, second, *others = study.suites()
    asked, answered = [], study._asked

    def killed(lm, suites, modes):
        (suite,), (mode,) = suites, modes
        if (mode, suite) == ("on", second) and "killed" not in asked:
            asked.append("killed")
            raise KeyboardInterrupt
        asked.append((mode, suite))
        return answered(lm, suites, modes)

    monkeypatch.setattr(study, "_asked", killed)
    with pytest.raises(KeyboardInterrupt):
        study.scorecard()
    table = study.scorecard()
    every = [(mode, suite) for mode in changes["modes"] for suite in study.suites()]
    assert [one for one in asked if one != "killed"] == every  # each once
    assert asked[: asked.index("killed")] == [*every[: 1 + len(others) + 1], ("on", first)]
    assert list(dict.fromkeys(table["mode"])) == changes["modes"]
    cut = table.groupby("mode")["truncated"].agg(["size", "sum"]).loc["off"]
    assert cut["sum"] > 0
    said = f"thinking off: of {cut['size']} answers {cut['sum']} hit decoding.max_new_tokens\n"
    assert said in capsys.readouterr().err
    through = Study(study.profile, Store(tmp_path / "through")).scorecard()
    pd.testing.assert_frame_equal(table, through)


@needs_rows
def test_an_alignment_set_goes_on_with_the_declared_share_and_says_so(tmp_path, capsys):
    changes = {"alignment.n_harmful": 60, "alignment.n_benign": 0, "probe.n_train": 8, "classifier.n_prompts": 20}
    study = Study(profile(FOLDER, **changes, **{"data.least_share": 0.1}), Store(tmp_path))
    examples, counts = study.alignment_set()
    found = counts.set_index("verdict")
    most = study.source.available("alignment")[0]
    assert 6 <= len(examples) == found.loc["refusal", "n"] < 60
    assert found["n"].drop("overlapping").sum() == most  # every prompt was asked, in two rounds
    assert found.loc["overlapping", "n"] == study.source.left_out(True)
    assert found.index[found["kept"]].tolist() == ["refusal"]
    assert f"only {len(examples)} of {most} harmful prompts got a usable answer; the study goes on" in (
        " ".join(capsys.readouterr().err.split())
    )
