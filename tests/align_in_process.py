"""An alignment run as its own program, for tests that start it under a launcher or with little memory.

Usage: ``align_in_process.py MODEL OUT [SETTING=VALUE ...]``; prints how many processes took part.
"""

from __future__ import annotations

import os
import signal
import sys

import yaml
from transformers import TrainerCallback

from saferlrm.align import align
from saferlrm.align import trainer as trainer_module
from saferlrm.align.data import AlignmentExample
from saferlrm.profile import AlignmentSettings

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
DEFAULTS = {"lambda_aux": 0.5, "epochs": 3, "batch_size": 4, "rank": 4, "head_layer": 1}


class KillAt(TrainerCallback):
    """Ends this process like ``kill -9`` after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **_):
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    model, out, *pairs = sys.argv[1:]
    changes = {key: yaml.safe_load(value) for key, _, value in (pair.partition("=") for pair in pairs)}
    kill_at = changes.pop("kill_at", None)
    callbacks = [KillAt(kill_at)] if kill_at else []
    align(model, EXAMPLES, AlignmentSettings(**DEFAULTS | changes), 0, out, device="cpu", callbacks=callbacks)
    print(f"processes: {os.environ.get('WORLD_SIZE', '1')}")
    assert trainer_module


if __name__ == "__main__":
    main()
