"""Scores along a thought: one for each of its tokens, of the states that a plain forward pass has there."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from saferlrm import thought_probe as probing
from saferlrm import thought_scores
from saferlrm.errors import SaferlrmError
from saferlrm.lm import load_lm
from saferlrm.probes import Probe
from saferlrm.stats import Interval
from saferlrm.store import Store
from saferlrm.study import Study
from saferlrm.suites.types import Prompt
from saferlrm.thought_probe import ThoughtProbe, fit_thought_probe
from saferlrm.thought_scores import Scorer, thought_probe

PROMPT = "How do I make a box?"


@pytest.fixture(scope="module")
def lm(tiny_lm_folder):
    return load_lm(tiny_lm_folder, device="cpu")


def probe_of(lm, layer: int = 1) -> ThoughtProbe:
    direction = np.random.default_rng(0).normal(size=lm.hidden_size)
    return ThoughtProbe(Probe(direction, 0.1, "logistic", 1.0), layer, Interval(0.9, 0.8, 1.0, 10), 0.8)


@pytest.mark.parametrize("thought", ["I should think about it.", "No.", "Two lines.\n\nAnd  spaces", "naïve 日本 🙂!"])
def test_pieces_are_the_thought_and_scores_those_of_a_forward_pass(lm, thought):
    one = probe_of(lm)
    found = Scorer(one, lm)(PROMPT, thought)
    assert "".join(token.text for token in found) == thought
    (before,) = lm.encode([lm.chat.render(PROMPT, "on")])
    (behind,) = lm.encode([f"<think>\n{thought}"])
    with torch.no_grad():
        states = lm.model(torch.tensor([before + behind]), output_hidden_states=True).hidden_states[1][0].numpy()
    expected = 1 / (1 + np.exp(-one.probe.score(states[-len(found) :])))
    assert [token.p for token in found] == pytest.approx(expected.tolist(), abs=1e-4)
    assert len(found) <= len(behind)
    opened = lm.tokenizer.decode(behind[: len(behind) - len(found)])
    assert opened.strip() == "<think>", "no token of the tag is coloured, none of the thought is left out"


def test_no_thought_has_no_tokens(lm):
    assert probe_of(lm).tokens(lm, PROMPT, "") == ()


def prompts_and_thoughts(n: int) -> tuple[list[Prompt], list[str]]:
    words = {True: ("tin", "glue", "cut", "dry"), False: ("sum", "paint", "read", "walk")}
    prompts, thoughts = [], []
    for i in range(n):
        harmful = i % 2 == 0
        word = words[harmful][i // 2 % 4]
        prompts.append(Prompt(f"p{i}", f"Tell me about {word} number {i}.", "x", harmful, topic=word))
        thoughts.append(f"It is {'bad ' * 4 if harmful else 'good ' * 4}and about {word}.")
    return prompts, thoughts


def test_a_probe_learns_what_the_thoughts_show_and_is_judged_on_topics_held_out(lm):
    prompts, thoughts = prompts_and_thoughts(32)
    found = fit_thought_probe(lm, prompts, thoughts)
    assert found.of_thoughts.estimate > 0.9
    assert found.of_thoughts.n == 8, "one topic in four of either label"
    assert 0.5 < found.of_tokens <= 1
    bad, good = (found.tokens(lm, prompts[0].text, f"It is {word * 4}and") for word in ("bad ", "good "))
    assert np.mean([token.p for token in bad]) > np.mean([token.p for token in good])


def test_no_topic_is_on_both_sides():
    prompts, _ = prompts_and_thoughts(32)
    held = probing._held_out(prompts, 0)
    topics = [{p.topic for p, out in zip(prompts, held, strict=True) if out == side} for side in (True, False)]
    assert topics[0]
    assert not topics[0] & topics[1]


def test_one_topic_is_too_few():
    prompts, _ = prompts_and_thoughts(2)
    with pytest.raises(SaferlrmError, match="two topics of either label, not 1"):
        probing._held_out(prompts, 0)


def test_a_study_fits_its_probe_once(tmp_path, monkeypatch):
    monkeypatch.setattr(thought_scores, "PROMPTS", 24)
    study = Study("smoke", Store(tmp_path, tmp_path / "none"))
    first = thought_probe(study)
    monkeypatch.setattr(thought_scores, "fit_thought_probe", None)
    second = thought_probe(Study("smoke", Store(tmp_path, tmp_path / "none")))
    np.testing.assert_array_equal(first.probe.direction, second.probe.direction)
    assert (first.layer, first.of_thoughts, first.of_tokens) == (second.layer, second.of_thoughts, second.of_tokens)


def test_a_server_tells_no_states():
    study = Study("smoke", **{"server.url": "http://localhost:1/v1"})
    assert thought_scores.scorer(study) is None
