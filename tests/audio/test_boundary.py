"""The boundary of shallow diffusion: each rule against a case whose answer is known, and the published mistakes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from degauss.audio.boundary import (
    LEAST_KL,
    AdaptiveStart,
    Boundary,
    Divergence,
    Margin,
    Sweep,
    decreasing,
    earliest,
    energy_score,
    kl_allowed,
    kl_rule,
    kl_step,
    margin_rule,
    sweep_rule,
)
from degauss.audio.boundary_net import BoundaryConfig, BoundaryNet, Crops, Pair, boundary_loss, fit_classifier, recipe
from degauss.audio.boundary_plots import boundary_picture
from degauss.core import Cosine, InputError, LinearVP, Noise, ZeroTerminalSNR
from degauss.core.schedule import DiscreteVP, linear_betas

PUBLISHED = DiscreteVP.from_betas(linear_betas(100, 1e-4, 0.06))
STEPS = 100


def pairs_of(distance: float, energy: float, count: int = 3, shape: tuple[int, int] = (16, 40)) -> list[Pair]:
    """Pairs whose mean squared distance and mean square of the truth are exactly these."""
    noise = Noise(0, range(2 * count))
    normals = noise.normal(torch.empty(2 * count, *shape, dtype=torch.float64))
    normals = normals / normals.square().mean((1, 2), keepdim=True).sqrt()
    truths, gaps = normals[:count] * energy**0.5, normals[count:] * distance**0.5
    return [Pair(truth, truth + gap) for truth, gap in zip(truths, gaps, strict=True)]


# --- the earliest step ----------------------------------------------------------------------------------------


def test_earliest_step_of_which_most_are_fine() -> None:
    fine = np.zeros((5, 100), dtype=bool)
    fine[0, 59:] = True  # steps 60 to 100
    fine[1, 59:] = True
    fine[1, 79] = False  # one of the last 41 is not: 97.6 %
    fine[2, 59:] = True
    fine[2, [80, 85, 90]] = False  # 3 of 41 are not: the share is met from 92 on, which are the last without
    fine[3] = True
    found = earliest(fine)
    assert found[0] == 58  # 41 of 43 are 95.3 %, 41 of 44 are 93.2 %
    assert found[1] == 59  # 40 of 42 are 95.2 %
    assert found[2] == 92
    assert found[3] == 1
    assert found[4] == 100
    for row, step in zip(fine, found, strict=True):
        shares = [row[k - 1 :].mean() >= 0.95 for k in range(1, 101)]
        assert step == (shares.index(True) + 1 if any(shares) else 100)


@settings(max_examples=50)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_decreasing_curve_is_isotonic_regression(values: list[float]) -> None:
    want = scipy.optimize.isotonic_regression(np.array(values), increasing=False).x
    np.testing.assert_allclose(decreasing(np.array(values)), want, atol=1e-12)


# --- Kullback-Leibler -----------------------------------------------------------------------------------------


def brute_force(schedule: object, distance: float, energy: float) -> int:
    """K by trying every step, with torch's own divergence of normals; element by element."""
    t = torch.arange(1, STEPS + 1, dtype=torch.float64) / STEPS
    alpha, sigma = schedule(t)  # pyright: ignore[reportCallIssue]
    gap = torch.tensor([distance**0.5, -(distance**0.5)], dtype=torch.float64)
    level = torch.tensor([energy**0.5, -(energy**0.5)], dtype=torch.float64)

    def normal(mean: Tensor, scale: Tensor) -> torch.distributions.Normal:
        return torch.distributions.Normal(mean, scale.expand_as(mean))

    divergence = torch.distributions.kl_divergence
    prior = normal(torch.zeros(2, dtype=torch.float64), torch.ones((), dtype=torch.float64))
    allowed = max(float(divergence(normal(alpha[-1] * level, sigma[-1]), prior).mean()), LEAST_KL)
    for k, (a, s) in enumerate(zip(alpha, sigma, strict=True), 1):
        if float(divergence(normal(a * level, s), normal(a * (level + gap), s)).mean()) <= allowed:
            return k
    return STEPS


@pytest.mark.parametrize("schedule", [PUBLISHED, LinearVP(0.01, 6.0), ZeroTerminalSNR(LinearVP(0.01, 6.0)), Cosine()])
@pytest.mark.parametrize("distance", [1e-3, 0.01, 0.03, 0.1, 0.5])
@pytest.mark.parametrize("energy", [0.2, 0.6])
def test_kl_step_is_the_first_that_is_near_enough(schedule: object, distance: float, energy: float) -> None:
    found = kl_step(schedule, STEPS, distance, energy)  # pyright: ignore[reportArgumentType]
    assert found == brute_force(schedule, distance, energy)


