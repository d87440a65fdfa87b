"""The trained weights of an alignment: whole where they are sharded, saved alone, and put back."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

HEAD_FILE = "head.safetensors"


def save_adapter(model: PeftModel, folder: str | Path, weights: dict[str, Tensor] | None = None) -> None:
    """Save the adapter, and nothing but the adapter, as safetensors; ``weights``: see :func:`trained_weights`."""
    model.save_pretrained(str(folder), state_dict=weights, safe_serialization=True, save_embedding_layers=False)
    (Path(folder) / "README.md").unlink(missing_ok=True)  # an empty form that names the base model's folder


def trained_weights(module: nn.Module) -> dict[str, Tensor]:
    """The trained weights by name, whole; where they are sharded, every process has to ask."""
    return {name: whole(p.detach()) for name, p in module.named_parameters() if p.requires_grad}


def load_weights(module: nn.Module, weights: dict[str, Tensor]) -> None:
    """Put whole weights into the trained parameters of these names, sharded or not; every one must be there."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            value = weights[name].to(parameter.device)
            if isinstance(parameter, DTensor):
                value = distribute_tensor(value, parameter.device_mesh, parameter.placements)
            parameter.copy_(value)


def whole(tensor: Tensor) -> Tensor:
    """A tensor, gathered from all processes where it is sharded."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
