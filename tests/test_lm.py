"""Models load with one call, and what keeps them from loading is said in one line."""

import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec

import psutil
import pytest
import torch
from peft import LoraConfig, get_peft_model
from processes import start_python
from tiny import PLAIN_TEMPLATE, merging_tokenizer, tiny_tokenizer, write_family, write_tiny_lm
from transformers import AutoModelForCausalLM, BertConfig, BertModel, LlamaTokenizerFast

from saferlrm.errors import SaferlrmError
from saferlrm.lm import _adapt, _faithful, _keeps_text, load_lm
from saferlrm.placement import out_of_memory
from saferlrm.profile import LoadingSettings
from saferlrm.study import Study


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
    BertModel(BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=9)).save_pretrained(
        tmp_path
    )
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
        ("{{ raise_exception('no') }}", "the chat template fails (no)"),
    ):
        (folder / "chat_template.jinja").unlink(missing_ok=True)
        tokenizer.chat_template = template
        tokenizer.save_pretrained(folder)
        assert message in refused(folder)


def test_a_model_without_any_sign_of_thoughts_is_refused_unless_the_setting_says_otherwise(tmp_path):
    folder = write_family("tags", tmp_path)
    merging_tokenizer(PLAIN_TEMPLATE, tags=False).save_pretrained(folder)
    message = refused(folder)
    assert str(folder) in message
    assert "cannot switch thinking off" in message
    assert "loading.thinking=tags" in message
    assert load_lm(folder, device="cpu", loading=LoadingSettings(thinking="tags")).chat.style == "tags"
    assert "no switch" in refused(folder, loading=LoadingSettings(thinking="switch"))


def test_settings_of_loading_reach_model_and_template(tiny_lm_folder):
    loading = LoadingSettings(attention="eager", thinking="opens", system_prompt="Be kind.")
    lm = load_lm(tiny_lm_folder, device="cpu", loading=loading)
    assert lm.model.config._attn_implementation == "eager"
    assert lm.chat.render("Hi").endswith("<think>\n")
    assert "Be kind." in lm.chat.render("Hi")
    study = Study("smoke", model=str(tiny_lm_folder), device="cpu", **{"loading.system_prompt": "Be kind."})
    assert "Be kind." in study.load().chat.render("Hi")


def test_a_model_is_placed_by_accelerate(tiny_lm_folder):
    placed = load_lm(tiny_lm_folder, loading=LoadingSettings(device_map="auto"))
    plain = load_lm(tiny_lm_folder)
    ids = torch.tensor([plain.encode(["Hello there"])[0]], device=plain.device)
    assert placed.device.type == plain.device.type
    with torch.no_grad():
        torch.testing.assert_close(placed.model(ids.to(placed.device)).logits, plain.model(ids).logits)
    message = refused(tiny_lm_folder, device="cpu", loading=LoadingSettings(device_map="auto"))
    assert "set device to auto, or loading.device_map to single" in message


def test_what_this_computer_lacks_is_named_with_the_setting(tiny_lm_folder):
    assert "loading.quantization=4bit needs a CUDA GPU; set it to none" in refused(
        tiny_lm_folder, device="cpu", loading=LoadingSettings(quantization="4bit")
    )
    if find_spec("flash_attn") is None:
        message = refused(tiny_lm_folder, device="cpu", loading=LoadingSettings(attention="flash_attention_2"))
        assert "loading.attention=flash_attention_2 cannot be used here" in message
        assert "set it to auto or sdpa" in message


def test_an_adapter_may_stay_beside_the_weights(tiny_lm_folder, tmp_path):
    """As with weights in 4 bits, into which it cannot be merged without loss."""
    base = AutoModelForCausalLM.from_pretrained(tiny_lm_folder)
    adapted = get_peft_model(base, LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    adapted.save_pretrained(tmp_path)
    lm = load_lm(tiny_lm_folder, device="cpu")
    ids = torch.tensor([lm.encode(["Hello there"])[0]])
    beside = _adapt(lm.model, tmp_path, merge=False).eval()
    with torch.no_grad():
        torch.testing.assert_close(beside(ids).logits, adapted.eval()(ids).logits)
    assert any("lora" in name for name, _ in beside.named_parameters())
    assert beside.get_decoder().layers[0] is lm.model.model.layers[0]


def test_a_model_that_does_not_fit_says_which_setting_to_change(tiny_lm_folder, tmp_path):
    resource = pytest.importorskip("resource", reason="limits the memory of a process as only Unix can")
    large = write_tiny_lm(tmp_path / "large", layers=1, hidden=1024)  # 44 MB
    load_lm(tiny_lm_folder, device="cpu")  # whatever loading itself needs is there
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = psutil.Process().memory_info().vms
    resource.setrlimit(resource.RLIMIT_AS, (used + 20_000_000, before[1]))
    try:
        message = refused(large, device="cpu")
        halved = refused(large, device="cpu", dtype="bfloat16")
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert message == (
        f"{large} in float32 does not fit into the memory of cpu; set dtype=bfloat16 (half the memory), or choose a "
        "smaller model"
    )
    assert "dtype=bfloat16" not in halved
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55)
    assert out_of_memory(caught.value)
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"))
    assert out_of_memory(RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"))
    assert out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"))
    assert not out_of_memory(RuntimeError("shapes do not match"))


class Gated(BaseHTTPRequestHandler):
    """The hub's answer to a request without a token for a model with terms."""

    def do_GET(self):
        self.send_response(401)
        self.send_header("X-Error-Code", "GatedRepo")
        self.end_headers()

    def do_HEAD(self):
        self.do_GET()

    def log_message(self, *_):
        pass


def test_a_gated_model_says_how_to_get_it(tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Gated)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    code = "from saferlrm.lm import load_lm\ntry: load_lm('some/model')\nexcept Exception as error: print(error)"
    address = f"http://127.0.0.1:{server.server_port}"
    process = start_python("-c", code, HF_HUB_OFFLINE="0", HF_ENDPOINT=address, HF_HOME=str(tmp_path))
    out, err = process.communicate(timeout=120)
    server.shutdown()
    server.server_close()
    assert out.startswith("some/model is gated; accept its terms on its page, then log in"), err[-500:]
    assert out.count("\n") == 1


def test_a_tokenizer_that_loses_white_space_is_read_anew(tmp_path):
    """The class that R1's distillations declare drops all spaces in some versions of transformers."""
    folder, text = write_family("r1_llama", tmp_path), "How do I make a box?"
    broken = LlamaTokenizerFast.from_pretrained(folder)
    ids = broken(text, add_special_tokens=False)["input_ids"]
    assert (broken.decode(ids) == text) == _keeps_text(broken)
    for tokenizer in (_faithful(broken, folder), load_lm(folder, device="cpu").tokenizer):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == text
        assert tokenizer.chat_template == broken.chat_template
    (folder / "tokenizer.json").unlink()
    if not _keeps_text(broken):
        with pytest.raises(SaferlrmError, match="loses white space"):
            _faithful(broken, folder)


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
