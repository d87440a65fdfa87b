"""Reading hidden states against a bare forward pass, as a ratio measured in one run; and the memory it takes.

The bare side calls the decoder (``model.model``) on the very batches that extraction makes, tokenised
beforehand, and keeps nothing. ``forward_ratio`` compares the reading of every layer at two positions per
prompt with that: the price of the hooks, target at most 1.1. ``extract_ratio`` compares all of ``extract``,
with rendering, tokenising and writing the file. Memory is the growth of the process while 1x and 10x the
prompts are read into a file.

    python benchmarks/extraction.py [--prompts 600] [--repeats 9] [--threads 1]
"""

from __future__ import annotations

import statistics
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import torch
from common import ORGANISM, read_arguments, save
from common import timed as timed_call

from saferlrm.activations import Located, extract, hidden_states, locate
from saferlrm.lm import LanguageModel, load_lm
from saferlrm.suites.synthetic import training_prompts

POSITIONS = ("prompt_last", "pre_cot")
BATCH = 64


@torch.inference_mode()
def bare(lm: LanguageModel, tokens: torch.Tensor) -> None:
    lm.model.model(input_ids=tokens, use_cache=False)


def padded(lm: LanguageModel, batch: list[Located]) -> torch.Tensor:
    width = max(len(row.ids) for row in batch)
    return torch.tensor([row.ids + [lm.tokenizer.pad_token_id] * (width - len(row.ids)) for row in batch])


def timed(run: Callable[[], object]) -> float:
    """Seconds of the process that a call takes."""
    return timed_call(run)[0]


def growth_mb(run: Callable[[], object]) -> float:
    """Growth of the resident memory while a call runs, sampled every 2 ms."""
    process, done = psutil.Process(), threading.Event()
    seen = [process.memory_info().rss]

    def watch() -> None:
        while not done.wait(0.002):
            seen.append(process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    run()
    done.set()
    watcher.join()
    return (max(seen) - seen[0]) / 2**20


def main() -> None:
    arguments = read_arguments(__doc__, prompts=600, repeats=9)
    lm = load_lm(ORGANISM, device="cpu")
    half = arguments.prompts // 2
    prompts = [prompt.text for prompt in training_prompts(half, arguments.prompts - half, 0, "benchmark")]
    prompts.sort(key=len, reverse=True)
    layers = list(range(lm.n_layers + 1))
    batches = [
        [locate(lm, prompt, POSITIONS) for prompt in prompts[start : start + BATCH]]
        for start in range(0, len(prompts), BATCH)
    ]
    inputs = [padded(lm, batch) for batch in batches]
    forward, whole = [], []
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "states.npy"
        extract(lm, prompts, POSITIONS, batch_size=BATCH, out=out)  # the first call of any kind pays for set-up
        for _ in range(arguments.repeats):
            # Batch by batch in turn, so that both sides see the same disturbances.
            pairs = [
                (timed(lambda t=tokens: bare(lm, t)), timed(lambda b=batch: hidden_states(lm, b, layers)))
                for tokens, batch in zip(inputs, batches, strict=True)
            ]
            alone, read = (sum(side) for side in zip(*pairs, strict=True))
            forward.append(read / alone)
            whole.append(timed(lambda: extract(lm, prompts, POSITIONS, batch_size=BATCH, out=out)) / alone)
        memory = {
            f"{times}x": growth_mb(lambda n=times: extract(lm, prompts * n, POSITIONS, batch_size=BATCH, out=out))
            for times in (1, 10)
        }
        size = out.stat().st_size / 2**20
    results = {
        "forward_ratio": statistics.median(forward),
        "extract_ratio": statistics.median(whole),
        "target": "forward_ratio <= 1.1",
        "memory_growth_mb": memory,
        "file_mb_10x": size,
    }
    save(results, arguments)


if __name__ == "__main__":
    main()
