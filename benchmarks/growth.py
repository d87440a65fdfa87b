"""Speed of growing the organism, as ratios measured in one run.

Trained tokens per second of ``saferlrm.organism.grow`` on its own mixture of conversations and plain text, against the
stock transformers Trainer on the same rows and with the same number of rows a batch: random batches padded to their
longest row, logits at every position. The stock side is measured in float32, its default, and with ``bf16=True``; ours
trains in bfloat16 autocast, as the organism is grown. Padding counts for neither side. Target: at least 2 against the
default.

The sides take turns, and the median of the ratios is reported; time is that of the process.

    python benchmarks/growth.py [--repeats 3] [--rows 1600] [--threads 1]
"""

from __future__ import annotations

import itertools
import random
import statistics
import tempfile
from pathlib import Path

import torch
from common import ORGANISM, read_arguments, save, timed
from transformers import (
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    PreTrainedTokenizerFast,
    PrinterCallback,
    Qwen3Config,
    Qwen3ForCausalLM,
    Trainer,
    TrainingArguments,
)

from saferlrm.organism.corpus import conversations, plain_texts
from saferlrm.organism.grow import IGNORED, Row, batches, encode_conversations, pack, train
from saferlrm.profile import GrowthSettings
from saferlrm.training import quiet_transformers

SETTINGS = GrowthSettings()


def mixture(tokenizer: PreTrainedTokenizerFast, n: int) -> list[Row]:
    """Conversations and packed plain text in the shares of post-training."""
    talk = encode_conversations(list(itertools.islice(conversations(0), n)), tokenizer)
    replay = pack(list(itertools.islice(plain_texts(0), n)), tokenizer)
    tokens = sum(len(row.ids) for row in talk) * SETTINGS.replay_share / (1 - SETTINGS.replay_share)
    return talk + replay[: int(tokens // len(replay[0].ids))]


def fresh(config: Qwen3Config) -> Qwen3ForCausalLM:
    torch.manual_seed(0)
    return Qwen3ForCausalLM(config)


def stock(rows: list[Row], tokenizer: PreTrainedTokenizerFast, config: Qwen3Config, bf16: bool, folder: str) -> Trainer:
    """The Trainer as it comes, with our mean number of rows a batch."""
    mean = sum(len(row.ids) for row in rows) / len(rows)
    data = [
        {"input_ids": row.ids, "labels": [i if learn else IGNORED for i, learn in zip(row.ids, row.learn, strict=True)]}
        for row in rows
    ]
    trainer = Trainer(
        model=fresh(config),
        args=TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=round(SETTINGS.batch_tokens / mean),
            num_train_epochs=1,
            learning_rate=SETTINGS.posttrain_learning_rate,
            bf16=bf16,
            save_strategy="no",
            use_cpu=True,
            disable_tqdm=True,
            report_to="none",
        ),
        train_dataset=data,
        data_collator=DataCollatorForSeq2Seq(tokenizer),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def main() -> None:
    arguments = read_arguments(__doc__, repeats=3, rows=1600)
    tokenizer = AutoTokenizer.from_pretrained(ORGANISM)
    rows = mixture(tokenizer, arguments.rows)
    tokens = sum(len(row.ids) for row in rows)
    stored = Qwen3Config.from_pretrained(ORGANISM)
    eager = Qwen3Config.from_pretrained(ORGANISM, attn_implementation="eager")
    spent: dict[str, list[tuple[float, float]]] = {"stock": [], "stock_bf16": [], "ours": []}
    with quiet_transformers():
        for _ in range(arguments.repeats):
            with tempfile.TemporaryDirectory() as folder:
                for name, bf16 in (("stock", False), ("stock_bf16", True)):
                    spent[name].append(timed(stock(rows, tokenizer, stored, bf16, folder).train)[:2])
                made = batches(rows, SETTINGS.batch_tokens, tokenizer.pad_token_id, random.Random(0))
                rate, work = SETTINGS.posttrain_learning_rate, Path(folder) / "ours"
                spent["ours"].append(timed(lambda m=made, r=rate, w=work: train(fresh(eager), m, r, 0, w))[:2])
    results = {
        f"tokens_per_second_{name}": tokens / statistics.median(process for process, _ in times)
        for name, times in spent.items()
    }
    for name in ("stock", "stock_bf16"):
        for kind, clock in enumerate(("", "_by_clock")):
            pairs = zip(spent[name], spent["ours"], strict=True)
            results[f"ratio_to_{name}{clock}"] = statistics.median(other[kind] / own[kind] for other, own in pairs)
    save(results | {"target": "ratio_to_stock >= 2", "tokens": tokens}, arguments)


if __name__ == "__main__":
    main()
