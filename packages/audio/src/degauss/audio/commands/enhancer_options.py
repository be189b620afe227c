"""The solvers that `enhance` and `pareto enhance` share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from degauss.core.solvers import SolverName

if TYPE_CHECKING:
    from degauss.core.sampling import Solver

EnhancerSolver = SolverName | Literal["pc"]
"""A solver of the core, or the published predictor-corrector, with two evaluations a step."""


def enhancer_solver(name: str) -> Solver:
    """The solver of a name; `InputError` for one there is not."""
    from degauss.core.process.predictor_corrector import predictor_corrector
    from degauss.core.solvers import solver_of

    return predictor_corrector() if name == "pc" else solver_of(name)
