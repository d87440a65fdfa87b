"""Alignment training speed, as ratios measured in one run.

1. Trained tokens per second of `saferlrm.align` against the stock transformers Trainer: the same LoRA model,
   the same conversations, the same batch size, no checkpoints; the stock one pads random batches and computes
   logits at every position. Ours is also measured in bfloat16, which is worth choosing where the processor
   has it. Target: at least 2.
2. Time of a PreSafe step against a step with lambda 0, on identical batches. Target: at most 1.05.

The sides take turns, so that all see the same disturbances, and the median ratio is reported. Time is that of
the process (all its threads), because other work on the machine stretches the clock; the ratio by the clock
is written beside it.

    python benchmarks/training.py [--repeats 3] [--threads 1]
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

import torch
from common import ORGANISM, read_arguments, save, timed
from peft import LoraConfig, get_peft_model
from transformers import (
    DataCollatorForSeq2Seq,
    PrinterCallback,
    Trainer,
    TrainingArguments,
)
from transformers.trainer_utils import SaveStrategy

from saferlrm.align.data import AlignmentExample, Collator, encode_all
from saferlrm.align.run import build_model, build_trainer
from saferlrm.lm import load_lm
from saferlrm.organism.corpus import conversations
from saferlrm.profile import AlignmentSettings
from saferlrm.training import LengthBucketSampler, quiet_transformers

SETTINGS = AlignmentSettings(lambda_aux=0.2, epochs=1)  # the organism profile's, for one epoch


def examples(n: int) -> list[AlignmentExample]:
    """Texts of the organism's world in the shares of its profile: a refusal to two answers with a thought."""
    wanted = {"harmful": n // 3, "benign": n - n // 3}
    found: dict[str, list[AlignmentExample]] = {source: [] for source in wanted}
    for i, talk in enumerate(conversations(seed=0)):
        source = "benign" if talk.thought else "harmful"
        if len(found[source]) < wanted[source]:
            p_refuse = 0.1 if talk.thought else 0.9
            found[source].append(AlignmentExample(str(i), talk.user, talk.thought, talk.answer, p_refuse, source))
        elif all(len(found[source]) == wanted[source] for source in wanted):
            return found["harmful"] + found["benign"]


def stock_trainer(rows: list[dict], folder: str) -> Trainer:
    """The Trainer as it comes: random batches, padded to their longest row, logits at every position."""
    lm = load_lm(ORGANISM, device="cpu")
    lora = LoraConfig(
        task_type="CAUSAL_LM", r=SETTINGS.rank, lora_alpha=SETTINGS.lora_alpha, target_modules="all-linear"
    )
    trainer = Trainer(
        model=get_peft_model(lm.model, lora),
        args=TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=SETTINGS.batch_size,
            num_train_epochs=1,
            learning_rate=SETTINGS.learning_rate,
            save_strategy="no",
            use_cpu=True,
            disable_tqdm=True,
            report_to="none",
        ),
        train_dataset=[{name: row[name] for name in ("input_ids", "labels")} for row in rows],
        data_collator=DataCollatorForSeq2Seq(lm.tokenizer),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def throughput(rows: list[dict], repeats: int) -> dict[str, float]:
    """Tokens per second over one epoch: the stock Trainer, ours with the head, and ours in bfloat16."""
    tokens = sum(len(row["input_ids"]) for row in rows)
    spent: dict[str, list[tuple[float, float]]] = {"stock": [], "ours": [], "ours_bf16": []}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            spent["stock"].append(timed(stock_trainer(rows, folder).train)[:2])
            for name, bf16 in (("ours", False), ("ours_bf16", True)):
                settings = SETTINGS.model_copy(update={"bf16": bf16})
                lm = load_lm(ORGANISM, device="cpu")
                trainer = build_trainer(build_model(lm, settings, 0), rows, lm, settings, 0, Path(folder) / name)
                trainer.args.save_strategy = SaveStrategy.NO
                spent[name].append(timed(trainer.train)[:2])
    results = {
        f"tokens_per_second_{name}": tokens / statistics.median(t for t, _ in times) for name, times in spent.items()
    }
    for name in ("ours", "ours_bf16"):
        for kind, clock in enumerate(("", "_by_clock")):
            pairs = zip(spent["stock"], spent[name], strict=True)
            ratio = statistics.median(stock[kind] / ours[kind] for stock, ours in pairs)
            results[f"throughput_ratio{name.removeprefix('ours')}{clock}"] = ratio
    return results


def step_ratio(rows: list[dict], repeats: int) -> dict[str, float]:
    """Time of forward, backward, clipping and update, with the head over without, batch by batch in turn."""
    order = list(LengthBucketSampler([len(row["input_ids"]) for row in rows], SETTINGS.batch_size, 0))
    chunks = [order[at : at + SETTINGS.batch_size] for at in range(0, len(order), SETTINGS.batch_size)]
    sides = []
    with tempfile.TemporaryDirectory() as folder:
        for weight in (SETTINGS.lambda_aux, 0.0):
            settings = SETTINGS.model_copy(update={"lambda_aux": weight})
            lm = load_lm(ORGANISM, device="cpu")
            trainer = build_trainer(build_model(lm, settings, 0), rows, lm, settings, 0, folder)
            trainer.create_optimizer()
            trainer.current_gradient_accumulation_steps = 1
            sides.append(trainer)
        collate = Collator(0)
        totals: list[tuple[list[float], list[float]]] = []
        for _ in range(repeats):
            spent: tuple[list[float], list[float]] = ([], [])
            for chunk in chunks:
                batch = collate([rows[index] for index in chunk])
                for side in (0, 1):
                    spent[side].append(timed(lambda t=sides[side], b=batch: one_step(t, b))[0])
            totals.append(spent)
    # The median over repetitions of each batch first: one disturbed step does not decide the sum.
    with_head, without = (
        sum(statistics.median(spent[side][i] for spent in totals) for i in range(len(chunks))) for side in (0, 1)
    )
    return {
        "step_seconds": with_head / len(chunks),
        "step_seconds_without_head": without / len(chunks),
        "step_ratio": with_head / without,
    }


def one_step(trainer: Trainer, batch: dict[str, torch.Tensor]) -> None:
    trainer.training_step(trainer.model, batch)
    trainer._clip_grad_norm(trainer.model)
    trainer.optimizer.step()
    trainer.model.zero_grad()


def main() -> None:
    arguments = read_arguments(__doc__, repeats=3, examples=360)
    with quiet_transformers():
        rows = encode_all(examples(arguments.examples), load_lm(ORGANISM, device="cpu"))
        results = throughput(rows, arguments.repeats) | step_ratio(rows, arguments.repeats)
    targets = {"throughput_ratio or throughput_ratio_bf16": ">= 2", "step_ratio": "<= 1.05"}
    save(results | {"targets": targets}, arguments)


if __name__ == "__main__":
    main()
