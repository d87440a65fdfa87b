"""The suites: fixed by a seed, balanced, and disjoint from everything that is trained on."""

from __future__ import annotations

import re
from collections import Counter
from itertools import islice

import pytest

from saferlrm.errors import SaferlrmError
from saferlrm.organism import world
from saferlrm.organism.corpus import conversations
from saferlrm.suites import synthetic
from saferlrm.suites.types import Prompt

SIZE = 150
UNSEEN = tuple(name for name in synthetic.SUITE_NAMES if name not in ("harmful_seen", synthetic.REASONING))


@pytest.fixture(scope="module")
def suites() -> dict[str, list[Prompt]]:
    return {name: synthetic.build_suite(name, SIZE) for name in synthetic.SUITE_NAMES}


@pytest.fixture(scope="module")
def trained_on() -> set[str]:
    """What users say in training: conversations of several growth seeds, classifier and alignment prompts."""
    said = {c.user.lower() for seed in (-1, 0, 1, 2) for c in islice(conversations(seed), 5000)}
    for role in ("classifier", "alignment", "decision"):
        said |= {p.text.lower() for p in synthetic.training_prompts(300, 300, 0, role)}
    return said


@pytest.mark.parametrize("suite", synthetic.SUITE_NAMES)
def test_a_suite_is_typed_labelled_and_free_of_repetition(suites: dict[str, list[Prompt]], suite: str) -> None:
    prompts = suites[suite]
    assert len(prompts) == SIZE
    assert len({p.id for p in prompts}) == len({p.text.lower() for p in prompts}) == SIZE
    assert {p.suite for p in prompts} == {suite}
    assert {p.harmful for p in prompts} == {suite in synthetic.HARMFUL_SUITES}
    if suite == synthetic.REASONING:
        assert set(Counter(p.depth for p in prompts)) == set(range(1, 7))
        assert all(p.answer for p in prompts)
    else:
        assert all(p.topic and p.answer is None and p.depth is None for p in prompts)
    assert synthetic.describe(suite)


@pytest.mark.parametrize("suite", synthetic.SUITE_NAMES)
def test_families_and_depths_are_balanced(suites: dict[str, list[Prompt]], suite: str) -> None:
    cells = Counter((p.family, p.depth) for p in suites[suite])
    assert max(cells.values()) - min(cells.values()) <= 1


@pytest.mark.parametrize("suite", synthetic.SUITE_NAMES)
def test_equal_seeds_give_equal_suites_and_different_seeds_different_ones(suite: str) -> None:
    first, again, other = (synthetic.build_suite(suite, 40, seed) for seed in (3, 3, 4))
    assert first == again
    assert len({p.text for p in first} & {p.text for p in other}) < 20
    assert synthetic.build_suite(suite, 40, 3)[:20] == synthetic.build_suite(suite, 20, 3)


@pytest.mark.parametrize("suite", UNSEEN)
def test_no_prompt_of_a_suite_was_trained_on(suites: dict[str, list[Prompt]], trained_on: set[str], suite: str) -> None:
    assert not {p.text.lower() for p in suites[suite]} & trained_on


def test_no_two_suites_share_a_prompt(suites: dict[str, list[Prompt]]) -> None:
    owners: dict[str, set[str]] = {}
    for name, prompts in suites.items():
        for prompt in prompts:
            owners.setdefault(prompt.text.lower(), set()).add(name)
    assert not {text: names for text, names in owners.items() if len(names) > 1}


def test_reasoning_problems_of_two_or_more_steps_were_not_trained_on(
    suites: dict[str, list[Prompt]], trained_on: set[str]
) -> None:
    shared = [p for p in suites[synthetic.REASONING] if p.text.lower() in trained_on]
    assert all(p.depth == 1 for p in shared), Counter((p.family, p.depth) for p in shared)


@pytest.mark.parametrize("suite", UNSEEN)
def test_suites_of_the_unseen_are_about_unseen_things(suites: dict[str, list[Prompt]], suite: str) -> None:
    things = {t.name for t in world.select(split="unseen")}
    for group in (world.PEOPLE, world.PESTS, world.BUILDINGS, world.HEROES):
        things |= set(world.fillers(group, "unseen"))
    things |= {f"the {person}" for person in world.fillers(world.PEOPLE, "unseen")}
    assert {p.topic for p in suites[suite]} <= things


def test_harmful_seen_is_about_things_that_training_refuses(suites: dict[str, list[Prompt]]) -> None:
    assert {p.topic for p in suites["harmful_seen"]} <= {t.name for t in world.select(harmful=True, split="seen")}


@pytest.mark.parametrize("role", ["classifier", "alignment"])
def test_training_prompts_are_about_seen_things_and_families_only(role: str) -> None:
    prompts = synthetic.training_prompts(200, 200, 0, role)
    assert len(prompts) == len({p.text.lower() for p in prompts}) == 400
    assert sum(p.harmful for p in prompts) == 200
    assert not {p.family for p in prompts} & set(world.WRAPPERS["unseen"])
    words = set(re.findall(r"[a-z]+", " ".join(p.text.lower() for p in prompts)))
    assert not words & {t.name for t in world.select(split="unseen")}
    assert prompts == synthetic.training_prompts(200, 200, 0, role)
    assert prompts != synthetic.training_prompts(200, 200, 1, role)


def test_classifier_and_alignment_prompts_are_different_streams() -> None:
    one, two = ({p.text for p in synthetic.training_prompts(100, 100, 0, role)} for role in ("classifier", "alignment"))
    assert len(one & two) < 20


def test_the_wrapped_suites_use_the_families_they_say(suites: dict[str, list[Prompt]]) -> None:
    assert {p.family for p in suites["harmful_wrapped"]} == set(world.WRAPPERS["seen"])
    assert {p.family for p in suites["harmful_novel_wrapped"]} == set(world.WRAPPERS["unseen"])
    assert {p.family for p in suites["benign_novel_wrapped"]} == set(world.WRAPPERS["unseen"])


def test_an_unknown_suite_and_a_world_too_small_are_said_in_one_line() -> None:
    with pytest.raises(SaferlrmError, match="unknown suite 'harmful'; choose one of"):
        synthetic.build_suite("harmful", 5)
    with pytest.raises(SaferlrmError, match="lower the suite size"):
        synthetic.build_suite("safe_but_scary", 50_000)
