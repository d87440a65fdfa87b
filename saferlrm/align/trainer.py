"""Alignment with auxiliary supervision: LoRA on the next-token loss plus lambda times the head's loss.

The loop is the transformers Trainer's, so checkpoints, resume, bf16 and multi-process runs are its own. What
is added: two losses from one forward pass, the head in an optimiser group with its own learning rate and
clipping, length buckets that depend on (seed, epoch) alone, and checkpoints that hold the adapter and the
head apart.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments, set_seed

from saferlrm.align.data import IGNORE, AlignmentExample, Collator, Encoded, encode_all
from saferlrm.align.head import AuxiliaryHead, Losses, SupervisedModel, resolve_layer
from saferlrm.lm import LanguageModel, load_lm
from saferlrm.profile import AlignmentSettings
from saferlrm.training import LengthBucketSampler, ProgressCallback, last_complete_checkpoint

HEAD_FILE = "head.safetensors"
HISTORY_ROWS = 50  # about this many rows in history.json, whatever the number of steps
CHECKPOINTS = 4  # about this many checkpoints a run


class PreSafeTrainer(Trainer):
    """Trainer of a :class:`SupervisedModel` on encoded examples.

    Args:
        lambda_aux: weight of the head's loss; not used if the model has no head.
        head_learning_rate: learning rate of the head's optimiser group.
    """

    def __init__(self, *args: Any, lambda_aux: float, head_learning_rate: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lambda_aux = lambda_aux
        self.head_learning_rate = head_learning_rate
        # The losses are means over a batch, so the Trainer divides by the accumulation steps itself.
        self.model_accepts_loss_kwargs = False
        self._sums: dict[str, Tensor] = {}

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, **_: Any
    ) -> Tensor | tuple[Tensor, Losses]:
        losses: Losses = model(**inputs)
        total = losses.lm
        self._add("batches", torch.ones_like(losses.lm))
        self._add("lm_loss", losses.lm)
        if losses.aux is not None:
            total = total + self.lambda_aux * losses.aux
            self._add("aux_loss", losses.aux)
            self._add("correct", losses.correct)
            self._add("labelled", losses.labelled)
        return (total, losses) if return_outputs else total

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        # Sums stay tensors until here: reading a number at every step would wait for the device.
        if "loss" in logs and self._sums:
            sums = {name: value.item() for name, value in self._sums.items()}
            logs["lm_loss"] = sums["lm_loss"] / sums["batches"]
            if "aux_loss" in sums:
                logs["aux_loss"] = sums["aux_loss"] / sums["batches"]
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
        return self.accelerator.clip_grad_norm_(adapter, self.args.max_grad_norm)

    def _parameters(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        head = [] if self.model.head is None else list(self.model.head.parameters())
        return [p for p in self.model.lm.parameters() if p.requires_grad], head

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthBucketSampler:
        lengths = [len(row["input_ids"]) for row in self.train_dataset]
        return LengthBucketSampler(lengths, self.args.train_batch_size, self.args.seed)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        save_adapter(self.model.lm, folder)
        if self.model.head is not None:
            save_file(self.model.head.state_dict(), folder / HEAD_FILE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        folder = Path(resume_from_checkpoint)
        set_peft_model_state_dict(self.model.lm, load_file(folder / "adapter_model.safetensors"))
        if self.model.head is not None:
            self.model.head.load_state_dict(load_file(folder / HEAD_FILE))

    def _add(self, name: str, value: Tensor) -> None:
        value = value.detach()
        self._sums[name] = self._sums[name] + value if name in self._sums else value


def align(
    lm_folder: str | Path,
    examples: Sequence[AlignmentExample],
    settings: AlignmentSettings,
    seed: int,
    out_dir: str | Path,
    *,
    dtype: str = "float32",
    device: str = "auto",
    callbacks: Sequence[TrainerCallback] = (),
) -> Path:
    """Align a model and write ``adapter/`` (peft alone loads it) and ``history.json`` into ``out_dir``.

    A run that was interrupted leaves ``checkpoints/`` in ``out_dir``; called again, it goes on from the last
    complete one and ends with the adapter of an uninterrupted run. With ``lambda_aux`` 0 there is no head.

    Args:
        lm_folder: checkpoint folder or hub name of the model to align.
        examples: the alignment set, already with the soft labels of the chosen method.
        seed: of the adapter's initial weights, dropout and the order of the examples.
        dtype: in which the frozen weights are kept; the adapter trains in float32.
        callbacks: more transformers callbacks, told of every step.

    Returns:
        The adapter's folder.

    Raises:
        SaferlrmError: empty set, unusable example, head layer out of range, or a model that does not fit.
    """
    out_dir = Path(out_dir)
    lm = load_lm(lm_folder, dtype=dtype, device=device)
    encoded = encode_all(examples, lm, settings.head_token)
    model = build_model(lm, settings, seed)
    checkpoints = out_dir / "checkpoints"
    trainer = build_trainer(model, encoded, lm, settings, seed, checkpoints)
    for callback in (ProgressCallback(f"aligning (lambda {settings.lambda_aux:g}, seed {seed})"), *callbacks):
        trainer.add_callback(callback)
    trainer.train(resume_from_checkpoint=last_complete_checkpoint(checkpoints))
    if trainer.is_world_process_zero():
        save_adapter(model.lm, out_dir / "adapter")
        rows = [row for row in trainer.state.log_history if "loss" in row]
        temporary = out_dir / "history.json.part"
        temporary.write_text(json.dumps(rows, indent=1))
        os.replace(temporary, out_dir / "history.json")
        cost = {
            "examples": len(encoded),
            "steps": trainer.state.global_step,
            "tokens": sum(len(row["input_ids"]) for row in encoded) * settings.epochs,
            "supervised_tokens": sum(label != IGNORE for row in encoded for label in row["labels"]) * settings.epochs,
        }
        (out_dir / "cost.json").write_text(json.dumps(cost))
        shutil.rmtree(checkpoints, ignore_errors=True)
    return out_dir / "adapter"


def build_model(lm: LanguageModel, settings: AlignmentSettings, seed: int) -> SupervisedModel:
    """Put a fresh LoRA adapter on all linear layers of ``lm.model``, in place, and a head if lambda > 0."""
    resolve_layer(settings.head_layer, lm.n_layers)
    set_seed(seed)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules="all-linear",
    )
    peft_model = get_peft_model(lm.model, config, autocast_adapter_dtype=True)
    # The name goes into the saved adapter: a folder's place on this machine has no business there.
    place = Path(lm.name)
    peft_model.peft_config["default"].base_model_name_or_path = place.name if place.is_dir() else lm.name
    spans = 2 if settings.head_token == "dual_mean" else 1
    head = AuxiliaryHead(lm.hidden_size, spans).to(lm.device) if settings.lambda_aux > 0 else None
    return SupervisedModel(peft_model, head, settings.head_layer, settings.detach_head)


def build_trainer(
    model: SupervisedModel,
    encoded: Sequence[Encoded],
    lm: LanguageModel,
    settings: AlignmentSettings,
    seed: int,
    checkpoints: str | Path,
) -> PreSafeTrainer:
    """A trainer that logs about 50 rows and saves about four checkpoints a run."""
    steps = math.ceil(math.ceil(len(encoded) / settings.batch_size) * settings.epochs)
    every = max(1, steps // HISTORY_ROWS)
    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        per_device_train_batch_size=settings.batch_size,
        num_train_epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=round(settings.warmup_ratio * steps),
        max_grad_norm=settings.max_grad_norm,
        optim="adamw_torch_fused",
        bf16=settings.bf16,
        use_cpu=lm.device.type == "cpu",
        logging_steps=every,
        # A multiple of the logging interval, so that no row is half lost when a run resumes.
        save_steps=every * max(1, math.ceil(steps / every / CHECKPOINTS)),
        save_total_limit=1,
        remove_unused_columns=False,
        dataloader_pin_memory=lm.device.type != "cpu",
        disable_tqdm=True,
        report_to="none",
        seed=seed,
    )
    pad = lm.tokenizer.pad_token_id
    trainer = PreSafeTrainer(
        model=model,
        args=arguments,
        train_dataset=list(encoded),
        data_collator=Collator(0 if pad is None else pad),
        lambda_aux=settings.lambda_aux,
        head_learning_rate=settings.head_learning_rate,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def save_adapter(model: PeftModel, folder: str | Path) -> None:
    """Save the adapter, and nothing but the adapter, as safetensors."""
    model.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)
    (Path(folder) / "README.md").unlink(missing_ok=True)  # an empty form that names the base model's folder
