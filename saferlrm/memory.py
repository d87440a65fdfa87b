"""Peak memory of a process tree, sampled while something runs, and memory that processes keep for reuse."""

from __future__ import annotations

import ctypes
import gc
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType

import psutil

SAMPLE_SECONDS = 0.2

# glibc (mallopt(3)) gives freed tensors of some MB back to the system at once and asks for the same pages again in the
# next step, which cost a tenth of an alignment run. A process that starts with these keeps them; other libraries ignore
# them.
MEMORY_KEPT = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**31),
}


def give_back() -> None:
    """Gives freed memory back to the system: what :data:`MEMORY_KEPT` keeps between steps, other processes need."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


@contextmanager
def environment(wanted: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for the processes that start meanwhile; what was there before comes back."""
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


class PeakMemory:
    """Context manager: largest resident set of a process and its descendants, in MB (10^6 bytes).

    The operating system's own high-water mark covers the whole life of a process and no children; a stage
    needs its own, and a notebook's work happens in a kernel that is a child.

    Args:
        children_only: leave out the sampled process itself (the runner, whose kernels are its children).
    """

    def __init__(self, children_only: bool = False) -> None:
        self.mb = 0.0
        self._children_only = children_only
        self._process = psutil.Process(os.getpid())
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="peak-memory", daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while True:
            self.mb = max(self.mb, self._now() / 1e6)
            if self._stop.wait(SAMPLE_SECONDS):
                return

    def _now(self) -> int:
        processes = self._process.children(recursive=True)
        if not self._children_only:
            processes.append(self._process)
        total = 0
        for process in processes:
            try:
                total += process.memory_info().rss
            except psutil.Error:  # it ended between the two calls
                continue
        return total


@contextmanager
def memory_explained(what: str) -> Iterator[None]:
    """Turns an error that says that memory is used up into one line with the settings to change.

    Raises:
        SaferlrmError: memory did not suffice for ``what``. Other errors, this kind's own included, pass as they are.
    """
    from saferlrm.errors import SaferlrmError
    from saferlrm.placement import out_of_memory  # torch takes seconds to load, and commands without it use this module

    try:
        yield
    except (RuntimeError, MemoryError) as problem:
        if isinstance(problem, SaferlrmError) or not out_of_memory(problem):
            raise
        raise SaferlrmError(
            f"{what}: out of memory; set decoding.batch_size or alignment.micro_batch lower, dtype to bfloat16, "
            "loading.quantization to 4bit, or loading.device_map to auto (several GPUs), and run again: finished "
            "stages are kept"
        ) from None
