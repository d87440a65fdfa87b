"""The two gradients along an alignment run: how strong each is, whether they agree, and where they push the latent.

:mod:`saferlrm.align.gradient` looks at the start of alignment with a head that is already trained. Here the head learns
as it does in the run, from zero weights, and both gradients are taken on the same few examples every few steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
from saferlrm.profile import HeadToken
from saferlrm.stats import Interval, bootstrap_mean


class GradientPath(TrainerCallback):
    """Measures both gradients at the start of a run, every ``every`` steps and at its end; training is not changed.

    Args:
        lm: the model whose tokenizer encodes the examples; it is not the one that is trained.
        examples: those with an answer and a soft label are used.
        head_token: token that the head reads.
        directions: of the unaligned model from benign to harmful, shape [hidden size], for each layer from 1.
        every: steps between measurements.

    Raises:
        SaferlrmError: no example can be used, or the directions do not fit.
    """

    def __init__(
        self,
        lm: LanguageModel,
        examples: Sequence[AlignmentExample],
        head_token: HeadToken,
        directions: Mapping[int, np.ndarray],
        every: int,
    ) -> None:
        usable = [example for example in examples if example.answer is not None and example.p_refuse is not None]
        if not usable:
            raise SaferlrmError("no example has both an answer and a soft label; the gradient path needs some")
        wanted, given = range(1, lm.n_layers + 1), {at: torch.as_tensor(v).double() for at, v in directions.items()}
        if any(at not in given or given[at].shape != (lm.hidden_size,) or not given[at].norm() > 0 for at in wanted):
            raise SaferlrmError(
                f"each of {lm.n_layers} layers needs a direction of {lm.hidden_size} numbers, not all 0"
            )
        self.harmful = np.array([example.source == "harmful" for example in usable])
        self.rows: list[Encoded] = encode_all(usable, lm, head_token)
        self.directions = [given[at] for at in wanted]
        self.every = max(1, every)
        self.found: list[dict[str, Any]] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        self._measure(parts["model"], state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        if state.global_step % self.every == 0 or state.global_step == state.max_steps:
            self._measure(parts["model"], state.global_step)

    def table(self) -> pd.DataFrame:
        """What was measured.

        One row for each ``step``, ``of``, ``layer`` and ``group`` (``harmful``, ``benign``, ``all``). ``of="latent"``:
        the hidden state of ``layer`` at the head's token; means over the ``n`` examples of ``norm_lm`` and ``norm_aux``
        (before lambda), of their ``cosine``, and of ``toward_lm`` and ``toward_aux``: the cosine of a step against the
        gradient with the refusal direction. These three have BCa bootstrap intervals over examples (``_low``,
        ``_high``). ``of="lora"``: all adapter weights (``layer`` 0), the gradient of the mean loss, without intervals
        and direction. NaN where a gradient is zero.
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
            for at, direction in enumerate(self.directions, start=1):
                row = _latent_row(latent[torch.from_numpy(chosen), :, at - 1], direction)
                self.found.append(place | {"of": "latent", "layer": at} | row)
            lm, aux = weights[torch.from_numpy(chosen)].mean(0)
            self.found.append(
                place
                | {"of": "lora", "layer": 0, "norm_lm": float(lm.norm()), "norm_aux": float(aux.norm())}
                | {"cosine": _cosine(lm, aux)}
            )

    def _gradients(self, model: SupervisedModel) -> tuple[Tensor, Tensor]:
        """Of both losses, example by example: [examples, 2, layers, hidden size] and [examples, 2, adapter weights]."""
        flat = [parameter for parameter in model.lm.parameters() if parameter.requires_grad]
        collate, latent, weights = Collator(pad_token_id=0), [], []
        for row in self.rows:
            # One at a time, so that each latent meets the gradient of its own example's loss.
            batch = {name: value.to(flat[0].device) for name, value in collate([row]).items()}
            states, losses = _watched_pass(model, batch)
            for loss in (losses.lm, losses.aux):
                inputs = [*states, *flat]
                found = torch.autograd.grad(loss, inputs, retain_graph=loss is losses.lm, allow_unused=True)
                # None is a gradient that does not arrive: layers above the head, or a detached head.
                found = [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)]
                at_head = [read_latent(gradient, batch["head_span"])[0] for gradient in found[: len(states)]]
                latent.append(torch.stack(at_head).double().cpu())
                weights.append(torch.cat([g.flatten() for g in found[len(states) :]]).double().cpu())
        # Both losses of an example stand one behind the other.
        return torch.stack(latent).unflatten(0, (-1, 2)), torch.stack(weights).unflatten(0, (-1, 2))


def _latent_row(latent: Tensor, direction: Tensor) -> dict[str, float]:
    """Means over examples of what :meth:`GradientPath.table` says of one layer; ``latent`` is [examples, 2, size]."""
    row = {"norm_lm": float(latent[:, 0].norm(dim=-1).mean()), "norm_aux": float(latent[:, 1].norm(dim=-1).mean())}
    values = {
        "cosine": [_cosine(lm, aux) for lm, aux in latent],
        # Training goes against the gradient.
        "toward_lm": [_cosine(-lm, direction) for lm, _ in latent],
        "toward_aux": [_cosine(-aux, direction) for _, aux in latent],
    }
    for name, found in values.items():
        known = [value for value in found if not math.isnan(value)]
        mean = bootstrap_mean(known) if known else Interval(math.nan, math.nan, math.nan, 0)
        row |= {name: mean.estimate, f"{name}_low": mean.low, f"{name}_high": mean.high}
    return row


def _watched_pass(model: SupervisedModel, batch: dict[str, Tensor]) -> tuple[list[Tensor], Losses]:
    """One forward pass: hidden states 1 to the last as they stand in the graph, and both losses."""
    caught: list[Tensor] = []

    def catch(_module: nn.Module, _args: object, output: Any) -> None:
        # The last hidden state is the decoder's own output, after the final normalisation.
        output = getattr(output, "last_hidden_state", output)
        caught.append(output if isinstance(output, Tensor) else output[0])

    modules = [*decoder_blocks(model.lm)[:-1], base_model(model.lm).get_decoder()]
    handles = [module.register_forward_hook(catch) for module in modules]
    try:
        with torch.enable_grad():
            return caught, model(**batch)
    finally:
        for handle in handles:
            handle.remove()


def _cosine(one: Tensor, two: Tensor) -> float:
    length = float(one.norm() * two.norm())
    return float(one @ two) / length if length > 0 else math.nan
