"""Declared settings of a study: typed, bounded, frozen; an unknown key is an error.

A profile is a YAML file that spells out every setting. Four ship: ``smoke`` (minutes, every code path but the sweeps),
``organism`` (the study on a laptop), ``quick`` (the same without sweeps and with fewer seeds) and ``gpu`` (a real
reasoning model). The defaults below are for experiments in which only a few settings matter.
"""

from __future__ import annotations

import difflib
import json
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import annotated_types
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from saferlrm.errors import SaferlrmError
from saferlrm.store import repository

ThinkingMode = Literal["off", "short", "on", "forced"]
HeadToken = Literal["pre_cot", "prompt_last", "think_open", "prompt_mean", "dual_mean"]

Count = Annotated[int, Field(ge=1, le=100_000_000_000)]
CountOrNone = Annotated[int, Field(ge=0, le=10_000_000)]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
Layer = Annotated[int, Field(ge=0, le=512)]
Rate = Annotated[float, Field(gt=0, le=1)]

_MINIATURE = 200_000_000  # bytes of weights; the smallest published model with a thought has ten times as many


class Settings(BaseModel):
    """Base of all settings: no unknown keys, no silent conversion, no change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class DecodingSettings(Settings):
    """How answers are sampled. The same for every thinking mode, or the comparison is confounded."""

    max_new_tokens: Annotated[int, Field(ge=1, le=131_072)] = 160
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    top_p: Rate = 1.0
    top_k: CountOrNone = 0
    forced_thought_tokens: Annotated[int, Field(ge=0, le=131_072)] = 48
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 64


class ProbeSettings(Settings):
    """Where hidden states are read and how many prompts the probes learn from.

    ``layers`` are indices into the hidden states: 0 is the embedding, L the last layer.
    """

    layers: Literal["all"] | tuple[Layer, ...] = "all"
    n_train: Annotated[int, Field(ge=8, le=1_000_000)] = 600
    bootstrap: Annotated[int, Field(ge=10, le=100_000)] = 1000


class ClassifierSettings(Settings):
    """The BERT encoder that learns the thinking-off model's decision to refuse."""

    encoder: Annotated[str, Field(min_length=1)] = "minilm"
    n_prompts: Annotated[int, Field(ge=20, le=1_000_000)] = 1500
    epochs: Annotated[int, Field(ge=1, le=100)] = 3
    learning_rate: Rate = 1e-4
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 32
    max_length: Annotated[int, Field(ge=8, le=8192)] = 64
    validation_fraction: Annotated[float, Field(gt=0, le=0.5)] = 0.15


class AlignmentSettings(Settings):
    """Auxiliary-supervision fine-tuning: the alignment set, the head, the adapter and the optimiser.

    Attributes:
        n_harmful, n_benign: size of the alignment set.
        subset_harmful, subset_benign: of these so many are drawn for training, by the alignment seed; all by default.
        n_decision: prompts with a decision of the classifier and no answer, for the methods that use them.
        benign_thoughts: thinking mode in which the benign examples are answered: how long their thoughts are.
        head_layer: index into the hidden states: 1 to the number of layers, or -1 for the last.
        batch_size: examples of one optimiser step, over all processes.
        micro_batch: of these so many go through the model of one process at once; by default all. Less memory, the
            same numbers.
        gradient_checkpointing: compute activations twice instead of keeping them: less memory, about a third more time.
    """

    n_harmful: CountOrNone = 500
    n_benign: CountOrNone = 300
    subset_harmful: CountOrNone | None = None
    subset_benign: CountOrNone | None = None
    n_decision: CountOrNone = 400
    benign_thoughts: ThinkingMode = "on"
    lambda_aux: Annotated[float, Field(ge=0, le=100)] = 0.2
    head_token: HeadToken = "pre_cot"
    head_layer: Annotated[int, Field(ge=-1, le=512)] = -1
    detach_head: bool = False
    rank: Annotated[int, Field(ge=1, le=1024)] = 8
    lora_alpha: Annotated[float, Field(gt=0, le=4096)] = 16.0
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    learning_rate: Rate = 1e-3
    head_learning_rate: Rate = 1e-2
    epochs: Annotated[int, Field(ge=1, le=10_000)] = 3
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 16
    micro_batch: Annotated[int, Field(ge=1, le=4096)] | None = None
    warmup_ratio: Annotated[float, Field(ge=0, le=1)] = 0.1
    max_grad_norm: Annotated[float, Field(gt=0, le=1000)] = 1.0
    bf16: bool = False
    gradient_checkpointing: bool = False

    @model_validator(mode="after")
    def _has_examples(self) -> AlignmentSettings:
        if self.n_harmful + self.n_benign < 1:
            raise ValueError("n_harmful + n_benign must be at least 1")
        if self.head_layer == 0:
            raise ValueError("head_layer 0 is the embedding, below every adapter; choose 1 or more, or -1")
        for name in ("harmful", "benign"):
            subset, n = getattr(self, f"subset_{name}"), getattr(self, f"n_{name}")
            if subset is not None and subset > n:
                raise ValueError(f"subset_{name} = {subset} is more than n_{name} = {n}")
        return self


