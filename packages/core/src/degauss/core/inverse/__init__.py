"""Inverse problems: draws from p(x0 | y) for y = A x0 + sigma_y n, with a prior that knows nothing of A.

``operator``     A and its transpose                ``measurement``  y, its noise, and the step towards it
``conjugate_gradient``  what replaces A^+           ``pull_back``    J^T v, what guidance costs

Denoiser in, denoiser out, for any solver:

``dps``          the likelihood at the mean         ``ddnm``         projection onto the events that explain y
``pigdm``        with an isotropic uncertainty      ``dds``          a few conjugate gradients from the mean
``moment_matching``  with the denoiser's own        ``diffpir``      a data step whose weight follows the noise

With a run's memory, as solvers: ``dps`` and ``ddnm_plus`` as published; for volumes, whose prior knows only slices
(``slices``), ``dds_tv`` (``total_variation``) and ``mbir``. ``reddiff`` is an optimisation, with a loop of its own in
``simulate``. ``tv`` needs no prior: it is what they have to beat.

Of the draws: ``intervals``, calibrated to cover, and ``provenance``, what was measured and what the prior made.
"""

from degauss.core.inverse.conjugate_gradient import ConjugateGradient, Solution
from degauss.core.inverse.ddnm import DDNM, DDNMPlus, ddnm_plus
from degauss.core.inverse.dds import DDS
from degauss.core.inverse.diffpir import DiffPIR, renoising
from degauss.core.inverse.dps import DPS, DPSKernel, dps
from degauss.core.inverse.intervals import (
    Band,
    Calibration,
    Coverage,
    Facts,
    Interval,
    Summary,
    calibrate_intervals,
    conformal_quantile,
    coverage,
    exact_factor,
    reliability,
    summarise,
)
from degauss.core.inverse.mbir import COUPLING, DiffusionMBIR, MBIRCarry, geometric, kaczmarz, landweber, mbir
from degauss.core.inverse.measurement import Measurement, displacement, least_squares
from degauss.core.inverse.moment_matching import MomentMatching
from degauss.core.inverse.operator import (
    Composed,
    Identity,
    LinearOperator,
    Mask,
    Matrix,
    Normalised,
    dot_test,
    inner,
    normalised,
    spectral_norm,
)
from degauss.core.inverse.pigdm import PiGDM
from degauss.core.inverse.provenance import Parts, decompose, measured_contrast, measured_share, null_std
from degauss.core.inverse.pull_back import Pulled, pull_back
from degauss.core.inverse.reddiff import REDDiff
from degauss.core.inverse.slices import SliceWise
from degauss.core.inverse.total_variation import DDSTV, AxisTV, Difference, Duals, MeanError, dds_tv
from degauss.core.inverse.tv import (
    ANISOTROPIC,
    ISOTROPIC,
    ISOTROPIC_COMPLEX,
    Gradient,
    MixedNorm,
    TotalVariation,
    Tuned,
    TVSolution,
    inverse_spacing,
    tuned_tv_by_discrepancy,
    tuned_tv_by_truth,
)

__all__ = [
    "ANISOTROPIC",
    "COUPLING",
    "DDNM",
    "DDS",
    "DDSTV",
    "DPS",
    "ISOTROPIC",
    "ISOTROPIC_COMPLEX",
    "AxisTV",
    "Band",
    "Calibration",
    "Composed",
    "ConjugateGradient",
    "Coverage",
    "DDNMPlus",
    "DPSKernel",
    "DiffPIR",
    "Difference",
    "DiffusionMBIR",
    "Duals",
    "Facts",
    "Gradient",
    "Identity",
    "Interval",
    "LinearOperator",
    "MBIRCarry",
    "Mask",
    "Matrix",
    "MeanError",
    "Measurement",
    "MixedNorm",
    "MomentMatching",
    "Normalised",
    "Parts",
    "PiGDM",
    "Pulled",
    "REDDiff",
    "SliceWise",
    "Solution",
    "Summary",
    "TVSolution",
    "TotalVariation",
    "Tuned",
    "calibrate_intervals",
    "conformal_quantile",
    "coverage",
    "ddnm_plus",
    "dds_tv",
    "decompose",
    "displacement",
    "dot_test",
    "dps",
    "exact_factor",
    "geometric",
    "inner",
    "inverse_spacing",
    "kaczmarz",
    "landweber",
    "least_squares",
    "mbir",
    "measured_contrast",
    "measured_share",
    "normalised",
    "null_std",
    "pull_back",
    "reliability",
    "renoising",
    "spectral_norm",
    "summarise",
    "tuned_tv_by_discrepancy",
    "tuned_tv_by_truth",
]
