"""DDS: an unchanged prompt changes nothing, and both sides share their time and noise."""

from __future__ import annotations

import pytest
import torch

from degauss.threed.distillation.dds import DDS, Source
from degauss.threed.distillation.guidance import ClassifierFree
from degauss.threed.distillation.sds import SDS

from ._distilling import NOISE, TIMES, asked, images, prior


def test_the_same_images_under_the_same_prompt_stay():
    told = DDS().residual(asked(), images(), TIMES, NOISE, 0, source=Source(images(), "thing"))
    assert torch.equal(told.gradient, torch.zeros_like(told.gradient))
    assert torch.equal(told.target, images())
    moved = DDS().residual(asked(), images(), TIMES, NOISE, 0, source=Source(images(1), "thing"))
    assert float(moved.gradient.abs().max()) > 0.1


def test_it_is_the_difference_of_two_sds_at_one_time_and_noise():
    known = prior(other=(-0.6, 0.5))
    source = Source(images(1), "other")
    told = DDS().residual(asked(known), images(), TIMES, NOISE, 3, source=source)
    plain = SDS(ClassifierFree(7.5))
    of_source = asked(known)
    one = plain.residual(of_source, images(), TIMES, NOISE, 3)
    other = plain.residual(type(of_source)(known, "other"), source.x0, TIMES, NOISE, 3)
    assert torch.allclose(told.gradient, one.gradient - other.gradient, atol=1e-10)
    assert torch.allclose(told.target, images() - (images() - one.target) + (source.x0 - other.target), atol=1e-10)


def test_on_gaussian_data_of_one_spread_an_edit_moves_by_the_means():
    """With x0 the source, guidance 1 and equal spreads, what is wanted is x0 plus a share of the difference."""
    known = prior(other=(-0.6, 0.3))
    told = DDS(ClassifierFree(1.0)).residual(asked(known), images(), TIMES, NOISE, 0, source=Source(images(), "other"))
    alpha_bar = known.schedule(TIMES).alpha ** 2
    share = 1 - alpha_bar * 0.09 / (alpha_bar * 0.09 + 1 - alpha_bar)
    expected = images() + (1.1 * share).reshape(-1, 1, 1, 1)
    assert torch.allclose(told.target, expected, atol=1e-10)


def test_four_evaluations_in_one_call():
    known = prior()
    told = DDS().residual(asked(known), images(), TIMES, NOISE, 0, source=Source(images(), "thing"))
    assert (known.calls, known.rows) == (1, told.evaluations)
    assert told.evaluations == 16


def test_images_of_another_shape():
    with pytest.raises(ValueError, match="the source's images"):
        DDS().residual(asked(), images(), TIMES, NOISE, 0, source=Source(images()[:2], "thing"))
