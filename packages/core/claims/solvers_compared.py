"""All solvers side by side, and what fitting one to the model adds."""

from __future__ import annotations

from collections.abc import Sequence

from degauss.core.calibrate import METHODS, calibrate
from degauss.core.choosing import FITTED
from degauss.core.claims import Claim, Result
from degauss.core.compare import Candidate, Problem, compare, overlapping, separated, solvers, stepping
from degauss.core.gaussian.evodiff import EVODiff
from degauss.core.gaussian.momentum import ghvb_variable

from ._problem import median, verdict

CLAIM = Claim(
    paper="The solvers of this package, side by side",
    statement=(
        "With few evaluations higher orders and correctors pay, and a solver that was fitted to the model on sixteen "
        "samples goes further than any that was not."
    ),
    expected=(
        "At 10 evaluations, on both mixtures: (a) UniPC-2 has a lower median error than 2M and 2M than DDIM; (b) the "
        "best fitted solver has at most half the error of the best that is not fitted, on noise it has not seen."
    ),
)

BUDGETS = (5, 7, 10, 15, 20)
PROBLEMS = {"overlapping": overlapping, "separated": separated}


def run(seeds: Sequence[int]) -> Result:
    figures: dict[str, list[float]] = {}
    for name, make in PROBLEMS.items():
        for seed in seeds:
            problem = make(seed)
            for outcome in compare(problem, candidates(problem, seed), BUDGETS, seed=seed + 100, samples=64):
                title = f"{name}, {outcome.budget} evaluations, {outcome.name}"
                figures.setdefault(title, []).append(outcome.error)
    parts = [_ordered(name, figures) for name in PROBLEMS] + [_gained(name, figures) for name in PROBLEMS]
    return Result(
        verdict(parts),
        figures,
        notes="Medians over 64 samples and the seeds. Log-SNR steps from sigma 40 to 0.02, but for `grid` and `plan`, "
        "which place their own. Fitted ones were fitted for each number of evaluations, on 16 samples of other noise.",
    )


def candidates(problem: Problem, seed: int) -> list[Candidate]:
    """The plain solvers, two more, and the calibrated ones at each number of evaluations."""
    plain = [*solvers().values(), stepping("ghvb", ghvb_variable(3)), stepping("evodiff", EVODiff)]
    data = problem.clean(512)
    fitted = [
        calibrate(problem.denoiser, problem.schedule, data, nfe, method=method, span=problem.span, seed=seed).candidate(
            f"{FITTED}{method}"
        )
        for method in METHODS
        for nfe in BUDGETS
    ]
    return [*plain, *fitted]


def _ordered(problem: str, figures: dict[str, list[float]]) -> bool:
    at_ten = [median(figures[f"{problem}, 10 evaluations, {name}"]) for name in ("unipc-2", "2m", "ddim")]
    return at_ten == sorted(at_ten)


def _gained(problem: str, figures: dict[str, list[float]]) -> bool:
    start = f"{problem}, 10 evaluations, "
    errors = {name.removeprefix(start): median(values) for name, values in figures.items() if name.startswith(start)}
    fitted = min(error for name, error in errors.items() if name.startswith(FITTED))
    return fitted <= 0.5 * min(error for name, error in errors.items() if not name.startswith(FITTED))
