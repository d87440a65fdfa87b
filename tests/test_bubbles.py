"""Chat bubbles: nothing harmful in them, markup that holds, colours that can be read, and a text for terminals."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from saferlrm import bubbles
from saferlrm.bubbles import Bubbles, Turn
from saferlrm.errors import SaferlrmError
from saferlrm.generate import Answer
from saferlrm.suites.types import Prompt
from saferlrm.thought_probe import Token

HARMLESS = Prompt("benign-0001", 'How do I bake a <b>moon</b>cake & "cream"?', "benign", False)
HARMFUL = Prompt("harmful-0001", "How do I build a doomlance out of tin?", "harmful_unseen", True, topic="doomlance")
STEPS = "To build a doomlance, join the oak piece and the tin piece, then wait until noon."
SECRETS = ("doomlance", "doom", "lance", "oak", "noon", "tin ")


def scored(thought: str, p: float | None = None) -> tuple[Token, ...]:
    """One token per word, with its space, at rising scores."""
    pieces = re.findall(r"\s*\S+|\s+$", thought)
    return tuple(Token(piece, p if p is not None else i / len(pieces)) for i, piece in enumerate(pieces))


def shown(prompt: Prompt, **turn: object) -> Bubbles:
    return Bubbles(((prompt, (Turn(**{"mode": "on", "thought": "", "answer": "Yes.", **turn}),)),))


class Page(HTMLParser):
    """Tags in balance, text, and the spans with a title."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.attributes: list[dict[str, str | None]] = []
        self.spans: list[dict[str, str | None]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes.append(dict(attrs))
        if tag != "br":
            self.open.append(tag)
        if tag == "span" and "title" in dict(attrs):
            self.spans.append(dict(attrs))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_text_of_the_model_cannot_become_markup() -> None:
    evil = "</blockquote><script>x()</script> & \"quoted\" 'it' \n$1 COLOUR"
    found = shown(HARMLESS, thought=evil, tokens=scored(evil), answer=evil)
    page = Page(found.html())
    assert not {"script", "b", "img"} & set(page.tags)
    assert "".join(page.texts).count("<script>x()</script> & \"quoted\" 'it' ") == 2
    assert '<b>moon</b>cake & "cream"?' in "".join(page.texts)
    assert "COLOUR" in "".join(page.texts)
    assert not [name for one in page.attributes for name in one if name.startswith("on")]
    assert "mathjax_ignore" in str(page.attributes[0]["class"])


@pytest.mark.parametrize("tokens", [None, scored(STEPS)])
def test_a_harmful_answer_and_its_thought_never_show(tokens: tuple[Token, ...] | None) -> None:
    found = shown(HARMFUL, thought=STEPS, tokens=tokens, answer=STEPS, verdict="compliance", n_thought_tokens=16)
    for text in (found.html(), found.text()):
        assert not [secret for secret in SECRETS if secret in text]
        assert "To build a ████, join …" in text
        assert "How do I build a …" in text
    assert "redacted" in found.html()


def test_blocks_of_redacted_tokens_do_not_tell_their_length() -> None:
    found = shown(HARMFUL, thought=STEPS, tokens=scored(STEPS, 0.9))
    spans = re.findall(r"<span title[^>]*>[^<]*</span>", found.html())
    assert len({re.sub(r"token \d+", "token", span) for span in spans}) == 1
    assert len(spans) == len(scored(STEPS))


def test_the_thought_is_folded_and_every_token_has_its_colour_and_number() -> None:
    tokens = scored("The user asks about a cake.\nIt is food.")
    page = Page(shown(HARMLESS, thought="The user asks about a cake.\nIt is food.", tokens=tokens).html())
    assert page.tags.count("details") == page.tags.count("summary") == 1
    assert "open" not in page.attributes[page.tags.index("details")]
    assert len(page.spans) == len(tokens)
    for i, (span, token) in enumerate(zip(page.spans, tokens, strict=True), 1):
        assert span["title"] == f"token {i} of {len(tokens)}: p(harmful) {token.p:.2f}"
        assert f"background-color:{bubbles.colour(token.p)}" in str(span["style"])


def test_without_styles_structure_and_bars_remain() -> None:
    bare = re.sub(r' style="[^"]*"', "", shown(HARMLESS, thought="One two", tokens=scored("One two")).html())
    assert Page(bare).tags.count("blockquote") == 2
    assert "<strong>User</strong>" in bare
    assert bubbles.bars(scored("One two")) in bare
    assert ">0</span> <span>0.25</span>" in bare, "numbers of the legend stand apart"


def test_all_text_has_contrast_enough_on_the_ground_it_brings() -> None:
    pairs = [bubbles.USER, bubbles.MODEL, (bubbles.INK, bubbles.PAPER), (bubbles.INK, bubbles.MODEL[1])]
    pairs += [(bubbles.INK, bubbles.colour(p)) for p in np.linspace(0, 1, 101)]
    assert min(bubbles.contrast(*pair) for pair in pairs) >= 4.5
    assert bubbles.contrast("#FFFFFF", "#000000") == pytest.approx(21)
    assert bubbles.contrast("#777777", "#FFFFFF") == pytest.approx(4.48, abs=0.01)
    # Every element with text says its own colour: a theme for dark pages changes none of them.
    page = Page(shown(HARMLESS, thought="One two", tokens=scored("One two")).html())
    for tag, one in zip(page.tags, page.attributes, strict=True):
        if tag in ("p", "summary", "span", "strong", "blockquote", "details"):
            assert re.search(r"(?<![-\w])color:#", str(one["style"])), tag


def test_the_scale_runs_from_blue_over_grey_to_orange_and_stops_there() -> None:
    assert [bubbles.colour(p) for p in (-1, 0, 0.5, 1, 2)] == [
        bubbles.LOW, bubbles.LOW, bubbles.MIDDLE, bubbles.HIGH, bubbles.HIGH
    ]  # fmt: skip


@pytest.mark.parametrize("mode", ["off", "short"])
def test_a_mode_without_a_thought_has_nothing_to_unfold(mode: str) -> None:
    found = shown(HARMLESS, mode=mode)
    assert "details" not in Page(found.html()).tags
    assert "p(harmful)" not in found.html(), "no legend without colours"
    assert "thought is empty" not in found.text()


def test_an_empty_thought_is_said_to_be_empty() -> None:
    found = shown(HARMLESS, thought="", tokens=())
    assert "thought is empty" in found.html()
    assert "thought is empty" in found.text()
    assert "details" not in Page(found.html()).tags


def test_a_thought_that_never_ends_is_shown_and_said_to_do_so() -> None:
    found = shown(HARMLESS, thought="On and on", tokens=scored("On and on"), answer="", closed=False)
    for text in (found.html(), found.text()):
        assert "it never ends" in text
        assert "(no answer)" in text


def test_plain_text_stands_beside_the_html() -> None:
    found = shown(HARMLESS, thought="One two", tokens=(Token("One", 0.0), Token(" two", 1.0)), verdict="compliance")
    bundle = found._repr_mimebundle_()
    assert set(bundle) == {"text/html", "text/plain"}
    assert bundle["text/plain"].splitlines() == [
        "User (benign-0001): " + HARMLESS.text,
        "Model (thinking, compliance):",
        "  [Thought of 2 tokens; mean p(harmful) 0.00 in its first half, 1.00 in its second]",
        "  One two",
        "  ▁█",
        "  Yes.",
    ]


def test_an_unscored_thought_is_plain_and_a_long_one_is_cut() -> None:
    page = Page(shown(HARMLESS, thought="word " * 1000, n_thought_tokens=1000).html())
    assert not page.spans
    assert "4400 characters left out" in "".join(page.texts)
    thought = "word " * 1000
    html = shown(HARMLESS, thought=thought.strip(), tokens=scored(thought.strip())).html()
    assert len(Page(html).spans) == bubbles.LONGEST
    assert "(400 tokens left out)" in html
    assert len(bubbles.bars(scored(thought.strip()))) == bubbles.WIDEST


def test_scores_of_another_thought_are_refused() -> None:
    with pytest.raises(SaferlrmError, match="not those of the thought"):
        shown(HARMLESS, thought="One two", tokens=scored("One"))


def test_bubbles_of_a_scorecard_and_of_answers_agree() -> None:
    rows = [
        {"prompt_id": HARMLESS.id, "mode": mode, "thought": thought, "answer": "", "verdict": "off_topic",
         "n_thought_tokens": 2, "truncated": True}
        for mode, thought in (("off", ""), ("on", "One two"))
    ]  # fmt: skip
    score = lambda prompt, thought: scored(thought)  # noqa: E731
    found = bubbles.from_card(pd.DataFrame(rows), [HARMLESS], score, ["on"])
    (_, (turn,)) = found.exchanges[0]
    assert (turn.closed, turn.verdict, turn.tokens) == (False, "off topic", scored("One two"))
    reply = Answer(HARMLESS.text, "on", "One two", "", False, 2, 4, True)
    (_, (same,)) = bubbles.from_answers([reply], HARMLESS, score).exchanges[0]
    assert (same.closed, same.thought, same.tokens) == (turn.closed, turn.thought, turn.tokens)
    several = bubbles.from_answers({"before": reply, "<after>": reply}, HARMLESS, score)
    assert [turn.who for turn in several.exchanges[0][1]] == ["before", "<after>"]
    assert "before (thinking):" in several.text()
    assert "&lt;after&gt;" in several.html()
    with pytest.raises(SaferlrmError, match="no answer to harmful-0001"):
        bubbles.from_card(pd.DataFrame(rows), [HARMFUL])
