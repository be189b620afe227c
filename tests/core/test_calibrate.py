"""Calibrated solvers: held-out gains, files that know their model, and the command that chooses."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from degauss.core import EDM, LinearVP, Noise, cli, sample
from degauss.core.calibrate import METHODS, Calibrated, Method, calibrate, choose, load, named, noise_range
from degauss.core.compare import PROBLEMS, exact, measure, overlapping
from degauss.core.errors import InputError
from degauss.core.oracle import GaussianOracle, MixtureOracle
from degauss.core.schedule import DiscreteVP, linear_betas

PROBLEM = overlapping()
DATA = PROBLEM.denoiser.draw(Noise(5, range(128))) if isinstance(PROBLEM.denoiser, MixtureOracle) else torch.empty(0)


@cache
def made(method: Method) -> Calibrated:
    return calibrate(PROBLEM.denoiser, PROBLEM.schedule, DATA, 8, method=method, span=PROBLEM.span)


@pytest.mark.parametrize("method", METHODS)
def test_a_calibrated_solver_beats_the_plain_ones_on_noise_it_has_not_seen(method: Method) -> None:
    report = made(method).report
    assert report.evaluations == 8
    assert report.error < 0.75 * min(report.plain.values())
    # The figure is that of an independent measurement, not of the fit.
    x = PROBLEM.begin(1, 64)
    again = measure(PROBLEM, made(method).candidate("it"), 8, x, exact(PROBLEM, x))
    assert again.error == pytest.approx(report.error, rel=1e-9)
    assert again.evaluations <= 8


@pytest.mark.parametrize("method", METHODS)
def test_a_file_gives_the_same_samples(method: Method, tmp_path: Path) -> None:
    kept = made(method)
    kept.save(tmp_path / "solver.json")
    back = load(tmp_path / "solver.json", PROBLEM.denoiser, PROBLEM.schedule)
    assert (back.method, back.event, back.report) == (kept.method, kept.event, kept.report)
    draw: Callable[[Calibrated], Any] = lambda it: sample(  # noqa: E731
        PROBLEM.denoiser, PROBLEM.schedule, (4, 8), solver=it, steps=0, grid=it.grid, dtype=torch.float64
    )
    assert torch.equal(draw(back), draw(kept))
    # A solver of 8 evaluations is a small file, but for the statistics of v3.
    assert (tmp_path / "solver.json").stat().st_size < (200_000 if method == "v3" else 6_000)


def test_another_model_another_schedule_another_grid_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "solver.json"
    made("dc").save(path)
    other = GaussianOracle(PROBLEM.schedule, std=0.5)
    with pytest.raises(InputError, match=r"solver\.json was calibrated for another model: .* answers"):
        load(path, other, PROBLEM.schedule)
    with pytest.raises(InputError, match=r"for EDM\(sigma_max=40\.0\), but the model has LinearVP"):
        load(path, PROBLEM.denoiser, LinearVP())
    with pytest.raises(InputError, match=r"calibrated for EDM\(sigma_max=40\.0\), but was given EDM\(sigma_max=80"):
        made("dc")(PROBLEM.denoiser, EDM(80.0))
    with pytest.raises(InputError, match=r"calibrated on 8 steps .* but was given 5 .*: pass its own grid"):
        sample(PROBLEM.denoiser, PROBLEM.schedule, (2, 8), solver=made("dc"), steps=5, dtype=torch.float64)


def test_schedules_of_many_numbers_are_named_by_their_hash() -> None:
    first, second = (DiscreteVP.from_betas(linear_betas(1000, last=last)) for last in (0.02, 0.021))
    assert len(named(first)) < 60
    assert named(first) != named(second)
    assert named(first) == named(DiscreteVP.from_betas(linear_betas(1000, last=0.02)))


def test_the_same_model_in_other_rounding_is_accepted(tmp_path: Path) -> None:
    made("olss").save(tmp_path / "solver.json")

    def rounded(x: torch.Tensor, t: torch.Tensor, /, **cond: Any) -> Any:
        return PROBLEM.denoiser((x * (1 + 1e-5)).to(x.dtype), t, **cond)

    load(tmp_path / "solver.json", rounded, PROBLEM.schedule)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"method": "euler"}, "method must be one of"),
        ({"fit": 3}, "fit must be a table, but is 3"),
        ({"format": "x"}, "'x'"),
        ({"probe": [1.0, "a"]}, r"probe\[1\] must be a finite number"),
        ({"report": {}}, "plain must be a table, but is missing"),
    ],
)
def test_damaged_files_are_refused_by_name(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    path = tmp_path / "solver.json"
    made("dc").save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(InputError, match=says) as error:
        load(path, PROBLEM.denoiser, PROBLEM.schedule)
    assert "solver.json" in str(error.value)


def test_the_range_of_noise_follows_the_data() -> None:
    data = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    low, high = noise_range(data)
    assert low == pytest.approx(-2 * math.log(5.0))
    deviation = math.sqrt((4.5 + 8.0) / 2)
    assert high == pytest.approx(-2 * math.log(deviation / 250))
    shifted = [a - b for a, b in zip(noise_range(10 * data), (low, high), strict=True)]
    assert shifted == pytest.approx([-2 * math.log(10.0)] * 2)
    with pytest.raises(InputError, match="differ"):
        noise_range(torch.zeros(3, 2))
    with pytest.raises(InputError, match="finite samples"):
        noise_range(torch.full((3, 2), math.nan))


def test_choose_ranks_everything_and_says_by_how_much() -> None:
    heard: list[str] = []
    choice = choose(
        PROBLEM.denoiser, PROBLEM.schedule, DATA, 8, methods=("dc", "olss"), span=PROBLEM.span, report=heard.append
    )
    errors = [outcome.error for outcome in choice.ranking]
    assert errors == sorted(errors)
    assert heard == ["dc", "olss", "plain solvers"]
    assert {"dc", "olss", "ddim", "unipc-3", "heun"} <= {outcome.name for outcome in choice.ranking}
    assert choice.winner.name in choice.calibrated
    plain = next(outcome for outcome in choice.ranking if outcome.name not in choice.calibrated)
    assert f"{plain.name}, has {plain.error / choice.winner.error:.2g} times that" in choice.says()


def test_a_broken_model_is_told() -> None:
    broken = GaussianOracle(PROBLEM.schedule, std=math.nan)
    with pytest.raises(FloatingPointError):
        calibrate(broken, PROBLEM.schedule, DATA, 5, span=PROBLEM.span)
    with pytest.raises(InputError, match="2 evaluations or more, but 1"):
        calibrate(PROBLEM.denoiser, PROBLEM.schedule, DATA, 1)


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(tmp_path / "solver.json")
    assert cli.PROGRAM.main(["calibrate", "--method", "olss", "--evaluations", "6", "--output", file]) == 0
    said = capsys.readouterr().out
    assert re.search(r"error \S+ on 64 held-out samples", said)
    words = ["compare", "--solvers", "ddim", file, "--evaluations", "4", "6", "--output", str(tmp_path / "out")]
    assert cli.PROGRAM.main(words) == 0
    rows = (tmp_path / "out" / "errors.csv").read_text().splitlines()
    assert [row.split(",")[:2] for row in rows[1:]] == [["ddim", "4"], ["ddim", "6"], ["solver", "6"]]
    assert cli.PROGRAM.main(["compare", "--denoiser", "gaussian", "--solvers", file]) == 2
    assert "another model" in capsys.readouterr().err
    assert cli.PROGRAM.main(["choose", "--methods", "olss", "--evaluations", "5", "--denoiser", "gaussian"]) == 0
    assert " won at 5 evaluations" in capsys.readouterr().out
    assert cli.PROGRAM.main(["calibrate", "--method", "dcc"]) == 2
    assert "did you mean 'dc'" in capsys.readouterr().err


def test_problems_have_data_of_their_own_where_they_have_any() -> None:
    problem = PROBLEMS["gaussian"]()
    drawn = problem.clean(256)
    assert drawn.shape == (256, 8)
    assert float(drawn.std()) == pytest.approx(0.6, abs=0.05)
    kept = problem.like(drawn[:3].float())
    assert kept.clean(256) is kept.data
    assert kept.begin(0, 2).dtype == torch.float32
