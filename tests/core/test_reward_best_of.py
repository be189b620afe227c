"""Best of n against the law of order statistics; and what the one call for all methods promises."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from degauss.core import InputError, Noise
from degauss.core.jump import Absorbing
from degauss.core.jump.oracle import Tabular, ancestral_steps, number_of, sampler_law, sequences
from degauss.core.reward import (
    SMC,
    SVDD,
    BestOf,
    Counted,
    Drawn,
    Guidance,
    Method,
    Proposal,
    Proposed,
    TaylorGuided,
    design,
)

DOUBLE = torch.float64
V, L, STEPS = 3, 2, 2
PROCESS = Absorbing(V)
DENOISER = Tabular(Noise(5, (0,)).uniform(torch.empty(1, V, V, dtype=DOUBLE))[0] ** 2).denoiser(PROCESS)
# Two pairs of sequences have equal rewards.
REWARDS = torch.tensor([0.3, 1.0, -0.5, 1.0, 2.0, 0.0, 0.0, -1.0, 0.7], dtype=DOUBLE)


def reward(x: Tensor) -> Tensor:
    return REWARDS[number_of(x, V)]


def soft(weights: Tensor) -> Tensor:
    return torch.einsum("na,nb,ab->n", *weights.double().unbind(1), REWARDS.reshape(V, V))


def sampled_law(denoiser: Any = DENOISER) -> Tensor:
    start = torch.zeros((V + 1) ** L, dtype=DOUBLE)
    start[-1] = 1
    grid = torch.linspace(1, 0, STEPS + 1, dtype=DOUBLE)
    law = sampler_law(start, ancestral_steps(denoiser, PROCESS), V + 1, grid, L)
    return law[number_of(sequences(V, L), V + 1)]


def best_law(p: Tensor, draws: int) -> Tensor:
    """p(x) (F(r)^N - F(r-)^N) / P[reward = r]."""
    below = (p * (REWARDS[:, None] > REWARDS)).sum(1)
    equal = (p * (REWARDS[:, None] == REWARDS)).sum(1)
    return p * ((below + equal) ** draws - below**draws) / equal


@pytest.mark.parametrize("draws", [1, 2, 5])
def test_the_best_of_several_has_the_law_of_order_statistics(draws: int) -> None:
    n = 6000
    found = design(DENOISER, PROCESS, (n, L), reward, method=BestOf(draws), steps=STEPS, seed=draws)
    law = best_law(sampled_law(), draws)
    counts = torch.bincount(number_of(found.tokens, V), minlength=V**L)
    assert float(law.sum()) == pytest.approx(1)
    assert stats.chisquare(counts, n * law).pvalue > 1e-3


def test_the_best_of_one_is_guided_sampling() -> None:
    n, scale = 6000, 1.5
    found = design(
        DENOISER, PROCESS, (n, L), reward, method=BestOf(), steps=STEPS, guidance=Guidance(soft, scale), seed=3
    )
    law = sampled_law(TaylorGuided(DENOISER, PROCESS, soft, scale))
    counts = torch.bincount(number_of(found.tokens, V), minlength=V**L)
    assert stats.chisquare(counts, n * law).pvalue > 1e-3
    assert stats.chisquare(counts, n * sampled_law()).pvalue < 1e-6
    assert (found.reward_calls, found.gradients, found.evaluations) == (n, n * STEPS, n * STEPS)


def test_draws_are_counted() -> None:
    """All start alike: the first step asks once for each design."""
    found = design(DENOISER, PROCESS, (20, L), reward, method=BestOf(4), steps=STEPS, guidance=Guidance(soft, 1.0))
    assert (found.reward_calls, found.evaluations) == (20 * 4, 20 * (1 + 4 * (STEPS - 1)))
    assert found.gradients == found.evaluations
    assert torch.equal(found.rewards, reward(found.tokens))
    assert found.survivors.tolist() == [1] * 20


# What every method promises

METHODS: dict[str, Method] = {
    "best of": BestOf(3),
    "smc": SMC(0.5, 2),
    "smc, drawn": SMC(0.5, 2, resample_below=0.5, completion=Drawn(2)),
    "svdd": SVDD(0.5, 3),
    "svdd, best": SVDD(0.0, 3, completion=Drawn()),
}
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


@every_method
@pytest.mark.parametrize("guided", [False, True])
def test_designs_do_not_depend_on_other_groups(method: Method, guided: bool) -> None:
    guidance = Guidance(soft, 1.0) if guided else None
    ids = [5, 1, 8, 2, 0, 3]

    def run(first: int, last: int, seed: int = 0) -> Tensor:
        return design(
            DENOISER,
            PROCESS,
            (last - first, L),
            reward,
            method=method,
            steps=4,
            guidance=guidance,
            samples=ids[first:last],
            seed=seed,
        ).tokens

    whole = run(0, 6)
    assert torch.equal(run(2, 4), whole[2:4])
    assert torch.equal(run(4, 6), whole[4:6])
    assert any(not torch.equal(run(0, 6, seed), whole) for seed in (1, 2))


@every_method
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_designs_are_tokens_with_their_rewards(method: Method, steps: int) -> None:
    with torch.inference_mode():
        found = design(
            DENOISER,
            PROCESS,
            (40, L),
            reward,
            method=method,
            steps=steps,
            guidance=Guidance(soft, 1.0),
            template=torch.tensor([-1, 2]),
        )
    assert found.tokens.shape == (40, L)
    assert int(found.tokens.min()) >= 0
    assert bool((found.tokens[:, 1] == 2).all())
    assert torch.equal(found.rewards, reward(found.tokens))


@every_method
def test_rewards_that_are_no_numbers_are_refused_by_name(method: Method) -> None:
    def activity(x: Tensor) -> Tensor:
        return torch.where(x[:, 0] == 1, torch.nan, 1.0)

    with pytest.raises(InputError, match=r"activity must return finite numbers, but returned nan"):
        design(DENOISER, PROCESS, (30, L), activity, method=method, steps=2)
    with pytest.raises(InputError, match=r"HepG2 must return finite numbers"):
        design(DENOISER, PROCESS, (30, L), Counted(activity, "HepG2"), method=method, steps=2)


def shifted(denoiser: Any, process: Absorbing, /, **guide: Any) -> Proposal:
    """A proposal of one's own: the same token at every position."""

    def propose(x: Tensor, t: float, s: float, noise: Noise, draw: int) -> Proposed:
        tokens = denoiser(x, torch.tensor(t)).logits.argmax(-1)[:, :1].expand_as(x)
        after = x if s else torch.where(x == V, tokens, x)
        return Proposed(after, torch.zeros(len(x), dtype=DOUBLE))

    return propose


