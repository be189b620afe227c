"""Schedules [start, v0, v1, end], and the times they give."""

from __future__ import annotations

import pytest
import torch

from degauss.core.errors import InputError
from degauss.core.noise import Noise
from degauss.threed.distillation.annealing import LUCID, MVDREAM, PROLIFIC, SCALEDREAMER, Ramp, Times
from degauss.threed.distillation.sds import SDS
from degauss.threed.distillation.stable_dreamer import Stage, Stages, stable_dreamer


def test_a_ramp_is_flat_then_linear_then_flat():
    ramp = Ramp.of([100, 0.8, 0.2, 300])
    assert [ramp(step) for step in (0, 100, 200, 300, 9999)] == pytest.approx([0.8, 0.8, 0.5, 0.2, 0.2])
    assert ramp.listed() == [100, 0.8, 0.2, 300]
    assert [Ramp.of(0.3)(step) for step in (0, 5)] == [0.3, 0.3]
    jump = Ramp.of([50, 1.0, 2.0, 50])
    assert [jump(step) for step in (49, 50)] == [1.0, 2.0]


def test_the_published_schedules():
    assert [MVDREAM.low(0), MVDREAM.high(0)] == [0.98, 0.98]
    assert [MVDREAM.low(8000), MVDREAM.high(8000)] == [0.02, 0.5]
    assert [SCALEDREAMER.low(0), SCALEDREAMER.high(0)] == [0.5, 0.98]
    assert PROLIFIC.high(5000) == 0.98
    assert PROLIFIC.high(5001) == 0.5
    assert LUCID.high(1500) == 0.5
    assert MVDREAM.scaled(0.05).low(400) == 0.02
    assert MVDREAM.scaled(0.05).low(200) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([10, 0.1, 0.2, 5], "0 <= start <= end"),
        ([0, 0.1, 0.2], "a number or"),
        ([0.5, 0.1, 0.2, 4], "whole steps"),
    ],
)
def test_what_is_no_schedule(given, said):
    with pytest.raises(InputError, match=said):
        Ramp.of(given)


@pytest.mark.parametrize(
    ("low", "high"),
    [(0.5, 0.4), (0.0, 0.5), (0.1, 1.0), ([0, 0.02, 0.6, 100], 0.5), ([50, 0.9, 0.02, 50], [0, 0.95, 0.5, 40])],
)
def test_times_stay_inside_and_do_not_cross(low, high):
    with pytest.raises(InputError, match="from low to high inside"):
        Times.of(low, high)


def test_times_are_drawn_by_sample_and_step():
    times = Times.of([0, 0.5, 0.02, 100], [0, 0.98, 0.5, 100])
    noise = Noise(1, range(2000))
    drawn = times.draw(noise, 50)
    assert drawn.dtype == torch.float64
    assert 0.26 < float(drawn.min()) < 0.27
    assert 0.73 < float(drawn.max()) < 0.74
    assert float(drawn.mean()) == pytest.approx(0.5, abs=0.01)
    assert torch.equal(drawn[[3, 17]], times.draw(noise.take([3, 17]), 50))
    assert not torch.equal(drawn, times.draw(noise, 51))


def test_falling_times_are_one_a_step():
    times = Times.falling(100)
    drawn = torch.stack([times.draw(Noise(0, range(3)), step) for step in (0, 50, 100)])
    assert torch.allclose(drawn, torch.tensor([0.98, 0.5, 0.02]).double()[:, None].expand(3, 3))


def test_stable_dreamer_has_two_stages():
    stages = stable_dreamer(400, shape=0.75)
    assert stages.steps == 400
    first, second = stages.stages
    assert (first.space, first.steps) == ("image", 300)
    assert (second.space, second.steps) == ("latent", 100)
    assert stages.at(0) == (first, 0)
    assert stages.at(299) == (first, 299)
    assert stages.at(300) == (second, 0)
    # Noise falls through the first stage, and the second goes on from there.
    assert first.times.low(0) == first.times.high(0) == 0.98
    assert first.times.low(300) == second.times.low(0) == 0.02
    assert first.times.high(300) == second.times.high(99) == 0.5
    assert isinstance(first.method, SDS)
    with pytest.raises(ValueError, match="no step 400"):
        stages.at(400)


def test_stages_that_are_none():
    with pytest.raises(InputError, match="at least one stage"):
        Stages(())
    with pytest.raises(InputError, match="both stages need a step"):
        stable_dreamer(10, shape=0.0)
    with pytest.raises(InputError, match="at least one step"):
        Stage("image", 0, SDS(), MVDREAM)
