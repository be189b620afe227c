"""ASD: its shift, its second term, its one batch of three, and what it comes to without either."""

from __future__ import annotations

import pytest
import torch

from degauss.core.errors import InputError
from degauss.core.noise import Noise
from degauss.threed.distillation.annealing import Ramp
from degauss.threed.distillation.asd import ASD
from degauss.threed.distillation.guidance import ClassifierFree
from degauss.threed.distillation.residual import Level
from degauss.threed.distillation.sds import SDS

from ._distilling import NOISE, SCHEDULE, TIMES, asked, distilled, images, prior

LOW = Ramp.of(0.02)
PLAIN = ClassifierFree(1.0)


def test_without_a_shift_and_without_guidance_nothing_is_left():
    told = ASD(PLAIN, ratio=0.0).residual(asked(), images(), TIMES, NOISE, 0)
    assert torch.equal(told.gradient, torch.zeros_like(told.gradient))
    assert torch.equal(told.target, images())
    # Either brings something back.
    for other in (ASD(PLAIN, t_min=LOW), ASD(ClassifierFree(7.5), ratio=0.0)):
        assert float(other.residual(asked(), images(), TIMES, NOISE, 0).gradient.abs().max()) > 1e-3


def test_both_terms_are_as_the_paper_has_them():
    """One noise for both; the second term at t + D, conditional, without guidance and with the same views."""
    known = prior(ugly=(-1.0, 0.2))
    request, method, step = asked(known, negative="ugly"), ASD(ClassifierFree(7.5), t_min=LOW), 4
    told = method.residual(request, images(), TIMES, NOISE, step)
    later = method.later(TIMES, NOISE, step)
    level, after = Level.of(SCHEDULE, TIMES, images()), Level.of(SCHEDULE, later, images())
    eps = NOISE.fork(step).normal(images())
    x_t, x_after = level.noised(images(), eps), after.noised(images(), eps)
    weak = level.eps(x_t, known.denoiser("ugly")(x_t, TIMES).mean)
    strong = level.eps(x_t, known.denoiser("thing")(x_t, TIMES).mean)
    second = after.eps(x_after, known.denoiser("thing")(x_after, later).mean)
    expected = level.sigma**2 * (weak + 7.5 * (strong - weak) - second)
    assert torch.allclose(told.gradient, expected, atol=1e-10)


def test_three_evaluations_in_one_call():
    for scale, each in ((7.5, 3), (1.0, 2)):
        known = prior()
        told = ASD(ClassifierFree(scale)).residual(asked(known), images(), TIMES, NOISE, 0)
        assert (known.calls, known.rows) == (1, told.evaluations)
        assert told.evaluations == 4 * each


def test_the_shift_is_towards_noise_and_random_by_row():
    noise = Noise(0, range(5000))
    t = torch.full((5000,), 0.52, dtype=torch.float64)
    shift = ASD(t_min=LOW).later(t, noise, 3) - t
    assert 0 < float(shift.min()) < 0.001
    assert 0.049 < float(shift.max()) < 0.05
    assert float(shift.mean()) == pytest.approx(0.025, abs=0.001)
    # Not random at spread 0; none at ratio 0; never past the end; none below the lower end.
    assert torch.allclose(ASD(t_min=LOW, spread=0.0).later(t, noise, 3) - t, torch.tensor(0.05).double())
    assert torch.equal(ASD(t_min=LOW, ratio=0.0).later(t, noise, 3), t)
    assert float(ASD(t_min=LOW, ratio=5.0).later(t, noise, 3).max()) == 0.999
    assert torch.equal(ASD(t_min=Ramp.of(0.6)).later(t, noise, 3), t)


def test_the_shift_follows_the_annealed_lower_end():
    t = torch.tensor([0.6], dtype=torch.float64)
    method, noise = ASD(spread=0.0), Noise(0, [0])
    assert float(method.later(t, noise, 0)) == pytest.approx(0.61)
    assert float(method.later(t, noise, 25_000)) == pytest.approx(0.658)


def test_it_pulls_less_than_sds_where_the_prior_is_right():
    """At guidance 1, on the mean of what the prior knows: SDS still follows its noise, ASD hardly."""
    x0 = torch.full_like(images(), 0.5)
    sds = SDS(PLAIN).residual(asked(), x0, TIMES, NOISE, 0).gradient
    asd = ASD(PLAIN, t_min=LOW).residual(asked(), x0, TIMES, NOISE, 0).gradient
    assert float(asd.norm()) < 0.2 * float(sds.norm())


def test_an_image_gets_to_what_the_prior_knows():
    assert distilled(ASD(PLAIN, t_min=LOW)) < 0.02


def test_rows_are_their_own():
    method, rows = ASD(t_min=LOW), [3, 1]
    whole = method.residual(asked(), images(), TIMES, NOISE, 2).gradient
    part = method.residual(asked(), images()[rows], TIMES[rows], NOISE.take(rows), 2).gradient
    assert torch.equal(whole[rows], part)


@pytest.mark.parametrize("wrong", [{"ratio": -0.1}, {"spread": 1.5}])
def test_what_cannot_be(wrong):
    with pytest.raises(InputError, match="must be"):
        ASD(**wrong)
