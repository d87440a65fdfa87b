"""The transformers Trainer with two losses: next token, plus lambda times the auxiliary head's.

Checkpoints, resume, bf16 and multi-process runs are the Trainer's own. What is added: two losses from one forward pass,
the head in an optimiser group with its own learning rate and clipping, length buckets that depend on (seed, epoch)
alone, batches cut into parts that fit into memory, and checkpoints that hold the adapter and the head apart.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy
from torch.utils.data import Dataset
from transformers import Trainer

from saferlrm.align.data import IGNORE, NO_SOFT_LABEL, Encoded
from saferlrm.align.head import Losses
from saferlrm.align.weights import HEAD_FILE, load_weights, save_adapter, trained_weights, whole
from saferlrm.errors import SaferlrmError
from saferlrm.placement import out_of_memory
from saferlrm.store import say
from saferlrm.training import FILLER, LengthBucketSampler

OPTIMIZER_FILE, SCHEDULER_FILE = "optimizer.pt", "scheduler.pt"  # as the Trainer names them


class Rows(Dataset[Encoded]):
    """Encoded examples, and under the index ``FILLER`` the shortest of them without labels."""

    def __init__(self, encoded: Sequence[Encoded]) -> None:
        self.encoded = list(encoded)
        shortest = min(self.encoded, key=lambda row: len(row["input_ids"]))
        unlabelled = {"labels": [IGNORE] * len(shortest["labels"]), "soft_label": NO_SOFT_LABEL}
        self.filler: Encoded = {**shortest, **unlabelled}

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, index: int) -> Encoded:
        return self.filler if index == FILLER else self.encoded[index]


class PreSafeTrainer(Trainer):
    """Trainer of a :class:`SupervisedModel` on encoded examples.

    Args:
        lambda_aux: weight of the head's loss; not used if the model has no head.
        head_learning_rate: learning rate of the head's optimiser group.
        micro_batch: most rows that go through the model at once; ``None`` is all rows of this process.
    """

    def __init__(
        self,
        *args: Any,
        lambda_aux: float,
        head_learning_rate: float,
        micro_batch: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.lambda_aux = lambda_aux
        self.head_learning_rate = head_learning_rate
        self.micro_batch = micro_batch
        # Rows are cut into parts here, so the Trainer knows of one batch a step and divides by nothing.
        self.model_accepts_loss_kwargs = False
        self._sums: dict[str, Tensor] = {}
        if self.is_fsdp_enabled:
            self._configure_fsdp()

    def training_step(
        self, model: nn.Module, inputs: dict[str, Tensor], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        inputs = self._prepare_inputs(inputs)
        rows = len(inputs["input_ids"])
        self._add("steps", torch.ones((), device=self.args.device))
        before = dict(self._sums)
        while True:
            size = min(rows, self.micro_batch or rows)
            try:
                return self._step(model, inputs, size)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                if size == 1 or self.args.world_size > 1:  # elsewhere the others wait inside the step
                    raise SaferlrmError(more_memory(size)) from error
            # Nothing is lost: the step has changed gradients only, and parts of any size give the same ones.
            self._sums = dict(before)
            model.zero_grad()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self.micro_batch = (size + 1) // 2
            say(f"out of memory with {size} rows at once; going on with alignment.micro_batch={self.micro_batch}")

    def _step(self, model: nn.Module, inputs: dict[str, Tensor], size: int) -> Tensor:
        """Gradients and loss of one batch, ``size`` rows at a time."""
        rows = len(inputs["input_ids"])
        if size == rows and self.args.world_size == 1:
            return super().training_step(model, inputs)
        targets, labelled = (inputs["labels"][:, 1:] != IGNORE).sum(), (inputs["soft_label"] >= 0).sum()
        counts = torch.stack([targets, labelled])
        if self.args.world_size > 1:
            dist.all_reduce(counts)
        loss = torch.zeros((), device=self.args.device)
        for start in range(0, rows, size):
            part = {name: value[start : start + size] for name, value in inputs.items()} | {"counts": counts}
            last = start + size >= rows
            with contextlib.nullcontext() if last else self.accelerator.no_sync(model):
                loss += super().training_step(model, part)
        return loss

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, **_: Any
    ) -> Tensor | tuple[Tensor, Losses]:
        # accelerate puts autocast around DDP and single models, but not around FSDP 2.
        with self.accelerator.autocast() if self.is_fsdp_enabled else contextlib.nullcontext():
            losses: Losses = model(**inputs)
        # Of a model spread over several devices the losses arrive on different ones.
        total = losses.lm.to(self.args.device)
        self._add("lm_loss", total)
        if losses.aux is not None:
            aux = losses.aux.to(total.device)
            total = total + self.lambda_aux * aux
            self._add("aux_loss", aux)
            self._add("correct", losses.correct.to(total.device))
            self._add("labelled", losses.labelled.to(total.device))
        if "counts" in inputs:
            total = total * self.args.world_size  # DDP and FSDP take the mean over processes, and a sum is wanted
        return (total, losses) if return_outputs else total

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        # Sums stay tensors until here: reading a number at every step would wait for the device.
        if "loss" in logs and self._sums:
            steps = self._sums.pop("steps").item()
            if self.args.world_size > 1:
                for value in self._sums.values():
                    dist.all_reduce(value)
            sums = {name: value.item() for name, value in self._sums.items()}
            logs["lm_loss"] = sums["lm_loss"] / steps
            if "aux_loss" in sums:
                logs["aux_loss"] = sums["aux_loss"] / steps
                logs["head_accuracy"] = sums["correct"] / sums["labelled"] if sums["labelled"] else math.nan
            self._sums.clear()
        super().log(logs, start_time)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            adapter, head = self._parameters()
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            groups = [{"params": adapter, "weight_decay": self.args.weight_decay}]
            if head:
                groups.append({"params": head, "weight_decay": 0.0, "lr": self.head_learning_rate})
            self.optimizer = optimizer_class(groups, **options)
        return self.optimizer

    def _clip_grad_norm(self, model: nn.Module) -> Tensor:
        # Clipped apart: in a common norm the head's large first gradients would scale the adapter's away.
        adapter, head = self._parameters()
        if head:
            self.accelerator.clip_grad_norm_(head, self.args.max_grad_norm)
        return whole(self.accelerator.clip_grad_norm_(adapter, self.args.max_grad_norm))

    def _parameters(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        head = [] if self.model.head is None else list(self.model.head.parameters())
        return [p for p in self.model.lm.parameters() if p.requires_grad], head

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthBucketSampler:
        lengths = [len(row["input_ids"]) for row in self.train_dataset.encoded]
        world_size = self.args.world_size
        batch_size = self.args.train_batch_size * world_size
        return LengthBucketSampler(lengths, batch_size, self.args.seed, world_size=world_size)

    def _move_model_to_device(self, model: nn.Module, device: torch.device) -> None:
        placed = getattr(model.lm.get_base_model(), "hf_device_map", None)
        if placed is None or len(set(placed.values())) == 1:
            super()._move_model_to_device(model, device)

    def _configure_fsdp(self) -> None:
        """Shard by decoder layer, keep the trained weights in float32, and leave precision to autocast."""
        plugin = self.accelerator.state.fsdp_plugin
        if plugin.fsdp_version != 2:
            raise SaferlrmError("alignment trains with FSDP 2 only; add --fsdp_version 2 to accelerate launch")
        plugin.auto_wrap_policy = transformer_auto_wrap_policy
        plugin.transformer_cls_names_to_wrap = None  # the model's own _no_split_modules
        plugin.mixed_precision_policy = None
        plugin.cpu_ram_efficient_loading = False

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        self._save(output_dir)  # under FSDP the Trainer would gather and write the frozen weights too

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        adapter = trained_weights(self.model.lm)
        head = None if self.model.head is None else trained_weights(self.model.head)
        if self.args.should_save:
            save_adapter(self.model.lm, folder, adapter)
            if head is not None:
                save_file(head, folder / HEAD_FILE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        folder = Path(resume_from_checkpoint)
        # peft leaves the adapter's name out of the names in a file.
        saved = load_file(folder / "adapter_model.safetensors")
        load_weights(self.model.lm, {name.replace(".weight", ".default.weight"): w for name, w in saved.items()})
        if self.model.head is not None:
            load_weights(self.model.head, load_file(folder / HEAD_FILE))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_fsdp_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        gathered = get_optimizer_state_dict(self.model, self.optimizer.optimizer, options=options)
        if self.args.should_save:
            torch.save(gathered, os.path.join(output_dir, OPTIMIZER_FILE))
            torch.save(self.lr_scheduler.state_dict(), os.path.join(output_dir, SCHEDULER_FILE))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if not self.is_fsdp_enabled or checkpoint is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        state = torch.load(os.path.join(checkpoint, OPTIMIZER_FILE), map_location="cpu", weights_only=True)
        options = StateDictOptions(full_state_dict=True)
        set_optimizer_state_dict(self.model, self.optimizer.optimizer, state, options=options)
        self.lr_scheduler.load_state_dict(torch.load(os.path.join(checkpoint, SCHEDULER_FILE), weights_only=True))

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        # Each process saves its own, and the first one then says that the checkpoint is complete.
        self.accelerator.wait_for_everyone()

    def _add(self, name: str, value: Tensor) -> None:
        value = value.detach()
        self._sums[name] = self._sums[name] + value if name in self._sums else value.clone()


def more_memory(rows: int | None) -> str:
    """What to change when memory runs out with this many rows at once; ``None`` is the whole batch."""
    at_once = "a whole batch" if rows is None else f"{rows} row{'s' if rows > 1 else ''}"
    return (
        f"out of memory in training with {at_once} at once; set alignment.micro_batch lower (down to 1, same numbers), "
        "alignment.gradient_checkpointing=true or loading.quantization=4bit, or lower alignment.batch_size"
    )
