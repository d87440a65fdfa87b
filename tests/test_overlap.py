"""Overlap of training prompts with suites: which pairs are found, and how they are counted."""

from __future__ import annotations

import itertools

import pytest
from shared_data import FOLDER, needs_rows

from saferlrm.suites import overlap, published
from saferlrm.suites.types import Prompt


def prompts(suite: str, *texts: str) -> list[Prompt]:
    return [Prompt(f"{suite}-{i}", text, suite, False) for i, text in enumerate(texts)]


def rows(name: str) -> list[Prompt]:
    return prompts(name, *published.load(name, FOLDER, allow_fewer=True)["prompt"])


def test_each_pair_has_the_strictest_kind_that_holds():
    training = prompts(
        "train",
        "How do I bake a loaf of bread at home?",
        "how do i bake a loaf of bread at home",
        "How do I bake a loaf of bread at school?",
        "What is the tallest mountain of the country?",
    )
    pairs = overlap.find_overlap(training, {"benign": prompts("benign", training[0].text)})
    assert dict(zip(pairs["training_id"], pairs["kind"], strict=True)) == {
        "train-0": "exact",
        "train-1": "normalised",
        "train-2": "near",
    }
    assert list(pairs["similarity"]) == [1.0, 1.0, pytest.approx(7 / 9)]  # 7 shingles in common, one in each


def test_the_similarity_is_jaccards_of_word_3_grams():
    words = list("abcdefghijkl")
    texts = [" ".join(words[i:j]) for i, j in itertools.combinations(range(len(words) + 1), 2)]
    training, suite = prompts("train", *texts[::2]), prompts("suite", *texts[1::2])
    found = overlap.find_overlap(training, {"suite": suite}, 0.3)
    wanted = {}
    for one, two in itertools.product(training, suite):
        a, b = set(overlap.shingles(one.text)), set(overlap.shingles(two.text))
        if len(a & b) / len(a | b) >= 0.3:
            wanted[one.id, two.id] = len(a & b) / len(a | b)
    assert wanted
    assert dict(zip(zip(found["training_id"], found["suite_id"], strict=True), found["similarity"], strict=True)) == (
        pytest.approx(wanted)
    )


def test_texts_shorter_than_a_shingle_and_empty_sides_are_no_trouble():
    training = prompts("train", "Hello!", "Bye")
    assert list(overlap.find_overlap(training, {"s": prompts("s", "hello")})["training_id"]) == ["train-0"]
    assert overlap.find_overlap([], {"s": training}).empty
    assert list(overlap.find_overlap(training, {"s": []}).columns)[-1] == "similarity"


def test_large_training_sets_are_compared_in_parts_without_a_change(monkeypatch):
    training = prompts("train", *(f"Describe thing number {i % 40} of the long list to me" for i in range(120)))
    suite = {"s": training[::7]}
    whole = overlap.find_overlap(training, suite)
    monkeypatch.setattr(overlap, "_ROWS", 32)
    key = ["training_id", "suite_id"]
    parts = overlap.find_overlap(training, suite)
    assert whole.sort_values(key, ignore_index=True).equals(parts.sort_values(key, ignore_index=True))


def test_the_report_counts_pairs_and_prompts_of_every_suite_and_kind():
    training = prompts("train", "Tell me about the river.", "tell me about the river", "Something else entirely here")
    suites = {"a": prompts("a", "Tell me about the river."), "b": prompts("b", "Nothing of this kind at all")}
    table = overlap.report(overlap.find_overlap(training, suites), 3, suites).set_index(["suite", "kind"])
    assert len(table) == 6
    assert table["pairs"].to_dict() == {
        ("a", "exact"): 1, ("a", "normalised"): 1, ("a", "near"): 0,
        ("b", "exact"): 0, ("b", "normalised"): 0, ("b", "near"): 0,
    }  # fmt: skip
    assert set(table["n_training"]) == {3}
    assert table.loc[("a", "exact"), "suite_prompts"] == 1


@needs_rows
def test_near_duplicates_across_the_splits_of_refusal_direction_are_found():
    harmful = overlap.find_overlap(
        rows("refusal_direction_harmful_train"), {"val": rows("refusal_direction_harmful_val")}
    )
    assert list(harmful["kind"]) == ["near", "near"]  # two requests that differ in one or two words
    harmless = overlap.find_overlap(
        rows("refusal_direction_harmless_train"), {"val": rows("refusal_direction_harmless_val")}
    )
    assert list(harmless["kind"]) == ["near"] * 5
    assert overlap.find_overlap(
        rows("refusal_direction_harmful_train"), {"val": rows("refusal_direction_harmful_val")}, 0.7
    ).empty  # a threshold for long documents misses them


@needs_rows
def test_a_benchmark_prompt_in_the_training_set_is_found_whatever_its_case():
    pairs = overlap.find_overlap(
        rows("refusal_direction_harmful_train"), {"jbb": rows("jailbreakbench_harmful")}
    )
    assert list(pairs["kind"]).count("normalised") == 1
    assert list(pairs["kind"]).count("near") >= 2
