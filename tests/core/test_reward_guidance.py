"""Guidance of discrete diffusion: closed forms, limits, and the released form as the control."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from degauss.core import InputError, Noise
from degauss.core.jump import Absorbing, sample_tokens, skipping
from degauss.core.jump.oracle import Tabular, number_of
from degauss.core.posterior import Categorical
from degauss.core.reward import ClassifierFree, Guidance, ReleasedGuided, StateGuided, TaylorGuided

DOUBLE = torch.float64
V, L = 3, 3
PROCESS = Absorbing(V)
T = torch.tensor(0.5, dtype=DOUBLE)
STATES = torch.tensor([[V, V, V], [V, 1, V], [2, V, 0], [0, 1, 2]])
COEFFICIENTS = torch.tensor([[0.3, -1.0, 0.5], [1.2, 0.0, -0.4], [-0.7, 0.1, 0.9]], dtype=DOUBLE)


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    """Gradients are compared to many digits."""
    torch.set_default_dtype(DOUBLE)
    yield
    torch.set_default_dtype(torch.float32)


def table() -> Tabular:
    u = Noise(5, (0,)).uniform(torch.empty(1, *[V] * L, dtype=DOUBLE))[0]
    return Tabular(u**3 + 0.01)


def soft_network(data: Tabular) -> Any:
    """The exact posterior as a function of weights over tokens and mask, linear in each position's evidence."""
    tokens = torch.nn.functional.one_hot(data.sequences, V).to(DOUBLE)

    def network(weights: Tensor, t: Tensor, **cond: Any) -> Tensor:
        evidence = weights[..., :V] + weights[..., V:]
        joint = data.probabilities * torch.einsum("blv,nlv->bnl", evidence, tokens).prod(-1)
        return torch.einsum("bn,nlv->blv", joint, tokens).clamp_min(1e-300).log()

    return network


def additive(weights: Tensor) -> Tensor:
    return (weights * COEFFICIENTS).sum((1, 2))


def paired(weights: Tensor) -> Tensor:
    """Not a sum over positions."""
    first, second, third = weights.unbind(1)
    return 2 * first[:, 0] * second[:, 1] + second[:, 2] * third[:, 0] - first[:, 2] * third[:, 1] ** 2


@pytest.mark.parametrize("scale", [0.0, 1.0, 4.0, -2.0])
def test_a_sum_over_positions_tilts_the_posterior_exactly(scale: float) -> None:
    plain = table().denoiser(PROCESS)
    guided = TaylorGuided(plain, PROCESS, additive, scale)(STATES, T).logits.softmax(-1)
    expected = plain(STATES, T).logits.softmax(-1) * (scale * COEFFICIENTS).exp()
    expected = expected / expected.sum(-1, keepdim=True)
    masked = STATES == V
    torch.testing.assert_close(guided[masked], expected[masked])
    assert torch.equal(guided[~masked], plain(STATES, T).logits.softmax(-1)[~masked])


@pytest.mark.parametrize("steps", [1, 4])
def test_guided_samples_of_independent_positions_follow_the_tilted_law(steps: int) -> None:
    """Exact for any scale and any number of steps, where data and reward are both made of single positions."""
    n, alpha = 8000, 0.5
    rows = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.3, 0.3, 0.4]])
    data = Tabular(torch.einsum("i,j,k->ijk", *rows))
    guided = TaylorGuided(data.denoiser(PROCESS), PROCESS, additive, 1 / alpha)
    x = sample_tokens(guided, PROCESS, (n, L), solver=skipping(), steps=steps)
    one_hot = torch.nn.functional.one_hot(data.sequences, V).to(DOUBLE)
    law = data.probabilities * (additive(one_hot) / alpha).exp()
    counts = torch.bincount(number_of(x, V), minlength=V**L)
    assert stats.chisquare(counts, n * law / law.sum()).pvalue > 1e-3


