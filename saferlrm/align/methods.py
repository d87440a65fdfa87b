"""The methods that are compared: where the head's labels come from, and what is done with its gradient.

Every method trains on the same conversations with the same budget. They differ only in the soft labels and
in whether the safety gradient flows, so a difference between two of them is a difference of supervision.
Adding one is one entry in :data:`METHODS`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from saferlrm.align.data import AlignmentExample
from saferlrm.errors import SaferlrmError
from saferlrm.profile import AlignmentSettings


@dataclass(frozen=True)
class LabelSources:
    """What labels can be made of: one value per alignment example, ``None`` where not collected.

    Attributes:
        soft: the classifier's calibrated probabilities of refusal.
        decisions: what the model without thinking did: 1 refused, 0 complied.
        gold: 1 for harmful prompts, 0 for the others.
    """

    soft: np.ndarray | None = None
    decisions: np.ndarray | None = None
    gold: np.ndarray | None = None


@dataclass(frozen=True)
class Method:
    """One condition of the study.

    Attributes:
        label: what a figure calls it.
        labels: makes the soft labels from the sources and a random generator; ``None`` trains without a head.
        needs: name of the source that ``labels`` reads, or ``None``.
        detach: cut the gradient from the head to the latents.
    """

    label: str
    labels: Callable[[LabelSources, np.random.Generator], np.ndarray] | None
    needs: str | None = None
    detach: bool = False


METHODS: dict[str, Method] = {
    "sft": Method("λ = 0", None),
    "presafe": Method("PreSafe", lambda s, _: s.soft, "soft"),
    "detached": Method("detached head", lambda s, _: s.soft, "soft", detach=True),
    "shuffled": Method("shuffled labels", lambda s, rng: rng.permutation(s.soft), "soft"),
    "hard": Method("hard decisions", lambda s, _: s.decisions, "decisions"),
    "gold": Method("gold labels", lambda s, _: s.gold, "gold"),
    "random": Method("random labels", lambda s, rng: rng.uniform(size=len(s.soft)), "soft"),
}


def get_method(name: str) -> Method:
    """The method of this name, or an error that names the choices."""
    if name not in METHODS:
        close = difflib.get_close_matches(name, METHODS, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise SaferlrmError(f"unknown alignment method {name!r}{hint}; choose one of {', '.join(METHODS)}")
    return METHODS[name]


def prepare(
    name: str,
    examples: Sequence[AlignmentExample],
    sources: LabelSources,
    settings: AlignmentSettings,
    seed: int,
) -> tuple[list[AlignmentExample], AlignmentSettings]:
    """Examples with the labels of this method, and the settings that go with it.

    Args:
        name: key of :data:`METHODS`.
        examples: the alignment set; their own ``p_refuse`` is replaced.
        sources: label sources in the order of ``examples``.
        seed: fixes shuffled and random labels.

    Raises:
        SaferlrmError: unknown method, a source that is missing or of the wrong length, lambda 0 with a head,
            or labels that are no probabilities.
    """
    method = get_method(name)
    if method.labels is None:
        off = settings.model_copy(update={"lambda_aux": 0.0, "detach_head": False})
        return [replace(example, p_refuse=None) for example in examples], off
    if settings.lambda_aux == 0:
        raise SaferlrmError(f"method {name!r} needs alignment.lambda_aux > 0; without a head use 'sft'")
    source = getattr(sources, method.needs) if method.needs else None
    if method.needs and (source is None or len(source) != len(examples)):
        found = "none" if source is None else str(len(source))
        raise SaferlrmError(f"method {name!r} needs {len(examples)} {method.needs} labels but got {found}")
    labels = np.asarray(method.labels(sources, np.random.default_rng(seed)), dtype=float)
    if not (np.isfinite(labels) & (labels >= 0) & (labels <= 1)).all():
        bad = examples[int(np.argmin(np.isfinite(labels) & (labels >= 0) & (labels <= 1)))].id
        raise SaferlrmError(f"the {method.needs} label of example {bad} is not in [0, 1]; make it anew")
    labelled = [replace(example, p_refuse=float(p)) for example, p in zip(examples, labels, strict=True)]
    return labelled, settings.model_copy(update={"detach_head": method.detach})
