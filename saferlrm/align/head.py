"""The auxiliary safety head, and the model that computes both losses in one forward pass.

PreSafe (arXiv 2603.17368) adds to the next-token loss the loss of a linear head that reads a latent state
before the chain of thought and predicts the safety decision of the model without thinking:

    L = L_LM + lambda * L_aux,    L_aux = BCE(w . norm(h) + b, p_refuse).

The gradient of L_aux with respect to h is the *safety gradient*; it trains the layers below the head.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from saferlrm.align.data import IGNORE
from saferlrm.errors import SaferlrmError


class AuxiliaryHead(nn.Module):
    """Linear probe on the normalised latent: [..., hidden_size] to a logit [...].

    With ``n_spans`` above 1 there is one probe for each span: [..., n_spans, hidden_size] to logits [..., n_spans].

    The latent is normalised to unit variance without learnt scale: on raw states, whose norm grows over the
    layers, the fresh head's gradients dwarf the language model's and stall the adapter. The weights start at
    zero, so that the safety gradient, which is proportional to them, grows from nothing while the head
    learns to read.
    """

    def __init__(self, hidden_size: int, n_spans: int = 1) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size, elementwise_affine=False)
        self.linear = nn.Linear(hidden_size, n_spans)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, latent: Tensor) -> Tensor:
        # In float32 also under autocast: the safety gradient is small beside the language-modelling one.
        with torch.autocast(latent.device.type, enabled=False):
            normed = self.norm(latent.to(self.linear.weight.device).float())
            if self.linear.out_features == 1:
                return self.linear(normed).squeeze(-1)
            return (normed * self.linear.weight).sum(-1) + self.linear.bias


def read_latent(hidden: Tensor, span: Tensor) -> Tensor:
    """Mean hidden state over each row's tokens [start, end).

    Args:
        hidden: [batch, length, d].
        span: int64 [batch, 2], or [batch, spans, 2].

    Returns:
        [batch, d], or [batch, spans, d].
    """
    if span.ndim == 3:
        return torch.stack([read_latent(hidden, one) for one in span.unbind(1)], dim=1)
    width = span[:, 1] - span[:, 0]
    if bool((width == 1).all()):
        return hidden[torch.arange(len(span), device=hidden.device), span[:, 0]]
    at = torch.arange(hidden.shape[1], device=hidden.device)
    inside = (at >= span[:, :1]) & (at < span[:, 1:])
    return torch.einsum("btd,bt->bd", hidden, inside.to(hidden.dtype)) / width.unsqueeze(-1).to(hidden.dtype)


def binary_loss(logits: Tensor, soft_labels: Tensor, n_labelled: Tensor | None = None) -> Tensor:
    """Mean binary cross-entropy of logits [batch] against probabilities [batch]; below 0 is no label.

    Logits of several heads, [batch, spans], are all held against the same probability. With ``n_labelled`` [] the sum
    is divided by that many examples instead: those of the batch of which this one is a part.
    """
    n = None if n_labelled is None else n_labelled * (logits.shape[1] if logits.ndim > 1 else 1)
    if logits.ndim > soft_labels.ndim:
        soft_labels = soft_labels.unsqueeze(-1).expand_as(logits)
    counts = soft_labels >= 0
    losses = F.binary_cross_entropy_with_logits(logits, soft_labels.clamp(min=0), reduction="none")
    # A batch without labels gives 0 with a graph: every process of a distributed run must have gradients.
    return (losses * counts).sum() / (counts.sum() if n is None else n).clamp(min=1)


def auxiliary_loss(
    head: AuxiliaryHead,
    hidden: Tensor,
    span: Tensor,
    soft_labels: Tensor,
    detach: bool = False,
    n_labelled: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Loss [] and logits [batch] of the head on hidden states [batch, length, d].

    Args:
        span: tokens [start, end) that the head reads in each row, int64 [batch, 2].
        soft_labels: probabilities of refusal [batch]; below 0 means unlabelled.
        detach: cut the gradient to the latents. The head still learns, the model does not: a control.
        n_labelled: see :func:`binary_loss`.
    """
    latent = read_latent(hidden, span)
    logits = head(latent.detach() if detach else latent)
    return binary_loss(logits, soft_labels, n_labelled), logits


class Losses(NamedTuple):
    """Both losses of a batch, and how many of the head's decisions agree with the labels' side of 1/2."""

    lm: Tensor
    aux: Tensor | None
    correct: Tensor | None
    labelled: Tensor | None


