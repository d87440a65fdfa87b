"""The safety gradient made visible: which layers it reaches, how strongly, and in which direction."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import scipy.stats
import torch
from torch import Tensor, nn

from saferlrm.align.data import AlignmentExample, Collator, encode_all
from saferlrm.align.head import Losses, SupervisedModel, binary_loss, decoder_blocks, read_latent
from saferlrm.align.run import build_model
from saferlrm.errors import SaferlrmError
from saferlrm.lm import LanguageModel
from saferlrm.profile import AlignmentSettings

MEASURES = ("norm_lm", "norm_aux", "norm_total", "cosine")


def safety_gradient(
    lm: LanguageModel,
    examples: Sequence[AlignmentExample],
    settings: AlignmentSettings,
    *,
    seed: int = 0,
    weight_decay: float = 1e-3,
) -> pd.DataFrame:
    """Gradients of both losses at the start of alignment, with the head already trained on these examples.

    The head is fitted to the frozen latents first (logistic regression with soft labels), because a fresh
    head has zero weights and sends no gradient. ``lm`` is left as it was.

    Args:
        examples: labelled examples with answers; those that lack either are left out.
        settings: head token, head layer, lambda and the adapter's shape; ``detach_head`` shows the control.
        weight_decay: L2 penalty on the head's weights.

    Returns:
        A tidy table, one row per ``of`` and ``layer``. ``of="latent"``: the output of block ``layer`` at the
        head's token; norms and the cosine are means over examples. ``of="lora"``: the adapter weights of
        block ``layer``; the gradient of the mean loss. Columns ``norm_lm`` (without the head), ``norm_aux``
        (before lambda), ``norm_total`` (L_LM + lambda L_aux), ``cosine`` of the two (NaN where a gradient is
        zero), each of the four again with ``_low`` and ``_high``, the 95 % t interval of its mean over examples
        (NaN for ``lora``, where there is one gradient), and ``n`` examples.
    """
    usable = [example for example in examples if example.answer is not None and example.p_refuse is not None]
    if not usable:
        raise SaferlrmError("no example has both an answer and a soft label; the safety gradient needs some")
    if settings.lambda_aux <= 0:
        raise SaferlrmError("alignment.lambda_aux is 0, so there is no safety gradient; set it above 0")
    collate = Collator(pad_token_id=0)
    # One example at a time, so that each latent meets the gradient of its own example's loss.
    batches = [
        {name: value.to(lm.device) for name, value in collate([row]).items()}
        for row in encode_all(usable, lm, settings.head_token)
    ]
    trainable = {name: parameter.requires_grad for name, parameter in lm.model.named_parameters()}
    # Without dropout: the gradient, not a noisy copy of it.
    model = build_model(lm, settings.model_copy(update={"lora_dropout": 0.0}), seed).eval()
    try:
        _fit_head(model, batches, weight_decay)
        return _table(model, batches, settings.lambda_aux)
    finally:
        model.lm.unload()
        for name, parameter in lm.model.named_parameters():
            parameter.requires_grad_(trainable[name])


def _fit_head(model: SupervisedModel, batches: Sequence[dict[str, Tensor]], weight_decay: float) -> None:
    with torch.no_grad():
        latents = torch.cat(
            [read_latent(model.hidden_states(b["input_ids"])[1], b["head_span"]).float() for b in batches]
        )
    labels = torch.cat([batch["soft_label"] for batch in batches])
    optimiser = torch.optim.LBFGS(model.head.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        penalty = weight_decay * model.head.linear.weight.square().sum()
        loss = binary_loss(model.head(latents), labels) + penalty
        loss.backward()
        return loss

    optimiser.step(closure)
    model.head.zero_grad()


def _table(model: SupervisedModel, batches: Sequence[dict[str, Tensor]], lambda_aux: float) -> pd.DataFrame:
    blocks = decoder_blocks(model.lm)
    weights = [[p for p in block.parameters() if p.requires_grad] for block in blocks]
    flat = [parameter for group in weights for parameter in group]
    latent: list[list[np.ndarray]] = [[] for _ in blocks]
    mean = {name: [torch.zeros_like(p) for p in flat] for name in ("lm", "aux")}
    for batch in batches:
        states, losses = _watched_pass(model, blocks, batch)
        at_head = {}
        for name, loss in (("lm", losses.lm), ("aux", losses.aux)):
            inputs = [*states, *flat]
            found = torch.autograd.grad(loss, inputs, retain_graph=name == "lm", allow_unused=True)
            # None is a gradient that does not arrive: blocks above the head, or a detached head.
            found = [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)]
            at_head[name] = [read_latent(gradient, batch["head_span"]) for gradient in found[: len(states)]]
            for into, gradient in zip(mean[name], found[len(states) :], strict=True):
                into += gradient / len(batches)
        for layer in range(len(blocks)):
            latent[layer].append(_compare(at_head["lm"][layer], at_head["aux"][layer], lambda_aux))
    rows = []
    for layer, values in enumerate(latent, start=1):
        rows.append(("latent", layer, *_mean_and_interval(np.concatenate(values)), len(batches)))
    start = 0
    for layer, group in enumerate(weights, start=1):
        end = start + len(group)
        joined = [torch.cat([g.flatten() for g in mean[name][start:end]])[None] for name in mean]
        none = [np.nan] * len(MEASURES)
        rows.append(("lora", layer, *_compare(*joined, lambda_aux)[0], *none, *none, len(batches)))
        start = end
    ends = [f"{name}_{end}" for end in ("low", "high") for name in MEASURES]
    return pd.DataFrame(rows, columns=["of", "layer", *MEASURES, *ends, "n"])


def _mean_and_interval(values: np.ndarray) -> np.ndarray:
    """Means of columns, then the lower and the upper ends of their 95 % t intervals: [n, m] to [3 m]."""
    table = pd.DataFrame(values)
    mean, reach = table.mean(), scipy.stats.t.ppf(0.975, table.count() - 1) * table.sem()
    return np.concatenate([mean, mean - reach, mean + reach])


def _watched_pass(
    model: SupervisedModel, blocks: nn.ModuleList, batch: dict[str, Tensor]
) -> tuple[list[Tensor], Losses]:
    """One forward pass: the blocks' outputs as they stand in the graph, lowest first, and both losses."""
    states: list[Tensor] = []

    def catch(_module: nn.Module, _args: object, output: Tensor | tuple[Tensor, ...]) -> None:
        states.append(output if isinstance(output, Tensor) else output[0])

    handles = [block.register_forward_hook(catch) for block in blocks]
    try:
        return states, model(**batch)
    finally:
        for handle in handles:
            handle.remove()


def _compare(lm: Tensor, aux: Tensor, lambda_aux: float) -> np.ndarray:
    """``MEASURES``: norms of both gradients and of their sum, and their cosine: [n, d] twice to [n, 4]."""
    lm, aux = lm.double(), aux.double()
    norm_lm, norm_aux = lm.norm(dim=-1), aux.norm(dim=-1)
    cosine = (lm * aux).sum(-1) / (norm_lm * norm_aux)
    total = (lm + lambda_aux * aux).norm(dim=-1)
    return torch.stack([norm_lm, norm_aux, total, cosine], dim=-1).cpu().numpy()
