"""Control paths: against torchcde and scipy, at their knots, their derivatives, missing values, gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import CubicHermiteSpline, CubicSpline
from torch import Tensor

from degauss.core import InputError
from degauss.core.sde import Path, hermite, linear, natural

DOUBLE = torch.float64
KINDS = (linear, hermite, natural)
NAN = math.nan


def drawn(
    seed: int, batch: int = 3, length: int = 12, channels: int = 2, missing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Irregular times and values, some of them missing."""
    generator = torch.Generator().manual_seed(seed)
    times = (torch.rand(length, generator=generator, dtype=DOUBLE) + 0.1).cumsum(0) - 1
    values = torch.randn(batch, length, channels, generator=generator, dtype=DOUBLE)
    gone = torch.rand(values.shape, generator=generator) < missing
    return times, values.masked_fill(gone, NAN)


def inside(times: Tensor, count: int = 40) -> Tensor:
    """Times between the first and the last, none of them a knot."""
    share = (torch.arange(count, dtype=DOUBLE) + 0.5) / count
    return times[0] + (times[-1] - times[0]) * share


def holes() -> Tensor:
    """Channels with a gap inside, at the start, at the end, one value, two, none."""
    _, values = drawn(0, batch=1, length=9, channels=6)
    for channel, gone in enumerate(([3, 4, 5], [0, 1, 2], [6, 7, 8], [0, 1, 2, 3, 5, 6, 7, 8], [0, 2, 3, 4, 5, 6, 8])):
        values[0, gone, channel] = NAN
    values[0, :, 5] = NAN
    return values


CASES = {
    "complete": drawn(1),
    "half": drawn(2, missing=0.5),
    "nearly all": drawn(3, missing=0.9),
    "holes": (drawn(4, length=9)[0], holes()),
    "two knots": drawn(5, length=2),
    "two knots, half": drawn(6, batch=8, length=2, missing=0.5),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", KINDS)
def test_paths_are_those_of_torchcde(kind, case):
    torchcde = pytest.importorskip("torchcde", reason="torchcde is the reference here")
    times, values = CASES[case]
    if kind is linear:
        peer = torchcde.LinearInterpolation(torchcde.linear_interpolation_coeffs(values, times), times)
    elif kind is hermite:
        peer = torchcde.CubicSpline(torchcde.hermite_cubic_coefficients_with_backward_differences(values, times), times)
    else:
        peer = torchcde.CubicSpline(torchcde.natural_cubic_coeffs(values, times), times)
    path, at = kind(times, values), inside(times)
    torch.testing.assert_close(path(at).transpose(0, 1), peer.evaluate(at), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(path.derivative(at).transpose(0, 1), peer.derivative(at), rtol=1e-9, atol=1e-9)


def channels_of(values: Tensor) -> list[tuple[int, int]]:
    return [(i, c) for i in range(values.shape[0]) for c in range(values.shape[2])]


@pytest.mark.parametrize("missing", [0.0, 0.5])
def test_natural_splines_are_scipys_between_their_first_and_last_value(missing):
    times, values = drawn(7, batch=4, length=20, missing=missing)
    values[:, [0, -1]] = 1.0
    path, at = natural(times, values), inside(times)
    for i, c in channels_of(values):
        here = ~values[i, :, c].isnan()
        spline = CubicSpline(times[here].numpy(), values[i, here, c].numpy(), bc_type="natural")
        np.testing.assert_allclose(path(at)[:, i, c], spline(at.numpy()), atol=1e-11)
        np.testing.assert_allclose(path.derivative(at)[:, i, c], spline(at.numpy(), 1), atol=1e-10)


def test_hermite_splines_have_the_slope_of_the_line_from_the_knot_before():
    times, values = drawn(8)
    path, at = hermite(times, values), inside(times)
    for i, c in channels_of(values):
        slope = np.diff(values[i, :, c]) / np.diff(times)
        spline = CubicHermiteSpline(times.numpy(), values[i, :, c].numpy(), np.concatenate((slope[:1], slope)))
        np.testing.assert_allclose(path(at)[:, i, c], spline(at.numpy()), atol=1e-12)


def test_linear_paths_are_numpys_with_gaps_bridged_and_ends_held():
    times, values = drawn(9, missing=0.5)
    path, at = linear(times, values), inside(times)
    for i, c in channels_of(values):
        here = ~values[i, :, c].isnan()
        np.testing.assert_allclose(
            path(at)[:, i, c], np.interp(at.numpy(), times[here].numpy(), values[i, here, c].numpy()), atol=1e-12
        )


def test_hermite_uses_no_value_after_the_end_of_an_interval_and_natural_does():
    times, values = drawn(10)
    other = values.clone()
    other[:, 7:] += 1.0
    before = inside(times)[inside(times) < times[6]]
    assert torch.equal(hermite(times, values)(before), hermite(times, other)(before))
    assert not torch.allclose(natural(times, values)(before), natural(times, other)(before))


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    length=st.integers(2, 15),
    missing=st.floats(0.0, 1.0),
    kind=st.sampled_from(KINDS),
)
def test_paths_pass_their_values_and_their_derivative_is_theirs(seed, length, missing, kind):
    times, values = drawn(seed, length=length, missing=missing)
    path = kind(times, values)
    at_knots, seen = path(times).transpose(0, 1), ~values.isnan()
    torch.testing.assert_close(at_knots[seen], values[seen], rtol=1e-9, atol=1e-9)
    assert at_knots.isfinite().all()
    assert (at_knots.transpose(1, 2)[~seen.any(1)] == 0).all()

    at, step = inside(times, 23), 1e-6
    # Finite differences across no knot, where the derivative of a linear path jumps.
    at = at[((at[:, None] - times).abs() > 2 * step).all(1)]
    slope = (path(at + step) - path(at - step)) / (2 * step)
    scale = float(path.derivative(at).abs().max()) + 1.0
    torch.testing.assert_close(path.derivative(at) / scale, slope / scale, rtol=0, atol=1e-6)

    # Continuous at the inner knots, seen from the left; natural has two continuous derivatives.
    a, b, c, d = path.coefficients
    gap = times.diff()[:, None, None]
    jumps = (a + gap * (b + gap * (c + gap * d)))[:-1] - a[1:]
    bends = (b + gap * (2 * c + 3 * gap * d))[:-1] - b[1:]
    turns = torch.cat([(c + 3 * gap * d)[:-1] - c[1:], c[:1], (c + 3 * gap * d)[-1:]])
    assert jumps.abs().sum() < 1e-8
    assert kind is linear or bends.abs().sum() < 1e-8 * (1 + b.abs().max())
    assert kind is not natural or turns.abs().sum() < 1e-7 * (1 + c.abs().max())


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), kind=st.sampled_from(KINDS), missing=st.sampled_from([0.0, 0.4]))
def test_paths_are_linear_in_the_values_and_each_series_is_its_own(seed, kind, missing):
    times, values = drawn(seed, missing=missing)
    at = inside(times)
    twice = kind(times, 2 * values)(at)
    torch.testing.assert_close(twice, 2 * kind(times, values)(at), rtol=1e-9, atol=1e-9)
    alone = kind(times, values[1:2])(at)
    torch.testing.assert_close(alone, kind(times, values)(at)[:, 1:2], rtol=1e-12, atol=1e-12)
    moved = kind(times + 5, values)(at + 5)
    torch.testing.assert_close(moved, kind(times, values)(at), rtol=1e-6, atol=1e-6)


