"""Losses and likelihoods by enumeration: equal where theory says so, for denoisers that are wrong too."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from degauss.core import Noise
from degauss.core.jump import (
    Absorbing,
    Cosine,
    Uniform,
    any_order,
    bits_per_token,
    discrete_elbo,
    elbo,
    estimate_bound,
    exact_bound,
    exact_discrete_bound,
    exact_log_likelihood,
    independent,
    lambda_dce,
    uniform_elbo,
    weyl,
)
from degauss.core.jump.absorbing import carry_over
from degauss.core.jump.oracle import Tabular, number_of, sequences
from degauss.core.posterior import Categorical

DOUBLE = torch.float64
V, L = 3, 3
MASKS = sequences(2, L).bool()


def table() -> Tabular:
    u = Noise(5, (0,)).uniform(torch.empty(1, *[V] * L, dtype=DOUBLE))[0]
    return Tabular(u**3 + 0.01)


def wrong(x: Tensor, t: Tensor, /, **cond: Any) -> Categorical:
    """Arbitrary conditionals: random logits for each state, the same at any t, not those of any joint."""
    every = Noise(9, (0,)).normal(torch.empty(1, (V + 1) ** L, L, V, dtype=DOUBLE))[0]
    return Categorical(carry_over(every[number_of(x, V + 1)], x, V))


def wrong_in_time(x: Tensor, t: Tensor, /, **cond: Any) -> Categorical:
    time = t.reshape(-1, 1, 1)
    return Categorical(carry_over(wrong(x, t).logits * torch.cos(3 * time) + time, x, V))


class Script(Noise):
    """Noise that says what it is told: given times (draw 0) and corrupting uniforms (draw 1)."""

    def __init__(self, times: Tensor, u: Tensor) -> None:
        super().__init__(0, range(len(times)))
        object.__setattr__(self, "told", (times, u))

    def uniform(self, like: Tensor, draw: int = 0) -> Tensor:
        told: Tensor = self.told[draw]  # type: ignore[attr-defined]
        assert told.shape == like.shape
        return told


def nodes(count: int) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre on (0, 1)."""
    x, w = np.polynomial.legendre.leggauss(count)
    return torch.tensor(0.5 * (x + 1)), torch.tensor(0.5 * w)


def over_masks(loss: Callable[..., Tensor], gone: Callable[[Tensor], Tensor], x0: Tensor, count: int = 40) -> float:
    """The expected loss of one sequence over all times (by quadrature) and sets of masks (by enumeration)."""
    u, weight = nodes(count)
    times = u.repeat_interleave(len(MASKS))
    masks = MASKS.repeat(count, 1)
    share = gone(times)
    probability = share ** masks.sum(1) * (1 - share) ** (~masks).sum(1)
    corrupt = torch.where(masks, 1e-300, 1 - 2.0**-53).double()
    values = loss(x0.expand(len(times), L), Script(times, corrupt))
    return float((weight.repeat_interleave(len(MASKS)) * probability * values).sum())


def over_counts(loss: Callable[..., Tensor], x0: Tensor) -> float:
    """The expected loss of one sequence over the number of masks and all sets of that size."""
    total = 0.0
    for mask in MASKS:
        k = int(mask.sum())
        if k:
            u = torch.where(mask, 0.1, 0.9).double()[None] + torch.arange(L) * 1e-3
            value = float(loss(x0[None], Script(torch.tensor([(k - 0.5) / L], dtype=DOUBLE), u)))
            total += value / (L * math.comb(L, k))
    return total


@pytest.mark.parametrize("sequence", [(0, 1, 2), (2, 2, 0)])
def test_the_three_losses_are_one_number(sequence: Sequence[int]) -> None:
    """For a denoiser that is wrong: the continuous bound on two schedules, lambda-DCE, and any-order."""
    x0 = torch.tensor(sequence)
    bound = float(exact_bound(wrong, Absorbing(V), x0[None]))
    for process in (Absorbing(V), Absorbing(V, Cosine())):

        def gone(t: Tensor, process: Absorbing = process) -> Tensor:
            return process.rates(t).gone

        assert over_masks(partial(elbo, wrong, process), gone, x0) == pytest.approx(bound, rel=1e-9)
        assert over_masks(partial(lambda_dce, wrong, process), lambda u: u, x0) == pytest.approx(bound, rel=1e-9)
        assert over_counts(partial(any_order, wrong, process), x0) == pytest.approx(bound, rel=1e-12)


