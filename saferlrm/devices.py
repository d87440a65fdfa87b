"""Sampling on several devices at once: a copy of the model on each, prompts split between them.

The first copy lives in this process, where hidden states are read and hooks act; the others live in processes of
their own, because one Python process cannot keep several GPUs busy. Every prompt has its own random numbers, so the
completions are those of one device, in the given order.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import Any

import torch

from saferlrm.batching import context_length
from saferlrm.errors import SaferlrmError
from saferlrm.generate import (
    Completion,
    Decoding,
    check_lengths,
    complete_ids,
    sampling_keys,
)
from saferlrm.lm import LanguageModel, load_lm
from saferlrm.progress import track

# Parts for each device: with fewer, one idles at the end; with more, batches run empty more often.
_PARTS = 4
# Below so many parameters a process takes longer to start than to answer.
WORTHWHILE = 300_000_000

_Task = tuple[list[list[int]], list[int], Decoding, int]


@dataclass
class ReplicatedModel(LanguageModel):
    """A language model that samples on several devices; everything else happens on its own.

    Attributes:
        devices: where the copies are put, e.g. ``("cuda:1", "cuda:2")``.
        source: arguments of :func:`saferlrm.lm.load_lm` that give the same weights again.
    """

    devices: tuple[str, ...] = ()
    source: dict[str, Any] = field(default_factory=dict, repr=False)
    _pools: list[ProcessPoolExecutor] = field(default_factory=list, repr=False, compare=False)

    def complete(
        self, texts: Sequence[str], decoding: Decoding, batch_size: int = 64, progress: str | None = None
    ) -> list[Completion]:
        """:func:`saferlrm.generate.generate` with ``batch_size`` rows in flight on each device.

        Hooks on the model (steering, ablation) exist in this process alone, so with hooks only its device samples.

        Raises:
            SaferlrmError: as ``generate``, or a process of another device ended.
        """
        ids = self.encode(list(texts))
        check_lengths(ids, context_length(self))
        keys = sampling_keys(texts, decoding.seed)
        if len(ids) <= batch_size or not self.devices or _hooked(self.model):
            return complete_ids(self, ids, keys, decoding, batch_size, progress)
        found: list[Completion | None] = [None] * len(ids)
        answered = self._answered(ids, keys, decoding, batch_size)
        for i, completion in track(answered, progress, total=len(ids)) if progress else answered:
            found[i] = completion
        return [one for one in found if one is not None]

    def _answered(
        self, ids: list[list[int]], keys: list[int], decoding: Decoding, batch_size: int
    ) -> Iterator[tuple[int, Completion]]:
        n_devices = 1 + len(self.devices)
        n_parts = max(n_devices, min(n_devices * _PARTS, len(ids) // batch_size))
        # Long and short prompts in every part.
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        waiting = deque(order[k::n_parts] for k in range(n_parts))

        results: queue.SimpleQueue[tuple[list[int], list[Completion]] | BaseException | None] = queue.SimpleQueue()

        def drain(work: Callable[[_Task], list[Completion]]) -> None:
            try:
                while waiting:
                    part = waiting.popleft()
                    task = ([ids[i] for i in part], [keys[i] for i in part], decoding, batch_size)
                    results.put((part, work(task)))
            except IndexError:  # another device took the last part
                pass
            except BaseException as problem:  # raised again in the caller's thread
                results.put(problem)
            results.put(None)

        works = [lambda task: complete_ids(self, *task), *map(self._elsewhere, range(len(self.devices)))]
        for work in works:
            threading.Thread(target=drain, args=(work,), name="saferlrm-device", daemon=True).start()
        working = len(works)
        try:
            while working:
                result = results.get()
                if result is None:
                    working -= 1
                elif isinstance(result, BrokenProcessPool):
                    self._pools.clear()
                    raise SaferlrmError(
                        "a process that samples on another device ended, probably for want of memory; "
                        "set decoding.batch_size lower, or device to a single one such as cuda:0"
                    ) from result
                elif isinstance(result, BaseException):
                    raise result
                else:
                    yield from zip(*result, strict=True)
        finally:
            waiting.clear()  # after an error the others stop with their part

    def _elsewhere(self, k: int) -> Callable[[_Task], list[Completion]]:
        """Work on the k-th of the other devices, in a process that is started at the first use and kept."""
        if not self._pools:
            context = multiprocessing.get_context("spawn")
            self._pools = [ProcessPoolExecutor(1, context) for _ in self.devices]
        return lambda task: self._pools[k].submit(_there, self.source, self.devices[k], task).result()


def replicate(lm: LanguageModel, devices: Sequence[str], **source: Any) -> ReplicatedModel:
    """``lm`` with copies on further devices.

    Args:
        devices: of the copies, without that of ``lm``.
        source: the arguments of :func:`saferlrm.lm.load_lm` that made ``lm``, but for the device.
    """
    return ReplicatedModel(lm.model, lm.tokenizer, lm.chat, lm.name, devices=tuple(devices), source=source)


def further_devices(lm: LanguageModel, device: str) -> tuple[str, ...]:
    """The other GPUs of this computer, if the setting ``device`` leaves the choice and copies pay.

    None for a small model, for one that is spread over several devices, and under ``torchrun`` or ``accelerate
    launch``, where each process has a GPU of its own.
    """
    spread = len(set((getattr(lm.model, "hf_device_map", None) or {}).values())) > 1
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    if device != "auto" or lm.device.type != "cuda" or spread or not alone or lm.model.num_parameters() < WORTHWHILE:
        return ()
    own = lm.device.index or 0
    return tuple(f"cuda:{i}" for i in range(torch.cuda.device_count()) if i != own)


_COPY: dict[str, LanguageModel] = {}  # in the other processes: the model, once it is loaded


def _there(source: dict[str, Any], device: str, task: _Task) -> list[Completion]:
    if device not in _COPY:
        _COPY[device] = load_lm(**source, device=device)
    return complete_ids(_COPY[device], *task)


def _hooked(model: torch.nn.Module) -> bool:
    return any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
