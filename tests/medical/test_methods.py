"""Every method, called in its one way: what it needs and refuses, what it costs, and that draws are their own."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from degauss.core import inverse
from degauss.core.errors import InputError
from degauss.core.gaussian import ddim
from degauss.core.inverse import ConjugateGradient, Measurement
from degauss.core.noise import Noise
from degauss.core.oracle import GaussianOracle
from degauss.medical.ct import sirt
from degauss.medical.filtered import filtered_back_projection
from degauss.medical.memory import peak_bytes
from degauss.medical.methods import (
    CG,
    DDNM,
    DDS,
    DDSTV,
    DPS,
    FBP,
    MBIR,
    SIRT,
    TV,
    DiffPIR,
    MethodName,
    PiGDM,
    REDDiff,
    Wavelet,
    method_of,
    settings,
)
from degauss.medical.problem import Method, Problem
from degauss.medical.samplers import coupled

from ._oracles import SIZE, SLICES, GaussianPrior, ct_problem, mr_problem, phantom

SAMPLERS: tuple[Method, ...] = (MBIR(40), DDS(12), DDSTV(12), DPS(12), PiGDM(12), DDNM(12), DiffPIR(12))
WITH_PRIOR: tuple[Method, ...] = (*SAMPLERS, REDDiff(12))
WITHOUT: tuple[Method, ...] = (FBP(), SIRT(20), CG(8), TV(iterations=20))


def named(method: Method) -> str:
    return method.name


def relative(x: Tensor, truth: Tensor) -> float:
    return float((x - truth).norm() / truth.norm() / math.sqrt(len(x)))


# --- one way to call them -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", WITH_PRIOR, ids=named)
@pytest.mark.parametrize("kind", ["ct", "noisy ct", "mr", "complex mr"])
def test_a_method_asks_its_prior_as_often_as_it_says(method: Method, kind: str) -> None:
    asked: list[int] = []
    prior = GaussianPrior(phantom(), 0.1, asked)
    if kind == "complex mr":
        problem = mr_problem(prior=GaussianPrior(0.2, 0.3, asked), real=False)
    else:
        problem = {"ct": ct_problem, "noisy ct": ct_problem, "mr": mr_problem}[kind](
            prior=prior, sigma=0.01 if "noisy" in kind else 0.0
        )
    x = method(problem, samples=(3, 7))
    assert x.shape == (2, *problem.event)
    assert bool(torch.isfinite(x).all())
    assert sum(asked) == 2 * SLICES * problem.parts * method.evaluations


@pytest.mark.parametrize("method", WITHOUT, ids=named)
def test_a_method_without_a_prior_gives_each_sample_the_same(method: Method) -> None:
    assert method.evaluations == 0
    assert not method.draws
    x = method(ct_problem(), samples=(0, 5))
    assert x.shape == (2, SLICES, SIZE, SIZE)
    assert torch.equal(x[0], x[1])
    assert relative(x, phantom()) < 0.25


@pytest.mark.parametrize("method", WITH_PRIOR, ids=named)
def test_a_draw_does_not_depend_on_how_many_are_asked_for(method: Method) -> None:
    problem = ct_problem(prior=GaussianPrior())
    together = method(problem, seed=4, samples=(0, 1, 2))
    torch.testing.assert_close(method(problem, seed=4, samples=(2,)), together[2:], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(method(problem, seed=4, samples=(1, 0)), together[[1, 0]], rtol=1e-3, atol=1e-4)
    if method.draws:
        other = method(problem, seed=5, samples=(2,))
        assert relative(other, together[2:]) > 0.01
        assert relative(together[:1], together[1:2]) > 0.01


@pytest.mark.parametrize("method", SAMPLERS, ids=named)
def test_a_prior_that_knows_the_volume_leaves_nothing_open(method: Method) -> None:
    """The posterior is the truth where the prior is; what misleads a method then is its own."""
    problem = ct_problem(prior=GaussianPrior(phantom(), 1e-4))
    settled = replace(method, zeta=0.0) if isinstance(method, DPS) else method
    assert relative(settled(problem, samples=(0, 1)), phantom()) < 0.03


@pytest.mark.parametrize("method", [DDS(20), DDSTV(20), DDNM(20), DiffPIR(20), MBIR(60)], ids=named)
def test_an_exact_measurement_is_explained(method: Method) -> None:
    problem = ct_problem(prior=GaussianPrior())
    residual = problem.measurement.residual(method(problem))
    assert float(residual.norm() / problem.measurement.y.norm()) < 0.06


def test_it_is_watched_step_by_step() -> None:
    seen: list[int] = []
    DDS(6)(ct_problem(prior=GaussianPrior()), observe=(lambda event: seen.append(event.i),))
    assert seen == list(range(6))


# --- what they are ------------------------------------------------------------------------------------------


def test_dds_is_the_core_s_with_the_values_that_it_says() -> None:
    oracle = GaussianOracle(inverse_schedule(), 0.4, 0.2)
    exact = guided(DDS(), ct_problem(prior=GaussianPrior()))
    assert isinstance(exact, inverse.DDS)
    assert exact.gamma == math.inf
    assert exact.solve == ConjugateGradient(5)
    noisy = guided(DDS(trust=0.1), ct_problem(prior=GaussianPrior(), sigma=0.05))
    assert noisy.gamma == pytest.approx(4.0)
    limited = ct_problem(20, 90.0, prior=GaussianPrior())
    assert guided(DDS(), limited).solve == ConjugateGradient(15)
    assert guided(DDS(cg=3), limited).solve == ConjugateGradient(3)
    t, x = torch.tensor(0.5, dtype=torch.float64), phantom()
    torch.testing.assert_close(exact.denoiser(x, t).mean, oracle(x, t).mean)


def guided(method: Method, problem: Problem) -> Any:
    """The denoiser that the method's kernel asks."""
    kernel: Any = method.course(problem).kernel
    return kernel.denoiser


