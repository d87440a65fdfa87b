"""Greedy generation against plain ``generate``, as ratios measured in one run.

Both answer the same prompts of the study's suites with the shipped organism in float32. The plain side calls
``model.generate`` on left-padded batches of 32 in the given order. Ours is measured with 32 rows in flight
and with its default of 64. All tokens must be identical. Target: at least 2.

Repetitions alternate between the sides, and the median of the ratios is reported. Time is that of the
process, because other work on a shared machine stretches the clock; the ratio by the clock is written beside
it.

    python benchmarks/generation.py [--prompts 300] [--repeats 3] [--threads 1]
"""

from __future__ import annotations

import random
import statistics

import torch
from common import ORGANISM, read_arguments, save, timed

from saferlrm.generate import Decoding, generate
from saferlrm.lm import LanguageModel, load_lm
from saferlrm.suites.synthetic import training_prompts

PLAIN_BATCH = 32


def mixed_texts(lm: LanguageModel, n: int, seed: int = 0) -> list[str]:
    """Rendered prompts in random order, half with thinking off: short refusals beside long thoughts."""
    prompts = [prompt.text for prompt in training_prompts(n // 2, n - n // 2, seed, "benchmark")]
    random.Random(seed).shuffle(prompts)
    return [lm.chat.render(prompt, "on" if i % 2 else "off") for i, prompt in enumerate(prompts)]


@torch.inference_mode()
def plain(lm: LanguageModel, texts: list[str], decoding: Decoding) -> list[list[int]]:
    """New tokens of each text up to its end of turn, by ``model.generate`` in the given order."""
    end = lm.model.generation_config.eos_token_id
    ends = {end} if isinstance(end, int) else set(end)
    lm.tokenizer.padding_side = "left"
    found = []
    for start in range(0, len(texts), PLAIN_BATCH):
        batch = lm.tokenizer(
            texts[start : start + PLAIN_BATCH], add_special_tokens=False, padding=True, return_tensors="pt"
        )
        out = lm.model.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            do_sample=False,
            max_new_tokens=decoding.max_new_tokens,
        )
        for row in out[:, batch["input_ids"].shape[1] :].tolist():
            stop = next((i + 1 for i, token in enumerate(row) if token in ends), len(row))
            found.append(row[:stop])
    return found


def differing(lm: LanguageModel, expected: list[list[int]], found: list) -> int:
    """Number of prompts whose tokens differ; texts are compared, with the number of tokens."""
    end = lm.model.generation_config.eos_token_id
    ends = {end} if isinstance(end, int) else set(end)
    count = 0
    for tokens, completion in zip(expected, found, strict=True):
        kept = tokens[:-1] if tokens[-1] in ends else tokens
        text = lm.tokenizer.decode(kept, clean_up_tokenization_spaces=False)
        count += (text, len(tokens)) != (completion.text, completion.n_tokens)
    return count


def main() -> None:
    arguments = read_arguments(__doc__, prompts=300, repeats=3, max_new_tokens=Decoding().max_new_tokens)
    lm = load_lm(ORGANISM, device="cpu")
    texts, decoding = mixed_texts(lm, arguments.prompts), Decoding(arguments.max_new_tokens)
    spent: dict[str, list[tuple[float, float]]] = {"plain": [], "32": [], "64": []}
    wrong = {}
    generate(lm, texts[:8], Decoding(4))  # the first call of any kind pays for set-up
    plain(lm, texts[:8], Decoding(4))
    for _ in range(arguments.repeats):
        process, clock, expected = timed(lambda: plain(lm, texts, decoding))
        spent["plain"].append((process, clock))
        for rows in (32, 64):
            process, clock, found = timed(lambda rows=rows: generate(lm, texts, decoding, rows))
            spent[str(rows)].append((process, clock))
            wrong[rows] = differing(lm, expected, found)
    ratios = {
        f"ratio{name}_{rows}_rows": statistics.median(
            base[i] / own[i] for base, own in zip(spent["plain"], spent[rows], strict=True)
        )
        for i, name in enumerate(("", "_clock"))
        for rows in ("32", "64")
    }
    lengths = sorted(len(tokens) for tokens in expected)
    results = ratios | {
        "target": ">= 2, identical tokens",
        "prompts_that_differ": wrong,
        "seconds": {name: statistics.median(t for t, _ in both) for name, both in spent.items()},
        "new_tokens": {f"{q}%": lengths[min(len(lengths) - 1, len(lengths) * q // 100)] for q in (0, 25, 50, 75, 100)},
        "mean_new_tokens": statistics.mean(lengths),
    }
    save(results, arguments)


if __name__ == "__main__":
    main()
