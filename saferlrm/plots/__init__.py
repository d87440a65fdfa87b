"""Figures of the study: each is a function of a results table and of nothing else.

A figure's title states what its table shows, computed when it is drawn; its caption gives n and the kind of
interval; its alt text (:func:`alt_text`) says both in words.
"""

from saferlrm.plots.alignment import safety_gradient, training_curves
from saferlrm.plots.behaviour import accuracy_by_depth, safety_by_mode, thought_length, verdicts
from saferlrm.plots.comparison import before_after, frontier, overview
from saferlrm.plots.decisions import classifier_scores, learning_curve, reliability
from saferlrm.plots.probing import probe_along_thought, probe_by_layer
from saferlrm.plots.style import PALETTE, alt_text, theme

__all__ = [
    "PALETTE",
    "accuracy_by_depth",
    "alt_text",
    "before_after",
    "classifier_scores",
    "frontier",
    "learning_curve",
    "overview",
    "probe_along_thought",
    "probe_by_layer",
    "reliability",
    "safety_by_mode",
    "safety_gradient",
    "theme",
    "thought_length",
    "training_curves",
    "verdicts",
]
