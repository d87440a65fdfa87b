"""Where a model's weights go: devices, 4-bit weights, several GPUs, and what to change when memory is short."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

import torch
from transformers import BitsAndBytesConfig

from saferlrm.errors import SaferlrmError
from saferlrm.profile import LoadingSettings

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "auto": "auto"}


def resolve_device(device: str) -> str:
    """The torch device that ``auto`` stands for: one GPU for each process that a launcher starts, or the CPU."""
    if device != "auto":
        return device
    if not torch.cuda.is_available():
        return "cpu"
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    return f"cuda:{rank}" if 0 < rank < torch.cuda.device_count() else "cuda"


def placement_options(loading: LoadingSettings, device: str, target: str, dtype: str) -> dict[str, Any]:
    """Arguments that make transformers place the weights itself; none if they are to be moved afterwards."""
    spread = loading.device_map == "auto"
    if spread and device != "auto":
        raise SaferlrmError(
            f"loading.device_map=auto spreads the model over all GPUs, but device is {device!r}; set device to auto, "
            "or loading.device_map to single"
        )
    options: dict[str, Any] = {"device_map": "auto"} if spread else {}
    if loading.quantization == "4bit":
        if not target.startswith("cuda"):
            raise SaferlrmError("loading.quantization=4bit needs a CUDA GPU; set it to none")
        if importlib.util.find_spec("bitsandbytes") is None:
            raise SaferlrmError(
                "loading.quantization=4bit needs bitsandbytes; pip install bitsandbytes, or set it to none"
            )
        # NF4 with double quantization, computed in the dtype of the activations (QLoRA, arXiv 2305.14314).
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16 if dtype == "auto" else DTYPES[dtype],
        )
        options.setdefault("device_map", {"": target})
    return options


def out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch, safetensors or the operating system says that memory is used up."""
    text = str(error).lower()
    return (
        isinstance(error, (MemoryError, torch.OutOfMemoryError))
        or "out of memory" in text
        or "not enough memory" in text
        or "cannot allocate memory" in text
        or "can't allocate memory" in text
        or "alloc_failed" in text  # cuBLAS
    )


def too_large(name: str, target: str, dtype: str, loading: LoadingSettings) -> SaferlrmError:
    """The error of a model that the memory does not hold, with the settings that would still help."""
    ways = []
    if dtype == "float32":
        ways.append("set dtype=bfloat16 (half the memory)")
    if loading.quantization == "none" and target != "cpu":
        ways.append("set loading.quantization=4bit (a quarter of bfloat16)")
    if loading.device_map == "single" and torch.cuda.device_count() > 1:
        ways.append("set loading.device_map=auto (all GPUs)")
    ways.append("choose a smaller model")
    return SaferlrmError(f"{name} in {dtype} does not fit into the memory of {target}; {', or '.join(ways)}")
