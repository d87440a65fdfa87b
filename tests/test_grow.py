"""Growing an organism: a loadable checkpoint, equal for equal seeds, also after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from saferlrm.chat import ChatFormat
from saferlrm.errors import SaferlrmError
from saferlrm.organism.corpus import Conversation
from saferlrm.organism.grow import IGNORED, batches, encode_conversations, grow
from saferlrm.profile import GrowthSettings
from saferlrm.study import shipped_organism

# 60 steps of one phase and 450 of the other, so that the second phase passes its first checkpoint (step 400).
TINY = GrowthSettings(
    pretrain_tokens=8_000, posttrain_tokens=60_000, batch_tokens=128, hidden_size=64, num_layers=1, vocab_size=600
)
SCRIPT = """
import sys
from pathlib import Path
from saferlrm.organism.grow import grow
from saferlrm.profile import GrowthSettings
grow(3, Path(sys.argv[1]), GrowthSettings.model_validate_json(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grown")
    grow(3, folder, TINY)
    return folder


def test_the_checkpoint_is_an_ordinary_one(grown: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(grown)
    tokenizer = AutoTokenizer.from_pretrained(grown)
    assert type(model).__name__ == "Qwen3ForCausalLM"
    assert ChatFormat.detect(tokenizer).switch
    assert not (grown / "work").exists()


def test_a_killed_growth_resumes_and_ends_with_the_same_weights(grown: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), TINY.model_dump_json()]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.time() + 240
    # The state file is the last one of a checkpoint.
    while not (tmp_path / "work/posttrain/checkpoint-400/trainer_state.json").exists():
        assert process.poll() is None, "growth ended before its first checkpoint of the second phase"
        assert time.time() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "model.safetensors").exists()
    grow(3, tmp_path, TINY)
    expected, found = load_file(grown / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_grown_folder_is_not_overwritten(grown: Path) -> None:
    with pytest.raises(SaferlrmError, match="another folder"):
        grow(3, grown, TINY)


def test_the_loss_is_on_what_the_assistant_writes(grown: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(grown)
    talks = [
        Conversation("Hello!", None, "Hi."),
        Conversation("Hello!", "A greeting.", "Hi."),
        Conversation("Hello!", "I can answer this at once.", "Hi.", learn_thought=False),
    ]
    silent, thinking, given = (
        tokenizer.decode([i for i, learn in zip(row.ids, row.learn, strict=True) if learn])
        for row in encode_conversations(talks, tokenizer)
    )
    assert silent == "Hi.<|im_end|>"
    assert thinking == "<think>\nA greeting.\n</think>\n\nHi.<|im_end|>"
    assert given == "Hi.<|im_end|>"


def test_batches_hold_every_target_once(grown: Path) -> None:
    import random

    tokenizer = AutoTokenizer.from_pretrained(grown)
    talks = [Conversation("Hello!" * n, None, f"Answer {n}.") for n in range(1, 30)]
    rows = encode_conversations(talks, tokenizer)
    made = batches(rows, 200, tokenizer.pad_token_id, random.Random(0))
    assert sum(int((batch["labels"] != IGNORED).sum()) for batch in made) == sum(sum(row.learn) for row in rows)
    assert len(made) > 1


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_shipped_organisms_are_small_and_have_a_card(seed: int) -> None:
    folder = shipped_organism(seed)
    record = json.loads((folder / "growth.json").read_text())
    assert record["seed"] == record["settings"]["seed"] == seed
    assert 1_000_000 <= record["parameters"] <= 3_000_000
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 10_000_000
    assert "saferlrm grow" in (folder / "README.md").read_text()