def test_kl_rule_finds_the_step_it_was_made_for() -> None:
    """Choose K, then mels as far apart as closes the inequality between K - 1 and K; also where utterances differ."""
    for step in (20, 45, 71, 90):
        middle = torch.tensor((step - 0.5) / STEPS, dtype=torch.float64)
        snr = float(PUBLISHED.log_snr(middle).exp())
        distance = 2 * kl_allowed(PUBLISHED, 0.4) / snr
        found = kl_rule(PUBLISHED, pairs_of(distance, 0.4), STEPS)
        assert (found.step, found.each) == (step, (step,) * 3)
        assert found.distance == pytest.approx(distance)
    near, far = pairs_of(0.01, 0.4, 1), pairs_of(0.09, 0.4, 1, (16, 120))
    both = kl_rule(PUBLISHED, [*near, *far], STEPS)
    assert both.distance == pytest.approx((40 * 0.01 + 120 * 0.09) / 160)  # every element counts alike
    assert both.each[0] < both.step < both.each[1]


def test_difference_of_diffused_mels_is_not_what_the_rule_asks() -> None:
    """The published implementation diffuses both with noise of their own before it subtracts, and gets K = T."""
    pair = pairs_of(0.02, 0.4, 1)[0]
    allowed = kl_allowed(PUBLISHED, 0.4)
    assert kl_rule(PUBLISHED, [pair], STEPS).step < 70
    for k in range(1, STEPS):
        alpha, sigma = PUBLISHED(torch.tensor(k / STEPS, dtype=torch.float64))
        noises = Noise(k, range(2)).normal(torch.empty(2, *pair.truth.shape, dtype=torch.float64))
        diffused = [alpha * mel + sigma * eps for mel, eps in zip(pair, noises, strict=True)]
        published = alpha**2 / (2 * sigma**2) * (diffused[0] - diffused[1]).square().mean()
        assert float(published) > allowed


def test_sum_or_mean_is_the_same_where_both_sides_agree() -> None:
    """A sum on one side and a mean on the other is K = T or K = 1 for any mel of real size."""
    truth, auxiliary = pairs_of(0.02, 0.4, 1)[0]
    elements = truth.numel()
    alpha, sigma = (float(scale) for scale in PUBLISHED(torch.tensor(0.99, dtype=torch.float64)))
    summed = alpha**2 / (2 * sigma**2) * float((truth - auxiliary).square().sum())
    assert summed > kl_allowed(PUBLISHED, 0.4)
    assert summed / elements < kl_allowed(PUBLISHED, 0.4)


def test_pure_noise_at_the_end_does_not_push_the_boundary_there() -> None:
    exact = ZeroTerminalSNR(LinearVP(0.01, 6.0))
    assert kl_allowed(exact, 0.4) == LEAST_KL
    assert kl_allowed(PUBLISHED, 0.4) == pytest.approx(LEAST_KL, rel=0.05)
    assert abs(kl_step(exact, STEPS, 0.02, 0.4) - kl_step(PUBLISHED, STEPS, 0.02, 0.4)) <= 8


def test_equal_mels_need_one_step() -> None:
    assert kl_step(PUBLISHED, STEPS, 0.0, 0.4) == 1
    assert kl_step(PUBLISHED, STEPS, 1e6, 0.4) == STEPS


# --- margin ---------------------------------------------------------------------------------------------------

# A problem whose best classifier is known: the n elements of a true mel are N(0, ROUGH^2), the auxiliary is their mean,
# zero. Diffused, elements have variances a = alpha^2 ROUGH^2 + sigma^2 and sigma^2, and the log-likelihood ratio is
# (1/sigma^2 - 1/a) |x|^2 / 2 - n/2 log(a / sigma^2), with |x|^2 / variance chi-square of n degrees of freedom.
ROUGH, SHAPE = 0.4, (8, 16)
TELLING = LinearVP(0.01, 6.0)


def best_classifier(x: Tensor, t: Tensor) -> Tensor:
    alpha, sigma = (scale.to(x.dtype) for scale in TELLING(t))
    variance = alpha**2 * ROUGH**2 + sigma**2
    n = x[0].numel()
    return 0.5 * (1 / sigma**2 - 1 / variance) * x.square().sum((1, 2)) - 0.5 * n * torch.log(variance / sigma**2)


