from __future__ import annotations

import pytest
import torch

from degauss.core import Cosine, sample
from degauss.core.errors import InputError
from degauss.core.oracle import GaussianOracle
from degauss.core.solvers import SOLVERS, SolverName, solver_of

STARTS_ABOVE_ZERO = {"deis", "plms", "heun", "singlestep"}


@pytest.mark.parametrize("name", SOLVERS)
def test_every_name_samples_the_data(name: SolverName) -> None:
    schedule = Cosine()
    oracle = GaussianOracle(schedule, mean=2.0, std=0.5)
    start = 0.98 if name in STARTS_ABOVE_ZERO else 1.0
    grid = torch.linspace(start, 0, 241, dtype=torch.float64)
    x = sample(oracle, schedule, (4000, 1), solver=solver_of(name), steps=240, grid=grid, dtype=torch.float64)
    assert float(x.mean()) == pytest.approx(2.0, abs=0.06)
    assert float(x.std()) == pytest.approx(0.5, rel=0.06)


def test_names_that_differ_are_solvers_that_differ() -> None:
    schedule = Cosine()
    oracle = GaussianOracle(schedule, mean=2.0, std=0.5)
    grid = torch.linspace(0.98, 0, 9, dtype=torch.float64)
    ends = [
        float(sample(oracle, schedule, (1, 1), solver=solver_of(name), steps=8, grid=grid, dtype=torch.float64))
        for name in SOLVERS
    ]
    assert len(set(ends)) == len(SOLVERS)


def test_a_name_there_is_not_is_refused() -> None:
    with pytest.raises(InputError, match=r"solver must be one of .*, but is .euler."):
        solver_of("euler")
