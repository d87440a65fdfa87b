"""The study: a graph of stages, each of which computes or loads one artefact.

A stage's key is the hash of its settings, its inputs and its code, so a second run is instant, a killed run resumes,
and another machine that shares the store finds what is there. Notebooks call these methods and explain::

    study = Study("organism")
    study.scorecard()                      # the model before alignment
    study.decisions()                      # what it refuses without thinking
    study.classifier()                     # the BERT encoder that learns it
    study.aligned("presafe", seed=0)       # the aligned model's adapter
    study.scorecard("presafe", seed=0)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from saferlrm.conditions import BEFORE, condition
from saferlrm.errors import SaferlrmError
from saferlrm.study.base import shipped_organism
from saferlrm.study.confirming import Confirming
from saferlrm.study.interventions import Interventions
from saferlrm.study.prerequisites import Prerequisites
from saferlrm.study.probing import Probing

__all__ = ["BEFORE", "Study", "shipped_organism"]


class Study(Probing, Confirming, Interventions, Prerequisites):
    """One profile's study; see :class:`saferlrm.study.base.Base` for its arguments."""

    @classmethod
    def stages(cls) -> dict[str, Callable[[Study, int], Any]]:
        """Every stage by name, as a function of the study and an alignment seed, in the order of the walk."""
        from saferlrm.thought_scores import thought_probe  # a user of the study, beside it

        return {
            "organism": lambda study, seed: study.organism(),
            "scorecard": lambda study, seed: study.scorecard(),
            "thought_scores": lambda study, seed: thought_probe(study),
            "self_consistency": lambda study, seed: study.self_consistency(),
            "thought_budgets": lambda study, seed: study.thought_budgets(),
            "hints": lambda study, seed: study.hints(),
            "sizes": lambda study, seed: study.sizes(),
            "probes": lambda study, seed: study.probes(),
            "thought_probes": lambda study, seed: study.thought_probes(),
            "decisions": lambda study, seed: study.decisions(),
            "test_decisions": lambda study, seed: study.test_decisions(),
            "classifier": lambda study, seed: study.classifier(),
            "classifier_report": lambda study, seed: study.classifier_scores(),
            "learning_curve": lambda study, seed: study.learning_curve(),
            "threshold_validation": lambda study, seed: study.threshold_validation(),
            "alignment_set": lambda study, seed: study.alignment_set(),
            "soft_labels": lambda study, seed: study.soft_labels(),
            "more_answers": lambda study, seed: study.more_answers(),
            "gradients": lambda study, seed: study.gradients(),
            "aligned": lambda study, seed: [study.aligned(name, seed) for name in ("sft", "presafe")],
            "evaluation": lambda study, seed: [study.scorecard(name, seed) for name in ("sft", "presafe")],
            "controls": lambda study, seed: study.controls(),
            "treatment": lambda study, seed: study.treatment(),
            "sweeps": lambda study, seed: None if study.profile.evidence.quick else study.sweeps(),
            "mechanism_probes": lambda study, seed: study.mechanism_probes(),
            "mechanism_shift": lambda study, seed: study.mechanism_shift(),
            "mechanism_causal": lambda study, seed: study.mechanism_causal(),
            "probe_steering": lambda study, seed: [study.probe_steering(), study.probe_steering_readable()],
            "mechanism_know": lambda study, seed: study.mechanism_know(),
            "gradient_path": lambda study, seed: study.gradient_path(),
            "rivals": lambda study, seed: study.rival_cards(),
            "rival_choices": lambda study, seed: study.rival_choices(),
            "temperature": lambda study, seed: study.temperature(),
            "adaptive": lambda study, seed: study.adaptive(),
            "truncation": lambda study, seed: study.truncation(),
            "organisms": lambda study, seed: study.organisms(),
            "confirmation": lambda study, seed: study.confirmation(),
            "further_organisms": lambda study, seed: study.further_organisms(),
            "classifier_of_organisms": lambda study, seed: study.classifier_of_organisms(),
        }

    def stage_of_method(self, name: str, method: str, seed: int) -> Any:
        """One stage of one method and alignment seed: ``aligned``, ``scorecard`` or the light ``card``.

        ``method`` is a condition's name, e.g. ``presafe``, ``presafe/few`` or ``before``, which has no ``aligned``.
        """
        one = condition(method)
        if name == "card":
            return self.card(one, seed)
        if name == "scorecard":
            return self.of(one).scorecard(one.method, None if one.method == BEFORE else seed)
        if name == "aligned" and one.method != BEFORE:
            return self.trained(one, seed)
        wanted = "the model before alignment has no 'aligned'" if name == "aligned" else f"'{name}' has no methods"
        raise SaferlrmError(f"{wanted}; with --method, the stage is one of aligned, scorecard, card")
