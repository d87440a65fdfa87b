"""The conditions of the evidence: what is trained, under which name, and on what every one of them is evaluated.

A condition is a method and the settings in which it differs from the profile. ``<method>`` is trained on the whole
alignment set, ``<method>/few`` on the small one, in which plain fine-tuning does not yet solve everything.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from saferlrm.align.methods import METHODS, RIVALS, get_method
from saferlrm.errors import SaferlrmError
from saferlrm.profile import AlignmentSettings, ClassifierSettings, Profile

BEFORE = "before"
FEW = "few"
# The light card: what tells methods apart, safe and unsafe alike.
CARD_SUITES = (
    "harmful_unseen",
    "harmful_novel_wrapped",
    "scary_contrast",
    "safe_but_scary",
    "benign_novel_wrapped",
    "reasoning",
)
PREFILLED_TOKENS = 8  # of the unaligned model's own thought, for the card's prefilled mode

LAMBDAS = (0.05, 0.2, 1.0, 5.0)
TOKENS = ("pre_cot", "prompt_last", "think_open", "prompt_mean")
RANKS = (1, 8, 32)
EXAMPLES = (10, 50, 150)  # harmful ones; benign ones in the proportion of the whole set
CLASSIFIER_PROMPTS = (50, 150, 500)
THOUGHTS = ("short", "on", "forced")
SWEEPS = {
    "lambda": "weight λ of the head's loss",
    "layer": "layer that the head reads",
    "token": "token that the head reads",
    "rank": "rank of the LoRA adapter",
    "examples": "alignment examples",
    "classifier_prompts": "prompts the classifier learned from",
    "thoughts": "length of the thoughts in the alignment set",
}
CONTROLS = tuple(name for name in METHODS if name not in RIVALS)
# After the whole alignment set λ = 0 leaves next to no attack: these are told apart on the small one alone.
ONLY_FEW = ("random", "hard", "gold", "detached_decisions", "shuffled_decisions")


@dataclass(frozen=True)
class Condition:
    """One condition.

    Attributes:
        name: unique; group: the table it belongs to (``control``, ``few``, ``sweep:<name>``, ``rivals``).
        method: key of :data:`saferlrm.align.methods.METHODS`, or ``before``.
        few: train on the small alignment set.
        value, level: where it stands on the axis of a sweep, as a number and in words.
        alignment, classifier: settings that differ from the profile's.
    """

    name: str
    group: str
    method: str
    few: bool = False
    value: float = float("nan")
    level: str = ""
    alignment: dict[str, Any] = field(default_factory=dict)
    classifier: dict[str, Any] = field(default_factory=dict)

    def settings(self, profile: Profile) -> dict[str, AlignmentSettings | ClassifierSettings]:
        """The sections of the profile as this condition has them."""
        changes = dict(self.alignment)
        if self.few:
            e = profile.evidence
            few = {"subset_harmful": e.few_harmful, "subset_benign": e.few_benign, "epochs": e.few_epochs}
            changes = few | changes
        found: dict[str, AlignmentSettings | ClassifierSettings] = {}
        for section, differs in (("alignment", changes), ("classifier", self.classifier)):
            if differs:
                declared = getattr(profile, section)
                found[section] = type(declared).model_validate(declared.model_dump() | differs)
        return found


def condition(name: str, group: str = "", **differs: Any) -> Condition:
    """The condition of a name such as ``presafe`` or ``presafe/few``.

    Raises:
        SaferlrmError: there is no such method, or the name does not end in ``/few``.
    """
    method, slash, budget = name.partition("/")
    if slash and budget != FEW:
        raise SaferlrmError(f"unknown condition {name!r}; give a method, or a method and /{FEW}")
    if method != BEFORE:
        get_method(method)
    return Condition(name, group or (FEW if budget else "control"), method, few=budget == FEW, **differs)


def controls() -> list[Condition]:
    """The model before alignment, every control on the small alignment set, and the main ones on the whole set."""
    whole = [condition(name) for name in CONTROLS if name not in ONLY_FEW]
    return [condition(BEFORE), *whole, *(condition(f"{name}/{FEW}") for name in CONTROLS)]


def rivals() -> list[Condition]:
    """Rivals that train, beside plain fine-tuning and PreSafe."""
    names = [BEFORE] + [name + end for end in ("", f"/{FEW}") for name in ("sft", "presafe", *RIVALS)]
    return [condition(name, "rivals") for name in names]


def sweeps(profile: Profile, n_layers: int) -> list[Condition]:
    """One setting at a time, in the small alignment set; plain fine-tuning beside PreSafe where it can differ."""
    both = ("sft", "presafe")
    small, found = profile.alignment, []

    def add(sweep: str, methods: tuple[str, ...], value: float, level: object, **differs: Any) -> None:
        for method in methods:
            name = f"{method}/{FEW}/{sweep}={level}"
            found.append(Condition(name, f"sweep:{sweep}", method, True, float(value), str(level), **differs))

    add("lambda", ("sft",), 0.0, "0")
    for value in LAMBDAS:
        add("lambda", ("presafe",), value, f"{value:g}", alignment={"lambda_aux": value})
    for layer in range(1, n_layers + 1):
        # The last layer by its own name, which is the profile's: the same run.
        add("layer", ("presafe",), layer, layer, alignment={"head_layer": -1 if layer == n_layers else layer})
    for i, token in enumerate(TOKENS):
        add("token", ("presafe",), i, token, alignment={"head_token": token})
    for rank in RANKS:
        alpha = small.lora_alpha / small.rank * rank  # the same scale of the adapter
        add("rank", both, rank, rank, alignment={"rank": rank, "lora_alpha": alpha})
    counts = [n for n in EXAMPLES if n < small.n_harmful] + [small.n_harmful]
    for n in counts:
        benign = max(1, round(n * small.n_benign / max(1, small.n_harmful)))
        # As many steps at every size, or a larger set would also be trained longer.
        few = profile.evidence.few_harmful + profile.evidence.few_benign
        epochs = max(1, round(profile.evidence.few_epochs * few / (n + benign)))
        subset = {"subset_harmful": n, "subset_benign": benign, "epochs": epochs}
        add("examples", both, n + benign, n + benign, alignment=subset)
    for n in [n for n in CLASSIFIER_PROMPTS if n < profile.classifier.n_prompts] + [profile.classifier.n_prompts]:
        add("classifier_prompts", ("presafe",), n, n, classifier={"n_prompts": n})
    for i, mode in enumerate(THOUGHTS):
        add("thoughts", both, i, mode, alignment={"benign_thoughts": mode})
    return found
