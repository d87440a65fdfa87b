"""Which finished stages belong to a profile, for ``saferlrm status``: those of its model and its prompts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from saferlrm.finished import FinishedStore, UnfinishedError
from saferlrm.profile import Profile, load_profile
from saferlrm.store import Artefact, Store
from saferlrm.study import Study

SAME = ("dtype", "data_seed", "suite_size")  # settings of a stage that are the profile's own, under the same names


def stages_of(profile: Profile, store: Store) -> list[Artefact]:
    """Finished stages of this model under these settings, oldest first.

    Shipped stages are those of the profile ``organism`` and count for it alone. A stage that asks no model (a
    classifier on its own) names none and is kept. Nothing is computed: where the model itself is not grown yet, no
    stage that needs it is found.
    """
    model = _model_key(profile, store)
    own = profile == load_profile("organism")
    return [one for one in store.entries() if _belongs(one, profile, model) and (own or not _shipped(one, store))]


def cells(stage: Artefact, profile: Profile, store: Store) -> tuple[str, str, str, str]:
    """Model, method (or suite and thinking mode), seed and place of a stage, for a table."""
    settings = stage.manifest.get("settings", {})
    seed = settings.get("seed", "")
    if seed == "" and isinstance(settings.get("seeds"), list):
        seed = ", ".join(map(str, settings["seeds"]))
    where = "shipped" if _shipped(stage, store) else "computed"
    part = [settings.get(name) for name in ("method", "suite", "mode")]
    which = ", ".join(name for name in part if isinstance(name, str) and name)
    return profile.model if "model" in settings else "", which, str(seed), where


def columns_of_text(rows: Sequence[Sequence[str]]) -> str:
    """Rows as lines of text with aligned columns; columns that are empty but for their head are left out."""
    kept = [column for column in zip(*rows, strict=True) if any(column[1:])]
    widths = [max(map(len, column)) for column in kept]
    lines = zip(*kept, strict=True)
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def _belongs(stage: Artefact, profile: Profile, model: str | None) -> bool:
    settings: dict[str, Any] = stage.manifest.get("settings", {})
    if "model" in settings and settings["model"] != model:
        return False
    declared: Iterable[str] = (name for name in SAME if name in settings)
    return all(settings[name] == getattr(profile, name) for name in declared)


def _shipped(stage: Artefact, store: Store) -> bool:
    return store.shipped is not None and stage.path.is_relative_to(store.shipped)


def _model_key(profile: Profile, store: Store) -> str | None:
    try:
        return Study(profile, FinishedStore(store.root, store.shipped)).model_key
    except UnfinishedError:
        return None
