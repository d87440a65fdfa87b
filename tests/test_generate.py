"""Decoding in changing batches gives what plain generation gives, one prompt at a time."""

import contextlib
import os
import random
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from tiny import write_tiny_lm
from transformers import TopKLogitsWarper, TopPLogitsWarper

from saferlrm import generate as generating
from saferlrm.batching import sample
from saferlrm.devices import further_devices, replicate
from saferlrm.errors import SaferlrmError
from saferlrm.generate import Decoding, answer, generate
from saferlrm.lm import LanguageModel, load_lm

WORDS = ["box", "apple", "desk", "Tom", "makes", "wood", "glue", "and", "thing", "sum", "of", "12", "help"]


def rendered(lm: LanguageModel, n: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [lm.chat.render(" ".join(rng.choices(WORDS, k=rng.randint(1, 25)))) for _ in range(n)]


def often_ending(lm: LanguageModel, n: int = 12) -> LanguageModel:
    """Let many tokens end a turn, so that a random model's answers differ in length."""
    ends = random.Random(1).sample(range(256), n)
    lm.model.generation_config.eos_token_id = [lm.tokenizer.eos_token_id, *ends]
    return lm


@pytest.fixture(scope="module")
def lm(tiny_lm_folder):
    return often_ending(load_lm(tiny_lm_folder, device="cpu"))


def plain(lm: LanguageModel, text: str, n: int) -> list[int]:
    ids = torch.tensor([lm.encode([text])[0]])
    out = lm.model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=n)
    return out[0, ids.shape[1] :].tolist()


@pytest.mark.parametrize(("seed", "attention"), [(0, "sdpa"), (1, "eager")])
def test_greedy_tokens_are_those_of_plain_generate(tmp_path, seed, attention):
    folder = write_tiny_lm(tmp_path / "lm", seed=seed, layers=3, hidden=64)
    lm = often_ending(load_lm(folder, device="cpu", attn_implementation=attention), 4)
    texts = [*rendered(lm, 20, seed), "a", "b"]  # one-token prompts have nothing to read ahead
    expected = [plain(lm, text, 40) for text in texts]
    assert len({len(tokens) for tokens in expected}) > 5
    ends = lm.model.generation_config.eos_token_id
    for batch_size in (1, 7, 64):
        for found, tokens in zip(generate(lm, texts, Decoding(40), batch_size), expected, strict=True):
            assert found.truncated == (tokens[-1] not in ends)
            assert found.n_tokens == len(tokens)
            kept = tokens if found.truncated else tokens[:-1]
            assert found.text == lm.tokenizer.decode(kept, clean_up_tokenization_spaces=False)


def test_sampling_does_not_depend_on_order_or_company(lm):
    texts = [*rendered(lm, 12), *rendered(lm, 3)]  # the first three come twice
    decoding = Decoding(30, temperature=1.0, top_p=0.95, top_k=50, seed=3)
    found = generate(lm, texts, decoding, 4)
    assert generate(lm, texts[:5], decoding, 64) == found[:5]
    assert generate(lm, texts[:12][::-1], decoding, 2)[::-1] == found[:12]
    assert [c.text for c in found[12:]] != [c.text for c in found[:3]], "repeats are samples of their own"
    assert generate(lm, texts, replace(decoding, seed=4), 4) != found


@pytest.mark.parametrize(("top_p", "top_k"), [(0.8, 12), (1.0, 0)])
def test_samples_follow_the_distribution_of_transformers_warpers(top_p, top_k):
    torch.manual_seed(0)
    logits = torch.randn(1, 30) * 2
    decoding = Decoding(temperature=0.7, top_p=top_p, top_k=top_k)
    warped = TopPLogitsWarper(top_p)(None, TopKLogitsWarper(top_k or 30)(None, logits / 0.7)).softmax(-1)[0]
    n = 40_000
    uniform = (torch.arange(n) + 0.5)[:, None] / n
    drawn = sample(logits.expand(n, -1), uniform, decoding).bincount(minlength=30) / n
    torch.testing.assert_close(drawn, warped, atol=1e-4, rtol=0)
    assert sample(logits, torch.tensor([[1 - 1e-7]]), decoding) in warped.nonzero()


def test_budget_forcing_replaces_early_ends_of_thought_only(lm):
    """The end-of-thought token is made the likeliest at every step: the plainest model of a hasty thinker."""
    close = lm.tokenizer.convert_tokens_to_ids("</think>")
    wait = len(lm.encode(["Wait,"])[0])
    head = lm.model.lm_head.register_forward_hook(
        lambda _m, _i, out: out.index_fill(-1, torch.tensor([close]), 1e4)
    )
    try:
        text = lm.chat.render("Hi")
        free = generate(lm, [text], Decoding(4))[0].text
        (found,) = generate(lm, [text], Decoding(5 * wait, forced_thought_tokens=2 * wait + 1))
        (twice,) = generate(lm, [text], Decoding(5 * wait, forced_thought_tokens=5 * wait, max_waits=2))
    finally:
        head.remove()
    assert free == "</think>" * 4
    assert found.text == "Wait," * 3 + "</think>" * 2 * wait
    assert twice.text == "Wait," * 2 + "</think>" * 3 * wait


def test_answers_carry_prompt_mode_and_parts(lm):
    prompts = ["How do I make a box?", "Hi"]
    for mode in ("off", "short", "on", "forced"):
        found = answer(lm, prompts, mode, Decoding(20, forced_thought_tokens=5))
        assert [a.prompt for a in found] == prompts
        assert {a.mode for a in found} == {mode}
        for a, done in zip(
            found, generate(lm, [lm.chat.render(p, mode) for p in prompts], Decoding(20)), strict=True
        ):
            if mode != "forced":
                reply = lm.chat.split(done.text, mode)
                assert (a.thought, a.answer, a.closed) == (reply.thought, reply.answer, reply.closed)
                assert a.n_tokens == done.n_tokens
            assert a.n_thought_tokens == len(lm.encode([a.thought])[0])


