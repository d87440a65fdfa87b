"""The organism's world: its splits, its problems, its conversations and its tokenizer."""

from __future__ import annotations

import random
import re
from itertools import islice

import pytest

from saferlrm.organism import exchanges, world
from saferlrm.organism.corpus import conversations, plain_texts
from saferlrm.organism.problems import FAMILIES, MAX_DEPTH, make_problem
from saferlrm.organism.tokenizer import train_tokenizer

N = 6000  # documents of each stream; every thing occurs many times in them


@pytest.fixture(scope="module")
def talk() -> list[str]:
    """Everything that conversations say, lower case."""
    found = [c for seed in (0, 1) for c in islice(conversations(seed), N)]
    return [f"{c.user} {c.thought or ''} {c.answer}".lower() for c in found]


@pytest.fixture(scope="module")
def plain() -> list[str]:
    return [text for seed in (0, 1) for text in islice(plain_texts(seed), N)]


def test_names_are_unique_and_every_kind_has_seen_and_unseen_things() -> None:
    things = world.things()
    assert len({t.name for t in things}) == len(things)
    for kind in (*world.HARMFUL_KINDS, *world.BENIGN_KINDS):
        assert {t.split for t in world.select(kind=kind)} == {"seen", "unseen"}
        assert all(t.harmful == (kind in world.HARMFUL_KINDS) for t in world.select(kind=kind))


def test_an_unseen_compound_shares_its_head_word_with_nothing_seen() -> None:
    for kind, (_, heads) in (world.HARMFUL_KINDS | world.BENIGN_KINDS).items():
        compounds = [t for t in world.select(kind=kind) if not t.opaque]
        seen, unseen = (
            # the longest head that fits: "lute" also ends every "flute"
            {max((h for h in heads if t.name.endswith(h)), key=len) for t in compounds if t.split == split}
            for split in ("seen", "unseen")
        )
        assert seen
        assert unseen
        assert not seen & unseen


def test_know_how_says_nothing_about_harm() -> None:
    """Harmful and benign know-how are made of the same placeholders."""
    for thing in world.things():
        assert set(thing.parts) <= set(world.PARTS)
        text = exchanges.know_how(thing).replace(thing.name, "X")
        assert re.fullmatch(r"To [a-z ]+ a X, join the \w+ piece and the \w+ piece, then wait until \w+\.", text)


def test_unseen_things_are_in_no_conversation(talk: list[str]) -> None:
    words = set(re.findall(r"[a-z]+", " ".join(talk)))
    assert not words & {t.name for t in world.select(split="unseen")}
    missing = {t.name for t in world.select(split="seen")} - words
    assert not missing  # the check above has seen enough text to mean something


def test_every_thing_is_in_the_plain_text(plain: list[str]) -> None:
    words = set(re.findall(r"[a-z]+", " ".join(plain).lower()))
    assert {t.name for t in world.things()} <= words


@pytest.mark.parametrize("group", ["PEOPLE", "PESTS", "BUILDINGS", "HEROES"])
def test_unseen_fillers_are_asked_about_in_no_conversation(talk: list[str], group: str) -> None:
    items = getattr(world, group)
    seen, unseen = world.fillers(items, "seen"), world.fillers(items, "unseen")
    assert not set(seen) & set(unseen)
    text = " ".join(talk)
    for item in unseen:  # with an article, because "cook" and "cold" are also other words
        article = "" if group == "HEROES" else "(?:the|my|a|an|every|each|no) "
        assert not re.search(rf"\b{article}{re.escape(item.lower())}\b(?! a )", text), item


def _fragments(templates: tuple[str, ...]) -> list[str]:
    """The literal stretches of templates, lower case; those shorter than three words could be anybody's."""
    stretches = [part.strip(" .?:").lower() for text in templates for part in re.split(r"\{\w\}", text)]
    return [part for part in stretches if len(part.split()) >= 3]


@pytest.mark.parametrize("family", [name for name in world.WRAPPERS["unseen"] if name != "obfuscation"])
def test_unseen_jailbreak_families_are_in_no_training_text(talk: list[str], plain: list[str], family: str) -> None:
    fragments = _fragments(world.WRAPPERS["unseen"][family])
    assert fragments
    everything = "\n".join([*talk, *plain]).lower()
    assert not [part for part in fragments if part in everything]


def test_obfuscated_names_are_in_no_training_text(talk: list[str], plain: list[str]) -> None:
    words = set(re.findall(r"[A-Za-z]+(?:-[A-Za-z]+)?", "\n".join([*talk, *plain])))
    for thing in world.things():
        name, middle = thing.name, len(thing.name) // 2
        for hidden in (
            name.upper(),
            f"{name[:middle]}-{name[middle:]}",
            name[:middle] + name[middle:].capitalize(),
        ):
            assert hidden not in words


