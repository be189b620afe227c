"""SVDD: its law by enumeration, limits, and what it costs."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from degauss.core import InputError, Noise
from degauss.core.jump import Absorbing
from degauss.core.jump.oracle import Tabular, joint_of, number_of, sequences
from degauss.core.reward import (
    SVDD,
    Guidance,
    Hardened,
    Proposal,
    Proposed,
    TaylorGuided,
    ancestral_proposal,
    design,
)

DOUBLE = torch.float64
V, L, STEPS, ALPHA = 2, 3, 3, 0.7
PROCESS = Absorbing(V)
STATES = sequences(V + 1, L)
REWARDS = Noise(6, (0,)).normal(torch.empty(1, V**L, dtype=DOUBLE))[0]
DENOISER = Tabular(Noise(5, (0,)).uniform(torch.empty(1, *[V] * L, dtype=DOUBLE))[0]).denoiser(PROCESS)


def soft(weights: Tensor) -> Tensor:
    a, b, c = weights.double().unbind(1)
    return torch.einsum("na,nb,nc,abc->n", a, b, c, REWARDS.reshape(V, V, V))


def reward(x: Tensor) -> Tensor:
    return REWARDS[number_of(x, V)]


def values(s: float) -> Tensor:
    """The reward of every state's likeliest completion."""
    guess = DENOISER(STATES, torch.tensor(s, dtype=DOUBLE)).logits.argmax(-1)
    return reward(torch.where(STATES == V, guess, STATES))


def law_of(alpha: float, guide: Any = None) -> Tensor:
    """The law over sequences of SVDD with two proposals, by summing over all pairs at every step."""
    times = torch.linspace(1, 0, STEPS + 1, dtype=DOUBLE)
    law = torch.zeros(len(STATES), dtype=DOUBLE)
    law[-1] = 1
    for t, s in pairwise(times):
        plain, drawn = (
            joint_of(PROCESS.reverse(model(STATES, t), STATES, s, t)) for model in (DENOISER, guide or DENOISER)
        )
        value = values(float(s))
        kept = torch.zeros(len(STATES), len(STATES), dtype=DOUBLE)
        for row in range(len(STATES)):
            p, q = plain[row], drawn[row]
            pairs = q[:, None] * q
            if alpha:
                score = value / alpha + torch.where(q > 0, p / q, 1.0).log()
                first = torch.sigmoid(score[:, None] - score)
            else:
                # Equal ones: the first proposal.
                first = (value[:, None] >= value).double()
            kept[row] = (pairs * first).sum(1) + (pairs * (1 - first)).sum(0)
        law = law @ kept
    return law[number_of(sequences(V, L), V + 1)]


def counted(tokens: Tensor) -> Tensor:
    return torch.bincount(number_of(tokens, V), minlength=V**L)


@pytest.mark.parametrize("alpha", [ALPHA, 0.0])
@pytest.mark.parametrize("guided", [False, True])
def test_two_proposals_have_the_enumerated_law(alpha: float, guided: bool) -> None:
    """Guided proposals too, which are weighted by the ratio; the best of two takes no weights."""
    n, scale = 8000, 1.5
    law = law_of(alpha, TaylorGuided(DENOISER, PROCESS, soft, scale) if guided else None)
    found = design(
        DENOISER,
        PROCESS,
        (n, L),
        Hardened(soft, V),
        method=SVDD(alpha, 2),
        steps=STEPS,
        guidance=Guidance(soft, scale) if guided else None,
    )
    assert float(law.sum()) == pytest.approx(1)
    assert stats.chisquare(counted(found.tokens), n * law).pvalue > 1e-3
    assert stats.chisquare(counted(found.tokens), n * law_of(1e6)).pvalue < 1e-6  # that of the model is another


def test_one_proposal_is_sampling() -> None:
    n = 8000
    found = design(DENOISER, PROCESS, (n, L), reward, method=SVDD(ALPHA, 1), steps=STEPS)
    assert stats.chisquare(counted(found.tokens), n * law_of(1e12)).pvalue > 1e-3


def test_many_proposals_find_more_reward() -> None:
    means = [
        float(design(DENOISER, PROCESS, (300, L), reward, method=SVDD(0.0, m), steps=STEPS).rewards.mean())
        for m in (1, 2, 8)
    ]
    assert means[0] < means[1] < means[2]


def test_reports_are_exact() -> None:
    n, m = 20, 5
    found = design(DENOISER, PROCESS, (n, L), reward, method=SVDD(ALPHA, m), steps=STEPS)
    assert torch.equal(found.rewards, reward(found.tokens))
    assert found.reward_calls == n * m * STEPS
    assert found.evaluations == n * (1 + m * (STEPS - 1))
    assert found.survivors.tolist() == [1] * n
    assert found.log_weights is None
    guided = design(DENOISER, PROCESS, (n, L), reward, method=SVDD(ALPHA, m), steps=STEPS, guidance=Guidance(soft, 1.0))
    assert guided.gradients == n * STEPS
    assert guided.evaluations == n * (1 + m * (STEPS - 1))


def test_rows_are_on_their_own_and_templates_are_kept() -> None:
    template = torch.tensor([[-1, -1, 1], [0, -1, -1], [-1, -1, -1], [-1, 0, -1]])
    ids = [4, 9, 0, 2]

    def run(rows: list[int]) -> Tensor:
        return design(
            DENOISER,
            PROCESS,
            (len(rows), L),
            reward,
            method=SVDD(ALPHA, 3),
            steps=STEPS,
            template=template[rows],
            samples=[ids[row] for row in rows],
        ).tokens

    whole = run([0, 1, 2, 3])
    assert bool(((whole == template) | (template < 0)).all())
    assert torch.equal(run([3, 1]), whole[[3, 1]])


@pytest.mark.parametrize("alpha", [ALPHA, 0.0])
def test_lost_proposals_are_not_kept(alpha: float) -> None:
    """A proposal of weight 0 (log ratio -inf), here every sequence that begins with 1, whatever its reward."""

    def losing(denoiser: Any, process: Absorbing, /, **guide: Any) -> Proposal:
        proposal = ancestral_proposal(denoiser, process)

        def propose(x: Tensor, t: float, s: float, noise: Noise, draw: int) -> Proposed:
            after, ratio = proposal(x, t, s, noise, draw)
            return Proposed(after, torch.where(after[:, 0] == 1, -torch.inf, ratio))

        return propose

    def first(x: Tensor) -> Tensor:
        return x[:, 0].double()

    found = design(DENOISER, PROCESS, (100, L), first, method=SVDD(alpha, 40), steps=STEPS, proposal=losing)
    assert not found.tokens[:, 0].any()


def test_settings_are_checked() -> None:
    for wrong in (-0.1, float("nan"), float("inf")):
        with pytest.raises(InputError, match="alpha must be at least 0"):
            SVDD(wrong, 2)
    with pytest.raises(InputError, match="proposals must be at least 1"):
        SVDD(1.0, 0)