def known_margin(t: float) -> float:
    """E BP(M_t) - E BP(M~_t) of the best classifier, by quadrature over chi-square quantiles."""
    alpha, sigma = (float(scale) for scale in TELLING(torch.tensor(t, dtype=torch.float64)))
    variance, n = alpha**2 * ROUGH**2 + sigma**2, math.prod(SHAPE)
    square = scipy.stats.chi2(n).ppf((np.arange(4000) + 0.5) / 4000)

    def mean(true_variance: float) -> float:
        logit = 0.5 * (1 / sigma**2 - 1 / variance) * square * true_variance - 0.5 * n * np.log(variance / sigma**2)
        return float((1 / (1 + np.exp(-logit))).mean())

    return mean(variance) - mean(sigma**2)


def rough_pairs(count: int, first: int = 0) -> list[Pair]:
    truths = ROUGH * Noise(1, range(first, first + count)).normal(torch.empty(count, *SHAPE))
    return [Pair(truth, torch.zeros(SHAPE)) for truth in truths]


KNOWN = [known_margin(k / STEPS) for k in range(1, STEPS + 1)]
KNOWN_STEP = 1 + next(k for k, margin in enumerate(KNOWN) if margin <= 0.4)


def test_margin_of_the_best_classifier() -> None:
    found = margin_rule(best_classifier, TELLING, rough_pairs(40), STEPS, draws=4)
    np.testing.assert_allclose(found.curve, KNOWN, atol=0.08)
    assert abs(found.step - KNOWN_STEP) <= 5
    assert 20 < found.step < 90
    assert all(a >= b for a, b in pairwise(found.smooth))
    assert np.abs(np.array(found.smooth) - found.curve).max() < 0.08  # monotone on average, up to noise
    assert found.step == round(np.mean(found.each))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> BoundaryNet:
    settings = recipe(tmp_path_factory.mktemp("classifier"), steps=200, batch=32)
    return fit_classifier(rough_pairs(400), TELLING, settings, steps=STEPS, frames=SHAPE[1], channels=32)


def test_trained_classifier_finds_the_known_boundary(classifier: BoundaryNet) -> None:
    found = margin_rule(classifier, TELLING, rough_pairs(40, 1000), STEPS)
    assert abs(found.step - KNOWN_STEP) <= 8
    assert np.mean(found.curve[:10]) > 0.7
    assert np.mean(found.curve[-10:]) < 0.2


def test_classifier_that_sees_nothing_or_everything() -> None:
    """The controls: without a difference K is 1, with one that noise does not hide it is T."""
    blind = margin_rule(lambda x, t: torch.zeros(len(x)), TELLING, rough_pairs(3), STEPS)
    assert (blind.step, max(blind.curve)) == (1, 0)
    same = [Pair(truth, truth) for truth, _ in rough_pairs(3)]
    assert margin_rule(best_classifier, TELLING, same, STEPS).step == 1
    far = [Pair(torch.full(SHAPE, 50.0), torch.full(SHAPE, -50.0))]
    assert margin_rule(lambda x, t: x.mean((1, 2)), TELLING, far, STEPS).step == STEPS


def test_start_of_each_utterance(classifier: BoundaryNet) -> None:
    """Without truth: a blurred utterance starts about where the margin says, a perfect one at once."""
    blurred, real = torch.zeros(SHAPE), rough_pairs(1, 2000)[0].truth
    for classify in (best_classifier, classifier):
        start = AdaptiveStart(classify, TELLING, STEPS, draws=8)
        together = start(None, torch.stack([blurred, real]))
        assert together.dtype == torch.float64
        assert abs(float(together[0]) * STEPS - KNOWN_STEP) <= 12
        assert float(together[1]) <= 0.1
        assert torch.equal(torch.cat([start(None, mel[None]) for mel in (blurred, real)]), together)
        padded = torch.cat([blurred, torch.full((SHAPE[0], 5), 9.0)], 1)
        assert torch.equal(start(None, padded[None], lengths=[SHAPE[1]]), together[:1])


# --- the classifier -------------------------------------------------------------------------------------------


def test_padding_changes_nothing() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = BoundaryNet(BoundaryConfig(mels=8, channels=16))
        x = torch.randn(2, 8, 20)
    t = torch.tensor([0.3, 0.8])
    inside = torch.ones(2, 1, 26)
    inside[:, :, 20:] = 0
    padded = torch.cat([x, torch.full((2, 8, 6), 3.0)], 2)
    torch.testing.assert_close(network(padded, t, inside), network(x, t), rtol=1e-5, atol=1e-6)


def test_loss_of_ignorance() -> None:
    batch = Crops(rough_pairs(4), 16)(range(8))

    class Ignorant(torch.nn.Module):
        def forward(self, x: Tensor, t: Tensor, inside: Tensor) -> Tensor:
            return torch.zeros(len(x))

    loss = boundary_loss(Ignorant(), batch, Noise(0, range(8)), schedule=TELLING, steps=STEPS)
    torch.testing.assert_close(loss, torch.full((8,), 2 * math.log(2)))


