"""The file of a shipped profile as text, with its comments, also where some of its settings are changed.

``saferlrm profile gpu > mine.yaml`` is how a profile of one's own begins; the comments say what to change and why.
"""

from __future__ import annotations

import json
import re
from importlib import resources
from typing import Any

from saferlrm.profile import as_yaml, load_profile, profile_names


def profile_text(name: str, /, **changes: Any) -> str:
    """The settings of a profile as YAML: a shipped one with its comments, a file's as they are resolved.

    Args:
        name: a shipped profile, or the path of a YAML file.
        changes: dotted settings that differ.

    Raises:
        SaferlrmError: as :func:`saferlrm.profile.load_profile`.
    """
    profile = load_profile(name, **changes)
    if name not in profile_names():
        return as_yaml(profile)
    text = (resources.files("saferlrm") / "profiles" / f"{name}.yaml").read_text(encoding="utf-8")
    for key, value in changes.items():
        changed = _replaced(text, key, value)
        if changed is None:  # a whole section, or more than one line
            return as_yaml(profile)
        text = changed
    return text


def _replaced(text: str, key: str, value: Any) -> str | None:
    """The text with another value on the line of a dotted key, the comment kept; ``None`` if there is no such line."""
    section, _, leaf = key.rpartition(".")
    inside, lines = "", text.splitlines(keepends=True)
    for i, line in enumerate(lines):
        found = re.match(r"(\s*)([A-Za-z_]+):( *)([^#\n]*?)(\s+#.*)?\n", line)
        if found is None:
            continue
        indent, name, _, old, comment = found.groups()
        if not indent:
            inside = name
        if name == leaf and (inside if indent else "") == section and old:
            lines[i] = f"{indent}{name}: {json.dumps(value, ensure_ascii=False)}{comment or ''}\n"
            return "".join(lines)
    return None
