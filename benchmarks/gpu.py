"""Throughput and memory of the study's three kinds of work on a CUDA GPU, on true architectures with random weights.

- alignment: PreSafe steps of the real trainer (LoRA on all linear layers, head, gradient checkpointing, bfloat16) on
  examples of 4,096 tokens, all of them labelled. Aim: half of the peak arithmetic for 7 billion parameters, and 14
  billion on one card with 141 GB.
- sampling: 64 answers at a time of 2,048 tokens each.
- extraction: hidden states of all layers of 8,000 prompts, to disk.

Weights are random, so nothing is downloaded; arithmetic and memory are those of the real models. The share of peak
counts the arithmetic that the gradient needs (2 forward, 2 backward for each frozen weight) and, as
``share_with_recomputation``, also the second forward pass of checkpointing. Rows go to ``results/gpu_throughput.json``,
one for each model, kind of work, batch and card; ``saferlrm estimate`` reads them.

    python benchmarks/gpu.py [--models DeepSeek-R1-Distill-Qwen-7B DeepSeek-R1-Distill-Qwen-14B]
    python benchmarks/gpu.py --tiny --device cpu --out /tmp/tiny.json     # the same code on a small model
"""

from __future__ import annotations

import argparse
import functools
import gc
import itertools
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from common import ORGANISM
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from saferlrm.activations import extract
from saferlrm.align.data import Encoded
from saferlrm.align.run import build_model, build_trainer
from saferlrm.architectures import Architecture, architecture
from saferlrm.chat import ChatFormat
from saferlrm.errors import SaferlrmError
from saferlrm.estimate import PROMPT_TOKENS, token_flops
from saferlrm.generate import Decoding, generate
from saferlrm.lm import LanguageModel
from saferlrm.profile import AlignmentSettings

MODELS = ("DeepSeek-R1-Distill-Qwen-7B", "DeepSeek-R1-Distill-Qwen-14B")
WORK = ("alignment", "sampling", "extraction")
# Peak dense bfloat16 arithmetic in TFLOP/s, from the makers' data sheets.
PEAKS = {"H100 PCIe": 756, "H100": 989, "H200": 989, "A100": 312, "L40S": 362, "RTX 4090": 165}
TINY = {"length": 64, "batch": 2, "steps": 4, "answers": 4, "answer_tokens": 12, "prompts": 6}
FULL = {"length": 4096, "batch": 4, "steps": 8, "answers": 64, "answer_tokens": 2048, "prompts": 8000}
WARM_UP = 2  # steps that are not counted


def read_arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--work", nargs="+", choices=WORK, default=list(WORK))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--peak", type=float, help="peak dense bfloat16 arithmetic of the card in TFLOP/s")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument(
        "--checkpointing", nargs="+", choices=("on", "off"), default=["on"],
        help="gradient checkpointing of the alignment; 'on off' measures both",
    )
    parser.add_argument("--tiny", action="store_true", help="a model of two layers and short texts")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "gpu_throughput.json")
    for name in FULL:
        parser.add_argument(f"--{name.replace('_', '-')}", type=int)
    arguments = parser.parse_args(words)
    for name, value in (TINY if arguments.tiny else FULL).items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    return arguments


def random_model(arch: Architecture, device: str) -> LanguageModel:
    """The architecture with random bfloat16 weights, and the organism's tokenizer, whose ids it knows."""
    sizes = {
        "vocab_size": arch.vocabulary,
        "hidden_size": arch.hidden,
        "intermediate_size": arch.intermediate,
        "num_hidden_layers": arch.layers,
        "num_attention_heads": arch.heads,
        "num_key_value_heads": arch.kv_heads,
        "head_dim": arch.head_size,
        "tie_word_embeddings": arch.tied,
        "max_position_embeddings": arch.context,
    }
    tokenizer = AutoTokenizer.from_pretrained(ORGANISM)
    torch.manual_seed(0)
    with torch.device(device):
        config = AutoConfig.for_model(arch.family, **sizes)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.generation_config.eos_token_id = arch.vocabulary - 1  # random weights would hardly end a turn anyhow
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return LanguageModel(model.eval(), tokenizer, ChatFormat.detect(tokenizer), arch.name)


def align(
    lm: LanguageModel, arch: Architecture, arguments: argparse.Namespace, batch: int, checkpointing: bool
) -> dict[str, Any]:
    """Steps of the real trainer; the median step counts, so that the one that saves does not."""
    draw = random.Random(0)

    def example() -> Encoded:
        ids = [draw.randrange(10, 1000) for _ in range(arguments.length)]
        at = arguments.length // 8
        return Encoded(
            input_ids=ids,
            labels=list(ids),
            head_span=(at, at + 1),
            second_span=None,
            head_position=at,
            prompt_span=(0, at),
            soft_label=float(draw.random() < 0.5),
        )

    settings = AlignmentSettings(
        rank=arguments.rank, batch_size=batch, bf16=True, epochs=1, gradient_checkpointing=checkpointing
    )
    encoded = [example() for _ in range(batch * arguments.steps)]
    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            wait(arguments.device)
            ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        model = build_model(lm, settings, seed=0)
        trainer = build_trainer(model, encoded, lm, settings, 0, folder)
        trainer.add_callback(Clock())
        trainer.train()
    steps = [after - before for before, after in itertools.pairwise(ends)][WARM_UP - 1 :]
    rate = batch * arguments.length / statistics.median(steps)
    needed, done = (token_flops(arch, arguments.length, True, again) for again in (False, checkpointing))
    return {
        "tokens_per_second": rate,
        "step_seconds": statistics.median(steps),
        "tflops": rate * needed / 1e12,
        "tflops_with_recomputation": rate * done / 1e12,
        "length": arguments.length,
        "rank": arguments.rank,
        "checkpointing": checkpointing,
    }


