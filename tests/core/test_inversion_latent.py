"""Latents: what they keep, what they refuse, and whether the precision guard tells the truth."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from degauss.core import EDM, Cosine, LinearVP, Noise, Point, RectifiedFlow, Schedule, simulate
from degauss.core.errors import InputError
from degauss.core.grid import uniform_log_snr, uniform_time
from degauss.core.inversion.ddim import DDIMInversion
from degauss.core.inversion.edict import EDICT
from degauss.core.inversion.encode import Latent, decode, encode
from degauss.core.inversion.guard import check_precision, predicted_error
from degauss.core.inversion.two_state import BDIA, BELM
from degauss.core.observe import Last
from degauss.core.oracle import GaussianOracle, MixtureOracle

DOUBLE, SINGLE = torch.float64, torch.float32
VP = LinearVP()
DIM, BATCH = 16, 64
NOISE = Noise(0, range(BATCH))
EXACT = [BDIA(), BELM(), EDICT()]


@cache
def mixture(schedule: Schedule = VP) -> MixtureOracle:
    noise = Noise(7, range(5))
    means = noise.normal(torch.empty(5, DIM, dtype=DOUBLE))
    factors = noise.normal(torch.empty(5, DIM, DIM, dtype=DOUBLE), draw=1)
    covariances = 0.3 * torch.eye(DIM, dtype=DOUBLE) + factors @ factors.transpose(1, 2) / DIM
    return MixtureOracle(schedule, torch.ones(5, dtype=DOUBLE), means, covariances)


def grid_of(schedule: Schedule, steps: int) -> Tensor:
    if isinstance(schedule, EDM):
        return uniform_log_snr(schedule, steps, end=0.02 / schedule.sigma_max)
    return uniform_time(schedule, steps, start=0.98, end=1e-3)


def made(method: Any, denoiser: Any, schedule: Schedule, x: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
    """A run's end and its second state there."""
    last = Last()
    end = simulate(method(denoiser, schedule), x, grid, NOISE, observe=(last,))
    return end, last.carry.other if isinstance(method, EDICT) else last.carry.earlier[0]


# --- the guard --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", [VP, Cosine(), RectifiedFlow(), EDM(20.0)], ids=str)
@pytest.mark.parametrize("method", [BDIA(), BDIA(0.6), BELM(), EDICT(), EDICT(0.8), DDIMInversion()], ids=str)
def test_transfers_are_the_derivatives_of_a_run_on_standard_normal_data(method: Any, schedule: Schedule) -> None:
    """The product of the matrices is the linear map that ``decode`` applies to the states."""
    oracle, grid = GaussianOracle(schedule), grid_of(schedule, 15)
    product = np.eye(method.transfers(schedule, grid).shape[1])
    for matrix in method.transfers(schedule, grid):
        product = matrix @ product
    # Two-state errors are ordered newest first, states in the order of time.
    rows = torch.eye(len(product), dtype=DOUBLE)
    states = tuple(rows.unbind() if isinstance(method, (EDICT, DDIMInversion)) else rows.flip(0).unbind())
    got = method.decode(oracle, schedule, tuple(state[:, None] for state in states), grid)
    np.testing.assert_allclose(got[:, 0].numpy(), product[0], rtol=1e-9)


MEASURED = [
    (BDIA(0.9), VP, 50), (BDIA(0.8), VP, 50), (BDIA(0.9), RectifiedFlow(), 100), (BDIA(), EDM(40.0), 50),
    (BELM(), VP, 50), (BELM(), EDM(40.0), 40), (BELM(), RectifiedFlow(), 50),
    (EDICT(), VP, 100), (EDICT(0.85), VP, 50), (EDICT(0.85), EDM(40.0), 40), (EDICT(1.0), VP, 50),
]  # fmt: skip