def test_the_state_gradient_is_that_of_the_expected_sequence() -> None:
    """Against central differences of r(expected sequence) in the weights of the state."""
    data, scale, h = table(), 1.7, 1e-5
    network = soft_network(data)
    plain = data.denoiser(PROCESS)

    def value(weights: Tensor) -> Tensor:
        return paired(weights[..., :V] + weights[..., V:] * network(weights, T).softmax(-1))

    guided = StateGuided(plain, PROCESS, paired, scale, network=network)(STATES, T).logits
    state = torch.nn.functional.one_hot(STATES, V + 1).to(DOUBLE)
    for row, position in (STATES == V).nonzero().tolist():
        slope = torch.zeros(V)
        for token in range(V):
            up, down = state.clone(), state.clone()
            up[row, position, token] += h
            down[row, position, token] -= h
            slope[token] = (value(up)[row] - value(down)[row]) / (2 * h)
        torch.testing.assert_close(
            guided[row, position], plain(STATES, T).logits[row, position] + scale * slope, rtol=1e-6, atol=1e-7
        )
    assert torch.equal(guided[3], plain(STATES, T).logits[3])


def test_only_the_state_gradient_knows_what_a_token_says_of_other_positions() -> None:
    """Two positions that are always equal, and a reward that looks at the second alone."""
    data = Tabular(torch.eye(V) + 1e-3)
    plain, x = data.denoiser(PROCESS), torch.full((1, 2), V)

    def second(weights: Tensor) -> Tensor:
        return weights[:, 1, 2]

    taylor = TaylorGuided(plain, PROCESS, second, 2.0)(x, T).logits.softmax(-1)[0]
    state = StateGuided(plain, PROCESS, second, 2.0, network=soft_network_of_two(data))(x, T).logits.softmax(-1)[0]
    torch.testing.assert_close(taylor[0], plain(x, T).logits.softmax(-1)[0, 0])
    assert float(taylor[1, 2]) > 0.7
    # Of v = p(second = 2) = 1/3 the gradient in the first token is 2/9, -1/9, -1/9.
    slope = torch.tensor([-1.0, -1.0, 2.0]) / 9
    torch.testing.assert_close(state[0], (2 * slope).softmax(-1), rtol=0, atol=2e-3)
    assert float(state[1, 2]) > float(taylor[1, 2])


def soft_network_of_two(data: Tabular) -> Any:
    def network(weights: Tensor, t: Tensor, **cond: Any) -> Tensor:
        first, second = (weights[:, i, :V] + weights[:, i, V:] for i in (0, 1))
        joint = data.table * first[:, :, None] * second[:, None, :]
        return torch.stack([joint.sum(2), joint.sum(1)], 1).log()

    return network


def test_a_network_that_ignores_the_state_leaves_the_first_part() -> None:
    logits = Noise(3, (0,)).normal(torch.empty(1, L, V))

    def network(weights: Tensor, t: Tensor, **cond: Any) -> Tensor:
        return logits.expand(len(weights), L, V)

    def denoiser(x: Tensor, t: Tensor, /, **cond: Any) -> Categorical:
        return Categorical(network(x, t))

    taylor = TaylorGuided(denoiser, PROCESS, paired, 2.0)(STATES, T).logits
    state = StateGuided(denoiser, PROCESS, paired, 2.0, network=network)(STATES, T).logits
    torch.testing.assert_close(taylor, state)


def forms(data: Tabular) -> dict[str, Any]:
    network = soft_network(data)
    return {
        "taylor": TaylorGuided,
        "state": partial(StateGuided, network=network),
        "released": partial(ReleasedGuided, network=network),
    }


@pytest.mark.parametrize("name", ["taylor", "state"])
def test_a_row_is_guided_alike_in_any_batch(name: str) -> None:
    data = table()
    guided = forms(data)[name](data.denoiser(PROCESS), PROCESS, paired, 2.0)
    whole = guided(STATES.repeat(8, 1), T).logits
    torch.testing.assert_close(whole[:4], guided(STATES, T).logits)
    torch.testing.assert_close(whole[1:2], guided(STATES[1:2], T).logits)


