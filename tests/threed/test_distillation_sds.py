"""SDS against its closed form, its form as a distance, what it finds, and what it does not."""

from __future__ import annotations

import pytest
import torch

from degauss.core.noise import Noise
from degauss.threed.distillation.guidance import ClassifierFree
from degauss.threed.distillation.residual import by_ratio, by_variance, loss, uniform
from degauss.threed.distillation.sds import SDS, mvdream, x0_form

from ._distilling import NOISE, SCHEDULE, SHAPE, TIMES, asked, distilled, images, prior, scales

PLAIN = SDS(ClassifierFree(1.0))


def test_the_expected_gradient_on_gaussian_data():
    """w alpha sigma / (alpha^2 s^2 + sigma^2) (x0 - m)."""
    draws, t = 40_000, 0.4
    x0 = torch.tensor([1.3, -0.7, 0.2], dtype=torch.float64).reshape(1, 3, 1, 1).expand(draws, 3, 1, 1)
    times = torch.full((draws,), t, dtype=torch.float64)
    found = PLAIN.residual(asked(), x0, times, Noise(0, range(draws)), 0).gradient
    alpha, sigma = SCHEDULE(torch.tensor(t, dtype=torch.float64))
    expected = sigma**2 * alpha * sigma / (alpha**2 * 0.09 + sigma**2) * (x0[0] - 0.5)
    error = found.std(0) / draws**0.5
    assert bool(((found.mean(0) - expected).abs() < 4 * error).all())
    assert bool((error < 0.01 * expected.abs()).all())


@pytest.mark.parametrize("method", [PLAIN, SDS(), SDS(ClassifierFree(7.5), uniform), mvdream()])
def test_it_is_the_gradient_of_a_distance_to_what_the_prior_wants(method):
    x0 = images(dtype=torch.float32).requires_grad_()
    told = method.residual(asked(), x0, TIMES, NOISE, 5)
    (one,) = torch.autograd.grad(loss(x0, told), x0)
    (other,) = torch.autograd.grad(x0_form(x0, told.target, SCHEDULE, TIMES, method.weighting), x0)
    assert float((one - other).norm() / other.norm()) < 1e-5


def test_the_target_is_the_posterior_mean():
    request = asked()
    told = PLAIN.residual(request, images(), TIMES, NOISE, 2)
    alpha, sigma = scales()
    x_t = alpha * images() + sigma * NOISE.fork(2).normal(images())
    mean = request.prior.denoiser("thing")(x_t, TIMES).mean
    assert torch.allclose(told.target, mean, atol=1e-12)
    eps_hat = (x_t - alpha * mean) / sigma
    assert torch.allclose(told.gradient, sigma**2 * (eps_hat - NOISE.fork(2).normal(images())), atol=1e-12)
    # By the ratio, the gradient is the plain distance.
    plain = SDS(ClassifierFree(1.0), by_ratio).residual(request, images(), TIMES, NOISE, 2)
    assert torch.allclose(plain.gradient, images() - plain.target, atol=1e-12)


def test_evaluations_are_counted_in_one_call():
    for method, each in ((PLAIN, 1), (SDS(ClassifierFree(7.5)), 2)):
        known = prior()
        told = method.residual(asked(known), images(), TIMES, NOISE, 0)
        assert (known.calls, known.rows) == (1, told.evaluations)
        assert told.evaluations == 4 * each


def test_a_row_does_not_depend_on_its_batch_but_on_its_step():
    whole = SDS().residual(asked(), images(), TIMES, NOISE, 7)
    rows = [2, 0]
    part = SDS().residual(asked(), images()[rows], TIMES[rows], NOISE.take(rows), 7)
    assert torch.equal(whole.gradient[rows], part.gradient)
    other = SDS().residual(asked(), images(), TIMES, NOISE, 8)
    assert not torch.allclose(whole.gradient, other.gradient, atol=1e-3)


def test_nothing_is_differentiated():
    x0 = images().requires_grad_()
    told = SDS().residual(asked(), x0, TIMES, NOISE, 0)
    assert not told.gradient.requires_grad
    assert not told.target.requires_grad


def test_an_image_gets_to_what_the_prior_knows_and_with_the_wrong_sign_does_not():
    """The mode of the posterior is the one image of the prompt that is seen from there."""
    assert distilled(PLAIN) < 0.01
    assert distilled(PLAIN, sign=-1.0) > 2


def test_shapes_of_the_prior_are_kept():
    told = SDS(weighting=by_variance).residual(asked(), images(), TIMES, NOISE, 0)
    assert told.gradient.shape == told.target.shape == SHAPE
