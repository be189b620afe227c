"""Inverse problems: draws from p(x0 | y) for y = A x0 + sigma_y n, with a prior that knows nothing of A.

``operator``     A and its transpose                ``measurement``  y, its noise, and the step towards it
``conjugate_gradient``  what replaces A^+           ``pull_back``    J^T v, what guidance costs

Denoiser in, denoiser out, for any solver:

``dps``          the likelihood at the mean         ``ddnm``         projection onto the events that explain y
``pigdm``        with an isotropic uncertainty      ``dds``          a few conjugate gradients from the mean
``moment_matching``  with the denoiser's own        ``diffpir``      a data step whose weight follows the noise

With a run's memory, as solvers: ``dps`` and ``ddnm_plus`` as published, ``dds_tv`` for volumes (``total_variation``).
``reddiff`` is an optimisation, with a loop of its own in ``simulate``.
"""

from degauss.core.inverse.conjugate_gradient import ConjugateGradient, Solution
from degauss.core.inverse.ddnm import DDNM, DDNMPlus, ddnm_plus
from degauss.core.inverse.dds import DDS
from degauss.core.inverse.diffpir import DiffPIR, renoising
from degauss.core.inverse.dps import DPS, DPSKernel, dps
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
from degauss.core.inverse.pull_back import Pulled, pull_back
from degauss.core.inverse.reddiff import REDDiff
from degauss.core.inverse.total_variation import DDSTV, AxisTV, Difference, Duals, dds_tv

__all__ = [
    "DDNM",
    "DDS",
    "DDSTV",
    "DPS",
    "AxisTV",
    "Composed",
    "ConjugateGradient",
    "DDNMPlus",
    "DPSKernel",
    "DiffPIR",
    "Difference",
    "Duals",
    "Identity",
    "LinearOperator",
    "Mask",
    "Matrix",
    "Measurement",
    "MomentMatching",
    "Normalised",
    "PiGDM",
    "Pulled",
    "REDDiff",
    "Solution",
    "ddnm_plus",
    "dds_tv",
    "displacement",
    "dot_test",
    "dps",
    "inner",
    "least_squares",
    "normalised",
    "pull_back",
    "renoising",
    "spectral_norm",
]
