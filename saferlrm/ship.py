"""Copying finished stages into the repository, so that notebooks open at once on a fresh install."""

from __future__ import annotations

import shutil
from pathlib import Path

from saferlrm.finished import FinishedStore
from saferlrm.profile import Profile
from saferlrm.store import Artefact, Store, results_folder
from saferlrm.study import Study

# Weights of the encoder (90 MB) are trained again where they are wanted; what they were used for does ship. Organisms
# of other sizes, further ones and the fresh seeds of the confirmation are made on request; their tables are in results.
LEFT_OUT = frozenset({"classifier", "sizes", "confirmation", "further_organisms"})


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