def inverse_schedule() -> Any:
    from degauss.core.schedule import LinearVP

    return LinearVP()


@pytest.mark.parametrize(("views", "arc", "covered"), [(8, 180, 1.0), (2, 180, 1.0), (90, 90, 0.5), (60, 120, 2 / 3)])
def test_the_share_of_directions_that_are_covered(views: int, arc: float, covered: float) -> None:
    assert ct_problem(views, arc).covered == pytest.approx(covered, abs=0.02)
    assert mr_problem().covered == 1.0


def test_thick_slices_are_coupled_more_weakly() -> None:
    """lambda |w D x|: with slices four times as far apart as pixels, a quarter; the threshold on w D x stays."""
    near = coupled(ct_problem(spacing=(1.0, 1.0, 1.0)), 1e-4, 0.025, ConjugateGradient(5))
    far = coupled(ct_problem(spacing=(4.0, 1.0, 1.0)), 1e-4, 0.025, ConjugateGradient(5))
    assert (near.strength, near.rho) == (1e-4, 0.025)
    assert far.strength == pytest.approx(near.strength / 4)
    assert far.rho == pytest.approx(near.rho / 16)
    # ADMM with w D and (lambda, rho) is that with D and (lambda w, rho w^2): the scaled duals differ by w alone.
    measurement, x = ct_problem().measurement, phantom()
    ours, duals = far.update(measurement, x, far.start(x))
    weighted = _Weighted(0.25)
    expected, split = weighted.update(measurement, x, 1e-4, 0.025)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(0.25 * duals.split, split, rtol=0, atol=1e-5)


class _Weighted:
    """One iteration of ADMM with w D, written out."""

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def update(self, measurement: Measurement, x: Tensor, strength: float, rho: float) -> tuple[Tensor, Tensor]:
        difference, operator = inverse.Difference(1), measurement.operator

        def apply(x: Tensor) -> Tensor:
            return operator.adjoint(operator(x)) + rho * self.weight**2 * difference.adjoint(difference(x))

        x = ConjugateGradient(5)(apply, operator.adjoint(measurement.y), x).x
        slope = self.weight * difference(x)
        return x, slope.sign() * (slope.abs() - strength / rho).clamp(min=0)


def test_tv_along_z_makes_neighbours_agree() -> None:
    prior = GaussianPrior(0.2, 0.3)
    plain, tied = (method(ct_problem(2, prior=prior)) for method in (DDS(20), DDSTV(20, strength=1e-3)))
    assert float(tied.diff(dim=1).abs().mean()) < 0.8 * float(plain.diff(dim=1).abs().mean())


