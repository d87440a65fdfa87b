"""Loading a reasoning language model, with errors that say what to do.

Weights are read from safetensors only; no code that comes with a model is run.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging as transformers_logging

from saferlrm.chat import ChatFormat
from saferlrm.errors import SaferlrmError
from saferlrm.placement import DTYPES, out_of_memory, placement_options, resolve_device, too_large
from saferlrm.profile import LoadingSettings

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass
class LanguageModel:
    """A causal language model in evaluation mode with its tokenizer and chat format.

    ``reads_last`` is for hooks that act on the last token of a prompt: during a call of the model by
    :mod:`saferlrm.generate`, which rows [batch] read it in their last column; ``None`` at all other times.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    chat: ChatFormat
    name: str
    reads_last: torch.Tensor | None = field(default=None, repr=False, compare=False)

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def n_layers(self) -> int:
        return self.model.config.get_text_config().num_hidden_layers

    @property
    def hidden_size(self) -> int:
        return self.model.config.get_text_config().hidden_size

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Token ids of rendered texts; the chat template has already written the special tokens."""
        return self.tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []


def load_lm(
    path_or_id: str | Path,
    adapter: str | Path | None = None,
    dtype: str = "float32",
    device: str = "auto",
    loading: LoadingSettings | None = None,
    *,
    attn_implementation: str | None = None,
) -> LanguageModel:
    """Load a checkpoint folder or a hub model, with an optional LoRA adapter merged into its weights.

    Beside weights in 4 bits the adapter stays unmerged: merging would round it away.

    Args:
        path_or_id: a folder with ``config.json``, safetensors and a tokenizer, or a name on the hub.
        adapter: a folder saved by peft, or ``None``.
        dtype: ``float32``, ``bfloat16``, ``float16`` or ``auto`` (as stored).
        device: ``auto`` (a CUDA device if there is one, this process's own under a launcher, else the CPU) or a torch
            device.
        loading: kernels, quantization, placement and chat template; the defaults of the profile if ``None``.
        attn_implementation: kernels by transformers' name, in place of ``loading.attention``.

    Raises:
        SaferlrmError: whatever keeps the model from being a usable reasoning model, in one line.
    """
    if dtype not in DTYPES:
        raise SaferlrmError(f"unknown dtype {dtype!r}; choose one of {', '.join(DTYPES)}")
    loading = loading or LoadingSettings()
    target = resolve_device(device)
    attention = attn_implementation or (None if loading.attention == "auto" else loading.attention)
    try:
        return _load(
            path_or_id, adapter, dtype, target, loading, attention, placement_options(loading, device, target, dtype)
        )
    except Exception as error:
        if isinstance(error, SaferlrmError) or not out_of_memory(error):
            raise
        raise too_large(str(path_or_id), target, dtype, loading) from error


def _load(
    path_or_id: str | Path,
    adapter: str | Path | None,
    dtype: str,
    target: str,
    loading: LoadingSettings,
    attention: str | None,
    placement: dict[str, Any],
) -> LanguageModel:
    """:func:`load_lm` with settings resolved; a lack of memory is passed on as it comes."""
    name = str(path_or_id)
    config = _load_config(path_or_id)
    if Path(path_or_id).is_dir():
        _check_weights(Path(path_or_id), "*.safetensors")
    tokenizer = load_tokenizer(path_or_id)
    if len(tokenizer) > config.get_text_config().vocab_size:
        raise SaferlrmError(f"the tokenizer of {name} has tokens that the model lacks; save its own")
    chat = _detect(tokenizer, name, loading)
    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()  # else every load leaves a bar in notebooks and logs
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            path_or_id,
            config=config,
            dtype=DTYPES[dtype],
            attn_implementation=attention,
            use_safetensors=True,
            output_loading_info=True,
            **placement,
        )
    except Exception as error:
        if out_of_memory(error):
            raise
        if attention and (isinstance(error, ImportError) or "attention" in str(error).lower()):
            raise SaferlrmError(
                f"loading.attention={attention} cannot be used here ({_short(error)}); set it to auto or sdpa"
            ) from error
        raise SaferlrmError(f"cannot load the weights of {name} ({_short(error)}); save it again") from error
    if report["missing_keys"] or report["mismatched_keys"]:
        lost = sorted(report["missing_keys"]) or sorted(key[0] for key in report["mismatched_keys"])
        raise SaferlrmError(f"the weights of {name} do not fit its config (first: {lost[0]}); save the model again")
    if torch.cuda.is_available() and set(getattr(model, "hf_device_map", {}).values()) & {"cpu", "disk"}:
        raise too_large(name, "the GPUs", dtype, loading)
    if adapter is not None:
        model = _adapt(model, Path(adapter), merge=loading.quantization == "none")
    try:
        model = model.eval() if placement else model.to(target).eval()
    except (RuntimeError, AssertionError) as error:
        if out_of_memory(error):
            raise
        raise SaferlrmError(f"cannot put the model on {target!r} ({_short(error)}); try --device cpu") from error
    return LanguageModel(model, tokenizer, chat, name if adapter is None else f"{name} + {adapter}")


def load_tokenizer(path_or_id: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or hub model; one that loses text is mended or refused.

    Raises:
        SaferlrmError: there is no tokenizer, or none that gives back the text it reads.
    """
    name = str(path_or_id)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path_or_id)
    except Exception as error:
        raise SaferlrmError(f"no usable tokenizer in {name} ({_short(error)}); save one into the folder") from error
    # Without its files transformers builds a tokenizer with an empty vocabulary, and says nothing.
    if not tokenizer("a", add_special_tokens=False)["input_ids"]:
        raise SaferlrmError(f"the tokenizer of {name} knows no text; save one into the folder")
    return _faithful(tokenizer, path_or_id)


