"""VSD: the optimum that SDS lacks; low-rank additions that are nothing at first, that learn, and that resume."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from degauss.core.checkpoint import load_tree, save_tree
from degauss.core.denoiser import Denoiser, v_prediction
from degauss.core.errors import InputError
from degauss.core.noise import Noise
from degauss.core.oracle import GaussianOracle
from degauss.core.posterior import Point
from degauss.threed.distillation.guidance import ClassifierFree
from degauss.threed.distillation.lora import LowRank
from degauss.threed.distillation.residual import Level
from degauss.threed.distillation.sds import SDS
from degauss.threed.distillation.vsd import VSD, RendersScore
from degauss.threed.prior import Condition, HasNetwork, block_rows

from ._distilling import NOISE, SCHEDULE, TIMES, GaussianPrior, asked, images, prior, views

PLAIN = VSD(ClassifierFree(1.0))
SEEN = views(0.0, 90.0, 180.0, -90.0)
ONE = Noise(5, [0])


class Net(nn.Module):
    """A convolution of 3 x 3, one of 1 x 1 and a linear layer of the time, whose weights are fixed."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.enter, self.time, self.leave = nn.Conv2d(3, 16, 3, padding=1), nn.Linear(1, 16), nn.Conv2d(16, 3, 1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.leave(torch.tanh(self.enter(x) + self.time(t[:, None])[..., None, None]))


class NetworkPrior(GaussianPrior):
    """A prior with a network that says the same whatever it is told."""

    def __init__(self) -> None:
        super().__init__({None: (0.0, 1.0), "thing": (0.0, 1.0)})
        self.network = Net()

    def together(self, conditions: Sequence[Condition], /) -> Denoiser[Point]:
        answer = v_prediction(self.network, SCHEDULE)

        def counted(x: Tensor, t: Tensor, /, **cond: Any) -> Point:
            block_rows(len(x), conditions)
            self.calls, self.rows = self.calls + 1, self.rows + len(x)
            return answer(x, t, **cond)

        return counted


def renders_of(mean: float, std: float) -> GaussianOracle:
    return GaussianOracle(SCHEDULE, mean, std)


# --- the residual -------------------------------------------------------------------------------------------


def test_renders_of_the_prior_s_distribution_stay_which_sds_does_not_let_them():
    x0 = 0.5 + 0.3 * images()
    told = PLAIN.residual(asked(), x0, TIMES, NOISE, 0, renders=renders_of(0.5, 0.3))
    assert float(told.gradient.abs().max()) < 1e-12
    assert torch.allclose(told.target, x0, atol=1e-12)
    sds = SDS(ClassifierFree(1.0)).residual(asked(), x0, TIMES, NOISE, 0)
    assert float(sds.gradient.norm()) > 0.5
    # With renders all alike, at x0 and of no spread, the two are one.
    alike = PLAIN.residual(asked(), x0, TIMES, NOISE, 0, renders=lambda x, t, **_: Point(x0))
    assert torch.allclose(alike.gradient, sds.gradient, atol=1e-12)


@pytest.mark.parametrize(("variational", "spread"), [(True, (0.24, 0.36)), (False, (0.0, 0.1))])
def test_particles_spread_as_the_prior_under_vsd_and_collapse_under_sds(variational, spread):
    """512 particles from N(-1, 0.6^2), the prior N(0.5, 0.3^2)."""
    count = 512
    noise = Noise(0, range(count))
    x = -1 + 0.6 * noise.fork(1).normal(torch.empty(count, 1, 1, 1))
    for step in range(150):
        t = torch.full((count,), 0.5 + 0.4 * (step % 5 - 2) / 2, dtype=torch.float64)
        if variational:
            renders = renders_of(float(x.mean()), float(x.std()))
            told = PLAIN.residual(asked(), x, t, noise, step, renders=renders)
        else:
            told = SDS(ClassifierFree(1.0)).residual(asked(), x, t, noise, step)
        x = x - 0.15 * (x - told.target)
    assert float(x.mean()) == pytest.approx(0.5, abs=0.1)
    assert spread[0] < float(x.std()) < spread[1]


