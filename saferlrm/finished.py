"""A store that finds stages and never builds one: to ship what is there, and to see what is not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from saferlrm.errors import SaferlrmError
from saferlrm.store import Artefact, Store, artefact_key


class UnfinishedError(SaferlrmError):
    """A stage is not in the store."""


class FinishedStore(Store):
    """Loads stages as :class:`saferlrm.store.Store` does; ``found`` remembers all that it was asked for, by key."""

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
        """The finished stage.

        Raises:
            UnfinishedError: there is none.
        """
        artefact = self._load(stage, artefact_key(stage, settings, inputs, code))
        if artefact is None:
            raise UnfinishedError(f"stage {stage} is not finished for this code and these settings; run: saferlrm run")
        self.found[artefact.key] = artefact
        return artefact