@pytest.mark.parametrize(("method", "schedule", "steps"), MEASURED, ids=str)
def test_the_predicted_error_is_the_measured_one(method: Any, schedule: Schedule, steps: int) -> None:
    """Within a factor of twenty, on data that are neither standard nor normal: the worse of both round trips."""
    grid, denoiser = grid_of(schedule, steps), mixture(schedule)
    x = NOISE.normal(torch.empty(BATCH, DIM, dtype=SINGLE)) * float(schedule(grid[0]).sigma)
    end, companion = made(method, denoiser, schedule, x, grid)
    latent = encode(denoiser, schedule, end, grid, method, companion=companion, limit=1.0)
    lost = float((latent.noise - x).pow(2).mean().sqrt() / x.pow(2).mean().sqrt())
    data = denoiser.draw(NOISE).to(SINGLE)
    again = decode(denoiser, schedule, encode(denoiser, schedule, data, grid, method, limit=1.0), grid, method)
    lost = max(lost, float((again - data).pow(2).mean().sqrt() / data.pow(2).mean().sqrt()))
    predicted = predicted_error(method, schedule, grid, SINGLE)
    assert predicted / 20 < lost < predicted * 20


def test_growth_is_that_of_the_papers() -> None:
    """gamma^-N for BDIA; p^-2N for EDICT, less the contraction of its DDIM steps."""
    grid = uniform_time(VP, 101, end=1e-3)
    half, full = (predicted_error(BDIA(gamma), VP, grid, DOUBLE) for gamma in (0.7, 1.0))
    assert half / full == pytest.approx(0.7**-100, rel=10)
    assert half / full > 0.01 * 0.7**-100
    mixed, plain = (predicted_error(EDICT(p), VP, grid, DOUBLE) for p in (0.7, 0.8))
    assert mixed / plain == pytest.approx((0.7 / 0.8) ** -202, rel=0.5)


@pytest.mark.parametrize("steps", [20, 50, 200])
def test_the_guard_accepts_what_works(steps: int) -> None:
    for method in (BDIA(), BELM(), EDICT(0.97)):
        check_precision(method, VP, uniform_time(VP, steps, end=1e-3), SINGLE)
    check_precision(EDICT(), VP, uniform_time(VP, 50), SINGLE)


def test_the_guard_refuses_in_one_sentence() -> None:
    denoiser, data, grid = mixture(), mixture().draw(NOISE).to(SINGLE), uniform_time(VP, 50)
    with pytest.raises(InputError) as caught:
        encode(denoiser, VP, data, grid, BDIA(0.5))
    assert str(caught.value) == (
        "BDIA(gamma=0.5) over 50 steps in float32 would lose too much to rounding: the predicted relative error is "
        "8e+07, at most 0.01 is accepted; use float64, fewer steps, or a gamma nearer 1."
    )
    encode(denoiser, VP, data, grid, BDIA(1.0))
    with pytest.raises(InputError, match=r"float64 would lose .* use fewer steps, or a p nearer 1\."):
        check_precision(EDICT(0.5), VP, grid, DOUBLE)
    with pytest.raises(InputError, match=r"bfloat16 .* use float64, fewer steps\."):
        check_precision(BDIA(), VP, grid, torch.bfloat16)
    with pytest.raises(InputError, match=r"use float64, a grid whose steps in sigma/alpha differ less\."):
        check_precision(BELM(), EDM(40.0), uniform_log_snr(EDM(40.0), 20, end=1e-5), SINGLE)
    # It is right to: what it refuses is no noise.
    noise = encode(denoiser, VP, data, grid, BDIA(0.5), limit=1e99).noise
    assert float(noise.std()) > 1e6


