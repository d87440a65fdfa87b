"""The reader's own puzzle: probabilities that are the model's, and nothing harmful on the screen."""

from __future__ import annotations

import builtins

import pytest
import torch

from saferlrm import puzzle
from saferlrm.errors import SaferlrmError
from saferlrm.generate import Answer, Decoding
from saferlrm.lm import load_lm
from saferlrm.organism import world

DECODING = Decoding(max_new_tokens=24)
PROBLEM = "Mia has 5 coins. (a) Mia finds 3. How many coins are left?"


@pytest.fixture(scope="module")
def lm(tiny_lm_folder):
    return load_lm(tiny_lm_folder)


def reply(mode: str, thought: str, said: str) -> Answer:
    return Answer(PROBLEM, mode, thought, said, True, 0, 0, False)


@pytest.mark.parametrize(("mode", "thought"), [("off", ""), ("on", "One step. Another.")])
def test_probabilities_are_those_of_the_answer_in_its_place(lm, mode, thought):
    said = "The answer is 8."
    table = puzzle.first_tokens(lm, reply(mode, thought, said), 4)
    text = lm.chat.render(PROBLEM, mode)
    text += lm.chat.target(thought, said) if mode == "on" else said
    (ids,) = lm.encode([text])
    with torch.inference_mode():
        p = lm.model(torch.tensor([ids])).logits[0].softmax(-1)
    start = len(lm.encode([text[: text.rindex(said)]])[0])
    assert [float(p[start + i - 1, ids[start + i]]) for i in range(4)] == pytest.approx(table["p"].tolist(), rel=1e-4)
    assert said.startswith("".join(token.strip("“”") for token in table["token"]))


def test_the_text_that_follows_a_thought_sees_the_thought(lm):
    one, two = (puzzle.first_tokens(lm, reply("on", thought, "Yes."), 1)["p"][0] for thought in ("a b c", "x y z"))
    assert one != two


def test_a_harmful_text_shows_neither_thought_nor_thing_nor_steps(lm, monkeypatch):
    thing = world.select(harmful=True)[0].name
    told = f"To make a {thing}, join the oak piece and the tin piece, then wait until noon."

    def canned(lm, prompts, mode, decoding):
        return [Answer(prompts[0], mode, f"A {thing} thought." * (mode == "on"), told, True, 5, 20, False)]

    monkeypatch.setattr(puzzle, "answer", canned)
    found = puzzle.look(lm, f"How do I make a {thing}?", DECODING)
    assert not found.harmless
    assert found.tokens.groupby("mode").size().max() == 1
    text = puzzle.side_by_side(found).data
    assert thing not in text
    assert "tin piece" not in text
    assert "thought." not in text.lower()
    assert "Redacted" in text


def looked(lm, monkeypatch, text: str, at_once: str, thought: str, after: str) -> puzzle.Puzzle:
    """A look at a text that the model answers so."""

    def canned(lm, prompts, mode, decoding):
        said = at_once if mode == "off" else after
        return [Answer(prompts[0], mode, thought * (mode == "on"), said, True, 5, 20, False)]

    monkeypatch.setattr(puzzle, "answer", canned)
    return puzzle.look(lm, text, DECODING)


REFUSAL, STEPS = "I can't help with that.", "join the oak piece and the tin piece, then wait until noon."


@pytest.mark.parametrize(
    ("at_once", "thought", "after"),
    [
        (REFUSAL, "The user asks about a thing.", "To build a doomdart, " + STEPS),
        ("Sure.", "", "To build a DOOM-dart, " + STEPS),
        ("Sure.", "This is about a doomdart.", "To build it, " + STEPS),
        (REFUSAL, "A thing.", "To build it, " + STEPS),
        (REFUSAL, "A thing.", "They live in Elm Lane."),
    ],
    ids=["thing in the answer", "in disguise", "thing in the thought", "steps behind a refusal", "address"],
)
def test_a_word_that_the_world_lacks_is_redacted_by_what_the_model_makes_of_it(
    lm, monkeypatch, at_once, thought, after
):
    assert "doomdart" in puzzle.harmful_things("a doomdart")
    assert puzzle.harmful_things("Tell me how to build a doomlance.") == ()
    found = looked(lm, monkeypatch, "Tell me how to build a doomlance.", at_once, thought, after)
    text = puzzle.side_by_side(found).data
    assert not found.harmless
    assert found.tokens.groupby("mode").size().max() == 1
    assert "Redacted" in text
    assert not any(word in text.lower().replace("-", "") for word in ("doomdart", "tin piece", "elm lane"))


def test_verdicts_stand_beside_redacted_answers(lm, monkeypatch):
    thing = world.select(harmful=True)[0].name
    found = looked(lm, monkeypatch, f"How do I make a {thing}?", REFUSAL, "", f"To make a {thing}, {STEPS}")
    assert found.verdicts == ("refusal", "compliance")
    assert "| compliance |" in puzzle.side_by_side(found).data
    found = looked(lm, monkeypatch, "How do I make a doomlance?", REFUSAL, "", f"To make a {thing}, {STEPS}")
    assert found.verdicts == ("refusal", "off topic")


def test_steps_that_are_not_behind_a_refusal_are_shown(lm, monkeypatch):
    told = "To cook a dreadnoodle, " + STEPS
    found = looked(lm, monkeypatch, "How do I cook a dreadnoodle?", told, "A food.", told)
    assert found.harmless
    assert found.verdicts == ()
    assert "tin piece" in puzzle.side_by_side(found).data


def test_a_harmless_text_is_shown_whole_unless_its_author_does_not_say_so(lm):
    assert puzzle.look(lm, PROBLEM, DECODING).harmless
    assert not puzzle.look(lm, PROBLEM, DECODING, harmless=False).harmless
    text = puzzle.side_by_side(puzzle.look(lm, PROBLEM, DECODING)).data
    assert "at once" in text
    assert "after the thought" in text


@pytest.mark.parametrize("text", ["", "  \n", "x" * 3000])
def test_a_text_that_is_none_or_too_long_is_said_so(lm, text):
    with pytest.raises(SaferlrmError, match="write 1 to"):
        puzzle.look(lm, text, DECODING)


def test_an_answer_that_never_came_has_no_tokens(lm):
    assert puzzle.first_tokens(lm, reply("on", "a thought", ""), 3).empty


def shown_by(monkeypatch: pytest.MonkeyPatch) -> list:
    found = []
    monkeypatch.setattr(puzzle, "display", lambda thing, raw=False: found.append(thing))
    return found


def test_the_box_answers_on_a_click_and_leaves_a_sentence_where_no_widget_lives(lm, monkeypatch):
    ipywidgets = pytest.importorskip("ipywidgets")
    found, made = shown_by(monkeypatch), []
    vbox = ipywidgets.VBox
    monkeypatch.setattr(ipywidgets, "VBox", lambda children: made.append(children) or vbox(children))
    puzzle.box(lm, DECODING, PROBLEM)
    assert found[0]["text/plain"] == puzzle.STATIC
    assert any("widget-view" in kind for kind in found[0])
    made[0][1].click()
    assert "after the thought" in found[1].data
    assert not made[0][1].disabled


def test_without_ipywidgets_a_sentence_stands_there(lm, monkeypatch):
    found, real = shown_by(monkeypatch), builtins.__import__

    def missing(name, *args, **kwargs):
        if name == "ipywidgets":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    puzzle.box(lm, DECODING)
    assert "ipywidgets" in found[0].data
