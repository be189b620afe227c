"""ISM and TSM: inversion against core's, the empty prompt, the limits of s and mu, and the clipping of pixels."""

from __future__ import annotations

import math

import pytest
import torch

from degauss.core.errors import InputError
from degauss.core.inversion.ddim import InverseDDIM
from degauss.core.kernel import simulate
from degauss.core.noise import Noise
from degauss.threed.distillation.annealing import Ramp
from degauss.threed.distillation.guidance import ClassifierFree
from degauss.threed.distillation.inversion import climb
from degauss.threed.distillation.ism import ISM, Trajectory
from degauss.threed.distillation.residual import Level
from degauss.threed.distillation.tsm import TSM, clip_pixels
from degauss.threed.prior import Condition

from ._distilling import NOISE, SCHEDULE, TIMES, asked, distilled, images, prior, scales, views

START = 0.001
NO_PROMPT = ClassifierFree(0.0)
STILL = Trajectory(Ramp.of(0.0))


def test_the_inversion_is_core_s_row_by_row():
    known = prior()
    found = climb(known, Condition(None), images(), START, TIMES, 0.2)
    counted = 0
    for row in range(4):
        goal = float(TIMES[row])
        grid = torch.tensor([*[START + 0.2 * i for i in range(9) if START + 0.2 * i < goal], goal]).double()
        kernel = InverseDDIM(known.unconditional(), SCHEDULE)
        alone = simulate(kernel, images()[row : row + 1], grid, Noise(0, [0]))
        assert torch.allclose(found.x[row : row + 1], alone, atol=1e-10)
        counted += len(grid) - 1
    assert found.evaluations == counted == 1 + 2 + 3 + 5


def test_rows_that_have_arrived_cost_nothing():
    known = prior()
    found = climb(known, Condition("thing", views(0.0, 1.0, 2.0, 3.0)), images(), START, TIMES, 0.2)
    assert (known.calls, known.rows) == (5, found.evaluations)
    still = climb(known, Condition(None), images(), 0.95, TIMES, 0.2)
    assert torch.equal(still.x, images())
    assert still.evaluations == 0
    assert known.calls == 5


def walk(known, t, interval):
    """x_s by core's inversion of each row, and x_t one step of it further: the long way round."""
    level = Level.of(SCHEDULE, torch.full_like(t, START), images())
    begun = level.noised(images(), NOISE.fork(1).normal(images()))
    s, parts = (t - interval).clamp(min=START), []
    for row in range(len(t)):
        goal = float(s[row])
        grid = torch.tensor([*[START + 0.2 * i for i in range(9) if START + 0.2 * i < goal], goal]).double()
        kernel = InverseDDIM(known.unconditional(), SCHEDULE)
        parts.append(simulate(kernel, begun[row : row + 1], grid, Noise(0, [0])))
    return s, torch.cat(parts)


def test_ism_is_as_the_paper_has_it_with_the_empty_prompt_apart_from_the_negative_one():
    known = prior(ugly=(-1.0, 0.2))
    method = ISM(trajectory=Trajectory(Ramp.of(0.08)))
    told = method.residual(asked(known, negative="ugly"), images(), TIMES, NOISE, 1)
    s, x_s = walk(known, TIMES, 0.08)
    before, level = Level.of(SCHEDULE, s, images()), Level.of(SCHEDULE, TIMES, images())
    mean_s = known.unconditional()(x_s, s).mean
    eps_s = before.eps(x_s, mean_s)
    x_t = level.alpha * mean_s + level.sigma * eps_s
    strong = level.eps(x_t, known.denoiser("thing")(x_t, TIMES).mean)
    weak = level.eps(x_t, known.denoiser("ugly")(x_t, TIMES).mean)
    alpha, sigma = scales()
    expected = 0.1 * sigma / alpha * (weak + 7.5 * (strong - weak) - eps_s)
    assert torch.allclose(told.gradient, expected, atol=1e-9)
    # What the prior wants does not know of the weights.
    assert torch.allclose(told.gradient, 0.1 * (images() - told.target), atol=1e-9)


def test_with_s_at_t_and_no_prompt_nothing_is_left():
    told = ISM(NO_PROMPT, STILL).residual(asked(), images(), TIMES, NOISE, 0)
    assert float(told.gradient.abs().max()) < 1e-12
    assert (
        float(ISM(ClassifierFree(7.5), STILL).residual(asked(), images(), TIMES, NOISE, 0).gradient.abs().max()) > 0.01
    )
    wide = ISM(NO_PROMPT, Trajectory(Ramp.of(0.08)))
    assert float(wide.residual(asked(), images(), TIMES, NOISE, 0).gradient.abs().max()) > 1e-3


def test_evaluations_of_ism_and_tsm():
    """The inversion's strides, one at s, guidance's two; TSM's one more, in the same call as guidance's."""
    t = torch.full((4,), 0.6, dtype=torch.float64)
    for method, each, calls in ((ISM(), 3 + 1 + 2, 3 + 1 + 1), (TSM(), 3 + 1 + 3, 3 + 1 + 1)):
        known = prior()
        told = method.residual(asked(known), images(), t, NOISE, 5000)
        assert (known.calls, known.rows) == (calls, told.evaluations)
        assert told.evaluations == 4 * each