def test_nothing_asked_is_nothing_answered(lm):
    assert generate(lm, []) == []


def test_completions_stop_at_the_end_of_the_context(lm):
    context = lm.model.config.max_position_embeddings
    text = " box" * 5000
    ids = lm.encode([text])[0][: context - 3]
    (found,) = generate(lm, [lm.tokenizer.decode(ids)], Decoding(50))
    assert found.n_tokens <= 3 + 1
    with pytest.raises(SaferlrmError, match=rf"prompt 2 of 3 has \d+ tokens, the model holds {context}; shorten"):
        generate(lm, ["a", text, "b"])


@pytest.mark.parametrize(
    "options",
    [{"max_new_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"top_k": -1}, {"max_waits": -1}],
)
def test_impossible_decoding_is_refused_by_name(options):
    with pytest.raises(SaferlrmError, match=next(iter(options))):
        Decoding(**options)


def test_bad_requests_say_what_to_do(lm):
    with pytest.raises(SaferlrmError, match="empty"):
        generate(lm, [""])
    with pytest.raises(SaferlrmError, match="batch_size"):
        generate(lm, ["a"], batch_size=0)
    with pytest.raises(SaferlrmError, match="forced_thought_tokens"):
        answer(lm, ["a"], "forced", Decoding())


def test_a_prefilled_thought_is_continued_and_belongs_to_the_thought(lm):
    told = answer(lm, ["box apple", "desk"], "on", Decoding(max_new_tokens=8), openings=["I can say", ""])
    assert told[0].thought.startswith("I can say")
    alone = generate(lm, [lm.chat.render_opened("box apple", "I can say")], Decoding(max_new_tokens=8))
    assert told[0].n_tokens == alone[0].n_tokens
    assert told[1] == answer(lm, ["desk"], "on", Decoding(max_new_tokens=8))[0]


def test_openings_need_a_thought_to_open(lm):
    for mode, openings in (("off", ["x"]), ("on", [])):
        with pytest.raises(SaferlrmError, match="one opening a prompt"):
            answer(lm, ["desk"], mode, Decoding(max_new_tokens=2), openings=openings)


@contextlib.contextmanager
def little_memory(megabytes: int) -> Iterator[None]:
    """This process may take so much more address space than it has: the allocator of torch then really fails."""
    import resource

    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + megabytes * 2**20, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


needs_limits = pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory of a process")


@pytest.fixture
def eager(tiny_lm_folder) -> LanguageModel:
    """Attention that writes all its weights down: 4 heads x 480 x 480 x 4 bytes are 3.7 MB a prompt and copy."""
    return load_lm(tiny_lm_folder, device="cpu", attn_implementation="eager")


@needs_limits
def test_where_memory_runs_out_fewer_rows_go_on_with_the_same_results(eager, capsys):
    generating._say_once.cache_clear()
    texts = [" box" * 470 + f" {word}" for word in [*WORDS, *"abcdefghijklmnopqrs"]]
    decoding = Decoding(4, temperature=1.0)
    expected = generate(eager, texts, decoding, 8)
    with little_memory(100):
        found = generate(eager, texts, decoding, 32)
    said = capsys.readouterr().err
    assert found == expected
    assert "out of memory with 32 rows in flight" in said
    assert "decoding.batch_size" in said
    assert said.count("out of memory with 32") == 1


@needs_limits
def test_no_memory_for_a_single_prompt_names_the_settings_to_change(eager):
    with little_memory(100), pytest.raises(SaferlrmError, match=r"single prompt.*decoding\.max_new_tokens.*dtype"):
        generate(eager, ["box", "desk"], Decoding(100_000_000), 2)


def test_other_errors_of_torch_are_not_taken_for_a_lack_of_memory(lm):
    def fail(*_: object) -> None:
        raise RuntimeError("shapes do not match")

    hook = lm.model.lm_head.register_forward_hook(fail)
    try:
        with pytest.raises(RuntimeError, match="shapes"):
            generate(lm, ["a", "b"], Decoding(2))
    finally:
        hook.remove()


def test_several_devices_give_the_results_of_one(tiny_lm_folder):
    one = load_lm(tiny_lm_folder, device="cpu")
    two = replicate(one, ["cpu"], path_or_id=tiny_lm_folder)
    texts = [*rendered(one, 20), *rendered(one, 4)]  # the first four come twice
    decoding = Decoding(12, temperature=1.0, top_p=0.9)
    assert generate(two, texts, decoding, 4) == generate(one, texts, decoding, 4)
    greedy = Decoding(12)
    prompts = [f"box {i}" for i in range(9)]
    assert answer(two, prompts, "on", greedy, 2) == answer(one, prompts, "on", greedy, 2)
    (pool,) = two._pools
    assert len(pool._processes) == 1, "one more process, kept between calls"

    close = one.tokenizer.convert_tokens_to_ids("</think>")
    hook = two.model.lm_head.register_forward_hook(lambda _m, _i, out: out.index_fill(-1, torch.tensor([close]), 1e4))
    try:
        assert {found.text for found in generate(two, texts, Decoding(2), 4)} == {"</think>" * 2}, "hooks act on all"
    finally:
        hook.remove()

    for process in pool._processes.values():
        process.kill()
    with pytest.raises(SaferlrmError, match=r"process that samples on another device ended.*batch_size"):
        generate(two, texts, decoding, 4)
    with pytest.raises(SaferlrmError, match="prompt 1 of 1 is empty"):
        generate(two, [""])
    assert further_devices(one, "auto") == (), "a small model stays on one device"
