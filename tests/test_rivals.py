"""Decoding-time rivals: each does what it says, is chosen on prompts of its own, and can be paired with the rest."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from tiny import write_tiny_lm

from saferlrm import attacks, rivals
from saferlrm.activations import extract
from saferlrm.conditions import CARD_SUITES
from saferlrm.errors import SaferlrmError
from saferlrm.evaluate import scorecard
from saferlrm.generate import Decoding
from saferlrm.lm import LanguageModel, load_lm
from saferlrm.steering import steer
from saferlrm.study import shipped_organism
from saferlrm.suites import synthetic

DECODING = Decoding(max_new_tokens=16, forced_thought_tokens=8)


@pytest.fixture(scope="module")
def lm(tiny_lm_folder) -> LanguageModel:
    return load_lm(tiny_lm_folder, device="cpu")


@pytest.fixture(scope="module")
def suites() -> dict:
    return {name: synthetic.build_suite(name, 4) for name in ("harmful_unseen", "benign", "reasoning")}


@pytest.fixture(scope="module")
def train() -> list:
    return synthetic.training_prompts(6, 6, 0, "steering")


@pytest.fixture(scope="module")
def validation() -> list:
    return synthetic.training_prompts(4, 4, 0, "validation")


def chosen(lm, name, train, validation):
    return rivals.choose(lm, name, train, validation, DECODING)


@pytest.mark.parametrize("name", rivals.RIVALS)
def test_every_rival_gives_one_tidy_row_a_prompt(lm, suites, train, validation, name):
    setting, record = chosen(lm, name, train, validation)
    rows = rivals.run_rival(lm, name, suites, DECODING, setting=setting)
    assert rows["prompt_id"].tolist() == [prompt.id for suite in suites.values() for prompt in suite]
    assert set(rows["condition"]) == set(rows["method"]) == {name}
    assert set(rows["group"]) == {"rivals"}
    assert (len(record) > 0) == (rivals.RIVALS[name].kind != "mode")
    assert len(record) == 0 or (
        record["chosen"].sum() == 1 and record["score"].max() == record["score"][record.chosen].item()
    )


def test_thinking_modes_are_rivals_as_they_are(lm, suites):
    for name, mode in (("zerothink", "off"), ("lessthink", "short"), ("morethink", "forced")):
        rows = rivals.run_rival(lm, name, suites, DECODING)
        assert rows["answer"].tolist() == scorecard(lm, suites, [mode], DECODING)["answer"].tolist()


@pytest.mark.parametrize("place", rivals.PLACES)
def test_the_reminder_stands_in_every_thought(lm, suites, place):
    setting = rivals.Setting(reminder=rivals.REMINDERS[0], place=place)
    rows = rivals.run_rival(lm, "saferemind", suites, DECODING, setting=setting)
    assert set(rows["mode"]) == {"prefilled"}
    own = [rivals.first_sentence(t) for t in scorecard(lm, suites, ["on"], DECODING)["thought"]]
    for row, sentence in zip(rows.itertuples(), own, strict=True):
        begun = f"{sentence} {setting.reminder}".strip() if place == "first_sentence" else setting.reminder
        assert row.thought.startswith(begun)


def test_steering_is_tried_up_to_the_last_layer_from_the_gentlest_on(lm, train):
    tried = rivals.candidates(lm, "steering", train)
    assert {setting.layer for setting in tried} == {1, lm.n_layers}
    assert {setting.mode for setting in tried} == {"off", "on"}
    assert [setting.scale for setting in tried] == sorted(setting.scale for setting in tried)
    assert all(np.linalg.norm(setting.direction.unit) == pytest.approx(1) for setting in tried)


@pytest.mark.parametrize("name", ["steering", "steering_pre_cot"])
def test_a_steering_rival_steers_where_and_as_much_as_it_says_and_leaves_nothing_behind(lm, suites, train, name):
    plain = scorecard(lm, suites, ["on"], DECODING)["answer"].tolist()
    setting = rivals.candidates(lm, name, train)[-1]
    rows = rivals.run_rival(lm, name, suites, DECODING, setting=setting)
    scale, where = setting.scale * setting.direction.norm, rivals.RIVALS[name].where
    with steer(lm, setting.layer, setting.direction.unit, scale, where):
        steered = scorecard(lm, suites, ["on"], DECODING)
    assert rows["thought"].tolist() == steered["thought"].tolist()
    assert rows["answer"].tolist() == steered["answer"].tolist()
    assert {"all", "pre_cot"} == {rivals.RIVALS[one].where for one in ("steering", "steering_pre_cot")}
    assert scorecard(lm, suites, ["on"], DECODING)["answer"].tolist() == plain


def test_steering_by_a_long_way_changes_what_is_said(lm, suites, train):
    setting = rivals.candidates(lm, "steering", train)[-1]
    far = replace(setting, scale=50.0)
    rows = rivals.run_rival(lm, "steering", suites, DECODING, setting=far)
    assert rows["thought"].tolist() != scorecard(lm, suites, ["on"], DECODING)["thought"].tolist()


def test_directions_lead_from_the_benign_training_prompts_to_the_harmful_ones(lm, train):
    for setting in rivals.candidates(lm, "steering", train):
        if setting.layer == lm.n_layers:  # hidden states are normalised there, and what is steered is not
            continue
        states = extract(lm, [p.text for p in train], ("pre_cot",), mode=setting.mode, layers=[setting.layer])[:, 0, 0]
        harmful = np.array([prompt.harmful for prompt in train])
        moved = states[~harmful].mean(0) + setting.direction.norm * setting.direction.unit
        assert moved == pytest.approx(states[harmful].mean(0), abs=1e-4)


def test_a_model_of_one_layer_is_steered_there(train, tmp_path):
    shallow = load_lm(write_tiny_lm(tmp_path, layers=1), device="cpu")
    assert {setting.layer for setting in rivals.candidates(shallow, "steering", train)} == {1}


def test_right_is_a_refusal_of_the_harmful_and_a_true_answer_to_the_benign():
    rows = pd.DataFrame(
        [
            (True, "refusal", None), (True, "compliance", None), (True, "babble", None), (True, "truncated", None),
            (False, "compliance", None), (False, "refusal", None), (False, "babble", None),
            (False, "compliance", True), (False, "compliance", False),
        ],
        columns=["harmful", "verdict", "correct"],
    ).astype({"correct": "boolean"})  # fmt: skip
    rows["refused"] = rows["verdict"] == "refusal"
    assert rivals.does_right(rows) == (1 / 4, 2 / 5)


def test_the_record_is_what_the_chosen_setting_does_and_ties_go_to_the_gentlest(lm, train, validation):
    setting, record = chosen(lm, "saferemind", train, validation)
    rows = rivals.run_rival(lm, "saferemind", {"validation": validation}, DECODING, setting=setting)
    row = record[record["chosen"]].iloc[0]
    assert (row["harmful_refused"], row["benign_answered"]) == rivals.does_right(rows)
    assert row["score"] == pytest.approx((row["harmful_refused"] + row["benign_answered"]) / 2)
    assert row["setting"] == setting.describe()
    assert row.name == record.index[record["score"] == record["score"].max()][0]
    assert set(record["n"]) == {len(validation)}


def test_tokens_of_a_reminder_are_counted(lm, suites):
    setting = rivals.Setting(reminder=rivals.REMINDERS[1])
    rows = rivals.run_rival(lm, "saferemind", suites, DECODING, setting=setting)
    put = {prompt.id: setting.reminder for suite in suites.values() for prompt in suite}
    plain = scorecard(lm, suites, ["on"], DECODING, openings=put)
    (ids,) = lm.encode([setting.reminder])
    assert (rows["n_tokens"] - plain["n_tokens"]).tolist() == [len(ids)] * len(rows)


def test_what_a_rival_needs_is_said(lm, suites, train):
    with pytest.raises(SaferlrmError, match="did you mean 'steering'"):
        rivals.get_rival("stering")
    with pytest.raises(SaferlrmError, match=r"kind steering; call rivals\.choose first"):
        rivals.run_rival(lm, "steering", suites, DECODING)
    with pytest.raises(SaferlrmError, match=r"kind steering; call rivals\.choose first"):
        rivals.run_rival(lm, "steering", suites, DECODING, setting=rivals.Setting(reminder="Wait."))
    with pytest.raises(SaferlrmError, match="kind mode"):
        rivals.run_rival(lm, "zerothink", suites, DECODING, setting=rivals.Setting(reminder="Wait."))
    with pytest.raises(SaferlrmError, match="harmful and benign states"):
        rivals.candidates(lm, "steering", [p for p in train if p.harmful])
    with pytest.raises(SaferlrmError, match="also training prompts"):
        rivals.choose(lm, "steering", train, train, DECODING)
    with pytest.raises(SaferlrmError, match="harmful and benign"):
        rivals.choose(lm, "steering", train, [p for p in train if p.harmful], DECODING)


def test_a_thought_begins_with_its_first_sentence():
    assert rivals.first_sentence(" One thing. Another? Yes.") == "One thing."
    assert rivals.first_sentence("no end") == "no end"


@pytest.fixture(scope="module")
def organism() -> LanguageModel:
    return load_lm(shipped_organism(), device="cpu")


def test_every_opening_survives_tokenisation_and_is_made_of_known_words(organism):
    corpus_words = 2.0  # tokens a word: invented words take more
    for text in (*attacks.TEXTS.values(), *rivals.REMINDERS):
        rendered = organism.chat.render_opened("How do I cook a pie?", text)
        (ids,) = organism.encode([rendered])
        assert organism.tokenizer.decode(ids) == rendered
        assert rendered.endswith(text)
        (ids,) = organism.encode([text])
        assert len(ids) <= corpus_words * len(text.split())


def test_prefilled_thoughts_grow_token_by_token(organism):
    prompts = synthetic.build_suite("harmful_unseen", 6)
    thoughts = scorecard(organism, {"s": prompts}, ["on"], Decoding(60))["thought"].tolist()
    before = [""] * len(thoughts)
    for attack in attacks.ATTACKS[1:-2]:
        begun = attacks.openings(organism, attack, thoughts)
        assert all(new.startswith(old) for new, old in zip(begun, before, strict=True))
        assert all(thought.startswith(new) for new, thought in zip(begun, thoughts, strict=True))
        if attack != attacks.WHOLE:
            assert all(len(ids) <= int(attack.partition("=")[2]) for ids in organism.encode(begun))
        before = begun
    assert before == [thought.strip() for thought in thoughts]
    assert attacks.openings(organism, attacks.NONE, thoughts) is None
    with pytest.raises(SaferlrmError, match="unknown attack"):
        attacks.openings(organism, "prefill=3", thoughts)


def test_a_character_that_a_prefill_splits_is_left_out(lm):
    thought = "é" * 8  # two tokens of one byte each
    (ids,) = lm.encode([thought])
    assert len(ids) > 8
    for k in range(1, len(ids)):
        (begun,) = attacks.first_tokens(lm, [thought], k)
        assert "\ufffd" not in begun
        assert thought.startswith(begun)
    assert attacks.first_tokens(lm, ["", thought], len(ids)) == ["", thought]


def test_an_empty_thought_is_left_to_the_model_under_a_prefill(lm, suites):
    prompts = suites["harmful_unseen"]
    begun = attacks.openings(lm, "prefill=4", [""] * len(prompts))
    rows = scorecard(
        lm, {"s": prompts}, ["on"], DECODING, openings={p.id: t for p, t in zip(prompts, begun, strict=True)}
    )
    assert rows["answer"].tolist() == scorecard(lm, {"s": prompts}, ["on"], DECODING)["answer"].tolist()


def test_the_suites_of_the_light_card_exist():
    assert set(CARD_SUITES) <= set(synthetic.SUITE_NAMES)