class EvidenceSettings(Settings):
    """Controls, sweeps, rivals and robustness checks: how many of each.

    Attributes:
        seeds: alignment seeds of the controls; ``sweep_seeds``: of sweeps, rivals, attacks and the other organisms.
        suite_size: the first so many prompts of a suite are asked.
        few_harmful, few_benign: the small alignment set, where plain fine-tuning does not yet solve everything.
        few_epochs: passes over it.
        organisms: growth seeds of the organisms on which the conclusions are checked.
        temperatures, samples: of the sampling checks.
        quick: leave the sweeps out, and say so.
        workers: processes that train and evaluate conditions side by side on a CPU, one thread each.
    """

    seeds: Annotated[tuple[Seed, ...], Field(min_length=2, max_length=100)] = (0, 1, 2, 3, 4)
    sweep_seeds: Annotated[tuple[Seed, ...], Field(min_length=2, max_length=100)] = (0, 1, 2)
    suite_size: Annotated[int, Field(ge=4, le=100_000)] = 150
    few_harmful: Annotated[int, Field(ge=1, le=10_000_000)] = 20
    few_benign: CountOrNone = 60
    few_epochs: Annotated[int, Field(ge=1, le=1000)] = 10
    organisms: Annotated[tuple[Seed, ...], Field(min_length=1, max_length=100)] = (0, 1, 2)
    temperatures: Annotated[tuple[Annotated[float, Field(ge=0, le=2)], ...], Field(min_length=1)] = (
        0.0,
        0.3,
        0.6,
        0.9,
        1.2,
    )
    samples: Annotated[int, Field(ge=1, le=1000)] = 5
    quick: bool = False
    workers: Annotated[int, Field(ge=1, le=256)] = 2


class LoadingSettings(Settings):
    """How the weights of a model are loaded and how its chat template is read.

    Attributes:
        attention: kernels of transformers; ``auto`` leaves the choice to it.
        quantization: ``4bit`` keeps frozen weights in 4 bits (needs bitsandbytes and a GPU).
        device_map: ``auto`` spreads one model over all GPUs; ``single`` puts it on ``device``.
        thinking: how the chat template switches thinking; ``auto`` finds out. See :mod:`saferlrm.chat`.
        system_prompt: first message of every conversation, or none.
    """

    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    quantization: Literal["none", "4bit"] = "none"
    device_map: Literal["single", "auto"] = "single"
    thinking: Literal["auto", "switch", "opens", "tags"] = "auto"
    system_prompt: Annotated[str, Field(min_length=1)] | None = None


class ServerSettings(Settings):
    """An OpenAI-compatible server that samples instead of this process (vLLM, SGLang, transformers serve).

    Attributes:
        url: address up to and including ``/v1``; ``None`` samples here.
        model: the server's name of the model; ``None`` is the profile's ``model``.
        parallel: requests in flight.
        retries: how often a request is repeated, waiting twice as long each time.
        timeout: seconds that one request may take.
    """

    url: Annotated[str, Field(pattern=r"^https?://")] | None = None
    model: Annotated[str, Field(min_length=1)] | None = None
    parallel: Annotated[int, Field(ge=1, le=1024)] = 16
    retries: Annotated[int, Field(ge=0, le=20)] = 5
    timeout: Annotated[float, Field(gt=0, le=86_400)] = 600.0


class JudgeSettings(Settings):
    """Who says whether an answer to a harmful or harmless prompt refuses or complies.

    Attributes:
        kind: ``rules`` needs no model; the others are language models (see :mod:`saferlrm.judges`).
        model: folder or hub name of the judge's weights, or its name at ``url``; ``None`` is the kind's own.
        url: an OpenAI-compatible server that runs the judge; ``None`` loads it here.
        reads_thought: the judge sees the thought besides the answer.
        batch_size: answers judged at once.
        max_new_tokens: most tokens of one judgement.
    """

    kind: Literal["rules", "llama_guard", "harmbench", "strongreject", "rubric"] = "rules"
    model: Annotated[str, Field(min_length=1)] | None = None
    url: Annotated[str, Field(pattern=r"^https?://")] | None = None
    reads_thought: bool = False
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 16
    max_new_tokens: Annotated[int, Field(ge=1, le=4096)] = 64


DatasetNames = tuple[Annotated[str, Field(min_length=1)], ...]


class DataSettings(Settings):
    """Where prompts come from: the organism's world or published benchmarks.

    Attributes:
        source: ``synthetic`` or ``published``.
        folder: folder with local copies, one file or folder for each data set; ``None`` reads the model hub.
        harmful, benign: direct requests for the suites, which are also put into jailbreak wrappers.
        scary, scary_contrast: safe requests that sound dangerous, and their unsafe contrasts.
        reasoning: problems with known answers.
        train_harmful, train_benign: what classifier, probes and alignment learn from. Prompts that also stand in a
            suite, word for word or nearly, are left out.
        near_duplicate: two prompts are the same from this Jaccard similarity of their word 3-grams on; one word changed
            in ten leaves just that.
        files: local file of a data set by its name, where the folder calls it otherwise.
        allow_fewer: a data set with fewer rows than published is used, and said, instead of refused.
        least_share: if no more prompts can be had, the share of ``alignment.n_harmful`` and ``n_benign`` with which
            the study goes on; 1 is an error instead.
    """

    source: Literal["synthetic", "published"] = "synthetic"
    folder: Annotated[str, Field(min_length=1)] | None = None
    harmful: DatasetNames = ()
    benign: DatasetNames = ()
    scary: DatasetNames = ()
    scary_contrast: DatasetNames = ()
    reasoning: DatasetNames = ()
    train_harmful: DatasetNames = ()
    train_benign: DatasetNames = ()
    near_duplicate: Annotated[float, Field(gt=0, le=1)] = 0.45
    files: dict[str, str] = {}
    allow_fewer: bool = False
    least_share: Rate = 1.0

    @model_validator(mode="after")
    def _names_data(self) -> DataSettings:
        if self.source == "published":
            for name in ("harmful", "benign", "reasoning", "train_harmful", "train_benign"):
                if not getattr(self, name):
                    raise ValueError(f"source 'published' needs at least one data set in {name}")
        return self


class GrowthSettings(Settings):
    """Size of the model organism and the budget that grows it (tokens are trained tokens)."""

    pretrain_tokens: Count = 5_000_000
    posttrain_tokens: Count = 7_000_000
    replay_share: Annotated[float, Field(ge=0, le=0.9)] = 0.25
    thinking_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    seed: Seed = 0
    learning_rate: Rate = 3e-3
    posttrain_learning_rate: Rate = 2e-3
    batch_tokens: Annotated[int, Field(ge=128, le=1_048_576)] = 2048
    hidden_size: Annotated[int, Field(ge=64, le=1024, multiple_of=64)] = 128
    num_layers: Annotated[int, Field(ge=1, le=48)] = 4
    vocab_size: Annotated[int, Field(ge=300, le=65_536)] = 1536


class Profile(Settings):
    """Everything a study depends on.

    Attributes:
        name: profile name, also the name of its run folder.
        model: ``organism`` (the model that ships or is grown), a checkpoint folder or a hub id.
        dtype: weights and activations of the model; ``device``: ``auto`` takes a GPU where there is one.
        seeds: alignment seeds; every trained condition is repeated for each.
        suite_size: prompts per evaluation suite; ``data_seed``: fixes all suites.
        modes: thinking modes that are evaluated.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
    model: Annotated[str, Field(min_length=1)] = "organism"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")] = "auto"
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1, max_length=100)] = (0, 1, 2)
    suite_size: Annotated[int, Field(ge=4, le=100_000)] = 300
    data_seed: Seed = 0
    modes: Annotated[tuple[ThinkingMode, ...], Field(min_length=1)] = ("off", "short", "on", "forced")
    loading: LoadingSettings = LoadingSettings()
    data: DataSettings = DataSettings()
    judge: JudgeSettings = JudgeSettings()
    decoding: DecodingSettings = DecodingSettings()
    server: ServerSettings = ServerSettings()
    probe: ProbeSettings = ProbeSettings()
    classifier: ClassifierSettings = ClassifierSettings()
    alignment: AlignmentSettings = AlignmentSettings()
    evidence: EvidenceSettings = EvidenceSettings()
    growth: GrowthSettings = GrowthSettings()

    @model_validator(mode="after")
    def _consistent(self) -> Profile:
        if len(set(self.seeds)) < len(self.seeds) or len(set(self.modes)) < len(self.modes):
            raise ValueError("seeds and modes must not repeat a value")
        decoding = self.decoding
        if "forced" in self.modes and not 0 < decoding.forced_thought_tokens < decoding.max_new_tokens:
            raise ValueError("mode 'forced' needs 0 < forced_thought_tokens < max_new_tokens in decoding")
        return self


def profile_names() -> list[str]:
    """Names of the profiles that ship with the package."""
    folder = resources.files("saferlrm") / "profiles"
    return sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_profile(name: str | Path, /, **overrides: Any) -> Profile:
    """Load a profile by name, or from a path that ends in ``.yaml``, and apply overrides.

    Args:
        name: one of `profile_names`, or the path of a YAML file with the same keys.
        overrides: dotted keys, e.g. ``**{"alignment.lambda_aux": 0.5}``.

    Raises:
        SaferlrmError: unknown profile, unknown key, wrong type or value out of range.
    """
    values = _read(name)
    for dotted, value in overrides.items():
        *parents, leaf = dotted.split(".")
        section = values
        for parent in parents:
            section = section.setdefault(parent, {})
            if not isinstance(section, dict):
                raise SaferlrmError(f"unknown setting '{dotted}': '{parent}' has no settings of its own")
        section[leaf] = value
    try:
        text = json.dumps(values, default=_plain)
    except TypeError as problem:
        raise SaferlrmError(f"profile '{name}': {problem}; use numbers, text, booleans and lists") from None
    try:
        # Strict JSON mode: a list may fill a tuple, but "3" is not 3.
        profile = Profile.model_validate_json(text)
    except ValidationError as problem:
        raise SaferlrmError(f"profile '{name}': {_explain(problem.errors())}") from None
    missing = _left_to_the_organism(profile, values) if _is_file(name) and _is_large(profile.model) else []
    if missing:
        raise SaferlrmError(
            f"profile '{name}': {_some(missing)} missing, and the defaults are those of the miniature organism, not of "
            f"{profile.model}; begin with: saferlrm profile gpu > {Path(name).name}, and change that"
        )
    return profile


def as_yaml(profile: Profile) -> str:
    """The resolved settings as YAML, in the order in which they are declared."""
    return yaml.safe_dump(profile.model_dump(mode="json"), sort_keys=False, default_flow_style=None)


def _is_file(name: str | Path) -> bool:
    return str(name).endswith((".yaml", ".yml"))


def _is_large(model: str) -> bool:
    """Whether a model is one of the hub, or a folder with more than miniatures' weights in it."""
    folder = Path(model)
    if not folder.is_dir():
        return model != "organism"
    return sum(file.stat().st_size for file in folder.glob("*.safetensors")) > _MINIATURE


def _left_to_the_organism(profile: Profile, written: dict[str, Any]) -> list[str]:
    """Settings that are not written and whose defaults differ from those for a real model, by dotted key."""
    real = _read("gpu")
    missing = []
    for key, value in profile.model_dump(mode="json").items():
        if key == "growth":  # of no effect where nothing is grown
            continue
        if not isinstance(value, dict) or key not in written:
            if key not in written and value != real[key]:
                missing.append(key)
        else:
            missing += [f"{key}.{k}" for k, v in value.items() if k not in written[key] and v != real[key][k]]
    return missing


