"""Steps with fresh randomness: their law and their importance ratio against enumeration."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from degauss.core import InputError, Noise
from degauss.core.jump import Absorbing, Cosine, LogLinear, Tempered
from degauss.core.jump.oracle import Tabular, joint_of, number_of, sequences
from degauss.core.posterior import Categorical
from degauss.core.reward import Counted, Hardened, ancestral_proposal

DOUBLE = torch.float64
V, L = 3, 3
STATES = torch.tensor([[V, V, V], [V, 1, V], [2, V, 0], [0, 1, 2]])


def table() -> Tabular:
    u = Noise(5, (0,)).uniform(torch.empty(1, *[V] * L, dtype=DOUBLE))[0]
    return Tabular(u**3 + 0.01)


def step_law(posterior: Categorical, process: Absorbing, x: Tensor, s: float, t: float) -> Tensor:
    """p(x_s | x_t) of every state, ``[batch, (V + 1)^L]``."""
    early, late = torch.tensor([s, t], dtype=DOUBLE)
    return joint_of(process.reverse(posterior, x, early, late))


@pytest.mark.parametrize("rates", [LogLinear(), Cosine()], ids=repr)
@pytest.mark.parametrize(("t", "s"), [(1.0, 0.6), (0.6, 0.3), (0.4, 0.0)])
def test_steps_have_the_law_of_the_reverse_process(rates: Any, t: float, s: float) -> None:
    n, process = 4000, Absorbing(V, rates)
    denoiser = table().denoiser(process)
    for state in STATES:
        x = state.expand(n, L)
        proposed = ancestral_proposal(denoiser, process)(x, t, s, Noise(1, range(n)), 0)
        law = step_law(denoiser(x[:1], torch.tensor(t)), process, x[:1], s, t)[0]
        counts = torch.bincount(number_of(proposed.x, V + 1), minlength=len(law))
        assert int(counts[law < 1e-12].sum()) == 0
        if int((law > 1e-12).sum()) > 1:
            assert stats.chisquare(counts[law > 1e-12], n * law[law > 1e-12]).pvalue > 1e-3
        assert not proposed.log_ratio.any()


@pytest.mark.parametrize(("t", "s"), [(0.6, 0.3), (0.4, 0.0)])
def test_the_ratio_is_that_of_the_two_laws(t: float, s: float) -> None:
    """Drawn from the guide, weighted by the plain model: to rounding, also where nothing was restored."""
    process = Absorbing(V)
    plain = table().denoiser(process)
    guide = Tempered(plain, 0.5)
    x = STATES.repeat_interleave(50, 0)
    proposed = ancestral_proposal(plain, process, guide=guide)(x, t, s, Noise(2, range(len(x))), 3)
    time, reached = torch.tensor(t), number_of(proposed.x, V + 1)[:, None]
    p, q = (step_law(model(x, time), process, x, s, t).gather(1, reached)[:, 0] for model in (plain, guide))
    torch.testing.assert_close(proposed.log_ratio, (p / q).log(), rtol=1e-10, atol=1e-10)
    assert proposed.log_ratio.dtype == DOUBLE
    assert len(proposed.log_ratio.unique()) > 10


def test_what_is_given_stays_and_the_last_step_leaves_no_mask() -> None:
    process = Absorbing(V)
    x = STATES.repeat_interleave(40, 0)
    for s in (0.5, 0.0):
        after = ancestral_proposal(table().denoiser(process), process)(x, 0.8, s, Noise(0, range(len(x))), 0).x
        assert torch.equal(after[x != V], x[x != V])
        assert int(after.max()) == (V if s else V - 1)


def test_draws_are_numbered_and_rows_are_on_their_own() -> None:
    process = Absorbing(V)
    proposal = ancestral_proposal(table().denoiser(process), process)
    ids = list(range(30))
    x = torch.full((30, L), V)
    one, other = (proposal(x, 1.0, 0.3, Noise(4, ids), number).x for number in (0, 1))
    assert torch.equal(one, proposal(x, 1.0, 0.3, Noise(4, ids), 0).x)
    assert not torch.equal(one, other)
    assert len(one.unique(dim=0)) > 5
    assert torch.equal(proposal(x[:4], 1.0, 0.3, Noise(4, ids[10:14]), 0).x, one[10:14])


def test_numbers_that_are_none_leave_the_mask() -> None:
    def broken(x: Tensor, t: Tensor, /, **cond: Any) -> Categorical:
        return Categorical(torch.full((*x.shape, V), float("nan")))

    after = ancestral_proposal(broken, Absorbing(V))(STATES, 0.5, 0.0, Noise(0, range(4)), 0).x
    assert torch.equal(after, STATES)


# Rewards


def test_hardened_rewards_see_the_corners_of_the_simplex() -> None:
    def soft(weights: Tensor) -> Tensor:
        return (weights @ torch.tensor([1.0, 2.0, 4.0])).sum(-1)

    x = sequences(V, 2)
    values = torch.tensor([1.0, 2.0, 4.0])
    assert torch.equal(Hardened(soft, V)(x), values[x].sum(1))


def test_rewards_are_counted_and_checked() -> None:
    reward = Counted(lambda x: x.sum(-1).double(), "the sum")
    reward(STATES)
    reward(STATES[:1])
    assert reward.calls == 5
    broken = Counted(lambda x: torch.where(x[:, 0] == 2, torch.nan, 1.0), "activity")
    with pytest.raises(InputError, match=r"activity must return finite numbers, but returned nan for sequence 2 of 4"):
        broken(STATES)
    with pytest.raises(InputError, match=r"activity must return finite numbers, but returned -inf"):
        Counted(lambda x: torch.full((len(x),), -torch.inf), "activity")(STATES)
    with pytest.raises(InputError, match=r"table must return one number for each of 4 sequences, but .* \(4, 3\)"):
        Counted(lambda x: x.double(), "table")(STATES)