def test_a_denoiser_that_asks_for_t_is_told_the_same_by_both_clocks() -> None:
    x0, process = torch.tensor([1, 0, 2]), Absorbing(V, Cosine())
    direct = over_masks(partial(elbo, wrong_in_time, process), lambda t: process.rates(t).gone, x0)
    by_share = over_masks(partial(lambda_dce, wrong_in_time, process), lambda u: u, x0, count=400)
    assert direct == pytest.approx(by_share, rel=1e-4)
    # On another schedule such a denoiser is another model.
    other = over_masks(partial(elbo, wrong_in_time, Absorbing(V)), lambda t: t, x0)
    assert abs(other - direct) > 1e-2


def test_the_bound_of_the_true_denoiser_is_the_likelihood() -> None:
    data, process = table(), Absorbing(V)
    nats = -data.probabilities.log()
    torch.testing.assert_close(exact_bound(data.denoiser(process), process, data.sequences), nats)
    torch.testing.assert_close(-exact_log_likelihood(data.denoiser(process), process, data.sequences), nats)


def test_likelihood_is_the_mean_over_orders() -> None:
    process, x = Absorbing(V), table().sequences
    t = torch.tensor(0.3)
    orders = list(itertools.permutations(range(L)))
    likelihood, nats = torch.zeros(len(x), dtype=DOUBLE), torch.zeros(len(x), dtype=DOUBLE)
    for order in orders:
        state, log_p = torch.full_like(x, V), torch.zeros(len(x), dtype=DOUBLE)
        for position in order:
            posterior = wrong(state, t).logits[:, position].log_softmax(-1)
            log_p += posterior.gather(-1, x[:, position, None])[:, 0]
            state[:, position] = x[:, position]
        likelihood += log_p.exp() / len(orders)
        nats -= log_p / len(orders)
    got = exact_log_likelihood(wrong, process, x)
    torch.testing.assert_close(got.exp(), likelihood)
    assert float(got.exp().sum()) == pytest.approx(1, abs=1e-12)
    bound = exact_bound(wrong, process, x)
    torch.testing.assert_close(bound, nats)
    assert bool((bound > -got + 1e-3).all())  # Jensen's inequality, strict for these


def test_enumeration_is_split_into_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    data, process = table(), Absorbing(V)
    whole = exact_log_likelihood(wrong, process, data.sequences)
    monkeypatch.setattr("degauss.core.jump.likelihood._ROWS_AT_ONCE", 40)
    assert torch.equal(exact_log_likelihood(wrong, process, data.sequences), whole)
    with pytest.raises(ValueError, match="up to length 16"):
        exact_bound(wrong, process, torch.zeros(1, 17, dtype=torch.long))


def discrete(data: Tabular, denoiser: Any, steps: int) -> float:
    """The bound of ancestral sampling in even steps, in nats, over the data; exact."""
    process, grid = Absorbing(V), torch.linspace(1, 0, steps + 1, dtype=DOUBLE)
    times = ((torch.arange(steps) + 0.5) / steps).repeat_interleave(len(MASKS))
    masks = MASKS.repeat(steps, 1)
    share = grid[:-1].repeat_interleave(len(MASKS))
    probability = share ** masks.sum(1) * (1 - share) ** (~masks).sum(1) / steps
    script = Script(times, torch.where(masks, 1e-300, 1 - 2.0**-53).double())
    total = 0.0
    for x0, p in zip(data.sequences, data.probabilities.tolist(), strict=True):
        values = discrete_elbo(denoiser, process, x0.expand(len(times), L), script, grid=grid)
        total += p * float((probability * values).sum())
    return total


def information(data: Tabular) -> float:
    """sum over pairs of the mean over lambda and revealed sets R of I(x_l; x_m | x_R): what one shared step costs.

    Each other position is revealed with probability 1 - lambda, lambda uniform: a set of r of L - 2 positions has
    weight r! (L - 2 - r)! / (L - 1)!.
    """
    joint = data.probabilities.reshape([V] * L)

    def entropy(kept: set[int]) -> float:
        out = [axis for axis in range(L) if axis not in kept]
        return float(torch.special.entr(joint.sum(out) if out else joint).sum())

    total = 0.0
    for pair in itertools.combinations(range(L), 2):
        rest = [axis for axis in range(L) if axis not in pair]
        for r in range(len(rest) + 1):
            weight = math.factorial(r) * math.factorial(len(rest) - r) / math.factorial(len(rest) + 1)
            for revealed in itertools.combinations(rest, r):
                given = set(revealed)
                shared = entropy(given | {pair[0]}) + entropy(given | {pair[1]})
                total += weight * (shared - entropy(given) - entropy(given | set(pair)))
    return total


