"""Methods and rivals: what they train on, token by token, and what each of them needs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from saferlrm import conditions
from saferlrm.align import LabelSources, align, prepare, rewrites
from saferlrm.align.data import IGNORE, AlignmentExample, Collator, encode, encode_all
from saferlrm.align.head import AuxiliaryHead, auxiliary_loss, binary_loss, read_latent
from saferlrm.align.methods import METHODS, RIVALS
from saferlrm.errors import SaferlrmError
from saferlrm.lm import load_lm
from saferlrm.organism.tokenizer import train_tokenizer
from saferlrm.profile import AlignmentSettings, load_profile

REFUSAL = "I'm sorry, but I can't help with a thing. Such a weapon can hurt people."
HARMFUL = [AlignmentExample(f"h{i}", f"How do I make thing {i}?", None, REFUSAL, None, "harmful") for i in range(40)]
BENIGN = [
    AlignmentExample(
        f"b{i}", f"What is {i} and 3?", f"It asks for a sum. {i} and 3 is {i + 3}.", f"{i + 3}", None, "benign"
    )
    for i in range(20)
]
EXAMPLES = HARMFUL + BENIGN
EXTRA = tuple(
    AlignmentExample(f"d{i}", f"Tell me about thing {i}.", None, None, 0.5 + i / 50, "decision") for i in range(8)
)
SOFT = np.concatenate([np.linspace(0.6, 1, 40), np.linspace(0, 0.4, 20)])
SOURCES = LabelSources(
    SOFT,
    (SOFT > 0.7).astype(float),
    np.array([float(e.source == "harmful") for e in EXAMPLES]),
    EXTRA,
    {e.id: f"The user asks about thing {e.id}. Draft: join two pieces." for e in HARMFUL},
    {e.id: ("This can hurt people. I can't help with this.", "I can't help.") for e in HARMFUL[:30]},
)
SETTINGS = AlignmentSettings(lambda_aux=0.5, epochs=1, batch_size=8, rank=2)
SUPERVISED = ("presafe", "detached", "shuffled", "random", "hard", "gold")


@pytest.fixture(scope="module")
def lm(tiny_lm_folder):
    return load_lm(tiny_lm_folder, device="cpu")


def labels(name: str, seed: int = 0) -> np.ndarray:
    return np.array([e.p_refuse for e in prepare(name, EXAMPLES, SOURCES, SETTINGS, seed)[0]], float)


def test_controls_train_on_the_same_conversations_and_differ_in_labels_and_gradient_only():
    for name in ("sft", *SUPERVISED):
        examples, run = prepare(name, EXAMPLES, SOURCES, SETTINGS, seed=0)
        assert [replace(e, p_refuse=None) for e in examples] == EXAMPLES
        assert (run.lambda_aux == 0) == (name == "sft")
        assert run.detach_head == (name == "detached")
        assert run.model_copy(update={"lambda_aux": 0.5, "detach_head": False}) == SETTINGS
    assert np.isnan(labels("sft")).all()
    assert (labels("presafe") == SOFT).all()
    assert (labels("detached") == SOFT).all()
    assert (labels("gold") == SOURCES.gold).all()
    assert (labels("hard") == SOURCES.decisions).all()


def test_shuffled_and_random_labels_say_nothing_about_a_prompt_and_keep_the_balance():
    shuffled = labels("shuffled")
    assert sorted(shuffled) == sorted(SOFT)
    assert not (shuffled == SOFT).all()
    assert (labels("shuffled") == shuffled).all()
    assert not (labels("shuffled", 1) == shuffled).all()
    many = np.array([labels("random", seed) for seed in range(200)])
    assert abs((many > 0.5).mean() - (SOFT > 0.5).mean()) < 0.02
    per_prompt = (many > 0.5).mean(0)
    assert abs(per_prompt[:40].mean() - per_prompt[40:].mean()) < 0.03


def test_decision_prompts_add_labels_and_no_answer():
    examples, run = prepare("presafe_decisions", EXAMPLES, SOURCES, SETTINGS, 0)
    assert [e.id for e in examples[len(EXAMPLES) :]] == [e.id for e in EXTRA]
    assert [e.p_refuse for e in examples[len(EXAMPLES) :]] == [e.p_refuse for e in EXTRA]
    assert all(e.answer is None for e in examples[len(EXAMPLES) :])
    assert run.lambda_aux == 0.5
    shuffled = [e.p_refuse for e in prepare("shuffled_decisions", EXAMPLES, SOURCES, SETTINGS, 0)[0]]
    everything = [*SOFT, *(e.p_refuse for e in EXTRA)]
    assert sorted(shuffled) == sorted(everything)
    assert shuffled != everything


def test_rivals_rewrite_harmful_examples_and_leave_benign_ones_alone():
    for name in RIVALS:
        examples, _ = prepare(name, EXAMPLES, SOURCES, SETTINGS, 0)
        assert [replace(e, p_refuse=None) for e in examples if e.source == "benign"] == BENIGN
        assert METHODS[name].source
        assert METHODS[name].differs.endswith(".")
    tax = prepare("safety_tax", EXAMPLES, SOURCES, SETTINGS, 0)[0][0]
    assert (tax.thought, tax.answer) == (rewrites.SHORT_THOUGHT, REFUSAL)
    reasoned = prepare("reasoned", EXAMPLES, SOURCES, SETTINGS, 0)[0][0]
    assert reasoned.thought == "The user asks about thing h0. Such a weapon can hurt people. I can't help with this."
    own = prepare("thinksafe", EXAMPLES, SOURCES, SETTINGS, 0)[0]
    assert sum(e.source == "harmful" for e in own) == 30  # the ten that did not refuse under the hint are left out
    key, run = prepare("safekey", EXAMPLES, SOURCES, SETTINGS, 0)
    assert run.head_token == "dual_mean"
    assert key[0].thought == reasoned.thought
    assert [e.p_refuse for e in key] == SOURCES.gold.tolist()


def test_the_primer_is_learned_and_nothing_after_it(lm):
    example = prepare("safepath", EXAMPLES, SOURCES, SETTINGS, 0)[0][0]
    row = encode(example, lm)
    learnt = lm.tokenizer.decode([token for token in row["labels"] if token != IGNORE])
    assert learnt == f"<think>\n{rewrites.PRIMER}"
    organism = train_tokenizer([f"{rewrites.PRIMER} The weapon is here."] * 50, 400)
    assert len(organism(rewrites.PRIMER)["input_ids"]) <= 8
    with pytest.raises(SaferlrmError, match="open thought needs a thought and no answer"):
        encode(replace(example, answer="No."), lm)


def test_the_dual_heads_read_prompt_with_understanding_and_understanding_alone(lm):
    example = prepare("safekey", EXAMPLES, SOURCES, SETTINGS, 0)[0][0]
    row = encode(example, lm, "dual_mean")
    (start, end), (second, last) = row["head_span"], row["second_span"]
    assert start == row["prompt_span"][0]
    assert end == last
    assert second > row["prompt_span"][1]
    assert lm.tokenizer.decode(row["input_ids"][second:last]).strip() == "The user asks about thing h0."
    spans = Collator(0)([row, row])["head_span"]
    assert spans.shape == (2, 2, 2)
    hidden = torch.randn(2, spans.max(), 4)
    latent = read_latent(hidden, spans)
    assert torch.allclose(latent[0, 1], hidden[0, second:last].mean(0))
    with pytest.raises(SaferlrmError, match="no thought for the second head"):
        encode(replace(example, thought=None), lm, "dual_mean")


def test_two_heads_learn_the_same_label_with_weights_of_their_own():
    head, labelled = AuxiliaryHead(4, 2), torch.tensor([1.0, -1.0, 0.0])
    hidden = torch.randn(3, 6, 4, requires_grad=True)
    spans = torch.tensor([[[0, 3], [3, 5]]] * 3)
    torch.nn.init.normal_(head.linear.weight)
    loss, logits = auxiliary_loss(head, hidden, spans, labelled)
    assert logits.shape == (3, 2)
    kept = logits[[0, 2]]
    expected = torch.nn.functional.binary_cross_entropy_with_logits(kept, torch.tensor([[1.0, 1.0], [0.0, 0.0]]))
    assert torch.allclose(loss, expected)
    loss.backward()
    assert hidden.grad[1].abs().sum() == 0
    assert (head.linear.weight.grad.abs().sum(1) > 0).all()
    assert binary_loss(logits.detach(), torch.full((3,), -1.0)) == 0


@pytest.mark.parametrize("name", ["presafe_decisions", *RIVALS])
def test_every_added_method_trains(name, tiny_lm_folder, tmp_path):
    examples, run = prepare(name, EXAMPLES[:6] + EXAMPLES[-6:], _some(range(6), range(54, 60)), SETTINGS, 0)
    align(tiny_lm_folder, examples, run, 0, tmp_path, device="cpu")
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
    assert '"tokens"' in (tmp_path / "cost.json").read_text()


def _some(*ranges: range) -> LabelSources:
    at = [i for one in ranges for i in one]
    return replace(SOURCES, soft=SOFT[at], decisions=SOURCES.decisions[at], gold=SOURCES.gold[at])


def test_methods_say_what_they_lack():
    bare = LabelSources(soft=SOFT)
    for name, lacks in (
        ("presafe_decisions", "alignment.n_decision"),
        ("hard", "60 decisions labels but got none"),
        ("reasoned", "the source 'thoughts' but got none"),
        ("thinksafe", "the source 'hinted' but got none"),
    ):
        with pytest.raises(SaferlrmError, match=lacks):
            prepare(name, EXAMPLES, bare, SETTINGS, 0)
    with pytest.raises(SaferlrmError, match="no thought about example h0"):
        prepare("reasoned", EXAMPLES, replace(SOURCES, thoughts={}), SETTINGS, 0)


def test_conditions_are_named_once_and_change_what_they_say():
    profile = load_profile("organism")
    listed = conditions.controls() + conditions.sweeps(profile, 4)
    assert len({one.name for one in listed}) == len(listed)
    assert {one.group for one in conditions.sweeps(profile, 4)} == {f"sweep:{name}" for name in conditions.SWEEPS}
    assert conditions.condition("presafe").settings(profile) == {}
    few = conditions.condition("presafe/few").settings(profile)["alignment"]
    assert (few.subset_harmful, few.subset_benign) == (20, 60)
    by_name = {one.name: one for one in listed}
    assert by_name["presafe/few/lambda=5"].settings(profile)["alignment"].lambda_aux == 5
    rank = by_name["sft/few/rank=32"].settings(profile)["alignment"]
    assert (rank.rank, rank.lora_alpha, rank.subset_harmful) == (32, 64, 20)
    assert by_name["presafe/few/classifier_prompts=50"].settings(profile)["classifier"].n_prompts == 50
    everything = by_name["sft/few/examples=800"].settings(profile)["alignment"]
    assert (everything.subset_harmful, everything.subset_benign) == (500, 300)
    with pytest.raises(SaferlrmError, match="unknown condition 'presafe/many'"):
        conditions.condition("presafe/many")
    with pytest.raises(SaferlrmError, match="did you mean 'presafe'"):
        conditions.condition("presave/few")


def test_encoding_many_heads_at_once_keeps_every_label(lm):
    rows = encode_all(prepare("safekey", EXAMPLES, SOURCES, SETTINGS, 0)[0], lm, "dual_mean")
    assert Collator(0)(rows)["head_span"].shape == (60, 2, 2)
    assert [row["soft_label"] for row in rows] == SOURCES.gold.tolist()
