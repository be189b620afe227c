"""Unmasking by confidence and by an entropy bound, and sharper posteriors."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from degauss.core import InputError, Noise
from degauss.core.jump import (
    Absorbing,
    Cosine,
    LogLinear,
    Nucleus,
    Subs,
    Tempered,
    capped,
    certainty,
    confident,
    entropy_bounded,
    margin,
    remasking,
    rescaled,
    sample_tokens,
    token_probability,
    top_probability,
)
from degauss.core.observe import Last, Trajectory
from degauss.core.posterior import Categorical

DOUBLE = torch.float64
V = 3


def fixed(*probabilities: list[float]) -> Any:
    """A denoiser of independent positions with given probabilities."""
    logits = torch.tensor(probabilities, dtype=DOUBLE).log()
    return Subs(lambda x, t: logits.expand(*x.shape, V), Absorbing(V))


def order(path: Trajectory, row: int = 0) -> list[list[int]]:
    """The positions that each step restored."""
    states = path.stack()[:, row]
    masked = torch.cat([torch.ones(1, states.shape[1], dtype=torch.bool), states == V])
    return [(before & ~after).nonzero()[:, 0].tolist() for before, after in pairwise(masked)]


SURE = fixed([0.5, 0.49, 0.01], [0.44, 0.28, 0.28], [0.9, 0.05, 0.05], [0.6, 0.2, 0.2])


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (top_probability, [[2], [3], [0], [1]]),
        (margin, [[2], [3], [1], [0]]),
        (certainty, [[2], [0], [3], [1]]),
    ],
)
def test_the_surest_go_first(score: Any, expected: list[list[int]]) -> None:
    path = Trajectory()
    sample_tokens(SURE, Absorbing(V), (1, 4), solver=confident(score), steps=4, observe=[path])
    assert order(path) == expected


def test_the_score_of_drawn_tokens() -> None:
    probabilities = torch.tensor([[[0.5, 0.3, 0.2], [0.5, 0.3, 0.2]]])
    score = token_probability(probabilities, torch.tensor([[2, 0]]))
    torch.testing.assert_close(score, torch.tensor([[0.2, 0.5]]).log())


@pytest.mark.parametrize("rates", [LogLinear(), Cosine()], ids=repr)
@pytest.mark.parametrize("steps", [1, 4, 7, 30])
def test_as_many_as_the_schedule_says(rates: Any, steps: int) -> None:
    process, path = Absorbing(V, rates), Trajectory()
    template = torch.full((2, 20), -1)
    template[1, :7] = 0

    def flat(x: Tensor, t: Tensor, /, **cond: Any) -> Categorical:
        return Categorical(torch.zeros(*x.shape, V))

    sample_tokens(flat, process, (2, 20), solver=confident(), steps=steps, template=template, observe=[path])
    left = (path.stack() == V).sum(-1)
    grid = torch.linspace(1, 0, steps + 1, dtype=DOUBLE)
    for row, masks in enumerate((20, 13)):
        expected = (masks * rates(grid[1:]).gone - 1e-9).ceil().long()
        assert torch.equal(left[:, row], expected)


def test_temperature_makes_the_order_random() -> None:
    path, n = Trajectory(), 2000
    solver = confident(temperature=1e6)
    sample_tokens(SURE, Absorbing(V), (n, 4), solver=solver, steps=4, observe=[path])
    first = (path.stack()[0] != V).long().argmax(1)
    assert stats.chisquare(torch.bincount(first, minlength=4)).pvalue > 1e-3


def test_a_little_temperature_prefers_the_surest() -> None:
    """Gumbel noise on log p at share 3/4 of the masks: position l first with probability proportional to p_l^(4/3)."""
    path, n = Trajectory(), 4000
    sample_tokens(SURE, Absorbing(V), (n, 4), solver=confident(temperature=1.0), steps=4, observe=[path])
    first = (path.stack()[0] != V).long().argmax(1)
    expected = torch.tensor([0.5, 0.44, 0.9, 0.6], dtype=DOUBLE) ** (4 / 3)
    counts = torch.bincount(first, minlength=4)
    assert stats.chisquare(counts, n * expected / expected.sum()).pvalue > 1e-3


# Entropy bound


def test_each_step_keeps_the_bound_and_takes_all_it_allows() -> None:
    gamma, length, path = 0.8, 12, Trajectory()
    logits = 2 * Noise(0, (0,)).normal(torch.empty(1, length, V, dtype=DOUBLE))[0]
    entropy = torch.special.entr(logits.softmax(-1)).sum(-1)
    denoiser = Subs(lambda x, t: logits.expand(*x.shape, V), Absorbing(V))
    last = Last()
    solver = entropy_bounded(gamma)
    sample_tokens(denoiser, Absorbing(V), (1, length), solver=solver, steps=length, observe=[path, last])
    groups = [group for group in order(path) if group]
    rising = entropy.sort().values.tolist()
    for group in groups:
        taken, rising = rising[: len(group)], rising[len(group) :]
        assert sorted(entropy[group].tolist()) == taken
        assert sum(taken[:-1]) <= gamma
        assert not rising or sum(taken) > gamma
    assert 1 < len(groups) < length
    assert last.carry.evaluations.tolist() == [len(groups)]


def test_the_ends_of_the_entropy_bound() -> None:
    process = Absorbing(V)
    for gamma, expected in ((0.0, [1, 1, 1, 1]), (100.0, [4, 0, 0, 0])):
        path, last = Trajectory(), Last()
        sample_tokens(SURE, process, (1, 4), solver=entropy_bounded(gamma), steps=4, observe=[path, last])
        assert [len(group) for group in order(path)] == expected
        assert last.carry.evaluations.tolist() == [sum(count > 0 for count in expected)]
    certain = fixed([1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.2, 0.3, 0.5])
    path = Trajectory()
    sample_tokens(certain, process, (1, 3), solver=entropy_bounded(0.0), steps=3, observe=[path])
    assert order(path) == [[0, 1, 2], [], []]  # nothing is lost by a last one beside certain ones


def test_too_few_steps_restore_the_rest_together() -> None:
    path = Trajectory()
    sample_tokens(SURE, Absorbing(V), (1, 4), solver=entropy_bounded(0.0), steps=2, observe=[path])
    assert order(path) == [[2], [0, 1, 3]]


def test_rows_that_are_done_are_not_asked() -> None:
    asked: list[int] = []

    def watching(x: Tensor, t: Tensor, /, **cond: Any) -> Categorical:
        asked.append(len(x))
        assert t.shape == (len(x),)
        return SURE(x, t)

    template = torch.tensor([[-1, -1, -1, -1], [0, 0, -1, 0], [0, 1, -1, -1]])
    sample_tokens(watching, Absorbing(V), (3, 4), solver=entropy_bounded(0.0), steps=6, template=template)
    assert asked == [3, 2, 1, 1]


# Temperature, top-p


def logits(x: Tensor, t: Tensor, /, **cond: Any) -> Categorical:
    return Categorical(torch.tensor([0.5, 0.3, 0.15, 0.05]).log().expand(*x.shape, 4))


X, T = torch.full((2, 5), 4), torch.tensor([0.25, 0.5], dtype=DOUBLE)


def test_temperature_is_a_power() -> None:
    plain = logits(X, T).logits.softmax(-1)
    torch.testing.assert_close(Tempered(logits, 1.0)(X, T).logits.softmax(-1), plain)
    sharp = plain**2 / (plain**2).sum(-1, keepdim=True)
    torch.testing.assert_close(Tempered(logits, 0.5)(X, T).logits.softmax(-1), sharp)
    by_time = Tempered(logits, lambda t: 2 * t)(X, T).logits.softmax(-1)
    torch.testing.assert_close(by_time[0], sharp[0])
    torch.testing.assert_close(by_time[1], plain[1])
    assert Tempered(logits, lambda t: 2 * t)(X, T).logits.dtype == torch.float32


@pytest.mark.parametrize(("mass", "kept"), [(0.1, 1), (0.5, 1), (0.51, 2), (0.8, 2), (0.9, 3), (0.97, 4), (1.0, 4)])
def test_nucleus_is_the_smallest_set_of_its_mass(mass: float, kept: int) -> None:
    # Sums of these numbers are not exact: 0.5 and 0.8 are asked a little below.
    got = Nucleus(logits, mass - 1e-6 if mass in (0.5, 0.8) else mass)(X, T).logits.softmax(-1)
    assert (got > 0).sum(-1).unique().tolist() == [kept]
    expected = torch.tensor([0.5, 0.3, 0.15, 0.05])[:kept]
    torch.testing.assert_close(got[0, 0, :kept], expected / expected.sum())


def test_certain_tokens_stay_certain() -> None:
    denoiser = fixed([0.4, 0.3, 0.3], [0.4, 0.3, 0.3])
    x, t = torch.tensor([[1, V]]), torch.tensor(0.5)
    for sharper in (Tempered(denoiser, 0.3), Nucleus(denoiser, 0.5), Nucleus(Tempered(denoiser, 2.0), 0.9)):
        assert sharper(x, t).logits.softmax(-1)[0, 0].tolist() == [0, 1, 0]


def test_sharper_samples() -> None:
    denoiser = fixed(*[[0.4, 0.35, 0.25]] * 50)
    plain, sharp, top = (
        sample_tokens(chosen, Absorbing(V), (20, 50), solver=confident(), steps=5)
        for chosen in (denoiser, Tempered(denoiser, 0.2), Nucleus(denoiser, 0.6))
    )
    assert float((sharp == 0).double().mean()) > 0.15 + float((plain == 0).double().mean())
    assert int(top.max()) == 1


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Tempered(logits, 0.0), "temperature must be above 0, but is 0.0"),
        (lambda: Tempered(logits, float("nan")), "temperature must be above 0"),
        (lambda: Nucleus(logits, 0.0), "mass must be in"),
        (lambda: Nucleus(logits, 1.5), "mass must be in"),
        (lambda: confident(temperature=-1.0), "temperature must be at least 0"),
        (lambda: entropy_bounded(-0.1), "gamma must be at least 0 nats"),
        (lambda: remasking(capped(1.5)), "most must be between 0 and 1"),
        (lambda: remasking(rescaled(-0.5)), "share must be between 0 and 1"),
    ],
)
def test_values_out_of_range_are_refused(make: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make()
