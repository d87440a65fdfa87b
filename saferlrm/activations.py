"""Hidden states at chosen tokens of every layer, streamed to disk.

Layers are counted as transformers counts ``hidden_states``: 0 is the embedding, i the output of block i, and
the last one comes after the final normalisation.

Positions are named. ``prompt_last`` is the last token of the user's text, ``pre_cot`` the last token of the
rendered prompt, from which the model goes on to think, and ``thought:0.2`` the token at that share of a given
thought (``thought:0`` is ``pre_cot``, ``thought:1`` the last token of the thought).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from saferlrm.chat import ThinkingMode
from saferlrm.errors import SaferlrmError
from saferlrm.lm import LanguageModel
from saferlrm.progress import track


@dataclass(frozen=True)
class Located:
    """Tokens of one prompt (and thought), and where the named positions are in them."""

    ids: list[int]
    index: list[int]


def extract(
    lm: LanguageModel,
    prompts: Sequence[str],
    positions: Sequence[str] = ("prompt_last", "pre_cot"),
    thoughts: Sequence[str] | None = None,
    mode: ThinkingMode = "on",
    layers: Sequence[int] | str = "all",
    batch_size: int = 64,
    out: Path | None = None,
    progress: str | None = None,
) -> np.ndarray:
    """Hidden states of every prompt, float32 of shape [prompts, positions, layers, hidden size].

    Args:
        prompts: what the user types.
        positions: names, see the module.
        thoughts: the thought after each prompt (``Answer.thought``); needed for ``thought:...`` positions.
        mode: how the prompts are rendered.
        layers: ``"all"`` or indices from 0 to the number of layers.
        out: ``.npy`` file to write. The result is then memory-mapped, and the memory that extraction takes
            does not depend on the number of prompts. The file appears when it is complete.
        progress: description for a progress bar, or ``None`` for none.

    Raises:
        SaferlrmError: an unknown position or layer, a missing thought, a prompt longer than the context, or
            activations that are not finite.
    """
    depth = lm.n_layers
    chosen = list(range(depth + 1)) if layers == "all" else list(layers)
    if not chosen or not all(isinstance(layer, int) and 0 <= layer <= depth for layer in chosen):
        raise SaferlrmError(f"layers are {layers!r}; give 'all' or numbers from 0 to {depth}")
    if thoughts is not None and len(thoughts) != len(prompts):
        raise SaferlrmError(f"{len(thoughts)} thoughts for {len(prompts)} prompts; give one for each")
    if not prompts:
        raise SaferlrmError("there are no prompts to read hidden states from")
    shape = (len(prompts), len(positions), len(chosen), lm.hidden_size)
    partial = None if out is None else out.with_name(out.name + ".partial")
    if partial is None:
        result = np.empty(shape, np.float32)
    else:
        np.lib.format.open_memmap(partial, mode="w+", dtype=np.float32, shape=shape)
    # By length of text: close to the number of tokens, and known without holding all tokens in memory.
    length = [len(prompt) + len(thoughts[i] if thoughts else "") for i, prompt in enumerate(prompts)]
    order = sorted(range(len(prompts)), key=lambda i: -length[i])
    starts = range(0, len(order), batch_size)
    for start in track(starts, progress) if progress else starts:
        rows = order[start : start + batch_size]
        located = [locate(lm, prompts[i], positions, thoughts[i] if thoughts else None, mode) for i in rows]
        states = hidden_states(lm, located, chosen)
        if not np.isfinite(states).all():
            raise SaferlrmError(f"{lm.name} gives hidden states that are not finite; try dtype float32")
        if partial is None:
            result[rows] = states
        else:
            # Mapped anew for every batch, so that written pages leave this process's memory.
            np.load(partial, mmap_mode="r+")[rows] = states
    if partial is None:
        return result
    os.replace(partial, out)
    return np.load(out, mmap_mode="r")


def locate(
    lm: LanguageModel,
    prompt: str,
    positions: Sequence[str],
    thought: str | None = None,
    mode: ThinkingMode = "on",
) -> Located:
    """Tokenise a prompt, with its thought behind it, and find the named positions.

    Prompt and thought are tokenised apart, as in generation: no token reaches across the border.
    """
    text = lm.chat.render(prompt, mode)
    try:
        encoded = lm.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    except NotImplementedError as error:
        raise SaferlrmError(f"{lm.name} has a tokenizer without character offsets; use a fast one") from error
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    pre_cot, behind = len(ids) - 1, []
    if thought is not None:
        opened = "" if lm.chat.opens else f"{lm.chat.think_open}\n"
        (behind,) = lm.encode([opened + thought])
    context = getattr(lm.model.config.get_text_config(), "max_position_embeddings", None)
    if context and len(ids) + len(behind) > context:
        raise SaferlrmError(
            f"{prompt[:40]!r}... has {len(ids) + len(behind)} tokens, the model holds {context}; shorten it"
        )
    index = []
    for name in positions:
        if name == "prompt_last":
            end = lm.chat.prompt_span(prompt, mode)[1]
            index.append(max(i for i, (start, _) in enumerate(offsets) if start < end))
        elif name == "pre_cot":
            index.append(pre_cot)
        else:
            index.append(pre_cot + round(_share(name, thought) * len(behind)))
    return Located(ids + behind, index)


@torch.inference_mode()
def hidden_states(lm: LanguageModel, located: Sequence[Located], layers: Sequence[int]) -> np.ndarray:
    """One forward pass over a batch; float32 of shape [rows, positions, layers, hidden size].

    Hooks keep the wanted tokens of each layer alone, so the rest is freed as the pass goes on.
    """
    width = max(len(row.ids) for row in located)
    pad = lm.tokenizer.pad_token_id or 0
    tokens = torch.full((len(located), width), pad)
    for i, row in enumerate(located):
        tokens[i, : len(row.ids)] = torch.tensor(row.ids)
    column = torch.tensor([row.index for row in located], device=lm.device)
    line = torch.arange(len(located), device=lm.device)[:, None]
    decoder = lm.model.get_decoder()
    found: dict[int, torch.Tensor] = {}

    def keep(layer: int, states: torch.Tensor) -> None:
        there = states.device  # another one than the tokens' where a model is spread over several
        found[layer] = states[line.to(there), column.to(there)].float().to(lm.device)

    def hook(layer: int):
        # The input of block i is hidden state i, whatever a model's blocks return.
        return lambda _, args, kwargs: keep(layer, args[0] if args else kwargs["hidden_states"])

    handles = [
        decoder.layers[layer].register_forward_pre_hook(hook(layer), with_kwargs=True)
        for layer in layers
        if layer < lm.n_layers
    ]
    try:
        # Padding is on the right, where causal attention never looks: no mask is needed.
        last = decoder(input_ids=tokens.to(lm.device), use_cache=False).last_hidden_state
    finally:
        for handle in handles:
            handle.remove()
    if lm.n_layers in layers:
        keep(lm.n_layers, last)
    return torch.stack([found[layer] for layer in layers], dim=2).cpu().numpy()


def _share(name: str, thought: str | None) -> float:
    kind, _, share = name.partition(":")
    try:
        value = float(share)
    except ValueError:
        value = -1.0
    if kind != "thought" or not 0 <= value <= 1:
        raise SaferlrmError(
            f"unknown position {name!r}; choose prompt_last, pre_cot, or thought:SHARE (0 to 1)"
        )
    if thought is None:
        raise SaferlrmError(f"the position {name} needs the thoughts; pass thoughts=[answer.thought, ...]")
    return value
