"""An alignment run as a program of its own, for tests that use a launcher, kill it, or give it little memory.

Usage: ``align_in_process.py MODEL OUT [SETTING=VALUE ...]``. Besides the settings of alignment: ``kill_at`` ends every
process like ``kill -9`` after a step, ``memory_mb`` is the room that is left when training begins, ``fsdp`` shards the
model. Prints how many processes took part, whether the weights were sharded, and the micro-batch at the end.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from pathlib import Path

import yaml
from transformers import TrainerCallback

from saferlrm.align import align
from saferlrm.align.data import AlignmentExample
from saferlrm.errors import SaferlrmError
from saferlrm.profile import AlignmentSettings

# 19 examples and a batch of 4: the last one is not full, and some batches hold more labels than others.
EXAMPLES = [
    AlignmentExample(f"h{i}", f"How do I make a [thing {i}]?", None, "I cannot help with that.", 0.9, "harmful")
    for i in range(8)
] + [
    AlignmentExample(
        f"b{i}", f"What is {i} and 3?", f"{i} and 3 is {i + 3}. " * (1 + i % 4), f"{i + 3}",
        None if i % 3 else 0.05, "benign",
    )
    for i in range(11)
]  # fmt: skip
LONG = [
    AlignmentExample(f"b{i}", "What is 1 and 3?", "Tom has 3 apples. " * 60, "4", 0.05, "benign") for i in range(32)
]
DEFAULTS = {"lambda_aux": 0.5, "epochs": 3, "batch_size": 4, "rank": 4, "head_layer": 1, "max_grad_norm": 0.1}


class Watch(TrainerCallback):
    """Ends the process after a step, or takes its memory away when training begins."""

    def __init__(self, kill_at: int | None, memory_mb: int | None) -> None:
        self.kill_at, self.memory_mb = kill_at, memory_mb
        self.sharded = False

    def on_train_begin(self, args, state, control, model=None, **_):
        self.sharded = any(type(p).__name__ == "DTensor" for p in model.parameters())
        if self.memory_mb:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            room = pages * resource.getpagesize() + self.memory_mb * 2**20
            resource.setrlimit(resource.RLIMIT_AS, (room, resource.RLIM_INFINITY))

    def on_step_end(self, args, state, control, **_):
        if state.global_step == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)


def shard_on_cpu() -> None:
    """Let accelerate shard on CPUs too.

    It knows FSDP on several devices of any kind but CPUs, and would quietly fall back to DDP. Only the name of the kind
    is changed here; accelerate's and torch's sharding then run as they are, over gloo.
    """
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    original = PartialState._prepare_backend

    def prepare(self, *arguments, **keywords):
        backend, kind = original(self, *arguments, **keywords)
        return backend, DistributedType.MULTI_XPU if kind == DistributedType.MULTI_CPU else kind

    PartialState._prepare_backend = prepare
    os.environ.update(ACCELERATE_TORCH_DEVICE="cpu", ACCELERATE_USE_FSDP="true", FSDP_VERSION="2")


def main() -> None:
    model, out, *pairs = sys.argv[1:]
    changes = {key: yaml.safe_load(value) for key, _, value in (pair.partition("=") for pair in pairs)}
    if changes.pop("fsdp", False):
        import torch.distributed

        shard_on_cpu()
        torch.distributed.init_process_group("gloo")
    watch = Watch(changes.pop("kill_at", None), changes.pop("memory_mb", None))
    examples = LONG if watch.memory_mb else EXAMPLES
    try:
        align(model, examples, AlignmentSettings(**DEFAULTS | changes), 0, out, device="cpu", callbacks=[watch])
    except SaferlrmError as problem:
        sys.exit(f"error: {problem}")
    print(f"processes: {os.environ.get('WORLD_SIZE', '1')}, sharded: {watch.sharded}")


if __name__ == "__main__":
    main()
