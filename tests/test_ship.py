"""What ships was made by the code it ships with."""

from __future__ import annotations

from pathlib import Path

import pytest

from saferlrm.errors import SaferlrmError
from saferlrm.finished import FinishedStore
from saferlrm.ship import LEFT_OUT, finished_stages
from saferlrm.store import results_folder


def test_the_shipped_stages_are_those_of_this_code_and_profile(tmp_path: Path) -> None:
    shipped = results_folder() / "artefacts"
    found = finished_stages("organism", FinishedStore(tmp_path, shipped))
    assert {artefact.path for artefact in found} == {path.parent for path in shipped.glob("*/*/manifest.json")}
    assert not LEFT_OUT & {artefact.stage for artefact in found}


def test_an_unfinished_study_is_not_shipped(tmp_path: Path) -> None:
    with pytest.raises(SaferlrmError, match="saferlrm run"):
        finished_stages("smoke", FinishedStore(tmp_path))
