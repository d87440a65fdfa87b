"""Alignment with auxiliary supervision: LoRA on the next-token loss plus lambda times the head's loss.

``alignment.batch_size`` is the batch of one optimiser step, whatever runs it. Several processes (DDP or FSDP 2) share
its rows, and ``alignment.micro_batch`` cuts the rows of a process into parts; both losses are divided by the target
tokens and the labelled examples of the whole batch, so the sum of the parts is the batch's loss and a run ends with the
adapter of a run in one process, but for rounding (and for the draws of dropout, where there is any).
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from peft import LoraConfig, get_peft_model
from transformers import PrinterCallback, TrainerCallback, TrainingArguments, set_seed

from saferlrm import distributed
from saferlrm.align.data import IGNORE, AlignmentExample, Collator, Encoded, encode_all
from saferlrm.align.head import AuxiliaryHead, SupervisedModel, resolve_layer
from saferlrm.align.trainer import PreSafeTrainer, Rows, more_memory
from saferlrm.align.weights import save_adapter, trained_weights
from saferlrm.errors import SaferlrmError
from saferlrm.lm import LanguageModel, load_lm
from saferlrm.placement import out_of_memory
from saferlrm.profile import AlignmentSettings, LoadingSettings
from saferlrm.training import ProgressCallback, last_complete_checkpoint

HISTORY_ROWS = 50  # about this many rows in history.json, whatever the number of steps
CHECKPOINTS = 4  # about this many checkpoints a run


def align(
    lm_folder: str | Path,
    examples: Sequence[AlignmentExample],
    settings: AlignmentSettings,
    seed: int,
    out_dir: str | Path,
    *,
    dtype: str = "float32",
    device: str = "auto",
    loading: LoadingSettings | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> Path:
    """Align a model and write ``adapter/`` (peft alone loads it) and ``history.json`` into ``out_dir``.

    A run that was interrupted leaves ``checkpoints/`` in ``out_dir``; called again, it goes on from the last
    complete one and ends with the adapter of an uninterrupted run. With ``lambda_aux`` 0 there is no head.

    Under ``torchrun`` or ``accelerate launch`` all processes train it together (:mod:`saferlrm.distributed`), and the
    first one writes. ``out_dir`` must lie where all of them can read and write.

    Args:
        lm_folder: checkpoint folder or hub name of the model to align.
        examples: the alignment set, already with the soft labels of the chosen method.
        seed: of the adapter's initial weights, dropout and the order of the examples.
        dtype: in which the frozen weights are kept; the adapter trains in float32.
        loading: attention kernels, 4-bit weights, devices and template of the model.
        callbacks: more transformers callbacks, told of every step. With any, the run keeps to one process.

    Returns:
        The adapter's folder.

    Raises:
        SaferlrmError: empty set, unusable example, head layer out of range, a model that does not fit, a batch that
            cannot be shared out, or too little memory.
    """
    arguments = (str(lm_folder), list(examples), settings, seed, Path(out_dir), dtype, device, loading)
    if callbacks:  # they watch one process's model, and the run is the same anyway
        return _align(*arguments, callbacks)
    return distributed.call(_align, *arguments)


def _align(
    lm_folder: str,
    examples: Sequence[AlignmentExample],
    settings: AlignmentSettings,
    seed: int,
    out_dir: Path,
    dtype: str,
    device: str,
    loading: LoadingSettings | None,
    callbacks: Sequence[TrainerCallback] = (),
) -> Path:
    """:func:`align` in one process, or in each of several at once."""
    share_of_batch(settings.batch_size)
    on_cpu = device == "cpu" or (device == "auto" and not torch.cuda.is_available())
    given = {} if loading is None or loading == LoadingSettings() else {"loading": loading}
    lm = load_lm(lm_folder, dtype=dtype, device=_own_device(device, on_cpu), **given)
    encoded = encode_all(examples, lm, settings.head_token)
    model = build_model(lm, settings, seed)
    checkpoints = out_dir / "checkpoints"
    trainer = build_trainer(model, encoded, lm, settings, seed, checkpoints, on_cpu)
    for callback in (ProgressCallback(f"aligning (lambda {settings.lambda_aux:g}, seed {seed})"), *callbacks):
        trainer.add_callback(callback)
    first = trainer.is_world_process_zero()
    resumed = [last_complete_checkpoint(checkpoints) if first else None]
    if trainer.args.world_size > 1:
        dist.broadcast_object_list(resumed, src=0)
    try:
        trainer.train(resume_from_checkpoint=resumed[0])
    except (RuntimeError, MemoryError) as error:
        if out_of_memory(error):
            raise SaferlrmError(more_memory(trainer.micro_batch)) from error
        raise
    weights = trained_weights(model.lm)  # under FSDP every process holds a part
    trainer.accelerator.wait_for_everyone()
    if first:
        save_adapter(model.lm, out_dir / "adapter", weights)
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
    trainer.accelerator.wait_for_everyone()
    return out_dir / "adapter"


def _own_device(device: str, on_cpu: bool) -> str:
    """Where this process of several puts the model: its own GPU, and under FSDP first the CPU, for sharding."""
    if not distributed.launched() or on_cpu or device not in ("auto", "cuda"):
        return device
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        return "cpu"
    return f"cuda:{distributed.local_rank()}"


def share_of_batch(batch_size: int) -> int:
    """Rows of a batch for each process."""
    n = distributed.world_size()
    if batch_size % n:
        raise SaferlrmError(
            f"alignment.batch_size={batch_size} cannot be shared out over {n} processes; set it to a multiple of {n}"
        )
    return batch_size // n


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
    use_cpu: bool | None = None,
) -> PreSafeTrainer:
    """A trainer that logs about 50 rows and saves about four checkpoints a run.

    ``use_cpu`` keeps it off GPUs; by default where ``lm`` lies decides.
    """
    use_cpu = lm.device.type == "cpu" if use_cpu is None else use_cpu
    if settings.gradient_checkpointing:
        model.checkpoint_activations()
    # Of the precision, alignment.bf16 alone decides, and not a launcher or a trainer before this one.
    os.environ.pop("ACCELERATE_MIXED_PRECISION", None)
    steps = math.ceil(math.ceil(len(encoded) / settings.batch_size) * settings.epochs)
    every = max(1, steps // HISTORY_ROWS)
    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        per_device_train_batch_size=share_of_batch(settings.batch_size),
        num_train_epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=round(settings.warmup_ratio * steps),
        max_grad_norm=settings.max_grad_norm,
        optim="adamw_torch_fused",
        bf16=settings.bf16,
        use_cpu=use_cpu,
        logging_steps=every,
        # A multiple of the logging interval, so that no row is half lost when a run resumes.
        save_steps=every * max(1, math.ceil(steps / every / CHECKPOINTS)),
        save_total_limit=1,
        remove_unused_columns=False,
        dataloader_pin_memory=not use_cpu,
        ddp_find_unused_parameters=False,  # every trained weight takes part in every step
        disable_tqdm=True,
        report_to="none",
        seed=seed,
    )
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # several GPUs are for several processes: DataParallel would enlarge the batch
    pad = lm.tokenizer.pad_token_id
    trainer = PreSafeTrainer(
        model=model,
        args=arguments,
        train_dataset=Rows(encoded),
        data_collator=Collator(0 if pad is None else pad),
        lambda_aux=settings.lambda_aux,
        head_learning_rate=settings.head_learning_rate,
        micro_batch=settings.micro_batch,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer
