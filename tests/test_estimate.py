"""What a study costs: sizes against real models, real adapters, real caches and what autograd really keeps."""

from __future__ import annotations

import importlib
import json
import re
from importlib import resources
from pathlib import Path

import pytest
import torch
from processes import start_python
from safetensors import safe_open
from tiny import write_tiny_lm
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM, DynamicCache, GPT2Config, LlamaConfig, Qwen2Config, Qwen3Config

from saferlrm.activations import extract
from saferlrm.align.run import build_model
from saferlrm.architectures import Architecture, architecture, published
from saferlrm.cli import main
from saferlrm.errors import SaferlrmError
from saferlrm.estimate import (
    GIB,
    LAYER_SECONDS,
    Hardware,
    alignment_memory,
    estimate,
    judge_bytes,
    largest_batch,
    layer_activation_bytes,
    measurements,
    sampling_memory,
    sampling_rate,
    states_bytes,
    token_flops,
    weight_bytes,
)
from saferlrm.judge_size import DEFAULTS
from saferlrm.judges.models import KINDS
from saferlrm.lm import load_lm
from saferlrm.profile import AlignmentSettings, load_profile
from saferlrm.store import repository
from saferlrm.throughput import measured

SMALL = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
CONFIGS = {
    "qwen2": Qwen2Config(**SMALL, tie_word_embeddings=False),
    "qwen3": Qwen3Config(**SMALL, head_dim=24, tie_word_embeddings=True),
    "llama": LlamaConfig(**SMALL, tie_word_embeddings=False),
}
# In billions, from the models' cards: all parameters, and those outside the embeddings.
CARDS = {
    "DeepSeek-R1-Distill-Qwen-1.5B": (1.78, 1.31),
    "DeepSeek-R1-Distill-Qwen-7B": (7.62, 6.53),
    "DeepSeek-R1-Distill-Llama-8B": (8.03, 6.98),
    "DeepSeek-R1-Distill-Qwen-14B": (14.77, 13.2),
    "Skywork-OR1-7B": (7.62, 6.53),
    "Qwen3-0.6B": (0.6, 0.44),
    "Qwen3-1.7B": (1.72, 1.4),
    "Qwen3-4B": (4.02, 3.6),
    "Qwen3-8B": (8.19, 6.95),
    "Qwen3-14B": (14.77, 13.2),
}


def write_config(config: object, folder: Path) -> Architecture:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config.to_dict() | {"architectures": [config.architectures[0]]}))
    return architecture(str(folder))


@pytest.fixture
def small(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Architecture, Path]:
    """Architecture and folder of a random model of a family, with a tokenizer."""
    folder = write_tiny_lm(tmp_path / request.param)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(CONFIGS[request.param]).save_pretrained(folder)
    return architecture(str(folder)), folder


FAMILIES = pytest.mark.parametrize("small", list(CONFIGS), indirect=True)


@pytest.mark.parametrize("name", CARDS)
def test_the_parameters_of_published_models_are_those_of_their_cards(name: str) -> None:
    arch = architecture(name)
    total, inner = CARDS[name]
    assert arch.parameters / 1e9 == pytest.approx(total, abs=0.006)
    outside = arch.parameters - arch.vocabulary * arch.hidden * (1 if arch.tied else 2)
    assert outside / 1e9 == pytest.approx(inner, abs=0.05)
    assert architecture(arch.name.lower()) == arch


def test_every_published_model_has_a_card_here() -> None:
    assert {name.partition("/")[2] for name in published()} == set(CARDS)


@pytest.mark.parametrize(
    "name", ["DeepSeek-R1-Distill-Qwen-7B", "DeepSeek-R1-Distill-Llama-8B", "Qwen3-14B", "Qwen3-4B"]
)
def test_the_formula_counts_what_transformers_builds(name: str) -> None:
    arch = architecture(name)
    kind = LlamaConfig if "Llama" in name else Qwen3Config if "Qwen3" in name else Qwen2Config
    config = kind(
        vocab_size=arch.vocabulary,
        hidden_size=arch.hidden,
        intermediate_size=arch.intermediate,
        num_hidden_layers=arch.layers,
        num_attention_heads=arch.heads,
        num_key_value_heads=arch.kv_heads,
        head_dim=arch.head_size,
        tie_word_embeddings=arch.tied,
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == arch.parameters


def test_the_organism_s_parameters_are_those_in_its_file() -> None:
    arch = architecture("organism")
    folder = Path(__file__).parents[1] / "saferlrm" / "organism" / "checkpoints" / "seed0"
    with safe_open(folder / "model.safetensors", framework="pt") as weights:
        stored = sum(weights.get_tensor(key).numel() for key in weights.keys())  # noqa: SIM118
    assert arch.parameters == stored
    assert architecture(str(folder)) == arch


def test_other_families_are_built_without_memory(tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=300, n_embd=32, n_layer=2, n_head=4, architectures=["GPT2LMHeadModel"])
    arch = write_config(config, tmp_path / "gpt2")
    model = AutoModelForCausalLM.from_config(config)
    assert arch.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert arch.tied
    assert (arch.layers, arch.hidden, arch.kv_heads) == (2, 32, 4)


@FAMILIES
def test_a_real_adapter_has_the_parameters_that_were_counted(small: tuple[Architecture, Path]) -> None:
    arch, folder = small
    model = build_model(load_lm(folder, device="cpu"), AlignmentSettings(rank=4, lambda_aux=0.0), seed=0)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert arch.adapter_parameters(4) == sum(parameter.numel() for parameter in trained)
    assert arch.parameters == sum(p.numel() for p in model.parameters()) - arch.adapter_parameters(4)


@FAMILIES
def test_a_real_cache_has_the_bytes_that_were_counted(small: tuple[Architecture, Path]) -> None:
    arch, folder = small
    lm, cache = load_lm(folder, device="cpu", dtype="bfloat16"), DynamicCache()
    with torch.inference_mode():
        lm.model(input_ids=torch.zeros((3, 40), dtype=torch.long), past_key_values=cache, use_cache=True)
    kept = [states for layer in cache.layers for states in (layer.keys, layer.values)]
    assert arch.cache_bytes(3, 40, 2) == sum(states.numel() * states.element_size() for states in kept)


@FAMILIES
@pytest.mark.parametrize(("dtype", "autocast"), [("bfloat16", True), ("bfloat16", False), ("float32", False)])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_memory_that_a_forward_pass_leaves_for_the_backward_pass_is_within_a_tenth(
    small: tuple[Architecture, Path], dtype: str, autocast: bool, checkpointing: bool
) -> None:
    arch, folder = small
    model = build_model(load_lm(folder, device="cpu", dtype=dtype), AlignmentSettings(rank=1, lambda_aux=0.0), seed=0)
    model.train()
    if checkpointing:
        model.checkpoint_activations()
    batch, length = 4, 192
    tokens = torch.ones((batch, length), dtype=torch.long)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:  # noqa: SIM117
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            hidden, _ = model.hidden_states(tokens)
    found = sum(event.self_cpu_memory_usage for event in recorded.events())  # allocated and not freed
    assert hidden.requires_grad
    expected = alignment_memory(arch, batch, length, 1, dtype, "none", checkpointing, autocast)["activations"]
    if checkpointing:  # one layer in full comes on top only while it is computed again
        expected -= batch * length * layer_activation_bytes(arch, dtype, autocast)
    assert expected == pytest.approx(found, rel=0.1 if not checkpointing else 0.15)


def test_states_on_disk_have_the_bytes_that_were_counted(tmp_path: Path) -> None:
    folder = write_tiny_lm(tmp_path / "lm")
    prompts = ["one", "two", "three"]
    extract(load_lm(folder, device="cpu"), prompts, out=tmp_path / "states.npy")
    header = 128
    assert (tmp_path / "states.npy").stat().st_size - header == states_bytes(architecture(str(folder)), len(prompts))


def test_four_bits_and_checkpointing_save_what_they_should() -> None:
    arch = architecture("Qwen3-14B")
    assert weight_bytes(arch, "bfloat16") == 2 * arch.parameters
    assert 0.27 < weight_bytes(arch, "bfloat16", "4bit") / weight_bytes(arch, "bfloat16") < 0.37
    kept, again = (alignment_memory(arch, 1, 4096, 16, checkpointing=on)["activations"] for on in (False, True))
    assert again < kept / 10
    full = sampling_memory(arch, 64, 2048)["key-value cache"]
    assert full == pytest.approx(2 * sampling_memory(arch, 32, 2048)["key-value cache"])


def test_arithmetic_follows_the_weights() -> None:
    arch = architecture("DeepSeek-R1-Distill-Qwen-7B")
    assert token_flops(arch, 0) == 2 * arch.multiplied
    assert token_flops(arch, 0, training=True, checkpointing=True) == 6 * arch.multiplied
    assert token_flops(arch, 4096) / token_flops(arch, 0) == pytest.approx(1.058, abs=0.002)


def test_the_largest_batch_fits_and_the_next_does_not() -> None:
    arch, card = architecture("DeepSeek-R1-Distill-Qwen-7B"), Hardware(memory=80)
    most = largest_batch(card, lambda batch: alignment_memory(arch, batch, 4096, 16))
    sizes = [sum(alignment_memory(arch, batch, 4096, 16).values()) for batch in (most, most + 1)]
    assert sizes[0] <= card.usable < sizes[1]
    assert most >= 1
    assert largest_batch(Hardware(memory=8), lambda batch: alignment_memory(arch, batch, 4096, 16)) == 0


def test_what_does_not_fit_comes_with_the_setting_to_change() -> None:
    gpu = load_profile("gpu")
    made = estimate(architecture("Qwen3-14B"), gpu, Hardware(memory=80), length=4096)
    assert any("set alignment.micro_batch to" in advice for advice in made.advice)
    small = estimate(architecture("Qwen3-14B"), gpu, Hardware(memory=24), length=4096)
    assert any("loading.quantization to 4bit" in advice for advice in small.advice)
    smaller = load_profile(
        "gpu", **{"alignment.batch_size": 1, "decoding.batch_size": 4, "decoding.max_new_tokens": 8192}
    )
    assert estimate(architecture("Qwen3-0.6B"), smaller, Hardware(memory=80), length=2048).advice == ()
    with pytest.raises(SaferlrmError, match="holds 40960 tokens, fewer than 50000; set --length"):
        estimate(architecture("Qwen3-8B"), gpu, length=50_000)


@pytest.mark.parametrize("model", [name for name in published() if "14B" not in name])
def test_the_gpu_profile_fits_80_gb_for_every_model_up_to_8_billion(model: str) -> None:
    assert estimate(architecture(model), load_profile("gpu"), Hardware(memory=80)).advice == ()


@pytest.mark.parametrize("model", [name for name in published() if "14B" in name])
def test_14_billion_fit_with_the_settings_that_the_profile_names(model: str) -> None:
    arch, changed = architecture(model), {"alignment.micro_batch": 3, "decoding.batch_size": 12}
    assert "set alignment.micro_batch to 3 and decoding.batch_size to 12" in " ".join(
        (resources.files("saferlrm") / "profiles" / "gpu.yaml").read_text().replace("\n#", " ").split()
    )
    assert estimate(arch, load_profile("gpu"), Hardware(memory=80)).advice != ()
    assert estimate(arch, load_profile("gpu", **changed), Hardware(memory=80)).advice == ()


def test_the_guide_shows_what_the_estimate_says() -> None:
    guide = (repository() / "docs" / "gpu_server.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\w.-]+)[^|]* \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|$", guide, flags=re.MULTILINE)
    assert len(rows) >= 5
    whole = {"alignment.micro_batch": None, "decoding.batch_size": 64}
    for model, *shown in rows:
        found = []
        for group in ("alignment", "sampling"):
            for settings in (load_profile("gpu", **whole), load_profile("gpu")):
                lines = estimate(architecture(model), settings).lines
                found += [round(x.value) for x in lines if x.what == "in all" and x.group.startswith(group)]
        assert found == [int(number) for number in shown], model


def test_the_notebook_names_the_hardware_that_the_estimate_takes() -> None:
    card = Hardware()
    said = (repository() / "notebooks" / "11_real_models.ipynb").read_text(encoding="utf-8")
    assert (
        f"one card with {card.memory:g} GiB, {card.tflops:g} TFLOP/s and {card.bandwidth:g} TB/s of which "
        f"{card.utilisation:.0%} are reached".replace("%", " %")
    ) in said


def test_memory_is_that_of_a_part_and_of_the_judge() -> None:
    arch, profile = architecture("Qwen3-8B"), load_profile("gpu", **{"alignment.micro_batch": None})
    whole = estimate(arch, profile).value("alignment, 16 at once x 4096 tokens", "in all")
    part = estimate(arch, load_profile("gpu")).value("alignment, 4 at once x 4096 tokens", "in all")
    assert part < 74 < whole
    away = load_profile("gpu", **{"judge.url": "http://judge/v1"})
    alone = estimate(arch, away).value("alignment, 4 at once x 4096 tokens", "in all")
    assert part - alone == pytest.approx(judge_bytes(load_profile("gpu")) / GIB)
    assert judge_bytes(away) == judge_bytes(load_profile("organism")) == 0


@pytest.mark.parametrize("kind", DEFAULTS)
def test_default_judges_are_those_that_judge(kind: str) -> None:
    name, parameters = DEFAULTS[kind]
    assert name == KINDS[kind].default_model
    of_name, of_kind = (load_profile("gpu", **{"judge.kind": kind, "judge.model": m}) for m in (name, None))
    assert judge_bytes(of_name) == judge_bytes(of_kind) == 2 * parameters


def test_a_judge_in_a_folder_is_counted_by_what_is_loaded_of_it(tmp_path: Path) -> None:
    folder, adapter = write_tiny_lm(tmp_path / "judge"), tmp_path / "adapter"
    stored = (folder / "model.safetensors").stat().st_size
    (folder / "consolidated.safetensors").write_bytes(b"not loaded")
    assert judge_bytes(load_profile("gpu", **{"judge.model": str(folder)})) == stored
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").write_bytes(b"0" * 100)
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(folder)}))
    profile = load_profile("gpu", **{"judge.kind": "strongreject", "judge.model": str(adapter)})
    assert judge_bytes(profile) == stored + 100
    made = estimate(architecture("Qwen3-8B"), profile)
    assert made.value("sampling, batch 24 x 8448 tokens", "judge, kept loaded") == (stored + 100) / GIB
    for broken in ("{}", json.dumps({"base_model_name_or_path": str(tmp_path / "gone")})):
        (adapter / "adapter_config.json").write_text(broken)
        assert judge_bytes(profile) is None


def test_a_judge_of_unknown_size_is_said_not_to_be_counted(tmp_path: Path) -> None:
    arguments = ("--model", "Qwen3-8B", "--set", f"judge.model={tmp_path / 'gone'}")
    status, out, err = saferlrm_command(*arguments, COLUMNS="300")
    assert (status, err) == (0, "")
    (row,) = [line for line in out.splitlines() if "judge, kept loaded" in line]
    assert " ? " in row
    assert f"not counted: {tmp_path / 'gone'} has no weights here" in row


def test_a_measured_row_of_the_same_batch_and_card_is_taken_or_the_difference_said() -> None:
    arch = architecture("Skywork-OR1-7B")

    def row(rate: float, batch: int, hardware: str, peak: float, model: str = arch.name) -> dict[str, object]:
        return {"what": "sampling", "model": model, "hardware": hardware, "batch": batch, "peak_tflops": peak} | {
            "tokens_per_second": rate
        }

    rows = [row(1.0, 24, "H100", 989), row(2.0, 24, "A100", 312), row(3.0, 24, "L40S", 362), row(4.0, 64, "A100", 312)]
    assert measured(rows, "sampling", arch, 24, 312) == (2.0, "measured on A100")
    assert measured(rows, "sampling", arch, 24, 100) == (3.0, "measured on L40S")
    assert measured(rows, "sampling", arch, 12, 989) == (0.5, "measured on H100, 24 at once and not 12")
    assert measured(rows, "alignment", arch, 24, 312) is None
    # Qwen-7B has the same sizes, and weights are random; Llama-8B has others.
    twin, other = "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", "deepseek-ai/DeepSeek-R1-Distill-Llama-8B"
    found = measured([row(5.0, 24, "A100", 312, twin)], "sampling", arch, 24, 312)
    assert found == (5.0, "measured on A100, with the sizes of DeepSeek-R1-Distill-Qwen-7B")
    assert measured([row(5.0, 24, "A100", 312, other)], "sampling", arch, 24, 312) is None


def test_a_folder_is_known_by_its_sizes_and_not_by_its_name(tmp_path: Path) -> None:
    arch = architecture("Qwen3-0.6B")
    sizes = {"vocab_size": arch.vocabulary, "hidden_size": arch.hidden, "intermediate_size": arch.intermediate}
    sizes |= {"num_hidden_layers": arch.layers, "num_attention_heads": arch.heads, "head_dim": arch.head_size}
    config = Qwen3Config(**sizes, num_key_value_heads=arch.kv_heads, tie_word_embeddings=arch.tied)
    config.architectures = ["Qwen3ForCausalLM"]
    copy = write_config(config, tmp_path / "my-copy")
    row = {"what": "sampling", "model": arch.name, "hardware": "A100", "batch": 24, "tokens_per_second": 7.0}
    assert measured([row], "sampling", copy, 24, 312) == (7.0, "measured on A100, with the sizes of Qwen3-0.6B")
    config.num_hidden_layers += 1
    assert measured([row], "sampling", write_config(config, tmp_path / "larger"), 24, 312) is None


def test_a_rate_of_another_card_or_batch_is_scaled_by_what_binds_it() -> None:
    arch = architecture("DeepSeek-R1-Distill-Qwen-7B")
    row = {"model": arch.name, "hardware": "H200", "batch": 64, "tokens_per_second": 900.0, "peak_tflops": 900}
    rate, basis = measured([row | {"what": "alignment"}], "alignment", arch, 64, 300)
    assert (rate, basis) == (300.0, "measured on H200 x 300/900 TFLOP/s")
    sampling = [row | {"what": "sampling"}]
    assert measured(sampling, "sampling", arch, 16, 300) == (225.0, "measured on H200, 64 at once and not 16")
    assert measured(sampling, "sampling", arch, 128, 300)[0] == 900.0
    fast = row | {"what": "alignment", "checkpointing": False, "tokens_per_second": 1000.0}
    slow = row | {"what": "alignment", "checkpointing": True}
    assert measured([slow, fast], "alignment", arch, 64, 900)[0] == 900.0
    assert measured([fast], "alignment", arch, 64, 900)[0] == 1000.0


