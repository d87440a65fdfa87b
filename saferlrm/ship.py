"""Copying finished stages into the repository, so that notebooks open at once on a fresh install."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from saferlrm.errors import SaferlrmError
from saferlrm.profile import Profile
from saferlrm.store import Artefact, Store, results_folder
from saferlrm.study import Study

# Weights of the encoder (90 MB) are trained again where they are wanted; what they were used for does ship. Organisms
# of other sizes are grown on request alone; their table is in results.
LEFT_OUT = frozenset({"classifier", "sizes"})


class FinishedStore(Store):
    """A store that finds stages and never builds one; remembers what it was asked for."""

    def __init__(self, root: Path, shipped: Path | None = None) -> None:
        super().__init__(root, shipped)
        self.found: dict[str, Artefact] = {}

    def load_or_compute(
        self,
        stage: str,
        settings: Mapping[str, Any],
        inputs: Mapping[str, Artefact],
        build: Callable[[Path], None],
        code: str,
    ) -> Artefact:
        def refuse(folder: Path) -> None:
            raise SaferlrmError(f"stage {stage} is not finished for this code and these settings; run: saferlrm run")

        artefact = super().load_or_compute(stage, settings, inputs, refuse, code)
        self.found[artefact.key] = artefact
        return artefact


def finished_stages(profile: Profile | str, store: FinishedStore) -> list[Artefact]:
    """Every stage of a study that ships, for all its seeds.

    Raises:
        SaferlrmError: one of them is not in ``store``.
    """
    study = Study(profile, store)
    for name, stage in study.stages().items():
        if name not in LEFT_OUT:
            for seed in study.profile.seeds:
                stage(study, seed)
    return list(store.found.values())


def ship(profile: Profile | str = "organism", target: Path | None = None) -> list[Artefact]:
    """Replaces ``results/artefacts`` by the finished stages of this checkout's store."""
    target = target or results_folder() / "artefacts"
    artefacts = finished_stages(profile, FinishedStore(Store.default().root))
    fresh = target.with_name(f".{target.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    for artefact in artefacts:
        shutil.copytree(artefact.path, fresh / artefact.stage / artefact.path.name)
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)
    return artefacts
