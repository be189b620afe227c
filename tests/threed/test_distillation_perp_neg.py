"""Perpendicular negatives: their algebra, their weights by view, and that they ask what they should."""

from __future__ import annotations

import math

import pytest
import torch

from degauss.core.errors import InputError
from degauss.threed.distillation.guidance import ClassifierFree, guided_denoiser
from degauss.threed.distillation.perp_neg import Perpendicular, other_views, perpendicular
from degauss.threed.distillation.sds import SDS

from ._distilling import NOISE, TIMES, GaussianPrior, asked, images, prior, views

SEEN = views(0.0, 60.0, 120.0, 180.0)


def test_what_is_parallel_is_removed_and_what_is_orthogonal_kept():
    x, to = images(), images(1)
    rest = perpendicular(x, to)
    assert float((rest * to).sum((1, 2, 3)).abs().max()) < 1e-12
    assert float(perpendicular(-3 * to, to).abs().max()) < 1e-12
    assert torch.allclose(perpendicular(rest, to), rest, atol=1e-12)
    assert torch.allclose(rest + (x - rest), x)
    share = ((x - rest) / to).flatten(1)
    assert torch.allclose(share, share[:, :1].expand_as(share), atol=1e-8)
    assert torch.equal(perpendicular(x, torch.zeros_like(x)), x)


def combined(wanted, weak, first, second, strength=1.0, seen=SEEN):
    return Perpendicular(7.5, strength).combine(asked(views=seen), [wanted, weak, first, second])


def test_negatives_along_the_prompt_change_nothing_and_others_are_left():
    weak, wanted = images(1), images(2)
    plain = weak + 7.5 * (wanted - weak)
    along = weak + 2.0 * (wanted - weak)
    assert torch.allclose(combined(wanted, weak, along, weak), plain, atol=1e-10)
    across = perpendicular(images(3), wanted - weak)
    first, second = other_views(SEEN).weights
    expected = plain + 7.5 * (first + second).reshape(-1, 1, 1, 1) * across
    assert torch.allclose(combined(wanted, weak, weak + across, weak + across), expected, atol=1e-8)
    assert torch.allclose(combined(wanted, weak, images(4), images(5), strength=0.0), plain, atol=1e-12)
    half = combined(wanted, weak, weak + across, weak + across, strength=0.5)
    assert torch.allclose(half, 0.5 * (plain + expected), atol=1e-8)


def test_the_weights_by_view():
    (first, second), weights = other_views(views(0.0, 45.0, 90.0, 135.0, 180.0, -135.0, 405.0))
    assert first.azimuth.tolist() == [0, 0, 90, 90, -90, -90, 0]
    assert second.azimuth.tolist() == [90, 90, 0, 0, 0, 0, 90]

    def f(a: float, c: float, r: float) -> float:
        return -max(0.0, a * math.exp(-0.5 * r) + c)

    front_side = [(f(4, -2.426, r), f(4, -2.426, 1 - r)) for r in (1.0, 0.5)]
    side_back = [(f(1, -0.606, r), f(1, 0.967, r)) for r in (1.0, 0.5, 0.0)]
    expected = [*front_side, *side_back, side_back[1], front_side[1]]
    for index, (one, other) in enumerate(expected):
        assert float(weights[0][index]) == pytest.approx(one, abs=1e-5)
        assert float(weights[1][index]) == pytest.approx(other, abs=1e-5)
    # A view is no negative of itself, and the front is one of everything behind.
    assert float(weights[0][0]) == pytest.approx(0, abs=1e-3)
    assert float(weights[0][2]) == pytest.approx(0, abs=1e-3)
    assert bool((weights[1][2:6] < -1.5).all())
    assert all(bool((part <= 0).all()) for part in weights)


def test_it_asks_for_the_prompt_from_the_other_views():
    known = GaussianPrior({None: (0.0, 0.8), "thing": (0.0, 0.3)}, turn=0.01)
    request = asked(known, views=SEEN)
    conditions = Perpendicular(7.5).conditions(request)
    assert [condition.prompt for condition in conditions] == ["thing", None, "thing", "thing"]
    assert [c.views.azimuth.tolist() for c in conditions if c.views is not None][2] == [0, 0, 90, -90]
    told = SDS(Perpendicular(7.5)).residual(request, images(), TIMES, NOISE, 0)
    assert (known.calls, known.rows) == (1, told.evaluations) == (1, 16)
    plain = SDS(ClassifierFree(7.5)).residual(request, images(), TIMES, NOISE, 0)
    assert not torch.allclose(told.gradient, plain.gradient, atol=1e-3)
    # Without a strength the two are the same.
    none = SDS(Perpendicular(7.5, 0.0)).residual(request, images(), TIMES, NOISE, 0)
    assert torch.allclose(none.gradient, plain.gradient, atol=1e-10)


def test_as_a_denoiser():
    request = asked(views=SEEN)
    answer = guided_denoiser(request, Perpendicular(7.5))(images(), TIMES).mean
    means = [request.prior.together((c,))(images(), TIMES).mean for c in Perpendicular(7.5).conditions(request)]
    assert torch.allclose(answer, Perpendicular(7.5).combine(request, means), atol=1e-12)


def test_what_cannot_be():
    with pytest.raises(ValueError, match="no views were given"):
        Perpendicular(7.5).conditions(asked(prior()))
    with pytest.raises(InputError, match="strength must be"):
        Perpendicular(7.5, -1.0)
