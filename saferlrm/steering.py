"""Steering: adding a direction to hidden states, or removing it, while a model reads and writes.

Refusal is close to one direction in the hidden states of chat models: adding it makes a model refuse, removing it
makes it comply (Arditi et al., arXiv 2406.11717). Here the direction can also be moved at the pre-CoT token alone, the
one token from which the model goes on to think::

    unit, norm = refusal_direction(states_of_harmful_prompts, states_of_benign_ones)
    with steer(lm, layer=2, vector=unit, scale=norm, where="pre_cot"):
        answer(lm, prompts, "on", decoding)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from saferlrm.align.head import decoder_blocks, resolve_layer
from saferlrm.errors import SaferlrmError
from saferlrm.lm import LanguageModel
from saferlrm.probes import fit_probe

Where = Literal["pre_cot", "all"]
SteeringMode = Literal["add", "remove"]


class Direction(NamedTuple):
    """A unit vector [hidden size] and the length of the difference it comes from, in units of the hidden states."""

    unit: np.ndarray
    norm: float


def refusal_direction(harmful: ArrayLike, benign: ArrayLike) -> Direction:
    """From the mean state of benign prompts to that of harmful ones; states are [prompts, hidden size].

    Difference in means (Arditi et al., arXiv 2406.11717). Adding ``norm`` times ``unit`` to the states moves the one
    mean to the other.

    Raises:
        SaferlrmError: a group is empty, shapes or values do not fit, or the means are the same.
    """
    states = [np.asarray(group, float) for group in (harmful, benign)]
    if any(group.ndim != 2 or not len(group) for group in states) or states[0].shape[1] != states[1].shape[1]:
        shapes = " and ".join(str(group.shape) for group in states)
        raise SaferlrmError(f"a direction needs harmful and benign states, [prompts, hidden size] each, not {shapes}")
    labels = np.repeat([True, False], [len(group) for group in states])
    difference = fit_probe(np.concatenate(states), labels, "difference_in_means").direction
    norm = float(np.linalg.norm(difference))
    if norm == 0:
        raise SaferlrmError("harmful and benign states have the same mean; there is no direction between them")
    return Direction(difference / norm, norm)


@contextmanager
def steer(
    lm: LanguageModel,
    layer: int | Sequence[int],
    vector: ArrayLike,
    scale: float = 1.0,
    where: Where = "all",
    mode: SteeringMode = "add",
) -> Iterator[None]:
    """Change the output of one or more layers as long as the context lasts.

    Args:
        layer: 1 to the number of layers, or negative from the top: the output of that block, which is
            ``hidden_states[layer]`` except for the last layer, where hidden states are normalised and this is not.
        vector: shape [hidden size].
        scale: ``add`` adds ``scale * vector``; ``remove`` does not use it.
        where: ``all`` tokens, or the ``pre_cot`` token alone: the last token of the text that is completed. With
            ``where="pre_cot"`` a plain call of the model outside :mod:`saferlrm.generate` is changed in its last
            column, so its rows must be padded on the left or not at all (``activations.extract`` pads on the right).
        mode: ``remove`` projects the states onto the space orthogonal to the vector.

    Raises:
        SaferlrmError: the layer, the vector or a choice does not fit.
    """
    if where not in get_args(Where) or mode not in get_args(SteeringMode):
        raise SaferlrmError(f"cannot steer {where!r}, {mode!r}; choose pre_cot or all, and add or remove")
    direction = torch.as_tensor(np.array(vector, np.float32))
    if not np.isfinite(scale):
        raise SaferlrmError(f"a steering scale must be a finite number, not {scale}")
    if direction.shape != (lm.hidden_size,) or not bool(direction.isfinite().all()):
        raise SaferlrmError(f"a steering vector must be {lm.hidden_size} finite numbers, not {tuple(direction.shape)}")
    if mode == "remove":
        length = float(direction.norm())
        if length == 0:
            raise SaferlrmError("a vector of zeros is no direction to remove; give another")
        direction = direction / length
    else:
        direction = direction * scale
    direction = direction.to(lm.device)

    def changed(states: Tensor) -> Tensor:
        along = direction.to(states.dtype)
        return states + along if mode == "add" else states - (states @ along)[..., None] * along

    def hook(_module: nn.Module, _args: object, output: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
        states = output if isinstance(output, Tensor) else output[0]
        if where == "all":
            states = changed(states)
        else:
            last = changed(states[:, -1:])
            if lm.reads_last is not None:
                last = torch.where(lm.reads_last[:, None, None], last, states[:, -1:])
            states = torch.cat([states[:, :-1], last], dim=1)
        return states if isinstance(output, Tensor) else (states, *output[1:])

    blocks = decoder_blocks(lm.model)
    chosen = [blocks[resolve_layer(int(index), len(blocks)) - 1] for index in np.atleast_1d(layer)]
    with ExitStack() as hooks:
        for block in chosen:
            hooks.callback(block.register_forward_hook(hook).remove)
        yield
