"""Several processes that train together, started by ``torchrun`` or ``accelerate launch``.

The study is one program. Under a launcher its first process (rank 0) runs that program alone, as without a launcher: it
holds the store's locks, samples, trains the classifier, commits stages. The other processes *help*: they wait, take
part in what is worth dividing (an alignment run), and end with the first. So no stage has to know about ranks::

    torchrun --nproc-per-node 2 -m saferlrm stage aligned --method presafe --seed 0 --profile gpu

:func:`lead` splits the processes so; :func:`call` runs a function in all of them. Between calls the launcher's settings
are hidden from the first process, or the libraries would take the rest of the study for distributed as well, and the
helpers wait at the launcher's key-value store, which costs them nothing and has no time limit worth the name.

A script that calls :func:`saferlrm.align.align` in every process, without :func:`lead`, works too.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

T = TypeVar("T")

PATIENCE = timedelta(days=30)  # the first process may sample for days between two alignment runs
# How launchers tell a process its place, and accelerate what to do there.
LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "ACCELERATE_USE_FSDP", "ACCELERATE_MIXED_PRECISION")

_team: _Team | None = None


def launched() -> bool:
    """Whether this process is one of several that a launcher started, and its place is not hidden."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def world_size() -> int:
    """Number of processes that train together here; 1 without a launcher, and in what the first process does alone."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def shared_out() -> bool:
    """Whether several processes will train together. From the one that leads them the launcher is hidden."""
    return launched() or _team is not None


def local_rank() -> int:
    """This process's place on its machine, which is also the number of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def lead(program: Callable[[], T]) -> T | None:
    """Run ``program`` in the first process while the others help it; ``None`` in the others.

    Without a launcher this is ``program()``.
    """
    global _team
    if not launched():
        return program()
    _team = _Team()
    if _team.rank > 0:
        return _team.help()
    with _team.alone():
        result = program()
    # Not after an error: a launcher ends the helpers of a process that failed, wherever they are.
    _team.end()
    _team = None
    return result


def call(function: Callable[..., T], *arguments: Any, **keywords: Any) -> T:
    """Run ``function`` in every process of the team, if this one leads a team, and return its result here.

    Functions and arguments travel by pickle between the processes of this one job.
    """
    if _team is None or _team.rank > 0 or launched():
        return function(*arguments, **keywords)
    return _team.call(function, arguments, keywords)


class _Team:
    """The processes of one launch and the key-value store at which they meet."""

    def __init__(self) -> None:
        import torch.distributed as dist

        self.environment = {name: os.environ[name] for name in LAUNCHER if name in os.environ}
        self.rank, self.size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self.store, *_ = next(dist.rendezvous("env://", timeout=PATIENCE))
        self.calls = 0

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Hide the launcher from the libraries."""
        self._hide()
        try:
            yield
        finally:
            os.environ.update(self.environment)

    def call(self, function: Callable[..., T], arguments: tuple[Any, ...], keywords: dict[str, Any]) -> T:
        self.calls += 1
        self.store.set(f"saferlrm/{self.calls}", "call")
        os.environ.update(self.environment)
        try:
            return self._together((function, arguments, keywords))
        finally:
            self._hide()

    def help(self) -> None:
        while True:
            self.calls += 1
            self.store.wait([f"saferlrm/{self.calls}"], PATIENCE)
            if self.store.get(f"saferlrm/{self.calls}") != b"call":
                self.store.set(f"saferlrm/left/{self.rank}", "")
                return
            self._together(None)

    def end(self) -> None:
        self.calls += 1
        self.store.set(f"saferlrm/{self.calls}", "end")
        # The store may live in this process: it stays until all have read that this was all.
        with contextlib.suppress(RuntimeError):
            self.store.wait([f"saferlrm/left/{rank}" for rank in range(1, self.size)], timedelta(minutes=1))

    def _hide(self) -> None:
        for name in LAUNCHER:
            os.environ.pop(name, None)

    def _together(self, job: tuple[Callable[..., T], tuple[Any, ...], dict[str, Any]] | None) -> T:
        """Form a process group for one job, which the first process knows, and do it."""
        import torch
        import torch.distributed as dist
        from accelerate.state import AcceleratorState

        cuda = torch.cuda.is_available()
        if cuda:
            torch.cuda.set_device(local_rank())
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo",
            store=dist.PrefixStore(f"saferlrm/job{self.calls}", self.store),
            rank=self.rank,
            world_size=self.size,
        )
        try:
            box = [job]
            dist.broadcast_object_list(box, src=0)
            function, arguments, keywords = box[0]
            result = function(*arguments, **keywords)
            dist.barrier()
        finally:
            # accelerate remembers the group for the rest of the process.
            AcceleratorState._reset_state(reset_partial_state=True)
        dist.destroy_process_group()
        return result
