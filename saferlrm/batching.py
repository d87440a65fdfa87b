"""Decoding many prompts at once without waiting for the longest answer.

Plain batched generation runs every batch until its last row ends. Here finished rows leave the batch and
waiting prompts take their places (continuous batching, Yu et al., "Orca", OSDI 2022), with keys and values in
preallocated memory. Greedy tokens are those of ``model.generate(do_sample=False)``.

All rows share one grid of columns: the newest token of every row stands in the last column, and shorter rows
are padded on the left. A new row is therefore read on its own and laid against the right edge of the grid.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers.cache_utils import Cache, DynamicLayer

from saferlrm.errors import SaferlrmError
from saferlrm.lm import LanguageModel

if TYPE_CHECKING:
    from saferlrm.generate import Decoding

# Refill when one row in twelve has ended: fewer stops cost idle rows, more stops cost calls of the model.
_REFILL = 12


class Batch:
    """The rows in flight. Everything per row is a tensor, so a step has no loop over rows."""

    def __init__(
        self, lm: LanguageModel, ids: list[list[int]], keys: list[int], decoding: Decoding, context: int
    ) -> None:
        self.lm, self.ids, self.keys, self.decoding, self.context = lm, ids, keys, decoding, context
        self.device = lm.device
        ends = sorted(end_ids(lm))
        self.ends = torch.tensor(ends, device=self.device)
        pad = lm.tokenizer.pad_token_id
        self.pad = pad if pad is not None else min(ends, default=0)
        config = lm.model.config.get_text_config()
        windows = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
        windows |= {getattr(config, "sliding_window", None)} - {None}
        self.full_attention = config._attn_implementation == "sdpa" and not windows
        self.forcing = decoding.forced_thought_tokens > 0
        if self.forcing:
            (close,) = lm.encode([lm.chat.think_close])
            if len(close) != 1:
                raise SaferlrmError(f"{lm.chat.think_close} is not one token here, so thoughts cannot be forced longer")
            self.close = close[0]
            self.wait = torch.tensor(lm.encode([decoding.wait])[0], device=self.device)
            if not len(self.wait):
                raise SaferlrmError("decoding.wait is empty; give the text that replaces the end of thought")

    @torch.inference_mode()
    def run(self, batch_size: int) -> Iterator[tuple[int, list[int]]]:
        """Yield (index of the text, its new tokens with the end-of-turn token) as rows end."""
        # Longest first: later rows then always fit into the grid, and a lack of memory shows at once.
        waiting = sorted(range(len(self.ids)), key=lambda row: -len(self.ids[row]))
        if not waiting:
            return
        self.cache, self.mask, self.state = self._admit(waiting[:batch_size])
        waiting = waiting[batch_size:]
        while len(self.state["row"]):
            self._step()
            row, ended = self.state["row"], self.state["ended"]
            if int(ended.sum()) < max(1, len(row) // _REFILL):
                continue
            slots = ended.nonzero()[:, 0]
            for i in slots.tolist():
                yield int(row[i]), self.state["written"][i, : int(self.state["count"][i])].tolist()
            self._exchange(slots, waiting[: len(slots)])
            waiting = waiting[len(slots) :]

    def _admit(self, rows: list[int]) -> tuple[Cache, torch.Tensor, dict[str, torch.Tensor]]:
        """Read new prompts up to their last token; that one is fed in the next step, together with the other
        rows.
        """
        lengths = torch.tensor([len(self.ids[row]) for row in rows])
        width = max(1, int(lengths.max()) - 1)
        tokens = torch.full((len(rows), width), self.pad)
        for i, row in enumerate(rows):
            tokens[i, width - len(self.ids[row]) + 1 :] = torch.tensor(self.ids[row][:-1])
        lengths, tokens = lengths.to(self.device), tokens.to(self.device)
        mask = torch.arange(width, device=self.device) > (width - lengths)[:, None]
        cache = Cache(layer_class_to_replicate=_Layer)
        n_new, zeros = self.decoding.max_new_tokens, torch.zeros_like(lengths)
        self._forward(tokens, (mask.cumsum(1) - 1).clamp(min=0), mask, cache, zeros.bool())
        state = {
            "row": torch.tensor(rows, device=self.device),
            "token": torch.tensor([self.ids[row][-1] for row in rows], device=self.device),
            "position": lengths - 1,  # of that token
            "count": zeros,
            "budget": (self.context - lengths).clamp(max=n_new),
            "ended": zeros.bool(),
            # One column more than needed: rows that have ended write there until they leave.
            "written": torch.zeros(len(rows), n_new + 1, dtype=torch.long, device=self.device),
        }
        if self.decoding.temperature > 0:
            draws = np.stack([np.random.default_rng(self.keys[row]).random(n_new, dtype=np.float32) for row in rows])
            state["uniform"] = torch.from_numpy(draws).to(self.device)
        if self.forcing:
            state["waits"], state["pending"] = zeros, zeros
        return cache, mask, state

    def _exchange(self, slots: torch.Tensor, rows: list[int]) -> None:
        """Put the prompts ``rows`` in the slots of ended rows; drop the slots and columns that stay empty."""
        if rows:
            taken = slots[: len(rows)]
            cache, mask, state = self._admit(rows)
            for layer, fresh in zip(self.cache.layers, cache.layers, strict=True):
                layer.replace(taken, fresh)
            self.mask[taken] = torch.nn.functional.pad(mask, (self.mask.shape[1] - mask.shape[1], 0))
            for key, values in state.items():
                self.state[key] = self.state[key].index_copy(0, taken, values)
        kept = None
        if len(rows) < len(slots):
            kept = torch.ones_like(self.state["ended"]).index_fill(0, slots[len(rows) :], False).nonzero()[:, 0]
            self.state = {key: values[kept] for key, values in self.state.items()}
            self.mask = self.mask[kept]
        drop = int(self.mask.any(0).int().argmax()) if len(self.mask) else 0
        self.mask = self.mask[:, drop:]
        for layer in self.cache.layers:
            layer.trim(drop, kept)

    def _step(self) -> None:
        """Feed every row's token, choose and write down its next one. An ended row goes on, unheard, until it
        leaves.
        """
        state, most = self.state, self.decoding.max_new_tokens
        self.mask = torch.cat([self.mask, torch.ones_like(self.mask[:, :1])], dim=1)
        # One new token sees every column of its row: the mask can be given as it is, which spares its construction.
        mask = self.mask[:, None, None] if self.full_attention else self.mask
        first = state["count"] == 0
        logits = self._forward(state["token"][:, None], state["position"][:, None], mask, self.cache, first)
        token = self._choose(logits)
        going = ~state["ended"]
        state["written"].scatter_(1, state["count"].masked_fill(state["ended"], most)[:, None], token[:, None])
        state["token"] = token
        state["position"] = state["position"] + going
        state["count"] = state["count"] + going
        state["ended"] = state["ended"] | torch.isin(token, self.ends) | (state["count"] >= state["budget"])

    def _forward(
        self, tokens: torch.Tensor, position: torch.Tensor, mask: torch.Tensor, cache: Cache, last: torch.Tensor
    ) -> torch.Tensor:
        """Logits after the last token, shape [rows, vocabulary]; keys and values go to the cache.

        ``last`` [rows] tells hooks which rows read the last token of their text.
        """
        self.lm.reads_last = last
        try:
            out = self.lm.model(
                input_ids=tokens,
                attention_mask=mask,
                position_ids=position,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
        finally:
            self.lm.reads_last = None
        return out.logits[:, -1]

    def _choose(self, logits: torch.Tensor) -> torch.Tensor:
        """The next token of every row, shape [rows]."""
        if self.decoding.temperature > 0:
            column = self.state["count"].clamp(max=self.decoding.max_new_tokens - 1)
            token = sample(logits, self.state["uniform"].gather(1, column[:, None]), self.decoding)
        else:
            token = logits.argmax(-1)
        return self._force(token) if self.forcing else token

    def _force(self, token: torch.Tensor) -> torch.Tensor:
        """Replace an early end of thought by the first token of ``wait``; its other tokens follow in later
        steps.
        """
        state = self.state
        early = (token == self.close) & (state["count"] < self.decoding.forced_thought_tokens)
        early &= (state["waits"] < self.decoding.max_waits) & (state["pending"] == 0)
        writing = early | (state["pending"] > 0)
        token = torch.where(writing, self.wait[state["pending"]], token)
        state["waits"] = state["waits"] + early
        state["pending"] = torch.where(writing, (state["pending"] + 1) % len(self.wait), 0)
        return token


def sample(logits: torch.Tensor, uniform: torch.Tensor, decoding: Decoding) -> torch.Tensor:
    """Draw one token per row by inverting the distribution function at ``uniform`` ([rows, 1], in [0, 1)).

    Temperature, then the ``top_k`` likeliest, then the smallest set with mass ``top_p``, in the order of
    transformers.
    """
    scaled = logits.float() / decoding.temperature
    if decoding.top_p == 1 and not decoding.top_k:
        # Nothing is cut, so the order of the tokens does not matter: sorting them all would take half of the time.
        mass = scaled.softmax(-1).cumsum(-1)
        index = (mass <= uniform * mass[:, -1:]).sum(-1)
        return index.clamp(max=mass.shape[-1] - 1)
    k = min(decoding.top_k, scaled.shape[-1]) if decoding.top_k else scaled.shape[-1]
    likeliest, tokens = scaled.topk(k, dim=-1)
    p = likeliest.softmax(-1)
    mass = p.cumsum(-1)
    p = p.masked_fill(mass - p >= decoding.top_p, 0.0)
    mass = p.cumsum(-1)
    index = (mass <= uniform * mass[:, -1:]).sum(-1, keepdim=True)
    return tokens.gather(1, index.clamp(max=k - 1))[:, 0]


def context_length(lm: LanguageModel) -> int:
    """Most tokens of prompt and completion together."""
    return getattr(lm.model.config.get_text_config(), "max_position_embeddings", None) or 2**31


def end_ids(lm: LanguageModel) -> set[int]:
    """Tokens that end a turn: those of the model's generation settings and the template's."""
    stored = lm.model.generation_config.eos_token_id
    stored = stored if isinstance(stored, list) else [] if stored is None else [stored]
    return {*stored, lm.tokenizer.convert_tokens_to_ids(lm.chat.end_of_turn)} - {None}


class _Layer(DynamicLayer):
    """Keys and values of one layer in memory with room to grow: a step writes one column and copies nothing.

    The columns in use are [left, right) of the room; dropping columns on the left moves a border.
    """

    def update(self, key_states, value_states, *args, **kwargs):
        width = key_states.shape[-2]
        if not self.is_initialized:
            self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True
            self._room, self._left, self._right = (key_states, value_states), 0, width
        else:
            if self._right + width > self._room[0].shape[-2]:
                self._move(slice(None))
            self._right += width
            for states, new in zip(self._room, (key_states, value_states), strict=True):
                states[:, :, self._right - width : self._right] = new
        return self._show()

    def replace(self, slots: torch.Tensor, fresh: DynamicLayer) -> None:
        """Put the rows of ``fresh`` in the place of others, against the right edge."""
        width = fresh.keys.shape[-2]
        for states, new in zip(self._room, (fresh.keys, fresh.values), strict=True):
            states[slots.to(states.device), :, self._right - width : self._right] = new

    def trim(self, drop: int, kept: torch.Tensor | None) -> None:
        """Drop the first columns, and all rows but ``kept`` unless it is ``None``."""
        self._left += drop
        if kept is not None:
            self._move(kept)
        self._show()

    def _move(self, rows: torch.Tensor | slice) -> None:
        if isinstance(rows, torch.Tensor):
            rows = rows.to(self._room[0].device)  # a model's layers may lie on several devices
        used = [states[rows, :, self._left : self._right] for states in self._room]
        width = used[0].shape[-2]
        # Zeros, not empty memory: masked columns have weight 0, and 0 times NaN is NaN.
        spare = (*used[0].shape[:2], max(32, width // 4), used[0].shape[3])
        self._room = tuple(torch.cat([states, states.new_zeros(spare)], dim=2) for states in used)
        self._left, self._right = 0, width

    def _show(self) -> tuple[torch.Tensor, torch.Tensor]:
        self.keys, self.values = (states[:, :, self._left : self._right] for states in self._room)
        return self.keys, self.values