@every_method
def test_any_proposal_fits(method: Method) -> None:
    """One that returns the state itself, too: what is remembered of it is not taken for the next time's."""
    times: list[float] = []

    def timed(x: Tensor, t: Tensor, /, **cond: Any) -> Any:
        times.append(float(t))
        return DENOISER(x, t)

    found = design(timed, PROCESS, (4, L), reward, method=method, steps=4, proposal=shifted)
    assert bool((found.tokens == found.tokens[:, :1]).all())
    assert sorted(times, reverse=True) == times
    assert len(set(times)) == 4
    assert len(times) == 4


@every_method
def test_conditions_of_the_time_are_asked_at_their_time(method: Method) -> None:
    """A denoiser that only reaches a token late: what it said of another time would be seen."""
    asked: list[tuple[float, int]] = []

    def denoiser(x: Tensor, t: Tensor, /, **cond: Any) -> Any:
        asked.append((float(t), len(x)))
        return DENOISER(x, t)

    found = design(denoiser, PROCESS, (4, L), reward, method=method, steps=5)
    assert [time for time, _ in asked] == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])
    assert sum(rows for _, rows in asked) == found.evaluations


def test_settings_are_checked() -> None:
    with pytest.raises(InputError, match="draws must be at least 1"):
        BestOf(0)
    with pytest.raises(InputError, match="guesses must be at least 1"):
        Drawn(0)
    with pytest.raises(InputError, match="steps must be at least 1"):
        design(DENOISER, PROCESS, (4, L), reward, method=BestOf(), steps=0)
    with pytest.raises(InputError, match="a template must hold tokens 0 to 2"):
        design(DENOISER, PROCESS, (4, L), reward, method=BestOf(), steps=2, template=torch.tensor([3, -1]))
