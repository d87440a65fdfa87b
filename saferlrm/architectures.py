"""Sizes of models: parameters, adapter sides and cache, from a config alone.

Decoders of the families Qwen2, Qwen3 and Llama are counted by formula, without importing torch; any other causal
language model that transformers knows is built on torch's meta device, which allocates nothing. The table holds the
published hyperparameters of the study's models, so that their sizes are known offline.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saferlrm.errors import SaferlrmError

# vocabulary, hidden, intermediate, layers, heads, key-value heads, head size (None: hidden / heads), tied, context
_PUBLISHED: dict[str, tuple[str, tuple[int, int, int, int, int, int, int | None, bool, int]]] = {
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": ("qwen2", (151936, 1536, 8960, 28, 12, 2, None, False, 131072)),
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B": ("qwen2", (152064, 3584, 18944, 28, 28, 4, None, False, 131072)),
    "deepseek-ai/DeepSeek-R1-Distill-Llama-8B": ("llama", (128256, 4096, 14336, 32, 32, 8, None, False, 131072)),
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-14B": ("qwen2", (152064, 5120, 13824, 48, 40, 8, None, False, 131072)),
    "Skywork/Skywork-OR1-7B": ("qwen2", (152064, 3584, 18944, 28, 28, 4, None, False, 131072)),
    "Qwen/Qwen3-0.6B": ("qwen3", (151936, 1024, 3072, 28, 16, 8, 128, True, 40960)),
    "Qwen/Qwen3-1.7B": ("qwen3", (151936, 2048, 6144, 28, 16, 8, 128, True, 40960)),
    "Qwen/Qwen3-4B": ("qwen3", (151936, 2560, 9728, 36, 32, 8, 128, True, 40960)),
    "Qwen/Qwen3-8B": ("qwen3", (151936, 4096, 12288, 36, 32, 8, 128, False, 40960)),
    "Qwen/Qwen3-14B": ("qwen3", (151936, 5120, 17408, 40, 40, 8, 128, False, 40960)),
}
_FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "tie_word_embeddings",
    "max_position_embeddings",
)


@dataclass(frozen=True)
class Architecture:
    """Sizes of a decoder.

    Attributes:
        family: transformers' ``model_type``.
        parameters: all of them, tied ones once.
        adapted: weights of the linear layers that get an adapter (all but the projection to the vocabulary).
        adapter_sides: sum of inputs and outputs of these layers; times the rank, the parameters of the adapter.
        query_norm: whether queries and keys are normalised (Qwen3).
        source: where the sizes come from, in words.
    """

    name: str
    family: str
    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    context: int
    tied: bool
    parameters: int
    adapted: int
    adapter_sides: int
    query_norm: bool
    source: str

    def adapter_parameters(self, rank: int) -> int:
        """Parameters of LoRA of a rank on all linear layers (arXiv 2106.09685): rank x (inputs + outputs) each."""
        return rank * self.adapter_sides

    def cache_bytes(self, batch: int, length: int, element: int = 2) -> int:
        """Keys and values of ``batch`` texts of ``length`` tokens; only the key-value heads are kept (GQA)."""
        return 2 * self.layers * self.kv_heads * self.head_size * batch * length * element

    @property
    def multiplied(self) -> int:
        """Weights that every token is multiplied with: all but the table of embeddings."""
        return self.parameters - (0 if self.tied else self.vocabulary * self.hidden)


def architecture(model: str) -> Architecture:
    """Sizes of a model: a folder, one of the table by its full or short name, or a config from the model hub.

    Raises:
        SaferlrmError: no such model, an unreadable config, or not a decoder.
    """
    if model == "organism":
        model = str(Path(__file__).parent / "organism" / "checkpoints" / "seed0")
    folder = Path(model)
    if folder.is_dir():
        try:
            values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        except OSError:
            raise SaferlrmError(f"the folder {model} has no config.json; give one saved by save_pretrained") from None
        except ValueError as problem:
            raise SaferlrmError(f"{model}/config.json cannot be read ({problem}); save the model again") from None
        if not isinstance(values, dict):
            raise SaferlrmError(f"{model}/config.json is not a mapping; save the model again")
        return _counted(folder.name, values, f"{model}/config.json") or _built(model, f"{model}/config.json")
    for name, (family, sizes) in _PUBLISHED.items():
        if model.lower() in (name.lower(), name.partition("/")[2].lower()):
            values = dict(zip(_FIELDS, sizes, strict=True)) | {"model_type": family}
            return _counted(name, values, "published hyperparameters")
    return _built(model, "config from the model hub")


def published() -> tuple[str, ...]:
    """Names of the models whose sizes are known without the hub."""
    return tuple(_PUBLISHED)


def _counted(name: str, values: Mapping[str, Any], source: str) -> Architecture | None:
    """By formula; None for a family, or an option of it, that the formula does not know."""
    family = values.get("model_type")
    if family not in ("qwen2", "qwen3", "llama") or values.get("mlp_bias") or values.get("quantization_config"):
        return None
    if values.get("attention_bias") and family != "qwen2":
        return None
    v, h, f, layers, heads = (values.get(field) for field in _FIELDS[:5])
    if not all(isinstance(size, int) and size > 0 for size in (v, h, f, layers, heads)):
        return None
    kv = values.get("num_key_value_heads") or heads
    size = values.get("head_dim") or (128 if family == "qwen3" else h // heads)
    query, key = heads * size, kv * size
    sides = ((h, query), (h, key), (h, key), (query, h), (h, f), (h, f), (f, h))
    adapted = layers * sum(inputs * outputs for inputs, outputs in sides)
    bias = query + 2 * key if family == "qwen2" else 0
    norms = 2 * h + (2 * size if family == "qwen3" else 0)
    tied = bool(values.get("tie_word_embeddings", False))
    return Architecture(
        name=name,
        family=family,
        vocabulary=v,
        hidden=h,
        intermediate=f,
        layers=layers,
        heads=heads,
        kv_heads=kv,
        head_size=size,
        context=values.get("max_position_embeddings") or 0,
        tied=tied,
        parameters=adapted + layers * (bias + norms) + h + v * h * (1 if tied else 2),
        adapted=adapted,
        adapter_sides=layers * sum(inputs + outputs for inputs, outputs in sides),
        query_norm=family == "qwen3",
        source=source,
    )


def _built(model: str, source: str) -> Architecture:
    """By building the model without memory."""
    import torch
    from transformers import AutoModelForCausalLM

    from saferlrm.lm import _load_config

    config = _load_config(model)
    try:
        with torch.device("meta"):
            built = AutoModelForCausalLM.from_config(config)
    except Exception as problem:
        raise SaferlrmError(f"{model} is not a causal language model that transformers can build ({problem})") from None
    text = config.get_text_config()
    output = built.get_output_embeddings()
    linears = [m for m in built.modules() if isinstance(m, torch.nn.Linear) and m is not output]
    heads = text.num_attention_heads
    return Architecture(
        name=Path(model).name if Path(model).is_dir() else model,
        family=text.model_type,
        vocabulary=text.vocab_size,
        hidden=text.hidden_size,
        intermediate=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
        layers=text.num_hidden_layers,
        heads=heads,
        kv_heads=getattr(text, "num_key_value_heads", None) or heads,
        head_size=getattr(text, "head_dim", None) or text.hidden_size // heads,
        context=getattr(text, "max_position_embeddings", None) or 0,
        tied=output is not None and output.weight is built.get_input_embeddings().weight,
        parameters=sum(parameter.numel() for parameter in built.parameters()),
        adapted=sum(linear.weight.numel() for linear in linears),
        adapter_sides=sum(linear.in_features + linear.out_features for linear in linears),
        query_norm=False,
        source=source,
    )