def test_a_step_of_sampling_takes_as_long_as_its_launches() -> None:
    arch, card = architecture("DeepSeek-R1-Distill-Qwen-7B"), Hardware(bandwidth=1000.0, tflops=1e6)
    rates = [sampling_rate(arch, batch, 256, card, "bfloat16", "none") for batch in (1, 64)]
    assert rates == pytest.approx([1 / (28 * LAYER_SECONDS), 64 / (28 * LAYER_SECONDS)])
    measured_here = [row for row in measurements() if row["what"] == "sampling" and row["model"].endswith(arch.name)]
    assert measured_here[0]["tokens_per_second"] == pytest.approx(64 / (28 * LAYER_SECONDS), rel=0.01)


def test_measured_throughput_takes_the_place_of_the_estimate(tmp_path: Path) -> None:
    arch, gpu, table = architecture("DeepSeek-R1-Distill-Qwen-7B"), load_profile("gpu"), tmp_path / "table.json"
    before = estimate(arch, gpu, table=table)
    assert {line.basis.split()[0] for line in before.lines if line.group == "time"} == {"estimated"}
    row = {"what": "alignment", "model": arch.name, "hardware": "one card", "tokens_per_second": 5000.0}
    table.write_text(json.dumps({"rows": [row]}))
    after = estimate(arch, gpu, table=table)
    assert after.value("time", "alignment, tokens per second") == 5000.0
    bases = [line.basis for line in after.lines if line.group == "time"]
    assert bases[:2] == ["measured on one card"] * 2
    assert all(basis.startswith("estimated") for basis in bases[2:])
    table.write_text('{"rows": 3}')
    with pytest.raises(SaferlrmError, match=r"run benchmarks/gpu\.py again"):
        measurements(table)