def test_the_classical_ones_are_those_of_their_modules() -> None:
    problem = ct_problem()
    scanner = problem.tomography
    assert scanner is not None
    raw = problem.measurement.y * scanner.norm
    torch.testing.assert_close(raw, scanner(phantom()))
    torch.testing.assert_close(FBP("hann")(problem), filtered_back_projection(scanner, raw, "hann"))
    # SIRT does not see the norm.
    torch.testing.assert_close(
        SIRT(7)(problem), sirt(scanner, scanner.adjoint, raw, 7, torch.zeros(1, SLICES, SIZE, SIZE)), atol=1e-5, rtol=0
    )
    zero = torch.zeros(1, SLICES, SIZE, SIZE)
    expected = inverse.least_squares(problem.measurement, zero, ConjugateGradient(7))
    torch.testing.assert_close(CG(7)(problem), expected)
    assert float(CG(7, damping=1.0)(problem).norm()) < float(expected.norm())


def test_total_variation_of_a_noisy_scan_leaves_the_noise_and_no_more() -> None:
    exact = ct_problem(12)
    sigma = 0.02 * float(exact.measurement.y.square().mean().sqrt())
    noise = torch.randn(exact.measurement.y.shape, generator=torch.Generator().manual_seed(0))
    measurement = Measurement(exact.measurement.operator, exact.measurement.y + sigma * noise, sigma)
    problem = replace(exact, measurement=measurement)
    x = TV()(problem)
    left = float(measurement.residual(x).square().mean().sqrt())
    assert left == pytest.approx(sigma, rel=0.05)
    assert relative(x, phantom()) < relative(CG(40)(problem), phantom())


def test_a_weak_total_variation_is_approached_from_a_stronger_one() -> None:
    problem = ct_problem(4)
    tv = inverse.TotalVariation(1e-6, low=0.0, iterations=60)
    cold, warm = tv(problem.measurement).x, TV(1e-6, iterations=60)(problem)
    assert float(tv.objective(problem.measurement, warm)) < float(tv.objective(problem.measurement, cold))
    assert torch.equal(TV(1e-4)(problem), inverse.TotalVariation(1e-4, low=0.0)(problem.measurement).x)


def test_samplers_ask_at_levels_that_matter_and_end_below_what_is_seen() -> None:
    """The last level at which a network is asked is what stays of the noise."""
    for method in (DDS(), DDSTV(), DPS(), PiGDM(), DDNM(), DiffPIR(), REDDiff()):
        grid = method.course(ct_problem(prior=GaussianPrior())).grid
        alpha, sigma = inverse_schedule()(grid)
        assert float(sigma[0] / alpha[0]) == pytest.approx(3.0, rel=1e-6)
        assert float(sigma[-2] / alpha[-2]) == pytest.approx(0.005, rel=1e-4)
        assert float(grid[-1]) == 0


def test_a_complex_image_is_two_real_ones_to_the_prior() -> None:
    problem = mr_problem(prior=GaussianPrior(0.2, 0.3), real=False)
    x = DDS(20)(problem)
    assert x.shape == (1, SLICES, 2, SIZE, SIZE)
    assert float(problem.measurement.residual(x).norm() / problem.measurement.y.norm()) < 1e-3


def test_red_diff_weighs_means_as_the_released_code_does() -> None:
    problem = ct_problem(prior=GaussianPrior())
    kernel = REDDiff(strength=0.3).course(problem).kernel
    assert isinstance(kernel, inverse.REDDiff)
    y = problem.measurement.y
    assert kernel.strength == pytest.approx(0.3 * y[0].numel() / (SLICES * SIZE * SIZE))


def test_a_taller_volume_needs_no_other_step_of_dps() -> None:
    """Slices that are alike take the step that one of them would."""
    one = ct_problem(prior=GaussianPrior())
    middle = Measurement(one.measurement.operator, one.measurement.y[:, 1:2].expand(-1, 4, -1, -1))
    tall = replace(one, measurement=middle, event=(4, SIZE, SIZE))
    alone = replace(one, measurement=replace(middle, y=middle.y[:, :1]), event=(1, SIZE, SIZE))
    steps = [DPS(3).course(problem) for problem in (tall, alone)]
    x = 0.1 * phantom()[:, 1:2]
    grid = steps[0].grid
    moved: list[Tensor] = []
    for course, count in zip(steps, (4, 1), strict=True):
        start = x.expand(1, count, SIZE, SIZE).clone()
        found: Any = course.kernel
        kernel: Any = replace(found, solver=ddim())  # without fresh noise
        moved.append(kernel.step(kernel.init(start, grid), start, 1, Noise(0, [0]))[1])
    torch.testing.assert_close(moved[0], moved[1].expand_as(moved[0]), rtol=1e-4, atol=1e-5)


