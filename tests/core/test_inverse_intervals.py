"""Intervals from posterior draws: the quantile that theory gives, coverage on fresh data, and records that refuse."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from degauss.core import Noise
from degauss.core.errors import InputError
from degauss.core.inverse import (
    Calibration,
    Interval,
    Matrix,
    calibrate_intervals,
    conformal_quantile,
    coverage,
    exact_factor,
    reliability,
    summarise,
)
from degauss.core.oracle import MixtureOracle
from degauss.core.schedule import LinearVP

DOUBLE = torch.float64
DIM, ROWS, SIGMA_Y, TINY = 12, 5, 0.3, 1e-12


def normal(*shape: int, seed: int = 0) -> Tensor:
    return Noise(seed, range(shape[0])).normal(torch.empty(*shape, dtype=DOUBLE))


A = Matrix(normal(ROWS, DIM, seed=1))
SPREAD = normal(DIM, DIM, seed=2)
PRIOR = SPREAD @ SPREAD.T / DIM + 0.05 * torch.eye(DIM, dtype=DOUBLE)


def gaussian(covariance: Tensor) -> MixtureOracle:
    return MixtureOracle(LinearVP(), torch.ones(1, dtype=DOUBLE), torch.zeros(1, DIM, dtype=DOUBLE), covariance[None])


def subject(people: int, draws: int, seed: int, *, shift: float = 0.0) -> tuple[Tensor, Tensor]:
    """Exact posterior draws ``[draws, people, DIM]`` and truths ``[people, DIM]``; ``shift``: of the truths' mean."""
    truth = shift + gaussian(PRIOR).draw(Noise(seed, range(people)))
    y = A(truth) + SIGMA_Y * normal(people, ROWS, seed=seed + 1)
    gain = PRIOR @ A.matrix.T @ torch.linalg.inv(A.matrix @ PRIOR @ A.matrix.T + SIGMA_Y**2 * torch.eye(ROWS))
    posterior = gaussian(PRIOR - gain @ A.matrix @ PRIOR)
    spread = posterior.draw(Noise(seed + 2, range(people * draws))).reshape(draws, people, DIM)
    return y @ gain.T + spread, truth


@pytest.mark.parametrize("draws", [2, 3, 8, 33, 1000])
@pytest.mark.parametrize("level", [0.05, 0.5, 0.9, 0.99])
def test_the_exact_factor_is_scipys_student(level: float, draws: int) -> None:
    expected = math.sqrt(1 + 1 / draws) * stats.t(draws - 1).ppf((1 + level) / 2)
    assert exact_factor(level, draws) == pytest.approx(expected, rel=1e-5)


def test_many_draws_need_the_normal_quantile_and_few_need_more() -> None:
    assert exact_factor(0.9, 10_000) == pytest.approx(stats.norm.ppf(0.95), rel=1e-3)
    assert [round(exact_factor(0.9, k), 2) for k in (8, 2)] == [2.01, 7.73], "as the docstring says"


@pytest.mark.parametrize("draws", [3, 8, 64])
def test_exact_draws_calibrate_to_the_exact_factor(draws: int) -> None:
    ensemble, truth = subject(4000, draws, seed=10)
    record = calibrate_intervals(ensemble, truth, floor=TINY, describes={})
    assert record.q == pytest.approx(exact_factor(0.9, draws), rel=0.05)
    assert record.overconfidence == pytest.approx(1, abs=0.05)
    # The control: without the correction for few draws the normal quantile is what one would take.
    assert (record.q > 1.1 * stats.norm.ppf(0.95)) == (draws < 64)


def test_fresh_data_is_covered_within_binomial_error() -> None:
    # One coordinate a person: values of one person are dependent, and the binomial law is of independent ones.
    ensemble, truth = (part[..., 0] for part in subject(4000, 6, seed=20))
    record = calibrate_intervals(ensemble, truth, floor=TINY, describes={})
    ensemble, truth = (part[..., 0] for part in subject(4000, 6, seed=30))
    summary = summarise(ensemble)
    found = coverage(truth, summary, record.interval(summary, {}))
    error = math.sqrt(0.9 * 0.1 * (1 / 4000 + 1 / 4000))  # of the quantile, and of the fresh count
    assert abs(found.overall.covered - 0.9) < 3 * error
    assert [band.count for band in found.by_std] == [400] * 10


