"""Several calls of one study side by side, in worker processes that share its store."""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

from saferlrm.finished import FinishedStore, UnfinishedError
from saferlrm.memory import MEMORY_KEPT, environment, give_back
from saferlrm.profile import Profile
from saferlrm.progress import track
from saferlrm.store import Store
from saferlrm.study.base import Base


class SideBySide(Base):
    """A study that uses all cores of a CPU where one model keeps only one of them busy."""

    def side_by_side(self, method: str, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        """What a method of this study returns for each of several calls.

        Where several are not finished, worker processes of one thread each compute the stages behind them first. A
        small model keeps one core busy and a second one hardly: two processes do half as much again in the same time.
        """
        missing = [call for call in calls if not self._finished(method, call)]
        workers = self._workers(missing)
        if workers > 1:
            give_back()
            study, pool = (self.profile.model_dump_json(), self.store.root, self.store.shipped), _pool(workers)
            try:
                waiting = pool.map(_call, *zip(*((study, method, call) for call in missing), strict=True))
                for _ in track(waiting, method.strip("_").replace("_", " "), len(missing)):
                    pass
            except BaseException:  # a call failed, a worker died, or the reader stopped the cell
                _pool.cache_clear()
                pool.shutdown(cancel_futures=True)
                raise
        return [getattr(self, method)(*call) for call in calls]

    def _finished(self, method: str, call: tuple[Any, ...]) -> bool:
        try:
            getattr(type(self)(self.profile, FinishedStore(self.store.root, self.store.shipped)), method)(*call)
        except UnfinishedError:
            return False
        return True

    def _workers(self, calls: Sequence[Any]) -> int:
        on_gpu = self.profile.device.startswith("cuda") or torch.cuda.is_available()
        return 1 if on_gpu or _is_worker else min(self.profile.evidence.workers, len(calls))


_is_worker = False  # a worker computes its call alone


@functools.lru_cache(maxsize=1)
def _pool(workers: int) -> ProcessPoolExecutor:
    """The worker processes. They stay for the next table, because starting one takes as long as a card."""
    with environment(MEMORY_KEPT):  # read by a process as it starts
        pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_begin)
        for _ in pool.map(abs, range(workers)):
            pass
    return pool


def _begin() -> None:
    global _is_worker
    _is_worker = True
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an idle worker has nothing to stop; see _call
    torch.set_num_threads(1)
    os.environ["SAFERLRM_PROGRESS"] = "0"  # the parent shows the progress of all


def _call(study: tuple[str, Path, Path | None], method: str, arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        getattr(_study(*study), method)(*arguments)  # the result is in the store
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        give_back()


@functools.lru_cache(maxsize=4)
def _study(profile: str, root: Path, shipped: Path | None) -> Base:
    from saferlrm.study import Study

    return Study(Profile.model_validate_json(profile), Store(root, shipped))