def _faithful(tokenizer: PreTrainedTokenizerBase, path_or_id: str | Path) -> PreTrainedTokenizerBase:
    """A tokenizer that gives back the text it reads.

    DeepSeek's distillations declare Llama's tokenizer class, for which some versions of transformers 5 replace the
    byte-level parts of ``tokenizer.json`` and so lose all spaces (huggingface/transformers#45488). The file itself is
    right, and the plain class takes it as it is.
    """
    if _keeps_text(tokenizer):
        return tokenizer
    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(path_or_id)
    except Exception as error:
        raise SaferlrmError(
            f"the tokenizer of {path_or_id} loses white space, and has no tokenizer.json ({_short(error)}); save one"
        ) from error
    if not _keeps_text(tokenizer):
        raise SaferlrmError(f"the tokenizer of {path_or_id} does not give back the text it reads; save its own")
    return tokenizer


def _keeps_text(tokenizer: PreTrainedTokenizerBase) -> bool:
    text = "Two words,\nand two lines."
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return tokenizer.decode(ids, clean_up_tokenization_spaces=False).strip() == text


def _load_config(path_or_id: str | Path) -> Any:
    """The config of a causal language model, or an error that tells the ways this fails apart."""
    name, folder = str(path_or_id), Path(path_or_id)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise SaferlrmError(f"the folder {name} has no config.json; give a folder saved by save_pretrained")
    elif isinstance(path_or_id, Path) or folder.exists() or not _HUB_NAME.fullmatch(name):
        raise SaferlrmError(f"there is no model folder {name}; check the path")
    try:
        config = AutoConfig.from_pretrained(path_or_id)
    except OSError as error:
        if folder.is_dir():
            raise SaferlrmError(f"{name}/config.json cannot be read ({_short(error)}); save the model again") from error
        if "gated repo" in str(error):
            raise SaferlrmError(
                f"{name} is gated; accept its terms on its page, then log in with `hf auth login` or set HF_TOKEN"
            ) from error
        raise SaferlrmError(
            f"there is no folder {name}, and the model hub does not give it "
            f"({_short(error)}); check the name, your connection, or HF_HUB_OFFLINE"
        ) from error
    except (ValueError, KeyError) as error:
        raise SaferlrmError(f"{name} has no model type that transformers knows ({_short(error)})") from error
    architecture = (config.architectures or [type(config).__name__])[0]
    causal = (
        architecture in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
        if config.architectures
        else (config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    )
    if not causal:
        raise SaferlrmError(f"{name} is a {architecture}, not a causal language model; choose a ...ForCausalLM")
    return config


def _check_weights(folder: Path, pattern: str) -> None:
    """Open every safetensors file: its header tells the length, so a truncated file shows before loading."""
    files = sorted(folder.glob(pattern))
    if not files:
        raise SaferlrmError(
            f"the folder {folder} holds no {pattern}; only safetensors are loaded, so convert the weights"
        )
    for file in files:
        try:
            with safe_open(file, framework="pt") as weights:
                weights.keys()
        except (SafetensorError, OSError) as error:
            raise SaferlrmError(f"{file} is truncated or damaged ({_short(error)}); copy or grow it again") from error


def _adapt(model: PreTrainedModel, adapter: Path, merge: bool) -> PreTrainedModel:
    """The model with an adapter in its weights, or beside them."""
    from peft import PeftModel  # slow to import, and most loads have no adapter

    try:
        json.loads((adapter / "adapter_config.json").read_text())
    except (OSError, ValueError) as error:
        raise SaferlrmError(f"{adapter} is no adapter folder (no readable adapter_config.json)") from error
    _check_weights(adapter, "adapter_model.safetensors")
    try:
        if merge:
            return PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
        model.load_adapter(str(adapter))
        return model
    except (ValueError, RuntimeError, KeyError) as error:
        if out_of_memory(error):
            raise
        raise SaferlrmError(
            f"the adapter {adapter} does not fit this model ({_short(error)}); train it anew"
        ) from error


def _detect(tokenizer: PreTrainedTokenizerBase, name: str, loading: LoadingSettings) -> ChatFormat:
    try:
        return ChatFormat.detect(tokenizer, loading.thinking, loading.system_prompt)
    except SaferlrmError as error:
        raise SaferlrmError(f"{name}: {error}") from error


def _short(error: Exception) -> str:
    """The first sentence of a library's message, on one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    first = re.split(r"(?<=[.!?])\s", text)[0]
    return first.rstrip(".") if len(first) <= 160 else first[:157] + "..."
