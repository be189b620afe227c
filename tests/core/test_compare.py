"""Error against evaluations: counted evaluations, closed-form truth, the command with its files and its refusals."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
import torch

from degauss.core import cli
from degauss.core.compare import (
    Problem,
    compare,
    exact,
    gaussian,
    measure,
    overlapping,
    solvers,
    stepping,
)
from degauss.core.errors import InputError
from degauss.core.gaussian import ddim
from degauss.core.oracle import GaussianOracle
from degauss.core.schedule import Cosine


def test_the_truth_is_the_closed_form() -> None:
    problem = gaussian()
    x = problem.begin(0, 16)
    ends = torch.tensor([problem.start, problem.end], dtype=torch.float64)
    closed_form = GaussianOracle(problem.schedule, mean=0.5, std=0.6).flow(x, *ends)
    torch.testing.assert_close(exact(problem, x), closed_form, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", solvers())
def test_evaluations_are_what_the_budget_paid_for(name: str) -> None:
    problem, candidate = overlapping(), solvers()[name]
    x = problem.begin(0, 4)
    outcome = measure(problem, candidate, 12, x, x)
    assert outcome.evaluations == 12
    assert outcome.budget == 12


def test_errors_are_per_number_and_fall_with_the_order_of_the_solver() -> None:
    problem = gaussian()
    first, second = compare(problem, [solvers()["ddim"]], (40, 80), samples=16)
    assert first.error / second.error == pytest.approx(2.0, abs=0.15)
    x = problem.begin(0, 16)
    shifted = measure(problem, stepping("far", ddim()), 40, x, exact(problem, x) + 3.0)
    assert shifted.error == pytest.approx(3.0, abs=0.2)


def test_budgets_too_small_for_a_step_are_left_out_or_refused() -> None:
    problem, heun = gaussian(), solvers()["heun"]
    assert [outcome.budget for outcome in compare(problem, [heun], (1, 2, 3), samples=2, fine=20)] == [2, 3]
    x = problem.begin(0, 2)
    with pytest.raises(InputError, match=r"heun cannot run on 1 evaluations"):
        measure(problem, heun, 1, x, x)


def test_a_range_of_log_snr_becomes_times() -> None:
    problem = Problem.over_log_snr(GaussianOracle(Cosine()), Cosine(), (3,), low=-10, high=8)
    ends = Cosine().log_snr(torch.tensor([problem.start, problem.end], dtype=torch.float64))
    assert ends.tolist() == pytest.approx([-10, 8])


def test_a_broken_denoiser_is_told() -> None:
    problem = gaussian()
    broken = Problem(GaussianOracle(problem.schedule, std=float("nan")), problem.schedule, (8,), 1.0, 0.01)
    with pytest.raises(FloatingPointError, match="not finite"):
        compare(broken, [solvers()["ddim"]], (5,), samples=2, fine=10)


def test_the_command_writes_a_table_and_a_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compare", "--denoiser", "gaussian", "--solvers", "ddim", "unipc-2", "--evaluations", "5", "10"]
    status = cli.PROGRAM.main([*words, "--samples", "8", "--output", str(tmp_path)])
    assert status == 0
    assert "unipc-2" in capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "errors.csv").read_text(encoding="utf-8").splitlines()))
    assert [(row["name"], row["evaluations"]) for row in rows] == [
        ("ddim", "5"),
        ("ddim", "10"),
        ("unipc-2", "5"),
        ("unipc-2", "10"),
    ]
    assert float(rows[3]["error"]) < float(rows[1]["error"])
    assert (tmp_path / "errors.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--solvers", "unipc"], r"--solvers must be one of .* but is 'unipc' .did you mean 'unipc-.'"),
        (["--denoiser", "gausian"], r"did you mean 'gaussian'"),
        (["--denoiser", "no.such.module:f"], r"cannot be imported"),
        (["--denoiser", "degauss.core.compare:solvers"], r"must return a compare.Problem, but returned dict"),
        (["--samples", "0"], r"--samples must be at least 1"),
        (["--evaluations", "0"], r"--evaluations must be at least 1"),
    ],
)
def test_the_command_refuses_in_one_sentence(words, says, capsys, tmp_path) -> None:
    assert cli.PROGRAM.main(["compare", *words, "--output", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert re.search(says, said)