def sample(lm: LanguageModel, arch: Architecture, arguments: argparse.Namespace, batch: int) -> dict[str, float]:
    texts = [lm.chat.render(f"Tell me about thing number {n}.", "on") for n in range(batch)]
    generate(lm, texts, Decoding(max_new_tokens=4), batch)
    wait(arguments.device)
    clock = time.perf_counter()
    decoding = Decoding(max_new_tokens=arguments.answer_tokens, temperature=0.6, top_p=0.95, top_k=20)
    completions = generate(lm, texts, decoding, batch)
    wait(arguments.device)
    seconds, tokens = time.perf_counter() - clock, sum(completion.n_tokens for completion in completions)
    return {
        "tokens_per_second": tokens / seconds,
        "seconds": seconds,
        "mean_tokens": tokens / len(completions),
        "tflops": tokens / seconds * token_flops(arch, arguments.answer_tokens / 2) / 1e12,
    }


def read_states(lm: LanguageModel, arch: Architecture, arguments: argparse.Namespace, batch: int) -> dict[str, float]:
    words = "Tell me in a few plain words how a thing like this one is made and what people use it for. "
    width = max(1, len(lm.encode([words])[0]))
    prompts = [f"{n}: " + words * max(1, PROMPT_TOKENS // width) for n in range(arguments.prompts)]
    tokens = sum(len(ids) for ids in lm.encode([lm.chat.render(prompt, "on") for prompt in prompts]))
    extract(lm, prompts[:batch], batch_size=batch)
    wait(arguments.device)
    with tempfile.TemporaryDirectory() as folder:
        clock = time.perf_counter()
        states = extract(lm, prompts, batch_size=batch, out=Path(folder) / "states.npy")
        seconds, size = time.perf_counter() - clock, states.nbytes
        del states
    return {
        "tokens_per_second": tokens / seconds,
        "seconds": seconds,
        "prompts": len(prompts),
        "bytes": size,
        "tflops": tokens / seconds * token_flops(arch, PROMPT_TOKENS) / 1e12,
    }


def wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def measured(
    work: Callable[..., dict[str, Any]], arch: Architecture, arguments: argparse.Namespace, batch: int
) -> dict[str, Any]:
    """A run of one kind of work on a fresh model; out of memory halves the batch."""
    cuda = arguments.device.startswith("cuda")
    while True:
        gc.collect()
        if cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(arguments.device)
        try:
            found = work(random_model(arch, arguments.device), arch, arguments, batch)
            break
        except torch.OutOfMemoryError:
            if batch == 1:
                raise SaferlrmError(f"{arch.name} does not fit with a batch of 1; set --length lower") from None
            batch //= 2
            print(f"out of memory: batch {batch}", file=sys.stderr)
    if cuda:
        found["peak_memory_gib"] = torch.cuda.max_memory_allocated(arguments.device) / 2**30
    return found | {"batch": batch}


def save(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write the rows beside those of other models, batches and cards."""
    kept = json.loads(path.read_text())["rows"] if path.is_file() else []
    same = ("what", "model", "batch", "hardware", "checkpointing")
    new = {tuple(row.get(key) for key in same) for row in rows}
    kept = [row for row in kept if tuple(row.get(key) for key in same) not in new]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(json.dumps({"rows": kept + rows}, indent=1) + "\n")
    os.replace(temporary, path)


def main(words: list[str] | None = None) -> None:
    arguments = read_arguments(words)
    cuda = arguments.device.startswith("cuda")
    if cuda and not torch.cuda.is_available():
        raise SaferlrmError(
            "no CUDA GPU here; run on a GPU server, or check the code by --tiny --device cpu --out FILE"
        )
    if cuda and torch.cuda.device_count() > 1:
        raise SaferlrmError(
            "more than one GPU is visible, and the trainer would use all; set CUDA_VISIBLE_DEVICES to one"
        )
    hardware = torch.cuda.get_device_name(arguments.device) if cuda else f"{platform.machine()} CPU"
    peak = arguments.peak or next((tflops for name, tflops in PEAKS.items() if name in hardware), None)
    if arguments.tiny:
        small = architecture("organism")
        models = [small]
        if arguments.out == read_arguments([]).out:
            raise SaferlrmError("--tiny measures no real model; give another file by --out")
    else:
        models = [architecture(name) for name in arguments.models]
    kinds: dict[str, list[tuple[Callable[..., dict[str, Any]], int]]] = {
        "alignment": [
            (functools.partial(align, checkpointing=way == "on"), arguments.batch) for way in arguments.checkpointing
        ],
        "sampling": [(sample, arguments.answers)],
        "extraction": [(read_states, 16 * arguments.batch)],
    }
    for arch in models:
        for what, (work, batch) in [(name, kind) for name in arguments.work for kind in kinds[name]]:
            row = {"what": what, "model": arch.name, "hardware": hardware} | measured(work, arch, arguments, batch)
            if peak:
                row["share_of_peak"] = row["tflops"] / peak
                if "tflops_with_recomputation" in row:
                    row["share_with_recomputation"] = row["tflops_with_recomputation"] / peak
                row["peak_tflops"] = peak
            row |= {
                "command": " ".join(
                    ["python benchmarks/gpu.py", *(words if words is not None else sys.argv[1:])]
                ).strip(),
                "python": platform.python_version(),
                "torch": torch.__version__,
                "transformers": transformers.__version__,
            }
            print(json.dumps(row))
            save(arguments.out, [row])


if __name__ == "__main__":
    try:
        main()
    except SaferlrmError as problem:
        sys.exit(f"error: {' '.join(str(problem).split())}")
