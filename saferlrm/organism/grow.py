"""Growing the model organism from scratch: pre-training, then hybrid post-training with replay.

Both phases run in the transformers ``Trainer``, so a killed run resumes from its last checkpoint. Batches are made
beforehand: rows of similar length, loss on target positions only. That is where the speed comes from; a stock Trainer
with padded batches is measured against it in ``benchmarks/``.
"""

from __future__ import annotations

import itertools
import json
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from transformers import (
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint

from saferlrm.chat import ChatFormat
from saferlrm.errors import SaferlrmError
from saferlrm.organism.corpus import Conversation, conversations, plain_texts
from saferlrm.organism.tokenizer import END_OF_TEXT, train_tokenizer
from saferlrm.profile import GrowthSettings

IGNORED = -100
ROW = 64  # tokens in a row of packed plain text
# Widths of batches, and counts of scored positions, are multiples of these: oneDNN compiles and keeps a kernel for each
# new shape, and free shapes cost twice the time and twice the memory.
WIDTHS, SHAPES = 16, 256


@dataclass(frozen=True)
class Row:
    """One training row: token ids and, for each, whether the model learns to write it."""

    ids: list[int]
    learn: list[bool]


def encode_conversations(talks: Sequence[Conversation], tokenizer: PreTrainedTokenizerFast) -> list[Row]:
    """Conversations as rows; the loss is on what the assistant writes.

    Without thinking the empty thought is part of the prompt, as at inference. With thinking the model learns the
    thought and its marks, unless the conversation says that the thought is given.
    """
    chat = ChatFormat.detect(tokenizer)
    prompts, targets = [], []
    for talk in talks:
        if talk.thought is None:
            prompt, target = chat.render(talk.user, "off"), talk.answer + chat.end_of_turn
        elif talk.learn_thought:
            prompt, target = chat.render(talk.user, "on"), chat.target(talk.thought, talk.answer)
        else:
            prompt, target = chat.render(talk.user, "short"), talk.answer + chat.end_of_turn
        prompts.append(prompt)
        targets.append(target)
    given = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    written = tokenizer(targets, add_special_tokens=False)["input_ids"]
    return [Row(g + w, [False] * len(g) + [True] * len(w)) for g, w in zip(given, written, strict=True)]


def pack(texts: Sequence[str], tokenizer: PreTrainedTokenizerFast) -> list[Row]:
    """Plain documents, separated by the end-of-text token, cut into full rows of ``ROW`` tokens."""
    end = tokenizer.convert_tokens_to_ids(END_OF_TEXT)
    stream = [i for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"] for i in (*ids, end)]
    return [Row(stream[i : i + ROW], [True] * ROW) for i in range(0, len(stream) - ROW + 1, ROW)]


def batches(rows: Sequence[Row], tokens: int, pad: int, rng: random.Random) -> list[dict[str, torch.Tensor]]:
    """Rows of similar length in batches of about ``tokens`` tokens, in random order.

    ``labels`` are shifted already: position ``i`` holds the token to be written after ``i``.
    """
    order = sorted(range(len(rows)), key=lambda i: (len(rows[i].ids), rng.random()))
    groups: list[list[Row]] = [[]]
    for i in order:
        if groups[-1] and (len(groups[-1]) + 1) * _rounded(len(rows[i].ids)) > tokens:
            groups.append([])
        groups[-1].append(rows[i])
    rng.shuffle(groups)
    made = []
    for group in groups:
        width = _rounded(max(len(row.ids) for row in group))
        ids = torch.full((len(group), width), pad)
        labels = torch.full((len(group), width), IGNORED)
        for r, row in enumerate(group):
            ids[r, : len(row.ids)] = torch.tensor(row.ids)
            target = [i if learn else IGNORED for i, learn in zip(row.ids[1:], row.learn[1:], strict=True)]
            labels[r, : len(target)] = torch.tensor(target)
        made.append({"input_ids": ids, "labels": labels})
    return made


def _rounded(length: int) -> int:
    return length + -length % WIDTHS


class _GrowthTrainer(Trainer):
    """Takes ready batches in their given order and scores target positions only."""

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> torch.utils.data.Sampler:
        return torch.utils.data.SequentialSampler(self.train_dataset)

    def compute_loss(self, model: Any, inputs: dict[str, torch.Tensor], *args: Any, **kwargs: Any) -> torch.Tensor:
        # Right padding under a causal mask needs no attention mask: no target looks at a pad.
        # The Trainer's own autocast wraps `model.forward`, which is not called here.
        with torch.autocast(inputs["input_ids"].device.type, dtype=torch.bfloat16):
            hidden = model.model(input_ids=inputs["input_ids"], use_cache=False).last_hidden_state
            labels = inputs["labels"].flatten()
            chosen = (labels != IGNORED).nonzero().squeeze(-1)
            # Repeats of an ignored position fill the count up.
            missing = -len(chosen) % SHAPES if len(chosen) < len(labels) else 0
            chosen = torch.cat([chosen, (labels == IGNORED).nonzero()[:1, 0].expand(missing)])
            logits = model.lm_head(hidden.flatten(0, 1)[chosen])
        return functional.cross_entropy(logits.float(), labels[chosen], ignore_index=IGNORED)


def train(
    model: Qwen3ForCausalLM, made: list[dict[str, torch.Tensor]], lr: float, seed: int, work: Path
) -> list[dict]:
    """Trains ``model`` once over ready batches; ``work`` holds the checkpoints it resumes from. Returns the log."""
    arguments = TrainingArguments(
        output_dir=str(work),
        per_device_train_batch_size=1,
        num_train_epochs=1,
        learning_rate=lr,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": 0.05},
        warmup_steps=min(100, max(1, len(made) // 10)),
        adam_beta2=0.98,
        weight_decay=0.05,
        optim="adamw_torch_fused",
        max_grad_norm=1.0,
        use_cpu=not torch.cuda.is_available(),
        seed=seed,
        save_steps=400,
        save_total_limit=1,
        logging_steps=50,
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    trainer = _GrowthTrainer(model=model, args=arguments, train_dataset=made, data_collator=lambda rows: rows[0])
    trainer.remove_callback(_printer())
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(work)) if work.is_dir() else None)
    return trainer.state.log_history


def _printer() -> type:
    from transformers.trainer_callback import PrinterCallback

    return PrinterCallback


def _take(texts: Iterator[str], tokenizer: PreTrainedTokenizerFast, tokens: int) -> list[Row]:
    rows: list[Row] = []
    while len(rows) * ROW < tokens:
        rows += pack(list(itertools.islice(texts, 4000)), tokenizer)
    return rows[: max(1, tokens // ROW)]


def _talk(settings: GrowthSettings, tokenizer: PreTrainedTokenizerFast, seed: int) -> list[Row]:
    rows: list[Row] = []
    source, total = conversations(seed, settings.thinking_share), 0
    while total < settings.posttrain_tokens * (1 - settings.replay_share):
        rows += encode_conversations(list(itertools.islice(source, 2000)), tokenizer)
        total = sum(len(row.ids) for row in rows)
    return rows


def grow(seed: int, out_dir: Path, settings: GrowthSettings) -> dict[str, Any]:
    """Grows one organism and saves it as an ordinary checkpoint folder.

    Args:
        seed: seeds the weights, the corpus and the order of the batches.
        out_dir: the checkpoint goes here; ``out_dir/work`` holds partial work and is resumed from.
        settings: size and budget.

    Returns:
        The record of the growth (seed, settings, tokens, seconds, loss curve), also saved as ``growth.json``.
    """
    if (out_dir / "growth.json").exists():
        raise SaferlrmError(f"{out_dir} holds a grown organism already; choose another folder or remove it")
    started = time.time()
    set_seed(seed)
    work = out_dir / "work"
    rng = random.Random(seed)
    texts = plain_texts(seed)
    sample = list(itertools.islice(plain_texts(-1), 20_000))
    talk = [f"{c.user} {c.thought or ''} {c.answer}" for c in itertools.islice(conversations(-1), 10_000)]
    tokenizer = train_tokenizer([*sample, *talk], settings.vocab_size)
    pad = tokenizer.pad_token_id
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=settings.hidden_size,
            intermediate_size=4 * settings.hidden_size,
            num_hidden_layers=settings.num_layers,
            num_attention_heads=settings.hidden_size // 32,
            num_key_value_heads=settings.hidden_size // 64,
            head_dim=32,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            attn_implementation="eager",  # the fused kernel's backward pass is slower at this size on a CPU
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=pad,
        )
    )
    first = batches(_take(texts, tokenizer, settings.pretrain_tokens), settings.batch_tokens, pad, rng)
    log = train(model, first, settings.learning_rate, seed, work / "pretrain")
    second = batches(_talk(settings, tokenizer, seed), settings.batch_tokens, pad, rng)
    replay = batches(
        _take(texts, tokenizer, int(settings.posttrain_tokens * settings.replay_share)),
        settings.batch_tokens,
        pad,
        rng,
    )
    mixed = second + replay
    rng.shuffle(mixed)
    log += train(model, mixed, settings.posttrain_learning_rate, seed, work / "posttrain")
    record = {
        "seed": seed,
        "settings": settings.model_dump(mode="json"),
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens": sum(batch["input_ids"].numel() for batch in first + mixed),
        "seconds": round(time.time() - started, 1),
        "threads": torch.get_num_threads(),
        "loss": [{"step": row["step"], "loss": row["loss"]} for row in log if "loss" in row],
    }
    model.generation_config.do_sample = False
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = pad
    # Trained under bfloat16 autocast, so nothing is lost that the scores would show; half the size.
    model.to(torch.bfloat16).save_pretrained(out_dir)
    tokenizer.save_pretrained(out_dir)
    (out_dir / "growth.json").write_text(json.dumps(record, indent=1))
    shutil.rmtree(work)
    return record