def saferlrm_command(*arguments: object, **environment: str) -> tuple[int, str, str]:
    process = start_python("-m", "saferlrm", "estimate", *arguments, **{"COLUMNS": "160"} | environment)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def test_the_command_prints_every_number_with_its_basis() -> None:
    status, out, err = saferlrm_command("--model", "DeepSeek-R1-Distill-Qwen-7B")
    assert (status, err) == (0, "")
    assert "7.62" in out
    assert "alignment, 4 at once x 4096 tokens" in out
    assert "exact" in out
    assert "does not fit" not in out
    rows = [line for line in out.splitlines() if "\u2502" in line and line.count("\u2502") > 3]
    assert all(
        ("exact" in row or "estimated" in row or "measured" in row) for row in rows if any(map(str.isdigit, row[60:]))
    )


def test_a_published_model_needs_no_hub() -> None:
    script = (
        "import socket, sys; from saferlrm.cli import main\n"
        "def refused(*_): raise AssertionError('the network was asked')\n"
        "socket.socket.connect = socket.getaddrinfo = refused\n"
        "try: main(['estimate', '--model', 'Qwen3-8B'])\n"
        "except SystemExit as end: assert not end.code"
    )
    process = start_python("-c", script)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    cases = (
        (("--model", tmp_path / "empty"), "has no config.json"),
        (("--model", tmp_path / "broken"), "cannot be read"),
        (("--model", "nobody/nothing"), "the model hub does not give it"),
        (("--model", "Qwen3-8B", "--length", "99999"), "set --length"),
        (("--model", "Qwen3-8B", "--profile", "x"), "unknown profile 'x'"),
        (("--model", "Qwen3-8B", "--set", "alignment.batch_siz=4"), "did you mean"),
        (("--model", "Qwen3-8B", "--tflops", "0"), "--tflops"),
    )
    for arguments, message in cases:
        with pytest.raises(SystemExit) as end:
            main(["estimate", *map(str, arguments)])
        out, err = capsys.readouterr()
        assert (end.value.code, out) == (2, ""), arguments
        assert message in err
        assert err.count("\n") == 1


BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "gpu.py"


def test_the_gpu_benchmark_runs_on_a_small_model(tmp_path: Path) -> None:
    out = tmp_path / "tiny.json"
    process = start_python(BENCHMARK, "--tiny", "--device", "cpu", "--out", out)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    rows = measurements(out)
    assert [row["what"] for row in rows] == ["alignment", "sampling", "extraction"]
    assert all(row["tokens_per_second"] > 0 and row["tflops"] > 0 and "--tiny" in row["command"] for row in rows)
    assert rows[1]["mean_tokens"] == 12
    assert rows[2]["bytes"] == states_bytes(architecture("organism"), 6)


def test_the_gpu_benchmark_keeps_rows_of_other_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARK.parent)
    save = importlib.import_module("gpu").save
    rows = [{"what": "sampling", "model": "m", "hardware": "card", "batch": n, "rate": n} for n in (24, 64)]
    for row in (*rows, rows[1] | {"rate": 65}):
        save(tmp_path / "table.json", [row])
    assert [row["rate"] for row in json.loads((tmp_path / "table.json").read_text())["rows"]] == [24, 65]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_the_gpu_benchmark_says_that_it_needs_a_gpu(tmp_path: Path) -> None:
    process = start_python(BENCHMARK, "--out", tmp_path / "none.json")
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (1, "")
    assert err.startswith("error: no CUDA GPU here")
    assert err.count("\n") == 1
