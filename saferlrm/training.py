"""What the training loops share around the transformers Trainer: batches, checkpoints, a progress bar."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Sampler
from transformers import TrainerCallback
from transformers.utils import logging

from saferlrm.progress import track

FILLER = -1  # index of a row that carries no loss: every process takes part in every step


class LengthBucketSampler(Sampler[int]):
    """Indices such that consecutive runs of ``batch_size`` have similar lengths, in random order.

    Differs from transformers' ``group_by_length`` in two ways: the batches are shuffled after sorting, so
    that long texts do not all come first, and the order depends on (seed, epoch) alone, so that a resumed
    run sees the batches of an uninterrupted one.

    With ``world_size`` processes ``batch_size`` is still that of one optimiser step. The rows of a batch are dealt out
    in turn, so that every process gets long and short ones, and stand in the order in which accelerate hands them on:
    ``batch_size / world_size`` consecutive indices to each process. The last batch is filled up with ``FILLER``.
    """

    def __init__(
        self, lengths: Sequence[int], batch_size: int, seed: int, megabatch: int = 50, world_size: int = 1
    ) -> None:
        self.lengths = list(lengths)
        self.batch_size = batch_size
        self.seed = seed
        self.megabatch = megabatch
        self.world_size = world_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        n = len(self.lengths)
        return n if self.world_size == 1 else -(-n // self.batch_size) * self.batch_size

    def __iter__(self) -> Iterator[int]:
        if self.world_size == 1:
            yield from self._order()
            return
        order = list(self._order())
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            batch += [FILLER] * (self.batch_size - len(batch))
            for rank in range(self.world_size):
                yield from batch[rank :: self.world_size]

    def _order(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(len(self.lengths), generator=generator).tolist()
        n_full = len(order) // self.batch_size * self.batch_size
        # Only the last batch may be smaller; it takes a random rest, so that no example is always in it.
        full, rest = order[:n_full], order[n_full:]
        size = self.batch_size * self.megabatch
        batches: list[list[int]] = []
        for start in range(0, n_full, size):
            chunk = sorted(full[start : start + size], key=lambda index: self.lengths[index])
            batches += [chunk[at : at + self.batch_size] for at in range(0, len(chunk), self.batch_size)]
        for batch in torch.randperm(len(batches), generator=generator).tolist():
            yield from batches[batch]
        yield from rest


def last_complete_checkpoint(folder: str | Path) -> str | None:
    """The newest checkpoint that was saved to its end; ones cut short by a kill are removed.

    The Trainer writes ``trainer_state.json`` last, so a checkpoint with a readable one is complete.
    """
    best: tuple[int, Path] | None = None
    for path in Path(folder).glob("checkpoint-*"):
        try:
            step = json.loads((path / "trainer_state.json").read_text())["global_step"]
        except (OSError, ValueError, KeyError):
            shutil.rmtree(path)
            continue
        if best is None or step > best[0]:
            best = (step, path)
    return None if best is None else str(best[1])


class ProgressCallback(TrainerCallback):
    """Drives the package's one progress bar from the Trainer's steps."""

    def __init__(self, description: str) -> None:
        self.description = description

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.bar = iter(())
        if not state.is_world_process_zero:
            return
        steps = range(state.global_step, state.max_steps)
        self.bar = iter(track(steps, self.description, total=len(steps)))
        next(self.bar, None)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        next(self.bar, None)


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars and warnings while a model is loaded or saved; what was set before comes back.

    transformers reports a new decision layer as missing weights, which is what was asked for.
    """
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