def _some(names: list[str]) -> str:
    """The first names, and how many more there are, with the verb."""
    shown, more = names[:6], len(names) - 6
    if more > 0:
        return f"{', '.join(shown)} and {more} more are"
    return f"{shown[0]} is" if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]} are"


def _read(name: str | Path) -> dict[str, Any]:
    if _is_file(name):
        source = Path(name)
        if not source.is_file() and not source.is_absolute():
            source = repository() / name  # kernels run in the folder of their notebook
        if not source.is_file():
            raise SaferlrmError(f"profile file '{name}' does not exist; give its path or one of {_listed()}")
    elif str(name) in profile_names():
        source = resources.files("saferlrm") / "profiles" / f"{name}.yaml"
    else:
        suggestion = _suggestion(str(name), profile_names())
        raise SaferlrmError(f"unknown profile '{name}'{suggestion}; choose {_listed()}")
    try:
        values = yaml.safe_load(source.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as problem:
        reason = " ".join(str(problem).replace('in "<unicode string>", line', "at line").split())
        raise SaferlrmError(f"profile '{name}' is not valid YAML: {reason}") from None
    if not isinstance(values, dict):
        raise SaferlrmError(f"profile '{name}' must be a mapping of settings, e.g. 'suite_size: 300'")
    return values


def _listed() -> str:
    return ", ".join(profile_names())


def _suggestion(word: str, choices: list[str]) -> str:
    close = difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    return f" (did you mean '{close[0]}'?)" if close else ""


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"a value of type {type(value).__name__} cannot be a setting")


def _explain(errors: list[ErrorDetails]) -> str:
    """Pydantic's errors in the words of the profile: one clause per setting, with value and allowed range."""
    clauses: dict[str, str] = {}
    for error in errors:
        names = [part for part in error["loc"] if isinstance(part, str)]
        section, path = Profile, []
        for name in names:
            path.append(name)
            field = section.model_fields.get(name)
            if field is None or not _is_settings(field.annotation):
                break  # what follows are names of a union's alternatives
            section = field.annotation
        key = ".".join(path)
        if error["type"] == "extra_forbidden":
            choices = list(section.model_fields)
            clause = (
                f"unknown setting '{key}'{_suggestion(path[-1], choices)}; choose from {', '.join(choices)}"
            )
        elif error["type"] == "missing":
            clause = f"setting '{key}' is missing"
        elif error["type"] == "value_error":
            clause = (f"{key}: " if key else "") + error["msg"].removeprefix("Value error, ")
        elif error["type"] == "too_short":
            clause = f"{key} needs at least one value"
        else:
            reason = error["msg"].removeprefix("Input ").rstrip(".")
            if key == "probe.layers":
                reason = "should be 'all' or a list of layer numbers"
            allowed = _allowed(section, path[-1])
            if allowed:
                reason = f"it must be {'a whole number' if 'integer' in reason else 'a number'} {allowed}"
            clause = f"{key} = {error['input']!r} is not allowed: {reason}"
        clauses.setdefault(key, clause)
    return "; ".join(clauses.values())


def _is_settings(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _allowed(section: type[BaseModel], name: str) -> str:
    """The declared range of a field, e.g. ``> 0, <= 1``."""
    field = section.model_fields.get(name)
    if field is None:
        return ""
    signs = {
        annotated_types.Ge: ">= {0.ge}",
        annotated_types.Gt: "> {0.gt}",
        annotated_types.Le: "<= {0.le}",
        annotated_types.Lt: "< {0.lt}",
        annotated_types.MultipleOf: "a multiple of {0.multiple_of}",
    }
    bounds = list(field.metadata)
    for argument in get_args(field.annotation):  # the elements of a tuple carry their own bounds
        for inner in getattr(argument, "__metadata__", ()):
            bounds += getattr(inner, "metadata", [])
    return " and ".join(signs[type(bound)].format(bound) for bound in bounds if type(bound) in signs)