# --- latents ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", EXACT, ids=str)
def test_data_come_back_and_another_denoiser_changes_them(method: Any) -> None:
    denoiser, data, grid = mixture(), mixture().draw(NOISE), uniform_time(VP, 40)
    latent = encode(denoiser, VP, data, grid, method)
    assert float(latent.noise.std()) == pytest.approx(1, abs=0.1)
    assert float((decode(denoiser, VP, latent, grid, method) - data).abs().max()) < 1e-10

    def shifted(x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        """The same data moved by one."""
        alpha = VP(t).alpha
        return Point(denoiser(x - alpha, t).mean + 1)

    edited = decode(shifted, VP, latent, grid, method)
    assert 0.5 < float((edited - data).mean()) < 1.1
    assert float((edited - data).std()) < 0.6 * float(data.std())


@pytest.mark.parametrize("method", [*EXACT, DDIMInversion(1)], ids=str)
def test_a_latent_survives_the_disk(method: Any, tmp_path: Path) -> None:
    denoiser, grid = GaussianOracle(VP, 0.3, 0.5), uniform_time(VP, 12)
    data = NOISE.normal(torch.empty(BATCH, 3, dtype=SINGLE))
    latent = encode(denoiser, VP, data, grid, method)
    latent.save(tmp_path / "latent")
    latent.save(tmp_path / "latent")
    loaded = Latent.load(tmp_path / "latent")
    assert (loaded.method, loaded.times, loaded.alpha, loaded.sigma) == (
        latent.method, latent.times, latent.alpha, latent.sigma
    )  # fmt: skip
    for state, read in zip(latent.states, loaded.states, strict=True):
        assert torch.equal(state, read)
        assert read.dtype == SINGLE
    want = decode(denoiser, VP, latent, grid, method)
    assert torch.equal(decode(denoiser, VP, loaded, grid, method), want)


def test_a_latent_decodes_with_nothing_but_its_own_path() -> None:
    denoiser, grid = GaussianOracle(VP, 0.3, 0.5), uniform_time(VP, 12)
    latent = encode(denoiser, VP, torch.zeros(4, 3, dtype=DOUBLE), grid, BDIA())
    with pytest.raises(InputError, match=r"encoded with BDIA\(gamma=1.0\), and cannot be decoded with BDIA\(gamma=0.9"):
        decode(denoiser, VP, latent, grid, BDIA(0.9))
    with pytest.raises(
        InputError, match=r"another grid, of 12 steps from t = 1 to 0; the one given has 13 from 1 to 0"
    ):
        decode(denoiser, VP, latent, uniform_time(VP, 13), BDIA())
    with pytest.raises(InputError, match=r"another schedule than LinearVP\(beta_min=0.2"):
        decode(denoiser, LinearVP(0.2), latent, grid, BDIA())
    with pytest.raises(InputError, match="times rise"):
        encode(denoiser, VP, torch.zeros(4, 3, dtype=DOUBLE), grid.flip(0), BDIA())
    with pytest.raises(InputError, match="at least two steps"):
        encode(denoiser, VP, torch.zeros(4, 3), uniform_time(VP, 1), BDIA())
    with pytest.raises(InputError, match=r"the companion is \(1, 3\), but the data are \(4, 3\)"):
        encode(denoiser, VP, torch.zeros(4, 3), grid, BDIA(), companion=torch.zeros(1, 3))


def test_damaged_latents_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"latent.json does not exist"):
        Latent.load(tmp_path / "nothing")
    denoiser, grid = GaussianOracle(VP, 0.3, 0.5), uniform_time(VP, 12)
    folder = tmp_path / "latent"
    encode(denoiser, VP, torch.zeros(4, 3), grid, BDIA()).save(folder)
    about = json.loads((folder / "latent.json").read_text())
    for change in ({"times": None}, {"alpha": ["a"]}, {"method": 3}):
        (folder / "latent.json").write_text(json.dumps({**about, **change}))
        with pytest.raises(InputError, match="lacks a part of the latent"):
            Latent.load(folder)
    (folder / "latent.json").write_text(json.dumps({**about, "format": "other"}))
    with pytest.raises(InputError, match="holds 'other'"):
        Latent.load(folder)


def test_values_that_are_not_finite_do_not_pass() -> None:
    denoiser, grid = GaussianOracle(VP, 0.3, 0.5), uniform_time(VP, 12)
    with pytest.raises(FloatingPointError, match=r"encoding with EDICT\(p=0.93\)"):
        encode(denoiser, VP, torch.full((4, 3), torch.nan), grid, EDICT())
    latent = encode(denoiser, VP, torch.zeros(4, 3), grid, EDICT())

    def broken(x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        return Point(x * torch.inf)

    with pytest.raises(FloatingPointError, match=r"decoding with EDICT\(p=0.93\)"):
        decode(broken, VP, latent, grid, EDICT())