def test_the_interval_is_annealed_and_held_at_the_start():
    path = Trajectory()
    t = torch.tensor([0.05, 0.5], dtype=torch.float64)
    assert path.before(t, 0).tolist() == pytest.approx([START, 0.4])
    assert path.before(t, 1500).tolist() == pytest.approx([START, 0.42])


def test_mu_is_between_s_and_t():
    s, t = torch.tensor([0.3], dtype=torch.float64), torch.tensor([0.38], dtype=torch.float64)
    assert float(TSM(gamma=1.0).between(s, t)) == pytest.approx(0.3)
    assert float(TSM(gamma=0.0).between(s, t)) == pytest.approx(0.38)
    # The paper's gamma leaves less than 4 timesteps of 1000 of an interval of 80.
    assert float(t - TSM().between(s, t)) == pytest.approx(0.08 * (1 - math.sqrt(0.91)))
    assert 0.0036 < float(t - TSM().between(s, t)) < 0.0037


def test_tsm_between_its_limits():
    """gamma 1 is ISM; gamma 0 without a prompt is nothing; in between it is the closer to ISM the larger."""
    path = Trajectory(Ramp.of(0.08))

    def gradient(method: ISM | TSM) -> torch.Tensor:
        return method.residual(asked(), images(), TIMES, NOISE, 0).gradient

    assert torch.allclose(gradient(TSM(trajectory=path, gamma=1.0)), gradient(ISM(trajectory=path)), atol=1e-10)
    assert float(gradient(TSM(NO_PROMPT, path, gamma=0.0)).abs().max()) < 1e-10
    assert float(gradient(TSM(NO_PROMPT, path, gamma=1.0)).abs().max()) > 1e-3
    sizes = [float(gradient(TSM(NO_PROMPT, path, gamma=gamma)).norm()) for gamma in (0.0, 0.3, 0.7, 1.0)]
    assert sizes == sorted(sizes)


def test_at_the_published_gamma_guidance_is_nearly_all_there_is():
    """So a prior that has no doubt which object it sees leaves an image as wrong as it is, and ISM does not."""
    path = Trajectory(Ramp.of(0.08))
    guidance = ISM(trajectory=STILL).residual(asked(), images(), TIMES, NOISE, 0).gradient
    published = TSM(trajectory=path).residual(asked(), images(), TIMES, NOISE, 0).gradient
    wide = ISM(trajectory=path).residual(asked(), images(), TIMES, NOISE, 0).gradient

    def alike(one: torch.Tensor, other: torch.Tensor) -> float:
        return float(torch.nn.functional.cosine_similarity(one.flatten(), other.flatten(), dim=0))

    assert alike(published, guidance) > 0.999
    assert alike(published, guidance) > alike(wide, guidance)
    plain = ClassifierFree(1.0)
    assert distilled(TSM(plain, path), std=0.3) > 0.5
    assert distilled(TSM(plain, path, gamma=1.0), std=0.3) < 0.05


def test_an_image_gets_to_what_a_smooth_prior_knows():
    """Through a prior of single sharp images the inversion is stiff; with some blur it is not."""
    assert distilled(ISM(ClassifierFree(1.0), Trajectory(Ramp.of(0.08))), std=0.3) < 0.05


def test_rows_are_their_own():
    rows = [3, 1]
    for method in (ISM(), TSM()):
        whole = method.residual(asked(), images(), TIMES, NOISE, 2).gradient
        part = method.residual(asked(), images()[rows], TIMES[rows], NOISE.take(rows), 2).gradient
        assert torch.allclose(whole[rows], part, atol=1e-14)


def test_clipping_keeps_the_direction_of_each_pixel():
    gradient = 0.2 * images()
    clipped = clip_pixels(gradient, 0.05)
    assert float(clipped.abs().max()) <= 0.05 + 1e-12
    along = torch.nn.functional.cosine_similarity(gradient, clipped, dim=1)
    assert torch.allclose(along, torch.ones_like(along))
    # As published: times the smallest of min(1, most / |g|) over the channels.
    factor = (0.05 / gradient.abs()).clamp(max=1).amin(1, keepdim=True)
    assert torch.allclose(clipped, factor * gradient)
    small = 0.01 * gradient / gradient.abs().max()
    assert torch.equal(clip_pixels(small, 0.05), small)
    assert torch.equal(clip_pixels(torch.zeros(1, 3, 2, 2)), torch.zeros(1, 3, 2, 2))
    assert torch.allclose(clip_pixels(gradient.movedim(1, -1), 0.05, channels=-1).movedim(-1, 1), clipped)
    with pytest.raises(ValueError, match="above 0"):
        clip_pixels(gradient, 0.0)


def test_it_is_a_hook_on_renders():
    x0 = images().requires_grad_()
    render = x0 * 1.0
    render.register_hook(clip_pixels)
    (found,) = torch.autograd.grad((render**2).sum(), x0)
    assert torch.allclose(found, clip_pixels(2 * images()))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Trajectory(start=0.0),
        lambda: Trajectory(stride=0.0),
        lambda: Trajectory(Ramp.of(-0.1)),
        lambda: TSM(gamma=1.1),
    ],
)
def test_what_cannot_be(wrong):
    with pytest.raises(InputError, match="must be"):
        wrong()
