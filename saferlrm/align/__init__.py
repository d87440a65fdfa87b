"""Alignment with auxiliary supervision: alignment set, head, trainer, methods and safety gradient."""

from saferlrm.align.data import AlignmentExample, encode
from saferlrm.align.gradient import safety_gradient
from saferlrm.align.head import AuxiliaryHead, auxiliary_loss
from saferlrm.align.methods import METHODS, LabelSources, Method, get_method, prepare
from saferlrm.align.run import align
from saferlrm.align.trainer import PreSafeTrainer

__all__ = [
    "METHODS",
    "AlignmentExample",
    "AuxiliaryHead",
    "LabelSources",
    "Method",
    "PreSafeTrainer",
    "align",
    "auxiliary_loss",
    "encode",
    "get_method",
    "prepare",
    "safety_gradient",
]
