"""What methods share: the injected loss, the weights, guidance and what its scale means."""

from __future__ import annotations

import pytest
import torch

from degauss.core.errors import InputError
from degauss.threed.distillation.guidance import ClassifierFree, guided_denoiser
from degauss.threed.distillation.residual import (
    Block,
    Level,
    Residual,
    ask,
    by_ratio,
    by_signal_and_variance,
    by_variance,
    loss,
    uniform,
)
from degauss.threed.prior import Condition

from ._distilling import SCHEDULE, TIMES, asked, images, prior, scales, views


def test_the_loss_injects_the_gradient_over_the_batch():
    x0 = images().requires_grad_()
    gradient = images(1)
    (found,) = torch.autograd.grad(loss(x0, Residual(gradient, x0, 0)), x0)
    assert torch.allclose(found, gradient / 4, atol=1e-14)


def test_weights_are_those_of_the_papers():
    alpha, sigma = scales()
    alpha_bar = alpha**2
    assert torch.allclose(by_variance(alpha, sigma), 1 - alpha_bar)
    assert torch.equal(uniform(alpha, sigma), torch.ones_like(alpha))
    assert torch.allclose(by_signal_and_variance(alpha, sigma), alpha_bar.sqrt() * (1 - alpha_bar))
    assert torch.allclose(by_ratio(alpha, sigma), ((1 - alpha_bar) / alpha_bar).sqrt())


def test_gradient_and_wanted_image_say_the_same():
    level = Level.of(SCHEDULE, TIMES, images())
    alpha, sigma = scales()
    for weighting in (by_variance, uniform, by_ratio):
        told = level.residual(images(), images(1), weighting, 3)
        weight = weighting(alpha, sigma) * alpha / sigma
        assert torch.allclose(told.gradient, weight * (images() - told.target), atol=1e-12)


def test_levels_go_both_ways():
    level = Level.of(SCHEDULE, TIMES, images())
    x_t = level.noised(images(), images(1))
    assert torch.allclose(level.eps(x_t, images()), images(1), atol=1e-12)
    with pytest.raises(ValueError, match="a time for each of 4 images"):
        Level.of(SCHEDULE, TIMES[:2], images())


def test_blocks_are_asked_in_one_batch_and_kept_apart():
    known = prior()
    both = ask(known, [Block(Condition("thing"), images(), TIMES), Block(Condition(None), images(1), TIMES)])
    assert (known.calls, known.rows) == (1, 8)
    assert torch.equal(both[0], known.denoiser("thing")(images(), TIMES).mean)
    assert torch.equal(both[1], known.unconditional()(images(1), TIMES).mean)


def test_what_the_scale_of_guidance_means():
    """s: none + s (prompt - none). threestudio's SDS counts prompt + s (prompt - none), which is s + 1."""
    request, x = asked(), images()
    strong, weak = request.prior.denoiser("thing")(x, TIMES).mean, request.prior.unconditional()(x, TIMES).mean

    def found(guidance: ClassifierFree) -> torch.Tensor:
        return guided_denoiser(request, guidance)(x, TIMES).mean

    assert torch.equal(found(ClassifierFree(1.0)), strong)
    assert torch.allclose(found(ClassifierFree(0.0)), weak, atol=1e-12)
    assert torch.allclose(found(ClassifierFree(7.5)), weak + 7.5 * (strong - weak), atol=1e-12)
    assert torch.allclose(found(ClassifierFree.beyond(7.5)), strong + 7.5 * (strong - weak), atol=1e-12)
    assert not torch.allclose(found(ClassifierFree.beyond(7.5)), found(ClassifierFree(7.5)), atol=1e-3)
    # As the noise has it: the combination is the same.
    level = Level.of(SCHEDULE, TIMES, x)
    noise = level.eps(x, weak) + 7.5 * (level.eps(x, strong) - level.eps(x, weak))
    assert torch.allclose(level.eps(x, found(ClassifierFree(7.5))), noise, atol=1e-10)
    assert torch.allclose(found(ClassifierFree(7.5)), request.prior.denoiser("thing", 7.5)(x, TIMES).mean, atol=1e-12)


def test_scale_one_costs_half_and_a_negative_prompt_takes_the_weak_side():
    known = prior(ugly=(-1.0, 0.2))
    assert len(ClassifierFree(1.0).conditions(asked(known))) == 1
    conditions = ClassifierFree(7.5).conditions(asked(known, negative="ugly", views=views(1.0, 2.0, 3.0, 4.0)))
    assert [condition.prompt for condition in conditions] == ["thing", "ugly"]
    assert all(condition.views is not None for condition in conditions)


def test_rescaling_keeps_the_spread_of_the_prompt_s_mean():
    request, x = asked(), images()
    strong = request.prior.denoiser("thing")(x, TIMES).mean

    def spread(guidance: ClassifierFree) -> torch.Tensor:
        return guided_denoiser(request, guidance)(x, TIMES).mean.std((1, 2, 3))

    wanted, plain = strong.std((1, 2, 3)), spread(ClassifierFree(20.0))
    assert torch.allclose(spread(ClassifierFree(20.0, rescale=1.0)), wanted, atol=1e-10)
    assert torch.allclose(spread(ClassifierFree(20.0, rescale=0.5)), 0.5 * (wanted + plain), atol=1e-10)
    with pytest.raises(InputError, match="rescale must be between 0 and 1"):
        ClassifierFree(5.0, rescale=1.5)
