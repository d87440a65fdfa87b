"""Alignment with auxiliary supervision: LoRA on the next-token loss plus lambda times the head's loss.

The loop is the transformers Trainer's, so checkpoints, resume, bf16 and multi-process runs are its own. What
is added: two losses from one forward pass, the head in an optimiser group with its own learning rate and
clipping, length buckets that depend on (seed, epoch) alone, and checkpoints that hold the adapter and the
head apart.

``alignment.batch_size`` is the batch of one optimiser step, whatever runs it. Several processes (DDP or FSDP 2) share
its rows, and ``alignment.micro_batch`` cuts the rows of a process into parts; both losses are divided by the target
tokens and the labelled examples of the whole batch, so the sum of the parts is the batch's loss and a run ends with the
adapter of a run in one process, but for rounding (and for the draws of dropout, where there is any).
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils.data import Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments, set_seed

from saferlrm import distributed
from saferlrm.align.data import IGNORE, NO_SOFT_LABEL, AlignmentExample, Collator, Encoded, encode_all
from saferlrm.align.head import AuxiliaryHead, Losses, SupervisedModel, resolve_layer
from saferlrm.errors import SaferlrmError
from saferlrm.lm import LanguageModel, load_lm
from saferlrm.profile import AlignmentSettings, LoadingSettings
from saferlrm.store import say
from saferlrm.training import FILLER, LengthBucketSampler, ProgressCallback, last_complete_checkpoint

HEAD_FILE = "head.safetensors"
OPTIMIZER_FILE, SCHEDULER_FILE = "optimizer.pt", "scheduler.pt"  # as the Trainer names them
HISTORY_ROWS = 50  # about this many rows in history.json, whatever the number of steps
CHECKPOINTS = 4  # about this many checkpoints a run


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
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                if size == 1 or self.args.world_size > 1:  # elsewhere the others wait inside the step
                    raise SaferlrmError(_more_memory(size)) from error
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
        return _whole(self.accelerator.clip_grad_norm_(adapter, self.args.max_grad_norm))

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
    except RuntimeError as error:
        if out_of_memory(error):
            raise SaferlrmError(_more_memory(trainer.micro_batch)) from error
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


def save_adapter(model: PeftModel, folder: str | Path, weights: dict[str, Tensor] | None = None) -> None:
    """Save the adapter, and nothing but the adapter, as safetensors; ``weights``: see :func:`trained_weights`."""
    model.save_pretrained(str(folder), state_dict=weights, safe_serialization=True, save_embedding_layers=False)
    (Path(folder) / "README.md").unlink(missing_ok=True)  # an empty form that names the base model's folder


def trained_weights(module: nn.Module) -> dict[str, Tensor]:
    """The trained weights by name, whole; where they are sharded, every process has to ask."""
    return {name: _whole(p.detach()) for name, p in module.named_parameters() if p.requires_grad}


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


def out_of_memory(error: BaseException) -> bool:
    """Whether a device, or this machine, had no room for a tensor."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator: can't allocate memory" in str(error)


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _more_memory(rows: int | None) -> str:
    at_once = "a whole batch" if rows is None else f"{rows} row{'s' if rows > 1 else ''}"
    return (
        f"out of memory in training with {at_once} at once; set alignment.micro_batch lower (down to 1, same numbers), "
        "alignment.gradient_checkpointing=true or loading.quantization=4bit, or lower alignment.batch_size"
    )
