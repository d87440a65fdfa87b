"""Another model in a profile: what notebooks, ``saferlrm run`` and ``saferlrm stage`` make of ``model``.

The model takes the place of the profile's own, and the profile's name gets the model's behind it. The name says where
results, figures and executed notebooks go (``runs/<name>``), so two models never write into one folder. No stage's key
depends on the name: what was computed for a model is found again under any of its names.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from pathlib import Path
from typing import Any

from saferlrm.architectures import published
from saferlrm.errors import SaferlrmError
from saferlrm.profile import load_profile

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_LONGEST = 64  # characters of a profile's name


def model_settings(profile: str | Path, model: str = "", ask_hub: bool = False) -> dict[str, Any]:
    """The settings that differ from the profile if ``model`` is studied, for ``Study(profile, **settings)``.

    Args:
        profile: name, or path of a YAML file.
        model: folder or hub name; empty, or the profile's own, changes nothing.
        ask_hub: also make sure that the hub, or the cache, has a model of this name.

    Raises:
        SaferlrmError: neither a folder with a model nor a name that a hub could know; with ``ask_hub``, one that it
            does not know.
    """
    chosen = find_model(model, ask_hub)
    own = load_profile(profile)
    if not chosen or chosen == (own.model if own.model == "organism" else find_model(own.model, False)):
        return {}
    return {"model": chosen, "name": _name(own.name, chosen)}


def find_model(model: str, ask_hub: bool = False) -> str:
    """The model as every process finds it, whatever folder it runs in: an absolute path, a hub name, or ``organism``.

    Empty text stays empty. Arguments and errors as for :func:`model_settings`.
    """
    if not isinstance(model, str):
        raise SaferlrmError(f"model takes the folder or the hub name of a model as text, not {model!r}")
    model = model.strip()
    if model in ("", "organism"):
        return model
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise SaferlrmError(f"model: the folder {model} has no config.json; give one saved by save_pretrained")
        return str(folder.resolve())
    if folder.exists() or not _HUB_NAME.fullmatch(model):
        what = "is a file" if folder.exists() else "is neither a folder nor a name on the hub"
        raise SaferlrmError(
            f"model: {model} {what}; give a folder saved by save_pretrained, or a name such as Qwen/Qwen3-8B"
        )
    if ask_hub:
        from saferlrm.lm import _load_config  # slow to import, and of use here alone

        try:
            _load_config(model)
        except SaferlrmError as problem:
            raise SaferlrmError(f"model{meant_model(model)}: {problem}") from problem
    return model


def meant_model(model: str) -> str:
    """A hint at a model of the study with nearly this name."""
    known = {name.lower(): name for full in published() for name in (full, full.partition("/")[2])}
    by_short = {full.partition("/")[2]: full for full in published()}
    close = difflib.get_close_matches(model.lower(), known, n=1, cutoff=0.8)
    found = by_short.get(known[close[0]], known[close[0]]) if close else model
    return "" if found == model else f" (did you mean {found}?)"


def _name(profile: str, model: str) -> str:
    """The profile's name with the model's; folders of the same name in different places are told apart."""
    if Path(model).is_dir():
        slug = f"{re.sub(r'[^A-Za-z0-9-]', '_', Path(model).name)}-{_digest(model)}"
    else:
        slug = re.sub(r"[^A-Za-z0-9-]", "_", model.replace("/", "--"))
    name = f"{profile}-{slug}"
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 7]}-{_digest(model)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]
