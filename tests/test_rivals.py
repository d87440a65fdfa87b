"""Decoding-time rivals: each does what it says, is chosen on prompts of its own, and can be paired with the rest."""

from __future__ import annotations

import numpy as np
import pytest

from saferlrm import attacks, rivals
from saferlrm.conditions import CARD_SUITES
from saferlrm.errors import SaferlrmError
from saferlrm.evaluate import scorecard
from saferlrm.generate import Decoding
from saferlrm.lm import LanguageModel, load_lm
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


def test_steering_is_tried_below_the_last_layer_from_the_gentlest_on(lm, train):
    tried = rivals.candidates(lm, "steering", train)
    assert {setting.layer for setting in tried} == {1}
    assert {setting.mode for setting in tried} == {"off", "on"}
    assert [setting.scale for setting in tried] == sorted(setting.scale for setting in tried)
    assert all(np.linalg.norm(setting.direction.unit) == pytest.approx(1) for setting in tried)


def test_what_a_rival_needs_is_said(lm, suites, train):
    with pytest.raises(SaferlrmError, match="did you mean 'steering'"):
        rivals.get_rival("stering")
    with pytest.raises(SaferlrmError, match=r"call rivals\.choose first"):
        rivals.run_rival(lm, "steering", suites, DECODING)
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


def test_the_suites_of_the_light_card_exist():
    assert set(CARD_SUITES) <= set(synthetic.SUITE_NAMES)
