"""What a study of a real model costs, before anything is downloaded: parameters, memory, disk, time.

Parameters, adapters, key-value cache and disk are exact. Memory of training is a sum of what autograd keeps (see
`alignment_memory`); time is arithmetic divided by the share of the hardware's peak that is reached, or comes from
throughput measured by ``benchmarks/gpu.py`` where the table has the model. Every line says which.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saferlrm.architectures import Architecture
from saferlrm.errors import SaferlrmError
from saferlrm.judge_size import judge_bytes
from saferlrm.profile import Profile
from saferlrm.throughput import measured, measurements

GIB = 2**30
RESERVED = 0.08  # share of a GPU's memory for the CUDA context and fragments between blocks
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
QUANTIZED_BYTES = 0.5 + 4 / 64  # 4 bits, and one float32 scale for each block of 64 (arXiv 2305.14314)
ADAPTER_BYTES = 16  # float32: weight, gradient, and Adam's two moments
POSITIONS = 2  # token positions whose hidden states are kept
GROWTH = 1.25  # the cache grows by a quarter at a time
PROMPT_TOKENS = 256  # of a request with its chat template, for estimates
# What one layer takes for the next token of all answers in transformers, however few they are: launching its kernels
# binds, not the card. Measured: 65.9 ms a step for 28 layers and 64 answers, benchmarks/results/gpu_throughput.json.
LAYER_SECONDS = 0.0659 / 28


@dataclass(frozen=True)
class Hardware:
    """One GPU: memory in GiB, peak dense bfloat16 arithmetic in TFLOP/s, memory bandwidth in TB/s.

    ``utilisation`` is the share of either peak that is reached: alignment reached 34 to 36 % of an H200's arithmetic,
    the second forward pass of checkpointing included (``benchmarks/results/gpu_throughput.json``). The other defaults
    are an A100 with 80 GB.
    """

    memory: float = 80.0
    tflops: float = 312.0
    bandwidth: float = 2.0
    utilisation: float = 0.35

    @property
    def usable(self) -> float:
        """Bytes of memory that a program can fill."""
        return self.memory * GIB * (1 - RESERVED)


@dataclass(frozen=True)
class Line:
    """One number of the estimate; ``basis``: exact, estimated, or measured, with on what."""

    group: str
    what: str
    value: float
    unit: str
    basis: str


@dataclass(frozen=True)
class Estimate:
    """All lines, and advice where something does not fit."""

    architecture: Architecture
    lines: tuple[Line, ...]
    advice: tuple[str, ...]

    def value(self, group: str, what: str) -> float:
        return next(line.value for line in self.lines if (line.group, line.what) == (group, what))


def weight_bytes(arch: Architecture, dtype: str, quantization: str = "none") -> float:
    """Frozen weights; in 4 bits the linear layers alone are quantised."""
    if quantization == "4bit":
        return arch.adapted * QUANTIZED_BYTES + (arch.parameters - arch.adapted) * BYTES[dtype]
    return arch.parameters * BYTES[dtype]


def layer_activation_bytes(arch: Architecture, dtype: str, autocast: bool) -> float:
    """What autograd keeps of one layer for one token while an adapter trains, in bytes.

    Frozen linear layers keep nothing. Kept are the inputs of both normalisations in float32; the inputs of the seven
    adapters, in bfloat16 under autocast and else in float32, the adapters' type (a copy for each adapter unless the
    states are float32 anyway); queries, keys, values and the output of attention, whose T x T weights the fused
    kernels never keep; and the two factors of the gated unit and the input of its activation.
    """
    b = 2 if autocast else BYTES[dtype]
    h, f, query, key = arch.hidden, arch.intermediate, arch.heads * arch.head_size, arch.kv_heads * arch.head_size
    norms = 2 * 4 * h + (4 * (query + key) if arch.query_norm else 0)
    shared = not autocast and dtype == "float32"
    adapters = (2 if autocast else 4) * ((2 if shared else 5) * h + query + f)
    attention = b * ((1 if shared else 2) * query + 2 * key)
    return norms + adapters + attention + 3 * b * f


def alignment_memory(
    arch: Architecture,
    batch: int,
    length: int,
    rank: int,
    dtype: str = "bfloat16",
    quantization: str = "none",
    checkpointing: bool = True,
    autocast: bool = True,
) -> dict[str, float]:
    """Peak bytes of one alignment step, by part.

    Args:
        batch, length: examples on this GPU and tokens of the longest.
        checkpointing: keep the input of each layer alone and one layer at a time in full.
    """
    tokens = batch * length
    layer = layer_activation_bytes(arch, dtype, autocast)
    if checkpointing:
        activations = tokens * (arch.layers * arch.hidden * BYTES[dtype] + layer)
    else:
        activations = tokens * arch.layers * layer
    activations += tokens * arch.hidden * (4 + BYTES[dtype])  # the last normalisation and its output
    return {
        "weights": weight_bytes(arch, dtype, quantization),
        "adapter, gradient, optimiser": float(arch.adapter_parameters(rank) * ADAPTER_BYTES),
        "activations": float(activations),
        # As they come, in float32, and their log-probabilities or gradient: three are alive at once.
        "logits": float(tokens * arch.vocabulary * ((2 if autocast else BYTES[dtype]) + 4 + 4)),
    }


def sampling_memory(
    arch: Architecture, batch: int, length: int, dtype: str = "bfloat16", quantization: str = "none"
) -> dict[str, float]:
    """Peak bytes of sampling ``batch`` answers at once, each up to ``length`` tokens with its prompt."""
    element = BYTES[dtype]
    cache = GROWTH * arch.cache_bytes(batch, length, element)
    return {
        "weights": weight_bytes(arch, dtype, quantization),
        "key-value cache": cache + cache / arch.layers,  # one layer is copied while it grows
        # Logits in the model's type, in float32, sorted with their order (int64) for top-p, and as probabilities.
        "logits": float(batch * arch.vocabulary * (element + 4 + 4 + 8 + 4)),
        "prompt": float(batch * PROMPT_TOKENS * (3 * arch.intermediate + 4 * arch.hidden) * element),
    }


def states_bytes(arch: Architecture, prompts: int, positions: int = POSITIONS) -> int:
    """Hidden states of all layers and the embedding, float32, as :func:`saferlrm.activations.extract` writes them."""
    return prompts * positions * (arch.layers + 1) * arch.hidden * 4


def token_flops(arch: Architecture, length: float, training: bool = False, checkpointing: bool = False) -> float:
    """Floating-point operations for one token of a text of ``length`` tokens.

    A weight costs 2 forward and 2 backward to the activations; frozen weights have no gradient of their own
    (arXiv 2001.08361 counts 6 with it). Causal attention adds 2 x length x query size a layer, twice that backward.
    """
    forward = 2 * arch.multiplied
    attention = 2 * arch.layers * arch.heads * arch.head_size * length
    if not training:
        return forward + attention
    return (2 + checkpointing) * forward + (3 + checkpointing) * attention


def sampling_rate(
    arch: Architecture, batch: int, length: float, hardware: Hardware, dtype: str, quantization: str
) -> float:
    """Tokens per second: a step reads all weights and half-filled caches, or is bound by arithmetic or by launches."""
    read = weight_bytes(arch, dtype, quantization) + arch.cache_bytes(batch, round(length / 2), BYTES[dtype])
    seconds = max(read / (hardware.bandwidth * 1e12), batch * token_flops(arch, length / 2) / (hardware.tflops * 1e12))
    return batch / max(seconds / hardware.utilisation, arch.layers * LAYER_SECONDS)


def largest_batch(hardware: Hardware, memory: Any) -> int:
    """Largest batch whose ``memory(batch)`` fits, 0 if none does."""
    fits, fails = 0, 1
    while fails <= 65_536 and sum(memory(fails).values()) <= hardware.usable:
        fits, fails = fails, 2 * fails
    while fails - fits > 1:
        middle = (fits + fails) // 2
        fits, fails = (middle, fails) if sum(memory(middle).values()) <= hardware.usable else (fits, middle)
    return fits


def estimate(
    arch: Architecture,
    profile: Profile,
    hardware: Hardware | None = None,
    length: int = 4096,
    mean_length: int = 1024,
    mean_answer: int = 2048,
    prompts: int | None = None,
    table: Path | None = None,
) -> Estimate:
    """All numbers of one model under a profile's settings.

    Args:
        length: tokens of the longest alignment example, for memory.
        mean_length, mean_answer: mean tokens of an alignment example and of a sampled answer, for time.
        prompts: whose hidden states are kept; the alignment set's by default.
        table: measured throughput; the repository's by default.

    Raises:
        SaferlrmError: examples longer than the model's context, or an unreadable table.
    """
    if arch.context and length > arch.context:
        raise SaferlrmError(f"{arch.name} holds {arch.context} tokens, fewer than {length}; set --length")
    hardware = hardware or Hardware()
    align, decoding = profile.alignment, profile.decoding
    dtype, quantization = profile.dtype, profile.loading.quantization
    subsets = ((align.subset_harmful, align.n_harmful), (align.subset_benign, align.n_benign))
    examples = sum(n if subset is None else subset for subset, n in subsets)
    prompts = prompts or align.n_harmful + align.n_benign
    answer = decoding.max_new_tokens + PROMPT_TOKENS
    lines = [
        Line("model", "parameters", arch.parameters / 1e9, "billion", "exact"),
        Line("model", "adapter", arch.adapter_parameters(align.rank) / 1e6, "million", "exact"),
        Line("model", "download", arch.parameters * 2 / GIB, "GiB", "exact for bfloat16"),
    ]
    advice, rows = [], measurements(table)
    at_once = min(align.micro_batch or align.batch_size, align.batch_size)  # examples that go through the model
    judge = judge_bytes(profile)
    beside = {"judge, kept loaded": judge} if judge else {}
    if judge is None:
        unknown = f"not counted: {profile.judge.model} has no weights here"
        lines.append(Line("model", "judge, kept loaded", float("nan"), "GiB", unknown))

    def training(batch: int) -> dict[str, float]:
        return beside | alignment_memory(
            arch, batch, length, align.rank, dtype, quantization, align.gradient_checkpointing, align.bf16
        )

    def sampling(batch: int) -> dict[str, float]:
        return beside | sampling_memory(arch, batch, answer, dtype, quantization)

    wanted = (
        (f"alignment, {at_once} at once x {length} tokens", training, at_once, "alignment.micro_batch"),
        (
            f"sampling, batch {decoding.batch_size} x {answer} tokens",
            sampling,
            decoding.batch_size,
            "decoding.batch_size",
        ),
    )
    for group, memory, batch, setting in wanted:
        parts = memory(batch)
        for what, size in parts.items():
            lines.append(
                Line(
                    group, what, size / GIB, "GiB", "exact" if what.startswith(("weights", "adapter")) else "estimated"
                )
            )
        total, most = sum(parts.values()), largest_batch(hardware, memory)
        lines += [
            Line(group, "in all", total / GIB, "GiB", "estimated"),
            Line(group, f"largest batch in {hardware.memory:g} GiB", most, "", "estimated"),
        ]
        if total > hardware.usable:
            advice.append(_advice(group, setting, most, total, quantization, align.gradient_checkpointing, bool(judge)))
    lines.append(
        Line("disk", f"states of all layers, {prompts} prompts", states_bytes(arch, prompts) / GIB, "GiB", "exact")
    )
    sizes = {"alignment": at_once, "sampling": decoding.batch_size, "extraction": decoding.batch_size}
    rates = {
        what: found
        for what, batch in sizes.items()
        if (found := measured(rows, what, arch, batch, hardware.tflops)) is not None
    }
    lines += _times(arch, profile, hardware, mean_length, mean_answer, prompts, examples, rates)
    return Estimate(arch, tuple(lines), tuple(advice))


def _advice(
    group: str, setting: str, most: int, total: float, quantization: str, checkpointing: bool, judge: bool
) -> str:
    if most:
        return f"{group} needs {total / GIB:.0f} GiB; set {setting} to {most} or less"
    ways = [] if quantization == "4bit" else ["loading.quantization to 4bit"]
    if setting.startswith("alignment") and not checkpointing:
        ways.append("alignment.gradient_checkpointing to true")
    if judge:
        ways.append("judge.url to a server that runs the judge")
    ways.append("loading.device_map to auto on several GPUs")
    return f"{group} does not fit even with {setting} 1; set {' and '.join(ways)}"


def _times(
    arch: Architecture,
    profile: Profile,
    hardware: Hardware,
    mean_length: int,
    mean_answer: int,
    prompts: int,
    examples: int,
    measured_rates: dict[str, tuple[float, str]],
) -> list[Line]:
    align, decoding = profile.alignment, profile.decoding
    peak = hardware.tflops * 1e12 * hardware.utilisation
    guess = f"estimated from {hardware.tflops:g} TFLOP/s x {hardware.utilisation:g}"
    launches = f"{LAYER_SECONDS * 1e3:.1f} ms a layer"
    bound = f"estimated from {hardware.bandwidth:g} TB/s x {hardware.utilisation:g} and {launches}"
    training = peak / token_flops(arch, mean_length, True, align.gradient_checkpointing)
    sampling = sampling_rate(
        arch, decoding.batch_size, mean_answer, hardware, profile.dtype, profile.loading.quantization
    )
    reading = peak / token_flops(arch, PROMPT_TOKENS)
    work = (
        (
            "alignment",
            training,
            guess,
            examples * mean_length * align.epochs,
            f"one adapter, {examples} examples x {align.epochs} epochs",
        ),
        ("sampling", sampling, bound, 1000 * mean_answer, f"1000 answers of {mean_answer} tokens"),
        ("extraction", reading, guess, prompts * PROMPT_TOKENS, f"states of {prompts} prompts"),
    )
    lines = []
    for what, rate, basis, tokens, named in work:
        rate, basis = measured_rates.get(what, (rate, basis))
        lines.append(Line("time", f"{what}, tokens per second", rate, "", basis))
        lines.append(Line("time", named, tokens / rate / 3600, "hours", basis))
    return lines
