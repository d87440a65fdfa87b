"""Where memory is used up while a stage is computed, one line says what to set, and the stages before it stay."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from saferlrm import activations
from saferlrm.align import gradient
from saferlrm.errors import SaferlrmError
from saferlrm.memory import memory_explained
from saferlrm.profile import load_profile
from saferlrm.store import Store
from saferlrm.study import Study


def too_much(*_: object, **__: object) -> torch.Tensor:
    return torch.empty(2**60)  # the allocator's own error


@pytest.mark.parametrize(
    ("stage", "module", "function"),
    [("probes", activations, "hidden_states"), ("gradients", gradient, "_table")],
)
def test_a_stage_that_does_not_fit_names_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, module: object, function: str
) -> None:
    study = Study(load_profile("smoke"), Store(tmp_path))
    with monkeypatch.context() as patched:
        patched.setattr(module, function, too_much)
        with pytest.raises(SaferlrmError, match=rf"stage {stage}: out of memory; set decoding\.batch_size .* lower"):
            getattr(study, stage)()
    kept = {path.parent.name for path in tmp_path.glob("*/*/manifest.json")}
    getattr(study, stage)()  # and goes on when there is room
    assert {path.parent.name for path in tmp_path.glob("*/*/manifest.json")} > kept


def test_other_errors_pass_as_they_are() -> None:
    for error in (RuntimeError("shapes differ"), SaferlrmError("out of memory with a single prompt"), KeyError("a")):
        with pytest.raises(type(error)) as found, memory_explained("this"):
            raise error
        assert found.value is error