def test_each_kind_reproduces_what_it_contains():
    times = drawn(0)[0]
    straight = (2 * times - 1)[None, :, None]
    at = inside(times)
    for kind in KINDS:
        torch.testing.assert_close(kind(times, straight)(at)[:, 0, 0], 2 * at - 1)
        torch.testing.assert_close(kind(times, straight).derivative(at), torch.full((len(at), 1, 1), 2.0).double())
        straight_gap = straight.clone()
        straight_gap[0, 3:6] = NAN
        torch.testing.assert_close(kind(times, straight_gap)(at)[:, 0, 0], 2 * at - 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("missing", [0.0, 0.5])
def test_gradients_reach_the_values(kind, missing):
    times, values = drawn(11, batch=2, length=6, missing=missing)
    seen = ~values.isnan()
    at = inside(times, 9)

    def run(known: Tensor) -> Tensor:
        path = kind(times, values.masked_scatter(seen, known))
        return torch.cat([path(at), path.derivative(at)])

    torch.autograd.gradcheck(run, (values[seen].clone().requires_grad_(),))


def test_gradients_reach_the_times_asked_for():
    times, values = drawn(12)
    path = natural(times, values)
    at = inside(times, 7).requires_grad_()
    (slope,) = torch.autograd.grad(path(at)[:, 0, 0].sum(), at)
    torch.testing.assert_close(slope, path.derivative(at)[:, 0, 0].detach())


def test_large_times_keep_their_digits():
    """Seconds since 1970 in float32 would be rounded to two minutes."""
    times, values = drawn(13, missing=0.3)
    late = times + 1.7e9
    near = natural(times, values)(inside(times))
    single = natural(late, values.float())(inside(times) + 1.7e9)
    torch.testing.assert_close(single, near.float(), rtol=1e-3, atol=1e-3)


def test_beyond_the_knots_the_last_cubic_goes_on():
    times, values = drawn(14)
    path = natural(times, values)
    u = times[-1] + 0.5 - times[-2]
    a, b, c, d = path.coefficients[:, -1]
    assert isinstance(path, Path)
    torch.testing.assert_close(path(times[-1:] + 0.5)[0], a + u * (b + u * (c + u * d)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("times", "values", "message"),
    [
        (torch.tensor([0.0, 0.0]), torch.zeros(1, 2, 1), "finite, increasing times, but has [0.0, 0.0]"),
        (torch.tensor([0.0, NAN]), torch.zeros(1, 2, 1), "finite, increasing times"),
        (torch.tensor([0.0]), torch.zeros(1, 1, 1), "two or more finite, increasing times, but has shape [1]"),
        (torch.zeros(2, 2), torch.zeros(1, 2, 1), "but has shape [2, 2]"),
        (torch.arange(3.0), torch.zeros(1, 2, 1), "floats [batch, 3, channels], but are torch.float32 [1, 2, 1]"),
        (torch.arange(3.0), torch.zeros(3), "floats [batch, 3, channels]"),
        (torch.arange(3.0), torch.zeros(1, 3, 1, dtype=torch.long), "torch.int64"),
        (torch.arange(3.0), torch.full((1, 3, 1), math.inf), "some are infinite"),
    ],
)
def test_bad_paths_are_refused_in_a_sentence(kind, times, values, message):
    with pytest.raises(InputError) as error:
        kind(times, values)
    assert message in str(error.value)
