"""The methods that are compared: what an alignment run learns, where its labels come from, what its gradient does.

One entry of :data:`METHODS` each. The first group trains on the same conversations with the same budget and differs
only in the soft labels and in whether the safety gradient flows, so a difference between two of them is a difference
of supervision. The rivals rewrite the conversations of the harmful prompts, as other papers do, and share the rest:
prompts, LoRA, optimiser, number of examples.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from saferlrm.align import rewrites
from saferlrm.align.data import AlignmentExample
from saferlrm.errors import SaferlrmError
from saferlrm.profile import AlignmentSettings, HeadToken


@dataclass(frozen=True)
class LabelSources:
    """What labels and rewritten conversations can be made of; ``None`` or empty where it was not collected.

    Attributes:
        soft: the classifier's calibrated probabilities of refusal, one for each alignment example.
        decisions: what the model without thinking did: 1 refused, 0 complied.
        gold: 1 for harmful prompts, 0 for the others.
        decision_prompts: further prompts with the classifier's label and no answer.
        thoughts: by example id, the unaligned model's own thought about a harmful prompt.
        hinted: by example id, thought and refusal of the model's own, see :mod:`saferlrm.self_refusals`.
    """

    soft: np.ndarray | None = None
    decisions: np.ndarray | None = None
    gold: np.ndarray | None = None
    decision_prompts: tuple[AlignmentExample, ...] = ()
    thoughts: rewrites.Thoughts | None = None
    hinted: rewrites.Replies | None = None


@dataclass(frozen=True)
class Method:
    """One condition of the study.

    Attributes:
        label: what a figure calls it.
        labels: makes the soft labels from the sources and a random generator; ``None`` trains without a head.
        needs: name of the source that ``labels`` or ``rewrite`` reads, or ``None``.
        detach: cut the gradient from the head to the latents.
        decisions: train also on ``decision_prompts``.
        rewrite: the harmful example as this method writes it, or ``None`` to leave it out; needs the sources.
        head_token: tokens that the head reads, if not the profile's.
        source: arXiv id of the paper that a rival comes from.
        differs: how the miniature differs from the original, in one line.
    """

    label: str
    labels: Callable[[LabelSources, np.random.Generator], np.ndarray] | None
    needs: str | None = None
    detach: bool = False
    decisions: bool = False
    rewrite: Callable[[AlignmentExample, LabelSources], AlignmentExample | None] | None = None
    head_token: HeadToken | None = None
    source: str | None = None
    differs: str = ""


def _random(sources: LabelSources, rng: np.random.Generator) -> np.ndarray:
    """Labels that say nothing about the prompt, on the refusing side as often as the classifier's are."""
    share = float(np.mean(sources.soft > 0.5))
    refuse = rng.random(len(sources.soft)) < share
    return rng.uniform(size=len(sources.soft)) / 2 + 0.5 * refuse


METHODS: dict[str, Method] = {
    "sft": Method("λ = 0", None),
    "presafe": Method("PreSafe", lambda s, _: s.soft, "soft"),
    "detached": Method("detached head", lambda s, _: s.soft, "soft", detach=True),
    "shuffled": Method("shuffled labels", lambda s, rng: rng.permutation(s.soft), "soft"),
    "random": Method("random labels", _random, "soft"),
    "hard": Method("hard decisions", lambda s, _: s.decisions, "decisions"),
    "gold": Method("gold labels", lambda s, _: s.gold, "gold"),
    "presafe_decisions": Method("PreSafe + decisions", lambda s, _: s.soft, "soft", decisions=True),
    "detached_decisions": Method(
        "detached + decisions", lambda s, _: s.soft, "soft", detach=True, decisions=True
    ),
    "shuffled_decisions": Method(
        "shuffled + decisions", lambda s, rng: rng.permutation(s.soft), "soft", decisions=True
    ),
    "safety_tax": Method(
        "Safety Tax", None, rewrite=lambda e, _: rewrites.direct_refusal(e), source="2503.00555",
        differs="The refusal after the fixed short thought is the model's own; LoRA instead of all weights.",
    ),
    "reasoned": Method(
        "SafeChain / STAR-1", None, "thoughts", rewrite=lambda e, s: rewrites.reasoned_refusal(e, s.thoughts),
        source="2502.12025, 2504.01903",
        differs="The safety reasoning is two sentences, composed from the model's own words; no larger model wrote it.",
    ),
    "safepath": Method(
        "SAFEPATH", None, rewrite=lambda e, _: rewrites.primer(e), source="2505.14667",
        differs="The primer of at most eight tokens is in the organism's words; benign examples are the study's own.",
    ),
    "safekey": Method(
        "SafeKey", lambda s, _: s.gold, "thoughts", rewrite=lambda e, s: rewrites.reasoned_refusal(e, s.thoughts),
        head_token="dual_mean", source="2505.16186",
        differs="Two heads on mean-pooled states from the first epoch on; the query is not masked.",
    ),
    "thinksafe": Method(
        "ThinkSafe", None, "hinted", rewrite=lambda e, s: rewrites.hinted_refusal(e, s.hinted), source="2601.23143",
        differs="Refusals under a hint in the thought or by steering, whichever makes more; no KL term.",
    ),
}  # fmt: skip
RIVALS = tuple(name for name, method in METHODS.items() if method.source)


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
    """Examples as this method trains on them, and the settings that go with it.

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
    _check_source(name, method, sources, len(examples))
    if method.labels is None:
        labelled = [replace(example, p_refuse=None) for example in examples]
        settings = settings.model_copy(update={"lambda_aux": 0.0, "detach_head": False})
    else:
        if settings.lambda_aux == 0:
            raise SaferlrmError(f"method {name!r} needs alignment.lambda_aux > 0; without a head use 'sft'")
        rows, sources = list(examples), replace(sources)
        if method.decisions:
            rows += sources.decision_prompts
            further = [example.p_refuse for example in sources.decision_prompts]
            sources = replace(sources, soft=np.concatenate([sources.soft, np.asarray(further, float)]))
        labels = np.asarray(method.labels(sources, np.random.default_rng(seed)), dtype=float)
        fine = np.isfinite(labels) & (labels >= 0) & (labels <= 1)
        if not fine.all():
            bad = rows[int(np.argmin(fine))].id
            raise SaferlrmError(f"the {method.needs} label of example {bad} is not in [0, 1]; make it anew")
        labelled = [replace(example, p_refuse=float(p)) for example, p in zip(rows, labels, strict=True)]
        settings = settings.model_copy(update={"detach_head": method.detach})
    if method.rewrite is not None:
        written = [method.rewrite(e, sources) if e.source == "harmful" else e for e in labelled]
        labelled = [example for example in written if example is not None]
    if method.head_token is not None:
        settings = settings.model_copy(update={"head_token": method.head_token})
    return labelled, settings


def _check_source(name: str, method: Method, sources: LabelSources, n: int) -> None:
    if method.decisions and not sources.decision_prompts:
        raise SaferlrmError(f"method {name!r} needs prompts with decisions; set alignment.n_decision above 0")
    for needed in filter(None, {method.needs, "gold" if method.head_token else None}):
        source = getattr(sources, needed)
        labels = needed in ("soft", "decisions", "gold")
        if source is None or (labels and len(source) != n):
            found = "none" if source is None else str(len(source))
            wanted = f"{n} {needed} labels" if labels else f"the source {needed!r}"
            raise SaferlrmError(f"method {name!r} needs {wanted} but got {found}")
