"""Shallow diffusion: its limits, its law, and what it costs."""

from __future__ import annotations

import math

import pytest
import torch

from degauss.audio.acoustic import AcousticConfig, AcousticModel, Statistics
from degauss.audio.shallow import Counted, at_index, at_time, draw, shallow, start
from degauss.audio.spectra import MelConfig
from degauss.core.errors import InputError
from degauss.core.gaussian import Heun, ddim, dpmpp
from degauss.core.noise import Noise
from degauss.core.oracle import GaussianOracle
from degauss.core.posterior import Point
from degauss.core.sampling import sample
from degauss.core.solvers import SOLVERS, solver_of


@pytest.fixture(scope="module")
def model() -> AcousticModel:
    mels = 6
    config = AcousticConfig(
        ("SP", "aa"), mel=MelConfig(n_fft=512, n_mels=mels), hidden=16, blocks=1, channels=8, layers=2, prediction="x0"
    )
    made = AcousticModel.new(config, Statistics(torch.zeros(mels), torch.ones(mels), torch.zeros(1)))
    torch.manual_seed(0)
    torch.nn.init.normal_(made.network.wavenet.output_projection.weight, std=0.2)
    made.network.eval().requires_grad_(False)
    return made


@pytest.fixture(scope="module")
def condition() -> torch.Tensor:
    """Two rows, the second one shorter."""
    torch.manual_seed(1)
    condition = torch.randn(2, 16, 9)
    condition[1, :, 5:] = 0
    return condition


def test_from_the_end_it_is_plain_sampling_to_the_bit(model, condition):
    told = condition[:1]
    drawn = draw(model, told, at_index(100), solver=dpmpp(2), steps=7, seed=3, samples=[5])
    plain = sample(model.denoiser(told), model.schedule, (1, 6, 9), solver=dpmpp(2), steps=7, seed=3, samples=[5])
    assert torch.equal(drawn.mel, plain)
    assert drawn.evaluations == (7,)


def test_from_the_beginning_it_is_the_auxiliary(model, condition):
    drawn = draw(model, condition[:1], at_index(0), solver=ddim(), steps=7)
    assert torch.equal(drawn.mel, model.auxiliary(condition[:1]))
    assert (drawn.times, drawn.evaluations) == ((0.0,), (0,))


def test_the_start_is_the_noised_auxiliary(model):
    auxiliary, noise = torch.rand(2, 6, 9), Noise(1, [0, 4])
    alpha, sigma = (float(scale) for scale in model.schedule(torch.tensor(0.4)))
    expected = alpha * auxiliary + sigma * noise.normal(auxiliary)
    torch.testing.assert_close(start(model.schedule, auxiliary, 0.4, noise), expected)


@pytest.mark.parametrize(
    ("solver", "steps"), [(ddim(), 60), (ddim(eta=1.0), 300), (dpmpp(2), 30)], ids=["ddim", "ancestral", "dpmpp"]
)
def test_a_true_start_gives_the_true_law(model, solver, steps):
    """From samples of the data in place of the auxiliary, an exact denoiser leads back to the data's own law."""
    mean, deviation, count = 0.3, 0.5, 2000
    oracle = GaussianOracle(model.schedule, mean, deviation)
    clean = mean + deviation * Noise(9, range(count)).normal(torch.empty(count, 1))
    out = shallow(oracle, model.schedule, clean, 0.6, solver=solver, steps=steps, noise=Noise(0, range(count)))
    assert math.isclose(float(out.mean()), mean, abs_tol=3 * deviation / math.sqrt(count))
    assert math.isclose(float(out.std()), deviation, rel_tol=0.05)
    # From a blurred auxiliary, its mean, only part of the spread comes back, the more the later it starts.
    spread = [
        float(shallow(oracle, model.schedule, torch.full_like(clean, mean), t, solver=solver, steps=steps,
                      noise=Noise(0, range(count))).std())
        for t in (0.1, 0.3, 0.6)
    ]  # fmt: skip
    assert spread[0] < spread[1] < spread[2] < 1.05 * deviation


def test_rows_are_their_own(model, condition):
    both = draw(model, condition, at_time(0.5), solver=ddim(eta=1.0), steps=4, samples=[7, 8])
    alone = draw(model, condition[1:, :, :5], at_time(0.5), solver=ddim(eta=1.0), steps=4, samples=[8])
    assert torch.equal(both.mel[1, :, :5], alone.mel[0])
    assert not bool(both.mel[1, :, 5:].any())
    other = draw(model, condition[1:], at_time(0.5), solver=ddim(eta=1.0), steps=4, samples=[9])
    assert not torch.allclose(other.mel[0], both.mel[1])


def test_a_boundary_of_each_utterance(model, condition):
    """It is asked row by row, without padding, and what it says is where the row starts."""
    asked: list[tuple[int, int]] = []

    def boundary(told, auxiliary):
        asked.append((told.shape[2], auxiliary.shape[2]))
        return torch.tensor([0.2 if told.shape[2] == 5 else 0.7])

    drawn = draw(model, condition, boundary, solver=ddim())
    assert asked == [(9, 9), (5, 5)]
    assert drawn.times == pytest.approx((0.7, 0.2))
    # Without a number of steps, each of the K steps of T.
    assert drawn.evaluations == (70, 20)
    fixed = draw(model, condition[1:], at_index(20), solver=ddim(), samples=[1])
    torch.testing.assert_close(fixed.mel[0], drawn.mel[1], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", SOLVERS)
def test_every_solver_by_name(model, condition, name):
    evaluations: list[int] = []
    drawn = draw(model, condition[:1], at_time(0.6), solver=solver_of(name), steps=5, report=evaluations.append)
    assert bool(torch.isfinite(drawn.mel).all())
    expected = {"heun": 9, "singlestep": 9}.get(name, 5)
    assert drawn.evaluations == (expected,)
    assert evaluations == list(range(1, expected + 1))


def test_what_cannot_be(model, condition):
    with pytest.raises(InputError, match="solver cannot start at t = 1"):
        draw(model, condition[:1], at_time(1.0), solver=Heun, steps=4)
    with pytest.raises(InputError, match="K must be between 0 and 100, but is 101"):
        at_index(101)
    with pytest.raises(InputError, match="boundary must be between 0 and 1"):
        draw(model, condition[:1], lambda c, a: 1.5, solver=ddim(), steps=4)
    with pytest.raises(InputError, match="steps must be at least 1"):
        draw(model, condition[:1], at_time(0.5), solver=ddim(), steps=0)
    with pytest.raises(InputError, match="solver must be one of"):
        solver_of("euler")


def test_counted():
    counted = Counted(lambda x, t, **_: Point(x))
    for _ in range(3):
        counted(torch.zeros(1), torch.tensor(0.5))
    assert counted.evaluations == 3