def test_overconfident_draws_undercover_until_they_are_calibrated() -> None:
    def overconfident(seed: int) -> tuple[Tensor, Tensor]:
        ensemble, truth = subject(1500, 8, seed)
        mean = ensemble.mean(0)
        return mean + 0.4 * (ensemble - mean), truth

    record = calibrate_intervals(*overconfident(40), floor=TINY, describes={})
    ensemble, truth = overconfident(50)
    summary = summarise(ensemble)
    curve = dict(reliability(truth, summary))
    assert curve[0.9] < 0.6, "taken at their word they do not cover"
    assert record.overconfidence == pytest.approx(2.5, rel=0.05)
    assert coverage(truth, summary, record.interval(summary, {})).overall.covered == pytest.approx(0.9, abs=0.015)
    repaired = reliability(truth, summary, scale=record.overconfidence, floor=record.floor)
    assert max(abs(level - share) for level, share in repaired) < 0.02


def test_out_of_distribution_the_shortfall_is_visible() -> None:
    record = calibrate_intervals(*subject(1000, 8, seed=60), floor=TINY, describes={})
    alike, unlike = subject(1000, 8, seed=70), subject(1000, 8, seed=75, shift=1.5)
    ensemble, truth = torch.cat([alike[0], unlike[0]], 1), torch.cat([alike[1], unlike[1]])
    shifted = torch.arange(2000)[:, None].expand(2000, DIM) >= 1000
    summary = summarise(ensemble)
    interval, regions = record.interval(summary, {}), {"alike": ~shifted, "shifted": shifted}
    found = coverage(truth, summary, interval, regions=regions)
    assert found.regions["alike"].covered == pytest.approx(0.9, abs=0.015)
    assert found.regions["shifted"].covered < 0.75
    parts = [band.covered for band in found.regions.values()]
    assert found.overall.covered == pytest.approx(sum(parts) / 2)
    alone = coverage(truth, summary, interval, where=shifted)
    assert alone.overall == found.regions["shifted"]


def test_tenths_show_what_the_average_hides() -> None:
    # Draws whose standard deviation says nothing of the error: covered on average, not where it is small.
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(20_000, generator=generator, dtype=DOUBLE)
    scale = torch.linspace(0.2, 5, 20_000, dtype=DOUBLE)
    ensemble = scale * torch.randn(8, 20_000, generator=generator, dtype=DOUBLE)
    ensemble = ensemble - ensemble.mean(0)
    record = calibrate_intervals(ensemble, truth, floor=TINY, describes={})
    summary = summarise(ensemble)
    found = coverage(truth, summary, record.interval(summary, {}))
    assert found.overall.covered == pytest.approx(0.9, abs=1e-3)
    assert found.by_std[0].covered < 0.6 < 0.98 < found.by_std[-1].covered
    widths = [band.width for band in found.by_std]
    assert widths == sorted(widths)
    assert json.loads(json.dumps(found.card()))["by_std"][0]["count"] == 2000


