"""Models load with one call, and what keeps them from loading is said in one line."""

import json
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny import tiny_tokenizer
from transformers import AutoModelForCausalLM, BertConfig, BertModel

from saferlrm.errors import SaferlrmError
from saferlrm.lm import load_lm


@pytest.fixture
def folder(tiny_lm_folder, tmp_path):
    """A copy that a test may spoil."""
    return shutil.copytree(tiny_lm_folder, tmp_path / "model")


def refused(*args, **kwargs) -> str:
    with pytest.raises(SaferlrmError) as caught:
        load_lm(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_folder_loads_ready_for_use(tiny_lm_folder):
    lm = load_lm(str(tiny_lm_folder), device="cpu")
    assert not lm.model.training
    assert (lm.n_layers, lm.hidden_size, lm.device.type) == (2, 32, "cpu")
    assert lm.model.dtype == torch.float32
    assert load_lm(tiny_lm_folder, dtype="bfloat16", device="cpu").model.dtype == torch.bfloat16
    assert lm.encode(["<|im_start|>Hi"])[0][0] == lm.tokenizer.convert_tokens_to_ids("<|im_start|>")


def test_an_adapter_is_merged_into_the_weights(tiny_lm_folder, tmp_path):
    base = AutoModelForCausalLM.from_pretrained(tiny_lm_folder)
    adapted = get_peft_model(base, LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "adapter")
    lm = load_lm(tiny_lm_folder, tmp_path / "adapter", device="cpu")
    ids = torch.tensor([lm.encode(["Hello there"])[0]])
    with torch.no_grad():
        torch.testing.assert_close(lm.model(ids).logits, adapted.eval()(ids).logits, atol=1e-4, rtol=1e-4)
    assert not any("lora" in name for name, _ in lm.model.named_parameters())
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "truncated or damaged" in refused(tiny_lm_folder, tmp_path / "adapter")
    assert "no adapter folder" in refused(tiny_lm_folder, tmp_path / "nothing")


def test_a_missing_folder_is_named(tmp_path):
    assert "there is no model folder" in refused(tmp_path / "nothing")
    assert "there is no model folder" in refused(str(tmp_path / "nothing"))


def test_a_name_that_the_hub_does_not_give_says_so():
    message = refused("nobody/nothing")
    assert "no folder nobody/nothing" in message
    assert "hub" in message


def test_a_folder_without_config_says_what_to_give(folder):
    (folder / "config.json").unlink()
    assert "config.json" in refused(folder)


@pytest.mark.parametrize("text", ["{", "{}", '{"model_type": "no-such-type"}'])
def test_a_spoilt_config_is_refused(folder, text):
    (folder / "config.json").write_text(text)
    assert str(folder) in refused(folder)


def test_a_model_of_another_kind_is_named(tmp_path):
    BertModel(
        BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=9)
    ).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    assert "BertModel, not a causal language model" in refused(tmp_path)


def test_truncated_and_missing_weights_are_told_apart(folder):
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    for part in (whole[:-1000], whole[:20], b""):
        weights.write_bytes(part)
        assert "truncated or damaged" in refused(folder)
    weights.unlink()
    assert "holds no *.safetensors" in refused(folder)


def test_weights_of_another_shape_are_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    config["num_hidden_layers"] = 3
    config.pop("layer_types", None)
    (folder / "config.json").write_text(json.dumps(config))
    assert "do not fit its config" in refused(folder)


def test_a_tokenizer_that_cannot_chat_is_refused(folder):
    tokenizer = tiny_tokenizer()
    for template, message in (
        (None, "no chat template"),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "cannot switch thinking off"),
    ):
        (folder / "chat_template.jinja").unlink(missing_ok=True)
        tokenizer.chat_template = template
        tokenizer.save_pretrained(folder)
        assert message in refused(folder)


def test_a_missing_tokenizer_is_refused(folder):
    for file in folder.glob("*token*"):
        file.unlink()
    assert "tokenizer" in refused(folder)


def test_a_tokenizer_of_another_model_is_refused(folder):
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([f"<extra{i}>" for i in range(9)])
    tokenizer.save_pretrained(folder)
    assert "tokens that the model lacks" in refused(folder)


def test_unknown_settings_name_the_choices(folder):
    assert "float32" in refused(folder, dtype="float17")
    assert "cannot put the model on" in refused(folder, device="cuda:99")
