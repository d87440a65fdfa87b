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
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging as transformers_logging

from saferlrm.chat import ChatFormat
from saferlrm.errors import SaferlrmError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "auto": "auto"}
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
    attn_implementation: str | None = None,
) -> LanguageModel:
    """Load a checkpoint folder or a hub model, with an optional LoRA adapter merged into its weights.

    Args:
        path_or_id: a folder with ``config.json``, safetensors and a tokenizer, or a name on the hub.
        adapter: a folder saved by peft, or ``None``.
        dtype: ``float32``, ``bfloat16``, ``float16`` or ``auto`` (as stored).
        device: ``auto`` (the first CUDA device if there is one, else the CPU) or a torch device.
        attn_implementation: passed to transformers; ``None`` leaves the choice to it.

    Raises:
        SaferlrmError: whatever keeps the model from being a usable reasoning model, in one line.
    """
    if dtype not in _DTYPES:
        raise SaferlrmError(f"unknown dtype {dtype!r}; choose one of {', '.join(_DTYPES)}")
    name = str(path_or_id)
    config = _load_config(path_or_id)
    if Path(path_or_id).is_dir():
        _check_weights(Path(path_or_id), "*.safetensors")
    try:
        tokenizer = AutoTokenizer.from_pretrained(path_or_id)
    except Exception as error:
        raise SaferlrmError(
            f"no usable tokenizer in {name} ({_short(error)}); save one into the folder"
        ) from error
    # Without its files transformers builds a tokenizer with an empty vocabulary, and says nothing.
    if not tokenizer("a", add_special_tokens=False)["input_ids"]:
        raise SaferlrmError(f"the tokenizer of {name} knows no text; save one into the folder")
    if len(tokenizer) > config.get_text_config().vocab_size:
        raise SaferlrmError(f"the tokenizer of {name} has tokens that the model lacks; save its own")
    chat = _detect(tokenizer, name)
    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()  # else every load leaves a bar in notebooks and logs
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            path_or_id,
            config=config,
            dtype=_DTYPES[dtype],
            attn_implementation=attn_implementation,
            use_safetensors=True,
            output_loading_info=True,
        )
    except Exception as error:
        raise SaferlrmError(f"cannot load the weights of {name} ({_short(error)}); save it again") from error
    if report["missing_keys"] or report["mismatched_keys"]:
        lost = sorted(report["missing_keys"]) or sorted(key[0] for key in report["mismatched_keys"])
        raise SaferlrmError(
            f"the weights of {name} do not fit its config (first: {lost[0]}); save the model again"
        )
    if adapter is not None:
        model = _merge(model, Path(adapter))
    target = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    try:
        model = model.to(target).eval()
    except (RuntimeError, AssertionError) as error:
        raise SaferlrmError(
            f"cannot put the model on {target!r} ({_short(error)}); try --device cpu"
        ) from error
    return LanguageModel(model, tokenizer, chat, name if adapter is None else f"{name} + {adapter}")


def _load_config(path_or_id: str | Path) -> Any:
    """The config of a causal language model, or an error that tells the ways this fails apart."""
    name, folder = str(path_or_id), Path(path_or_id)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise SaferlrmError(
                f"the folder {name} has no config.json; give a folder saved by save_pretrained"
            )
    elif isinstance(path_or_id, Path) or folder.exists() or not _HUB_NAME.fullmatch(name):
        raise SaferlrmError(f"there is no model folder {name}; check the path")
    try:
        config = AutoConfig.from_pretrained(path_or_id)
    except OSError as error:
        if folder.is_dir():
            raise SaferlrmError(
                f"{name}/config.json cannot be read ({_short(error)}); save the model again"
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
        raise SaferlrmError(
            f"{name} is a {architecture}, not a causal language model; choose a ...ForCausalLM"
        )
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
            raise SaferlrmError(
                f"{file} is truncated or damaged ({_short(error)}); copy or grow it again"
            ) from error


def _merge(model: PreTrainedModel, adapter: Path) -> PreTrainedModel:
    from peft import PeftModel  # slow to import, and most loads have no adapter

    try:
        json.loads((adapter / "adapter_config.json").read_text())
    except (OSError, ValueError) as error:
        raise SaferlrmError(f"{adapter} is no adapter folder (no readable adapter_config.json)") from error
    _check_weights(adapter, "adapter_model.safetensors")
    try:
        return PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    except (ValueError, RuntimeError, KeyError) as error:
        raise SaferlrmError(
            f"the adapter {adapter} does not fit this model ({_short(error)}); train it anew"
        ) from error


def _detect(tokenizer: PreTrainedTokenizerBase, name: str) -> ChatFormat:
    try:
        return ChatFormat.detect(tokenizer)
    except SaferlrmError as error:
        raise SaferlrmError(f"{name}: {error}") from error


def _short(error: Exception) -> str:
    """The first sentence of a library's message, on one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    first = re.split(r"(?<=[.!?])\s", text)[0]
    return first.rstrip(".") if len(first) <= 160 else first[:157] + "..."
