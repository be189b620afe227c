"""Guidance: a denoiser in, a denoiser out, so that no solver knows of it."""

from degauss.core.guide.adaptive import Adaptive, Linear, LinearFit, LinearPlan, every_other_then_none, fit_linear
from degauss.core.guide.auto import Mirror, Reflected, autoguidance
from degauss.core.guide.classifier_free import (
    Contrast,
    Extrapolated,
    Interval,
    Rescaled,
    TwoConditions,
    TwoModels,
    classifier_free,
    extrapolated,
    within,
)
from degauss.core.guide.loss import (
    BayesStep,
    LossGuidance,
    MeanDescent,
    MonteCarloGuidance,
    Steered,
    TimeTravel,
    UnitStep,
    loss_gradient,
)
from degauss.core.guide.observation import (
    GuidedAncestral,
    MeanSquare,
    ObservationGuidance,
    Quantile,
    SearchedGuidance,
    quantile_levels,
)
from degauss.core.guide.superposition import And, Or, Superposed, Superposition, superpose

__all__ = [
    "Adaptive",
    "And",
    "BayesStep",
    "Contrast",
    "Extrapolated",
    "GuidedAncestral",
    "Interval",
    "Linear",
    "LinearFit",
    "LinearPlan",
    "LossGuidance",
    "MeanDescent",
    "MeanSquare",
    "Mirror",
    "MonteCarloGuidance",
    "ObservationGuidance",
    "Or",
    "Quantile",
    "Reflected",
    "Rescaled",
    "SearchedGuidance",
    "Steered",
    "Superposed",
    "Superposition",
    "TimeTravel",
    "TwoConditions",
    "TwoModels",
    "UnitStep",
    "autoguidance",
    "classifier_free",
    "every_other_then_none",
    "extrapolated",
    "fit_linear",
    "loss_gradient",
    "quantile_levels",
    "superpose",
    "within",
]
