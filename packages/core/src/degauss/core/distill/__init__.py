"""Distillation: samplers of few evaluations, taught by samplers of many.

``progressive``  two DDIM steps of a teacher become one of its student (Salimans and Ho 2022)
"""

from degauss.core.distill.progressive import (
    absolute_error,
    distillation_loss,
    halve,
    snr_plus_one,
    squared_error,
    target,
    truncated_snr,
    unweighted,
)

__all__ = [
    "absolute_error",
    "distillation_loss",
    "halve",
    "snr_plus_one",
    "squared_error",
    "target",
    "truncated_snr",
    "unweighted",
]
