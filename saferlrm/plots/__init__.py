"""Figures of the study: each is a function of a results table and of nothing else.

A figure's title states what its table shows, computed when it is drawn; its caption gives n and the kind of
interval; its alt text (:func:`alt_text`) says both in words.
"""

from saferlrm.plots.alignment import safety_gradient, training_curves
from saferlrm.plots.behaviour import accuracy_by_depth, safety_by_mode, thought_length, verdicts
from saferlrm.plots.causal import causal, know_but_dont_say
from saferlrm.plots.comparison import before_after, frontier, overview
from saferlrm.plots.concepts import concepts
from saferlrm.plots.costs import decision_costs
from saferlrm.plots.decisions import classifier_scores, learning_curve, reliability
from saferlrm.plots.evidence import control_differences, controls
from saferlrm.plots.ledger import claims_ledger
from saferlrm.plots.mechanism import gradient_path, latent_shift, probes_before_after
from saferlrm.plots.method import method_diagram
from saferlrm.plots.organisms import failed_attacks, organisms
from saferlrm.plots.prerequisites import hints, self_consistency, sizes, thought_budgets, vote_on_refusal
from saferlrm.plots.probing import probe_along_thought, probe_by_layer
from saferlrm.plots.real import judge_accuracy, prompt_classifiers
from saferlrm.plots.rivals import rivals_frontier
from saferlrm.plots.robustness import adaptive, safe_at_k, temperature, truncation
from saferlrm.plots.style import PALETTE, alt_text, theme
from saferlrm.plots.sweeps import sweeps

__all__ = [
    "PALETTE",
    "accuracy_by_depth",
    "adaptive",
    "alt_text",
    "before_after",
    "causal",
    "claims_ledger",
    "classifier_scores",
    "concepts",
    "control_differences",
    "controls",
    "decision_costs",
    "failed_attacks",
    "frontier",
    "gradient_path",
    "hints",
    "judge_accuracy",
    "know_but_dont_say",
    "latent_shift",
    "learning_curve",
    "method_diagram",
    "organisms",
    "overview",
    "probe_along_thought",
    "probe_by_layer",
    "probes_before_after",
    "prompt_classifiers",
    "reliability",
    "rivals_frontier",
    "safe_at_k",
    "safety_by_mode",
    "safety_gradient",
    "self_consistency",
    "sizes",
    "sweeps",
    "temperature",
    "theme",
    "thought_budgets",
    "thought_length",
    "training_curves",
    "truncation",
    "verdicts",
    "vote_on_refusal",
]