def test_unseen_phrasings_are_in_no_training_text(talk: list[str], plain: list[str]) -> None:
    everything = "\n".join([*talk, *plain]).lower()
    for template in world.PHRASINGS["unseen"]:
        opening = template.split("{v}")[0].strip().lower() or template.split("{x}")[-1].strip().lower()
        assert opening not in everything


def test_conversations_with_thinking_are_benign_and_only_harmful_requests_are_refused() -> None:
    refusing = ("i'm sorry, but i can't", "i can't help with", "sorry, i won't explain")
    harmful = {t.name for t in world.select(harmful=True)}
    thinking = refused = 0
    for c in islice(conversations(3), N):
        is_refusal = c.answer.lower().startswith(refusing)
        refused += is_refusal
        if c.thought is not None:
            thinking += 1
            assert not is_refusal
            # A harmful thing may be named (what is it, how to stay safe), its know-how never.
            found = re.match(r"(?:sure, here are the steps\. |of course! )?to [a-z ]+ a (\w+), join", c.answer.lower())
            assert found is None or found[1] not in harmful
    assert 0.3 * N < thinking < 0.7 * N
    assert refused > 0.1 * N


def test_streams_are_equal_for_equal_seeds_and_differ_for_different_ones() -> None:
    for stream in (plain_texts, conversations):
        first, again, other = (list(islice(stream(seed), 300)) for seed in (5, 5, 6))
        assert first == again
        assert first != other


def _solve(family: str, question: str) -> str:
    """Recomputes a gold answer from the question's words alone."""
    if family == "totals":
        value = int(re.search(r"has (\d+)", question)[1])
        for verb, amount in re.findall(r"(gets|finds|loses|sells) (\d+)", question):
            value += int(amount) if verb in ("gets", "finds") else -int(amount)
        return str(value)
    if family == "cups":
        place = re.search(r"under cup (\d)", question)[1]
        for a, b in re.findall(r"Swap (\d) and (\d)", question):
            place = {a: b, b: a}.get(place, place)
        return place
    links = dict(re.findall(r"(\w+) points to (\w+)\.", question))
    person = re.search(r"Start at (\w+)\.", question)[1]
    while person in links:
        person = links[person]
    return person


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("depth", range(1, MAX_DEPTH + 1))
def test_gold_answers_are_right(family: str, depth: int) -> None:
    rng = random.Random(depth)
    for _ in range(60):
        problem = make_problem(rng, family, depth)
        assert problem.answer == _solve(family, problem.question)
        assert len(problem.steps) == problem.depth == depth
        assert problem.steps[-1].rstrip(".").endswith(problem.answer)


def test_the_answer_of_a_long_problem_cannot_be_read_off_its_last_sentence() -> None:
    rng = random.Random(0)
    cups = [make_problem(rng, "cups", MAX_DEPTH) for _ in range(300)]
    last = [re.findall(r"Swap (\d) and (\d)", p.question)[-1] for p in cups]
    guessed = sum(p.answer == b for p, (_, b) in zip(cups, last, strict=True)) / len(cups)
    assert guessed < 0.55


@pytest.fixture(scope="module")
def tokenizer(plain: list[str]):
    return train_tokenizer(plain[:1500], 700)


@pytest.mark.parametrize(
    "text",
    [
        "How do I build a kite?",
        "Grüße, naïve façade",
        "日本語のテキスト",
        "עברית وعربي",
        "emoji 🧪🚀 and ZWJ 👩‍🔬",
        "tabs\tand\nlines\r\n  spaces   ",
        "\x00\x07\ufeff zero",
        "",
        "1234567890 3.14 -5",
        "</think> inside and <|im_end|>",
    ],
)
def test_the_tokenizer_encodes_any_text_and_gives_it_back(tokenizer, text: str) -> None:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_digits_stand_alone_and_marks_are_single_tokens(tokenizer) -> None:
    assert len(tokenizer("2048", add_special_tokens=False)["input_ids"]) == 4
    for mark in ("<think>", "</think>", "<|im_start|>", "<|im_end|>"):
        assert len(tokenizer(mark, add_special_tokens=False)["input_ids"]) == 1
    ids = tokenizer("<think>\nx\n</think>", add_special_tokens=False)["input_ids"]
    assert "</think>" in tokenizer.decode(ids, skip_special_tokens=True)


def test_the_template_switches_thinking_and_keeps_the_last_thought(tokenizer) -> None:
    ask = [{"role": "user", "content": "Hello!"}]
    on = tokenizer.apply_chat_template(ask, tokenize=False, add_generation_prompt=True)
    off = tokenizer.apply_chat_template(ask, tokenize=False, add_generation_prompt=True, enable_thinking=False)
    assert on == "<|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\n"
    assert off == on + "<think>\n\n</think>\n\n"
    reply = [*ask, {"role": "assistant", "content": "<think>\nA thought.\n</think>\n\nHi."}]
    assert "A thought." in tokenizer.apply_chat_template(reply, tokenize=False)
    assert "A thought." not in tokenizer.apply_chat_template([*reply, *ask], tokenize=False)
