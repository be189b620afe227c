"""Absorbing and uniform corruption against matrix exponentials, Bayes' rule and enumeration."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.nn.functional import one_hot

from degauss.core import Noise
from degauss.core.jump import Absorbing, Context, Cosine, Subs, Uniform
from degauss.core.jump.categorical import draw, draw_weighted, uniforms
from degauss.core.jump.oracle import Tabular, number_of, sequences
from degauss.core.posterior import Categorical

DOUBLE = torch.float64
V = 4
PROCESSES = [Absorbing(V), Absorbing(V, Cosine()), Uniform(V), Uniform(V, Cosine())]
every_process = pytest.mark.parametrize("process", PROCESSES, ids=repr)
Process = Absorbing | Uniform


def f64(value: object) -> Tensor:
    return torch.tensor(value, dtype=DOUBLE)


def table(vocabulary: int = 3, length: int = 3) -> Tabular:
    u = Noise(5, (0,)).uniform(torch.empty(1, *[vocabulary] * length, dtype=DOUBLE))[0]
    return Tabular(u**3 + 0.01)


def transition(process: Process, s: Tensor, t: Tensor) -> Tensor:
    """q(x_t | x_s) for one position: the exponential of the integrated generator."""
    generator = process.rate_matrix(f64(0.5)) / process.rates(f64(0.5)).rate
    total = process.rates(s).alpha.log() - process.rates(t).alpha.log()
    return torch.linalg.matrix_exp(total * generator)


@every_process
def test_marginals_solve_the_forward_equation(process: Process) -> None:
    x0 = torch.arange(V)[None]
    for t in (f64(0.2), f64(0.8)):
        expected = transition(process, f64(0.0), t)[:V]
        torch.testing.assert_close(process.marginal(x0, t)[0], expected)


@every_process
def test_generators_move_probability_only(process: Process) -> None:
    generator = process.rate_matrix(f64(0.6))
    torch.testing.assert_close(generator.sum(1), torch.zeros(process.symbols, dtype=DOUBLE), atol=1e-14, rtol=0)
    assert bool((generator - generator.diag().diag() >= 0).all())


@every_process
def test_posterior_is_bayes(process: Process) -> None:
    """For every (x_t, x_0) that can occur together."""
    s, t = f64(0.3), f64(0.7)
    x, x0 = sequences(process.symbols, 2)[None].unbind(-1)
    x, x0 = x[x0 < V][None], x0[x0 < V][None]
    late, early = transition(process, s, t), transition(process, f64(0.0), s)
    joint = late[:, x].permute(1, 2, 0) * early[x0]
    possible = joint.sum(-1) > 0
    expected = joint / joint.sum(-1, keepdim=True)
    torch.testing.assert_close(process.posterior(x, x0, s, t)[possible], expected[possible])


@every_process
def test_reverse_averages_the_posterior(process: Process) -> None:
    s, t = f64(0.3), f64(0.7)
    x = torch.arange(process.symbols)[None]
    logits = Noise(1, (0,)).normal(torch.empty(1, process.symbols, V, dtype=DOUBLE))
    if isinstance(process, Absorbing):  # a token is certain
        logits[0, :V] = torch.eye(V, dtype=DOUBLE).log()
    clean = logits.softmax(-1)
    each = [process.posterior(x, torch.full_like(x, v), s, t) for v in range(V)]
    expected = sum((clean[..., v, None] * each[v] for v in range(V)), start=torch.zeros(1))
    got = process.reverse(Categorical(logits), x, s, t)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(got.sum(-1), torch.ones_like(got[..., 0]))


@every_process
def test_reverse_rates_are_the_limit_of_short_steps(process: Process) -> None:
    t, h = f64(0.6), 1e-7
    x = torch.arange(process.symbols)[None]
    logits = Noise(1, (0,)).normal(torch.empty(1, process.symbols, V, dtype=DOUBLE))
    stays = one_hot(x, process.symbols)
    rates = process.reverse_rates(Categorical(logits), x, t)
    short = process.reverse(Categorical(logits), x, t - h, t)
    leap = process.leap(Categorical(logits), x, process.rates(t), h)
    for step in (short, leap):
        torch.testing.assert_close(rates, (1 - stays) * step / h, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(step.sum(-1), torch.ones_like(step[..., 0]))
    # The definition: the forward rate from the other symbol times the ratio of marginals.
    generator, q = process.rate_matrix(t), transition(process, f64(0.0), t)[:V]
    clean = logits.softmax(-1)
    if isinstance(process, Absorbing):
        clean[0, :V] = torch.eye(V, dtype=DOUBLE)
    # For each x: sum_v p(v | x) q(j | v) / q(x | v) Q[j, x].
    ratio = torch.einsum("blv,vj,vl->blj", clean, q, torch.where(q > 0, 1 / q, 0))
    torch.testing.assert_close(rates, (1 - stays) * ratio * generator.T, rtol=1e-10, atol=1e-12)


@every_process
def test_the_last_step_is_the_posterior(process: Process) -> None:
    """Also from t = 1, where uniform rates are infinite, and by a leap there."""
    logits = Noise(1, (0,)).normal(torch.empty(1, 2, V, dtype=DOUBLE))
    x = torch.full((1, 2), process.symbols - 1)
    for t in (f64(1.0), f64(0.3)):
        end = process.reverse(Categorical(logits), x, f64(0.0), t)[..., :V]
        torch.testing.assert_close(end, logits.softmax(-1), rtol=1e-12, atol=1e-13)
    leap = process.leap(Categorical(logits), x, process.rates(f64(1.0)), 0.1)
    assert bool(torch.isfinite(leap).all())


@every_process
def test_corruption_has_the_marginal_law(process: Process) -> None:
    n, t = 20_000, f64(0.6)
    x0 = torch.tensor([2, 0]).expand(n, 2)
    x = process.corrupt(x0, t, Noise(3, range(n)))
    expected = process.marginal(x0[:1], t)[0]
    for position in range(2):
        counts = torch.bincount(x[:, position], minlength=process.symbols)
        possible = expected[position] > 0
        assert int(counts[~possible].sum()) == 0
        assert stats.chisquare(counts[possible], n * expected[position][possible]).pvalue > 1e-3


@every_process
def test_times_for_each_sample_and_each_token(process: Process) -> None:
    noise = Noise(3, range(3))
    x0 = (uniforms(noise, torch.empty(3, 5), 7) * V).long()
    t = f64([0.2, 0.5, 0.9])
    posterior = Categorical(noise.normal(torch.empty(3, 5, V, dtype=DOUBLE)))
    x = process.corrupt(x0, t, noise)

    def everything(x0: Tensor, x: Tensor, logits: Tensor, t: Tensor, noise: Noise) -> list[Tensor]:
        posterior = Categorical(logits)
        return [
            process.corrupt(x0, t, noise),
            process.marginal(x0, t),
            process.evidence(x, t),
            process.reverse(posterior, x, 0.5 * t, t),
            process.reverse_rates(posterior, x, t),
        ]

    whole = everything(x0, x, posterior.logits, t, noise)
    by_token = everything(x0, x, posterior.logits, t[:, None].expand(3, 5), noise)
    for row in range(3):
        one = slice(row, row + 1)
        alone = everything(x0[one], x[one], posterior.logits[one], t[row], noise.take([row]))
        for got, tokenwise, expected in zip(whole, by_token, alone, strict=True):
            assert torch.equal(got[one], expected)
            assert torch.equal(tokenwise[one], expected)


def test_starts_are_pure_noise() -> None:
    like, noise = torch.empty(4000, 3), Noise(0, range(4000))
    assert bool((Absorbing(V).start(like, noise) == V).all())
    x = Uniform(V).start(like, noise)
    assert stats.chisquare(torch.bincount(x.flatten(), minlength=V)).pvalue > 1e-3


# Networks


def test_subs_drops_the_mask_and_carries_tokens_over() -> None:
    seen: list[torch.dtype] = []

    def network(x: Tensor, t: Tensor, bias: float) -> Tensor:
        seen.append(t.dtype)
        return torch.full((*x.shape, V + 1), 1.0) + torch.arange(V + 1) * bias

    x = torch.tensor([[V, 2, V, 0]])
    logits = Subs(network, Absorbing(V))(x, f64(0.3), bias=0.5).logits
    assert logits.shape == (1, 4, V)
    assert seen == [torch.float32]
    probabilities = logits.softmax(-1)[0]
    torch.testing.assert_close(probabilities[[0, 2]], (torch.arange(V) * 0.5).softmax(-1).expand(2, V))
    assert torch.equal(probabilities[[1, 3]], torch.eye(V)[[2, 0]])


def test_subs_gradients_are_finite_and_only_at_masks() -> None:
    weights = torch.zeros(1, 3, V, requires_grad=True)
    x = torch.tensor([[V, 1, V]])
    log_p = Subs(lambda x, t: weights, Absorbing(V))(x, f64(0.3)).logits.log_softmax(-1)
    log_p.gather(-1, torch.tensor([[[0], [1], [2]]])).sum().backward()
    assert weights.grad is not None
    assert bool(torch.isfinite(weights.grad).all())
    assert bool((weights.grad[0, 1] == 0).all())
    assert bool((weights.grad[0, 0] != 0).all())


def test_context_turns_a_prediction_from_the_others_into_the_posterior() -> None:
    data = table()
    process = Uniform(data.vocabulary)

    def from_others(x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        """log p(x_0^l | x_t without position l): the posterior where position l is pure noise."""
        columns = []
        for position in range(data.length):
            times = torch.full(x.shape, float(t), dtype=DOUBLE)
            times[:, position] = 1
            columns.append(data.denoiser(process)(x, times).logits[:, position])
        return torch.stack(columns, 1)

    t = f64(0.625)  # also exact in float32, in which the network is told
    x = data.sequences
    got = Context(from_others, process)(x, t).logits.softmax(-1)
    torch.testing.assert_close(got, data.denoiser(process)(x, t).logits.softmax(-1))


# The oracle


@pytest.mark.parametrize("length", [1, 2, 3])
@pytest.mark.parametrize("process", [Absorbing(3), Uniform(3)], ids=repr)
def test_tabular_posterior_is_enumeration(length: int, process: Process) -> None:
    kept, data = 0.6, table(3, length)
    x = sequences(process.symbols, length)
    logits = data.denoiser(process)(x, f64(1 - kept)).logits
    assert logits.shape == (len(x), length, 3)

    def likelihood(symbol: int, token: int) -> float:
        if isinstance(process, Absorbing):
            return {token: kept, 3: 1 - kept}.get(symbol, 0.0)
        return kept * (symbol == token) + (1 - kept) / 3

    for row, seen in enumerate(x.tolist()):
        expected = torch.zeros(length, 3, dtype=DOUBLE)
        for clean in itertools.product(range(3), repeat=length):
            probability = float(data.table[clean])
            for symbol, token in zip(seen, clean, strict=True):
                probability *= likelihood(symbol, token)
            for position, token in enumerate(clean):
                expected[position, token] += probability
        torch.testing.assert_close(logits[row].softmax(-1), expected / expected.sum(1, keepdim=True))


@pytest.mark.gpu
@pytest.mark.parametrize("process", [Absorbing(3), Uniform(3)], ids=repr)
def test_tables_run_on_the_device(process: Process) -> None:
    oracle = Tabular(torch.rand(3, 3).cuda()).denoiser(process)
    logits = oracle(torch.tensor([[0, 1]]).cuda(), torch.tensor(0.3).cuda()).logits
    assert bool(torch.isfinite(logits.softmax(-1)).all())


def test_tabular_takes_times_for_each_position() -> None:
    """A clean position and two that say nothing: a conditional of the table."""
    data = table()
    x, t = torch.tensor([[1, 0, 2]]), f64([[0.0, 1.0, 1.0]])
    got = data.denoiser(Uniform(3))(x, t).logits.softmax(-1)[0]
    given = data.given(torch.tensor([1, -1, -1])).reshape(3, 3, 3)
    torch.testing.assert_close(got[1], given.sum((0, 2)))
    torch.testing.assert_close(got[2], given.sum((0, 1)))
    assert got[0].tolist() == [0, 1, 0]


def test_tabular_draws_its_table() -> None:
    data, n = table(), 20_000
    counts = torch.bincount(number_of(data.draw(Noise(2, range(n))), 3), minlength=27)
    assert stats.chisquare(counts, n * data.probabilities).pvalue > 1e-3


def test_tabular_refuses_what_is_no_table() -> None:
    for wrong in (torch.ones(2, 3), torch.tensor([0.5, -0.1]), torch.zeros(2, 2)):
        with pytest.raises(ValueError, match="joint table"):
            Tabular(wrong)


# Drawing


def test_rare_tokens_are_drawn() -> None:
    """Float32 Gumbel noise never exceeds 17 and would not reach a token of probability 1e-12."""
    logits = torch.tensor([0.0, -12 * 2.302585])
    u = f64([1 - 5e-13, 1 - 2e-12, 0.5])
    assert draw(logits.expand(3, 2), u).tolist() == [1, 0, 0]
    assert draw(torch.tensor([-27.631, 0.0]).expand(2, 2), f64([5e-13, 2e-12])).tolist() == [0, 1]


def test_impossible_tokens_are_never_drawn() -> None:
    weights = f64([0.0, 1 / 3, 0.0, 2 / 3, 0.0])
    extremes = f64([2.0**-53, 0.25, 1 / 3 + 1e-9, 1 - 2.0**-53])
    assert draw_weighted(weights.expand(4, 5), extremes).tolist() == [1, 1, 3, 3]
    thirds = torch.full((7,), 1 / 7, dtype=DOUBLE)
    assert draw_weighted(torch.cat([thirds, f64([0.0])]), f64(1 - 2.0**-53)).item() == 6


def test_drawing_has_the_law_of_the_logits() -> None:
    n = 20_000
    logits = torch.tensor([0.3, -1.0, 2.0, -3.0])
    u = uniforms(Noise(0, range(n)), torch.empty(n), 0)
    counts = torch.bincount(draw(logits.expand(n, 4), u), minlength=4)
    assert stats.chisquare(counts, n * logits.double().softmax(-1)).pvalue > 1e-3


@pytest.mark.parametrize("bad", [[float("nan"), 0.0], [float("-inf")] * 2, [float("inf"), 0.0]])
def test_what_is_no_distribution_gives_no_token(bad: list[float]) -> None:
    assert int(draw(torch.tensor(bad), f64(0.5))) == 2
