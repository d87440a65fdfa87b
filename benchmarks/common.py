"""What the benchmarks share: their arguments, their clock and their result files."""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

ORGANISM = Path(__file__).parents[1] / "saferlrm" / "organism" / "checkpoints" / "seed0"


def read_arguments(description: str, **counts: int) -> argparse.Namespace:
    """Command-line arguments, one whole number each with its default; sets torch's number of threads."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    for name, default in (counts | {"threads": 1}).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    return arguments


def timed(run: Callable[[], Any]) -> tuple[float, float, Any]:
    """Seconds of the process and of the clock that a call takes, and its result.

    The time of the process (all its threads) is the measure: other work on the machine stretches the clock.
    """
    process, clock = time.process_time(), time.perf_counter()
    result = run()
    return time.process_time() - process, time.perf_counter() - clock, result


def save(results: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Prints the results and writes them, with arguments and versions, to ``results/<script>.json``."""
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    text = json.dumps(results | vars(arguments) | versions, indent=1)
    path = Path(__file__).parent / "results" / f"{Path(sys.argv[0]).stem}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text + "\n")
    print(text)