def test_crops_keep_pairs_together() -> None:
    pairs = [Pair(torch.arange(n).float().expand(2, n), -torch.arange(n).float().expand(2, n)) for n in (5, 30)]
    truth, auxiliary, inside = Crops(pairs, 12)(range(50))
    assert torch.equal(truth, -auxiliary)
    assert set(inside.sum((1, 2)).tolist()) == {5.0, 12.0}
    long = truth[inside.sum((1, 2)) == 12]
    assert bool((long.diff(dim=2) == 1).all())
    assert len(set(long[:, 0, 0].tolist())) > 5
    alone = Crops(pairs, 12)([7])
    assert torch.equal(alone[0][0], truth[7])


def test_pairs_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="there are none"):
        kl_rule(TELLING, [], STEPS)
    with pytest.raises(ValueError, match="one shape"):
        kl_rule(TELLING, [Pair(torch.zeros(4, 5), torch.zeros(4, 6))], STEPS)
    with pytest.raises(InputError, match="width must be odd"):
        BoundaryConfig(width=4)


# --- sweep ----------------------------------------------------------------------------------------------------


def test_energy_score_prefers_samples_to_their_mean() -> None:
    """It is least for the true distribution, where the distance alone is least for the blurred mean."""
    noise = Noise(3, range(400))
    truths = noise.normal(torch.empty(400, 6, 4))
    draws = noise.fork(1).normal(torch.empty(400, 8, 6, 4))

    def mean(scale: float) -> float:
        return float(np.mean([energy_score(scale * drawn, truth) for drawn, truth in zip(draws, truths, strict=True)]))

    assert mean(1.0) < mean(0.8) - 0.005 < mean(0.5) - 0.02
    assert mean(1.0) < mean(1.25) - 0.005
    assert mean(0.0) > mean(1.0) + 0.1
    distances = [float((scale * draws - truths[:, None]).norm(dim=2).mean()) for scale in (0.0, 1.0)]
    assert distances[0] < distances[1]  # the control


def shallow(number: int, t: float, samples: Sequence[int], truths: Sequence[Tensor]) -> Tensor:
    """Samples of a model whose roughness grows with the time it starts at, up to the truth's at t = 0.4."""
    eps = Noise(number, [100 + sample for sample in samples]).normal(torch.empty(len(samples), *truths[0].shape))
    return ROUGH * min(t / 0.4, 1.0) * eps


def test_sweep_stops_where_more_does_not_help() -> None:
    pairs = rough_pairs(60)
    truths = [pair.truth for pair in pairs]
    candidates = range(0, 101, 10)
    told: list[tuple[int, int]] = []
    found = sweep_rule(
        lambda number, t, samples: shallow(number, t, samples, truths), pairs, STEPS, candidates,
        report=lambda done, of: told.append((done, of)),
    )  # fmt: skip
    assert found.step in (30, 40)
    assert found.scores[0] > found.scores[2] > found.scores[4]
    assert found.errors[int(np.argmin(found.scores))] == 0
    assert told[-1] == (60, 60)


def test_sweep_refuses_what_has_no_score() -> None:
    pairs = rough_pairs(1)
    with pytest.raises(InputError, match="candidate K"):
        sweep_rule(lambda number, t, samples: torch.zeros(2, *SHAPE), pairs, STEPS, [120])
    with pytest.raises(InputError, match="draws"):
        sweep_rule(lambda number, t, samples: torch.zeros(1, *SHAPE), pairs, STEPS, [50], draws=1)


# --- the record -----------------------------------------------------------------------------------------------


def record(rule: str = "margin") -> Boundary:
    curve = tuple(np.linspace(1, 0, STEPS).tolist())
    return Boundary(
        STEPS, rule, Margin(61, (60, 62), curve, curve), Divergence(44, (40, 50), 0.02, 0.4, 0.01),  # pyright: ignore[reportArgumentType]
        Sweep(0, (0, 50, 100), (0.4, 0.5, 0.6), (0.0, 0.1, 0.1)),
    )  # fmt: skip


def test_rule_in_use() -> None:
    assert (record("margin").step, record("margin").t) == (61, 0.61)
    assert record("kl").step == 44
    assert record("sweep").step == 1  # a diffusion that starts nowhere is none


def test_picture(tmp_path: Path) -> None:
    boundary_picture(tmp_path / "margin.png", record(), "a voice")
    data = (tmp_path / "margin.png").read_bytes()
    assert data.startswith(b"\x89PNG")
    assert int.from_bytes(data[16:20], "big") == 1200