def test_it_is_as_the_paper_has_it():
    request = asked()
    told = VSD().residual(request, images(), TIMES, NOISE, 2, renders=renders_of(-0.2, 0.5))
    level = Level.of(SCHEDULE, TIMES, images())
    x_t = level.noised(images(), NOISE.fork(2).normal(images()))
    guided = level.eps(x_t, request.prior.denoiser("thing", 7.5)(x_t, TIMES).mean)
    own = level.eps(x_t, renders_of(-0.2, 0.5)(x_t, TIMES).mean)
    assert torch.allclose(told.gradient, level.sigma**2 * (guided - own), atol=1e-10)
    assert told.evaluations == 4 * 3


# --- low-rank additions -------------------------------------------------------------------------------------


def run(network: nn.Module, x: Tensor) -> Tensor:
    return network(x, torch.linspace(0.1, 0.9, len(x)))


def test_at_first_they_change_nothing_and_never_without_being_active():
    network, x = Net(), images(dtype=torch.float32)
    before, keys = run(network, x), set(network.state_dict())
    additions = LowRank(network, ONE, conditions=3)
    told = SEEN.direction.float()
    with additions.active(told):
        assert torch.equal(run(network, x), before)
    with torch.no_grad():
        for weight in additions.parameters():
            weight.normal_(generator=torch.Generator().manual_seed(1))
    with additions.active(told):
        changed = run(network, x)
    assert not torch.allclose(changed, before, atol=0.1)
    assert torch.equal(run(network, x), before)
    assert set(network.state_dict()) == keys
    with additions.active(-told):
        assert not torch.allclose(run(network, x), changed, atol=0.1)
    # Each row is told its own.
    with additions.active(told[[1, 0]]):
        both = run(network, x[[1, 0]])
    with additions.active(told[[1]]):
        alone = run(network, x[[1]])
    assert torch.allclose(both[:1], alone, atol=1e-5)


def test_they_are_of_low_rank_and_known_by_their_layers():
    additions = LowRank(Net(), ONE, rank=2)
    assert set(additions.layers) == {"enter", "time", "leave"}
    shapes = {name: tuple(weight.shape) for name, weight in additions.adapters["enter"].named_parameters()}
    assert shapes == {"down.weight": (2, 3, 3, 3), "up.weight": (16, 2, 1, 1)}
    # One layer alone is a network too; a linear one's addition is U D.
    layer = nn.Linear(5, 4)
    alone = LowRank(layer, ONE, rank=2)
    with torch.no_grad():
        for weight in alone.parameters():
            weight.normal_(generator=torch.Generator().manual_seed(2))
    adapter = alone.adapters["/"]
    x = torch.randn(3, 7, 5, generator=torch.Generator().manual_seed(3))
    with alone.active():
        added = layer(x)
    down, up = (dict(adapter.named_parameters())[name] for name in ("down.weight", "up.weight"))
    assert torch.allclose(added, layer(x) + x @ (up @ down).mT, atol=1e-5)


