"""Memory that the weights of a judge take beside the model under study, before anything is downloaded."""

from __future__ import annotations

import json
from pathlib import Path

from saferlrm.architectures import architecture
from saferlrm.errors import SaferlrmError
from saferlrm.profile import Profile

# The judges' default weights and their parameters (Llama 3.1 8B, Llama 2 13B, Gemma 2B); here once more, because the
# judges' own module loads torch.
DEFAULTS = {
    "llama_guard": ("meta-llama/Llama-Guard-3-8B", 8.030e9),
    "harmbench": ("cais/HarmBench-Llama-2-13b-cls", 13.016e9),
    "strongreject": ("qylu4156/strongreject-15k-v1", 2.506e9),
}
_KNOWN = {name.lower(): parameters for name, parameters in DEFAULTS.values()} | {"google/gemma-2b": 2.506e9}
_BFLOAT16 = 2


def judge_bytes(profile: Profile) -> float | None:
    """Weights of a judge, which stay loaded between stages; 0 for rules and servers, ``None`` if they are not known.

    A folder's are those of its files, in the type in which they lie there; an adapter's base is counted with it. Of a
    hub name they are its parameters in bfloat16.
    """
    judge = profile.judge
    if profile.data.source != "published" or judge.url is not None or judge.kind == "rules":
        return 0.0
    if judge.model is None:
        return DEFAULTS.get(judge.kind, ("", 0.0))[1] * _BFLOAT16
    return _weights(judge.model)


def _weights(name: str) -> float | None:
    folder = Path(name)
    if name.lower() in _KNOWN and not folder.is_dir():
        return _KNOWN[name.lower()] * _BFLOAT16
    if not folder.is_dir():
        try:
            return float(architecture(name).parameters * _BFLOAT16)
        except SaferlrmError:
            return None
    if (adapter := folder / "adapter_config.json").is_file():
        try:
            base = json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        beneath = _weights(base) if isinstance(base, str) and Path(base) != folder else None
        return None if beneath is None else beneath + _stored(folder, "adapter_model*.safetensors")
    return _stored(folder, "model*.safetensors") or None  # others in the folder are not loaded


def _stored(folder: Path, pattern: str) -> float:
    return float(sum(file.stat().st_size for file in folder.glob(pattern)))