def test_steps_cost_the_information_between_positions_that_share_them() -> None:
    """With the true denoiser, N (bound_N - entropy) tends to the pairwise conditional information."""
    data = table()
    denoiser = data.denoiser(Absorbing(V))
    gaps = {steps: steps * (discrete(data, denoiser, steps) - data.entropy()) for steps in (1, 64, 128)}
    assert gaps[1] > 0
    assert 2 * gaps[128] - gaps[64] == pytest.approx(information(data), rel=1e-3)


def test_more_steps_bound_better_and_tend_to_the_continuous_bound() -> None:
    data, process = table(), Absorbing(V)
    bounds = [discrete(data, data.denoiser(process), steps) for steps in (1, 2, 4, 16)]
    assert all(a > b for a, b in itertools.pairwise(bounds))
    grids = [torch.linspace(1, 0, steps + 1, dtype=DOUBLE) for steps in (2, 16)]
    closed = data.probabilities @ exact_discrete_bound(data.denoiser(process), process, data.sequences, grids)
    assert closed.tolist() == pytest.approx([bounds[1], bounds[3]], rel=1e-12)
    limit = float(data.probabilities @ exact_bound(wrong, process, data.sequences))
    assert 2 * discrete(data, wrong, 256) - discrete(data, wrong, 128) == pytest.approx(limit, rel=1e-4)


# Uniform corruption


def over_states(denoiser: Any, process: Uniform, x0: Tensor, count: int = 100) -> float:
    """The expected uniform bound of one sequence, by quadrature in the cube root of t and enumeration of x_t."""
    root, weight = nodes(count)
    t, weight = root**3, 3 * root**2 * weight
    x = sequences(V, L)
    times = t.repeat_interleave(len(x))
    states = x.repeat(count, 1)
    gone = process.rates(times).gone[:, None]
    # Either the jump draws the state's token, or nothing jumps: with the probability of the marginal in all.
    probability = process.marginal(x0.expand(len(times), L), times).gather(-1, states[..., None])[..., 0].prod(1)
    values = uniform_elbo(denoiser, process, x0.expand(len(times), L), Script(times, gone * (states + 0.5) / V))
    return float((weight.repeat_interleave(len(x)) * probability * values).sum())


@pytest.mark.parametrize("process", [Uniform(V), Uniform(V, Cosine())], ids=repr)
def test_the_uniform_bound_of_the_true_denoiser_is_the_likelihood(process: Uniform) -> None:
    data = table()
    for number in (0, 11, 26):
        nats = -math.log(data.probabilities[number])
        got = over_states(data.denoiser(process), process, data.sequences[number])
        assert got == pytest.approx(nats, rel=1e-4)


def test_the_uniform_bound_of_a_wrong_denoiser_is_the_limit_of_steps() -> None:
    """Against sum over steps of KL(q(x_s | x_t, x_0) | p(x_s | x_t)), the bound of ancestral sampling."""
    process, x0 = Uniform(V), torch.tensor([0, 1, 2])
    tilt = Noise(4, (0,)).normal(torch.empty(1, L, V, dtype=DOUBLE))

    def tilted(x: Tensor, t: Tensor, /, **cond: Any) -> Categorical:
        # Random logits that turn into certainty of x as t goes to 0, as any sensible denoiser's do.
        return Categorical(tilt + process.evidence(x, t).log())

    def stepwise(steps: int) -> float:
        grid = torch.linspace(1, 0, steps + 1, dtype=DOUBLE) ** 2
        t, s = (times.repeat_interleave(V) for times in (grid[:-1], grid[1:]))
        # Positions are independent here, the denoiser looks at its own only: each x_t with its own probability.
        x = torch.arange(V)[:, None].expand(V, L).repeat(steps, 1)
        clean = x0.expand_as(x)
        truth = process.posterior(x, clean, s, t)
        model = process.reverse(tilted(x, t), x, s, t)
        kl = (torch.special.xlogy(truth, truth) - torch.special.xlogy(truth, model)).sum(-1)
        return float((process.marginal(clean, t).gather(-1, x[..., None])[..., 0] * kl).sum())

    limit = 2 * stepwise(1600) - stepwise(800)
    assert over_states(tilted, process, x0) == pytest.approx(limit, rel=1e-3)


# Times


def test_weyl_times_fill_the_interval_evenly() -> None:
    for first in (0, 12_345, 2**62):
        times = weyl(Noise(3, range(first, first + 256)), torch.device("cpu")).sort().values
        gaps = torch.cat([times, times[:1] + 1]).diff()
        assert float(gaps.max()) < 2.7 / 256
        assert float(times[0]) > 0
        assert float(times[-1]) < 1


def test_weyl_times_are_uniform_over_seeds_and_know_no_batch() -> None:
    device = torch.device("cpu")
    over_seeds = [float(weyl(Noise(seed, (17,)), device)) for seed in range(400)]
    assert stats.kstest(over_seeds, "uniform").pvalue > 1e-3
    whole = weyl(Noise(1, range(10)), device)
    assert torch.equal(weyl(Noise(1, [7, 2]), device), whole[[7, 2]])