class SupervisedModel(nn.Module):
    """A causal language model and, unless ``head`` is ``None``, an auxiliary head on one of its layers.

    One module owns both, so that distributed wrappers reduce the head's gradients too. The cross-entropy is
    computed on labelled positions only: the vocabulary projection of all others would be thrown away.

    Args:
        lm: the (LoRA) model; only modules inside it are called.
        head: the auxiliary head, or ``None`` for plain fine-tuning.
        layer: index into ``hidden_states`` (1 to L): the output of that block, L after the final norm.
        detach: see :func:`auxiliary_loss`.
    """

    def __init__(self, lm: nn.Module, head: AuxiliaryHead | None, layer: int, detach: bool = False) -> None:
        super().__init__()
        self.lm = lm
        self.head = head
        self.detach = detach
        base = base_model(lm)
        check_logits_are_plain(base)
        self.n_layers = len(decoder_blocks(base))
        self.layer = resolve_layer(layer, self.n_layers)
        # Which modules FSDP shards one by one; the wrapper of the wrapped model has to say so.
        self._no_split_modules = base._no_split_modules

    def forward(
        self,
        input_ids: Tensor,
        labels: Tensor,
        head_span: Tensor,
        soft_label: Tensor,
        counts: Tensor | None = None,
    ) -> Losses:
        """Losses of one batch; shapes as in :class:`saferlrm.align.data.Collator`.

        Args:
            counts: target tokens and labelled examples, int64 [2], of the whole batch of which this is a part: what
                both sums are divided by, so that the parts' losses add up to the batch's. ``None``: it is whole.
        """
        last, inner = self.hidden_states(input_ids)
        # The state at position t predicts token t + 1.
        targets = labels[:, 1:].to(last.device)
        chosen = targets != IGNORE
        logits = base_model(self.lm).get_output_embeddings()(last[:, :-1][chosen])
        total = F.cross_entropy(logits.float(), targets[chosen], reduction="sum")
        lm_loss = total / (chosen.sum() if counts is None else counts[0]).clamp(min=1)
        if self.head is None:
            return Losses(lm_loss, None, None, None)
        aux_loss, decision = auxiliary_loss(
            self.head, inner, head_span, soft_label, self.detach, None if counts is None else counts[1]
        )
        labelled = soft_label >= 0
        decision = decision if decision.ndim == 1 else decision[:, 0]
        correct = (((decision > 0) == (soft_label > 0.5)) & labelled).sum()
        return Losses(lm_loss, aux_loss, correct.detach(), labelled.sum())

    def hidden_states(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        """States after the final normalisation, and those the head reads, both [batch, length, d]."""
        decoder = base_model(self.lm).get_decoder()
        if self.head is None or self.layer == self.n_layers:
            last = decoder(input_ids=input_ids, use_cache=False).last_hidden_state
            return last, last
        caught: list[Tensor] = []

        def catch(_module: nn.Module, _args: object, output: Tensor | tuple[Tensor, ...]) -> None:
            caught.append(output if isinstance(output, Tensor) else output[0])

        # One hook instead of output_hidden_states: the states of the other layers need not be kept.
        handle = decoder_blocks(self.lm)[self.layer - 1].register_forward_hook(catch)
        try:
            last = decoder(input_ids=input_ids, use_cache=False).last_hidden_state
        finally:
            handle.remove()
        return last, caught[0]

    def checkpoint_activations(self) -> None:
        """Compute each decoder layer again in the backward pass instead of keeping its activations.

        Without re-entry into autograd: the state that the head reads leaves a layer by a hook, and the re-entrant kind
        computes the layer without a graph.
        """
        base = base_model(self.lm)
        enable = getattr(base, "activation_checkpointing_enable", None) or base.gradient_checkpointing_enable
        enable({"use_reentrant": False})


def base_model(model: nn.Module) -> PreTrainedModel:
    """The transformers model inside a peft model; a bare model is returned as it is."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def decoder_blocks(model: nn.Module) -> nn.ModuleList:
    """The decoder layers, lowest first, of Qwen, Llama, Mistral and other models built alike.

    Raises:
        SaferlrmError: the model keeps its layers elsewhere.
    """
    decoder = base_model(model).get_decoder()
    blocks = getattr(decoder, "layers", None)
    if not isinstance(blocks, nn.ModuleList):
        raise SaferlrmError(f"{type(model).__name__} has no decoder.layers; use a Qwen, Llama or Mistral")
    return blocks


def resolve_layer(layer: int, n_layers: int) -> int:
    """A layer index in 1 … n_layers; negative ones count from the top, -1 being the last.

    Layer 0, the embeddings, is refused: no adapter lies below it, so no safety gradient could reach one.
    """
    resolved = layer + n_layers + 1 if layer < 0 else layer
    if not 1 <= resolved <= n_layers:
        raise SaferlrmError(
            f"alignment.head_layer={layer} is out of range; this model has layers 1 to {n_layers}"
        )
    return resolved


def check_logits_are_plain(model: PreTrainedModel) -> None:
    """Refuse models that scale or cap their logits after the projection, which the loss here would miss."""
    config = model.config.get_text_config()
    for name in ("final_logit_softcapping", "logit_scale", "logits_scaling"):
        if getattr(config, name, None) not in (None, 1, 1.0):
            raise SaferlrmError(
                f"{type(model).__name__} changes its logits ({name}); choose a model that does not"
            )
