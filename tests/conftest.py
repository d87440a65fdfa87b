"""One environment for every test: offline, quiet, single-threaded, in a throw-away store."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

# Set before anything imports torch or transformers; notebook kernels started by nbval inherit it.
os.environ.update(
    SAFERLRM_PROGRESS="0",
    HF_HUB_OFFLINE="1",
    TOKENIZERS_PARALLELISM="false",
    OMP_NUM_THREADS="1",
    MKL_NUM_THREADS="1",
    OPENBLAS_NUM_THREADS="1",
    MPLBACKEND="Agg",
)
_HOME = tempfile.TemporaryDirectory(prefix="saferlrm-tests-")
os.environ["SAFERLRM_HOME"] = f"{_HOME.name}/store"
os.environ["SAFERLRM_OUT"] = f"{_HOME.name}/out"  # notebooks under test leave the repository's results alone
sys.path.insert(0, str(Path(__file__).parent))

import pytest


@pytest.fixture(scope="session")
def tiny_lm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint folder of a random two-layer Qwen3 with its tokenizer. Read only: copy it to change it."""
    from tiny import write_tiny_lm

    return write_tiny_lm(tmp_path_factory.mktemp("tiny-lm"))