# --- by name, and what is refused ---------------------------------------------------------------------------


def test_every_name_is_a_method() -> None:
    for name in get_args(MethodName):
        method = method_of(name)
        assert method.name == name
        hash(method)
    assert method_of("mbir").evaluations == 3999
    assert method_of("dds-tv").evaluations == 50
    assert method_of("dds-tv", 20) == DDSTV(20)


def test_steps_of_what_takes_none_are_refused() -> None:
    with pytest.raises(InputError, match="fbp takes no steps, but 9 are asked for"):
        method_of("fbp", 9)
    with pytest.raises(InputError, match=r"did you mean 'dds'"):
        method_of("ddss")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("method", [FBP(), SIRT()], ids=named)
def test_what_is_for_tomography_is_refused_for_mri(method: Method) -> None:
    with pytest.raises(InputError, match=f"{method.name} is a method of computed tomography.*of magnetic resonance"):
        method(mr_problem())


@pytest.mark.parametrize("real", [True, False])
def test_wavelets_are_for_mri_and_smooth_with_the_noise(real: bool) -> None:
    problem = mr_problem(real=real)
    exact = Wavelet()(problem)
    assert exact.shape == (1, *problem.event)
    assert float(problem.measurement.residual(exact).norm() / problem.measurement.y.norm()) < 0.05
    noisy = replace(problem, measurement=replace(problem.measurement, sigma_y=0.05))
    assert float(Wavelet()(noisy).abs().sum()) < float(exact.abs().sum())
    assert torch.equal(Wavelet(strength=0.1)(noisy), Wavelet(strength=0.1)(problem))


def test_wavelets_are_refused_for_tomography() -> None:
    with pytest.raises(InputError, match=r"wavelet is a method of magnetic resonance.*of computed tomography"):
        Wavelet()(ct_problem())


@pytest.mark.parametrize("method", WITH_PRIOR, ids=named)
def test_what_needs_a_prior_says_so(method: Method) -> None:
    with pytest.raises(InputError, match=f"{method.name} needs a prior"):
        method(ct_problem())


def test_settings_out_of_range_are_refused() -> None:
    for make in (
        lambda: DDS(0),
        lambda: DDS(fresh=1.5),
        lambda: DDS(cg=0),
        lambda: DDS(trust=0.0),
        lambda: DDSTV(rho=0.0),
        lambda: DDSTV(strength=-1.0),
        lambda: MBIR(1),
        lambda: DPS(zeta=-1.0),
        lambda: PiGDM(data_std=0.0),
        lambda: SIRT(0),
        lambda: CG(damping=-1.0),
        lambda: TV(strength=0.0),
    ):
        with pytest.raises(InputError):
            make()


def test_a_method_that_diverges_says_so() -> None:
    with pytest.raises(InputError, match=r"dps diverged: \d+ of its 768 values"):
        DPS(6)(ct_problem(prior=GaussianPrior(math.nan)))


# --- memory -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [*SAMPLERS, REDDiff(12), *WITHOUT], ids=named)
def test_a_method_holds_no_more_volumes_than_it_says(method: Method) -> None:
    """Beside the measurement's own; a volume here is twice a sinogram, so those are counted apart."""
    problem = ct_problem(prior=GaussianPrior())
    tomography = problem.tomography
    assert tomography is not None
    _ = tomography.matrix
    method(problem)  # what is kept from a first run is not counted
    volume, scan = 4 * SLICES * SIZE * SIZE, 4 * problem.measurement.y.numel()
    held = peak_bytes(lambda: method(problem))
    assert held <= method.volumes * volume + 5 * scan
    assert held >= 0.25 * method.volumes * volume


def test_settings_are_plain_values() -> None:
    assert settings(DDSTV()) == {
        "steps": 50,
        "fresh": 1.0,
        "cg": None,
        "strength": 3e-5,
        "rho": 0.0025,
        "trust": 0.1,
    }


def test_a_problem_knows_its_scan() -> None:
    problem = ct_problem()
    assert isinstance(problem, Problem)
    assert problem.like.shape == (1, SLICES, SIZE, SIZE)
    assert problem.slices_axis == -3
    assert mr_problem(real=False).slices_axis == -4
    assert mr_problem().tomography is None
    with pytest.raises(ValueError, match="no prior"):
        problem.denoiser(inverse_schedule())
