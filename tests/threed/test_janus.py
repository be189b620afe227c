"""The Janus meter on an object with one front and on one with four."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from degauss.threed.cameras import Cameras
from degauss.threed.generation import judge_of
from degauss.threed.janus import JanusMeter, NearestRender, PriorJudge, Remedies, azimuths, janus_rate, judged_views
from degauss.threed.meshes import Mesh
from degauss.threed.watching import as_seen_by, look

from ._little import box, oracle

SOURCE = oracle()


def four_fronts() -> Mesh:
    """The box with the colour of its front all around."""
    mesh = box()
    assert mesh.colours is not None
    colours = mesh.colours.clone()
    colours[:16] = colours[0]
    return replace(mesh, colours=colours)


def seen(mesh: Mesh) -> tuple[torch.Tensor, torch.Tensor]:
    images, elevation = as_seen_by(SOURCE.prior, mesh, "cpu")
    # Normals in world axes would tell the side, whatever it looks like.
    return torch.cat((images[:, :3], 0 * images[:, 3:]), 1), elevation


def test_views_from_the_side_and_the_back_are_judged() -> None:
    azimuth = judged_views(8).angles()[0]
    assert len(azimuth) == 5
    assert float(azimuth.abs().min()) == pytest.approx(90, abs=1e-3)


def test_the_true_renders_tell_a_front_from_a_back() -> None:
    judge = judge_of("box", SOURCE)
    assert judge is not None
    labels = judge(*as_seen_by(SOURCE.prior, box(), "cpu"))
    assert labels.tolist() == [2, 3, 4, 5, 6]
    assert janus_rate(labels) == 0


def test_a_prior_tells_by_its_own_error() -> None:
    judge = PriorJudge(lambda views: SOURCE.prior.denoiser("box", 1.0, views), SOURCE.prior.schedule, t=0.8, draws=4)
    labels = judge(*as_seen_by(SOURCE.prior, box(), "cpu"))
    assert labels.tolist() == [2, 3, 4, 5, 6]


def test_fronts_on_every_side_are_counted() -> None:
    cameras = Cameras.orbit(azimuths(), 15.0, size=2 * SOURCE.prior.size)
    truth = look(box(), cameras)
    colours = SOURCE.prior.encode(truth.rgb, 0 * truth.normal)
    judge = NearestRender(colours, azimuths())
    assert janus_rate(judge(*seen(box()))) == 0
    assert janus_rate(judge(*seen(four_fronts()))) >= 0.6


def test_the_meter_warns_once_after_two_bad_looks_and_names_a_cure() -> None:
    said: list[str] = []
    meter = JanusMeter(lambda images, _: torch.zeros(len(images)), Remedies(True, False, 0.5), said.append)
    images, elevation = torch.zeros(5, 3, 4, 4), torch.zeros(5)
    for step in (10, 20, 30):
        meter.look(step, images, elevation)
    assert len(said) == 1
    assert said[0].startswith("After step 20, 100% of the views")
    assert "annealing of the noise level" in said[0]
    assert "perpendicular negative prompts of weight 1" in said[0]
    assert "told the view" not in said[0]
    assert meter.rates == {10: 1.0, 20: 1.0, 30: 1.0}


def test_a_prior_without_views_has_no_judge() -> None:
    assert judge_of("box", replace(SOURCE, told=False, truth=None)) is None