def test_the_released_form_fades_with_the_batch_and_asks_off_the_simplex() -> None:
    """The control: what it does wrong, so that nobody mistakes it for a method."""
    data, seen = table(), []
    plain = data.denoiser(PROCESS)

    def spying(weights: Tensor) -> Tensor:
        seen.append(weights.detach())
        return additive(weights)

    guided = forms(data)["released"](plain, PROCESS, spying, 3.0)
    x = STATES[:1]
    alone, among = (guided(x.repeat(size, 1), T).logits[0] - plain(x, T).logits[0] for size in (1, 8))
    torch.testing.assert_close(among, alone / 8)
    assert float(alone.abs().max()) > 0.1
    assert float(seen[0].max()) < 0
    guided(STATES, T)
    assert float(seen[-1].min()) == -1e6


@pytest.mark.parametrize("name", ["taylor", "state", "released"])
def test_guidance_works_where_nothing_is_differentiated(name: str) -> None:
    data = table()
    guided = forms(data)[name](data.denoiser(PROCESS), PROCESS, paired, 2.0)
    expected = guided(STATES, T).logits
    with torch.inference_mode():
        inside = guided(STATES.clone(), T.clone()).logits
    assert torch.equal(inside, expected)
    assert not expected.requires_grad


def test_gradients_that_are_none_are_refused_by_name() -> None:
    def root(weights: Tensor) -> Tensor:
        return weights.sum((1, 2)).sub(L).abs().sqrt()

    def stiff(weights: Tensor) -> Tensor:
        return weights.detach().sum((1, 2))

    plain = table().denoiser(PROCESS)
    with pytest.raises(InputError, match=r"root cannot guide: its gradient must be finite"):
        TaylorGuided(plain, PROCESS, root, 1.0)(STATES[3:], T)
    with pytest.raises(InputError, match=r"stiff cannot guide: it has no gradient"):
        TaylorGuided(plain, PROCESS, stiff, 1.0)(STATES, T)
    with pytest.raises(InputError, match=r"the scale of guidance must be between .* but is nan"):
        Guidance(additive, float("nan"))


# Classifier-free


def test_classifier_free_limits() -> None:
    data = table()
    unconditional = data.denoiser(PROCESS)
    conditional = Tabular(data.table * (torch.arange(V**L).reshape(V, V, V) % 5 + 0.1)).denoiser(PROCESS)

    def probabilities(denoiser: Any) -> Tensor:
        return denoiser(STATES, T).logits.softmax(-1)

    torch.testing.assert_close(
        probabilities(ClassifierFree(conditional, unconditional, 0.0)), probabilities(conditional)
    )
    torch.testing.assert_close(
        probabilities(ClassifierFree(conditional, unconditional, -1.0)), probabilities(unconditional)
    )
    for weight in (0.0, 1.0, 7.5):
        torch.testing.assert_close(
            probabilities(ClassifierFree(conditional, conditional, weight)), probabilities(conditional)
        )
    guided = probabilities(ClassifierFree(conditional, unconditional, 1.5))
    expected = probabilities(conditional) ** 2.5 / probabilities(unconditional) ** 1.5
    masked = STATES == V
    torch.testing.assert_close(guided[masked], (expected / expected.sum(-1, keepdim=True))[masked])


def test_classifier_free_keeps_what_is_ruled_out() -> None:
    """Known tokens have log-probability -inf elsewhere, in both models: no number may come of -inf - -inf."""
    data = table()
    only = Tabular(data.table * (torch.arange(V)[:, None, None] != 1))
    guided = ClassifierFree(only.denoiser(PROCESS), data.denoiser(PROCESS), 3.0)(STATES, T).logits
    assert not guided.isnan().any()
    probabilities = guided[:3].softmax(-1)
    assert float(probabilities[:2, 0, 1].max()) == 0
    assert float(probabilities[2, 0, 2]) == 1
    x = sample_tokens(
        ClassifierFree(only.denoiser(PROCESS), data.denoiser(PROCESS), 3.0),
        PROCESS,
        (200, L),
        solver=skipping(),
        steps=5,
    )
    assert not bool((x[:, 0] == 1).any())
    with pytest.raises(InputError, match="the weight of classifier-free guidance"):
        ClassifierFree(only.denoiser(PROCESS), data.denoiser(PROCESS), float("inf"))