def test_weyl_times_lower_the_variance() -> None:
    """Of the mean loss of a batch, over seeds; both have the mean of the exact bound."""
    data, process = table(), Absorbing(V)
    x0 = data.sequences[:1].expand(256, L)
    bound = float(exact_bound(wrong, process, x0[:1]))
    spread = {}
    for times in (independent, weyl):
        batches = [any_order(wrong, process, x0, Noise(seed, range(256)), times=times) for seed in range(60)]
        means = torch.stack(batches).mean(1)
        assert abs(float(means.mean()) - bound) < 4.5 * float(means.std()) / 60**0.5
        spread[times] = float(means.std())
    assert spread[weyl] < spread[independent]


@pytest.mark.parametrize("loss", [elbo, lambda_dce, any_order])
@pytest.mark.parametrize("times", [independent, weyl])
def test_absorbing_losses_do_not_depend_on_the_batch(loss: Any, times: Any) -> None:
    x0 = table().sequences
    whole = loss(wrong, Absorbing(V), x0, Noise(2, range(27)), times=times)
    rows = [20, 3, 4]
    assert torch.equal(loss(wrong, Absorbing(V), x0[rows], Noise(2, rows), times=times), whole[rows])


def test_the_uniform_loss_does_not_depend_on_the_batch() -> None:
    data, process = table(), Uniform(V)
    denoiser = data.denoiser(process)
    whole = uniform_elbo(denoiser, process, data.sequences, Noise(2, range(27)))
    rows = [20, 3, 4]
    part = uniform_elbo(denoiser, process, data.sequences[rows], Noise(2, rows))
    torch.testing.assert_close(part, whole[rows], rtol=1e-12, atol=1e-12)


# Estimates


@pytest.mark.parametrize("loss", [elbo, lambda_dce, any_order])
def test_estimates_agree_within_their_errors(loss: Any) -> None:
    process, x0 = Absorbing(V), table().sequences
    estimate = estimate_bound(partial(loss, wrong, process), x0, draws=300, seed=1)
    z = (estimate.nats - exact_bound(wrong, process, x0)) / estimate.error
    assert float(z.abs().max()) < 4.5
    assert 0.5 < float(z.std()) < 1.5  # neither is the error said to be larger than it is


def test_the_uniform_estimate_agrees_within_its_error() -> None:
    data, process = table(), Uniform(V)
    estimate = estimate_bound(partial(uniform_elbo, data.denoiser(process), process), data.sequences, draws=300)
    z = (estimate.nats + data.probabilities.log()) / estimate.error
    assert float(z.abs().max()) < 4.5


def test_estimates_take_two_draws() -> None:
    with pytest.raises(ValueError, match="two draws"):
        estimate_bound(partial(elbo, wrong, Absorbing(V)), torch.zeros(1, L, dtype=torch.long), draws=1)


def test_bits() -> None:
    assert float(bits_per_token(torch.tensor(200 * math.log(4)), 200)) == pytest.approx(2)


# Numbers


def test_impossible_tokens_where_nothing_is_masked_do_no_harm() -> None:
    """A denoiser may be infinitely wrong about tokens that are there, and its gradient still be finite."""
    weights = torch.zeros(1, L, V, requires_grad=True)
    x0 = torch.tensor([[0, 1, 2]])

    def denoiser(x: Tensor, t: Tensor, /, **cond: Any) -> Categorical:
        other = torch.tensor([0.0, float("-inf"), 0.0])
        return Categorical(torch.where((x == V)[..., None], weights, other))

    script = Script(torch.tensor([0.5], dtype=DOUBLE), torch.tensor([[0.1, 0.9, 0.1]], dtype=DOUBLE))
    value = elbo(denoiser, Absorbing(V), x0, script)
    value.sum().backward()
    assert float(value.detach()) == pytest.approx(2 * 2 * math.log(3))
    assert weights.grad is not None
    assert bool(torch.isfinite(weights.grad).all())


def test_half_precision_logits_are_summed_in_single() -> None:
    x0 = torch.zeros(4, 50, dtype=torch.long)

    def denoiser(x: Tensor, t: Tensor, /, **cond: Any) -> Categorical:
        return Categorical(torch.zeros(*x.shape, V, dtype=torch.bfloat16))

    value = any_order(denoiser, Absorbing(V), x0, Noise(0, range(4)))
    torch.testing.assert_close(value, torch.full((4,), 50 * math.log(V), dtype=DOUBLE), rtol=1e-6, atol=0)