def test_they_start_alike_for_one_seed():
    first, second, other = (LowRank(Net(), noise) for noise in (ONE, Noise(5, [0]), Noise(6, [0])))
    pairs = list(zip(first.parameters(), second.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert not all(torch.equal(a, c) for a, _, c in pairs)
    assert bool((first.adapters["enter"].get_parameter("down.weight") != 0).all())


def test_a_network_without_layers_and_a_prior_without_a_network():
    with pytest.raises(ValueError, match="no linear or convolution layer"):
        LowRank(nn.Identity(), ONE)
    with pytest.raises(ValueError, match="at least 1"):
        LowRank(Net(), ONE, rank=0)
    with pytest.raises(InputError, match="GaussianPrior has none"):
        VSD().begin(prior(), ONE)
    assert isinstance(NetworkPrior(), HasNetwork)


# --- the score they learn -----------------------------------------------------------------------------------


def error(score: RendersScore, request: Any, mean: Tensor) -> float:
    """Of the learned posterior mean against the exact one, root mean square, away from the smallest noise."""
    noise = Noise(8, range(64))
    x0 = mean[:1] + 0.2 * noise.normal(torch.empty(64, 3, 4, 4))
    t = torch.linspace(0.3, 0.9, 64, dtype=torch.float64)
    x_t = Level.of(SCHEDULE, t, x0).noised(x0, noise.normal(x0, 1))
    with torch.no_grad():
        found = score.denoiser(request)(x_t, t).mean
    return float((found - GaussianOracle(SCHEDULE, mean[:1], 0.2)(x_t, t).mean).square().mean().sqrt())


def test_they_learn_the_score_of_gaussian_renders():
    known = NetworkPrior()
    request = asked(known)
    score = RendersScore(known, ONE, rank=8, rate=1e-2)
    mean = torch.tensor([0.6, -0.4, 0.1]).reshape(1, 3, 1, 1)
    before, frozen = error(score, request, mean), {k: v.clone() for k, v in known.network.state_dict().items()}
    noise = Noise(0, range(32))
    losses: list[float] = []
    for step in range(250):
        renders = mean + 0.2 * noise.fork(step).normal(torch.empty(32, 3, 4, 4), 9)
        losses.append(float(score.learn(request, renders, noise, step).loss))
    assert error(score, request, mean) < 0.35 * before
    assert sum(losses[-20:]) < 0.5 * sum(losses[:20])
    assert all(torch.equal(value, frozen[name]) for name, value in known.network.state_dict().items())
    assert all(weight.grad is None for weight in known.network.parameters())


def test_they_learn_the_camera():
    """Renders of 0.8 from the front and -0.8 from behind: a score without cameras could only know 0."""
    known = NetworkPrior()
    score = RendersScore(known, ONE, rank=8, rate=1e-2, drop=0.0)
    seen = views(*(0.0, 180.0) * 16)
    sides = torch.tensor([0.8, -0.8]).repeat(16).reshape(32, 1, 1, 1)
    noise = Noise(0, range(32))
    for step in range(200):
        score.learn(
            asked(known, views=seen), sides + 0.05 * noise.fork(step).normal(torch.empty(32, 3, 4, 4), 9), noise, step
        )
    x_t, t = torch.zeros(2, 3, 4, 4), torch.full((2,), 0.95, dtype=torch.float64)
    with torch.no_grad():
        front, back = score.denoiser(asked(known, views=views(0.0, 180.0)))(x_t, t).mean.mean((1, 2, 3)).tolist()
    assert front > 0.5
    assert back < -0.5


def test_a_residual_is_also_a_lesson_and_is_counted():
    known = NetworkPrior()
    method = VSD(rate=1e-2).begin(known, ONE)
    request, x0 = asked(known, views=SEEN), images(dtype=torch.float32)
    first = method.residual(request, x0, TIMES, NOISE, 0)
    assert first.evaluations == known.rows == 4 * 4
    # The prior's network is the additions' at first, so at guidance 1 there is nothing to say; then there is.
    plain = VSD(ClassifierFree(1.0), rate=1e-2).begin(known, ONE)
    assert float(plain.residual(request, x0, TIMES, NOISE, 0).gradient.abs().max()) < 1e-6
    assert float(plain.residual(request, x0, TIMES, NOISE, 1).gradient.abs().max()) > 1e-5


def test_a_run_goes_on_where_it_stopped(tmp_path):
    def after(method: Any, steps: range) -> Tensor:
        told = images(dtype=torch.float32)
        for step in steps:
            told = told - 0.1 * method.residual(asked(known, views=SEEN), told, TIMES, NOISE, step).gradient
        return told

    known = NetworkPrior()
    whole, cut = (VSD(rate=1e-2).begin(known, ONE) for _ in range(2))
    after(whole, range(3))
    after(cut, range(3))
    save_tree(tmp_path, "method", cut.state_dict())
    again = VSD(rate=1e-2).begin(known, Noise(99, [0]))
    again.load_state_dict(load_tree(tmp_path, "method"))
    assert torch.equal(after(whole, range(3, 6)), after(again, range(3, 6)))
