"""Differential equations that are learned: equations, integrators, control paths, gradients.

model = LinearNoiseSDE(16, width=32, channels=3)
equation = along(model, natural(times, values))
x = solve(ExponentialStep(equation), x0, grid, Noise(seed, range(batch)))
"""

from degauss.core.sde.baseline import NeuralCDE, NeuralODE, NeuralSDE
from degauss.core.sde.control import Path, hermite, linear, natural
from degauss.core.sde.equation import (
    Additive,
    Calculus,
    Equation,
    General,
    Geometric,
    Instant,
    Linear,
    Process,
    process,
    restate,
)
from degauss.core.sde.euler import EulerMaruyama, Milstein
from degauss.core.sde.finite import solve
from degauss.core.sde.gradient import adjoint, checkpointed
from degauss.core.sde.reversible import ReversibleHeun
from degauss.core.sde.runge_kutta import SRA, SRI, RungeKutta4
from degauss.core.sde.stable import PUBLISHED, GeometricSDE, LangevinSDE, LinearNoiseSDE, Stabilisers, along
from degauss.core.sde.structure import ExponentialStep, LogStep

__all__ = [
    "PUBLISHED",
    "SRA",
    "SRI",
    "Additive",
    "Calculus",
    "Equation",
    "EulerMaruyama",
    "ExponentialStep",
    "General",
    "Geometric",
    "GeometricSDE",
    "Instant",
    "LangevinSDE",
    "Linear",
    "LinearNoiseSDE",
    "LogStep",
    "Milstein",
    "NeuralCDE",
    "NeuralODE",
    "NeuralSDE",
    "Path",
    "Process",
    "ReversibleHeun",
    "RungeKutta4",
    "Stabilisers",
    "adjoint",
    "along",
    "checkpointed",
    "hermite",
    "linear",
    "natural",
    "process",
    "restate",
    "solve",
]
