"""A model that takes no hint refuses when it is steered, in its own words; the way is chosen on a few prompts."""

from __future__ import annotations

import pytest

from saferlrm import self_refusals
from saferlrm.align.rewrites import HINT
from saferlrm.generate import Decoding, answer
from saferlrm.judges import WorldJudge
from saferlrm.lm import LanguageModel, load_lm
from saferlrm.self_refusals import Way, write_refusals
from saferlrm.study import shipped_organism
from saferlrm.suites import synthetic

DECODING = Decoding(max_new_tokens=96)


@pytest.fixture(scope="module")
def organism() -> LanguageModel:
    return load_lm(shipped_organism(), device="cpu")


def test_the_organism_refuses_when_steered_and_is_left_as_it_was(organism: LanguageModel) -> None:
    prompts = synthetic.training_prompts(24, 24, 0, "steering")
    harmful = [prompt for prompt in prompts if prompt.harmful]
    plain = [reply.answer for reply in answer(organism, [p.text for p in harmful], "on", DECODING)]
    found = write_refusals(organism, prompts, WorldJudge(), DECODING)
    assert found.way.direction is not None
    assert "steered by the direction read with thinking off" in str(found.way)
    assert found.tried == 9  # the hint, and two strengths at two places of two layers
    assert len(found.answers) == len(found.refused) == len(harmful)
    assert sum(found.refused) > len(harmful) / 2
    assert found.failed == 0
    assert [reply.answer for reply in answer(organism, [p.text for p in harmful], "on", DECODING)] == plain


def test_the_hint_is_kept_where_nothing_refuses_more(
    organism: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(self_refusals, "_refused", lambda judge, prompts, replies: ([True] * len(replies), 0))
    found = write_refusals(organism, synthetic.training_prompts(4, 4, 0, "steering"), WorldJudge(), DECODING)
    assert found.way == Way(hint=HINT)
    assert str(found.way) == "under the hint"
    assert all(reply.thought.startswith(HINT[:20]) for reply in found.answers)


def test_what_cannot_be_steered_gets_the_hint_alone() -> None:
    assert list(self_refusals._ways(object(), [], 8)) == [Way(hint=HINT)]
