"""The two gradients along an alignment run: how strong each is, whether they agree, and where they push the latent.

:mod:`saferlrm.align.gradient` looks at the start of alignment with a head that is already trained. Here the head learns
as it does in the run, from zero weights, and both gradients are taken on the same few examples every few steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from saferlrm.align.data import AlignmentExample, Collator, Encoded, encode_all
from saferlrm.align.head import Losses, SupervisedModel, base_model, decoder_blocks, read_latent
from saferlrm.errors import SaferlrmError
from saferlrm.lm import LanguageModel
from saferlrm.stats import bootstrap_mean

_MEASURES = ("norm_lm", "norm_aux", "cosine", "toward_lm", "toward_aux")


class GradientPath(TrainerCallback):
    """Measures both gradients at the start of a run, every ``every`` steps and at its end; training is not changed.

    Args:
        lm: the model whose tokenizer encodes the examples; it is not the one that is trained.
        examples: those with an answer and a soft label are used.
        head_token: token that the head reads.
        direction: shape [hidden size], of the unaligned model at the head's layer, from benign to harmful.
        every: steps between measurements.

    Raises:
        SaferlrmError: no example can be used, or the direction does not fit.
    """

    def __init__(
        self,
        lm: LanguageModel,
        examples: Sequence[AlignmentExample],
        head_token: str,
        direction: np.ndarray,
        every: int,
    ) -> None:
        usable = [example for example in examples if example.answer is not None and example.p_refuse is not None]
        if not usable:
            raise SaferlrmError("no example has both an answer and a soft label; the gradient path needs some")
        length = float(np.linalg.norm(direction))
        if np.shape(direction) != (lm.hidden_size,) or not 0 < length < math.inf:
            raise SaferlrmError(f"a direction must be {lm.hidden_size} numbers that are not all 0")
        self.harmful = np.array([example.source == "harmful" for example in usable])
        self.rows: list[Encoded] = encode_all(usable, lm, head_token)
        self.direction = torch.tensor(np.asarray(direction) / length, dtype=torch.float64)
        self.every = max(1, every)
        self.found: list[dict[str, Any]] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        self._measure(parts["model"], state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        if state.global_step % self.every == 0 or state.global_step == state.max_steps:
            self._measure(parts["model"], state.global_step)

    def table(self) -> pd.DataFrame:
        """What was measured.

        One row for each ``step``, ``of`` and ``group`` (``harmful``, ``benign``, ``all``). ``of="latent"``: the state
        that the head reads; means over the ``n`` examples of ``norm_lm`` and ``norm_aux`` (before lambda), of their
        ``cosine``, and of ``toward_lm`` and ``toward_aux``: the cosine of a step against the gradient with the refusal
        direction, with BCa bootstrap intervals over examples (``_low``, ``_high``). ``of="lora"``: all adapter weights,
        the gradient of the mean loss, without intervals and direction. NaN where a gradient is zero.
        """
        return pd.DataFrame(self.found)

    def _measure(self, model: SupervisedModel, step: int) -> None:
        if model.head is None:
            raise SaferlrmError("alignment.lambda_aux is 0, so there is no safety gradient; set it above 0")
        training = model.training
        model.eval()  # no dropout: the gradient, not a noisy copy of it, and no random number is used up
        try:
            latent, weights = self._gradients(model)
        finally:
            model.train(training)
        groups = {"harmful": self.harmful, "benign": ~self.harmful, "all": np.ones_like(self.harmful)}
        for group, chosen in groups.items():
            if not chosen.any():
                continue
            place = {"step": step, "group": group, "n": int(chosen.sum())}
            self.found.append(place | {"of": "latent"} | self._latent_row(latent[chosen]))
            lm, aux = weights[torch.from_numpy(chosen)].mean(0)
            self.found.append(
                place
                | {"of": "lora", "norm_lm": float(lm.norm()), "norm_aux": float(aux.norm())}
                | {"cosine": _cosine(lm, aux)}
            )

    def _gradients(self, model: SupervisedModel) -> tuple[Tensor, Tensor]:
        """Of both losses, example by example: [examples, 2, hidden size] and [examples, 2, adapter weights]."""
        flat = [parameter for parameter in model.lm.parameters() if parameter.requires_grad]
        collate, latent, weights = Collator(pad_token_id=0), [], []
        for row in self.rows:
            # One at a time, so that each latent meets the gradient of its own example's loss.
            batch = {name: value.to(flat[0].device) for name, value in collate([row]).items()}
            inner, losses = _watched_pass(model, batch)
            for loss in (losses.lm, losses.aux):
                inputs = [inner, *flat]
                found = torch.autograd.grad(loss, inputs, retain_graph=loss is losses.lm, allow_unused=True)
                # None is a gradient that does not arrive, as with a detached head.
                found = [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)]
                latent.append(read_latent(found[0], batch["head_span"])[0].double().cpu())
                weights.append(torch.cat([g.flatten() for g in found[1:]]).double().cpu())
        pairs = (len(self.rows), 2, -1)
        return torch.stack(latent).reshape(pairs), torch.stack(weights).reshape(pairs)

    def _latent_row(self, latent: Tensor) -> dict[str, float]:
        values = {
            "norm_lm": [float(lm.norm()) for lm, _ in latent],
            "norm_aux": [float(aux.norm()) for _, aux in latent],
            "cosine": [_cosine(lm, aux) for lm, aux in latent],
            # Training goes against the gradient.
            "toward_lm": [_cosine(-lm, self.direction) for lm, _ in latent],
            "toward_aux": [_cosine(-aux, self.direction) for _, aux in latent],
        }
        row: dict[str, float] = {}
        for name in _MEASURES:
            known = [value for value in values[name] if not math.isnan(value)]
            if not known:
                row |= {name: math.nan, f"{name}_low": math.nan, f"{name}_high": math.nan}
                continue
            mean = bootstrap_mean(known)
            row |= {name: mean.estimate, f"{name}_low": mean.low, f"{name}_high": mean.high}
        return row


def _watched_pass(model: SupervisedModel, batch: dict[str, Tensor]) -> tuple[Tensor, Losses]:
    """One forward pass: the states of the head's layer as they stand in the graph, and both losses."""
    caught: list[Tensor] = []
    top = model.layer == model.n_layers
    module: nn.Module = base_model(model.lm).get_decoder() if top else decoder_blocks(model.lm)[model.layer - 1]

    def catch(_module: nn.Module, _args: object, output: Any) -> None:
        # The last layer is read after the final normalisation, which is the decoder's own output.
        caught.append(output.last_hidden_state if top else output if isinstance(output, Tensor) else output[0])

    handle = module.register_forward_hook(catch)
    try:
        with torch.enable_grad():
            losses = model(**batch)
    finally:
        handle.remove()
    return caught[0], losses


def _cosine(one: Tensor, two: Tensor) -> float:
    length = float(one.norm() * two.norm())
    return float(one @ two) / length if length > 0 else math.nan