@given(n=st.integers(1, 60), percent=st.integers(1, 99), seed=st.integers(0, 99))
def test_the_quantile_has_its_rank(n: int, percent: int, seed: int) -> None:
    values = torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)
    rank = -(-(n + 1) * percent // 100)
    if rank > n:
        with pytest.raises(InputError, match=f"need {-(-percent // (100 - percent))} values .* have {n}"):
            conformal_quantile(values, percent / 100)
    else:
        assert conformal_quantile(values, percent / 100) == values.sort().values[rank - 1]


def test_only_the_values_that_count_are_calibrated_on() -> None:
    truth = torch.tensor([1.0] * 50 + [0.0] * 950)
    ensemble = torch.stack([torch.zeros(1000), torch.full((1000,), 0.1)])
    air = calibrate_intervals(ensemble, truth, describes={})
    body = calibrate_intervals(ensemble, truth, describes={}, where=truth > 0)
    assert body.q > 10 * air.q
    assert (air.count, body.count) == (1000, 50)


def test_values_on_which_all_draws_agree_have_a_finite_score() -> None:
    record = calibrate_intervals(torch.zeros(4, 100), torch.full((100,), 0.01), floor=1e-3, describes={})
    assert record.q == pytest.approx(10)


FACTS = {"method": "dds", "views": 8, "arc": 180.0}


@pytest.fixture
def record() -> Calibration:
    return calibrate_intervals(*subject(20, 5, seed=80), describes=FACTS)


def test_a_record_comes_back_as_it_was(record: Calibration, tmp_path: Path) -> None:
    record.save(tmp_path / "intervals.json")
    assert Calibration.load(tmp_path / "intervals.json") == record
    about = json.loads((tmp_path / "intervals.json").read_text())
    assert about["overconfidence"] == record.overconfidence
    summary = summarise(subject(3, 5, seed=90)[0])
    interval = record.interval(summary, {"arc": 180, "views": 8, "method": "dds"})
    assert isinstance(interval, Interval)
    torch.testing.assert_close(interval.high - interval.low, 2 * record.q * (summary.std + record.floor))
    torch.testing.assert_close(interval.high + interval.low, 2 * summary.mean)


@pytest.mark.parametrize(
    ("draws", "facts", "message"),
    [
        (6, FACTS, "with draws 5, but are asked for with draws 6"),
        (5, {**FACTS, "views": 4}, "with views 8, but are asked for with views 4"),
        (5, {**FACTS, "method": "dps"}, "with method 'dds', but are asked for with method 'dps'"),
        (5, {"method": "dds", "views": 8}, "with arc 180.0, but are asked for with arc not given"),
        (5, {**FACTS, "fan": 500}, "with fan not given, but are asked for with fan 500"),
    ],
)
def test_a_record_refuses_other_draws(record: Calibration, draws: int, facts: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        record.interval(summarise(subject(3, draws, seed=90)[0]), facts)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("q", "wide", "must be a finite number, but is 'wide'"),
        ("level", 1.5, "level must be between 0 and 1"),
        ("draws", 4.5, "draws must be an integer"),
        ("floor", 0, "floor must be a number above 0"),
        ("describes", [1], "describes must be a table"),
        ("describes", {"views": [8]}, r"describes.views must be a number or a text, but is \[8\]"),
        ("format", "other", "holds 'other'"),
    ],
)
def test_a_damaged_record_is_refused(record: Calibration, tmp_path: Path, field: str, value, message: str) -> None:
    path = tmp_path / "intervals.json"
    record.save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(InputError, match=message) as caught:
        Calibration.load(path)
    assert str(path) in str(caught.value)


def test_bad_input_is_refused() -> None:
    ensemble, truth = subject(10, 4, seed=0)
    with pytest.raises(InputError, match="number of draws must be at least 2"):
        calibrate_intervals(ensemble[:1], truth, describes={})
    with pytest.raises(InputError, match="level must be between 0 and 1, but is 1"):
        calibrate_intervals(ensemble, truth, level=1.0, describes={})
    with pytest.raises(InputError, match="floor"):
        calibrate_intervals(ensemble, truth, floor=0.0, describes={})
    with pytest.raises(InputError, match="need 9 values to be calibrated on, but have 8"):
        calibrate_intervals(ensemble[:, 0, :8], truth[0, :8], describes={})
    with pytest.raises(ValueError, match="shape"):
        calibrate_intervals(ensemble, truth[:5], describes={})
    truth[0, 0] = math.nan
    with pytest.raises(InputError, match="1 of 120 scores are not finite"):
        calibrate_intervals(ensemble, truth, describes={})
    ensemble[0, 0, 0] = math.inf
    with pytest.raises(InputError, match="1 of their 480 values are not"):
        summarise(ensemble)
    summary = summarise(ensemble[1:])
    interval = Interval(summary.mean, summary.mean, 0.9)
    with pytest.raises(InputError, match="region 'lung' is undefined"):
        coverage(truth, summary, interval, regions={"lung": torch.zeros_like(truth, dtype=torch.bool)})
